"""Reads a recipe file and finds every mistake in it, in one pass, before anything is loaded.

Files become a `Recipe` (see `_recipe`): inputs and models here, steps in `_check_steps`, the types of expressions in
`_inference`. Plugins that the recipe names are imported for their signatures; no model, heavy library or network is
touched, and no expression is evaluated. Invariant: it never raises for what a file holds, and a recipe it passes has
no unknown name, cycle, missing argument or wrong literal.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from gristmill._errors import PluginError, UsageError, suggest
from gristmill._language._check_steps import StepChecker
from gristmill._language._diagnostics import shorten_path, sort_unique
from gristmill._language._expressions import Template
from gristmill._language._inference import Scope, infer, infer_text
from gristmill._language._lexer import ExpressionSyntaxError
from gristmill._language._recipe import (
    LANGUAGE_VERSION,
    Budget,
    Constant,
    Data,
    Expression,
    FunctionCall,
    Input,
    ListData,
    MapData,
    ModelDeclaration,
    Recipe,
    Step,
)
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
    fit,
    list_of,
    shorten,
    type_of,
    type_of_value,
    union,
)
from gristmill._language._yaml import ListNode, MapNode, Node, Scalar, YamlDocument, parse_yaml, read_yaml
from gristmill._plugins import Parameter, ProviderSpec
from gristmill._registry import Registry
from gristmill._values import Message

RECIPE_KEYS = ("version", "name", "description", "inputs", "models", "steps", "output", "budget")
INPUT_KEYS = ("type", "default", "description", "choices")
NAME = re.compile(r"[a-z][a-z0-9_]*")
RECIPE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
RESERVED = frozenset(
    [
        "inputs",
        "loop",
        "self",
        "and",
        "or",
        "not",
        "in",
        "is",
        "if",
        "elif",
        "else",
        "endif",
        "for",
        "endfor",
        "set",
        "endset",
        "true",
        "false",
        "none",
        "null",
        "raw",
        "endraw",
        "range",
        "lipsum",
        "dict",
        "cycler",
        "joiner",
        "namespace",
        "True",
        "False",
        "None",
        "recursive",
    ]
)
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

Find = Callable[[str], Path]
"""Returns the file of a recipe that ships or is installed; raises UsageError."""


def check_recipe(path: Path, registry: Registry, find: Find, *, overrides: Mapping[str, str] | None = None) -> Recipe:
    """Read and check one recipe and those it calls. Its `diagnostics` are all the mistakes found.

    `overrides` maps "step.key" or "models.name.key" to YAML that replaces what the file says.

    Raises:
        UsageError: the file cannot be read.
    """
    return Checker(registry, find, overrides or {}).recipe(path, shorten_path(path), ())


class Checker:
    """Checks a recipe and, once each, the recipes it calls."""

    def __init__(self, registry: Registry, find: Find, overrides: Mapping[str, str]) -> None:
        self.registry = registry
        self.find = find
        self.overrides = overrides
        self.done: dict[Path, Recipe] = {}

    def recipe(self, path: Path, shown: str, callers: tuple[Path, ...]) -> Recipe:
        path = path.resolve()
        if path in self.done:
            return self.done[path]
        try:
            document = read_yaml(path, shown)
        except OSError as error:
            raise UsageError(f"{shown}: the recipe cannot be read: {error.strerror or error}") from error
        recipe = Recipe(path, document, digest=hashlib.sha256(document.source.text.encode()).hexdigest())
        self.done[path] = recipe
        if not callers:
            apply_overrides(document, self.overrides)
        _RecipeChecker(self, recipe, (*callers, path)).run()
        called = (diagnostic for sub in recipe.sub_recipes().values() for diagnostic in sub.diagnostics)
        recipe.diagnostics = sort_unique([*document.diagnostics, *document.ambiguous.values(), *called])
        return recipe


class _RecipeChecker:
    """Fills one Recipe from its document."""

    def __init__(self, checker: Checker, recipe: Recipe, callers: tuple[Path, ...]) -> None:
        self.checker = checker
        self.registry = checker.registry
        self.recipe = recipe
        self.document: YamlDocument = recipe.document
        self.callers = callers
        self._templates: dict[int, Template | None] = {}

    def run(self) -> None:
        root = self.document.root
        if not isinstance(root, MapNode):
            if not any(diagnostic.severity == "error" for diagnostic in self.document.diagnostics):
                what = "is empty" if root is None else "is not a mapping"
                self.document.report_at(0, 1, f"the recipe {what}", code="recipe", hint="it needs `steps:` at least")
            return
        self.unknown_keys(root, RECIPE_KEYS, "a recipe")
        self._version(root)
        self.recipe.name = self._text(root, "name") or self.recipe.path.stem
        self.recipe.description = self._text(root, "description") or ""
        if (key := root.entries.get("name")) and not RECIPE_NAME.fullmatch(self.recipe.name):
            self.report(key[1], f"{self.recipe.name!r} is no recipe name", hint="use a-z, 0-9, - and _")
        self.recipe.inputs = self._inputs(root.get("inputs"))
        self.recipe.models = self._models(root.get("models"))
        self.recipe.budget = self._budget(root.get("budget"))
        steps = StepChecker(self)
        steps.run(root)
        self._output(root, steps)

    # Reporting and reading nodes, shared with the step checker.

    def report(self, node: Node, message: str, *, hint: str = "", code: str = "recipe", warning: bool = False) -> None:
        """Report a mistake about a node."""
        self.document.report(node, message, hint=hint, code=code, warning=warning)

    def unknown_keys(self, node: MapNode, allowed: Iterable[str], what: str) -> None:
        """Report keys that do not belong, each with the nearest that does."""
        names = tuple(allowed)
        for key in node.entries:
            if key not in names:
                hint = suggest(key, names, most=40)
                self.report(node.key(key), f"{key!r} is not a key of {what}", hint=hint, code="unknown-key")

    def literal(self, node: Node) -> Any:
        """Return the plain data under a node where no expression may stand."""
        if isinstance(node, Scalar):
            if isinstance(node.value, str) and "${" in node.value.replace("$${", ""):
                self.report(node, "no expression can stand here", hint="write the value itself", code="literal")
            return node.value
        if isinstance(node, ListNode):
            return [self.literal(item) for item in node.items]
        assert isinstance(node, MapNode)
        return {key: self.literal(value) for key, (_, value) in node.entries.items()}

    def data(self, node: Node, *, as_text: bool = False) -> Data:
        """Return the value under a node, with its expressions parsed; report those that are none."""
        if isinstance(node, ListNode):
            items = tuple(self.data(item) for item in node.items)
            if all(isinstance(item, Constant) for item in items):
                return Constant([item.evaluate({}) for item in items], node)
            return ListData(items, frozenset().union(*(item.references for item in items)))
        if isinstance(node, MapNode):
            entries = {key: self.data(value) for key, (_, value) in node.entries.items()}
            if all(isinstance(value, Constant) for value in entries.values()):
                return Constant({key: value.evaluate({}) for key, value in entries.items()}, node)
            return MapData(entries, frozenset().union(*(value.references for value in entries.values())))
        assert isinstance(node, Scalar)
        return self._scalar_data(node, as_text)

    def _scalar_data(self, node: Scalar, as_text: bool) -> Data:
        if as_text and not isinstance(node.value, str) and node.value is not None:
            return Constant(node.text, node)
        text = node.value
        if not isinstance(text, str) or not ("${" in text or "{%" in text):
            return Constant(text, node)
        if id(node) not in self._templates:  # a node is read for its names first and for its types later
            self._templates[id(node)] = self._parse(node, text)
        template = self._templates[id(node)]
        return Constant(None, node) if template is None else Expression(template, node, self.document, as_text)

    def _parse(self, node: Scalar, text: str) -> Template | None:
        try:
            return Template(text)
        except ExpressionSyntaxError as error:
            start, last = self.document.locate(node, error.offset), self.document.locate(node, error.end - 1)
            self.document.report_at(start, max(last, start) + 1, str(error), code="expression", hint=error.hint)
            return None

    def infer(self, data: Data, scope: Scope) -> Type:
        """Return the type of a value, after reporting what its expressions get wrong."""
        if isinstance(data, Expression):
            return self._infer_expression(data, scope)
        if isinstance(data, ListData):
            return list_of(union(*(self.infer(item, scope) for item in data.items)))
        if isinstance(data, MapData):
            return Type("record", fields={key: self.infer(value, scope) for key, value in data.entries.items()})
        assert isinstance(data, Constant)
        return type_of_value(data.value)

    def _infer_expression(self, data: Expression, scope: Scope) -> Type:
        def report(start: int, end: int, message: str, hint: str) -> None:
            first = self.document.locate(data.scalar, start)
            last = self.document.locate(data.scalar, end - 1) + 1
            self.document.report_at(first, max(last, first + 1), message, code="type", hint=hint)

        if data.as_text:
            infer_text(data.template, scope, report)
            return STRING
        return infer(data.template, scope, report)

    def fits(self, node: Node, data: Data, target: Type, scope: Scope, what: str) -> None:
        """Report a value that does not fit where it stands: literals by value, expressions by type."""
        if isinstance(data, Constant):
            try:
                coerce(data.value, target)
            except CoercionError as error:
                if not (data.value is None and isinstance(node, Scalar) and "${" in node.text):
                    self.report(node, f"{what}: {error}", code="type", hint=self._literal_hint(node, target))
            return
        if isinstance(data, ListData) and isinstance(node, ListNode) and target.kind == "list":
            for item_node, item in zip(node.items, data.items, strict=True):
                self.fits(item_node, item, target.item or ANY, scope, what)
            return
        found = self.infer(data, scope)
        if why := fit(found, target):
            hint = "guard it, or use `default`" if found.nullable and not fit(found.not_null(), target) else ""
            self.report(node, f"{what}: {why}", code="type", hint=hint)

    def _literal_hint(self, node: Node, target: Type) -> str:
        if not isinstance(node, Scalar) or not isinstance(node.value, str):
            return ""
        if target.kind == "boolean":
            return "YAML 1.2 knows true and false"
        if target.kind in ("integer", "number") and not node.plain:
            return "leave out the quotes"
        return ""

    def _text(self, root: MapNode, key: str) -> str | None:
        node = root.get(key)
        if node is None:
            return None
        value = self.literal(node)
        if not isinstance(value, str):
            self.report(node, f"{key} is text, this is {shorten(value)}", hint="quote it")
            return None
        return value

    def _version(self, root: MapNode) -> None:
        node = root.get("version")
        if node is None:
            self.document.report_at(
                0, 1, "version is missing", code="recipe", hint=f"write version: {LANGUAGE_VERSION}"
            )
            return
        value = self.literal(node)
        if value != LANGUAGE_VERSION or isinstance(value, bool | float):
            self.report(
                node,
                f"version {shorten(value)} of the recipe language is unknown",
                hint=f"this gristmill reads version {LANGUAGE_VERSION}",
            )

    def name_is_free(self, key: Scalar, what: str, taken: Iterable[str] = ()) -> bool:
        """Report a step, input or loop name that cannot stand in an expression."""
        name = key.text
        if not NAME.fullmatch(name):
            fixed = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
            hint = f"call it {fixed!r}" if NAME.fullmatch(fixed) else "use a-z, 0-9 and _, a letter first"
            shown = "".join(c if c.isascii() else f"\\u{ord(c):04x}" for c in name)
            self.report(key, f"'{shown}' is no name for {what}", hint=hint, code="name")
            return False
        if name in RESERVED:
            self.report(key, f"{name!r} means something in expressions", hint="choose another name", code="name")
            return False
        if name in taken:
            self.report(key, f"{name!r} names a step already", hint="choose another name", code="name")
            return False
        return True

    def _inputs(self, node: Node | None) -> dict[str, Input]:
        if node is None:
            return {}
        if not isinstance(node, MapNode):
            self.report(node, "inputs is a mapping from names to types", hint="question: {type: string}")
            return {}
        inputs = {}
        for name, (key, value) in node.entries.items():
            if self.name_is_free(key, "an input"):
                inputs[name] = self._input(name, value)
        return inputs

    def _input(self, name: str, node: Node) -> Input:
        if not isinstance(node, MapNode):
            return Input(name, self._input_type(node), required=True)
        self.unknown_keys(node, INPUT_KEYS, "an input")
        declared = node.get("type")
        kind = self._input_type(declared) if declared is not None else ANY
        choices = node.get("choices")
        if choices is not None:
            values = self.literal(choices)
            if isinstance(values, list) and values and all(isinstance(value, str) for value in values):
                kind = Type("string", literals=tuple(values))
            else:
                self.report(choices, "choices is a list of texts")
        default = node.get("default")
        value = self.literal(default) if default is not None else None
        if default is not None and value is None:
            kind = kind.or_null()
        elif default is not None:
            try:
                value = coerce(value, kind)
            except CoercionError as error:
                self.report(
                    default, f"the default of {name!r}: {error}", code="type", hint=self._literal_hint(default, kind)
                )
        return Input(name, kind, default is None, value, self._text(node, "description") or "")

    def _input_type(self, node: Node) -> Type:
        if isinstance(node, ListNode) and len(node.items) == 1:
            return list_of(self._input_type(node.items[0]))
        if isinstance(node, MapNode):
            return Type("record", fields={key: self._input_type(value) for key, (_, value) in node.entries.items()})
        name = self.literal(node)
        if isinstance(name, str) and name in INPUT_TYPES:
            return INPUT_TYPES[name]
        hint = suggest(str(name), INPUT_TYPES)
        self.report(node, f"{shorten(name)} is not the type of an input", hint=hint, code="type")
        return ANY

    def _models(self, node: Node | None) -> dict[str, ModelDeclaration]:
        if node is None:
            return {}
        if not isinstance(node, MapNode):
            self.report(node, "models is a mapping from names to declarations", hint="main: {use: llama}")
            return {}
        models = {}
        for name, (key, value) in node.entries.items():
            if not RECIPE_NAME.fullmatch(name):
                self.report(key, f"{name!r} is no name for a model", hint="use a-z, 0-9, - and _", code="name")
            elif declared := self._model(name, value):
                models[name] = declared
        return models

    def _model(self, name: str, node: Node) -> ModelDeclaration | None:
        if not isinstance(node, MapNode):
            self.report(node, f"model {name!r} is a mapping with `use:`", hint="{use: llama, model: smollm2}")
            return None
        use = node.get("use")
        if use is None:
            self.report(node, f"model {name!r} needs `use:`", hint=suggest("", self.registry.provider_names()))
            return None
        provider_name = self.literal(use)
        try:
            provider = self.registry.provider(str(provider_name))
        except PluginError as error:
            self.report(use, error.message, hint=error.hint or "", code="unknown-plugin")
            return None
        arguments = {key: value for key, (_, value) in node.entries.items() if key != "use"}
        for key in arguments:
            if key not in provider.parameters:
                hint = suggest(key, (*provider.parameters, "use"), most=40)
                self.report(node.key(key), f"{provider.name} has no argument {key!r}", hint=hint, code="unknown-key")
        values = self._provider_arguments(provider, arguments)
        missing = [part.name for part in provider.parameters.values() if part.required and part.name not in arguments]
        if missing:
            hint = f"add {missing[0]}: beside `use:`"
            self.report(use, f"{provider.name} needs {' and '.join(missing)}", hint=hint, code="missing")
        return ModelDeclaration(name, provider, values)

    def _provider_arguments(self, provider: ProviderSpec, nodes: Mapping[str, Node]) -> dict[str, Any]:
        values = {}
        for name, node in nodes.items():
            parameter = provider.parameters.get(name)
            if parameter is None:
                continue
            value = self.literal(node)
            try:
                values[name] = parameter.accept(value)
            except CoercionError as error:
                self.report(node, f"{name}: {error}", code="type", hint=self._literal_hint(node, parameter.type))
                continue
            values[name] = resolve_files(parameter, values[name], self.recipe.folder)
        return values

    def _budget(self, node: Node | None) -> Budget:
        if node is None:
            return Budget()
        if not isinstance(node, MapNode):
            self.report(node, "budget is a mapping", hint="{tokens: 10000, calls: 50, seconds: 60}")
            return Budget()
        self.unknown_keys(node, ("tokens", "calls", "seconds"), "a budget")
        values: dict[str, Any] = {}
        for key, (_, value_node) in node.entries.items():
            value = self.literal(value_node)
            whole = key != "seconds"
            good = isinstance(value, int if whole else int | float) and not isinstance(value, bool) and value > 0
            if not good:
                what = "a whole number" if whole else "a number"
                self.report(value_node, f"{key} is {what} above 0, this is {shorten(value)}", code="type")
            elif key in ("tokens", "calls", "seconds"):
                values[key] = value
        return Budget(**values)

    def _output(self, root: MapNode, steps: StepChecker) -> None:
        node = root.get("output")
        if node is None:
            if self.recipe.steps:
                last = next(reversed(self.recipe.steps.values()))
                scalar = Scalar(last.node.start, last.node.end, f"${{{last.name}}}", "", f"${{{last.name}}}")
                self.recipe.output = Expression(Template(scalar.text), scalar, self.document)
                self.recipe.output_type = last.type
        else:
            self.recipe.output = self.data(node)
            self.recipe.output_type = self.infer(self.recipe.output, steps.scope())
        if not any(diagnostic.severity == "error" for diagnostic in self.document.diagnostics):
            self._report_unused(self.recipe.output.references)

    def _report_unused(self, roots: frozenset[str]) -> None:
        used: set[str] = set()
        pending = [name for name in roots if name in self.recipe.steps]
        pending += [step.name for step in self.recipe.steps.values() if _has_effect(step)]
        while pending:
            name = pending.pop()
            if name not in used:
                used.add(name)
                pending += [other for other in self.recipe.steps[name].waits_for if other in self.recipe.steps]
        for step in self.recipe.steps.values():
            if step.name not in used:
                self.report(
                    step.node,
                    f"nothing uses step {step.name!r}",
                    hint="read it in `output` or in another step, or delete it",
                    code="unused-step",
                    warning=True,
                )


def _has_effect(step: Step) -> bool:
    return isinstance(step.work, FunctionCall) and step.work.function.writes


def apply_overrides(document: YamlDocument, overrides: Mapping[str, str]) -> None:
    """Put the values of `--set` and `--model` into the parsed file; mistakes in them point at the step or model.

    Raises:
        UsageError: an override names nothing in the file, or is no YAML.
    """
    for path, text in overrides.items():
        *parents, last = path.split(".") if path.startswith("models.") else ["steps", *path.split(".")]
        node = document.root
        for part in parents:
            child = node.get(part) if isinstance(node, MapNode) else None
            if child is None:
                there = node.entries if isinstance(node, MapNode) else ()
                raise UsageError(f"{path}={text}: there is no {part!r} in the recipe", hint=suggest(part, there))
            node = child
        value = parse_yaml(f"--set {path}", text.encode())
        if value.root is None or not isinstance(node, MapNode):
            raise UsageError(f"{path}={text}: the value is no YAML", hint="quote it twice: --set 'step.key=\"text\"'")
        at = node.start
        node.entries[last] = (Scalar(at, at, last, "", last), _moved(value.root, at))


def _moved(node: Node, at: int) -> Node:
    """Give a parsed override the place of what it changes."""
    node.start = node.end = at
    for child in node.items if isinstance(node, ListNode) else ():
        _moved(child, at)
    for key, child in node.entries.values() if isinstance(node, MapNode) else ():
        key.start = key.end = at
        _moved(child, at)
    return node


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
