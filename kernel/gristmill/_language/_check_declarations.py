"""Checks what a recipe declares before its steps: inputs, models and a budget.

Providers are looked up for their signatures; no model is made. Invariant: what is declared without a problem has values
of the types that are wanted, and paths that are absolute.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gristmill._errors import PluginError, suggest
from gristmill._language._recipe import Budget, Input, ModelDeclaration
from gristmill._language._types import (
    ANY,
    ANY_LIST,
    ANY_MAP,
    BOOLEAN,
    INTEGER,
    NUMBER,
    PATH,
    STRING,
    CoercionError,
    Type,
    coerce,
    list_of,
    shorten,
    type_of,
)
from gristmill._language._yaml import ListNode, MapNode, Node
from gristmill._plugins import Parameter, ProviderSpec
from gristmill._values import Message

if TYPE_CHECKING:
    from gristmill._language._check import _RecipeChecker

INPUT_KEYS = ("type", "default", "description", "choices")
RECIPE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
INPUT_TYPES: Mapping[str, Type] = {
    "string": STRING,
    "integer": INTEGER,
    "number": NUMBER,
    "boolean": BOOLEAN,
    "path": PATH,
    "list": ANY_LIST,
    "mapping": ANY_MAP,
    "messages": list_of(type_of(Message)),
    "any": ANY,
}


class Declarations:
    """Reads and checks the declarations of one recipe."""

    def __init__(self, owner: _RecipeChecker) -> None:
        self.owner = owner

    def inputs(self, node: Node | None) -> dict[str, Input]:
        if node is None:
            return {}
        if not isinstance(node, MapNode):
            self.owner.report(node, "inputs is a mapping from names to types", hint="question: {type: string}")
            return {}
        inputs = {}
        for name, (key, value) in node.entries.items():
            if self.owner.name_is_free(key, "an input"):
                inputs[name] = self._input(name, value)
        return inputs

    def _input(self, name: str, node: Node) -> Input:
        if not isinstance(node, MapNode):
            return Input(name, self._input_type(node), required=True)
        self.owner.unknown_keys(node, INPUT_KEYS, "an input")
        declared = node.get("type")
        kind = self._input_type(declared) if declared is not None else ANY
        choices = node.get("choices")
        if choices is not None:
            values = self.owner.literal(choices)
            if isinstance(values, list) and values and all(isinstance(value, str) for value in values):
                kind = Type("string", literals=tuple(values))
            else:
                self.owner.report(choices, "choices is a list of texts")
        default = node.get("default")
        value = self.owner.literal(default) if default is not None else None
        if default is not None and value is None:
            kind = kind.or_null()
        elif default is not None:
            try:
                value = coerce(value, kind)
            except CoercionError as error:
                self.owner.report(
                    default,
                    f"the default of {name!r}: {error}",
                    code="type",
                    hint=self.owner.literal_hint(default, kind),
                )
        return Input(name, kind, default is None, value, self.owner.text(node, "description") or "")

    def _input_type(self, node: Node) -> Type:
        if isinstance(node, ListNode) and len(node.items) == 1:
            return list_of(self._input_type(node.items[0]))
        if isinstance(node, MapNode):
            return Type("record", fields={key: self._input_type(value) for key, (_, value) in node.entries.items()})
        name = self.owner.literal(node)
        if isinstance(name, str) and name in INPUT_TYPES:
            return INPUT_TYPES[name]
        hint = suggest(str(name), INPUT_TYPES)
        self.owner.report(node, f"{shorten(name)} is not the type of an input", hint=hint, code="type")
        return ANY

    def models(self, node: Node | None) -> dict[str, ModelDeclaration]:
        if node is None:
            return {}
        if not isinstance(node, MapNode):
            self.owner.report(node, "models is a mapping from names to declarations", hint="main: {use: llama}")
            return {}
        models = {}
        for name, (key, value) in node.entries.items():
            if not RECIPE_NAME.fullmatch(name):
                self.owner.report(key, f"{name!r} is no name for a model", hint="use a-z, 0-9, - and _", code="name")
            elif declared := self._model(name, value):
                models[name] = declared
        return models

    def _model(self, name: str, node: Node) -> ModelDeclaration | None:
        if not isinstance(node, MapNode):
            self.owner.report(node, f"model {name!r} is a mapping with `use:`", hint="{use: llama, model: smollm2}")
            return None
        use = node.get("use")
        if use is None:
            self.owner.report(
                node, f"model {name!r} needs `use:`", hint=suggest("", self.owner.registry.provider_names())
            )
            return None
        provider_name = self.owner.literal(use)
        try:
            provider = self.owner.registry.provider(str(provider_name))
        except PluginError as error:
            self.owner.report(use, error.message, hint=error.hint or "", code="unknown-plugin")
            return None
        arguments = {key: value for key, (_, value) in node.entries.items() if key != "use"}
        for key in arguments:
            if key not in provider.parameters:
                hint = suggest(key, (*provider.parameters, "use"), most=40)
                self.owner.report(
                    node.key(key), f"{provider.name} has no argument {key!r}", hint=hint, code="unknown-key"
                )
        values = self._provider_arguments(provider, arguments)
        missing = [part.name for part in provider.parameters.values() if part.required and part.name not in arguments]
        if missing:
            hint = f"add {missing[0]}: beside `use:`"
            self.owner.report(use, f"{provider.name} needs {' and '.join(missing)}", hint=hint, code="missing")
        return ModelDeclaration(name, provider, values)

    def _provider_arguments(self, provider: ProviderSpec, nodes: Mapping[str, Node]) -> dict[str, Any]:
        values = {}
        for name, node in nodes.items():
            parameter = provider.parameters.get(name)
            if parameter is None:
                continue
            value = self.owner.literal(node)
            try:
                values[name] = parameter.accept(value)
            except CoercionError as error:
                self.owner.report(
                    node, f"{name}: {error}", code="type", hint=self.owner.literal_hint(node, parameter.type)
                )
                continue
            values[name] = resolve_files(parameter, values[name], self.owner.recipe.folder)
        return values

    def budget(self, node: Node | None) -> Budget:
        if node is None:
            return Budget()
        if not isinstance(node, MapNode):
            self.owner.report(node, "budget is a mapping", hint="{tokens: 10000, calls: 50, seconds: 60}")
            return Budget()
        self.owner.unknown_keys(node, ("tokens", "calls", "seconds"), "a budget")
        values: dict[str, Any] = {}
        for key, (_, value_node) in node.entries.items():
            value = self.owner.literal(value_node)
            whole = key != "seconds"
            good = isinstance(value, int if whole else int | float) and not isinstance(value, bool) and value > 0
            if not good:
                what = "a whole number" if whole else "a number"
                self.owner.report(value_node, f"{key} is {what} above 0, this is {shorten(value)}", code="type")
            elif key in ("tokens", "calls", "seconds"):
                values[key] = value
        return Budget(**values)


def resolve_files(parameter: Parameter, value: Any, folder: Path) -> Any:
    """Make the paths in a provider's argument absolute, against `folder`; bundled and hub names stay."""
    if isinstance(value, Mapping) and parameter.name == "adapters":
        return {
            name: {**part, "path": str(folder / part["path"])} if isinstance(part, Mapping) and "path" in part
            else str(folder / part) if isinstance(part, str) else part
            for name, part in value.items()
        }  # fmt: skip
    if isinstance(value, Path):
        return folder / value
    if parameter.ref == "model_file" and isinstance(value, str) and is_model_path(value):
        return str(folder / Path(value).expanduser())
    return value


def is_model_path(name: str) -> bool:
    """Tell a model's path from a bundled name (`smollm2`) and a hub name (`hf:owner/repo/file.gguf`)."""
    return not name.startswith("hf:") and ("/" in name or os.sep in name or name.endswith(".gguf"))
