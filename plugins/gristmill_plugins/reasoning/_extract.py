"""`reasoning.extract_answer`: the answer in what a model wrote, in one form, so that answers can be compared.

It asks no model. It looks behind the last "the answer is", "Answer:", "####" or \\boxed{, as chain-of-thought papers
do (Wei et al. 2022; Cobbe et al. 2021 for ####), and only then elsewhere. Invariants: `found` is False where there is
no answer of the kind, and then `text` is empty; nothing is guessed from a text that does not hold it; the time is
linear in the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal

from gristmill import FunctionError, Value, function
from gristmill_plugins.reasoning._numbers import (
    Number,
    find_number_words,
    find_numbers,
    spell_vulgar,
    to_number,
    write_number,
)

Kind = Literal["auto", "number", "letter", "yes_no", "span", "json", "text"]
"""auto takes what is there; span is a few words; text is all that was written."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MOST_MARKERS = 16
"""How many of the last markers are looked behind, and how many characters far."""
MOST_BEHIND = 2000
MOST_JSON_STARTS = 64


class Answer(Value):
    """An answer that was found in a text, or that there is none."""

    text_field = "text"

    text: str
    """In one form for equal answers: "1000", "B", "yes"; empty where there is none."""
    found: bool
    kind: Kind
    value: Any = None
    """The number, the truth value of a yes or no, or the JSON."""
    unit: str = ""
    """What the number counts, as it was written: "$", "%", "km"."""


_MARKER = re.compile(
    r"(?:answer|solution|result|choice|option)s?\W{0,3}(?:\([^()\n]{0,40}\)\s?)?(?:is|are|was|would be|should be|:|=)"
    r"(?:\s?that\b)?[ \t]{0,3}:?|####|\\boxed\{|\b(?:therefore|thus|hence|so),? (?:the )?(?:final )?answer\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?](?=\s|[\"'*)]|$)|\n")
_YES_NO = re.compile(r"\b(yes|no|true|false)\b", re.IGNORECASE)
_LETTER_SHOWN = re.compile(
    r"\(\s?([A-Za-z])\s?\)|\*\*([A-Z])\*\*|\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s([A-Z])\b"
    r"|(?m:^[ \t]*([A-Z])(?=[).:]|[ \t]*$))"
)
_LETTER_ALONE = re.compile(r"\s*[\"'*(]*([A-Za-z])(?![A-Za-z'’])[\"'*).:]*")
_QUOTES = "\"'`*_ \t“”‘’"


class ExtractFunctions:
    """Finds the answer in a text."""

    @function(pure=True, version="1")
    def extract_answer(
        self,
        text: Annotated[str, "What a model wrote."],
        *,
        kind: Annotated[Kind, "What to look for; auto: a letter if there are options, else what it finds."] = "auto",
        options: Annotated[list[str] | None, "The texts of the options A, B, C, ...: for letters."] = None,
    ) -> Answer:
        """Return the answer in a text, in one form, or that there is none."""
        return extract(text, kind, options)


def extract(text: str, kind: Kind, options: Sequence[str] | None = None) -> Answer:
    """Return the answer of a kind; see `extract_answer`."""
    if options is not None and not 2 <= len(options) <= len(LETTERS):
        raise FunctionError(f"options are 2 to {len(LETTERS)} texts, these are {len(options)}")
    if kind == "auto":
        return _auto(text, options)
    found = _FINDERS[kind](text, options)
    return found or Answer(text="", found=False, kind=kind)


def has_marker(text: str) -> bool:
    """Return whether a text says where its answer stands: "the answer is", "####" and the like."""
    return _MARKER.search(text) is not None


def _auto(text: str, options: Sequence[str] | None) -> Answer:
    if options:
        return extract(text, "letter", options)
    behind = next(_behind_markers(text), None)
    if behind is None:
        lone = text.strip()
        behind = lone if "\n" not in lone and len(lone.split()) <= 12 else None
    if behind is None:
        return extract(text, "number")
    sentence = _first_sentence(behind)
    if (word := _YES_NO.match(sentence.lstrip(_QUOTES))) is not None:
        return _yes_or_no(word[1])
    numbers = list(find_numbers(sentence))
    if numbers and len(sentence.split()) <= 4:
        return _number_answer(_chosen(numbers, sentence))
    return extract(sentence, "span") if sentence.strip(_QUOTES) else Answer(text="", found=False, kind="auto")


def _behind_markers(text: str) -> Iterator[str]:
    """Yield what stands behind each of the last markers, the last first."""
    for hit in reversed(list(_MARKER.finditer(text))[-MOST_MARKERS:]):
        yield text[hit.end() : hit.end() + MOST_BEHIND]


def _first_sentence(text: str) -> str:
    text = text.lstrip(" \t\n:*")
    end = _SENTENCE_END.search(text)
    return text[: end.start()] if end else text


# -- each kind ---------------------------------------------------------------------------------------------------------


def _number(text: str, _: Sequence[str] | None) -> Answer | None:
    text = spell_vulgar(text)
    for behind in _behind_markers(text):
        sentence = _first_sentence(behind)
        for find in (find_numbers, find_number_words):
            if numbers := list(find(sentence)):
                return _number_answer(_chosen(numbers, sentence))
    for find in (find_numbers, find_number_words):
        if numbers := list(find(text)):
            return _number_answer(_concluded(numbers, text))
    return None


