"""The recipe language, rules 1 to 9: what an expression may read, what it gives, what it is held to."""
# ruff: noqa: E501  (a table of cases reads best with a case on a line)

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from gristmill import Candidate, Choice, Completion, Passage, Vote
from gristmill._language._expressions import Template
from gristmill._language._filters import EvaluationError
from gristmill._language._lexer import ExpressionSyntaxError

if TYPE_CHECKING:
    from tests.unit.conftest import Bench

DATA = {
    "d": {"items": 2, "a": {"b": "deep"}, "keys": [1]},
    "xs": [3, 1, 2],
    "answer": Completion(text="forty-two"),
    "passages": [Passage(text="one", source="a.md"), Passage(text="two", source="b.md")],
    "s": "text",
    "n": 3,
    "nothing": None,
}


def value(source: str, **names: Any) -> Any:
    return Template(source).evaluate({**DATA, **names})


def refusal(source: str, **names: Any) -> str:
    with pytest.raises((EvaluationError, ExpressionSyntaxError)) as caught:
        value(source, **names)
    return str(caught.value)


class TestRule1DataOnly:
    """Rule 1: `x.name` and `x["name"]` read a key or a declared field, never a method or a dunder."""

    def test_a_key_named_like_a_method_is_the_key(self) -> None:
        assert value("${d.items}") == value("${d['items']}") == 2
        assert value("${d.keys}") == [1]

    def test_a_declared_field_of_a_value_is_read(self) -> None:
        assert value("${answer.text}") == "forty-two"
        assert value("${passages[1].source}") == "b.md"

    @pytest.mark.parametrize(
        "source",
        [
            "${d.copy}", "${d.__class__}", "${d['__class__']}", "${s.upper}", "${s['join']}", "${xs.append}",
            "${answer.copy}", "${answer.model_dump}", "${answer.__class__}", "${answer['__init__']}",
            "${answer.text_field}", "${answer.model_config}", "${n.real}", "${n.__class__}",
            "${xs | map(attribute='__class__') | list}", "${passages | map(attribute='model_dump') | list}",
            "${passages | map(attribute='text.upper') | list}", "${passages | join(attribute='__dict__')}",
            "${passages | sort(attribute='copy')}", "${xs | selectattr('__class__') | list}",
        ],
    )  # fmt: skip
    def test_no_path_leads_to_a_method_or_a_dunder(self, source: str) -> None:
        assert "has no field" in refusal(source) or "there is no key" in refusal(source)

    def test_the_attr_filter_is_not_there(self) -> None:
        assert refusal("${d | attr('items')}") == "'attr' is not a filter of recipes"

    def test_a_key_that_is_no_text_or_number_is_refused(self) -> None:
        assert refusal("${d[xs]}") == "a key is text or a whole number, this is a list"


class TestRule2NativeValues:
    """Rule 2: values are native, never read out of text; undefined raises; lists are lists."""

    @pytest.mark.parametrize("text", ["[1,2]", "1_000", "{'a': 1}", "None", "True", "1e3", " 5 "])
    def test_text_that_looks_like_python_stays_text(self, text: str) -> None:
        assert value("${s}", s=text) == text

    def test_a_value_keeps_its_type(self) -> None:
        assert value("${xs}") is DATA["xs"]
        assert value("${n + 1}") == 4
        assert value("${ {'a': [n, none, true]} }") == {"a": [3, None, True]}

    def test_an_undefined_name_raises_with_its_place(self) -> None:
        with pytest.raises(EvaluationError, match="'nobody' has no value here") as caught:
            value("${1 if nobody else 2}")
        assert (caught.value.offset, caught.value.end) == (7, 13)

    def test_a_missing_key_raises_and_names_those_there_are(self) -> None:
        assert refusal("${d.itms}") == "there is no key 'itms': there is items, a, keys"

    @pytest.mark.parametrize("source", ["${xs | map('string')}", "${xs | select('odd')}", "${xs | reverse}"])
    def test_what_jinja_makes_a_generator_is_a_list(self, source: str) -> None:
        assert isinstance(value(source), list)


