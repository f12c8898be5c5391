"""A discrete soft actor-critic over members, for feedback that comes once for each question.

After Christodoulou 2019, Soft Actor-Critic for Discrete Action Settings (and Haarnoja et al. 2018 for the learned
temperature). Where we differ: an episode is one question, so a critic's target is the reward itself, with no value of
a next state and no target networks; actor and critics are linear in the question's features, which is what a few
hundred rewards can carry; each critic draws minibatches of its own, as without target networks twins that saw the same
would soon be equal; and it draws every member as often as any other, so that one that was rarely asked is judged too.
Expectations over actions are exact, so no gradient is sampled but by the minibatch.

Shapes: m members, d features with a last one that is always 1, n transitions. `phi` is (n, d), weights are (m, d).
Importing this imports numpy. Invariant: the same weights, transitions and generator give the same weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

Array = np.ndarray

LEARNING_RATE = 0.3
TEMPERATURE_RATE = 0.05
DECAY = 1e-3
"""Of the critics' weights: what nobody was rewarded for drifts back to 0."""
LEAST_TEMPERATURE, MOST_TEMPERATURE = 1e-3, 10.0


@dataclass(frozen=True, slots=True)
class Weights:
    """All that is learned. `log_temperature` is the logarithm of alpha, the price of a nat of entropy in reward."""

    actor: Array
    critics: tuple[Array, Array]
    log_temperature: float

    @property
    def temperature(self) -> float:
        return math.exp(self.log_temperature)


@dataclass(frozen=True, slots=True)
class Batch:
    """Questions, the member that was asked, and what that was worth."""

    phi: Array
    actions: Array
    rewards: Array


def fresh(n_members: int, n_features: int, rng: np.random.Generator) -> Weights:
    """Return weights of a policy that prefers nobody, with critics that begin a little apart."""
    critics = tuple(rng.normal(0.0, 0.01, (n_members, n_features)) for _ in range(2))
    return Weights(np.zeros((n_members, n_features)), (critics[0], critics[1]), 0.0)


def with_one(features: Array) -> Array:
    """Return `(n, d)` features with the constant 1 behind them."""
    return np.concatenate([features, np.ones((len(features), 1))], axis=1)


def log_policy(actor: Array, phi: Array) -> Array:
    """Return `(n, m)` natural logarithms of the probability of each member."""
    logits = phi @ actor.T
    logits = logits - logits.max(axis=1, keepdims=True)
    normalised: Array = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return normalised


def entropy(actor: Array, phi: Array) -> float:
    """Return the policy's mean entropy, in nats."""
    logs = log_policy(actor, phi)
    return float(-(np.exp(logs) * logs).sum(axis=1).mean())


def critic_loss(critic: Array, batch: Batch) -> tuple[float, Array]:
    """Return half the mean squared error of the rewards, with weight decay, and its gradient."""
    n = len(batch.rewards)
    errors = (batch.phi * critic[batch.actions]).sum(axis=1) - batch.rewards
    loss = 0.5 * float((errors**2).mean()) + 0.5 * DECAY * float((critic**2).sum())
    gradient = DECAY * critic
    np.add.at(gradient, batch.actions, errors[:, None] * batch.phi / n)
    return loss, gradient


def actor_loss(actor: Array, critics: tuple[Array, Array], temperature: float, phi: Array) -> tuple[float, Array]:
    """Return E[sum_a pi(a) (alpha log pi(a) - min_i Q_i(a))] and its gradient with respect to the actor."""
    logs = log_policy(actor, phi)
    policy = np.exp(logs)
    values = np.minimum(phi @ critics[0].T, phi @ critics[1].T)
    costs = temperature * logs - values
    mean = (policy * costs).sum(axis=1, keepdims=True)
    gradient: Array = (policy * (costs - mean)).T @ phi / len(phi)
    return float(mean.mean()), gradient


def temperature_loss(log_temperature: float, mean_entropy: float, target: float) -> tuple[float, float]:
    """Return alpha (H - target) and its derivative with respect to log alpha: too little entropy raises alpha."""
    loss = math.exp(log_temperature) * (mean_entropy - target)
    return loss, loss


def learn(
    weights: Weights,
    replay: Batch,
    *,
    target_entropy: float,
    steps: int,
    rng: np.random.Generator,
    batch_size: int = 32,
) -> Weights:
    """Return the weights after some steps of gradient descent on transitions drawn from the replay buffer.

    Args:
        weights: where to begin.
        replay: everything remembered; members asked under older policies count, as the critics regress rewards.
        target_entropy: what the policy's mean entropy is held at, in nats, below log(m).
        steps: how many times each of critics, actor and temperature moves.
        rng: draws the minibatches.
        batch_size: transitions in a minibatch.
    """
    even = _even_shares(replay.actions)
    for _ in range(steps):
        one, other = (critic_loss(q, _draw(replay, batch_size, rng, even))[1] for q in weights.critics)
        first, second = weights.critics[0] - LEARNING_RATE * one, weights.critics[1] - LEARNING_RATE * other
        phi = _draw(replay, batch_size, rng, None).phi
        gradient = actor_loss(weights.actor, (first, second), weights.temperature, phi)[1]
        # Divided by alpha, the step does not vanish with the temperature: logits grow like Q / alpha.
        actor = weights.actor - LEARNING_RATE * gradient / max(weights.temperature, 0.05)
        slope = temperature_loss(weights.log_temperature, entropy(actor, phi), target_entropy)[1]
        moved = weights.log_temperature - TEMPERATURE_RATE * slope / weights.temperature
        bounded = min(max(moved, math.log(LEAST_TEMPERATURE)), math.log(MOST_TEMPERATURE))
        weights = replace(weights, actor=actor, critics=(first, second), log_temperature=bounded)
    return weights


def _even_shares(actions: Array) -> Array:
    """Return the chance of each transition under which all members that were ever asked are drawn alike."""
    counts = np.bincount(actions)
    each = 1.0 / counts[actions]
    shares: Array = each / each.sum()
    return shares


def _draw(replay: Batch, size: int, rng: np.random.Generator, shares: Array | None) -> Batch:
    chosen = rng.choice(len(replay.rewards), size, p=shares)
    return Batch(replay.phi[chosen], replay.actions[chosen], replay.rewards[chosen])
