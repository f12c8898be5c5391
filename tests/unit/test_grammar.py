"""Grammars made from schemas and patterns: what they accept is valid, and what they should accept they do.

`Gbnf` below is a second reading of llama.cpp's grammar language, small enough to be believed: it generates random
texts of a grammar and tells whether a grammar accepts a text.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from gristmill import _jsonschema
from gristmill_plugins.llama._grammar import to_gbnf

TOKEN = re.compile(r'\s*(?:(?P<name>[a-z][a-z0-9-]*)|(?P<text>"(?:[^"\\]|\\.)*")|(?P<set>\[(?:[^\]\\]|\\.)*\])'
                   r"|(?P<repeat>\{\d+(?:,\d*)?\}|[*+?])|(?P<mark>[()|]))")  # fmt: skip
ESCAPE = re.compile(r"\\(?:x(..)|u(....)|U(........)|(.))")


class Gbnf:
    """A grammar as nested tuples: ("any", options), ("all", parts), ("repeat", part, low, high), ("set", ranges)."""

    def __init__(self, grammar: str) -> None:
        self.rules: dict[str, Any] = {}
        for line in grammar.splitlines():
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