class TestRule3TextAndNative:
    """Rule 3: prompts are text; elsewhere a single expression keeps its type, one trailing newline ignored."""

    def test_a_single_expression_is_native_and_one_newline_after_it_is_ignored(self) -> None:
        assert value("${n}") == value("${n}\n") == value("${n}\r\n") == 3

    @pytest.mark.parametrize("source", ["${n} ", " ${n}", "${n}\n\n", "${n}${n}", "{% if n %}${n}{% endif %}"])
    def test_anything_more_makes_it_text(self, source: str) -> None:
        assert isinstance(value(source), str)

    def test_prompt_system_and_content_are_text_even_of_a_number(self, bench: Bench) -> None:
        bench.run("inputs: {n: integer}\nsteps: {a: {prompt: '${inputs.n}', system: 7}}", n=5)
        assert [m.content for m in bench.model.requests[0].messages] == ["7", "5"]


class TestRule4RenderedValues:
    """Rule 4: in text a result renders as its text, other data as JSON with non-ASCII kept; null is an error."""

    @pytest.mark.parametrize(
        "result",
        [
            Completion(text="é"), Passage(text="é"), Candidate(text="é"), Choice(text="é", index=0, probabilities={}),
            Vote(winner="é", tally={}, agreement=1),
        ],
    )  # fmt: skip
    def test_a_result_renders_as_its_text(self, result: Any) -> None:
        assert value("<${x}>", x=result) == "<é>"

    def test_other_data_renders_as_json_with_letters_kept(self) -> None:
        assert value("<${x}>", x={"a": ["é", True, None, 1.5]}) == '<{"a": ["é", true, null, 1.5]}>'

    def test_null_has_no_text(self) -> None:
        assert (
            refusal("<${nothing}>") == "this is null, and null has no text: use `default`, or a condition"
        )  # fmt: skip


