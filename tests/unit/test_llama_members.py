"""Several predictions become one as the chosen way says."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from gristmill_plugins.llama._members import combine

ROWS = [np.log(np.array(p, np.float32)) for p in ([0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.5, 0.1, 0.4])]


def test_the_arithmetic_mean_is_of_probabilities() -> None:
    assert np.exp(combine(ROWS, [1, 1, 2], "arithmetic")) == pytest.approx([0.45, 0.3, 0.25])


def test_the_geometric_mean_is_a_product_of_experts() -> None:
    product = np.array([0.6 * 0.2, 0.3 * 0.7, 0.1 * 0.1]) ** 0.5
    assert np.exp(combine(ROWS[:2], [3, 3], "geometric")) == pytest.approx(product / product.sum())


def test_a_vote_counts_each_members_favourite() -> None:
    assert np.exp(combine(ROWS, [1, 1, 1], "vote"))[:2] == pytest.approx([2 / 3, 1 / 3], abs=1e-5)
    assert combine(ROWS, [1, 5, 1], "vote").argmax() == 1


def test_a_tied_vote_goes_to_the_higher_mean() -> None:
    assert combine(ROWS[:2], [1, 1], "vote").argmax() == 1


@pytest.mark.parametrize("how", ["arithmetic", "geometric", "vote"])
def test_probabilities_sum_to_one_in_any_order(how: Literal["arithmetic", "geometric", "vote"]) -> None:
    forward, backward = combine(ROWS, [1, 2, 3], how), combine(ROWS[::-1], [3, 2, 1], how)
    assert np.exp(forward).sum() == pytest.approx(1, abs=1e-5)
    assert forward == pytest.approx(backward, abs=1e-5)
