"""Reads a recipe file and finds every mistake in it, in one pass, before anything is loaded.

Files become a `Recipe` (see `_recipe`): what is declared in `_check_declarations`, steps in `_check_steps`, the types
of expressions in `_inference`. Plugins that the recipe names are imported for their signatures; no model, heavy library
or network is touched, and no expression is evaluated. Invariant: it never raises for what a file holds, and a recipe it
passes has no unknown name, cycle, missing argument or wrong literal.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from gristmill._errors import UsageError, suggest
from gristmill._language._check_declarations import RECIPE_NAME, Declarations
from gristmill._language._check_steps import StepChecker
from gristmill._language._diagnostics import shorten_path, sort_unique
from gristmill._language._expressions import Template
from gristmill._language._inference import Scope, infer, infer_text
from gristmill._language._lexer import ExpressionSyntaxError
from gristmill._language._overrides import apply_overrides
from gristmill._language._recipe import (
    LANGUAGE_VERSION,
    Constant,
    Data,
    Expression,
    FunctionCall,
    ListData,
    MapData,
    Recipe,
    Step,
)
from gristmill._language._types import (
    ANY,
    STRING,
    CoercionError,
    Type,
    coerce,
    fit,
    list_of,
    shorten,
    type_of_value,
    union,
)
from gristmill._language._yaml import ListNode, MapNode, Node, Scalar, YamlDocument, read_yaml
from gristmill._registry import Registry

RECIPE_KEYS = ("version", "name", "description", "inputs", "models", "steps", "output", "budget")
NAME = re.compile(r"[a-z][a-z0-9_]*")
RESERVED = frozenset({
    "inputs", "loop", "self", "and", "or", "not", "in", "is", "if", "elif", "else", "endif", "for", "endfor", "set",
    "endset", "true", "false", "none", "null", "raw", "endraw", "range", "lipsum", "dict", "cycler", "joiner",
    "namespace", "True", "False", "None", "recursive",
})  # fmt: skip

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
        self.recipe.name = self.text(root, "name") or self.recipe.path.stem
        self.recipe.description = self.text(root, "description") or ""
        if (key := root.entries.get("name")) and not RECIPE_NAME.fullmatch(self.recipe.name):
            self.report(key[1], f"{self.recipe.name!r} is no recipe name", hint="use a-z, 0-9, - and _")
        declarations = Declarations(self)
        self.recipe.inputs = declarations.inputs(root.get("inputs"))
        self.recipe.models = declarations.models(root.get("models"))
        self.recipe.budget = declarations.budget(root.get("budget"))
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
                    self.report(node, f"{what}: {error}", code="type", hint=self.literal_hint(node, target))
            return
        if isinstance(data, ListData) and isinstance(node, ListNode) and target.kind == "list":
            for item_node, item in zip(node.items, data.items, strict=True):
                self.fits(item_node, item, target.item or ANY, scope, what)
            return
        found = self.infer(data, scope)
        if why := fit(found, target):
            hint = "guard it, or use `default`" if found.nullable and not fit(found.not_null(), target) else ""
            self.report(node, f"{what}: {why}", code="type", hint=hint)

    def literal_hint(self, node: Node, target: Type) -> str:
        if not isinstance(node, Scalar) or not isinstance(node.value, str):
            return ""
        if target.kind == "boolean":
            return "YAML 1.2 knows true and false"
        if target.kind in ("integer", "number") and not node.plain:
            return "leave out the quotes"
        return ""

    def text(self, root: MapNode, key: str) -> str | None:
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
