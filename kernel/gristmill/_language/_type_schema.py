"""The JSON Schema of a type, and of a function's parameter: what editors, other frameworks and agents are shown.

It says what a type says and no more. Invariant: every value that `coerce` takes for a type satisfies the type's schema,
paths and texts of values aside, which are written as strings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from gristmill._language._types import ANY, Type
from gristmill._plugins import Parameter
from gristmill._values import plain

Schema = dict[str, Any]

EXPRESSION: Mapping[str, Any] = {
    "type": "string",
    "pattern": r"\$\{|\{%",
    "patternErrorMessage": "This is neither a value of the right type nor an expression: ${...}",
}
_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems")
_TEXT_LIMITS = ("minLength", "maxLength", "pattern")


def of_type(target: Type, *, expressions: bool = False) -> Schema:
    """Return the schema of what may be written where `target` is wanted."""
    options = [found for option in (target.options or (target,)) for found in _bare(option, expressions)]
    if any(not option for option in options):
        return {}
    if target.nullable and target.kind != "null":
        options.append({"type": "null"})
    if expressions and {"type": "string"} not in options:
        options.append(dict(EXPRESSION))
    kinds = [option.get("type") for option in options]
    if len(options) == 1:
        return options[0]
    if None in kinds or len(set(kinds)) < len(kinds):
        return {"anyOf": options}
    return {key: value for option in options for key, value in option.items()} | {"type": kinds}


def _bare(target: Type, expressions: bool) -> list[Schema]:
    """Return the schemas of one type, its null aside; all of them together are what it takes."""
    if target.kind == "any":
        return [{}]
    if target.kind == "list":
        item = target.item or ANY
        item = item.or_null() if item.name == "Candidate" else item  # a vote drops nulls
        return [{"type": "array", "items": of_type(item, expressions=expressions)}]
    if target.kind == "map":
        return [{"type": "object", "additionalProperties": of_type(target.item or ANY, expressions=expressions)}]
    if target.kind == "record":
        return _record(target, expressions)
    if target.literals:
        return [{"enum": list(target.literals)}]
    return [{"type": "string" if target.kind == "path" else target.kind}]


def _record(target: Type, expressions: bool) -> list[Schema]:
    entries = {name: of_type(part, expressions=expressions) for name, part in target.fields.items()}
    schema: Schema = {"type": "object", "properties": entries}
    if target.python is None:
        schema["required"] = [n for n, part in target.fields.items() if not part.nullable and part.kind != "any"]
    return [{"type": "string"}, schema] if target.name == "Candidate" else [schema]


def limits_of(schema: Schema, *, of_texts: bool = False) -> Schema:
    """Return the limits in a schema that pydantic made, also where they sit in an option of it."""
    found = [schema, *schema.get("anyOf", ())]
    return {key: part[key] for part in found for key in _LIMITS + _TEXT_LIMITS * of_texts if key in part}


def parameter_schema(parameter: Parameter, functions: Iterable[str], *, expressions: bool) -> Schema:
    """Return the schema of one argument, with its help, limits and default; `functions` are what there is to name."""
    target = parameter.type
    if parameter.ref == "function" and target.kind == "string":
        target = replace(target, literals=tuple(sorted(functions)))
    if parameter.ref == "tools":
        return tools_schema(functions) | {"description": parameter.description}
    schema = of_type(target, expressions=expressions)
    if parameter.constraints is not None:  # an expression need not look like the text it stands for
        schema |= limits_of(parameter.constraints.json_schema(), of_texts=not expressions)
    described = parameter.description or (f"The name of a {parameter.ref}." if parameter.ref else "")
    schema |= {"description": described} if described else {}
    if parameter.required or parameter.default is None:
        return schema
    try:
        return schema | {"default": plain(parameter.default)}
    except TypeError:  # a default that has no JSON form is not shown
        return schema


def tools_schema(functions: Iterable[str]) -> Schema:
    """Return the schema of an agent's `tools`; what `with` binds is checked against the function by `check`."""
    entries: Schema = {
        "use": {"enum": sorted(functions), "description": "The plugin function to offer."},
        "recipe": {"type": "string", "description": "Or the recipe to offer: a name, or a path below this file."},
        "with": {"type": "object", "description": "Arguments that are bound: the model neither sees nor sets them."},
        "as": {"type": "string", "description": "What the model calls it; by default the function's short name."},
        "description": {"type": "string", "description": "What the model is told of it; by default its summary."},
        "schema": {"type": "object", "description": "The arguments that the model sets: JSON Schema or {name: type}."},
    }
    one = {"type": "object", "properties": entries, "additionalProperties": False}
    return {"type": "array", "minItems": 1, "items": one | {"oneOf": [{"required": ["use"]}, {"required": ["recipe"]}]}}
