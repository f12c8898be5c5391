"""Intervals cover what they promise, and tests give the p-values that scipy and the literature give."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from gristmill_plugins.evaluation._statistics import (
    Interval,
    bootstrap_interval,
    difference_interval,
    holm,
    mcnemar_exact,
    mean_interval,
    paired_permutation,
    wilson,
)


def scores(chance: np.random.Generator, kind: str, n: int) -> tuple[np.ndarray, float]:
    """Return n scores of a kind, and their true mean."""
    if kind == "right or wrong":
        return (chance.random(n) < 0.7).astype(float), 0.7
    if kind == "f1":  # a third 0, a quarter 1, the rest between
        part = chance.random(n)
        return np.where(part < 1 / 3, 0.0, np.where(part < 7 / 12, 1.0, chance.random(n))), 1 / 4 + 5 / 12 / 2
    return (chance.random(n) < 0.6).astype(float) - (chance.random(n) < 0.5), 0.1  # paired differences


@pytest.mark.parametrize("kind", ["right or wrong", "f1", "paired differences"])
def test_an_interval_of_95_percent_covers_the_true_mean_93_to_97_times_in_100(kind: str) -> None:
    chance, n_sets, covered = np.random.default_rng(7), 1_000, 0
    for number in range(n_sets):
        values, truth = scores(chance, kind, 100)
        of = difference_interval if kind == "paired differences" else mean_interval
        interval = of(values.tolist(), seed=number)
        covered += interval.low <= truth <= interval.high
    assert 0.93 <= covered / n_sets <= 0.97


def test_the_bootstrap_of_a_mean_agrees_with_scipys_percentile_interval() -> None:
    values = np.random.default_rng(1).gamma(2.0, size=400)
    ours = mean_interval(values.tolist())
    theirs = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=9_999, rng=np.random.default_rng(2)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.05 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.05 * width)


def test_a_proportions_interval_is_scipys_wilson_interval_and_honest_at_its_ends() -> None:
    for successes, n in [(0, 10), (3, 10), (10, 10), (70, 100)]:
        theirs = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
        assert wilson(successes, n).low == pytest.approx(theirs.low, abs=1e-12)
        assert wilson(successes, n).high == pytest.approx(theirs.high, abs=1e-12)
    assert mean_interval([1.0] * 20) == wilson(20, 20)
    assert mean_interval([1.0] * 20).low < 0.9


def test_the_bootstrap_of_any_figure_agrees_with_that_of_a_mean_and_says_when_there_is_none() -> None:
    values = np.random.default_rng(3).random(200)
    of_mean = mean_interval(values.tolist())
    general = bootstrap_interval(lambda rows: float(values[list(rows)].mean()), len(values))
    assert general.low == pytest.approx(of_mean.low, abs=0.01)
    assert general.high == pytest.approx(of_mean.high, abs=0.01)
    assert math.isnan(bootstrap_interval(lambda _: None, 5).low)
    assert math.isnan(mean_interval([]).high)


def test_rows_of_one_cluster_are_drawn_together() -> None:
    seen: list[list[int]] = []

    def of(rows: Sequence[int]) -> float:
        seen.append(list(rows))
        return float(len(rows))

    bootstrap_interval(of, 6, clusters=[[0, 1, 2], [3], [4, 5]], resamples=50)
    for rows in seen[1:]:
        assert rows.count(0) == rows.count(1) == rows.count(2)
        assert rows.count(4) == rows.count(5)


def test_an_interval_of_a_largest_difference_holds_the_figure_itself() -> None:
    chance = np.random.default_rng(4)
    answers, groups = chance.integers(0, 6, 120), chance.integers(0, 2, 120)

    def largest(rows: Sequence[int]) -> float:
        a, g = answers[list(rows)], groups[list(rows)]
        return max(abs(float((a[g == 0] == label).mean()) - float((a[g == 1] == label).mean())) for label in range(6))

    interval = bootstrap_interval(largest, 120)
    assert interval.low < largest(range(120)) < interval.high


@pytest.mark.parametrize(
    ("only_first", "only_second"), [(0, 0), (1, 0), (5, 5), (1, 9), (40, 61), (300, 200), (500_300, 499_700)]
)
def test_mcnemar_is_scipys_binomial_test(only_first: int, only_second: int) -> None:
    n = only_first + only_second
    theirs = stats.binomtest(only_first, n).pvalue if n else 1.0
    assert mcnemar_exact(only_first, only_second) == pytest.approx(theirs)


def test_a_p_value_is_never_0() -> None:
    assert 0 < mcnemar_exact(0, 5_000) < 1e-300


def test_the_permutation_test_counts_all_patterns_where_there_are_few_as_scipy_does() -> None:
    first = np.array([0.9, 0.4, 0.8, 0.7, 0.65, 1.0, 0.3, 0.5])
    second = np.array([0.5, 0.5, 0.6, 0.7, 0.4, 0.7, 0.35, 0.2])
    theirs = stats.permutation_test(
        (first, second), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", vectorized=True
    ).pvalue
    assert paired_permutation((first - second).tolist()) == pytest.approx(theirs)


def test_the_permutation_test_draws_patterns_where_there_are_many() -> None:
    chance = np.random.default_rng(5)
    differences = chance.normal(0.15, 1.0, size=200)
    theirs = stats.permutation_test(
        (differences, np.zeros(200)), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples",
        vectorized=True, n_resamples=20_000, rng=np.random.default_rng(6),
    ).pvalue  # fmt: skip
    assert paired_permutation(differences.tolist()) == pytest.approx(theirs, abs=0.015)
    assert 0 < paired_permutation([1.0] * 50) <= 1 / 10_000 + 1e-4
    assert paired_permutation([0.0] * 50) == 1.0


def test_holm_gives_the_adjusted_values_of_the_textbook() -> None:
    # Wright 1992, Adjusted P-Values for Simultaneous Inference: the largest of (m - i + 1) p_i so far
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_same_numbers_and_seed_give_the_same_interval() -> None:
    values = [0.1, 0.9, 0.4, 0.4, 0.7]
    assert mean_interval(values, seed=3) == mean_interval(values, seed=3)
    assert str(Interval(0.1, 0.25)) == "[0.100, 0.250]"
