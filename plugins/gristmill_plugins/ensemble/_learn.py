"""A policy over members that learns from rewards: its state on disk, its decisions, its feedback.

The arithmetic is `_actor_critic`'s. Questions are told apart by their embedding, or not at all: then it is a bandit
that finds the best member for everything. Weights, rewards and decisions bind to members by name, so members may come
and go. Invariants: a decision changes nothing on disk; feedback for a decision replaces what was said about it before;
the same state, question and seed give the same decision; a state file is written whole, one writer at a time.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, FiniteFloat, model_validator

from gristmill import FunctionError, Usage, Value

from ._learned_file import Kept, load, locked, save

if TYPE_CHECKING:
    import numpy as np

    from ._actor_critic import Batch, Weights

MOST_REMEMBERED = 1000
"""Rewards in the replay buffer; the oldest is forgotten first."""
STEPS = 16
"""Gradient steps for one reward: some 3 ms."""
SETTLE = 10
"""Rewards a member after which the policy is about two thirds of the way from all even to its entropy target: before,
one lucky answer would settle whom to ask."""


class Decision(Value):
    """Who was chosen for a question: what feedback needs to know, and no more."""

    id: str
    member: str
    members: tuple[str, ...]
    features: tuple[FiniteFloat, ...] = ()
    """The question's embedding; empty when questions are not told apart."""
    embedder: str | None = None
    target_entropy: float
    policy_file: str
    """The absolute path of the state."""


class Learned(Value):
    """What the chosen member answered."""

    text_field = "text"

    text: str
    member: str
    policy: dict[str, float]
    """The probability with which each member was chosen."""
    explored: bool
    """True when another member than the likeliest was drawn."""
    decision: Decision
    """Give it to `ensemble.feedback`, or the run's id to `gristmill feedback`."""
    probabilities: dict[str, float] | None = None
    """Of each choice, when there are choices."""
    usage: dict[str, Usage] = {}
    """Member to what it cost."""


class Feedback(Value):
    """What a policy looks like after a reward."""

    member: str
    """Who was rewarded."""
    reward: float
    n: int
    """Rewards that are remembered."""
    policy: dict[str, float]
    """The probability of each member for that question, now."""
    mean_rewards: dict[str, float]
    """Of the rewards that are remembered."""
    entropy: float
    """Of the policy, over the questions that are remembered, in nats."""
    temperature: float


class Experience(Value):
    """One decision and its reward."""

    id: str
    member: str
    features: tuple[FiniteFloat, ...] = ()
    reward: FiniteFloat


class Policy(Kept):
    """The state of a learner. Rows of weights are by member, with the constant's weight last."""

    kind: ClassVar[str] = "ensemble.policy"
    again: ClassVar[str] = "put a copy back, or delete it to learn anew"

    embedder: str | None
    n_features: int = Field(ge=0)
    seed: int
    n_feedback: int = Field(ge=0)
    actor: dict[str, tuple[FiniteFloat, ...]]
    critics: tuple[dict[str, tuple[FiniteFloat, ...]], dict[str, tuple[FiniteFloat, ...]]]
    log_temperature: FiniteFloat
    replay: tuple[Experience, ...]

    @model_validator(mode="after")
    def _shapes_agree(self) -> Policy:
        rows = [*self.actor.values(), *self.critics[0].values(), *self.critics[1].values()]
        if any(len(row) != self.n_features + 1 for row in rows):
            raise ValueError(f"each member has {self.n_features + 1} weights")
        if not set(self.actor) == set(self.critics[0]) == set(self.critics[1]):
            raise ValueError("actor and critics know different members")
        if any(len(one.features) != self.n_features or one.member not in self.actor for one in self.replay):
            raise ValueError("an experience does not fit the weights")
        return self


def read_policy(path: Path) -> Policy | None:
    """Return the state, or None where nothing was learned yet.

    Raises:
        FunctionError: the file is damaged or was changed by another hand.
    """
    return load(path, Policy) if path.exists() else None


def probabilities(policy: Policy | None, members: Sequence[str], features: Sequence[float]) -> dict[str, float]:
    """Return the chance of each member for a question; without a state, or to new members, an even one.

    Raises:
        FunctionError: the features are not those that the policy learned on.
    """
    if policy is None:
        return dict.fromkeys(members, 1 / len(members))
    if len(features) != policy.n_features:
        raise FunctionError(
            f"the policy learned on {policy.n_features} features of a question, these are {len(features)}",
            hint="give the same `embedder` as before, or begin another policy",
        )
    nobody = (0.0,) * (policy.n_features + 1)
    phi = (*features, 1.0)
    logits = [math.fsum(w * f for w, f in zip(policy.actor.get(name, nobody), phi, strict=True)) for name in members]
    highest = max(logits)
    weights = [math.exp(value - highest) for value in logits]
    total = sum(weights)
    return {name: weight / total for name, weight in zip(members, weights, strict=True)}