class TestRule5Bounds:
    """Rule 5: an allow-list; no calls, `**`, macros, include, import; loops and output counted and timed."""

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("${s.upper()}", "nothing can be called in an expression"),
            ("${range(9)}", "nothing can be called in an expression"),
            ("${lipsum()}", "nothing can be called in an expression"),
            ("${9 ** 9}", "** is not part of recipes"),
            ("{% macro m() %}{% endmacro %}", "macros are not part of recipes"),
            ("{% call m() %}{% endcall %}", "macros are not part of recipes"),
            ("{% include 'x' %}", "include is not part of recipes"),
            ("{% import 'x' as x %}", "import is not part of recipes"),
            ("{% from 'x' import x %}", "import is not part of recipes"),
            ("{% extends 'x' %}", "extends is not part of recipes"),
            ("{% block x %}{% endblock %}", "this block is not part of recipes"),
            ("{% with a = 1 %}{% endwith %}", "this block is not part of recipes"),
            ("{% autoescape true %}{% endautoescape %}", "this block is not part of recipes"),
            ("{% filter upper %}{% endfilter %}", "this block is not part of recipes"),
            ("{% set x %}a{% endset %}", "this block is not part of recipes"),
            ("{% set a, b = 1, 2 %}", "set one name at a time"),
            ("{% for x in xs recursive %}{% endfor %}", "recursive loops are not part of recipes"),
            ("{% for a, (b, c) in xs %}{% endfor %}", "a loop unpacks one level only"),
            ("${xs[1:2, 3]}", "one key or slice at a time"),
            ("${s | join(*xs)}", "* and ** are not part of recipes"),
            ("${s | format}", "'format' is not a filter of recipes"),
            ("${s | center(9)}", "'center' is not a filter of recipes"),
            ("${s is callable}", "'callable' is not a test of recipes"),
            ("${n is divisibleby}", "the test 'divisibleby' takes one argument"),
            ("${n is none(1)}", "the test 'none' takes no argument"),
            ("${s * 3}", "* works on numbers, not on str and int; ~ joins texts"),
            ("${xs * 3}", "* works on numbers, not on list and int; ~ joins texts"),
            ("${'%9999999999d' is even}", "even: only numbers can be divided"),
            ("${999999999999999999 * 9}", "the number is too large"),
            ("${1e308 * 10}", "the number is too large"),
            ("${1e999}", "this number is too large"),
            ("${" + "1" * 31 + "}", "this number is too large"),
            ("${" + "(" * 90 + "1" + ")" * 90 + "}", "this is nested too deeply"),
            ("${1" + "+1" * 200 + "}", "this is nested deeper than 100 levels"),
            ("${" + "1," * 10_000 + "}", "a text may hold 20,000 tokens at most"),
        ],
    )  # fmt: skip
    def test_what_is_not_on_the_list_is_refused(self, source: str, message: str) -> None:
        assert refusal(source) == message

    @pytest.mark.parametrize(
        "source",
        [
            "{% for a in big %}{% for b in big %}{% for c in big %}x{% endfor %}{% endfor %}{% endfor %}",
            "{% for a in big if a < 0 %}{% endfor %}{% for a in big %}{% for b in big if b < 0 %}{% endfor %}{% endfor %}",
            "{% set a0 = long %}" + "".join(f"{{% set a{i + 1} = a{i} ~ a{i} %}}" for i in range(30)) + "${a30}",
            "{% set a0 = [1] %}" + "".join(f"{{% set a{i + 1} = a{i} + a{i} %}}" for i in range(40)) + "${a40}",
            "{% set a0 = [1] %}" + "".join(f"{{% set a{i + 1} = [a{i}, a{i}] %}}" for i in range(40)) + "${a40}",
            "{% set a0 = 1 %}" + "".join(f"{{% set a{i + 1} = {{'x': a{i}, 'y': a{i}}} %}}" for i in range(40)) + "${a40}",
            "${long | replace('x', long)}",
            "${" + "~".join(["long"] * 200) + "}",
            "${big | join(long)}",
            "${lines | indent(100)}",
            "${long | list | map('list') | map('list')}",
            "{% for a in big %}${long}{% endfor %}",
            "{% for a in big %}{% set x = long" + "|upper|lower" * 20 + " %}{% endfor %}",
        ],
    )  # fmt: skip
    def test_a_bomb_ends_soon_with_an_error(self, source: str) -> None:
        started = time.process_time()
        message = refusal(source, big=list(range(1000)), long="x" * 1_000_000, lines="\n" * 1_000_000)
        assert "more than" in message or "longer than" in message
        assert time.process_time() - started < 4

    def test_a_long_default_chain_is_checked_in_no_time(self, bench: Bench) -> None:
        chain = "x" + " | default('y')" * 90
        started = time.process_time()
        assert bench.told(f'inputs: {{x: any}}\nsteps: {{a: {{prompt: "${{inputs.{chain}}}"}}}}') == []
        assert time.process_time() - started < 2

    def test_check_parses_and_never_evaluates(self, bench: Bench) -> None:
        started = time.process_time()
        told = bench.told("steps: {a: {prompt: '${9**5999999}'}}")
        assert told == ["3:24: ** is not part of recipes"]
        assert time.process_time() - started < 1


