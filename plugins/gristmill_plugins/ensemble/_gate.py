"""Gates: which members a question goes to, as in a mixture of experts (Shazeer et al. 2017, section 2.1).

A gate gives each member a score for a question, by the likeness of its embedding to examples or by fitted weights. The
best k are taken. Over many questions at once the load can be evened out by a bias on each member's scores that moves
against its load (Wang et al. 2024, Auxiliary-Loss-Free Load Balancing), and held to a capacity (Fedus et al. 2022,
Switch Transformers, section 2.2). It embeds and asks nothing. Invariant: members bind by name, and renaming or
reordering them, or the questions, changes no assignment but where scores are equal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import Field, FiniteFloat, model_validator

from gristmill import FunctionError, Value

from ._cascade import sigmoid
from ._learned_file import AGAIN, Kept

NEAREST = 3
"""A question is compared with so many of a member's examples, the closest, so that one odd one decides little."""
SHARPNESS = 20.0
"""Weights are proportional to exp(SHARPNESS * cosine): 0.1 more likeness is about 7 times the weight."""
ROUNDS = 200

Scores = Mapping[str, float]
Vector = Sequence[float]


class Assignment(Value):
    """Who answers one question."""

    members: dict[str, float]
    """Member to its weight, the heaviest first; they sum to 1."""
    scores: dict[str, float]
    """What the gate gave to every member, before load and capacity."""


class GateEvidence(Value):
    """What the gate is worth on rows that it was not fitted on (cross-validation)."""

    n: int
    members: dict[str, float]
    """Accuracy of each member alone."""
    accuracy: float
    """Accuracy of whom the gate puts first."""
    folds: int


class FittedGate(Kept):
    """For each member a logistic regression of being right on the question's embedding."""

    kind: ClassVar[str] = "ensemble.gate"

    members: tuple[str, ...] = Field(min_length=2)
    embedder: str
    """The fingerprint of what made the embeddings."""
    dim: int = Field(ge=1)
    weights: dict[str, tuple[FiniteFloat, ...]]
    intercepts: dict[str, FiniteFloat]
    penalty: float
    evidence: GateEvidence

    @model_validator(mode="after")
    def _complete(self) -> FittedGate:
        if not set(self.members) == set(self.weights) == set(self.intercepts):
            raise ValueError("every member needs weights and an intercept")
        if any(len(row) != self.dim for row in self.weights.values()):
            raise ValueError(f"{self.dim} weights for each member are wanted")
        return self

    def scores(self, vector: Vector) -> dict[str, float]:
        """Return the chance that each member is right."""
        return {name: sigmoid(dot(self.weights[name], vector) + self.intercepts[name]) for name in self.members}


def check_gate(gate: FittedGate, members: Sequence[str], embedder: str) -> None:
    """Refuse other members or embeddings than the gate was fitted on.

    Raises:
        FunctionError: naming what differs.
    """
    if set(members) != set(gate.members):
        odd = sorted(set(members) ^ set(gate.members))
        raise FunctionError(
            f"the gate was fitted on {', '.join(gate.members)}; {odd[0]!r} is only on one side", hint=AGAIN
        )
    if embedder != gate.embedder:
        raise FunctionError(
            f"the gate was fitted on embeddings of {gate.embedder!r}, these are {embedder!r}", hint=AGAIN
        )


def likeness(vector: Vector, examples: Mapping[str, Sequence[Vector]]) -> dict[str, float]:
    """Return for each member the mean cosine to its closest examples; vectors are L2-normalised."""
    scores = {}
    for name, vectors in examples.items():
        closest = sorted((dot(vector, other) for other in vectors), reverse=True)[:NEAREST]
        scores[name] = sum(closest) / len(closest)
    return scores


