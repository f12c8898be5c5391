r"""JSON Schema and regular expressions to GBNF, llama.cpp's grammars.

It takes schemas without problems (`gristmill.schemas.jsonschema.problems`) and does not check them again.
Invariants: every text that a grammar accepts is JSON and validates against the schema; a grammar is not
left-recursive, repeats nothing that may be empty, and repeats at most 1,000 times (above 2,000, llama.cpp silently
reads a limit as none); between tokens of JSON there is one space or none, so that a weak model cannot write blanks
for ever.

Not bounded are texts without `maxLength` and lists without `maxItems`: there `max_tokens` ends the answer, which is
then not complete. Texts hold no control characters but the escapes \n, \r and \t.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gristmill.schemas import jsonschema as js
from gristmill.schemas import regex as _regex

_ANYTHING_DEPTH = 3
"""How deep a value nests where the schema allows anything."""
_ESCAPED = {'"': '"', "\\": "\\", "\n": "n", "\r": "r", "\t": "t"}
# Numbers without bounds: short enough that a model cannot write digits for ever, and never infinite.
_INTEGER = '"0" | "-"? [1-9] [0-9]{0,14}'
_NUMBER = '"-"? ("0" | [1-9] [0-9]{0,14}) ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?'


def to_gbnf(schema: Mapping[str, Any]) -> str:
    """Return a grammar whose root is the JSON text of a value of the schema."""
    grammar = _Grammar(schema)
    root = grammar.value(schema)
    return grammar.text(root)


def regex_to_gbnf(pattern: str) -> str:
    """Return a grammar for the texts that a pattern of the subset (`gristmill.schemas.regex`) describes, as they are.

    Raises:
        PatternError: the pattern is not in the subset.
    """
    grammar = _Grammar({})
    return grammar.text(grammar.pattern(_regex.parse(pattern), in_json=False))


class _Grammar:
    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.schema = schema
        self.rules: dict[str, str] = {}
        self.names: dict[str, str] = {}
        self.definitions: dict[str, str] = {}

    def text(self, root: str) -> str:
        lines = [f"root ::= {root}", *(f"{name} ::= {body}" for name, body in self.rules.items())]
        return "\n".join(lines) + "\n"

    def rule(self, hint: str, body: str) -> str:
        """Give an expression a name, so that it can be repeated or offered as one; equal ones share it."""
        if body not in self.names:
            self.names[body] = f"{hint}-{len(self.names)}"
            self.rules[self.names[body]] = body
        return self.names[body]

    def either(self, options: Sequence[str]) -> str:
        distinct = list(dict.fromkeys(options))
        return distinct[0] if len(distinct) == 1 else self.rule("either", " | ".join(distinct))

    # -- values ------------------------------------------------------------------------------------------------

    def value(self, schema: Any) -> str:
        """Return an expression for the values of a schema: one that may stand in a sequence and be repeated."""
        if js.is_anything(schema):
            return self.anything(_ANYTHING_DEPTH)
        if "$ref" in schema:
            # Once for each definition: definitions that use others twice would double with every level.
            target = schema["$ref"]
            if target not in self.definitions:
                self.definitions[target] = self.value(js.reference(schema, self.schema))
            return self.definitions[target]
        if "enum" in schema or "const" in schema:
            return self.either([_literal(_dumped(each)) for each in schema.get("enum", [schema.get("const")])])
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return self.either([self.value(option) for option in schema[key]])
        return self.either([self.typed(kind, schema) for kind in js.types_of(schema)])

    def typed(self, kind: str, schema: Mapping[str, Any]) -> str:
        if kind == "string":
            return self.string(schema)
        if kind in ("integer", "number"):
            return self.number(schema, integer=kind == "integer")
        if kind == "array":
            return self.array(schema)
        if kind == "object":
            return self.object(schema)
        return '"null"' if kind == "null" else self.rule("boolean", '"true" | "false"')

    def anything(self, depth: int) -> str:
        options = [self.typed(kind, {}) for kind in ("string", "number", "boolean", "null")]
        if depth > 0:
            inner = self.anything(depth - 1)
            options += [self.list_of(inner, 0, None), self.map_of(inner)]
        return self.rule("anything", " | ".join(options))

    # -- texts -------------------------------------------------------------------------------------------------

    def character(self) -> str:
        return self.rule("character", self.characters(_regex.TEXT, in_json=True))

    def string(self, schema: Mapping[str, Any]) -> str:
        pattern = js.text_pattern(schema)
        if pattern is not None:
            return self.rule("string", f'"\\"" {self.pattern(pattern, in_json=True)} "\\""')
        low, high = schema.get("minLength", 0), schema.get("maxLength")
        return self.rule("string", f'"\\"" {_repeated(self.character(), low, high)} "\\""')

    def pattern(self, pattern: _regex.Pattern, *, in_json: bool) -> str:
        """Return an expression for a pattern; inside a JSON text, characters are escaped as JSON wants."""
        if isinstance(pattern, _regex.Characters):
            found = self.characters(pattern.ranges, in_json=in_json)
            return self.rule("one", found) if "|" in found else found
        if isinstance(pattern, _regex.Repeat):
            return _repeated(self.rule("part", self.pattern(pattern.part, in_json=in_json)), pattern.low, pattern.high)
        if isinstance(pattern, _regex.Choice):
            return self.either([self.pattern(option, in_json=in_json) for option in pattern.options])
        return " ".join(self.pattern(part, in_json=in_json) for part in pattern.parts) or '""'

    @staticmethod
    def characters(ranges: _regex.Ranges, *, in_json: bool) -> str:
        if not in_json:
            return _class(ranges)
        escaped = [character for character in _ESCAPED if any(low <= ord(character) <= high for low, high in ranges)]
        plain = _regex.without(ranges, _regex.normalised([(ord(each), ord(each)) for each in escaped]))
        options = [_class(plain)] if plain else []
        if escaped:
            options.append(
                '"\\\\" ' + _class(_regex.normalised([(ord(_ESCAPED[e]), ord(_ESCAPED[e])) for e in escaped]))
            )
        return " | ".join(options)

    # -- numbers -----------------------------------------------------------------------------------------------

    def number(self, schema: Mapping[str, Any], *, integer: bool) -> str:
        if not schema.keys() & {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}:
            return self.rule("integer", _INTEGER) if integer else self.rule("number", _NUMBER)
        low, high, digits = js.number_range(schema, integer=integer)
        options = []
        if low < 0:
            options.append(f'"-" {self.rule("size", _decimals(max(1, -high), -low, digits))}')
        if high >= 0:
            options.append(self.rule("size", _decimals(max(0, low), high, digits)))
        return self.rule("number", " | ".join(options))

    # -- lists -------------------------------------------------------------------------------------------------

    def array(self, schema: Mapping[str, Any]) -> str:
        first = [self.value(item) for item in schema.get("prefixItems", ())]
        low, high = schema.get("minItems", 0), schema.get("maxItems")
        if schema.get("items") is False:
            high = len(first) if high is None else min(high, len(first))
        if high is not None:
            first = first[:high]
        if high is not None and high <= len(first):
            return self.rule("list", f'"[" {self.tuple_of(first, low, "")} "]"')
        rest = self.value(schema.get("items", True))
        if not first:
            return self.list_of(rest, low, high)
        more = _repeated(
            self.rule("next", f'"," " "? {rest}'), max(0, low - len(first)), None if high is None else high - len(first)
        )
        return self.rule("list", f'"[" {self.tuple_of(first, low, more)} "]"')

    def tuple_of(self, items: Sequence[str], low: int, rest: str) -> str:
        """Return the items in their order, of which at least `low` are there, and then `rest`."""
        found = rest
        for index in reversed(range(len(items))):
            comma = '"," " "? ' if index else ""
            found = f"{comma}{items[index]} {found}".rstrip()
            if index >= low:
                found = f"{self.rule('rest', found)}?"
        return found or '""'

    def list_of(self, item: str, low: int, high: int | None) -> str:
        if high == 0:
            return '"[]"'
        following = self.rule("next", f'"," " "? {item}')
        filled = f"{item} {_repeated(following, max(0, low - 1), None if high is None else high - 1)}".rstrip()
        return self.rule("list", f'"[" {filled} "]"' if low else f'"[" {self.rule("items", filled)}? "]"')

    # -- objects -----------------------------------------------------------------------------------------------

    def object(self, schema: Mapping[str, Any]) -> str:
        properties, extra = schema.get("properties", {}), schema.get("additionalProperties", True)
        if not properties:
            return '"{}"' if extra is False else self.map_of(self.value(extra))
        required = set(schema.get("required", ()))
        pairs = [
            (f'{_literal(_dumped(name) + ":")} " "? {self.value(inner)}', name in required)
            for name, inner in properties.items()
        ]
        return self.rule("object", f'"{{" {self.members(pairs)} "}}"')

    def members(self, pairs: Sequence[tuple[str, bool]]) -> str:
        """Return the pairs in their order, optional ones there or not, with commas between those that are there.

        `first` continues when nothing was written yet, `later` when a comma is due.
        """
        first, later = '""', ""
        for pair, required in reversed(pairs):
            rest = f" {self.rule('later', later)}" if later else ""
            if required:
                first, later = pair + rest, f'"," " "? {pair}{rest}'
            else:
                more = self.rule("more", f'"," " "? {pair}')
                first, later = self.rule("members", f"{pair}{rest} | {first}"), f"{more}?{rest}"
        return first

    def map_of(self, value: str) -> str:
        pair = f'{self.string({})} ":" " "? {value}'
        following = self.rule("next", f'"," " "? {pair}')
        filled = self.rule("members", f"{pair} {following}*")
        return self.rule("map", f'"{{" {filled}? "}}"')


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _literal(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _class(ranges: _regex.Ranges) -> str:
    return "[" + "".join(_point(low) if low == high else f"{_point(low)}-{_point(high)}" for low, high in ranges) + "]"


def _point(code: int) -> str:
    if chr(code).isascii() and chr(code).isalnum():
        return chr(code)
    return f"\\x{code:02X}" if code < 0x100 else f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"


def _repeated(item: str, low: int, high: int | None) -> str:
    """Return `item`, a single rule or class, at least `low` and at most `high` times."""
    if high == 0:
        return ""
    if high is None:
        return {0: f"{item}*", 1: f"{item}+"}.get(low, f"{item}{{{low},}}")
    if (low, high) == (1, 1):
        return item
    return f"{item}?" if (low, high) == (0, 1) else f"{item}{{{low}}}" if low == high else f"{item}{{{low},{high}}}"


# -- decimal numbers between two bounds; both are whole, in units of 10**-digits, and not negative ------------------


def _decimals(low: int, high: int, digits: int) -> str:
    """Return the numerals from low to high with at most `digits` digits behind the point, without leading zeros."""
    unit = 10**digits
    (first, first_part), (last, last_part) = divmod(low, unit), divmod(high, unit)
    if not digits:
        return _wholes(low, high)
    low_text, high_text = f"{first_part:0{digits}}", f"{last_part:0{digits}}"
    if first == last:
        return f'"{first}" {_fraction(low_text, high_text)}'
    options = [f'"{first}" {_fraction(low_text, "9" * digits)}', f'"{last}" {_fraction("0" * digits, high_text)}']
    if last - first > 1:
        options.insert(1, f"({_wholes(first + 1, last - 1)}) {_fraction('0' * digits, '9' * digits)}")
    return " | ".join(options)


def _fraction(low: str, high: str) -> str:
    """Return the point and the digits behind it, or nothing where that is between the bounds."""
    digits = f'"." {_digits(low, high, nonempty=True)}'
    return f"({digits})?" if not low.strip("0") else digits


def _digits(low: str, high: str, *, nonempty: bool = False) -> str:
    """Return the digit strings, at most as long as the bounds, that lie between them as fractions.

    A string that ends early goes on in zeros: it is there when zeros are within the bounds.
    """
    size = len(low)
    if not size:
        return '""'
    for digit, full in (("[0-9]", "9"), ('"0"', "0")):
        if not low.strip("0") and not high.strip(full):
            return f"{digit}{{{1 if nonempty else 0},{size}}}"
    first, last = int(low[0]), int(high[0])
    options = []
    if first == last:
        options.append(f'"{first}" {_digits(low[1:], high[1:])}')
    else:
        options.append(f'"{first}" {_digits(low[1:], "9" * (size - 1))}')
        if last - first > 1:
            options.append(f"{_between(first, last)} {_digits('0' * (size - 1), '9' * (size - 1))}")
        options.append(f'"{last}" {_digits("0" * (size - 1), high[1:])}')
    if not nonempty and not low.strip("0"):
        options.append('""')
    return "(" + " | ".join(options) + ")"


def _wholes(low: int, high: int) -> str:
    """Return the whole numbers from low to high."""
    options = ['"0"'] if low == 0 else []
    low = max(low, 1)
    while low <= high:
        size = len(str(low))
        # All numbers of whole lengths from here on are one piece: 1 to 9,999 is [1-9] [0-9]{0,3}.
        full = len(str(high + 1)) - 1
        if low == 10 ** (size - 1) and full >= size:
            options.append(f"[1-9] [0-9]{{{size - 1},{full - 1}}}" if full > 1 else "[1-9]")
            low = 10**full
            continue
        top = min(high, 10**size - 1)
        options.append(_same_length(str(low), str(top)))
        low = top + 1
    return " | ".join(options)


def _same_length(low: str, high: str) -> str:
    """Return the digit strings between two of equal length."""
    if low == high:
        return f'"{low}"'
    if not low.strip("0") and not high.strip("9"):
        return f"[0-9]{{{len(low)}}}"
    if low[0] == high[0]:
        return f'"{low[0]}" {_same_length(low[1:], high[1:])}'
    size = len(low) - 1
    if not size:
        return f"[{low}-{high}]"
    first, last = int(low[0]), int(high[0])
    options = [f'"{first}" {_same_length(low[1:], "9" * size)}', f'"{last}" {_same_length("0" * size, high[1:])}']
    if last - first > 1:
        options.insert(1, f"{_between(first, last)} [0-9]{{{size}}}")
    return "(" + " | ".join(options) + ")"


def _between(first: int, last: int) -> str:
    """Return the digits strictly between two."""
    return f"[{first + 1}-{last - 1}]" if last - first > 2 else f'"{first + 1}"'