class TestRule6Escapes:
    """Rule 6: `$${`, raw blocks, `{%# #%}` comments, trim_blocks and lstrip_blocks."""

    @pytest.mark.parametrize(
        ("source", "text"),
        [
            ("costs $${n}", "costs ${n}"),
            ("$5 $HOME $x^{2}$ {{ n }} {\"a\": {\"b\": 1}} }", "$5 $HOME $x^{2}$ {{ n }} {\"a\": {\"b\": 1}} }"),
            ("{% raw %}${n} {% if %}{% endraw %}!", "${n} {% if %}!"),
            ("a{%# ${n} is gone #%}b", "ab"),
            ("\\textbf{# not a comment #}", "\\textbf{# not a comment #}"),
            ("a\n  {% if n %}\nb\n  {% endif %}\nc", "a\nb\nc"),
            ("a\n  {%+ if n %}b{% endif %}", "a\n  b"),
            ("a \n {%- if n -%} \n b{% endif %}", "ab"),
            ("${ {'a': {'b': \"}\"}}.a.b }${'}'}|", "}}|"),
            ("x\r\n{% if n %}\r\ny\r\n{% endif %}\r\n${n}\r\n", "x\r\ny\r\n3\r\n"),
            ("{% for x in xs %}${loop.index}/${loop.length}:${x}{{% if not loop.last %}, {% endif %}{% endfor %}"
             .replace("{{%", "{%"), "1/3:3, 2/3:1, 3/3:2"),
        ],
    )  # fmt: skip
    def test_text_passes_as_written(self, source: str, text: str) -> None:
        assert Template(source).render(DATA) == text

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("${n", "${ is not closed"),
            ("{% if n", "{% is not closed"),
            ("{%# x", "this comment is not closed"),
            ("{% raw %}x", "this raw block is not closed"),
            ("${}", "this expression is empty"),
            ("${'x}", "this text is not closed"),
            ("${(n]}", "this ']' closes nothing"),
            ("${n?}", "'?' cannot stand in an expression"),
            ("${'\\ud800'}", "there is no such character"),
            ("${n n}", "expected '}', got 'n'"),
            ("{% if n %}", "unexpected end of template"),
        ],
    )
    def test_what_is_not_closed_is_named(self, source: str, message: str) -> None:
        assert refusal(source).startswith(message)

    def test_escapes_in_texts_are_pythons_and_a_lone_backslash_stays(self) -> None:
        assert value(r"""${"a\n\x41\u00e9\U0001F600\'\"\\ \d\é"}""") == "a\nAé😀'\"\\ \\d\\é"


class TestRule7NoWhiteSpaceControl:
    """Rule 7: `${-`, `${+` and `-}` are errors that say what to write."""

    @pytest.mark.parametrize("source", ["${-n}", "${+n}"])
    def test_a_sign_at_the_brace_is_refused_with_the_way_to_write_it(self, source: str) -> None:
        with pytest.raises(ExpressionSyntaxError) as caught:
            Template(source)
        assert caught.value.hint == f"put a blank between: ${{ {source[2]}x }}"

    def test_a_minus_before_the_closing_brace_is_refused(self) -> None:
        assert refusal("${n -}") == "'-}' is not an end of an expression"

    def test_a_blank_between_gives_the_number(self) -> None:
        assert value("${ -n }") == -3
        assert value("${ +n }") == 3


class TestRule8RenderedOnce:
    """Rule 8: rendered text is never rendered again; `if` and `until` are boolean."""

    def test_text_that_holds_an_expression_stays_text(self, bench: Bench) -> None:
        bench.run("inputs: {q: string}\nsteps: {a: {prompt: '${inputs.q}'}, b: {prompt: '${a}!'}}", q="${1+1}{% if %}")
        assert bench.prompts[0] == "${1+1}{% if %}"

    @pytest.mark.parametrize(
        ("condition", "why"),
        [
            ("${inputs.q}", "a boolean is wanted, this is a string"),
            ("no", "a boolean is wanted, this is 'no' | YAML 1.2 knows true and false"),
            ("yes ${inputs.n}", "a boolean is wanted, this is a string"),
            ("${inputs.n}", "a boolean is wanted, this is an integer"),
        ],
    )
    def test_if_must_be_boolean(self, bench: Bench, condition: str, why: str) -> None:
        recipe = f"inputs: {{q: string, n: integer}}\nsteps:\n  a:\n    if: {condition}\n    prompt: x\n"
        assert bench.told(recipe) == [f"6:9: if: {why}"]

    def test_until_must_be_boolean(self, bench: Bench) -> None:
        told = bench.told("steps:\n  a:\n    prompt: x\n    repeat: {until: '${a.text}', max: 2}\n")
        assert told == ["6:21: until: a boolean is wanted, this is a string"]

    def test_a_condition_that_only_the_run_can_know_is_checked_there(self, bench: Bench) -> None:
        error = bench.fails("inputs: {x: any}\nsteps: {a: {if: '${inputs.x}', prompt: p}}", x="false")
        assert "`if` must be true or false, this is 'false'" in str(error)


