"""Grammars made from schemas and patterns: what they accept is valid, and what they should accept they do.

`Gbnf` below is a second reading of llama.cpp's grammar language, small enough to be believed: it generates random
texts of a grammar and tells whether a grammar accepts a text.
"""

from __future__ import annotations

import ipaddress
import json
import random
import re
import uuid
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from gristmill.schemas import jsonschema as _jsonschema
from gristmill.schemas import regex as _regex
from gristmill_plugins.llama._grammar import regex_to_gbnf, to_gbnf

TOKEN = re.compile(r'\s*(?:(?P<name>[a-z][a-z0-9-]*)|(?P<text>"(?:[^"\\]|\\.)*")|(?P<set>\[(?:[^\]\\]|\\.)*\])'
                   r"|(?P<repeat>\{\d+(?:,\d*)?\}|[*+?])|(?P<mark>[()|]))")  # fmt: skip
ESCAPE = re.compile(r"\\(?:x(..)|u(....)|U(........)|(.))")


class Gbnf:
    """A grammar as nested tuples: ("any", options), ("all", parts), ("repeat", part, low, high), ("set", ranges)."""

    def __init__(self, grammar: str) -> None:
        self.rules: dict[str, Any] = {}
        for line in grammar.rstrip("\n").split("\n"):
            name, body = line.split(" ::= ", 1)
            tokens: list[tuple[str, str]] = []
            while body.strip():
                match = TOKEN.match(body)
                assert match, body
                assert match.lastgroup, body
                tokens.append((match.lastgroup, match.group(match.lastgroup)))
                body = body[match.end() :]
            tokens.reverse()
            self.rules[name] = self.options(tokens)
            assert not tokens, line

    def options(self, tokens: list[tuple[str, str]]) -> Any:
        found = [self.parts(tokens)]
        while tokens and tokens[-1] == ("mark", "|"):
            tokens.pop()
            found.append(self.parts(tokens))
        return ("any", found)

    def parts(self, tokens: list[tuple[str, str]]) -> Any:
        found: list[Any] = []
        while tokens and tokens[-1] not in (("mark", "|"), ("mark", ")")):
            kind, text = tokens.pop()
            if kind == "name":
                found.append(("rule", text))
            elif kind == "text":
                found.append(("text", unescaped(text[1:-1])))
            elif kind == "set":
                found.append(("set", ranges(text[1:-1])))
            elif kind == "repeat":
                found[-1] = ("repeat", found[-1], *bounds(text))
            else:
                found.append(self.options(tokens))
                assert tokens.pop() == ("mark", ")")
        return ("all", found)

    def sample(self, chance: random.Random) -> str:
        return self._sample(("rule", "root"), chance)

    def _sample(self, node: Any, chance: random.Random) -> str:
        kind = node[0]
        if kind == "rule":
            return self._sample(self.rules[node[1]], chance)
        if kind == "text":
            return str(node[1])
        if kind == "set":
            low, high = chance.choice(node[1])
            return chr(chance.choice([low, high, chance.randint(low, high)]))
        if kind == "any":
            return self._sample(chance.choice(node[1]), chance)
        if kind == "all":
            return "".join(self._sample(part, chance) for part in node[1])
        _, part, low, high = node
        most = low + 3 if high is None else high
        count = chance.choice([low, min(most, low + 1), chance.randint(low, min(most, low + 8)), min(most, low + 30)])
        return "".join(self._sample(part, chance) for _ in range(count))

    def accepts(self, text: str) -> bool:
        return len(text) in self._ends(("rule", "root"), text, 0, {})

    def _ends(self, node: Any, text: str, start: int, known: dict[Any, set[int]]) -> set[int]:
        key = (id(node) if node[0] != "rule" else node[1], start)
        if key not in known:
            known[key] = set()  # not left-recursive, so nobody asks for it while it is worked out
            known[key] = set(self._find_ends(node, text, start, known))
        return known[key]

    def _find_ends(self, node: Any, text: str, start: int, known: dict[Any, set[int]]) -> Iterator[int]:
        kind = node[0]
        if kind == "rule":
            yield from self._ends(self.rules[node[1]], text, start, known)
        elif kind == "text":
            if text.startswith(node[1], start):
                yield start + len(node[1])
        elif kind == "set":
            if start < len(text) and any(low <= ord(text[start]) <= high for low, high in node[1]):
                yield start + 1
        elif kind == "any":
            for option in node[1]:
                yield from self._ends(option, text, start, known)
        elif kind == "all":
            places = {start}
            for part in node[1]:
                places = {end for place in places for end in self._ends(part, text, place, known)}
            yield from places
        else:
            _, part, low, high = node
            places, done = {start}, 0
            if low == 0:
                yield start
            while places and (high is None or done < high):
                places = {end for place in places for end in self._ends(part, text, place, known)}
                done += 1
                if done >= low:
                    yield from places
                if done > len(text) + low:
                    return