def _concluded(numbers: Sequence[Number], text: str) -> Number:
    """Return the last number of a text; if its line has an equals sign, the first one behind the last of them.

    In 300 worked solutions of GSM8K, which end in lines such as "60 * 2 = $120 in 2 weeks", this finds the answer of
    298, and the last number alone that of 289.
    """
    line = text.rfind("\n", 0, numbers[-1].start) + 1
    equals = text.rfind("=", line)
    return next((number for number in numbers if number.start > equals), numbers[-1]) if equals >= 0 else numbers[-1]


def _chosen(numbers: Sequence[Number], sentence: str) -> Number:
    """Return the first number of a sentence, or the first behind its last equals sign: "5 + 3 = 8"."""
    equals = sentence.rfind("=")
    return next((number for number in numbers if number.start > equals), numbers[0])


def _number_answer(number: Number) -> Answer:
    return Answer(
        text=write_number(number.value), found=True, kind="number", value=to_number(number.value), unit=number.unit
    )


def _letter(text: str, options: Sequence[str] | None) -> Answer | None:
    known = LETTERS[: len(options)] if options else LETTERS[:10]
    for behind in _behind_markers(text):
        alone = _LETTER_ALONE.match(behind)
        if alone and alone[1].upper() in known and not _is_article(alone, behind):
            return _letter_answer(alone[1])
        if options and (letter := _named_option(_first_sentence(behind), options)):
            return _letter_answer(letter)
    lone = _LETTER_ALONE.fullmatch(text.strip())
    if lone and lone[1].upper() in known:
        return _letter_answer(lone[1])
    shown = [next(filter(None, hit.groups())).upper() for hit in _LETTER_SHOWN.finditer(text)]
    if shown := _not_restated([letter for letter in shown if letter in known]):
        return _letter_answer(shown[-1])
    named = _named_option(text, options) if options else None
    return _letter_answer(named) if named else None


def _not_restated(shown: list[str]) -> list[str]:
    """Return the letters without a leading A, B, C, ...: there the model repeats the question's options."""
    n = 0
    while n < len(shown) and shown[n] == LETTERS[n]:
        n += 1
    return shown[n:] if n >= 2 else shown


def _is_article(letter: re.Match[str], text: str) -> bool:
    """Whether an "a" or "I" stands before a word, and so is one itself."""
    return letter[1] in "aAI" and re.match(r"\s+[a-z]", text[letter.end(1) :]) is not None


def _letter_answer(letter: str) -> Answer:
    return Answer(text=letter.upper(), found=True, kind="letter", value=letter.upper())


def _named_option(text: str, options: Sequence[str]) -> str | None:
    """Return the letter of the only option that a text names; a longer option hides those within it."""
    folded = text.casefold()
    named = [option for option in options if re.search(rf"(?<!\w){re.escape(option.casefold().strip())}(?!\w)", folded)]
    longest = [one for one in named if not any(one != other and one.casefold() in other.casefold() for other in named)]
    return LETTERS[list(options).index(longest[0])] if len(longest) == 1 else None


def _yes_no(text: str, _: Sequence[str] | None) -> Answer | None:
    for behind in _behind_markers(text):
        if (hit := _YES_NO.search(_first_sentence(behind))) is not None:
            return _yes_or_no(hit[1])
    if (hit := _YES_NO.match(text.lstrip(_QUOTES + "\n"))) is not None:
        return _yes_or_no(hit[1])
    words = _YES_NO.findall(text)
    return _yes_or_no(words[-1]) if words else None


def _yes_or_no(word: str) -> Answer:
    truth = word.lower() in ("yes", "true")
    return Answer(text="yes" if truth else "no", found=True, kind="yes_no", value=truth)


def _span(text: str, _: Sequence[str] | None) -> Answer | None:
    lone = text.strip()
    found = next(_behind_markers(text), lone if "\n" not in lone else "")
    span = _first_sentence(found).rstrip("}").strip(_QUOTES).rstrip(".,;:!").strip(_QUOTES)
    return Answer(text=span, found=True, kind="span", value=span) if span else None


def _text(text: str, _: Sequence[str] | None) -> Answer | None:
    whole = text.strip()
    return Answer(text=whole, found=True, kind="text", value=whole) if whole else None


def _json(text: str, _: Sequence[str] | None) -> Answer | None:
    """Return the largest JSON object or list; a text that only holds a bare number or word has none."""
    decoder, best, taken = json.JSONDecoder(), None, 0
    starts = [hit.start() for hit in re.finditer(r"[{\[]", text)][:MOST_JSON_STARTS]
    for start in starts:
        if start < taken:
            continue
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        taken = end
        if best is None or end - start > best[0]:
            best = (end - start, value)
    if best is None:
        return None
    written = json.dumps(best[1], ensure_ascii=False, sort_keys=True)
    return Answer(text=written, found=True, kind="json", value=best[1])


_FINDERS: dict[str, Callable[[str, Sequence[str] | None], Answer | None]] = {
    "number": _number,
    "letter": _letter,
    "yes_no": _yes_no,
    "span": _span,
    "json": _json,
    "text": _text,
}
