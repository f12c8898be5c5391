r"""The regular expressions that an answer can be generated from: a subset that Python and ECMAScript read alike.

It parses; it does not match, and it knows nothing about grammars or JSON. Invariant: every text that the parsed
expression describes is matched by `re.fullmatch` and by ECMAScript with the same pattern, though not every text that
those match is described: `\d` is 0 to 9, `\w` is A to Z, a to z, 0 to 9 and `_`, and control characters other than
tab, newline and carriage return are never generated.

The subset: literals, `.`, classes `[a-z]` and `[^...]`, `\d \w \s \D \W \S`, `\n \r \t`, `\xHH`, `\uHHHH`, any
punctuation behind a backslash, groups `( )` and `(?: )`, `|`, the quantifiers `* + ? {m} {m,} {m,n}` and their lazy
forms. `^` and `$` may stand at the ends only; without them the whole text is described just the same. Not in it:
look-around, back-references, `\b`, flags, named groups, `\p{...}`, possessive quantifiers.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import TypeAlias

MAX_PATTERN = 2000
MAX_DEPTH = 24
MAX_REPEAT = 1000
"""The largest number in `{m,n}`; llama.cpp reads one above 2,000 as no limit at all."""

Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""Code points: sorted, disjoint, inclusive ranges."""


@dataclass(frozen=True, slots=True)
class Characters:
    """Any one character of a set."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Sequence:
    parts: tuple[Pattern, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    options: tuple[Pattern, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """`part`, at least `low` and at most `high` times; None is any number of times."""

    part: Pattern
    low: int
    high: int | None


Pattern: TypeAlias = Characters | Sequence | Choice | Repeat


class PatternError(ValueError):
    """A pattern that is not in the subset; `position` counts characters from 0."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(f"{message} (at character {position + 1})")
        self.position = position


def normalised(ranges: list[tuple[int, int]]) -> Ranges:
    """Sort ranges and join those that touch."""
    found: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], high))
        else:
            found.append((low, high))
    return tuple(found)


def without(ranges: Ranges, removed: Ranges) -> Ranges:
    """Return the code points of `ranges` that are not in `removed`."""
    found: list[tuple[int, int]] = []
    for low, high in ranges:
        for cut_low, cut_high in removed:
            if cut_high < low or cut_low > high:
                continue
            if cut_low > low:
                found.append((low, cut_low - 1))
            low = cut_high + 1
        if low <= high:
            found.append((low, high))
    return normalised(found)


