"""Recipes and expressions from an enemy: never an exception, never long, always a diagnostic where it is wrong."""
# ruff: noqa: E501, PT017  (tables of cases; most of what is tried here raises nothing)

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jinja2 import nodes

from gristmill import Completion, Kernel
from gristmill._language._expressions import Template
from gristmill._language._filters import FILTERS, TESTS, EvaluationError
from gristmill._language._inference import Scope, _Inference, infer, infer_text
from gristmill._language._lexer import ExpressionSyntaxError
from gristmill._language._recipe import Recipe
from gristmill._language._types import ANY, INTEGER, STRING, Type, list_of, type_of
from gristmill.testing import FakePlugin

if TYPE_CHECKING:
    from tests.unit.conftest import Bench

HEAD = "version: 1\nmodels: {m: {use: fake}}\ninputs: {q: string, xs: [string]}\n"
PROMPT = f"{HEAD}steps:\n  a:\n    prompt: |\n      "
MOST = 990_000
MOST_SECONDS = 2.0
"""Of processor time, so that a busy machine fails no test."""


def steps(n: int, step: Callable[[int], str]) -> str:
    return f"{HEAD}steps:\n" + "".join(f"  s{i}: {step(i)}\n" for i in range(n))


ATTACKS = {
    "blanks in an expression": PROMPT + "${a" + " " * MOST,
    "blanks in raw": PROMPT + "{% raw %}" + " " * MOST,
    "tabs after raw": PROMPT + "{% raw " + "\t" * MOST,
    "newlines": PROMPT + "x" + "\n" * MOST,
    "quotes": PROMPT + "${" + "'" * MOST,
    "backslashes": PROMPT + '${"' + "\\\\" * (MOST // 2),
    "braces": PROMPT + "{" * MOST,
    "dollars": PROMPT + "$" * MOST,
    "openings": PROMPT + "${" * (MOST // 2),
    "expressions": PROMPT + "${a}" * (MOST // 4),
    "blocks": PROMPT + "{%" * (MOST // 2),
    "raw blocks": PROMPT + "{% raw" * (MOST // 6),
    "comments": PROMPT + "{%#" * (MOST // 3),
    "brackets": PROMPT + "${" + "(" * MOST,
    "digits": PROMPT + "${" + "1" * MOST,
    "fields": PROMPT + "${a" + ".a" * (MOST // 2) + "}",
    "sums": PROMPT + "${1" + "+1" * 9000 + "}",
    "filters": PROMPT + "${a" + "|trim" * 4000 + "}",
    "defaults": PROMPT + "${" + "(" * 45 + "inputs.q" + "|d).a" * 45 + "}",
    "a long name": PROMPT + "${" + "x" * MOST + "}",
    "ifs": PROMPT + "{% if inputs.q %}" * 10_000,
    "unknown names": PROMPT + "".join(f"${{u{i}}}" for i in range(6000)),
    "nested lists": HEAD + "a: " + "[" * MOST,
    "nested maps": HEAD + "a: " + "{" * MOST,
    "nested dashes": HEAD + "a:\n" + "- " * (MOST // 2),
    "question marks": HEAD + "? " * (MOST // 2),
    "a plain text of many lines": HEAD + "name: " + "b\n  " * (MOST // 4),
    "equal keys": HEAD + "a: 1\n" * 20_000,
    "anchors": HEAD + "a: " + "&x " * (MOST // 3),
    "percent signs": "%" * MOST,
    "tabs": HEAD + "a:\n" + "\t" * MOST,
    "single quotes": HEAD + "a: '" + "''" * (MOST // 2),
    "folded blanks": HEAD + "a: >\n" + " \n" * (MOST // 2),
    "a long comment": HEAD + "name: b " + "#" * MOST,
    "a long key": f"{HEAD}steps:\n  a: {{prompt: x, {'k' * MOST}: 1}}\n",
    "one long line": f"{HEAD}steps: {{" + ",".join(f"s{i}: {{prompt: '${{u{i}}}'}}" for i in range(3000)) + "}",
    "needs": f"{HEAD}steps:\n  z: {{prompt: a, needs: [" + ",".join(f"s{i}" for i in range(20_000)) + "]}\n",
    "warnings": steps(3000, lambda _: "{prompt: a, cache: off}"),
    "misspelt keys": steps(3000, lambda _: "{prompt: a, tmperature: 1}"),
    "missing steps": steps(3000, lambda i: f"{{prompt: '${{t{i}}}'}}"),
    "loops": steps(2000, lambda _: "{prompt: '${item}', for_each: '${inputs.xs}'}"),
    "a long ring": steps(2000, lambda i: f"{{prompt: '${{s{(i + 1) % 2000}.text}}'}}"),
    "a dense ring": steps(100, lambda i: f"{{prompt: a, needs: [{','.join(f's{j}' for j in range(100) if j != i)}]}}"),
    "aliases of a step": f"{HEAD}steps:\n  a: &a\n    prompt: x\n" + "".join(f"  b{i}: *a\n" for i in range(5000)),
    "shared types": PROMPT
    + "{% set b0 = {'x': 1} %}{% set c0 = {'x': 1} %}"
    + "".join(f"{{% set {v}{i + 1} = {{'x': {v}{i}, 'y': {v}{i}}} %}}" for i in range(60) for v in "bc")
    + "${[b60, c60]}",
}


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with Kernel(plugins={"fake": FakePlugin()}, cache=False) as made:
        yield made


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile") / "r.yaml"


def survives(kernel: Kernel, file: Path, data: bytes) -> Recipe:
    """Check a file; demand that it takes neither long nor much, and that every diagnostic can be shown."""
    file.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    recipe = kernel.check(file)
    shown = [(d.render(), d.as_json(), d.as_github()) for d in recipe.diagnostics]
    assert time.process_time() - started < MOST_SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024  # KiB
    assert len(shown) <= 2 * 200 + 200
    return recipe


@pytest.mark.parametrize("name", ATTACKS)
def test_a_megabyte_of_anything_is_checked_soon(kernel: Kernel, file: Path, name: str) -> None:
    survives(kernel, file, ATTACKS[name].encode())


def test_every_malformed_file_is_survived(kernel: Kernel, file: Path, bad_inputs: Path) -> None:
    paths = sorted((bad_inputs / "yaml").iterdir())
    assert paths
    for path in paths:
        assert survives(kernel, file, path.read_bytes()).errors, path.name


@pytest.mark.parametrize("name", ["yaml_suite", "json_suite", "malformed_files", "naughty_strings"])
def test_every_text_of_the_suites_is_survived_in_every_place(
    kernel: Kernel, file: Path, shared_data: Path, name: str
) -> None:
    for line in (shared_data / f"{name}.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n"):
        for text in {value for value in json.loads(line).values() if isinstance(value, str)}:
            survives(kernel, file, text.encode("utf-8", "surrogatepass"))
            quoted = json.dumps(text)
            expression = json.dumps(f"a ${{{text}}}{{%{text}%}}")
            survives(kernel, file, f"{HEAD}steps: {{a: {{prompt: {quoted}, system: {expression}}}}}".encode())
            survives(kernel, file, f"{HEAD}steps: {{{quoted}: {{use: {quoted}}}, b: {{recipe: {quoted}}}}}".encode())


def test_a_homoglyph_is_shown_for_what_it_is(bench: Bench) -> None:
    told = bench.told("steps:\n  answer: {prompt: x}\noutput: ${аnswer.text}\n")
    assert told == ["5:11: '\\u0430nswer' is not a step, an input or a loop variable here | did you mean 'answer'?"]


NAMES: dict[str, Any] = {
    "a": Completion(text="x"), "xs": ["b", "a"], "d": {"k": {"n": 1}}, "n": 3, "s": "text", "z": None, "x": [[1], {"y": 2}],
}  # fmt: skip
SCOPE = Scope(
    {
        "a": type_of(Completion), "xs": list_of(STRING), "n": INTEGER, "s": STRING, "z": STRING.or_null(), "x": ANY,
        "d": Type("record", fields={"k": Type("map", item=INTEGER)}),
    }
)  # fmt: skip

ATOMS = st.sampled_from(
    ["a", "xs", "d", "n", "s", "z", "x", "nobody", "1", "2.5", "'t'", "true", "none", "[]", "[1, 'a']", "{'k': n}"]
)


def _combined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    operator = st.sampled_from(
        ["+", "-", "*", "/", "//", "%", "~", "==", "<", ">=", "in", "not in", "and", "or", "**", "if"]
    )
    key = st.sampled_from(["text", "k", "__class__", "items", "0", "copy"])
    arguments = st.sampled_from(
        ["", "(1)", "('x')", "('text', 'eq')", "(attribute='k')", "(x)", "(s, s)", "(n, n, n)", "(zz=1)"]
    )
    return st.one_of(
        st.builds("({} {} {})".format, inner, operator, inner),
        st.builds("{}.{}".format, inner, key),
        st.builds("{}[{}]".format, inner, inner),
        st.builds("{}[{}:{}]".format, inner, inner, inner),
        st.builds("({} | {}{})".format, inner, st.sampled_from([*FILTERS, "attr", "format"]), arguments),
        st.builds("({} is {}{})".format, inner, st.sampled_from([*TESTS, "defined"]), arguments),
        st.builds("({} if {} else {})".format, inner, inner, inner),
        st.builds("(not {})".format, inner),
        st.builds("( -{})".format, inner),
        st.builds("[{}, {}]".format, inner, inner),
    )  # fmt: skip


EXPRESSIONS = st.recursive(ATOMS, _combined, max_leaves=8)
TEXTS = st.one_of(
    EXPRESSIONS.map("${{ {} }}".format),
    st.builds(
        "{{% for i in {} if {} %}}${{i}}{{% else %}}${{ {} }}{{% endfor %}}".format,
        EXPRESSIONS,
        EXPRESSIONS,
        EXPRESSIONS,
    ),
    st.builds("{{% if {} %}}x{{% elif {} %}}${{ {} }}{{% endif %}}".format, EXPRESSIONS, EXPRESSIONS, EXPRESSIONS),
    st.builds("{{% set v = {} %}}${{v}}${{v.text}}".format, EXPRESSIONS),
    st.text(alphabet="${}%#-+ \n\t'\"\\|.()[]:,abx1", max_size=40),
    st.text(max_size=30).map("${{{}}}".format),
)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TEXTS)
@example("${x[1:2, 3]}")
@example("{% autoescape true %}{% endautoescape %}")
@example("${'%99999999999d' is even}")
@example("${d[xs]}")
@example("${(x | batch(1)) ~ none}")
def test_an_expression_parses_is_typed_and_evaluated_with_declared_errors_only(source: str) -> None:
    started = time.process_time()
    try:
        template = Template(source)
    except ExpressionSyntaxError as error:
        assert 0 <= error.offset <= len(source)
        assert str(error)
        return
    told: list[str] = []

    def report(start: int, end: int, message: str, hint: str) -> None:
        assert 0 <= start <= end <= len(source) + 1
        told.append(message + hint)

    infer_text(template, SCOPE, report)
    infer(template, SCOPE, report)
    for run in (template.evaluate, template.render):
        try:
            run(NAMES)
        except EvaluationError as error:
            assert 0 <= error.offset <= len(source)
    assert time.process_time() - started < 3


class Watching(_Inference):
    """Notes whether a part of the expression has a type that is not checked: "any", or one of several."""

    is_unsure = False

    def expression(self, node: nodes.Node, scope: Scope) -> Type:
        found = super().expression(node, scope)
        self.is_unsure = self.is_unsure or any(t.kind in ("any", "union") for t in (found, found.item) if t)
        return found


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(EXPRESSIONS)
def test_what_checks_with_known_types_also_evaluates(source: str) -> None:
    """No error at check means no failure at run, but for what types cannot show, and what is "any"."""
    by_value = ("division by zero", "modulo", "no whole number", "no number", "the list is empty", "there is no", "too large",
                "these cannot be compared", "not supported between", "is not iterable", "must be numbers", "give a filter's name", "step of a slice", "size is",
                "width is", "only numbers can be divided")  # fmt: skip
    try:
        template = Template(f"${{ {source} }}")
    except ExpressionSyntaxError:
        return
    told: list[str] = []
    watching = Watching(template.source, lambda *parts: told.append(str(parts)))
    watching.expression(template.expression, SCOPE)
    if watching.is_unsure:
        return
    if told:
        return
    try:
        template.evaluate(NAMES)
    except EvaluationError as error:
        assert any(words in str(error) for words in by_value), error
