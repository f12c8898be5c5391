"""Cascades: ask the cheap member first and the next one only where it is not sure (Chen et al. 2023, FrugalGPT).

It knows confidences, thresholds and costs, and asks nobody. Confidence is a number from 0 to 1 that a member's answer
comes with; a fitted cascade turns it into the chance of being right (Platt 1999) before it looks at the threshold.
Invariant: the last member's answer is always taken, and members bind to calibrations and thresholds by name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field, FiniteFloat, model_validator

from gristmill import FunctionError, Usage, Value

from ._learned_file import AGAIN, Kept

MOST_LOGIT = 12.0


class Stage(Value):
    """One member that was asked."""

    member: str
    text: str
    confidence: float
    """As the member's answer came with it, from 0 to 1."""
    calibrated: float | None = None
    """The chance that it is right, when the cascade is fitted."""
    threshold: float | None = None
    """What was wanted; None for the last member."""
    usage: Usage = Usage()


class Cascaded(Value):
    """The first answer that was sure enough, or the last."""

    text_field = "text"

    text: str
    member: str
    """Who gave it."""
    confidence: float
    """Calibrated, when the cascade is fitted."""
    asked: int
    """How many members were asked."""
    stages: tuple[Stage, ...]
    usage: dict[str, Usage] = {}
    """Member to what it cost."""


class CascadeEvidence(Value):
    """What the thresholds came to on rows that they were not fitted on (cross-validation)."""

    n: int
    accuracy: float
    cost: float
    """Mean cost of a question, in the unit of the members' costs."""
    members: dict[str, float]
    """Accuracy of each member alone, on all rows."""
    shares: dict[str, float]
    """The share of questions that each member answered in the end."""
    folds: int


class FittedCascade(Kept):
    """Calibrations and thresholds of the members, cheapest first."""

    kind: ClassVar[str] = "ensemble.cascade"

    members: tuple[str, ...] = Field(min_length=2)
    slopes: dict[str, FiniteFloat]
    intercepts: dict[str, FiniteFloat]
    thresholds: dict[str, FiniteFloat]
    """For all members but the last: the least calibrated confidence that is taken; above 1 none is."""
    costs: dict[str, FiniteFloat]
    evidence: CascadeEvidence

    @model_validator(mode="after")
    def _complete(self) -> FittedCascade:
        names = set(self.members)
        if not (names == set(self.slopes) == set(self.intercepts) == set(self.costs)):
            raise ValueError("every member needs a slope, an intercept and a cost")
        if set(self.thresholds) != set(self.members[:-1]):
            raise ValueError("every member but the last needs a threshold")
        return self

    def calibrated(self, member: str, confidence: float) -> float:
        """Return the chance that an answer is right."""
        return sigmoid(self.slopes[member] * logit(confidence) + self.intercepts[member])


def check_members(model: FittedCascade, members: Sequence[str]) -> None:
    """Refuse other members, or another order, than the cascade was fitted on.

    Raises:
        FunctionError: naming both.
    """
    if tuple(members) != model.members:
        raise FunctionError(
            f"the cascade was fitted on {' then '.join(model.members)}, and not on {' then '.join(members)}", hint=AGAIN
        )


def thresholds_of(given: float | Sequence[float], n_members: int) -> list[float]:
    """Return a threshold for every member but the last.

    Raises:
        FunctionError: a list of another length.
    """
    if isinstance(given, int | float):
        return [float(given)] * (n_members - 1)
    if len(given) != n_members - 1:
        raise FunctionError(
            f"{n_members} members need {n_members - 1} thresholds, these are {len(given)}",
            hint="the last member's answer is always taken",
        )
    return [float(value) for value in given]


def logit(probability: float) -> float:
    """Return log(p / (1 - p)), held between -12 and 12."""
    if probability <= 0 or probability >= 1:
        return MOST_LOGIT if probability >= 1 else -MOST_LOGIT
    return min(max(math.log(probability / (1 - probability)), -MOST_LOGIT), MOST_LOGIT)


def sigmoid(value: float) -> float:
    """Return 1 / (1 + exp(-value)) without overflow."""
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    return math.exp(value) / (1 + math.exp(value))
