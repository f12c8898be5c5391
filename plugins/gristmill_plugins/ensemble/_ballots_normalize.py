"""Which answer a text holds: itself, a number, a letter, or JSON.

It calls no model. Invariant: two texts have one key exactly when they hold the same answer; a text with none has no
key, and what a number was written like ("1,000", "$1000.00", "1e3") is not part of it.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from gristmill import FunctionError

Normalize = Literal["text", "number", "letter", "json"]
MOST_JSON_STARTS = 20_000
"""How far into a text JSON may begin."""
MOST_DIGITS = 400
"""A number with more digits, or an exponent beyond a thousand, is no answer: 1e999999999 has a billion digits."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`key` is what is compared, `shown` how it is written, `value` what it is."""

    key: str
    shown: str
    value: Any


Reader = Callable[[str], Answer | None]


def normalizer(kind: Normalize, options: Sequence[str] = ()) -> Reader:
    """Return what reads a text as an answer, or as None where it holds none, or none of `options`.

    Raises:
        FunctionError: an option is itself no answer of the kind, or two of them are the same.
    """
    read = {"text": _text, "number": _number, "letter": _letter, "json": _json}[kind]
    if not options:
        return read
    allowed: dict[str, Answer] = {}
    for option in options:
        answer = read(option)
        if answer is None:
            raise FunctionError(f"the option {option!r} holds no {kind}")
        if answer.key in allowed:
            raise FunctionError(f"the options {allowed[answer.key].shown!r} and {option!r} are the same {kind}")
        allowed[answer.key] = Answer(answer.key, option.strip(), answer.value)

    named = _mentions(allowed) if kind == "text" else None

    def read_option(text: str) -> Answer | None:
        answer = _letter(text, tuple(allowed)) if kind == "letter" else read(text)
        if answer is None or answer.key in allowed:
            return None if answer is None else allowed[answer.key]
        return None if named is None else named(text)

    return read_option


_NEGATION = re.compile(r"\b(?:not|no|never|neither|nor|cannot|without)\b|n['’]t\b", re.IGNORECASE)


def _mentions(allowed: Mapping[str, Answer]) -> Reader:
    """Return what finds the only option that a sentence names; one with a negation in it, or with two, names none."""
    longest_first = sorted(allowed, key=lambda key: (-len(key), key))
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(key)}(?!\w)" for key in longest_first))

    def find(text: str) -> Answer | None:
        folded = unicodedata.normalize("NFKC", " ".join(text.split())).casefold()
        found = set(pattern.findall(folded))
        if len(found) != 1 or _NEGATION.search(pattern.sub("", folded)):
            return None
        return allowed[found.pop()]

    return find


_OPENS = " \"'`*_([«“‘"
_CLOSES = " .,;:!?\"'`*_)]»”’"


def _text(text: str) -> Answer | None:
    shown = " ".join(text.split())
    bare = shown.lstrip(_OPENS).rstrip(_CLOSES) or shown
    key = unicodedata.normalize("NFKC", bare).casefold()
    return Answer(key, bare, bare) if bare else None


_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_NUMBER = re.compile(
    rf"(?P<sign>(?<![\w.)])[-−+])?(?:[$€£]\s?(?P<sign2>-)?)?(?P<whole>{_DIGITS})?(?P<part>\.\d+)?"
    rf"(?:[eE](?P<power>[-+]?\d+)\b)?(?:\s?/\s?(?P<under>{_DIGITS}))?"
)
_MARKED = re.compile(r"####|\\boxed\{|\b(?:final answer|answer is|answer:|result is)", re.IGNORECASE)


def _number(text: str) -> Answer | None:
    """Return the last number; after a mark such as "####" or "the answer is", the first."""
    if len(text) > 100_000:
        text = text[-100_000:]
    marks = list(_MARKED.finditer(text))
    if marks and (after := _numbers(text[marks[-1].end() :])):
        return _number_answer(after[0])
    everything = _numbers(text)
    return _number_answer(everything[-1]) if everything else None


def _numbers(text: str) -> list[Fraction]:
    found = []
    for match in _NUMBER.finditer(text):
        whole, part, under = (match[name] or "" for name in ("whole", "part", "under"))
        exponent = match["power"] or "0"
        if not (whole or part) or max(map(len, (whole, part, under))) > MOST_DIGITS or len(exponent) > 4:
            continue
        power = int(exponent)
        value = Fraction(f"{whole.replace(',', '') or '0'}{part}") * Fraction(10) ** power
        if under and int(under.replace(",", "")):
            value /= int(under.replace(",", ""))
        negative = (match["sign"] or "+").strip() in "-−" or match["sign2"]
        found.append(-value if negative else value)
    return found


def _number_answer(value: Fraction) -> Answer:
    if value.denominator == 1:
        return Answer(str(value.numerator), str(value.numerator), value.numerator)
    shown = _decimal(value) or str(value)
    return Answer(shown, shown, float(value))


def _decimal(value: Fraction) -> str | None:
    """Return a terminating decimal of at most 12 places, or None: a third stays "1/3"."""
    for places in range(1, 13):
        scaled = value * 10**places
        if scaled.denominator == 1:
            sign, digits = ("-" if scaled < 0 else ""), str(abs(scaled.numerator)).rjust(places + 1, "0")
            return f"{sign}{digits[:-places]}.{digits[-places:]}"
    return None


_LETTER_PATTERNS = (
    re.compile(r"^\W*([A-Za-z])\W*$"),
    re.compile(r"\b(?i:answer|choice|option)(?: is)?:?\s*[\"'(*\[]*([A-Z])\b(?!')"),
    re.compile(r"[(\[]([A-Z])[)\]]"),
    re.compile(r"^\s*([A-Z])[).:\]]"),
    re.compile(r"\b([B-HJ-Z])\b(?!')"),
)


def _letter(text: str, allowed: Sequence[str] = ()) -> Answer | None:
    """Return the letter that a text chooses: alone, after "answer", in brackets, or else the last that stands alone."""
    for pattern in _LETTER_PATTERNS:
        letters = [match.group(1).upper() for match in pattern.finditer(text)]
        letters = [letter for letter in letters if not allowed or letter in allowed]
        if letters:
            return Answer(letters[-1], letters[-1], letters[-1])
    return None


def _json(text: str) -> Answer | None:
    """Return the first JSON object or array in a text, or the whole text where that is JSON."""
    found, value = _whole_json(text)
    if not found:
        decoder = json.JSONDecoder(parse_constant=_refuse)
        for match in re.finditer(r"[{\[]", text[:MOST_JSON_STARTS]):
            try:
                value, _ = decoder.raw_decode(text, match.start())
            except (ValueError, RecursionError):
                continue
            found = True
            break
    if not found:
        return None
    key = json.dumps(_canonical(value), sort_keys=True, ensure_ascii=False)
    return Answer(key, key, value)


def _whole_json(text: str) -> tuple[bool, Any]:
    try:
        return True, json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False, None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _canonical(value: Any) -> Any:
    """Return the value with 2.0 as 2, as JSON's own numbers have one kind."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    return value
