"""What an agent's model may call, and which arguments of it the model sets.

    tools:
      - {use: reasoning.calculate, as: calculator}
      - use: memory.recall
        with: {collection: notes, top_k: 3}      # bound: the model neither sees nor sets these
        schema: {query: string}                  # optional: what the model sets, if not just what is required

The rules are here once, for `check` and for the run. It runs nothing. Invariants: a model never sets a path, a
reference (a model, a collection, a recipe, ...) or anything that `with` binds; and each tool's schema is one that
decoding can be held to, so that a call always parses.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from gristmill._errors import suggest
from gristmill._language._recipe import Recipe
from gristmill._language._type_schema import parameter_schema
from gristmill._language._types import Type
from gristmill._plugins import REQUIRED, FunctionSpec, Parameter
from gristmill.schemas.jsonschema import problems, read_schema

TOOL_KEYS = ("use", "recipe", "with", "as", "description", "schema")


class ToolProblem(NamedTuple):
    """What is wrong with a tool; `key` is the key of its item that says so."""

    key: str
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class ToolTarget:
    """A function or a recipe, as what can be called with named arguments."""

    name: str
    summary: str
    parameters: Mapping[str, Parameter]

    @property
    def short_name(self) -> str:
        """What a model calls it if `as` does not say."""
        return self.name.rpartition(".")[2].replace("-", "_")

    @classmethod
    def of_function(cls, function: FunctionSpec) -> ToolTarget:
        return cls(function.name, function.summary, function.parameters)

    @classmethod
    def of_recipe(cls, recipe: Recipe) -> ToolTarget:
        inputs = {
            declared.name: Parameter(
                declared.name,
                declared.type,
                REQUIRED if declared.required else declared.default,
                declared.description,
                None,
            )
            for declared in recipe.inputs.values()
        }
        return cls(recipe.name, recipe.description, inputs)


def tool_schema(
    target: ToolTarget, bound: Collection[str], written: Any = None
) -> tuple[dict[str, Any], list[ToolProblem]]:
    """Return the JSON Schema of the arguments that the model sets, and everything that is wrong with it.

    Args:
        target: what is called.
        bound: the arguments that `with` sets.
        written: the tool's `schema`, if it has one.
    """
    if written is not None:
        return _written_schema(target, bound, written)
    found = [problem for p in target.parameters.values() if (problem := _must_be_bound(p, bound)) is not None]
    free = [p for p in target.parameters.values() if p.required and p.name not in bound and not found]
    schema = _closed({p.name: _shown(p) for p in free})
    found += [
        ToolProblem("use", f"{target.name}: the model cannot set {str(at.path[-1])!r}: {at.message}", _BIND)
        for at in problems(schema)
    ]
    return schema, found


_BIND = "bind it under `with:`, or say under `schema:` what the model may write"


def _written_schema(
    target: ToolTarget, bound: Collection[str], written: Any
) -> tuple[dict[str, Any], list[ToolProblem]]:
    schema, wrong = read_schema(written)
    found = [ToolProblem("schema", f"schema: {problem}") for problem in wrong]
    fields = schema.get("properties")
    if not isinstance(fields, Mapping):
        told = "schema: it describes the arguments as one mapping"
        return {}, found or [ToolProblem("schema", told, "schema: {query: string}")]
    for name in fields:
        parameter = target.parameters.get(name)
        if parameter is None:
            told = f"{target.name} has no argument {name!r}"
            found.append(ToolProblem("schema", told, suggest(name, target.parameters, most=40)))
        elif name in bound:
            found.append(ToolProblem("schema", f"{name!r} is bound under `with:`, so the model cannot set it"))
        elif why := _never_the_models(parameter):
            found.append(ToolProblem("schema", f"the model cannot set {name!r}: it is {why}", "bind it under `with:`"))
    missing = [p.name for p in target.parameters.values() if p.required and p.name not in {*bound, *fields}]
    found += [
        ToolProblem("schema", f"{target.name} needs {name!r}", "bind it under `with:`, or add it to `schema:`")
        for name in missing
    ]
    return {**schema, "required": [n for n in fields if n in schema.get("required", ())]}, found


def _must_be_bound(parameter: Parameter, bound: Collection[str]) -> ToolProblem | None:
    if not parameter.required or parameter.name in bound:
        return None
    if why := _never_the_models(parameter):
        return ToolProblem("use", f"the model cannot set {parameter.name!r}: it is {why}", "bind it under `with:`")
    if _is_open(parameter.type):
        return ToolProblem("use", f"the model cannot set {parameter.name!r}: a {parameter.type} has no fields", _BIND)
    return None


def _never_the_models(parameter: Parameter) -> str | None:
    """Return why a model must not set an argument, or None: files and names are the recipe author's to choose."""
    if parameter.ref is not None:
        return "a list of tools" if parameter.ref == "tools" else f"the name of a {parameter.ref.replace('_', ' ')}"
    return "a path" if _holds_path(parameter.type) else None


def _holds_path(kind: Type) -> bool:
    inner = (*kind.options, *kind.fields.values(), *((kind.item,) if kind.item else ()))
    return kind.kind == "path" or any(_holds_path(part) for part in inner)


def _is_open(kind: Type) -> bool:
    """Whether a value may have any fields, so that decoding could not be held to an end."""
    return kind.kind == "map" or any(_is_open(part) for part in (*kind.options, *((kind.item,) if kind.item else ())))


def _shown(parameter: Parameter) -> dict[str, Any]:
    """Return what the model is told of an argument; one of any type is a text, which every function can read."""
    schema = parameter_schema(parameter, (), expressions=False)
    return schema if schema.keys() - {"description", "default"} else {"type": "string", **schema}


def _closed(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }
