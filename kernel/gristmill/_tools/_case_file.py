"""Reads the test cases of a recipe, and judges values by what they expect.

    recipe: ./quickstart.yaml                 # optional
    cases:
      - name: a capital
        inputs: {question: What is the capital of France?}
        answers: Paris.                       # what a fake model says: a text, a list, or {part of a prompt: text}
        expect:                               # one mapping, or a list of them
          contains: Paris                     # or a list: all of them
          matches: "^P"                       # a regular expression
          expression: ${output | length < 40} # over output, steps and inputs
          # equals: a value; schema: JSON Schema or {field: type}; step: another value than the output

It runs nothing (see `_cases`). Invariant: a mistake in the file is told with its position, and every failed expectation
says where it stands, what was expected and what came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import regex

from gristmill._errors import RecipeError, UsageError, suggest
from gristmill._events import jsonable
from gristmill._language._diagnostics import shorten_path, sort_unique
from gristmill._language._expressions import Template
from gristmill._language._filters import EvaluationError, data_of, to_text
from gristmill._language._inference import Scope, infer
from gristmill._language._lexer import ExpressionSyntaxError
from gristmill._language._recipe import Recipe
from gristmill._language._types import BOOLEAN, CoercionError, Type, coerce, fit, shorten
from gristmill._language._yaml import ListNode, MapNode, Node, Scalar, YamlDocument, read_yaml
from gristmill._runnable import rebase
from gristmill._values import Completion
from gristmill.schemas.jsonschema import expand_short_form, is_json_schema
from gristmill.testing import Answer

Judge = Callable[[Any, Mapping[str, Any]], str | None]
"""Given the value and the names of expressions, returns what was expected and what came, or None if it holds."""

CASE_KEYS = ("name", "inputs", "answers", "expect")
EXPECT_KEYS = ("step", "contains", "equals", "matches", "schema", "expression")
MATCH_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Expectation:
    """What must hold of the output, or of a step's value. `where` begins each message about it."""

    where: str
    step: str | None
    judge: Judge


@dataclass(frozen=True, slots=True)
class Case:
    """One run of the recipe. `answers` are what a fake model says."""

    name: str
    inputs: Mapping[str, Any]
    answers: Answer | Mapping[str, Answer] | None
    expectations: tuple[Expectation, ...]


def named_recipe(path: Path) -> str | Path | None:
    """Return the recipe that a file of cases names, if it does: a path from the file, or the name of a recipe."""
    root = _read(path).root
    node = root.get("recipe") if isinstance(root, MapNode) else None
    return _named_recipe(node, path) if isinstance(node, Scalar) else None


def _named_recipe(node: Scalar, path: Path) -> str | Path:
    return path.parent / node.text if "/" in node.text or node.text.endswith((".yaml", ".yml")) else node.text


def _read(path: Path) -> YamlDocument:
    try:
        return read_yaml(path, shorten_path(path))
    except OSError as error:
        raise UsageError(f"{shorten_path(path)}: the cases cannot be read: {error.strerror or error}") from error


def read_cases(path: Path, recipe: Recipe) -> list[Case]:
    """Return the cases of a file, checked against the recipe.

    Raises:
        RecipeError: with every mistake in the file.
    """
    document = _read(path)
    cases = _CaseReader(document, path, recipe).read()
    errors = [diagnostic for diagnostic in sort_unique(document.diagnostics) if diagnostic.severity == "error"]
    if errors:
        raise RecipeError("\n".join(diagnostic.render() for diagnostic in errors), errors)
    return cases


class _CaseReader:
    """Reads one file; reports every mistake to the document and goes on."""

    def __init__(self, document: YamlDocument, path: Path, recipe: Recipe) -> None:
        self.document = document
        self.path = path
        self.recipe = recipe

    def read(self) -> list[Case]:
        root = self.document.root
        if not isinstance(root, MapNode):
            if not self.document.diagnostics:
                self.document.report_at(0, 1, "this is no file of cases", code="cases", hint="it needs `cases:`")
            return []
        self.keys(root, ("recipe", "cases"), "a file of cases")
        self._recipe(root.get("recipe"))
        listed = root.get("cases")
        if not isinstance(listed, ListNode) or not listed.items:
            self.report(listed or root, "cases is a list", hint="cases: [{inputs: {...}, expect: {...}}]")
            return []
        cases: dict[str, Case] = {}
        for n, node in enumerate(listed.items, 1):
            case = self._case(node, f"case {n}")
            if case is not None and case.name in cases:
                self.report(node, f"two cases are called {case.name!r}", hint="choose another name")
            elif case is not None:
                cases[case.name] = case
        return list(cases.values())

    def report(self, node: Node, message: str, *, hint: str = "") -> None:
        self.document.report(node, message, code="cases", hint=hint)

    def keys(self, node: MapNode, allowed: Iterable[str], what: str) -> None:
        names = tuple(allowed)
        for key in node.entries:
            if key not in names:
                self.report(node.key(key), f"{key!r} is not a key of {what}", hint=suggest(key, names))

    def _recipe(self, node: Node | None) -> None:
        if node is None:
            return
        if not isinstance(node, Scalar) or not isinstance(node.value, str):
            self.report(node, "recipe is a name, or a path from this file")
        elif isinstance(named := _named_recipe(node, self.path), Path):
            if named.resolve() != self.recipe.path:
                self.report(node, f"these cases are for {node.text!r}, not for {self.recipe.path.name!r}")
        elif named not in (self.recipe.name, self.recipe.path.stem):
            self.report(node, f"these cases are for recipe {named!r}, not for {self.recipe.name!r}")

    def _case(self, node: Node, name: str) -> Case | None:
        if not isinstance(node, MapNode):
            self.report(node, "a case is a mapping", hint="{name: ..., inputs: {...}, expect: {...}}")
            return None
        self.keys(node, CASE_KEYS, "a case")
        if (named := node.get("name")) is not None:
            name = named.text if isinstance(named, Scalar) and named.text else name
        if "expect" not in node.entries:
            self.report(node, f"case {name!r} expects nothing", hint="add expect: {contains: ...}")
        return Case(name, self._inputs(node), self._answers(node.get("answers")), self._expect(node.get("expect")))

    def _inputs(self, case: MapNode) -> dict[str, Any]:
        node, declared = case.get("inputs"), self.recipe.inputs
        if node is not None and not isinstance(node, MapNode):
            self.report(node, "inputs is a mapping from names to values")
            return {}
        given = node.entries if isinstance(node, MapNode) else {}
        for missing in (i.name for i in declared.values() if i.required and i.name not in given):
            self.report(node or case, f"the input {missing!r} is missing", hint=f"add {missing}: under `inputs:`")
        values = {}
        for name, (key, value) in given.items():
            if name not in declared:
                self.report(key, f"the recipe has no input {name!r}", hint=suggest(name, declared))
                continue
            try:
                found = coerce(data_under(value), declared[name].type)
                values[name] = rebase(declared[name].type, found, self.path.parent.absolute())
            except CoercionError as error:
                self.report(value, f"{name}: {error}")
        return values

    def _answers(self, node: Node | None) -> Answer | Mapping[str, Answer] | None:
        if node is None:
            return None
        value = data_under(node)
        if _is_answer(value) or (isinstance(value, dict) and value and all(map(_is_answer, value.values()))):
            answers: Answer | Mapping[str, Answer] = value
            return answers
        self.report(node, "answers is a text, a list of texts, or a mapping from part of a prompt to them")
        return None

    def _expect(self, node: Node | None) -> tuple[Expectation, ...]:
        listed = node.items if isinstance(node, ListNode) else [node] if node is not None else []
        return tuple(expectation for item in listed for expectation in self._expectations(item))

    def _expectations(self, node: Node) -> list[Expectation]:
        if not isinstance(node, MapNode):
            self.report(node, "an expectation is a mapping", hint=suggest("", EXPECT_KEYS))
            return []
        self.keys(node, EXPECT_KEYS, "an expectation")
        step = self._step(node.get("step"))
        found = []
        for key in EXPECT_KEYS[1:]:
            if (value := node.get(key)) is not None and (judge := getattr(self, f"_{key}")(value)) is not None:
                line, column = self.document.source.position(node.key(key).start)
                place = f"step {step!r}" if step else "the output"
                where = f"{self.document.source.path}:{line}:{column}: {key if key == 'expression' else place}"
                found.append(Expectation(where, step, judge))
        if not set(EXPECT_KEYS[1:]) & node.entries.keys():
            self.report(node, "this expects nothing", hint=suggest("", EXPECT_KEYS[1:]))
        return found

    def _step(self, node: Node | None) -> str | None:
        if node is None:
            return None
        name = data_under(node)
        if name in self.recipe.steps:
            return str(name)
        self.report(node, f"{shorten(name)} is not a step", hint=suggest(str(name), self.recipe.steps))
        return None

    # Each of these reads one kind of expectation, named by its key.

    def _contains(self, node: Node) -> Judge | None:
        parts = data_under(node)
        parts = parts if isinstance(parts, list) else [parts]
        if not parts or not all(isinstance(part, str) and part for part in parts):
            self.report(node, "contains is a text, or a list of them", hint="quote a number")
            return None

        def judge(value: Any, _: Mapping[str, Any]) -> str | None:
            text = shown(value)
            missing = [part for part in parts if part not in text]
            return told(f"a text with {' and '.join(map(repr, missing))}", text) if missing else None

        return judge

    def _equals(self, node: Node) -> Judge:
        wanted = data_under(node)
        return lambda value, _: None if _same(subject(value), wanted) else told(repr(wanted), subject(value))

    def _matches(self, node: Node) -> Judge | None:
        try:
            pattern = regex.compile(str(data_under(node)))
        except regex.error as error:
            self.report(node, f"this is no regular expression: {error}")
            return None

        def judge(value: Any, _: Mapping[str, Any]) -> str | None:
            try:
                found = pattern.search(shown(value), timeout=MATCH_TIMEOUT_S, concurrent=True)
            except TimeoutError:
                return f"the regular expression {pattern.pattern!r} took longer than {MATCH_TIMEOUT_S:g} s"
            return None if found else told(f"a match of {pattern.pattern!r}", shown(value))

        return judge

    def _schema(self, node: Node) -> Judge | None:
        from jsonschema import Draft202012Validator, SchemaError
        from referencing import Registry
        from referencing.exceptions import Unresolvable

        written = data_under(node)
        try:
            if not isinstance(written, dict):
                raise ValueError("schema is a mapping")
            schema = written if is_json_schema(written) else expand_short_form(written)
            Draft202012Validator.check_schema(schema)
        except (ValueError, SchemaError) as error:
            self.report(node, f"schema: {error.message if isinstance(error, SchemaError) else error}")
            return None
        validator = Draft202012Validator(schema, registry=Registry())  # an empty registry fetches no reference

        def judge(value: Any, _: Mapping[str, Any]) -> str | None:
            try:
                broken = next(iter(validator.iter_errors(subject(value))), None)
            except Unresolvable as error:
                return f"the schema refers to what is not there: {error}"
            return broken and told(
                f"a value that fits the schema ({broken.json_path}: {broken.message})", subject(value)
            )

        return judge

    def _expression(self, node: Node) -> Judge | None:
        if not isinstance(node, Scalar) or not isinstance(node.value, str):
            self.report(node, "expression is a ${...}")
            return None
        try:
            template = Template(node.value)
        except ExpressionSyntaxError as error:
            start, end = self.document.locate(node, error.offset), self.document.locate(node, error.end)
            self.document.report_at(start, max(end, start + 1), str(error), code="cases", hint=error.hint)
            return None
        self._check_boolean(node, template)

        def judge(_: Any, names: Mapping[str, Any]) -> str | None:
            try:
                value = template.evaluate(names)
            except EvaluationError as error:
                return f"{node.value} failed: {error}"
            if value is True:
                return None
            return told(
                f"{node.value} to be true", {name: jsonable(names[name]) for name in sorted(template.references)}
            )

        return judge

    def _check_boolean(self, node: Scalar, template: Template) -> None:
        inputs = {i.name: i.type for i in self.recipe.inputs.values()}
        steps = {step.name: step.type for step in self.recipe.steps.values()}
        names = {"output": self.recipe.output_type, "steps": Type("record", "steps", fields=steps),
                 "inputs": Type("record", "inputs", fields=inputs)}  # fmt: skip

        def report(start: int, end: int, message: str, hint: str) -> None:
            first, last = self.document.locate(node, start), self.document.locate(node, end - 1) + 1
            self.document.report_at(first, max(last, first + 1), message, code="cases", hint=hint)

        if why := fit(infer(template, Scope(names, inputs=inputs), report), BOOLEAN):
            self.report(node, f"expression: {why}", hint="compare: ${output == 'x'}")


