"""The JSON Schema (2020-12) of recipes, from the plugins that are installed: what editors complete and check with.

It is derived from the tables that `check` uses, and knows no key, type or limit of its own. What a schema cannot say
(names that must exist, the types of expressions, cycles) is left to `check`. Each kind of step and each `use` has its
own branch of `if`/`then`, so that an editor names the one key that is wrong instead of every function that might have
been meant; `enumDescriptions` and `patternErrorMessage` are annotations that VS Code and yaml-language-server show and
validators ignore. Invariant: every recipe that `check` accepts is accepted.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from gristmill._language._check import NAME, RECIPE_KEYS, RESERVED
from gristmill._language._check_declarations import INPUT_KEYS, INPUT_TYPES, RECIPE_NAME
from gristmill._language._recipe import LANGUAGE_VERSION, Budget
from gristmill._language._step_keys import KEYS, MARKS, SAMPLING
from gristmill._language._type_schema import EXPRESSION, Schema, limits_of, of_type, parameter_schema
from gristmill._language._types import type_of
from gristmill._models import Sampling
from gristmill._plugins import FunctionSpec, ProviderSpec
from gristmill._registry import Registry
from gristmill._values import Message

_TEXT = ("string", "number", "boolean")
"""A prompt, a system message and a message's content are text whatever YAML makes of them."""


def recipe_schema(registry: Registry) -> Schema:
    """Return the schema of recipes; plugins that cannot be loaded are left out."""
    specs = [row.spec for row in registry.status() if row.spec is not None]
    functions = {name: function for spec in specs for name, function in spec.functions.items()}
    providers = {name: provider for spec in specs for name, provider in spec.providers.items()}
    parts: dict[str, Schema] = {
        "version": {"const": LANGUAGE_VERSION, "description": "The version of the recipe language."},
        "name": {"type": "string", "pattern": _whole(RECIPE_NAME.pattern), "description": "By default the file's."},
        "description": {"type": "string", "description": "What the recipe does, in a sentence."},
        "inputs": _named("What a run is given: name to type.", {"$ref": "#/$defs/input"}),
        "models": _named("Models, embedders and stores, by name.", {"$ref": "#/$defs/model"}, RECIPE_NAME.pattern, ()),
        "steps": _named("Steps run as soon as what they read is there.", {"$ref": "#/$defs/step"})
        | {"minProperties": 1},
        "output": {"description": "What the run returns; the last step's value by default."},
        "budget": _budget(),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A gristmill recipe",
        "type": "object",
        "properties": {key: parts[key] for key in RECIPE_KEYS},
        "required": ["version", "steps"],
        "additionalProperties": False,
        "$defs": {
            "input": _input(),
            "input_type": _input_type(),
            "model": _model(providers),
            "step": _step(),
            **{f"step.{mark}": _kind_of_step(mark, functions) for mark in MARKS},
            **{f"key.{name}": _key(name, functions) for name in KEYS},
            **{f"with.{name}": _arguments(function, functions) for name, function in functions.items()},
        },
    }


def _whole(pattern: str) -> str:
    return f"^(?:{pattern})$"


def _named(description: str, values: Schema, pattern: str = NAME.pattern, reserved: Iterable[str] = RESERVED) -> Schema:
    names: Schema = {"pattern": _whole(pattern), "patternErrorMessage": f"A name matches {pattern}"}
    if reserved := sorted(reserved):
        names["not"] = {"enum": reserved}
    return {"type": "object", "description": description, "propertyNames": names, "additionalProperties": values}


def _budget() -> Schema:
    hints = typing.get_type_hints(Budget)
    limits = {part.name: of_type(type_of(hints[part.name]).not_null()) for part in fields(Budget)}
    return {
        "type": "object",
        "description": "A run stops when one of these is spent.",
        "properties": {name: schema | {"exclusiveMinimum": 0} for name, schema in limits.items()},
        "additionalProperties": False,
    }


# -- inputs and models -------------------------------------------------------------------------------------------------


def _input() -> Schema:
    values: dict[str, Schema] = {
        "type": {"$ref": "#/$defs/input_type"},
        "default": {"description": "What it is when it is not given; without a default it must be."},
        "description": {"type": "string", "description": "What to give, in a few words."},
        "choices": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "string"},
            "description": "The only texts.",
        },
    }
    by_type = [
        {
            "if": {"properties": {"type": {"const": name}}, "required": ["type"], "not": {"required": ["choices"]}},
            "then": {"properties": {"default": of_type(kind.or_null())}},
        }
        for name, kind in INPUT_TYPES.items()
    ]
    full = {"properties": {key: values[key] for key in INPUT_KEYS}, "additionalProperties": False, "allOf": by_type}
    return {"if": {"type": "object"}, "then": full, "else": {"$ref": "#/$defs/input_type"}}


def _input_type() -> Schema:
    nested = {"$ref": "#/$defs/input_type"}
    return {
        "description": "A type, [type] for a list, or {field: type}.",
        "type": ["string", "array", "object"],
        "if": {"type": "string"},
        "then": {"enum": list(INPUT_TYPES)},
        "items": nested,
        "minItems": 1,
        "maxItems": 1,
        "additionalProperties": nested,
    }