def unescaped(text: str) -> str:
    plain = {"n": "\n", "r": "\r", "t": "\t"}

    def one(match: re.Match[str]) -> str:
        code = match[1] or match[2] or match[3]
        return chr(int(code, 16)) if code else plain.get(match[4], match[4])

    return ESCAPE.sub(one, text)


def ranges(text: str) -> list[tuple[int, int]]:
    found = []
    pieces = re.findall(r"(\\(?:x..|u....|U........|.)|[^\\])(?:-(\\(?:x..|u....|U........|.)|[^\\]))?", text)
    for low, high in pieces:
        found.append((ord(unescaped(low)), ord(unescaped(high or low))))
    return found


def bounds(text: str) -> tuple[int, int | None]:
    if text in "*+?":
        return {"*": (0, None), "+": (1, None), "?": (0, 1)}[text]
    low, comma, high = text[1:-1].partition(",")
    return int(low), int(high) if high else None if comma else int(low)


def grammar_of(schema: Any) -> Gbnf:
    assert _jsonschema.problems(schema) == []
    return Gbnf(to_gbnf(schema))


def validator(schema: Any) -> Draft202012Validator:
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)


# -- every text of a grammar is JSON and validates ------------------------------------------------------------------

PATTERNS = [
    r"^\d{3}-\d{4}$", r"[a-z]+", r"^(?:yes|no|maybe)$", r"^[^\"\\]{2,5}$", r".{1,8}", r"\w+(?: \w+){0,3}", r"\S*",
    r"^[A-Z][a-z]{0,9}\.$", r"a*b?c+", r"[\s\S]{0,4}", r"\W\D?", "^\\\\\"\t\n$", r"^$|^x$", r"[^\d\s]{1,3}",
    r"(a|b(c|d))+",
]  # fmt: skip
NAMES = st.one_of(st.sampled_from(["name", "age", "é", 'a"b', "back\\slash", "", "type"]), st.text(max_size=4)).filter(
    lambda name: not any(0xD800 <= ord(character) < 0xE000 for character in name)
)
LITERALS = st.one_of(
    st.none(), st.booleans(), st.integers(-9, 9), st.floats(-5, 5), NAMES, st.lists(st.integers(0, 3), max_size=2)
)


@st.composite
def string_schemas(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["plain", "pattern", "format"]))
    if kind == "pattern":
        return {"type": "string", "pattern": draw(st.sampled_from(PATTERNS))}
    if kind == "format":
        return {"type": "string", "format": draw(st.sampled_from(sorted(_jsonschema.FORMATS)))}
    low = draw(st.integers(0, 4))
    return {"type": "string"} | draw(
        st.sampled_from([{}, {"minLength": low}, {"maxLength": low}, {"minLength": low, "maxLength": low + 3}])
    )