def data_under(node: Node) -> Any:
    """Return the plain data of a node."""
    if isinstance(node, ListNode):
        return [data_under(item) for item in node.items]
    if isinstance(node, MapNode):
        return {key: data_under(value) for key, (_, value) in node.entries.items()}
    assert isinstance(node, Scalar)
    return node.value


# -- judging -----------------------------------------------------------------------------------------------------------


def subject(value: Any) -> Any:
    """Return what a value is judged as: a completion's parsed JSON, the text of what has one, or plain data."""
    parsed = value.value if isinstance(value, Completion) else None
    return jsonable(data_of(value) if parsed is None else parsed)


def shown(value: Any) -> str:
    """Return a value's text, as a prompt would show it; null has none."""
    return "" if value is None else to_text(jsonable(data_of(value)))


def told(expected: str, got: Any) -> str:
    return f"not as expected\n  expected: {expected}\n  got:      {shorten(got, 500)}"


def _same(left: Any, right: Any) -> bool:
    """Compare as JSON does: 1 is 1.0, and neither is true."""
    from jsonschema import Draft202012Validator

    return bool(Draft202012Validator({"const": right}).is_valid(left))


def _is_answer(value: Any) -> bool:
    """Tell whether a value is what a FakeModel can say: a text, or texts used in turn."""
    return isinstance(value, str) or (
        isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)
    )
