"""The recipe language, rules 27 to 29: YAML 1.2 without surprises, and positions exact to the column."""
# ruff: noqa: E501  (a table of cases reads best with a case on a line)

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from gristmill._language._diagnostics import Diagnostic
from gristmill._language._yaml import MapNode, Scalar, YamlDocument, parse_yaml

if TYPE_CHECKING:
    from tests.unit.conftest import Bench


def parsed(text: str | bytes) -> YamlDocument:
    return parse_yaml("r.yaml", text if isinstance(text, bytes) else text.encode())


def told(text: str | bytes) -> list[str]:
    document = parsed(text)
    found = [*document.diagnostics, *document.ambiguous.values()]
    return [f"{d.line}:{d.column}: {d.message}" + (f" | {d.hint}" if d.hint else "") for d in found]


class TestRule27Yaml12:
    """Rule 27: YAML 1.2 core schema on composed nodes; `<<` is refused; aliases are reported once, at the anchor."""

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("no", "no"), ("off", "off"), ("on", "on"), ("yes", "yes"), ("12:30", "12:30"), ("1:30:45", "1:30:45"),
            ("2024-01-01", "2024-01-01"), ("010", 10), ("0o17", 15), ("0x1F", 31), ("1_000", "1_000"), ("0b11", "0b11"),
            ("1e3", 1000.0), ("1.", 1.0), (".5", 0.5), ("-1.5E-3", -0.0015), ("+7", 7), ("true", True), ("TRUE", True),
            ("tRUE", "tRUE"), ("null", None), ("~", None), ("", None), ("NULL", None), ("nUll", "nUll"), ("1.2.3", "1.2.3"),
            ("=", "="), ("'no'", "no"), ('"1"', "1"), ("-", "-"), ("1e", "1e"), ("e5", "e5"),
        ],
    )  # fmt: skip
    def test_scalars_are_read_by_the_core_schema(self, text: str, value: object) -> None:
        root = parsed(f"a: {text}\n").root if text != "-" else parsed("a: '-'").root
        assert isinstance(root, MapNode)
        node = root.get("a")
        assert isinstance(node, Scalar)
        assert node.value == value
        assert type(node.value) is type(value)

    @pytest.mark.parametrize(
        ("text", "reading"),
        [
            ("off", "text in YAML 1.2, but false"), ("YES", "text in YAML 1.2, but true"),
            ("010", "a number in YAML 1.2, but an octal number"), ("0b11", "text in YAML 1.2, but a binary number"),
            ("1:30", "text in YAML 1.2, but a number to base 60"), ("1_000", "text in YAML 1.2, but a number"),
            ("2024-01-01", "text in YAML 1.2, but a date"),
        ],
    )  # fmt: skip
    def test_what_yaml_1_1_reads_otherwise_is_a_warning(self, text: str, reading: str) -> None:
        assert told(f"a: {text}") == [f"1:4: {text!r} is {reading} to YAML 1.1 tools | quote it if text is meant"]
        assert told(f"a: '{text}'") == []

    def test_cache_off_is_no_surprise(self, bench: Bench) -> None:
        assert bench.told("steps: {a: {prompt: x, cache: off}}", warnings=True) == []

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a: 1\na: 2\n", "2:1: the key 'a' stands twice | first on line 1"),
            ("a: &x {b: 1}\nc:\n  <<: *x\n", "3:3: merge keys (<<) are not part of YAML 1.2 | write it out"),
            ("1: x\n", "1:1: a key is text, this is '1' | quote it"),
            ("true: x\n", "1:1: a key is text, this is 'true' | quote it"),
            ("[a]: x\n", "1:1: a key is text, this is a list or mapping | quote it"),
            ("a: {{ x }} and\n", "1:4: {{ }} is not an expression here | write ${name}"),
            ("a: {{ x }}\n", "1:4: {{ }} is not an expression here | write ${name}"),
            ("a: !!python/object/apply:os.system [ls]\n",
             "1:4: the tag 'tag:yaml.org,2002:python/object/apply:os.system' is not part of recipes | leave it out"),
            ("a: !!binary aGk=\n", "1:4: the tag 'tag:yaml.org,2002:binary' is not part of recipes | leave it out"),
            ("a: .inf\n", "1:4: '.inf' is not a finite number"), ("a: 1e999\n", "1:4: '1e999' is not a finite number"),
            ("a: 1000000000000000000\n", "1:4: this number is too large | quote it if text is meant"),
            ("a: *b\n", "1:4: no anchor &b stands before this"),
            ("a: &b [*b]\n", "1:8: *b stands inside what it names"),
            ("a: &b 1\nc: &b 2\n", "2:4: the anchor &b is set twice"),
            ("a: 1\n---\nb: 2\n", "2:1: a second document | one per file"),
            (b"\xff\xfea\x00", "1:1: the file is UTF-16 | save it as UTF-8"),
            (b"a: \xe9\n", "1:1: the file is not UTF-8 (byte 3) | save it as UTF-8"),
            ("a: b\x07\n", '1:5: the character U+0007 cannot stand in YAML | in a double-quoted text write it as "\\u0007"'),
            ("a: b\x85c\n", "1:5: the character U+0085 ends a line for some YAML tools and not for others | in a double-quoted text write it as \"\\u0085\""),
            ("- " * 52, "1:103: nested deeper than 50 levels"),
            (b"a: " + b"x" * 1_000_001, "1:1: the file has 1,000,004 bytes, the most is 1,000,000"),
        ],
    )  # fmt: skip
    def test_every_trap_has_its_message_and_place(self, text: str | bytes, message: str) -> None:
        assert told(text) == [message]

    def test_a_mistake_under_an_anchor_is_told_once_at_the_anchor(self, bench: Bench) -> None:
        steps = "steps:\n  a: &x\n    prompt: ${nobody}\n  b: *x\noutput: ['${a}', '${b}']\n"
        assert bench.told(steps) == [
            "5:15: 'nobody' is not a step, an input or a loop variable here | there is: a, b, inputs"
        ]

    @pytest.mark.parametrize(
        "bomb",
        [
            "a0: &a0 [x, x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}, *a{i}]\n" for i in range(30)),
            "a0: &a0 {k: v}\n" + "".join(f"a{i + 1}: &a{i + 1} {{x: *a{i}, y: *a{i}}}\n" for i in range(40)),
        ],
    )
    def test_an_alias_bomb_is_refused_at_once(self, bomb: str) -> None:
        started = time.process_time()
        assert "aliases add more than 50,000 values to this file" in told(bomb)[0]
        assert time.process_time() - started < 1