@st.composite
def number_schemas(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["integer", "number"]))
    values = st.one_of(st.integers(-2000, 2000), st.floats(-50, 50), st.sampled_from([0, 0.1, -0.5, 1e-7, 10**18, 99]))
    schema: dict[str, Any] = {"type": kind}
    for keys in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if draw(st.booleans()):
            schema[draw(st.sampled_from(keys))] = draw(values)
    return schema


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    @st.composite
    def arrays(draw: st.DrawFn) -> dict[str, Any]:
        low = draw(st.integers(0, 3))
        schema: dict[str, Any] = {"type": "array"}
        if draw(st.booleans()):
            schema["items"] = draw(st.one_of(inner, st.just(True), st.just(False)))
        if draw(st.booleans()):
            schema["prefixItems"] = draw(st.lists(inner, min_size=1, max_size=3))
        if draw(st.booleans()):
            schema["minItems"] = low
        if draw(st.booleans()):
            schema["maxItems"] = low + draw(st.integers(0, 3))
        return schema

    @st.composite
    def objects(draw: st.DrawFn) -> dict[str, Any]:
        properties = draw(st.dictionaries(NAMES, inner, max_size=4))
        required = [name for name in properties if draw(st.booleans())]
        extra = draw(st.sampled_from([True, False, None, {"type": "integer"}]))
        return {"type": "object", "properties": properties, "required": required} | (
            {} if extra is None else {"additionalProperties": extra}
        )

    return st.one_of(arrays(), objects(), st.lists(inner, min_size=1, max_size=3).map(lambda each: {"anyOf": each}))


SCALARS = st.one_of(
    string_schemas(),
    number_schemas(),
    st.lists(LITERALS, min_size=1, max_size=4).map(lambda values: {"enum": values}),
    LITERALS.map(lambda value: {"const": value}),
    st.lists(st.sampled_from(_jsonschema.TYPES), min_size=1, max_size=3).map(lambda kinds: {"type": kinds}),
    st.sampled_from([{}, {"type": "boolean"}, {"type": "null"}, {"title": "any"}, {"$ref": "#/$defs/shared"}]),
)
SCHEMAS = st.recursive(SCALARS, containers, max_leaves=6)


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(schema=SCHEMAS, shared=SCALARS, seed=st.integers(0, 2**32))
def test_what_a_schemas_grammar_generates_parses_and_validates(schema: Any, shared: Any, seed: int) -> None:
    schema = {**schema, "$defs": {"shared": shared}}
    if _jsonschema.problems(schema):
        return
    grammar, check = Gbnf(to_gbnf(schema)), validator(schema)
    chance = random.Random(seed)
    for _ in range(12):
        text = grammar.sample(chance)
        value = json.loads(text)
        check.validate(value)
        text.encode()
        assert not re.search(r"[\x00-\x1f]|  ", re.sub(r'"(?:[^"\\]|\\.)*"', "", text)), text
        if len(text) < 200:
            assert grammar.accepts(text)


@pytest.mark.parametrize("schema", [{"type": kind} for kind in _jsonschema.TYPES] + [{}, {"additionalProperties": {}}])
def test_every_type_generates_json_of_that_type(schema: Any) -> None:
    grammar, chance = grammar_of(schema), random.Random(1)
    for _ in range(200):
        validator(schema).validate(json.loads(grammar.sample(chance)))


@pytest.mark.parametrize("name", sorted(_jsonschema.FORMATS))
def test_a_format_generates_nothing_outside_it(name: str) -> None:
    grammar, chance = grammar_of({"type": "string", "format": name}), random.Random(2)
    for _ in range(500):
        value = json.loads(grammar.sample(chance))
        validator({"format": name}).validate(value)
        if name in ("date", "date-time"):
            datetime.fromisoformat(value)
        if name == "time":
            datetime.fromisoformat(f"2000-01-01T{value}")
        if name == "uuid":
            assert str(uuid.UUID(value)) == value
        if name == "ipv4":
            ipaddress.IPv4Address(value)
        if name == "email":
            assert re.fullmatch(r"[\w+.-]+@[A-Za-z0-9-]+(\.[A-Za-z]+)+", value, re.ASCII)


