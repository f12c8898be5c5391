"""Metrics of retrieval and of short answers, and their intervals.

Recall and nDCG are over binary relevance; exact match and F1 are SQuAD's (Rajpurkar et al. 2016, section 6.1).
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

DEPTH = 20
"""How deep a ranking is read; MRR is 0 below it."""


def ranking(found: Sequence[str], relevant: Sequence[str]) -> dict[str, float]:
    """Return recall@1, @5, @20, nDCG@10 and MRR of one ranking."""
    wanted = set(relevant)
    hits = [identity in wanted for identity in found[:DEPTH]]
    best = sum(1 / math.log2(rank + 1) for rank in range(1, min(len(wanted), 10) + 1))
    gained = sum(1 / math.log2(rank + 1) for rank, hit in enumerate(hits[:10], 1) if hit)
    return {
        **{f"recall@{k}": sum(hits[:k]) / len(wanted) for k in (1, 5, 20)},
        "nDCG@10": gained / best,
        "MRR": next((1 / rank for rank, hit in enumerate(hits, 1) if hit), 0.0),
    }


def agreement(answer: str, wanted: Sequence[str]) -> dict[str, float]:
    """Return exact match, F1 and whether the answer holds the wanted words, each the best over what is accepted."""
    given = _normal(answer)
    return {
        "exact": max(float(given == _normal(one)) for one in wanted),
        "F1": max(_f1(given, _normal(one)) for one in wanted),
        "holds": max(float(f" {' '.join(_normal(one))} " in f" {' '.join(given)} ") for one in wanted),
    }


def _normal(text: str) -> list[str]:
    plain = "".join(" " if letter in string.punctuation else letter for letter in text.lower())
    return re.sub(r"\b(a|an|the)\b", " ", plain).split()


def _f1(given: list[str], wanted: list[str]) -> float:
    same = sum((Counter(given) & Counter(wanted)).values())
    return 2 * same / (len(given) + len(wanted)) if same else 0.0


def interval(values: Sequence[float], draws: int = 2000) -> tuple[float, float, float]:
    """Return the mean and its 95% interval by the percentile bootstrap (Efron 1979)."""
    data = np.asarray(values, dtype=float)
    means = data[np.random.default_rng(7).integers(len(data), size=(draws, len(data)))].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(data.mean()), float(low), float(high)


def auc(labels: Sequence[bool], scores: Sequence[float]) -> float:
    """Return the area under the ROC curve: how often a true one scores higher than a false one; ties count half."""
    truth, values = np.asarray(labels, dtype=bool), np.asarray(scores, dtype=float)
    differences = values[truth][:, None] - values[~truth][None, :]
    return float((differences > 0).mean() + (differences == 0).mean() / 2)


def auc_interval(
    labels: Sequence[bool], scores: Sequence[float], against: Sequence[float] | None = None, *, draws: int = 1000
) -> tuple[float, float, float]:
    """Return the AUC, less that of other scores of the same rows, and its 95% interval by bootstrap over rows."""
    truth = np.asarray(labels, dtype=bool)

    def measured(rows: np.ndarray) -> float:
        drawn = truth[rows].tolist()
        gain = auc(drawn, np.asarray(scores, dtype=float)[rows].tolist())
        return gain - (auc(drawn, np.asarray(against, dtype=float)[rows].tolist()) if against is not None else 0.0)

    random = np.random.default_rng(7)
    drawn: list[float] = []
    while len(drawn) < draws:
        rows = random.integers(len(truth), size=len(truth))
        if 0 < truth[rows].sum() < len(rows):
            drawn.append(measured(rows))
    low, high = np.percentile(drawn, (2.5, 97.5))
    return measured(np.arange(len(truth))), float(low), float(high)
