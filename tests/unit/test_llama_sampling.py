"""Tokens are drawn as the sampling says, and by nothing else."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill import Sampling
from gristmill_plugins.llama._sampling import Sampler, log_softmax, most_likely

LOGITS = np.log(np.array([0.5, 0.25, 0.15, 0.06, 0.04], np.float32))


def draw(n: int, logits: Any = LOGITS, *, seed: int = 0, **sampling: Any) -> Counter[int]:
    sampler = Sampler(Sampling(**sampling), seed=seed)
    return Counter(sampler.pick(sampler.adjust(logits)) for _ in range(n))


def test_greedy_takes_the_most_likely() -> None:
    assert set(draw(5, temperature=0)) == {0}


def test_draws_follow_the_probabilities() -> None:
    counts = draw(20_000, temperature=1)
    shares = [counts[i] / 20_000 for i in range(5)]
    assert shares == pytest.approx([0.5, 0.25, 0.15, 0.06, 0.04], abs=0.015)


def test_temperature_sharpens_and_flattens() -> None:
    assert draw(4000, temperature=0.3)[0] > 3500
    assert draw(4000, temperature=50)[4] > 600


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_p": 0.74}, {0, 1}),
        ({"top_p": 0.76}, {0, 1, 2}),
        ({"top_p": 0.01}, {0}),
        ({"min_p": 0.25}, {0, 1, 2}),
        ({"min_p": 1.0}, {0}),
        ({"typical_p": 0.2}, {1}),
        ({"top_k": 4, "top_p": 0.9, "min_p": 0.4}, {0, 1}),
    ],
)
def test_filters_keep_what_they_say(sampling: dict[str, Any], kept: set[int]) -> None:
    assert set(draw(3000, temperature=1, **sampling)) == kept


def test_the_same_seed_draws_the_same_tokens() -> None:
    first, second, other = (
        [Sampler(Sampling(temperature=1), seed=seed).pick(np.zeros(1000, np.float32)) for _ in range(1)]
        for seed in (7, 7, 8)
    )
    assert first == second != other


@pytest.mark.parametrize("seed", [-1, 0, 2**63, 2**70])
def test_any_seed_works(seed: int) -> None:
    assert sum(draw(3, temperature=1, seed=seed).values()) == 3


def test_what_is_masked_is_never_drawn() -> None:
    masked = np.where(np.arange(5) == 3, LOGITS, np.float32(-np.inf))
    for options in ({"temperature": 0}, {"temperature": 5}, {"temperature": 1, "top_p": 0.5, "top_k": 4}):
        assert set(draw(50, masked, **options)) == {3}


def test_bias_and_penalties_move_logits() -> None:
    assert set(draw(3, temperature=0, logit_bias={4: 100.0})) == {4}
    for penalty in (Sampling(presence_penalty=2), Sampling(frequency_penalty=2), Sampling(repeat_penalty=5)):
        sampler = Sampler(penalty, seed=0)
        picked = []
        for _ in range(2):
            picked.append(sampler.pick(sampler.adjust(LOGITS)))
            sampler.accept(picked[-1])
        assert picked == [0, 1], penalty


def test_only_the_repeat_penalty_looks_at_the_prompt() -> None:
    assert Sampler(Sampling(repeat_penalty=5.0), seed=0, prompt=[0]).adjust(LOGITS)[0] < LOGITS[0]
    assert Sampler(Sampling(presence_penalty=5.0), seed=0, prompt=[0]).adjust(LOGITS)[0] == LOGITS[0]


def test_the_row_itself_is_never_changed() -> None:
    row = LOGITS.copy()
    draw(10, row, temperature=1, logit_bias={1: 5.0}, presence_penalty=1.0)
    assert (row == LOGITS).all()


@given(
    st.lists(st.floats(-80, 80, width=32), min_size=1, max_size=60),
    st.builds(
        Sampling,
        temperature=st.floats(0, 10),
        top_k=st.integers(0, 70),
        top_p=st.floats(0.01, 1),
        min_p=st.floats(0, 1),
        typical_p=st.floats(0.01, 1),
    ),
    st.integers(),
)
def test_every_sampling_draws_a_token(logits: list[float], sampling: Sampling, seed: int) -> None:
    row = np.array(logits, np.float32)
    token = Sampler(sampling, seed=seed).pick(row)
    assert 0 <= token < row.size


def test_log_softmax_sums_to_one_and_most_likely_sorts() -> None:
    assert np.exp(log_softmax(LOGITS * 3)).sum() == pytest.approx(1)
    assert most_likely(LOGITS[::-1], 2).tolist() == [4, 3]
    assert most_likely(LOGITS, 99).tolist() == [0, 1, 2, 3, 4]


@settings(deadline=None)
@given(
    size=st.integers(1, 700), levels=st.integers(1, 40), masked=st.floats(0, 1), count=st.integers(1, 40),
    seed=st.integers(0, 2**32),
)  # fmt: skip
def test_the_most_likely_are_those_of_a_full_sort(size: int, levels: int, masked: float, count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    row = random.integers(0, levels, size).astype(np.float32)
    row[random.random(size) < masked] = -np.inf
    wanted = np.argsort(-row, kind="stable")[:count]
    found = most_likely(row, count)
    assert [i for i in found.tolist() if row[i] > -np.inf] == [i for i in wanted.tolist() if row[i] > -np.inf]
    assert len(found) <= count


def test_a_large_vocabulary_is_drawn_from_as_a_small_one() -> None:
    logits = np.full(5000, -np.inf, np.float32)
    places = np.array([0, 255, 256, 1700, 4999])
    logits[places] = LOGITS
    counts = draw(20_000, logits, temperature=1)
    assert [counts[int(place)] / 20_000 for place in places] == pytest.approx([0.5, 0.25, 0.15, 0.06, 0.04], abs=0.015)