@pytest.mark.parametrize(
    ("name", "accepted", "refused"),
    [
        ("date", ["2024-02-29", "2000-02-29", "1999-12-31"], ["2023-02-29", "1900-02-29", "2024-02-30", "2024-13-01"]),
        ("time", ["23:59:59Z", "00:00:00.5+05:30"], ["24:00:00Z", "12:00:00", "12:60:00Z"]),
        ("date-time", ["2024-02-29T10:00:00Z"], ["2023-02-29T10:00:00Z", "2024-02-28 10:00:00Z"]),
        ("email", ["a.b+c@d-e.org"], ["a@b", ".a@b.org", "a@-b.org", "a@b-.org", "a b@c.org"]),
        ("ipv4", ["0.0.0.0", "255.255.255.255"], ["256.0.0.1", "01.0.0.1", "1.2.3"]),
        ("uuid", ["0" * 8 + "-0000-0000-0000-" + "f" * 12], ["0" * 32]),
    ],
)
def test_a_format_accepts_its_ordinary_values(name: str, accepted: list[str], refused: list[str]) -> None:
    grammar = grammar_of({"format": name})
    assert all(grammar.accepts(json.dumps(text)) for text in accepted)
    assert not any(grammar.accepts(json.dumps(text)) for text in refused)


# -- and what should be accepted is --------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(bounds=st.tuples(st.integers(-3000, 3000), st.integers(0, 3000)), value=st.integers(-7000, 7000))
def test_an_integers_grammar_accepts_exactly_what_lies_within_its_bounds(bounds: tuple[int, int], value: int) -> None:
    low, high = bounds[0], bounds[0] + bounds[1]
    within = grammar_of({"type": "integer", "minimum": low, "maximum": high})
    assert within.accepts(str(value)) == (low <= value <= high)
    assert within.accepts(str(low))
    assert within.accepts(str(high))
    assert not within.accepts("-0")
    assert not within.accepts(f"0{abs(value)}")


DECIMALS = st.decimals(-40, 40, places=3)


@settings(max_examples=300, deadline=None)
@given(
    low=DECIMALS, width=st.decimals(0, 60, places=3), value=st.decimals(-110, 110, places=4), open_ends=st.booleans()
)
def test_a_numbers_grammar_accepts_exactly_what_lies_within_its_bounds(
    low: Decimal, width: Decimal, value: Decimal, open_ends: bool
) -> None:
    high = low + width
    keys = ("exclusiveMinimum", "exclusiveMaximum") if open_ends else ("minimum", "maximum")
    schema = {"type": "number", keys[0]: float(low), keys[1]: float(high)}
    if _jsonschema.problems(schema):
        assert open_ends
        assert width == 0
        return
    grammar = Gbnf(to_gbnf(schema))
    for number in (value, low, high, low + Decimal("0.0001"), high - Decimal("0.0001")):
        inside = low < number < high if open_ends else low <= number <= high
        if not number.is_signed() or number:
            assert grammar.accepts(f"{number:f}") == inside, f"{number:f}"
    chance = random.Random(3)
    for _ in range(5):
        validator(schema).validate(json.loads(grammar.sample(chance)))


@pytest.mark.parametrize(
    ("bounds", "accepted", "refused"),
    [
        ({}, ["0", "-0.5", "1e9", "123456789012345"], ["01", ".5", "1.", "+1", "1e999", "9" * 20]),
        ({"minimum": 0, "maximum": 1}, ["0", "1", "0.5", "1.0", "0.999999"], ["1.1", "-0", "2", "1e0", "-0.1"]),
        ({"exclusiveMaximum": 10**13}, ["9999999999999.9", "-5.5"], ["9999999999999.99", "10000000000000"]),
        ({"type": "integer", "minimum": 10**20}, [str(10**20), str(10**21 - 1)], ["0", str(10**20 - 1)]),
        ({"type": "integer", "maximum": -(10**20)}, [str(-(10**20))], ["0", str(-(10**20) + 1)]),
        ({"exclusiveMinimum": 0}, ["0.000001", "3"], ["0", "0.0", "-1"]),
        ({"minimum": 1e-9, "maximum": 2e-9}, ["0.0000000015", "0.000000001"], ["0.00000000099", "0"]),
        ({"minimum": 0.1, "maximum": 0.1}, ["0.1", "0.10"], ["0.11", "0.09", "0"]),
    ],
    ids=str,
)
def test_bounds_of_numbers(bounds: dict[str, Any], accepted: list[str], refused: list[str]) -> None:
    grammar = grammar_of({"type": "number", **bounds})
    assert [text for text in accepted if not grammar.accepts(text)] == []
    assert [text for text in refused if grammar.accepts(text)] == []


