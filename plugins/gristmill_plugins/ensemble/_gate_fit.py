"""Fitting a gate: for each member, how likely it is right on a question, from the question's embedding.

Where a member was always right or always wrong there is nothing to tell apart: its weights are 0 and its score is its
base rate. The penalty is one for all members. Invariant: the same rows and seed give the same gate.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from gristmill import FunctionError

from ._cascade import logit
from ._gate import FittedGate, GateEvidence
from ._stack_fit import one_thread

if TYPE_CHECKING:
    import numpy as np

LEAST_ROWS = 20
PENALTIES = (0.1, 1.0, 10.0, 100.0)


@dataclass(frozen=True, slots=True)
class GateRow:
    """A question's embedding, and which members were right."""

    vector: tuple[float, ...]
    right: Mapping[str, bool]


def fit_gate(rows: Sequence[GateRow], *, embedder: str, folds: int = 5, seed: int = 0) -> FittedGate:
    """Fit a gate.

    Args:
        rows: at least twenty, all with the same members.
        embedder: the fingerprint of what made the vectors.
        folds: parts of the cross-validation that chooses the penalty and judges the gate.
        seed: of the parts.

    Raises:
        FunctionError: too few rows, or rows that do not agree.
    """
    members = _members(rows)
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    parts = [(_but(rows, order, fold, folds), [rows[i] for i in order[fold::folds]]) for fold in range(folds)]
    right = 0
    with one_thread():
        for training, testing in parts:
            inner = [(_but(training, range(len(training)), f, 3), training[f::3]) for f in range(3)]
            gate = _fit(members, training, _best_penalty(members, inner), embedder)
            right += sum(row.right[_first(gate, row)] for row in testing)
        whole = _fit(members, rows, _best_penalty(members, parts), embedder)
    alone = {name: fmean(row.right[name] for row in rows) for name in members}
    evidence = GateEvidence(n=len(rows), members=alone, accuracy=right / len(rows), folds=folds)
    return whole.model_copy(update={"evidence": evidence})


def _best_penalty(members: Sequence[str], parts: Sequence[tuple[Sequence[GateRow], Sequence[GateRow]]]) -> float:
    """Return the C under which what happened to rows left out is likeliest."""
    return max(PENALTIES, key=lambda penalty: fmean(_likelihood(members, *part, penalty) for part in parts))


def _members(rows: Sequence[GateRow]) -> tuple[str, ...]:
    if len(rows) < LEAST_ROWS:
        raise FunctionError(f"a gate is fitted on {LEAST_ROWS} rows or more, these are {len(rows)}")
    members = tuple(sorted(rows[0].right))
    if len(members) < 2:
        raise FunctionError(f"a gate chooses among two members or more, this has {len(members)}")
    for n, row in enumerate(rows, start=1):
        if tuple(sorted(row.right)) != members:
            raise FunctionError(f"row {n} has the members {sorted(row.right)}, the first row has {list(members)}")
        if len(row.vector) != len(rows[0].vector):
            raise FunctionError(f"row {n} has a vector of {len(row.vector)}, the first row of {len(rows[0].vector)}")
    return members


def _but(rows: Sequence[GateRow], order: Sequence[int], fold: int, folds: int) -> list[GateRow]:
    return [rows[i] for k, i in enumerate(order) if k % folds != fold]


def _first(gate: FittedGate, row: GateRow) -> str:
    scores = gate.scores(row.vector)
    return max(sorted(scores), key=lambda name: scores[name])


def _likelihood(
    members: Sequence[str], training: Sequence[GateRow], testing: Sequence[GateRow], penalty: float
) -> float:
    """Return the mean log-likelihood of who was right among rows left out."""
    import numpy as np

    gate = _fit(members, training, penalty, "")
    x = np.array([row.vector for row in testing])
    total = 0.0
    for name in members:
        signs = np.array([1.0 if row.right[name] else -1.0 for row in testing])
        total -= float(np.logaddexp(0.0, -signs * (x @ np.array(gate.weights[name]) + gate.intercepts[name])).sum())
    return total / len(testing)


def _fit(members: Sequence[str], rows: Sequence[GateRow], penalty: float, embedder: str) -> FittedGate:
    import numpy as np

    x = np.array([row.vector for row in rows])
    weights, intercepts = {}, {}
    for name in members:
        weights[name], intercepts[name] = _one(x, [row.right[name] for row in rows], penalty)
    evidence = GateEvidence(n=len(rows), members={}, accuracy=0.0, folds=0)
    return FittedGate(
        members=tuple(members), embedder=embedder, dim=x.shape[1], weights=weights, intercepts=intercepts,
        penalty=penalty, evidence=evidence,
    )  # fmt: skip


def _one(x: np.ndarray, right: Sequence[bool], penalty: float) -> tuple[tuple[float, ...], float]:
    from sklearn.linear_model import LogisticRegression

    if all(right) or not any(right):
        return (0.0,) * x.shape[1], logit((sum(right) + 1) / (len(right) + 2))
    model = LogisticRegression(C=penalty, max_iter=2000).fit(x, list(right))
    return tuple(float(value) for value in model.coef_[0]), float(model.intercept_[0])
