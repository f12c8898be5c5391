"""Temperature scaling: one number a member that makes its probabilities mean what they say.

After Guo et al. 2017, On Calibration of Modern Neural Networks, section 4.2: log-probabilities are divided by the
temperature that gives labelled rows the highest likelihood. It never changes which choice is likeliest. Here the
search is a golden section over log T, as the loss has one minimum in 1 / T; no library is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from gristmill import FunctionError, Value

from ._choose import LEAST, scale

LEAST_T, MOST_T = 0.05, 20.0
N_BINS = 10


class ChosenRow(Value):
    """One labelled question: each member's probabilities, as in the `members` of `ensemble.choose`, and the label."""

    members: dict[str, dict[str, float]]
    label: str


class Calibrated(Value):
    """Temperatures for `ensemble.choose`, and what they change on the rows they were found on."""

    temperatures: dict[str, float]
    """Member to temperature: above 1 it was too sure, below 1 not sure enough. From 0.05 to 20."""
    n: int
    log_loss: dict[str, float]
    """Member to its mean negative log-probability of the label, in nats, before."""
    log_loss_scaled: dict[str, float]
    """The same after scaling; never higher."""
    calibration_error: dict[str, float]
    """Member to the expected calibration error before: |accuracy - confidence|, averaged over ten equal bins."""
    calibration_error_scaled: dict[str, float]


def calibrate(rows: Sequence[ChosenRow]) -> Calibrated:
    """Return every member's temperature.

    Raises:
        FunctionError: there are no rows, a row lacks a member, or a label is none of a member's choices.
    """
    if not rows:
        raise FunctionError("there are no labelled rows")
    names = list(rows[0].members)
    for number, row in enumerate(rows, start=1):
        if set(row.members) != set(names):
            raise FunctionError(f"row {number} has the members {sorted(row.members)}, the first row {sorted(names)}")
        for name, probabilities in row.members.items():
            if row.label not in probabilities:
                raise FunctionError(
                    f"row {number}: the label {row.label!r} is none of the choices of {name!r}, {list(probabilities)}"
                )
    data = {name: [(row.members[name], row.label) for row in rows] for name in names}
    temperatures = {name: _best_temperature(own) for name, own in data.items()}
    return Calibrated(
        temperatures=temperatures,
        n=len(rows),
        log_loss={name: log_loss(own, 1.0) for name, own in data.items()},
        log_loss_scaled={name: log_loss(own, temperatures[name]) for name, own in data.items()},
        calibration_error={name: calibration_error(own, 1.0) for name, own in data.items()},
        calibration_error_scaled={name: calibration_error(own, temperatures[name]) for name, own in data.items()},
    )


Labelled = Sequence[tuple[Mapping[str, float], str]]


def log_loss(rows: Labelled, temperature: float) -> float:
    """Return the mean of -log p(label), in nats."""
    return -math.fsum(math.log(max(_scaled(p, temperature)[label], LEAST)) for p, label in rows) / len(rows)


def calibration_error(rows: Labelled, temperature: float) -> float:
    """Return the expected calibration error over ten bins of equal width (Guo et al., equation 5)."""
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(N_BINS)]
    for probabilities, label in rows:
        scaled = _scaled(probabilities, temperature)
        text = max(scaled, key=lambda choice: scaled[choice])
        bins[min(int(scaled[text] * N_BINS), N_BINS - 1)].append((scaled[text], text == label))
    gaps = [abs(math.fsum(sure for sure, _ in part) - sum(right for _, right in part)) for part in bins]
    return math.fsum(gaps) / len(rows)


def _scaled(probabilities: Mapping[str, float], temperature: float) -> dict[str, float]:
    return dict(zip(probabilities, scale(list(probabilities.values()), temperature), strict=True))


def _best_temperature(rows: Labelled) -> float:
    found = math.exp(_minimum(lambda log_t: log_loss(rows, math.exp(log_t)), math.log(LEAST_T), math.log(MOST_T)))
    return found if log_loss(rows, found) < log_loss(rows, 1.0) else 1.0


def _minimum(f: Callable[[float], float], low: float, high: float) -> float:
    """Return where a function with one minimum has it (golden section), to a ten-thousandth."""
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = f(left), f(right)
    while high - low > 1e-4:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = f(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = f(right)
    return (low + high) / 2