def test_properties_come_in_the_schemas_order_and_optional_ones_may_be_left_out() -> None:
    properties = {name: {"type": "integer"} for name in "abc"}
    grammar = grammar_of({"properties": properties, "required": ["b"]})
    assert grammar.accepts('{"a":1,"b":2,"c":3}')
    assert grammar.accepts('{"a": 1, "b": 2, "c": 3}')
    assert grammar.accepts('{"b":2}')
    assert grammar.accepts('{"b":2, "c":3}')
    for text in ('{"a":1}', '{"b":2,"a":1}', "{}", '{"b":2,}', '{,"b":2}', '{"b":2,"b":2}', '{"b":2,"d":1}'):
        assert not grammar.accepts(text)
    optional = grammar_of({"properties": properties})
    for text in ("{}", '{"a":1}', '{"c":1}', '{"a":1,"c":3}', '{"a":1,"b":2,"c":3}'):
        assert optional.accepts(text)
    assert not optional.accepts('{"c":1,"a":1}')


def test_white_space_is_one_space_behind_commas_and_colons_or_none() -> None:
    grammar = grammar_of({"properties": {"a": {"items": {"type": "null"}}}, "required": ["a"]})
    assert grammar.accepts('{"a": [null, null,null]}')
    for text in ('{"a":  []}', '{ "a":[]}', '{"a":[] }', '{"a" :[]}', '{"a":[null ,null]}', '{"a":\n[]}', ' {"a":[]}'):
        assert not grammar.accepts(text)


def test_lists_have_the_lengths_they_should() -> None:
    def lengths(**schema: Any) -> list[int]:
        grammar = grammar_of({"type": "array", "items": {"const": 0}, **schema})
        return [n for n in range(7) if grammar.accepts(json.dumps([0] * n))]

    assert lengths() == [0, 1, 2, 3, 4, 5, 6]
    assert lengths(minItems=2) == [2, 3, 4, 5, 6]
    assert lengths(maxItems=0) == [0]
    assert lengths(maxItems=1) == [0, 1]
    assert lengths(minItems=2, maxItems=4) == [2, 3, 4]
    assert lengths(minItems=3, maxItems=3) == [3]
    tuples = {"prefixItems": [{"const": 0}, {"const": 0}]}
    assert lengths(**tuples) == [0, 1, 2, 3, 4, 5, 6]
    assert lengths(**tuples, minItems=1, maxItems=4) == [1, 2, 3, 4]
    assert lengths(**tuples, items=False) == [0, 1, 2]
    assert lengths(**tuples, items=False, minItems=2) == [2]
    assert lengths(**tuples, maxItems=1) == [0, 1]
    assert lengths(**tuples, minItems=5) == [5, 6]


def test_a_tuples_items_follow_their_own_schemas() -> None:
    schema = {"prefixItems": [{"type": "integer"}, {"const": "a"}], "items": {"type": "null"}, "minItems": 2}
    grammar = grammar_of(schema)
    assert grammar.accepts('[1, "a"]')
    assert grammar.accepts('[1,"a",null,null]')
    assert not grammar.accepts('["a",1]')
    assert not grammar.accepts("[1]")


def test_texts_have_the_lengths_they_should_counted_in_code_points() -> None:
    grammar = grammar_of({"type": "string", "minLength": 2, "maxLength": 3})
    for text in ("ab", "abc", "é\U0001f600", 'a"', "a\\", "\n\t\r"):
        assert grammar.accepts(json.dumps(text, ensure_ascii=False))
    for text in ("a", "abcd", "", "é\U0001f600ab"):
        assert not grammar.accepts(json.dumps(text, ensure_ascii=False))


