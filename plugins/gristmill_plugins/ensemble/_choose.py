"""Several members' probabilities over one closed list, made into one.

It asks nobody. Invariants: the result is a distribution over the same choices; neither the order nor the names of the
members change it; a product leaves every choice some probability, however sure one member is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from gristmill import Candidate, FunctionError, Usage, Value, suggest

Mean = Literal["mean", "product"]
LEAST = 1e-9
"""No probability counts as less: a member that is sure beyond a billionth has no veto."""


class Chosen(Value):
    """What several members chose together from a closed list."""

    text_field = "text"

    text: str
    index: int
    """Position in the list that was asked for, from 0."""
    probabilities: dict[str, float]
    """A probability for each choice, in the order asked; they sum to 1."""
    confidence: float
    """The probability of `text`."""
    agreement: float
    """The weighted share of members whose own first choice it is."""
    members: dict[str, dict[str, float]]
    """Member to its own probabilities, before weights and temperatures: what `ensemble.calibrate` learns from."""
    failures: dict[str, str] = {}
    usage: dict[str, Usage] = {}
    """Member to what it cost, where it was asked."""


def combine_choices(
    candidates: Mapping[str, Candidate],
    choices: Sequence[str],
    *,
    how: Mean = "mean",
    weights: Mapping[str, float] | None = None,
    temperatures: Mapping[str, float] | None = None,
) -> Chosen:
    """Return the mean of probabilities (a mixture), or of log-probabilities (a product of experts, Hinton 2002).

    Args:
        candidates: member to an answer with probabilities.
        choices: the list; every member has a probability for each.
        how: which mean.
        weights: member to weight; equal ones by default.
        temperatures: member to what its log-probabilities are divided by; 1 for members it does not name.

    Raises:
        FunctionError: a member has no probabilities, or others, or no weight; a temperature is not above 0.
    """
    own = {name: _own_probabilities(name, candidate, choices) for name, candidate in candidates.items()}
    shares = _shares(own, weights)
    _check_temperatures(temperatures or {}, own)
    scaled = {name: scale(row, (temperatures or {}).get(name, 1.0)) for name, row in own.items()}
    if how == "mean":
        mean = [math.fsum(shares[name] * row[i] for name, row in scaled.items()) for i in range(len(choices))]
    else:
        logs = [
            math.fsum(shares[name] * math.log(max(row[i], LEAST)) for name, row in scaled.items())
            for i in range(len(choices))
        ]
        mean = [math.exp(value - max(logs)) for value in logs]
    total = math.fsum(mean)
    together = [value / total for value in mean]
    index = max(range(len(choices)), key=lambda i: together[i])
    agreement = math.fsum(shares[name] for name, row in own.items() if row[index] == max(row))
    return Chosen(
        text=choices[index],
        index=index,
        probabilities=dict(zip(choices, together, strict=True)),
        confidence=together[index],
        agreement=min(agreement, 1.0),
        members={name: dict(zip(choices, row, strict=True)) for name, row in own.items()},
    )


def scale(row: Sequence[float], temperature: float) -> list[float]:
    """Return softmax(log p / T): above 1 a temperature makes a distribution flatter, below 1 sharper."""
    if temperature == 1.0:
        return list(row)
    logs = [math.log(max(value, LEAST)) / temperature for value in row]
    values = [math.exp(value - max(logs)) for value in logs]
    return [value / math.fsum(values) for value in values]


def _own_probabilities(name: str, candidate: Candidate, choices: Sequence[str]) -> list[float]:
    given = candidate.probabilities
    if given is None:
        raise FunctionError(
            f"member {name!r} answered {candidate.text[:40]!r} without probabilities",
            hint="ensemble.vote combines answers that have none",
        )
    if set(given) != set(choices):
        raise FunctionError(f"member {name!r} chose among {list(given)}, and the choices are {list(choices)}")
    total = math.fsum(given.values())
    if not (all(value >= 0 for value in given.values()) and 0 < total < math.inf):
        raise FunctionError(f"the probabilities of member {name!r} are {list(given.values())}")
    return [given[choice] / total for choice in choices]


def _shares(own: Mapping[str, Sequence[float]], weights: Mapping[str, float] | None) -> dict[str, float]:
    """Return weights that sum to 1; every member must have one."""
    if not own:
        raise FunctionError("no member answered")
    given = dict.fromkeys(own, 1.0) if weights is None else weights
    missing = [name for name in own if name not in given]
    if missing:
        raise FunctionError(f"member {missing[0]!r} has no weight; there are weights for {sorted(given)}")
    used = {name: given[name] for name in own}
    total = math.fsum(used.values())
    if not all(value >= 0 for value in used.values()) or not 0 < total < math.inf:
        raise FunctionError(f"the weights are {used}: none may be negative, nor all zero")
    return {name: value / total for name, value in used.items()}


def _check_temperatures(temperatures: Mapping[str, float], own: Mapping[str, object]) -> None:
    for name, value in temperatures.items():
        if not 0 < value < math.inf:
            raise FunctionError(f"the temperature of member {name!r} is {value}: it is above 0")
    missing = [name for name in own if temperatures and name not in temperatures]
    if missing:
        raise FunctionError(f"member {missing[0]!r} has no temperature", hint=suggest(missing[0], temperatures))


def choices_of(candidates: Mapping[str, Candidate]) -> tuple[str, ...]:
    """Return what was chosen from: the choices of the first candidate that has probabilities."""
    lists = Counter(tuple(candidate.probabilities) for candidate in candidates.values() if candidate.probabilities)
    return next(iter(lists), ())