def _model(providers: Mapping[str, ProviderSpec]) -> Schema:
    return {
        "type": "object",
        "properties": {"use": _use("What makes it.", providers)},
        "required": ["use"],
        "allOf": [_if_use(name, _provider(provider)) for name, provider in providers.items()],
    }


def _use(description: str, offered: Mapping[str, Any]) -> Schema:
    names = sorted(offered)
    summaries = [offered[name].summary for name in names]
    return {"enum": names, "enumDescriptions": summaries, "description": description}


def _if_use(name: str, then: Schema) -> Schema:
    return {"if": {"properties": {"use": {"const": name}}, "required": ["use"]}, "then": then}


def _provider(provider: ProviderSpec) -> Schema:
    entries = {part.name: parameter_schema(part, (), expressions=False) for part in provider.parameters.values()}
    required = [part.name for part in provider.parameters.values() if part.required]
    return {"properties": {"use": True, **entries}, "required": required, "additionalProperties": False}


# -- steps -------------------------------------------------------------------------------------------------------------


def _step() -> Schema:
    """Return a step: the first of its marks decides which branch it is held to, and which keys are offered."""
    schema: Schema = {
        "properties": {name: {"$ref": f"#/$defs/key.{name}"} for name in KEYS},
        "additionalProperties": False,
        "anyOf": [{"required": [mark]} for mark in MARKS],
    }
    for mark in reversed(list(MARKS)):
        schema = {"if": {"required": [mark]}, "then": {"$ref": f"#/$defs/step.{mark}"}, "else": schema}
    return {"type": "object", **schema}


def _kind_of_step(mark: str, functions: Mapping[str, FunctionSpec]) -> Schema:
    others = {other for other in MARKS if other != mark} | ({"system"} if mark == "messages" else set())
    allowed = [name for name, key in KEYS.items() if MARKS[mark] in key.work and name not in others]
    entries = {name: {"$ref": f"#/$defs/key.{name}"} for name in allowed}
    schema: Schema = {"properties": entries, "additionalProperties": False}
    if mark == "use":
        schema["allOf"] = [_if_use(name, _with(function)) for name, function in functions.items()]
    return schema


def _with(function: FunctionSpec) -> Schema:
    then: Schema = {"properties": {"with": {"$ref": f"#/$defs/with.{function.name}"}}}
    return then | ({"required": ["with"]} if _required(function) else {})


def _required(function: FunctionSpec) -> list[str]:
    """Return the arguments that `with` must hold; the model may also come from the step or the recipe."""
    parts = function.parameters.values()
    return [part.name for part in parts if part.required and not (part.name == "model" and part.ref == "model")]


def _arguments(function: FunctionSpec, functions: Iterable[str]) -> Schema:
    return {
        "type": "object",
        "description": f"{function.summary} Returns: {function.returns}.",
        "properties": {p.name: parameter_schema(p, functions, expressions=True) for p in function.parameters.values()},
        "required": _required(function),
        "additionalProperties": False,
    }


def _key(name: str, functions: Mapping[str, FunctionSpec]) -> Schema:
    """Return one key of a step: what its type says, and what the checker asks beyond that."""
    key = KEYS[name]
    if name == "use":
        return _use(key.help, functions)
    schema = _special_keys().get(name) or of_type(key.type, expressions=key.expressions)
    if name in ("concurrency", "timeout_s"):
        schema |= {"exclusiveMinimum": 0}
    if name in SAMPLING:
        sampling = Sampling.model_json_schema()["properties"][name]
        schema |= limits_of(sampling) | {"default": sampling.get("default")}
    return schema | {"description": key.help}


def _special_keys() -> dict[str, Schema]:
    """Return the keys of which the checker asks what a type cannot say."""
    count: Schema = {"type": "integer", "minimum": 1}
    until = of_type(KEYS["repeat"].type.fields["until"], expressions=True)
    retry = _closed({"attempts": count, "backoff_s": {"type": "number", "minimum": 0}})
    return {
        "prompt": {"type": list(_TEXT)},
        "system": {"type": list(_TEXT)},
        "messages": _messages(),
        "schema": {"type": "object", "minProperties": 1},
        "as": {"type": "string", "pattern": _whole(NAME.pattern)},
        "on_error": {"anyOf": [{"enum": ["fail", "skip"]}, _closed({"value": {}}, "value")]},
        "repeat": _closed({"until": until, "max": count}, "until", "max"),
        "retry": retry | count | {"type": ["object", "integer"]},
    }


def _closed(entries: Schema, *required: str) -> Schema:
    return {"type": "object", "properties": entries, "required": list(required), "additionalProperties": False}


def _messages() -> Schema:
    role = of_type(type_of(Message.model_fields["role"].annotation))
    turn = _closed({"role": role, "content": {"type": list(_TEXT)}}, "role", "content")
    pattern = {"pattern": EXPRESSION["pattern"]}
    items = turn | pattern | {"type": ["object", "string"]}
    return {"type": ["array", "string"], "minItems": 1, "items": items, **pattern}
