"""Finds numbers as people and models write them: "1,000", "-3", "$5.00", "3/4", "1 1/2", "2 million km", "eight".

It decides nothing about which number is the answer. Invariants: every number is exact (a Fraction), its size is bounded
before it is computed, and finding takes time linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

MOST_DIGITS = 40
MOST_EXPONENT = 60

_VULGAR = {
    "½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5", "⅘": "4/5",
    "⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8",
}  # fmt: skip
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_UNITS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
_UNITS += "seventeen eighteen nineteen"
_SMALL = {word: n for n, word in enumerate(_UNITS.split())}
_TENS_NAMES = "twenty thirty forty fifty sixty seventy eighty ninety"
_TENS = {word: 10 * n for n, word in enumerate(_TENS_NAMES.split(), 2)}

_DIGITS = rf"(?:\d{{1,3}}(?:,\d{{3}})+|\d{{1,{MOST_DIGITS}}})"
_NUMBER = re.compile(
    rf"""(?<![\w.])(?<!\d[/,])
    (?P<sign>[-+−]\s?)?(?P<currency>[$€£¥]\s?)?(?P<late_sign>[-−])?
    (?:(?P<mixed>\d{{1,{MOST_DIGITS}}})[\s-](?P<mixed_top>\d{{1,9}})/(?P<mixed_bottom>\d{{1,9}})
      |(?P<top>\d{{1,{MOST_DIGITS}}})\s?/\s?(?P<bottom>\d{{1,{MOST_DIGITS}}})
      |(?P<plain>{_DIGITS}(?:\.\d{{1,{MOST_DIGITS}}})?|\.\d{{1,{MOST_DIGITS}}})(?:[eE](?P<exponent>[+-]?\d+))?)
    (?!\d|\s?/\s?\d|[.,]\d)
    (?:\s(?P<scale>hundred|thousand|million|billion|trillion)\b)?
    (?:\s?(?P<percent>%)|\s?(?P<degrees>°\s?[CF]?)|[ -]?(?P<unit>[A-Za-zµ]{{1,12}}(?:[/²³^]\w{{0,3}})?))?""",
    re.VERBOSE,
)
_FRAC = re.compile(r"\\[dt]?frac\{\s*(\d{1,9})\s*\}\{\s*(\d{1,9})\s*\}")
_WORD = re.compile(r"[A-Za-z]+")
_SMALL_WORDS = (
    "a an and are as at be because but by can each else etc for from gives has have he her his if in is it its left "
    "less made makes means minus more of on or our per plus remain she so than that the their then there therefore "
    "they this times to total was we were when which while will with x you"
)
_NOT_UNITS = frozenset(_SMALL_WORDS.split())


@dataclass(frozen=True, slots=True)
class Number:
    """A number in a text, from `start` to `end` in characters; `unit` is "" where there is none."""

    value: Fraction
    unit: str
    start: int
    end: int


def find_numbers(text: str) -> Iterator[Number]:
    """Yield the numbers that are written with digits, in order; what is no number (3/0, 1e9999) is left out."""
    for hit in _NUMBER.finditer(_plain_digits(text)):
        value = _value(hit)
        if value is not None:
            yield Number(value, _unit(hit), hit.start(), hit.end("unit") if _unit(hit) else _end(hit))


def _plain_digits(text: str) -> str:
    """Write fractions with a slash; the length stays, so that offsets mean the text as it was given."""

    def spelled(hit: re.Match[str]) -> str:
        return f"{hit[1]}/{hit[2]}".ljust(len(hit[0]))

    return _FRAC.sub(spelled, text)


def _end(hit: re.Match[str]) -> int:
    names = ("percent", "degrees", "scale", "exponent", "plain", "bottom", "mixed_bottom")
    return max(hit.end(name) for name in names)


def _value(hit: re.Match[str]) -> Fraction | None:
    if hit["mixed"] is not None:
        bottom = int(hit["mixed_bottom"])
        found = Fraction(int(hit["mixed"])) + Fraction(int(hit["mixed_top"]), bottom) if bottom else None
    elif hit["top"] is not None:
        found = Fraction(int(hit["top"]), int(hit["bottom"])) if int(hit["bottom"]) else None
    else:
        shown = hit["exponent"] or "0"
        exponent = int(shown) if len(shown) < 6 else MOST_EXPONENT + 1
        written = hit["plain"].replace(",", "")
        usable = abs(exponent) <= MOST_EXPONENT and len(written) <= 2 * MOST_DIGITS
        found = Fraction(written) * Fraction(10) ** exponent if usable else None
    if found is None:
        return None
    negative = (hit["sign"] or "").strip() in ("-", "−") or hit["late_sign"] is not None
    return (-found if negative else found) * _SCALES.get(hit["scale"] or "", 1)


def _unit(hit: re.Match[str]) -> str:
    if hit["currency"]:
        return str(hit["currency"]).strip()
    if hit["percent"] or hit["degrees"]:
        return (hit["percent"] or hit["degrees"]).replace(" ", "")
    unit = hit["unit"] or ""
    return "" if unit.lower() in _NOT_UNITS else unit


def spell_vulgar(text: str) -> str:
    """Return the text with each ½ written as 1/2; a number before it becomes a mixed one. Offsets move."""
    return re.sub(r"(\d?)\s?([½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞])", _mixed, text)


def _mixed(hit: re.Match[str]) -> str:
    return f"{hit[1]} {_VULGAR[hit[2]]}" if hit[1] else _VULGAR[hit[2]]


def find_number_words(text: str) -> Iterator[Number]:
    """Yield the numbers that are written in English words, in order: "forty-two", "three hundred and five"."""
    words = list(_WORD.finditer(text))
    place = 0
    while place < len(words):
        taken = _read_words(words, place, text)
        if taken is None:
            place += 1
            continue
        value, after = taken
        yield Number(Fraction(value), "", words[place].start(), words[after - 1].end())
        place = after


def _read_words(words: list[re.Match[str]], first: int, text: str) -> tuple[int, int] | None:
    """Return the number that begins at a word, and the place after it; None if none begins there."""
    total, current, place, digits = 0, 0, first, False
    while place < len(words):
        word = words[place][0].lower()
        between = text[words[place - 1].end() : words[place].start()] if place > first else ""
        if between.strip() not in ("", "-"):
            break
        if word in _SMALL or word in _TENS:
            if digits and current % 100 and not (current % 10 == 0 and _SMALL.get(word, 10) < 10):
                break
            current, digits = current + _SMALL.get(word, _TENS.get(word, 0)), True
        elif word in _SCALES and digits:
            scale = _SCALES[word]
            current, total = (current * scale, total) if scale <= 100 else (0, total + current * scale)
        elif not (word == "and" and digits and place + 1 < len(words) and words[place + 1][0].lower() in _SMALL):
            break
        place += 1
    return (total + current, place) if digits else None


def write_number(value: Fraction) -> str:
    """Return the one way in which a number is written here: "1000", "0.75", "-3"; "1/3" where decimals never end."""
    if value.denominator == 1:
        return str(value.numerator)
    rest, n_digits = value.denominator, 0
    for prime in (2, 5):
        count = 0
        while rest % prime == 0:
            rest, count = rest // prime, count + 1
        n_digits = max(n_digits, count)
    if rest != 1 or n_digits > MOST_DIGITS:
        return f"{value.numerator}/{value.denominator}"
    scaled = str(abs(value.numerator) * 10**n_digits // value.denominator).rjust(n_digits + 1, "0")
    return f"{'-' if value < 0 else ''}{scaled[:-n_digits]}.{scaled[-n_digits:]}"


def to_number(value: Fraction) -> int | float:
    """Return a number as Python and JSON have it."""
    return value.numerator if value.denominator == 1 else float(value)
