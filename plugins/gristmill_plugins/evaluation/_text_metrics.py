"""Scores of one answer against what was expected: words, numbers, JSON.

Each says where its definition comes from. Where several answers are right, the best score counts. Invariant: a score is
from 0 to 1, and depends on nothing but the two texts.
"""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = set(string.punctuation)
_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?")
NUMBER_TOLERANCE = 1e-6
"""Relative: answers are printed decimals, not results of floating-point sums."""


@lru_cache(maxsize=16_384)  # figures of all rows are computed a thousand times over the same answers
def normalise(text: str) -> str:
    """Return SQuAD's normal form: lower case, no punctuation, no articles, single spaces.

    Rajpurkar et al. 2016, SQuAD: 100,000+ Questions, section 5, as in the official evaluation script.
    """
    lowered = "".join(char for char in text.lower() if char not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", lowered).split())


def accuracy(answer: str, expected: str) -> float:
    """1 where the label is the expected one, but for case, outer spaces and closing punctuation."""
    return float(label_of(answer) == label_of(expected))


@lru_cache(maxsize=16_384)
def label_of(text: str) -> str:
    """Return a label's normal form: what `accuracy` compares."""
    return text.strip().strip("\"'`*").rstrip(".!").strip().casefold()


def exact_match(answer: str, expected: str) -> float:
    """1 where both have the same SQuAD normal form."""
    return float(normalise(answer) == normalise(expected))


def contains(answer: str, expected: str) -> float:
    """1 where the answer's SQuAD normal form contains the expected one's words in a row."""
    return float(f" {normalise(expected)} " in f" {normalise(answer)} ")


def token_f1(answer: str, expected: str) -> float:
    """Harmonic mean of precision and recall of words in SQuAD normal form (Rajpurkar et al. 2016, section 5).

    As in SQuAD 2.0's script, an answer without words equals only another one without words.
    """
    found, wanted = normalise(answer).split(), normalise(expected).split()
    if not found or not wanted:
        return float(found == wanted)
    common = sum((Counter(found) & Counter(wanted)).values())
    return 2 * common / (len(found) + len(wanted))


def numeric_match(answer: str, expected: str) -> float:
    """1 where the last number of the answer is the expected number (the convention for GSM8K's chains of thought)."""
    found, wanted = last_number(answer), last_number(expected)
    if found is None or wanted is None:
        return 0.0
    return float(abs(found - wanted) <= NUMBER_TOLERANCE * max(1.0, abs(wanted)))


def last_number(text: str) -> float | None:
    """Return the last number in a text, thousands separators understood; None if there is none."""
    numbers = _NUMBER.findall(text)
    try:
        return float(numbers[-1].replace(",", "")) if numbers else None
    except (ValueError, OverflowError):
        return None


def json_valid(answer: str) -> float:
    """1 where the whole answer is JSON as RFC 8259 has it: NaN and Infinity are none."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        json.loads(answer, parse_constant=refuse)
    except (ValueError, RecursionError):
        return 0.0
    return 1.0


def rouge(kind: str) -> Callable[[str, str], float]:
    """Return ROUGE-1, -2 or -L (Lin 2004), the F-measure with Porter stemming, by Google's `rouge-score`."""

    def score(answer: str, expected: str) -> float:
        return float(_rouge_scorer().score(expected, answer)[kind].fmeasure)

    return score


@lru_cache(maxsize=1)
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)


def corpus_bleu(answers: Sequence[str], expected: Sequence[Sequence[str]]) -> float:
    """Return BLEU of a corpus (Papineni et al. 2002) by sacrebleu (Post 2018), from 0 to 1; tokenisation 13a."""
    from sacrebleu.metrics import BLEU

    most = max((len(texts) for texts in expected), default=0)
    if most == 0:
        return 0.0
    references = [[texts[min(place, len(texts) - 1)] if texts else "" for texts in expected] for place in range(most)]
    return float(BLEU().corpus_score(list(answers), references).score) / 100
