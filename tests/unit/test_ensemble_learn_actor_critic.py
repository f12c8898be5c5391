"""The discrete soft actor-critic: its gradients, what it finds, and the entropy it keeps."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from gristmill_plugins.ensemble import _actor_critic as sac

MEMBERS, FEATURES = 3, 5


def finite_difference(loss: Callable[[np.ndarray], float], at: np.ndarray) -> np.ndarray:
    """Return the gradient by central differences."""
    gradient = np.zeros_like(at)
    for index in np.ndindex(*at.shape):
        moved = at.copy()
        moved[index] += 1e-6
        above = loss(moved)
        moved[index] -= 2e-6
        gradient[index] = (above - loss(moved)) / 2e-6
    return gradient


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def batch(rng: np.random.Generator) -> sac.Batch:
    phi = sac.with_one(rng.normal(size=(11, FEATURES - 1)))
    return sac.Batch(phi, rng.integers(0, MEMBERS, 11), rng.random(11))


def weights(rng: np.random.Generator) -> np.ndarray:
    return np.asarray(rng.normal(size=(MEMBERS, FEATURES)))


def test_the_critics_gradient_matches_finite_differences(rng: np.random.Generator, batch: sac.Batch) -> None:
    critic = weights(rng)
    expected = finite_difference(lambda q: sac.critic_loss(q, batch)[0], critic)
    assert sac.critic_loss(critic, batch)[1] == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("temperature", [0.01, 0.3, 2.0])
def test_the_actors_gradient_matches_finite_differences(
    rng: np.random.Generator, batch: sac.Batch, temperature: float
) -> None:
    actor, critics = weights(rng), (weights(rng), weights(rng))
    expected = finite_difference(lambda w: sac.actor_loss(w, critics, temperature, batch.phi)[0], actor)
    assert np.abs(expected).max() > 0.01
    assert sac.actor_loss(actor, critics, temperature, batch.phi)[1] == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(("mean_entropy", "target"), [(0.2, 0.5), (0.5, 0.2)])
def test_the_temperatures_gradient_matches_finite_differences(mean_entropy: float, target: float) -> None:
    above, below = (sac.temperature_loss(-1.3 + step, mean_entropy, target)[0] for step in (1e-6, -1e-6))
    assert sac.temperature_loss(-1.3, mean_entropy, target)[1] == pytest.approx((above - below) / 2e-6, abs=1e-7)


def test_the_policy_is_a_distribution_and_its_entropy_lies_between_none_and_log_m(
    rng: np.random.Generator, batch: sac.Batch
) -> None:
    actor = 3 * weights(rng)
    assert np.exp(sac.log_policy(actor, batch.phi)).sum(axis=1) == pytest.approx(np.ones(11))
    assert 0 < sac.entropy(actor, batch.phi) < math.log(MEMBERS)
    assert sac.entropy(np.zeros((MEMBERS, FEATURES)), batch.phi) == pytest.approx(math.log(MEMBERS))


def played(chances: tuple[float, ...], *, rounds: int, share: float, seed: int) -> tuple[sac.Weights, np.ndarray]:
    """Play a bandit whose members pay 1 with fixed chances; return what was learned and the questions seen."""
    rng = np.random.default_rng(seed)
    learned = sac.fresh(len(chances), 1, rng)
    actions: list[int] = []
    rewards: list[float] = []
    for _ in range(rounds):
        policy = np.exp(sac.log_policy(learned.actor, np.ones((1, 1))))[0]
        actions.append(int(rng.choice(len(chances), p=policy)))
        rewards.append(float(rng.random() < chances[actions[-1]]))
        replay = sac.Batch(np.ones((len(actions), 1)), np.array(actions), np.array(rewards))
        target = share * math.log(len(chances))
        learned = sac.learn(learned, replay, target_entropy=target, steps=8, rng=rng)
    return learned, np.ones((1, 1))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_finds_the_better_of_two_members(seed: int) -> None:
    learned, phi = played((0.3, 0.8), rounds=200, share=0.3, seed=seed)
    assert np.exp(sac.log_policy(learned.actor, phi))[0, 1] > 0.85
    for critic in learned.critics:
        assert critic[1, 0] == pytest.approx(0.8, abs=0.2)


@pytest.mark.parametrize("share", [0.2, 0.4, 0.7])
def test_it_keeps_its_entropy_target(share: float) -> None:
    learned, phi = played((0.3, 0.8), rounds=250, share=share, seed=5)
    assert sac.entropy(learned.actor, phi) == pytest.approx(share * math.log(2), abs=0.1)


def test_it_learns_which_member_suits_which_question() -> None:
    rng = np.random.default_rng(3)
    learned, n = sac.fresh(2, 3, rng), 300
    kinds = rng.integers(0, 2, n)
    phi = sac.with_one(np.eye(2)[kinds])
    actions = rng.integers(0, 2, n)
    rewards = (rng.random(n) < np.where(actions == kinds, 0.9, 0.2)).astype(float)
    learned = sac.learn(learned, sac.Batch(phi, actions, rewards), target_entropy=0.2, steps=600, rng=rng)
    policy = np.exp(sac.log_policy(learned.actor, sac.with_one(np.eye(2))))
    assert policy[0, 0] > 0.8
    assert policy[1, 1] > 0.8


def test_the_same_seed_learns_the_same() -> None:
    one, other = (played((0.3, 0.8), rounds=20, share=0.3, seed=4)[0] for _ in range(2))
    assert (one.actor == other.actor).all()
    assert one.log_temperature == other.log_temperature