def test_texts_hold_no_control_characters_surrogates_or_other_escapes() -> None:
    grammar = grammar_of({"type": "string"})
    for text in (
        '"\x00"',
        '"\x1f"',
        '"\n"',
        '"\x7f"',
        '"\x85"',
        '"\ud800"',
        '"\\u0041"',
        '"\\/"',
        '"\\b"',
        '"\\x"',
        '"a',
    ):
        assert not grammar.accepts(text)


def test_names_and_literals_are_quoted_for_both_languages() -> None:
    odd = 'a"b\\c\nd\té😀\x7f'
    grammar = grammar_of({"properties": {odd: {"enum": [odd, 1.5, [odd, {odd: None}], True, -0.0]}}, "required": [odd]})
    for value in (odd, 1.5, [odd, {odd: None}], True):
        text = json.dumps({odd: value}, ensure_ascii=False, separators=(",", ":"))
        assert grammar.accepts(text)


def test_definitions_that_double_stay_small() -> None:
    names = {f"d{n}": {"prefixItems": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(60)}
    schema = {"$ref": "#/$defs/d0", "$defs": {**names, "d60": {"type": "null"}}}
    assert _jsonschema.problems(schema) == []
    assert len(to_gbnf(schema)) < 50_000


# -- patterns ----------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(pattern=st.sampled_from(PATTERNS), seed=st.integers(0, 2**32))
def test_what_a_patterns_grammar_generates_matches_whole(pattern: str, seed: int) -> None:
    text = Gbnf(regex_to_gbnf(pattern)).sample(random.Random(seed))
    assert re.fullmatch(pattern, text)
    low, high = _regex.length_range(_regex.parse(pattern))
    assert low <= len(text) <= (len(text) if high is None else high)


PRINTABLE = st.characters(min_codepoint=0x20, max_codepoint=0x7E)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), pattern=st.sampled_from(PATTERNS))
def test_what_matches_a_pattern_in_ascii_is_accepted_raw_and_in_json(data: st.DataObject, pattern: str) -> None:
    alphabet = st.one_of(PRINTABLE, st.sampled_from("\t\n"))  # Python's "." takes a carriage return, ours does not
    text = data.draw(st.from_regex(re.compile(pattern, re.ASCII), fullmatch=True, alphabet=alphabet))
    if len(text) > 60 or text.endswith("\n"):
        return  # `$` of Python's matches before a last newline
    assert Gbnf(regex_to_gbnf(pattern)).accepts(text)
    assert grammar_of({"pattern": pattern}).accepts(json.dumps(text))


@pytest.mark.parametrize(
    ("pattern", "accepted", "refused"),
    [
        (r"\d+", ["12"], ["", "a", "٣"]),
        (r"[^\d]", ["a", "-"], ["1", "٣"]),
        (r"\W", ["-", " "], ["a", "é"]),
        (r"\S", ["a", "é"], [" ", "\u3000", "\t"]),
        (r"[^a-c\]\\-]", ["d", "["], ["a", "]", "\\", "-"]),
        (r"[-a]|[a-]", ["-", "a"], ["b"]),
        (r"\u00e9\x41\.\/", ["éA./"], ["eA./"]),
        ("^a$|^b$", ["a", "b"], ["ab"]),
        ("", [""], ["a"]),
        ("a|", ["a", ""], ["b"]),
        ("(?:ab){2}c{0}d{1,}?", ["ababd", "ababdd"], ["abd", "ababcd"]),
        (".", ["a", '"', "\\"], ["\n", "\u2028", "\r"]),
    ],
)
def test_patterns_accept_what_they_say(pattern: str, accepted: list[str], refused: list[str]) -> None:
    grammar = Gbnf(regex_to_gbnf(pattern))
    assert [text for text in accepted if not grammar.accepts(text)] == []
    assert [text for text in refused if grammar.accepts(text)] == []
    quoted = grammar_of({"type": "string", "pattern": pattern})
    assert [text for text in accepted if not quoted.accepts(json.dumps(text, ensure_ascii=False))] == []


def test_a_pattern_outside_the_subset_is_refused() -> None:
    with pytest.raises(_regex.PatternError, match=r"'\(\?=' is not supported"):
        regex_to_gbnf("a(?=b)")
