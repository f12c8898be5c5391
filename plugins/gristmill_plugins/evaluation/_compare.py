"""Says of recipes that answered the same rows which is better, by how much, and whether that is chance.

It measures nothing itself: it looks at what `_evaluate` returned. Invariant: a difference is always the second minus
the first, over the rows that both have a score for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from gristmill_plugins.evaluation._evaluate import Evaluated, clusters, figure_of
from gristmill_plugins.evaluation._metrics import METRICS, Metric
from gristmill_plugins.evaluation._statistics import (
    Interval,
    bootstrap_interval,
    difference_interval,
    holm,
    mcnemar_exact,
    paired_permutation,
)

MOST_EXAMPLES = 12


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric of two recipes. `p` is as the test gives it, `p_holm` adjusted for all comparisons of the metric."""

    metric: str
    first: str
    second: str
    value: float
    interval: Interval
    test: str
    p: float
    p_holm: float
    wins: int
    """Rows that the second does better; 0 for a set metric, like `ties` and `losses`."""
    ties: int
    losses: int
    lower_is_better: bool

    @property
    def better(self) -> str | None:
        """The better recipe, or None where the adjusted test does not tell them apart at 0.05."""
        if self.p_holm >= 0.05 or self.value == 0:
            return None
        return self.second if (self.value > 0) != self.lower_is_better else self.first

    def as_json(self) -> dict[str, Any]:
        """Return the record's form."""
        return asdict(self) | {"better": self.better}


def compare(evaluated: Sequence[Evaluated], *, all_pairs: bool = False, seed: int = 0) -> list[Difference]:
    """Compare each recipe with the first, or all with all, in every metric that they share."""
    pairs = list(combinations(evaluated, 2)) if all_pairs else [(evaluated[0], other) for other in evaluated[1:]]
    found: list[Difference] = []
    for metric in evaluated[0].figures:
        of_metric = [one for first, second in pairs if (one := _difference(metric, first, second, seed)) is not None]
        adjusted = holm([one.p for one in of_metric])
        found += [_with_holm(one, p) for one, p in zip(of_metric, adjusted, strict=True)]
    return found


def _with_holm(one: Difference, p: float) -> Difference:
    from dataclasses import replace

    return replace(one, p_holm=p)


def _difference(name: str, first: Evaluated, second: Evaluated, seed: int) -> Difference | None:
    a, b = first.figures[name], second.figures[name]
    if a.scores is None or b.scores is None:
        return _set_difference(METRICS[name], first, second, seed)
    both = [(x, y) for x, y in zip(a.scores, b.scores, strict=True) if x is not None and y is not None]
    if not both:
        return None
    differences = [y - x for x, y in both]
    signs = [(d > 0) - (d < 0) if not a.lower_is_better else (d < 0) - (d > 0) for d in differences]
    if all(x in (0, 1) and y in (0, 1) for x, y in both):
        only_first, only_second = sum(d < 0 for d in differences), sum(d > 0 for d in differences)
        test, p = "McNemar, exact", mcnemar_exact(only_first, only_second)
    else:
        test, p = "paired permutation", paired_permutation(differences, seed=seed)
    return Difference(
        name, first.name, second.name, math.fsum(differences) / len(differences),
        difference_interval(differences, seed=seed), test, p, p,
        signs.count(1), signs.count(0), signs.count(-1), a.lower_is_better,
    )  # fmt: skip


def _set_difference(metric: Metric, first: Evaluated, second: Evaluated, seed: int) -> Difference | None:
    """Compare a figure of all rows: bootstrap of the rows for the interval, swaps of the recipes' rows for the test."""
    n = len(first.samples)

    def gap(rows: Sequence[int]) -> float | None:
        x, y = figure_of(metric, first.repeats, rows), figure_of(metric, second.repeats, rows)
        return None if x is None or y is None else y - x

    observed = gap(range(n))
    if observed is None:
        return None
    together = clusters(metric, first.samples)
    interval = bootstrap_interval(gap, n, clusters=together, seed=seed, resamples=metric.resamples)
    p = _swapped(metric, first, second, observed, together or [[row] for row in range(n)], seed)
    return Difference(metric.name, first.name, second.name, observed, interval, "paired permutation", p, p,
                      0, 0, 0, metric.lower_is_better)  # fmt: skip


def _swapped(
    metric: Metric, first: Evaluated, second: Evaluated, observed: float, together: Sequence[Sequence[int]], seed: int
) -> float:
    """Return the p-value: rows change sides in all repeats together, as a row's repeats are not independent."""
    import random

    chance, hits, drawn, all_rows = random.Random(seed), 0, 0, range(len(first.samples))
    for _ in range(metric.resamples):
        ours, theirs = [list(samples) for samples in first.repeats], [list(samples) for samples in second.repeats]
        for rows in together:
            if chance.random() < 0.5:
                for mine, other in zip(ours, theirs, strict=True):
                    for row in rows:
                        mine[row], other[row] = other[row], mine[row]
        a, b = figure_of(metric, ours, all_rows), figure_of(metric, theirs, all_rows)
        if a is not None and b is not None:
            drawn += 1
            hits += abs(b - a) >= abs(observed) - 1e-12
    return (hits + 1) / (drawn + 1)


@dataclass(frozen=True, slots=True)
class Point:
    """A recipe in the picture of quality against cost. `front`: no other is at least as good and cheaper, or better."""

    name: str
    cost: float
    value: float
    front: bool


def pareto(evaluated: Sequence[Evaluated], metric: str) -> list[Point]:
    """Return every recipe's place: tokens of a row (cached ones included) and the metric's value."""
    known = [
        (one.name, one.cost.tokens_per_row, figure.value)
        for one in evaluated
        if (figure := one.figures[metric]).value is not None
    ]
    sign = -1.0 if evaluated[0].figures[metric].lower_is_better else 1.0
    points = []
    for name, cost, value in known:
        assert value is not None
        beaten = any(
            c <= cost and sign * (v or 0.0) >= sign * value and (c < cost or sign * (v or 0.0) > sign * value)
            for _, c, v in known
        )
        points.append(Point(name, cost, value, not beaten))
    return points


def examples(first: Evaluated, second: Evaluated, metric: str, *, most: int = MOST_EXAMPLES) -> list[dict[str, Any]]:
    """Return rows where two recipes differ most in a metric, wins and losses in turn."""
    a, b = first.figures[metric].scores, second.figures[metric].scores
    if a is None or b is None:
        return []
    gaps = [(y - x, index) for index, (x, y) in enumerate(zip(a, b, strict=True)) if x is not None and y is not None]
    up = sorted((gap for gap in gaps if gap[0] > 0), key=lambda gap: (-gap[0], gap[1]))
    down = sorted((gap for gap in gaps if gap[0] < 0), key=lambda gap: (gap[0], gap[1]))
    turns = [pair[side] for pair in zip(_padded(up, most), _padded(down, most), strict=True) for side in (0, 1)]
    chosen = [gap for gap in turns if gap is not None][:most]
    return [
        {
            "row": index + 1,
            "data": dict(first.rows[index].data),
            "expected": list(first.samples[index].expected),
            "answers": {one.name: one.samples[index].answer for one in (first, second)},
            "scores": {first.name: a[index], second.name: b[index]},
        }
        for _, index in chosen
    ]


def _padded(items: list[tuple[float, int]], n: int) -> list[tuple[float, int] | None]:
    return [*items[:n], *[None] * max(0, n - len(items))]
