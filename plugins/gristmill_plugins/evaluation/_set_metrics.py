"""Figures of a set of answers that are no mean of scores: calibration, fairness, robustness.

Each function takes what it needs as plain sequences and says where its definition comes from. None of them knows a
recipe. Invariant: None where the figure does not exist (no rows, one group), never a number made up.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

BINS = 10


@dataclass(frozen=True, slots=True)
class Bin:
    """One bar of a reliability diagram: answers whose confidence lies in (low, high]."""

    low: float
    high: float
    n: int
    confidence: float
    """Their mean confidence."""
    accuracy: float


def reliability(confidences: Sequence[float], correct: Sequence[float], *, n_bins: int = BINS) -> list[Bin]:
    """Return the bars of a reliability diagram, the empty ones left out (Guo et al. 2017, figure 1 and equation 2)."""
    members: dict[int, list[int]] = defaultdict(list)
    for index, confidence in enumerate(confidences):
        place = math.ceil(round(confidence * n_bins, 9)) - 1  # rounded: 0.7 * 10 is a little more than 7
        members[min(n_bins - 1, max(0, place))].append(index)
    return [
        Bin(
            place / n_bins, (place + 1) / n_bins, len(inside),
            sum(confidences[i] for i in inside) / len(inside), sum(correct[i] for i in inside) / len(inside),
        )
        for place, inside in sorted(members.items())
    ]  # fmt: skip


def expected_calibration_error(confidences: Sequence[float], correct: Sequence[float]) -> float | None:
    """Return the mean distance of confidence and accuracy over 10 equal bins (Naeini 2015; Guo et al. 2017, eq. 3)."""
    if not confidences:
        return None
    bars = reliability(confidences, correct)
    return sum(bar.n * abs(bar.accuracy - bar.confidence) for bar in bars) / len(confidences)


def brier(probabilities: Sequence[dict[str, float]], expected: Sequence[str]) -> float | None:
    """Return the mean squared distance of probabilities and outcome, over all labels (Brier 1950): from 0 to 2."""
    if not probabilities:
        return None
    total = 0.0
    for shares, truth in zip(probabilities, expected, strict=True):
        labels = {*shares, truth}
        total += sum((shares.get(label, 0.0) - (label == truth)) ** 2 for label in labels)
    return total / len(probabilities)


def selective_accuracy(confidences: Sequence[float], correct: Sequence[float], coverage: float) -> float | None:
    """Return the accuracy of the most confident share of answers (El-Yaniv and Wiener 2010)."""
    curve = accuracy_coverage(confidences, correct)
    if not curve:
        return None
    place = max(1, round(coverage * len(curve)))
    return curve[place - 1]


def accuracy_coverage(confidences: Sequence[float], correct: Sequence[float]) -> list[float]:
    """Return the accuracy of the k most confident answers, for k from 1 to n.

    Answers of one confidence have no order, so each of them counts as the mean of them all.
    """
    by_confidence: dict[float, list[float]] = defaultdict(list)
    for confidence, right in zip(confidences, correct, strict=True):
        by_confidence[confidence].append(right)
    curve: list[float] = []
    total = 0.0
    for confidence in sorted(by_confidence, reverse=True):
        tied = by_confidence[confidence]
        for _ in tied:
            total += sum(tied) / len(tied)
            curve.append(total / (len(curve) + 1))
    return curve


def accuracy_coverage_auc(confidences: Sequence[float], correct: Sequence[float]) -> float | None:
    """Return the area under the accuracy-coverage curve: 1 minus AURC (Geifman and El-Yaniv 2017; Geifman 2019)."""
    curve = accuracy_coverage(confidences, correct)
    return sum(curve) / len(curve) if curve else None


def demographic_parity_difference(answers: Sequence[str], groups: Sequence[str]) -> float | None:
    """Return the largest difference between groups in how often a label is given (Dwork et al. 2012).

    With more than two labels, the label with the largest difference counts.
    """
    if len(set(groups)) < 2:
        return None
    return max(_spread([answer == label for answer in answers], groups) for label in set(answers))


def accuracy_parity_difference(correct: Sequence[float], groups: Sequence[str]) -> float | None:
    """Return the largest difference between groups in accuracy: WinoBias' measure (Zhao et al. 2018, section 5)."""
    if len(set(groups)) < 2:
        return None
    return _spread([right == 1 for right in correct], groups)


def equalised_odds_difference(answers: Sequence[str], expected: Sequence[str], groups: Sequence[str]) -> float | None:
    """Return the largest difference between groups in how often a label is given, among rows of one true label.

    Hardt et al. 2016, definition 2.1; for two labels the greater of the differences of true and of false positive
    rates, as fairlearn defines it.
    """
    if len(set(groups)) < 2:
        return None
    found = []
    for truth in set(expected):
        rows = [i for i, label in enumerate(expected) if label == truth]
        inside = [groups[i] for i in rows]
        if len(set(inside)) > 1:
            found += [_spread([answers[i] == label for i in rows], inside) for label in {answers[i] for i in rows}]
    return max(found, default=None)


def _spread(hits: Sequence[bool], groups: Sequence[str]) -> float:
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for hit, group in zip(hits, groups, strict=True):
        counts[group][0] += hit
        counts[group][1] += 1
    rates = [hit / n for hit, n in counts.values()]
    return max(rates) - min(rates)


def performance_drop(correct: Sequence[float], perturbed: Sequence[bool]) -> float | None:
    """Return the share of accuracy that perturbed inputs cost (PromptBench: Zhu et al. 2023, section 3.2)."""
    original = [right for right, changed in zip(correct, perturbed, strict=True) if not changed]
    attacked = [right for right, changed in zip(correct, perturbed, strict=True) if changed]
    if not attacked or not sum(original):
        return None
    return 1 - (sum(attacked) / len(attacked)) / (sum(original) / len(original))


def attack_success_rate(correct: Sequence[float], perturbed: Sequence[bool], pairs: Sequence[str]) -> float | None:
    """Return the share of perturbed rows that are wrong, of those whose original was right (AdvGLUE: Wang 2021)."""
    right_before = {
        pair for right, changed, pair in zip(correct, perturbed, pairs, strict=True) if not changed and right == 1
    }
    attacked = [
        r for r, changed, pair in zip(correct, perturbed, pairs, strict=True) if changed and pair in right_before
    ]
    return sum(right < 1 for right in attacked) / len(attacked) if attacked else None


def consistency(answers: Sequence[str], perturbed: Sequence[bool], pairs: Sequence[str]) -> float | None:
    """Return the share of perturbed rows answered as their original was (the INV tests of CheckList: Ribeiro 2020)."""
    before = {pair: answer for answer, changed, pair in zip(answers, perturbed, pairs, strict=True) if not changed}
    kept = [a == before[pair] for a, changed, pair in zip(answers, perturbed, pairs, strict=True)
            if changed and pair in before]  # fmt: skip
    return sum(kept) / len(kept) if kept else None
