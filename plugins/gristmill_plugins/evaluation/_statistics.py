"""Intervals and tests for scores of the same rows: what is a difference, and what is chance.

It knows numbers, no recipes. Everything random takes a seed. Invariant: the same numbers and seed give the same
interval and p-value, and a p-value is never 0.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

LEVEL = 0.95
RESAMPLES = 2_000
PERMUTATIONS = 10_000
MOST_EXACT = 14
"""With so many rows that differ, all 2 to the 14th sign patterns are counted instead of drawn."""
CHUNK = 4_000_000
"""Resampled indices held at once: 32 MB."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Where a figure lies, at the level of the module (95%)."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"[{self.low:.3f}, {self.high:.3f}]"


def mean_interval(values: Sequence[float], *, seed: int = 0) -> Interval:
    """Return the interval of a mean.

    Of zeros and ones it is Wilson's score interval (Wilson 1927), which stays honest at 0 and 1, where every resample
    of the bootstrap is the same. Of anything else it is the percentile bootstrap with its quantiles moved outwards for
    small n, so that it is no shorter than a t interval (Hesterberg 2015, What Teachers Should Know About the
    Bootstrap, section 5.3).
    """
    if not values:
        return Interval(math.nan, math.nan)
    if all(value in (0, 1) for value in values):
        return wilson(sum(value == 1 for value in values), len(values))
    return _quantiles(_resampled_means(values, seed), len(values))


def difference_interval(differences: Sequence[float], *, seed: int = 0) -> Interval:
    """Return the interval of the mean difference of paired scores.

    Of differences of zeros and ones it is that of Agresti and Min 2005 (half a row added to each kind of row, which
    keeps it honest where few rows differ, or all in one way), else the percentile bootstrap of `mean_interval`.
    """
    n = len(differences)
    if n == 0:
        return Interval(math.nan, math.nan)
    if not all(value in (-1, 0, 1) for value in differences):
        return _quantiles(_resampled_means(differences, seed), n)
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    worse, better = sum(d == -1 for d in differences) + 0.5, sum(d == 1 for d in differences) + 0.5
    middle = (better - worse) / (n + 2)
    half = z * math.sqrt(worse + better - (better - worse) ** 2 / (n + 2)) / (n + 2)
    return Interval(max(-1.0, middle - half), min(1.0, middle + half))


def wilson(successes: int, n: int) -> Interval:
    """Return Wilson's score interval for a proportion."""
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    share, scale = successes / n, 1 + z * z / n
    middle = (share + z * z / (2 * n)) / scale
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def bootstrap_interval(
    statistic: Callable[[Sequence[int]], float | None], n: int, *, clusters: Sequence[Sequence[int]] | None = None,
    seed: int = 0, resamples: int = 1_000,
) -> Interval:  # fmt: skip
    """Return the interval of any figure of n rows: `statistic` gets row indices, drawn with replacement.

    With `clusters`, rows of one cluster (an original and its perturbed forms) are drawn together.

    Percentiles, less the bootstrap's estimate of bias (Efron and Tibshirani 1993, chapter 10): a calibration error or a
    largest difference is greater in resamples than in the rows they are drawn from, and its bare percentiles may lie
    above the figure itself. Resamples for which the figure does not exist (None) are left out; with too few left the
    interval is not a number.
    """
    import numpy as np

    observed = statistic(range(n)) if n else None
    if observed is None or not math.isfinite(observed):
        return Interval(math.nan, math.nan)
    chance = np.random.default_rng(seed)
    whole = clusters if clusters is not None else [(row,) for row in range(n)]
    draws = (chance.integers(0, len(whole), len(whole)).tolist() for _ in range(resamples))
    drawn = (statistic([row for place in places for row in whole[place]]) for places in draws)
    figures = [figure for figure in drawn if figure is not None and math.isfinite(figure)]
    if len(figures) < resamples // 2:
        return Interval(math.nan, math.nan)
    interval = _quantiles(np.asarray(figures), len(whole))
    bias = math.fsum(figures) / len(figures) - observed
    return Interval(interval.low - bias, interval.high - bias)


def _resampled_means(values: Sequence[float], seed: int) -> np.ndarray[Any, Any]:
    import numpy as np

    array = np.asarray(values, dtype=float)
    chance, n = np.random.default_rng(seed), len(array)
    at_once = max(1, CHUNK // n)
    parts = [
        array[chance.integers(0, n, (min(at_once, RESAMPLES - start), n))].mean(axis=1)
        for start in range(0, RESAMPLES, at_once)
    ]
    return np.concatenate(parts)


def _quantiles(figures: np.ndarray[Any, Any], n: int) -> Interval:
    import numpy as np
    from scipy.special import stdtrit

    tail = (1 - LEVEL) / 2
    if n > 1:
        tail = NormalDist().cdf(math.sqrt(n / (n - 1)) * float(stdtrit(n - 1, tail)))
    low, high = np.quantile(figures, [tail, 1 - tail])
    return Interval(float(low), float(high))


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test: rows that only the first, or only the second, got right.

    The binomial test of McNemar 1947 without the chi-squared approximation (Dietterich 1998 on its use for learners).
    """
    from scipy.special import bdtr

    n = only_first + only_second
    if n == 0:
        return 1.0
    tail = float(bdtr(min(only_first, only_second), n, 0.5))
    return min(1.0, max(2 * tail, sys.float_info.min))  # never 0, where the true value is below every float


def paired_permutation(differences: Sequence[float], *, seed: int = 0) -> float:
    """Return the two-sided p-value of the paired permutation test of a mean difference of 0.

    Under the null hypothesis each difference may as well have the other sign (Fisher 1935; Noreen 1989). All patterns
    are counted where there are few, else 10,000 are drawn and the observed one is counted among them (Phipson and
    Smyth 2010), so the value is never 0.
    """
    import numpy as np

    moved = np.asarray([value for value in differences if value != 0], dtype=float)
    if len(moved) == 0:
        return 1.0
    observed = abs(moved.sum()) - 1e-12 * abs(moved).sum()
    if len(moved) <= MOST_EXACT:
        sums = np.asarray(list(product((1, -1), repeat=len(moved)))) @ moved
        return float(np.mean(abs(sums) >= observed))
    chance, hits = np.random.default_rng(seed), 0
    at_once = max(1, CHUNK // len(moved))
    for start in range(0, PERMUTATIONS, at_once):
        signs = chance.integers(0, 2, (min(at_once, PERMUTATIONS - start), len(moved)), dtype=np.int8) * 2 - 1
        hits += int((abs(signs @ moved) >= observed).sum())
    return (hits + 1) / (PERMUTATIONS + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number, in the order given (Holm 1979): compare them with 0.05 as they are."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
