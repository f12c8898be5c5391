"""Sentences and words of English text, for the functions that read passages.

It knows no model and no index. Invariant: every function is linear in the length of its text, and the sentences of a
text, joined, hold every character of it but the white space between them.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping

# A sentence ends after . ! ? with closing quotes, brackets and marks like [1], before a beginning; or at a blank line.
_END = re.compile(r"(?P<stop>[.!?]+[\"')\]”’]*(?:\s?\[\d[\d,; ]*\])*)\s+(?=[\"'(“‘]?[A-Z0-9])|\n\s*\n")
_ABBREVIATION = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|vs|No|Fig|cf|approx|ca|e\.g|i\.e|[A-Z]))\.$")
_WORD = re.compile(r"[^\W_]+")
_SUFFIXES = ("ations", "ation", "ings", "ing", "ied", "ies", "ed", "es", "ly", "s")
_STOP = (
    "a an and are as at be been but by can could did do does for from had has have how if in into is it its may not of "
    "on or so some such than that the their them then there these they this those to was were what when where which "
    "who whom whose why will with would you your"
)
STOP_WORDS = frozenset(_STOP.split())


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, in order, without the white space around them."""
    found: list[str] = []
    start = 0
    for match in _END.finditer(text):
        end = match.start() if match["stop"] is None else match.end("stop")
        if match["stop"] == "." and _ABBREVIATION.search(text[max(start, end - 8) : end]):
            continue
        found.append(text[start:end].strip())
        start = match.end()
    found.append(text[start:].strip())
    return [sentence for sentence in found if sentence]


def content_words(text: str) -> list[str]:
    """Return the words that carry meaning: lower case, without stop words, English suffixes cut off."""
    return [_stem(word) for word in _WORD.findall(text.lower()) if word not in STOP_WORDS]


def _stem(word: str) -> str:
    """Cut off one suffix, where four letters or more are left; cruder than Porter's stemmer, and shorter."""
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 4:
            return word[: -len(suffix)]
    return word


def rarity(texts: Iterable[str]) -> dict[str, float]:
    """Return each word's inverse document frequency over `texts`: log(1 + (n - df + 0.5) / (df + 0.5)), as in BM25."""
    seen: Counter[str] = Counter()
    n_texts = 0
    for text in texts:
        seen.update(set(content_words(text)))
        n_texts += 1
    return {word: math.log(1 + (n_texts - n + 0.5) / (n + 0.5)) for word, n in seen.items()}


def coverage(wanted: str, text: str, weights: Mapping[str, float]) -> float:
    """Return the share, by weight, of the words of `wanted` that `text` has too: 0 to 1. Unknown words weigh most."""
    words = set(content_words(wanted))
    most = max(weights.values(), default=1.0)
    total = sum(weights.get(word, most) for word in words)
    there = sum(weights.get(word, most) for word in words & set(content_words(text)))
    return there / total if total else 0.0