class TestRule28Advice:
    """Rule 28: where `${x}` needs quotes, `check` says so in the author's words."""

    @pytest.mark.parametrize(
        ("text", "place", "advice"),
        [
            ("a: {b: ${x}}\n", (1, 8), 'inside { } and [ ] an expression needs quotes: "${...}"'),
            ("a: [${x}, 1]\n", (1, 5), 'inside { } and [ ] an expression needs quotes: "${...}"'),
            ("a: Note: read this\n", (1, 8), "a text that holds ': ' needs quotes, or a block: write `|` and put it on the next line"),
            ("a: {% if x %}\n", (1, 5), "a text that begins so needs a block: write `|` and put it on the next line"),
            ("a: @home\n", (1, 4), "a text that begins so needs a block: write `|` and put it on the next line"),
            ("a: `code`\n", (1, 4), "a text that begins so needs a block: write `|` and put it on the next line"),
            ("a: {{ x\n", (2, 1), "expressions are ${name} here, not {{ name }}"),
            ("a: ${ {'b': 1}.b }\n", (1, 11), "a text that holds ': ' needs quotes, or a block: write `|` and put it on the next line"),
            ("a:\n\tb: 1\n", (2, 1), "indent with blanks, not tabs"),
        ],
    )  # fmt: skip
    def test_the_parsers_own_errors_become_advice(self, text: str, place: tuple[int, int], advice: str) -> None:
        (error,) = parsed(text).diagnostics
        assert error.message.startswith("this is not YAML: ")
        assert error.hint == advice
        assert (error.line, error.column) == place

    def test_a_prompt_that_loses_its_end_to_a_comment_is_a_warning(self, bench: Bench) -> None:
        assert bench.told("inputs: {q: string}\nsteps:\n  a:\n    prompt: Fix issue #${inputs.q}\n", warnings=True) == [
            "6:23: YAML takes this for a comment: the value ends before it | quote the whole value if this belongs to it"
        ]

    @pytest.mark.parametrize("text", ["a: x # plain\n", "a: 'x' # ${y}\n", "a: b#${x}\n", "a: |\n  # ${x}\n"])
    def test_other_comments_are_left_alone(self, text: str) -> None:
        assert told(text) == []

    @pytest.mark.parametrize("text", ["a: ${x}\n", "a: ${ {'b':1}.b }\n", "a: ${x | join(', ')} end\n", "- ${x}\n"])
    def test_a_plain_block_value_needs_no_quotes(self, text: str) -> None:
        assert told(text) == []