def assign(
    scores: Sequence[Scores],
    *,
    top_k: int = 1,
    balance: float = 0.0,
    capacity: float | Mapping[str, int] | None = None,
    sharpness: float = 1.0,
) -> list[Assignment]:
    """Return who answers each question.

    Args:
        scores: for each question a score of every member, higher is better.
        top_k: members for a question.
        balance: how far scores may be bent to even out the load, as a share of their range; 0 leaves them alone.
        capacity: the most questions a member takes, by name, or for all as a multiple of an even share.
        sharpness: weights of the chosen are proportional to exp(sharpness * score).

    Raises:
        FunctionError: more members wanted than there are, or the members have no room for all questions.
    """
    names = sorted(scores[0]) if scores else []
    if scores and top_k > len(names):
        raise FunctionError(f"top_k is {top_k}, and there are {len(names)} members")
    bias = _biases(scores, names, top_k, balance)
    bent = [{name: row[name] + bias[name] for name in names} for row in scores]
    room = _room(capacity, names, len(scores) * top_k)
    if sum(min(room[name], len(scores)) for name in names if room[name] > 0) < len(scores) * top_k:
        raise FunctionError(
            f"the members have no room for {len(scores)} questions of {top_k} members each", hint="raise capacity"
        )
    chosen: list[list[str]] = [[] for _ in scores]
    # Who has most to lose by a second choice comes first, whatever the order of the questions.
    order = sorted(range(len(bent)), key=lambda i: (-_gap(bent[i]), sorted(bent[i].items())))
    for n_left, i in zip(range(len(order), 0, -1), order, strict=True):
        chosen[i] = _best_with_room(bent[i], room, n_left, top_k)
        for name in chosen[i]:
            room[name] -= 1
    return [_assignment(row, picked, sharpness) for row, picked in zip(scores, chosen, strict=True)]


def _best_with_room(row: Scores, room: Mapping[str, float], n_left: int, top_k: int) -> list[str]:
    """Return the best members for a question that leave the `n_left - 1` questions after it enough of them.

    A member with room for all that are left loses a place by not being taken now, since no question takes it twice. So
    many places may be lost as there are more than are wanted (`spare`): where more such members are, the best of them
    have to be taken first. (Gale 1957 and Ryser 1957: with one number for every row that is all there is to heed.)
    """
    best = sorted((name for name in row if room[name] > 0), key=lambda name: (-row[name], name))
    spare = sum(min(room[name], n_left) for name in best) - n_left * top_k
    roomy = [name for name in best if room[name] >= n_left]
    needed = roomy[: max(0, len(roomy) - int(min(spare, len(roomy))))]
    others = [name for name in best if name not in needed]
    return [*needed, *others[: top_k - len(needed)]]


def _assignment(scores: Scores, chosen: Sequence[str], sharpness: float) -> Assignment:
    highest = max(scores[name] for name in chosen)
    raw = {name: math.exp(sharpness * (scores[name] - highest)) for name in chosen}
    total = sum(raw.values())
    weights = sorted(((name, value / total) for name, value in raw.items()), key=lambda item: (-item[1], item[0]))
    return Assignment(members=dict(weights), scores=dict(scores))


def _biases(scores: Sequence[Scores], names: Sequence[str], top_k: int, balance: float) -> dict[str, float]:
    """Move each member's bias against its load, in ever smaller steps, within `balance` times the scores' range."""
    bias = dict.fromkeys(names, 0.0)
    if not balance or len(scores) < 2:
        return bias
    values = [value for row in scores for value in row.values()]
    limit = balance * (max(values) - min(values))
    even = len(scores) * top_k / len(names)
    for round_ in range(ROUNDS):
        step = 0.1 * limit / (1 + round_ / 10)
        load = dict.fromkeys(names, 0)
        for row in scores:
            for name in sorted(names, key=lambda name: (-(row[name] + bias[name]), name))[:top_k]:
                load[name] += 1
        for name in names:
            moved = bias[name] + step * max(-1.0, min(1.0, (even - load[name]) / even))
            bias[name] = max(-limit, min(limit, moved))
    return bias


def _room(capacity: float | Mapping[str, int] | None, names: Sequence[str], n_places: int) -> dict[str, float]:
    if capacity is None:
        return dict.fromkeys(names, math.inf)
    if isinstance(capacity, Mapping):
        if unknown := sorted(set(capacity) - set(names)):
            raise FunctionError(f"capacity names {unknown[0]!r}, which is no member: {', '.join(names)}")
        return {name: capacity.get(name, math.inf) for name in names}
    return dict.fromkeys(names, math.ceil(capacity * n_places / max(len(names), 1)))


def _gap(row: Scores) -> float:
    first, *rest = sorted(row.values(), reverse=True)
    return first - rest[0] if rest else 0.0


def dot(left: Vector, right: Vector) -> float:
    """Return the inner product of two vectors of one length."""
    return math.fsum(a * b for a, b in zip(left, right, strict=True))