_LAST = 0x10FFFF
_ALL: Ranges = ((0, _LAST),)
TEXT: Ranges = (
    (9, 10),
    (13, 13),
    (0x20, 0x7E),
    (0xA0, 0xD7FF),
    (0xE000, 0xFDCF),
    (0xFDF0, 0xFFFD),
    (0x10000, 0x10FFFD),
)
"""What is ever generated: no control characters but tab, newline and carriage return, no surrogates."""
_NOT_ASCII: Ranges = ((0x80, _LAST),)
_DIGITS: Ranges = ((0x30, 0x39),)
_WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACE: Ranges = ((9, 10), (13, 13), (0x20, 0x20))
# White space to Python or to ECMAScript.
_ANY_SPACE = normalised(
    [
        *((9, 13), (0x1C, 0x20), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A)),
        *((0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
    ]
)
# Not matched by "." in Python or in ECMAScript.
_LINE_ENDS: Ranges = ((10, 10), (13, 13), (0x85, 0x85), (0x2028, 0x2029))


def _class_escape(letter: str) -> tuple[Ranges, Ranges]:
    """Return what the escape surely matches in both languages, and what it may match in one of them."""
    sure, maybe = {
        "d": (_DIGITS, normalised([*_DIGITS, *_NOT_ASCII])),
        "w": (_WORD, normalised([*_WORD, *_NOT_ASCII])),
        "s": (_SPACE, _ANY_SPACE),
    }[letter.lower()]
    if letter.islower():
        return sure, maybe
    return without(_ALL, maybe), without(_ALL, sure)


def parse(pattern: str) -> Pattern:
    """Parse a pattern of the subset.

    Raises:
        PatternError: it is not in the subset; the message names the construct and its place.
    """
    if len(pattern) > MAX_PATTERN:
        raise PatternError(f"the pattern is longer than {MAX_PATTERN:,} characters", MAX_PATTERN)
    parser = _Parser(pattern)
    found = parser.choice(0)
    if parser.position < len(pattern):
        raise PatternError("')' without '('", parser.position)
    return found


def length_range(pattern: Pattern) -> tuple[int, int | None]:
    """Return the shortest and the longest length of the texts described; None is no limit."""
    if isinstance(pattern, Characters):
        return 1, 1
    if isinstance(pattern, Repeat):
        low, high = length_range(pattern.part)
        return low * pattern.low, None if high is None or pattern.high is None else high * pattern.high
    parts = pattern.parts if isinstance(pattern, Sequence) else pattern.options
    lows, highs = zip(*map(length_range, parts), strict=True) if parts else ((0,), (0,))
    join = sum if isinstance(pattern, Sequence) else max
    least = sum(lows) if isinstance(pattern, Sequence) else min(lows)
    return least, None if None in highs else join(highs)


class _Parser:
    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.position = 0

    def peek(self, n: int = 1) -> str:
        return self.pattern[self.position : self.position + n]

    def fail(self, message: str, back: int = 0) -> PatternError:
        return PatternError(message, self.position - back)

    def choice(self, depth: int) -> Pattern:
        if depth > MAX_DEPTH:
            raise self.fail(f"groups nest deeper than {MAX_DEPTH}")
        options = [self.sequence(depth)]
        while self.peek() == "|":
            self.position += 1
            options.append(self.sequence(depth))
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def sequence(self, depth: int) -> Pattern:
        parts: list[Pattern] = []
        if depth == 0 and self.peek() == "^":
            self.position += 1
        while (character := self.peek()) not in ("", "|", ")"):
            if depth == 0 and character == "$" and self.peek(2) in ("$", "$|"):
                self.position += 1
                break
            parts.append(self.quantified(self.atom(depth)))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def atom(self, depth: int) -> Pattern:
        character = self.peek()
        self.position += 1
        if character == "(":
            return self.group(depth)
        if character == "[":
            return self.character_class()
        if character == "\\":
            return Characters(self.shown(self.escape()[0]))
        if character == ".":
            return Characters(without(TEXT, _LINE_ENDS))
        if character in "^$":
            raise self.fail(f"{character!r} may stand at the ends of the pattern only", 1)
        if character in "*+?{":
            raise self.fail(f"{character!r} has nothing to repeat, or repeats a repetition", 1)
        if character in "]}":
            raise self.fail(f"{character!r} without its partner: write \\{character}", 1)
        return Characters(self.shown(((ord(character), ord(character)),)))

    def shown(self, ranges: Ranges) -> Ranges:
        found = without(ranges, without(_ALL, TEXT))
        if not found:
            raise self.fail("nothing that this stands for can be generated: control characters never are", 1)
        return found

    def group(self, depth: int) -> Pattern:
        start = self.position - 1
        if self.peek() == "?":
            if self.peek(2) != "?:":
                raise PatternError(f"'({self.peek(2)}' is not supported: only ( ) and (?: ) are", start)
            self.position += 2
        found = self.choice(depth + 1)
        if self.peek() != ")":
            raise PatternError("'(' without ')'", start)
        self.position += 1
        return found

    def escape(self) -> tuple[Ranges, Ranges]:
        letter = self.peek()
        self.position += 1
        if letter == "":
            raise self.fail("a backslash ends the pattern", 2)
        if letter in "dDwWsS":
            return _class_escape(letter)
        if letter in "xu":
            digits = self.peek(2 if letter == "x" else 4)
            if len(digits) < (2 if letter == "x" else 4) or set(digits) - set(string.hexdigits):
                raise self.fail(f"'\\{letter}' wants {2 if letter == 'x' else 4} hexadecimal digits", 2)
            self.position += len(digits)
            return self._one(int(digits, 16))
        if letter in "nrt":
            return self._one(ord({"n": "\n", "r": "\r", "t": "\t"}[letter]))
        if letter.isascii() and letter.isalnum():
            raise self.fail(f"'\\{letter}' is not supported", 2)
        return self._one(ord(letter))

    @staticmethod
    def _one(code: int) -> tuple[Ranges, Ranges]:
        return ((code, code),), ((code, code),)

    def character_class(self) -> Pattern:
        start = self.position - 1
        negated = self.peek() == "^"
        self.position += negated
        sure: list[tuple[int, int]] = []
        maybe: list[tuple[int, int]] = []
        while self.peek() != "]":
            if self.peek() == "":
                raise PatternError("'[' without ']'", start)
            for found, more in zip((sure, maybe), self.class_item(), strict=True):
                found.extend(more)
        if not sure:
            raise PatternError("the class is empty: write \\] for a bracket", start)
        self.position += 1
        return Characters(self.shown(without(_ALL, normalised(maybe)) if negated else normalised(sure)))

    def class_item(self) -> tuple[Ranges, Ranges]:
        start = self.position
        first = self.class_atom()
        if self.peek() != "-" or self.peek(2) in ("-]", "-"):
            return first
        self.position += 1
        last = self.class_atom()
        low, high = first[0], last[0]
        if not (len(low) == len(high) == 1 and low[0][0] == low[0][1] and high[0][0] == high[0][1]):
            raise PatternError("a range in a class goes from one character to another", start)
        if low[0][0] > high[0][0]:
            raise PatternError("a range in a class goes backwards", start)
        ranges = ((low[0][0], high[0][0]),)
        return ranges, ranges

    def class_atom(self) -> tuple[Ranges, Ranges]:
        # Python warns that these may mean something else one day, and ECMAScript's newer mode already does.
        if self.peek() == "[" or self.peek(2) in ("--", "&&", "~~", "||"):
            raise self.fail(f"{self.peek()!r} in a class: write \\{self.peek()}")
        character = self.peek()
        self.position += 1
        return self.escape() if character == "\\" else self._one(ord(character))

    def quantified(self, part: Pattern) -> Pattern:
        start = self.position
        character = self.peek()
        if character in ("*", "+", "?"):
            self.position += 1
            low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}[character]
        elif character == "{":
            low, high = self.bounds()
        else:
            return part
        if self.peek() == "+":
            raise self.fail("possessive quantifiers are not supported")
        self.position += self.peek() == "?"
        if length_range(part)[0] == 0 and high != 1:
            raise PatternError("what is repeated may be empty", start)
        return Repeat(part, low, high)

    def bounds(self) -> tuple[int, int | None]:
        start = self.position
        end = self.pattern.find("}", start)
        text = self.pattern[start + 1 : end] if end > 0 else ""
        first, comma, second = text.partition(",")
        numbers = [first] + ([second] if second else [])
        if not all(number.isascii() and number.isdigit() and len(number) < 10 for number in numbers):
            raise PatternError("'{' wants {m}, {m,} or {m,n}: write \\{ for a brace", start)
        low = int(first)
        high = int(second) if second else (None if comma else low)
        if max(low, high or 0) > MAX_REPEAT:
            raise PatternError(f"it repeats more than {MAX_REPEAT:,} times", start)
        if high is not None and low > high:
            raise PatternError(f"{{{low},{high}}} goes backwards", start)
        self.position = end + 1
        return low, high