class TestRule29Positions:
    """Rule 29: a mistake is shown at its very column, in every style of scalar."""

    @pytest.mark.parametrize("mark", ["", "\ufeff"])
    @pytest.mark.parametrize(
        "scalar",
        [
            "${nobody}", "'it''s ${nobody}'", '"a\\n\\t\\u00e9\\U0001F600\\"\\\\ ${nobody}"', '"a \\n b \\x20 ${nobody}"',
            "&anchor ${nobody}", "😀 ${nobody}", "|\n    é ${nobody}\n", "|+2\n    é ${nobody}\n",
            ">-  # folded\n    one\n    two\n\n    ${nobody}\n", "one\n    two\n    ${nobody}\n",
            "'one\n\n    two ${nobody}'\n", '"one \\\n    \\  two ${nobody}"\n', "|\r\n    x\r\n    ${nobody}\r\n",
            "|\n    x\n    \t${nobody}\n", "&a |-\r    x\r    ${nobody}",
        ],
    )  # fmt: skip
    def test_a_caret_stands_under_the_name(self, bench: Bench, scalar: str, mark: str) -> None:
        (error,) = bench.checked(f"{mark}version: 1\nsteps: {{a: {{use: tools.talk}}}}\noutput: {scalar}").errors
        source = error.source
        assert source[error.column - 1 :].startswith("nobody}")
        assert source[: error.column - 1].endswith("${")
        assert error.width == len("nobody")

    def test_editors_get_utf_16_columns(self, bench: Bench) -> None:
        (error,) = bench.checked("version: 1\nsteps: {a: {use: tools.talk}}\noutput: 😀 ${nobody}\n").errors
        assert error.column == 13
        assert error.as_json()["utf16_column"] == 14

    def test_a_mistake_in_an_escape_is_shown_at_the_escape(self, bench: Bench) -> None:
        told = bench.told("steps:\n  a:\n    prompt: \"x ${'\\\\ud800'}\"\n")
        assert told == ["5:19: there is no such character"]


