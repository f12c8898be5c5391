"""Fitting a cascade: calibrations first, then the thresholds that reach a target.

Every member must have answered every row (`ask_all`), so that any threshold can be tried without asking again. What
the cascade is worth is told by cross-validation, calibrations and thresholds both fitted without the row. Invariant:
without a target the most accurate thresholds are taken, and of equally accurate ones the cheapest.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from gristmill import FunctionError

from ._cascade import CascadeEvidence, FittedCascade, logit, sigmoid
from ._stack_fit import one_thread

LEAST_ROWS = 20
NEVER = 2.0
"""A threshold that no confidence reaches."""
MOST_TRIED = 5000
"""Combinations of thresholds that are tried: some 0.3 s with 300 rows."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What one member made of one row."""

    right: bool
    confidence: float
    cost: float


Row = Mapping[str, Answered]


@dataclass(frozen=True, slots=True)
class Target:
    """What the cascade must reach; at most one of them."""

    accuracy: float | None = None
    cost: float | None = None


@dataclass(frozen=True, slots=True)
class _Outcome:
    accuracy: float
    cost: float
    shares: dict[str, float]


def fit_cascade(
    rows: Sequence[Row], members: Sequence[str], *, target: Target = Target(), folds: int = 5, seed: int = 0
) -> FittedCascade:
    """Fit calibrations and thresholds.

    Args:
        rows: at least twenty; each has every member.
        members: in the order in which they are asked.
        target: the accuracy to reach as cheaply as can be, or the cost to stay within as accurately as can be.
        folds: parts of the cross-validation that judges the result.
        seed: of the parts.

    Raises:
        FunctionError: too few rows, a row that lacks a member, or a target that no thresholds reach.
    """
    _check(rows, members, target)
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    judged: list[tuple[int, _Outcome]] = []
    with one_thread():
        for fold in range(folds):
            testing = [rows[i] for i in order[fold::folds]]
            training = [rows[i] for k, i in enumerate(order) if k % folds != fold]
            lines = _lines(training, members)
            chosen = _choose(_calibrate(training, lines), members, target, strict=False)
            judged.append((len(testing), _simulate(_calibrate(testing, lines), members, chosen)))
        lines = _lines(rows, members)
    thresholds = _choose(_calibrate(rows, lines), members, target, strict=True)
    return FittedCascade(
        members=tuple(members),
        slopes={name: slope for name, (slope, _) in lines.items()},
        intercepts={name: intercept for name, (_, intercept) in lines.items()},
        thresholds=dict(zip(members[:-1], thresholds, strict=True)),
        costs={name: fmean(row[name].cost for row in rows) for name in members},
        evidence=CascadeEvidence(
            n=len(rows),
            accuracy=sum(n * outcome.accuracy for n, outcome in judged) / len(rows),
            cost=sum(n * outcome.cost for n, outcome in judged) / len(rows),
            members={name: fmean(row[name].right for row in rows) for name in members},
            shares={name: sum(n * o.shares[name] for n, o in judged) / len(rows) for name in members},
            folds=folds,
        ),
    )


def _check(rows: Sequence[Row], members: Sequence[str], target: Target) -> None:
    if len(members) < 2:
        raise FunctionError(f"a cascade has two members or more, this has {len(members)}")
    if len(rows) < LEAST_ROWS:
        raise FunctionError(f"a cascade is fitted on {LEAST_ROWS} rows or more, these are {len(rows)}")
    if target.accuracy is not None and target.cost is not None:
        raise FunctionError("a cascade is fitted for a target accuracy or a target cost, not for both")
    for n, row in enumerate(rows, start=1):
        if missing := [name for name in members if name not in row]:
            raise FunctionError(
                f"row {n} has no answer of {missing[0]!r}", hint="collect the rows with `ask_all: true`"
            )


def _lines(rows: Sequence[Row], members: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return each member's slope and intercept from the logit of its confidence to that of being right."""
    return {name: _platt([row[name] for row in rows]) for name in members}


def _platt(answers: Sequence[Answered]) -> tuple[float, float]:
    """Fit a logistic regression of one variable; where confidence misleads, only the base rate is kept."""
    from sklearn.linear_model import LogisticRegression

    right = [answer.right for answer in answers]
    base = (sum(right) + 1) / (len(right) + 2)
    if all(right) or not any(right):
        return 0.0, logit(base)
    x = [[logit(answer.confidence)] for answer in answers]
    model = LogisticRegression(C=10.0, max_iter=1000).fit(x, right)
    slope, intercept = float(model.coef_[0][0]), float(model.intercept_[0])
    return (slope, intercept) if slope > 0 else (0.0, logit(base))


def _calibrate(rows: Sequence[Row], lines: Mapping[str, tuple[float, float]]) -> list[dict[str, Answered]]:
    def one(name: str, answer: Answered) -> Answered:
        slope, intercept = lines[name]
        return Answered(answer.right, sigmoid(slope * logit(answer.confidence) + intercept), answer.cost)

    return [{name: one(name, row[name]) for name in lines} for row in rows]


def _choose(rows: Sequence[Row], members: Sequence[str], target: Target, *, strict: bool) -> list[float]:
    """Return the best thresholds under a target; not strict, the nearest to it where none reaches it."""
    first = members[:-1]
    most = max(3, int(MOST_TRIED ** (1 / len(first))))
    tried = [
        (list(thresholds), _simulate(rows, members, thresholds))
        for thresholds in itertools.product(
            *(_candidates([row[name].confidence for row in rows], most) for name in first)
        )
    ]
    if target.accuracy is not None:
        good = [pair for pair in tried if pair[1].accuracy >= target.accuracy]
        best = max(tried, key=lambda pair: (pair[1].accuracy, -pair[1].cost))
        if not good and strict:
            raise FunctionError(
                f"no thresholds reach an accuracy of {target.accuracy:g}: the best is {best[1].accuracy:.3f}",
                hint="lower the target, or add a stronger member",
            )
        return min(good, key=lambda pair: (pair[1].cost, -pair[1].accuracy))[0] if good else best[0]
    if target.cost is not None:
        good = [pair for pair in tried if pair[1].cost <= target.cost]
        cheapest = min(tried, key=lambda pair: (pair[1].cost, -pair[1].accuracy))
        if not good and strict:
            raise FunctionError(
                f"no thresholds stay within a cost of {target.cost:g}: the least is {cheapest[1].cost:.4g}"
            )
        tried = good or [cheapest]
    return max(tried, key=lambda pair: (pair[1].accuracy, -pair[1].cost))[0]


def _candidates(confidences: Sequence[float], most: int) -> list[float]:
    """Return thresholds to try: always, never, and quantiles in between."""
    known = sorted(set(confidences))
    n = min(len(known), max(1, min(most, 41) - 2))
    between = [known[round(k * (len(known) - 1) / max(n - 1, 1))] for k in range(n)]
    return [0.0, *sorted(set(between)), NEVER]


def _simulate(rows: Sequence[Row], members: Sequence[str], thresholds: Sequence[float]) -> _Outcome:
    """Return what thresholds come to: whoever is sure enough first answers, and all who were asked cost."""
    right, cost = 0, 0.0
    counts = dict.fromkeys(members, 0)
    wanted = [*thresholds, 0.0]
    for row in rows:
        for name, threshold in zip(members, wanted, strict=True):
            answer = row[name]
            cost += answer.cost
            if answer.confidence >= threshold:
                break
        right += answer.right
        counts[name] += 1
    n = max(len(rows), 1)
    return _Outcome(right / n, cost / n, {name: count / n for name, count in counts.items()})