class TestRule9OurOwnFilters:
    """Rule 9: tojson keeps `<` and é, default replaces null too, random is refused, `\\r\\n` survives."""

    def test_tojson_keeps_letters_and_angle_brackets(self) -> None:
        assert value("${ {'a': '<é>'} | tojson }") == '{"a": "<é>"}'

    def test_default_replaces_null_and_missing_keys_and_keeps_what_is_false(self) -> None:
        assert value("${nothing | default('x')}") == value("${d.zzz.y | default('x')}") == "x"
        assert value("${'' | default('x')}") == ""
        assert value("${0 | d(5)}") == 0

    @pytest.mark.parametrize("name", ["random", "shuffle", "urlize", "pprint", "xmlattr", "safe", "filesizeformat"])
    def test_filters_with_chance_or_markup_are_not_there(self, name: str) -> None:
        assert refusal(f"${{xs | {name}}}") == f"'{name}' is not a filter of recipes"

    def test_line_ends_survive(self) -> None:
        assert value("a\r\nb ${s}\r\n") == "a\r\nb text\r\n"


FILTERED = [
    ("${-5 | abs}".replace("-", " -"), 5), ("${xs | batch(2)}", [[3, 1], [2]]), ("${'ab' | capitalize}", "Ab"),
    ("${xs | count}", 3), ("${xs | first}", 3), ("${'1,000.5' | float}", 1000.5), ("${'x' | float(0)}", 0),
    ("${'a\nb' | indent(2)}", "a\n  b"), ("${'a\nb' | indent(2, true)}", "  a\n  b"), ("${' 7 ' | int}", 7),
    ("${'x' | int(default=1)}", 1), ("${ {'a': 1} | items }", [["a", 1]]), ("${xs | join('-')}", "3-1-2"),
    ("${passages | join(' ', attribute='text')}", "one two"), ("${xs | last}", 2), ("${'a\nb' | lines}", ["a", "b"]),
    ("${'ab' | list}", ["a", "b"]), ("${'AB' | lower}", "ab"), ("${passages | map('upper')}", ["ONE", "TWO"]),
    ("${passages | map(attribute='source')}", ["a.md", "b.md"]), ("${xs | max}", 3), ("${xs | min}", 1),
    ("${xs | reject('odd')}", [2]), ("${passages | rejectattr('text', 'eq', 'one') | length}", 1),
    ("${'aab' | replace('a', 'b')}", "bbb"), ("${'aab' | replace('a', 'b', 1)}", "bab"), ("${xs | reverse}", [2, 1, 3]),
    ("${1.26 | round(1)}", 1.3), ("${xs | select('gt', 1)}", [3, 2]), ("${[1, none] | select}", [1]),
    ("${passages | selectattr('text', 'eq', 'one') | length}", 1), ("${xs | sort}", [1, 2, 3]),
    ("${xs | sort(reverse=true)}", [3, 2, 1]), ("${xs | string}", "[3, 1, 2]"), ("${xs | sum}", 6),
    ("${'ab cd' | title}", "Ab Cd"), ("${xs | tojson}", "[3, 1, 2]"), ("${' a ' | trim}", "a"),
    ("${'xax' | trim('x')}", "a"), ("${'one two three' | truncate(8)}", "one…"), ("${[1, 1.0, 2] | unique}", [1, 1.0, 2]),
    ("${'ab' | upper}", "AB"), ("${'a b' | wordcount}", 2), ("${answer | upper}", "FORTY-TWO"),
    ("${answer == 'forty-two'}", True), ("${answer in ['forty-two']}", True), ("${'fo' in answer}", True),
    ("${2 in xs and 9 not in xs}", True), ("${1 < 2 < 3}", True), ("${7 // 2}", 3), ("${7 % 4}", 3), ("${7 / 2}", 3.5),
    ("${xs[1:]}", [1, 2]), ("${'abc'[::-1]}", "cba"), ("${xs[-1]}", 2), ("${'a' ~ 1 ~ xs}", "a1[3, 1, 2]"),
    ("${'a' if n > 2 else 'b'}", "a"), ("${'a' if n > 5}", None), ("${nothing or 'x'}", "x"), ("${not nothing}", True),
    ("${zzz is defined}", False), ("${d.a.b is defined}", True), ("${n is number and s is string}", True),
    ("${d is mapping and xs is sequence}", True), ("${n is odd}", True), ("${n is divisibleby 3}", True),
    ("${nothing is none}", True), ("${true is boolean}", True), ("${n is integer}", True), ("${n is in(xs)}", True),
    ("${n is ge(3) and n is le(3) and n is lt(4) and n is ne(2)}", True), ("${xs is false}", False),
]  # fmt: skip