class TestRendering:
    """A diagnostic is printed as compilers do, whatever the line holds."""

    def test_the_line_and_a_caret_follow_the_message(self, bench: Bench) -> None:
        (error,) = bench.checked("version: 1\nsteps: {a: {use: tools.ecko}}\n").errors
        head, *rest = error.render().split("\n")
        assert head.endswith("r.yaml:2:18: error: 'tools.ecko' is not a function of plugin 'tools'")
        assert rest == [
            "  |",
            "2 | steps: {a: {use: tools.ecko}}",
            "  |                  ^^^^^^^^^^ did you mean 'tools.echo'?",
        ]

    @pytest.mark.parametrize(
        ("source", "column", "pad"),
        [("日本 x", 4, "     "), ("\tx", 2, "\t"), ("e\u0301 x", 4, "  "), ("plain x", 7, "      ")],
    )
    def test_the_caret_stands_under_wide_combining_and_tab_characters(self, source: str, column: int, pad: str) -> None:
        shown = Diagnostic("r.yaml", 1, column, 1, "error", "x", "m", "", source).render()
        assert shown.split("\n")[-1] == f"  | {pad}^"

    def test_a_very_long_line_is_cut_around_the_place(self) -> None:
        shown = Diagnostic("r.yaml", 1, 5001, 3, "error", "x", "m", "", "a" * 5000 + "bbb" + "c" * 5000).render()
        line, caret = shown.split("\n")[2:]
        assert len(line) < 200
        assert line[caret.index("^") :].startswith("bbb")

    def test_control_characters_are_not_sent_to_the_terminal(self) -> None:
        shown = Diagnostic("r.yaml", 1, 1, 1, "error", "x", "m", "", "a\x1b[31m").render()
        assert "\x1b" not in shown

    def test_github_annotations_escape_their_text(self) -> None:
        diagnostic = Diagnostic("r.yaml", 3, 4, 1, "warning", "x", "50% of\nit", "do it", "")
        assert diagnostic.as_github() == "::warning file=r.yaml,line=3,col=4::50%25 of%0Ait. do it"
        assert diagnostic.render() == "r.yaml:3:4: warning: 50% of\nit\n  do it"

    def test_a_file_full_of_mistakes_is_told_up_to_a_limit(self, bench: Bench) -> None:
        recipe = bench.checked(
            "version: 1\nsteps:\n" + "".join(f"  s{i}: {{prompt: '${{t{i}}}'}}\n" for i in range(3000))
        )
        assert len(recipe.errors) == 200


TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\n\t \"'\\#:{}[]-?!&*|>%@`$é😀"), max_size=40
)


def written(value: str, style: str, indent: int) -> str:
    """Return YAML that holds `value` in one style, broken over lines where the emitter likes to."""
    dumped = yaml.dump({"k": value}, default_style=style or None, allow_unicode=True, width=15, indent=indent)
    return str(dumped)


@settings(max_examples=300, deadline=None)
@given(TEXT, st.sampled_from(["", "'", '"', "|", ">"]), st.integers(2, 6), st.booleans(), st.booleans(), st.booleans())
@example('a"\\b', '"', 2, True, True, False)
@example("a \n b", '"', 2, False, False, False)
@example("😀\n\n x\n", "|", 4, True, False, True)
def test_locate_leads_from_each_character_of_a_value_to_that_character_of_the_file(
    value: str, style: str, indent: int, mark: bool, crlf: bool, anchored: bool
) -> None:
    text = written(value, style, indent)
    assume("? " not in text[:2])
    if anchored and text.startswith("k: "):
        text = "k: &name " + text[3:]
    if crlf:
        text = text.replace("\n", "\r\n")
    document = parse_yaml("r.yaml", text.encode("utf-8-sig" if mark else "utf-8"))
    if document.diagnostics:  # a character that recipes refuse
        return
    assert isinstance(document.root, MapNode)
    node = document.root.get("k")
    assert isinstance(node, Scalar)
    positions = [document.locate(node, offset) for offset in range(len(node.text) + 1)]
    assert positions == sorted(positions)
    for offset, char in enumerate(node.text):
        if not char.isspace():
            at = document.source.text[positions[offset] : positions[offset] + 10]
            assert _begins_with(at, char, node.style), (char, at)


def _begins_with(raw: str, char: str, style: str) -> bool:
    if style == '"' and raw.startswith("\\"):
        width = {"x": 4, "u": 6, "U": 10}.get(raw[1], 2)
        return bool(yaml.safe_load(f'"{raw[:width]}"') == char)
    return raw.startswith("''" if style == "'" and char == "'" else char)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60) | st.text(alphabet="{}[]:,-?|>&*!%#'\"\n\t a1${}", max_size=60))
def test_no_text_makes_the_parser_raise(text: str) -> None:
    document = parse_yaml("r.yaml", text.encode("utf-8", "surrogatepass"))
    assert all(d.render() and json.dumps(d.as_json()) for d in document.diagnostics)