def decide(
    path: Path,
    members: Sequence[str],
    *,
    features: Sequence[float] = (),
    embedder: str | None = None,
    explore: bool = True,
    target_entropy: float = 0.4,
    seed: int = 0,
) -> tuple[Decision, dict[str, float]]:
    """Choose a member: drawn from the policy, or without `explore` its likeliest.

    Returns the decision and the probabilities behind it.

    Raises:
        FunctionError: the state is damaged, or learned on another embedder's features.
    """
    policy = read_policy(path)
    if policy is not None and policy.embedder != embedder:
        raise FunctionError(
            f"{path} learned on embeddings of {policy.embedder!r}, these are {embedder!r}",
            hint="give the same `embedder` as before, or begin another policy",
        )
    rounded = tuple(round(float(value), 6) for value in features)
    shares = probabilities(policy, members, rounded)
    n_feedback = policy.n_feedback if policy is not None else 0
    material = json.dumps([seed, n_feedback, sorted(members), rounded])
    digest = hashlib.sha256(material.encode()).hexdigest()
    names = sorted(members)  # the draw does not depend on their order
    if explore:
        chosen = random.Random(digest).choices(names, [shares[name] for name in names])[0]
    else:
        chosen = max(names, key=lambda name: shares[name])
    decision = Decision(
        id=digest[:16], member=chosen, members=tuple(names), features=rounded, embedder=embedder,
        target_entropy=target_entropy, policy_file=str(path),
    )  # fmt: skip
    return decision, shares


def give_feedback(decision: Decision, reward: float, *, seed: int = 0, path: Path | None = None) -> Feedback:
    """Learn from one reward and keep the new state; what was said about this decision before is replaced.

    Raises:
        FunctionError: the reward is not from -1 to 1, or the state cannot be read or written.
    """
    if not (math.isfinite(reward) and -1 <= reward <= 1):
        raise FunctionError(f"a reward is from -1 to 1, this is {reward!r}")
    where = path or Path(decision.policy_file)
    with locked(where):
        policy = _with(read_policy(where) or _fresh(decision, seed), decision)
        one = Experience(id=decision.id, member=decision.member, features=decision.features, reward=reward)
        replay = (*(other for other in policy.replay if other.id != one.id), one)[-MOST_REMEMBERED:]
        policy, entropy = _learn(policy.model_copy(update={"replay": replay}), decision.target_entropy)
        save(where, policy)
    return _told(policy, decision, reward, entropy)


def _fresh(decision: Decision, seed: int) -> Policy:
    return Policy(
        embedder=decision.embedder, n_features=len(decision.features), seed=seed, n_feedback=0, actor={},
        critics=({}, {}), log_temperature=0.0, replay=(),
    )  # fmt: skip


def _with(policy: Policy, decision: Decision) -> Policy:
    """Return the policy with weights for every member of the decision; new ones begin where nobody is preferred."""
    if len(decision.features) != policy.n_features or decision.embedder != policy.embedder:
        raise FunctionError(
            f"{decision.policy_file} learned on other features than this decision was made on",
            hint="feedback belongs to the policy that decided",
        )
    new = [name for name in decision.members if name not in policy.actor]
    if not new:
        return policy
    import numpy as np

    from ._actor_critic import fresh

    begun = fresh(len(new), policy.n_features + 1, np.random.default_rng([policy.seed & 0xFFFFFFFF, len(policy.actor)]))
    tables = [policy.actor, *policy.critics]
    for table, rows in zip(tables, (begun.actor, *begun.critics), strict=True):
        table.update({name: tuple(row) for name, row in zip(new, rows.tolist(), strict=True)})
    return policy.model_copy(update={"actor": tables[0], "critics": (tables[1], tables[2])})


def _learn(policy: Policy, target_share: float) -> tuple[Policy, float]:
    import numpy as np

    from ._actor_critic import entropy, learn

    names = sorted(policy.actor)
    replay = _batch(policy, names)
    rng = np.random.default_rng([policy.seed & 0xFFFFFFFF, policy.n_feedback])
    target = entropy_share(target_share, policy.n_feedback, len(names)) * math.log(len(names))
    weights = learn(_weights(policy, names), replay, target_entropy=target, steps=STEPS, rng=rng)
    update: dict[str, Any] = {
        "actor": _by_name(names, weights.actor),
        "critics": (_by_name(names, weights.critics[0]), _by_name(names, weights.critics[1])),
        "log_temperature": weights.log_temperature,
        "n_feedback": policy.n_feedback + 1,
    }
    return policy.model_copy(update=update), entropy(weights.actor, replay.phi)


def entropy_share(target: float, n_feedback: int, n_members: int) -> float:
    """Return how even the policy is to be, as a share of all even: 1 at first, `target` after many rewards."""
    return target + (1 - target) * math.exp(-n_feedback / (SETTLE * n_members))


def _weights(policy: Policy, names: Sequence[str]) -> Weights:
    import numpy as np

    from ._actor_critic import Weights

    actor, first, second = (np.array([table[name] for name in names]) for table in (policy.actor, *policy.critics))
    return Weights(actor, (first, second), policy.log_temperature)


def _batch(policy: Policy, names: Sequence[str]) -> Batch:
    import numpy as np

    from ._actor_critic import Batch, with_one

    features = np.array([one.features for one in policy.replay]).reshape(len(policy.replay), policy.n_features)
    actions = np.array([names.index(one.member) for one in policy.replay])
    return Batch(with_one(features), actions, np.array([one.reward for one in policy.replay]))


def _by_name(names: Sequence[str], rows: np.ndarray) -> dict[str, tuple[float, ...]]:
    return {name: tuple(row) for name, row in zip(names, rows.tolist(), strict=True)}


def _told(policy: Policy, decision: Decision, reward: float, entropy: float) -> Feedback:
    rewards: dict[str, list[float]] = {}
    for one in policy.replay:
        rewards.setdefault(one.member, []).append(one.reward)
    return Feedback(
        member=decision.member,
        reward=reward,
        n=len(policy.replay),
        policy=probabilities(policy, decision.members, decision.features),
        mean_rewards={name: math.fsum(some) / len(some) for name, some in sorted(rewards.items())},
        entropy=entropy,
        temperature=math.exp(policy.log_temperature),
    )