@pytest.mark.parametrize(("source", "expected"), FILTERED)
def test_every_filter_test_and_operator_gives_what_it_says(source: str, expected: Any) -> None:
    assert value(source) == expected


REFUSED = [
    ("${s | join}", "join takes a list, this is a str"), ("${xs | upper}", "upper takes text, this is a list"),
    ("${nothing | upper}", "upper takes text, this is null"), ("${s | abs}", "abs takes a number, this is a str"),
    ("${xs | items}", "items takes a mapping, this is a list"), ("${xs | batch(0)}", "batch: size is 1 or more"),
    ("${s | indent(101)}", "indent: width is from 0 to 100"), ("${s | replace(n, n)}", "replace: a string is wanted, this is 3"),
    ("${xs | sort(attribute=n)}", "sort: a string is wanted, this is 3"), ("${[] | max}", "max: the list is empty"),
    ("${[1, 'a'] | sort}", "sort: these cannot be compared: '<' not supported between instances of 'str' and 'int'"),
    ("${[1, 'a'] | min}", "min: these cannot be compared: '<' not supported between instances of 'str' and 'int'"),
    ("${['a'] | sum}", "sum: all items must be numbers"), ("${n | length}", "length: a int has none"),
    ("${n | list}", "list: a int is no list"), ("${xs | map}", "map: give a filter's name, or attribute="),
    ("${'x' | int}", "int: 'x' is no whole number; give a default: int(default=0)"),
    ("${'nan' | float}", "float: 'nan' is no number; give a default: float(default=0)"),
    ("${xs | select('gt', 'a')}", "gt: these cannot be compared: '>' not supported between instances of 'int' and 'str'"),
    ("${[1][5]}", "there is no item 5: there are 1"), ("${nothing.x}", "null has no field 'x'"),
    ("${n < s}", "int and str cannot be compared so"), ("${nothing < 1}", "null and int cannot be compared so"),
    ("${1 / 0}", "division by zero"), ("${ -s }", "a sign works on numbers only"),
    ("${xs[::0]}", "the step of a slice is not 0"), ("${n[1:]}", "only a text or a list can be cut, by whole numbers"),
    ("{% for x in n %}{% endfor %}", "a loop needs a list"),
    ("{% for a, b in xs %}{% endfor %}", "this loop takes 2 values a turn"),
    ("${'a' ~ nothing}", "this is null, and null has no text: use `default`, or a condition"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "message"), REFUSED)
def test_every_filter_and_operator_refuses_what_it_cannot_do(source: str, message: str) -> None:
    assert refusal(source) == message
