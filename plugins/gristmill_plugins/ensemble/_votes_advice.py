"""Whether voting pays: what labelled data say of members, and of their vote against the best of them alone.

It asks no model. Invariant: advice is given only together with the numbers it follows from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from gristmill import Candidate, FunctionError, Value

from ._ballots import hold_election, named
from ._ballots_normalize import Normalize, normalizer
from ._votes_count import Counting, accuracy_weights, count_votes


class VotedRow(Value):
    """One labelled question: what each member said, and what is right."""

    votes: dict[str, str]
    label: str


class Weighed(Value):
    """What members are worth, as found on labelled rows."""

    text_field = "advice"

    weights: dict[str, float]
    """Member to log((n - 1) p / (1 - p)), for `weights` of a vote."""
    accuracies: dict[str, float]
    """Member to its share of right answers, with one right and one wrong answer added (Laplace)."""
    n: int
    """How many rows there were."""
    vote_accuracy: float
    """The share of rows in which an unweighted majority was right, a tie counting as its share."""
    weighted_accuracy: float
    """The same with `weights`; measured on the rows that the weights are from, so a little too high."""
    best: str
    """The member with the most right answers."""
    best_accuracy: float
    any_accuracy: float
    """The share of rows in which at least one member was right: no way of choosing among them can do better."""
    advice: str


def weigh(rows: Sequence[VotedRow], *, normalize: Normalize = "text", options: Sequence[str] = ()) -> Weighed:
    """Return accuracies, weights and whether voting pays.

    Raises:
        FunctionError: there are no rows, a row lacks a member that others have, or a label holds no answer.
    """
    if not rows:
        raise FunctionError("there are no labelled rows")
    members = tuple(rows[0].votes)
    read = normalizer(normalize, options)
    right = dict.fromkeys(members, 0)
    n_any = 0
    for number, row in enumerate(rows, start=1):
        if set(row.votes) != set(members):
            raise FunctionError(f"row {number} has votes of {sorted(row.votes)}, the first row of {sorted(members)}")
        label = read(row.label)
        if label is None:
            raise FunctionError(f"row {number}: the label {row.label!r} holds no {normalize}")
        hits = [name for name in members if (a := read(row.votes[name])) is not None and a.key == label.key]
        n_any += bool(hits)
        for name in hits:
            right[name] += 1
    accuracies = {name: (hits + 1) / (len(rows) + 2) for name, hits in right.items()}
    weights = accuracy_weights(accuracies, max(len(options), 2))
    plain = _vote_accuracy(rows, None, normalize, options)
    best = max(members, key=lambda name: (right[name], name))
    found = Weighed(
        weights=weights, accuracies=accuracies, n=len(rows), vote_accuracy=plain,
        weighted_accuracy=_vote_accuracy(rows, weights, normalize, options) if any(weights.values()) else plain,
        best=best, best_accuracy=right[best] / len(rows), any_accuracy=n_any / len(rows), advice="",
    )  # fmt: skip
    return found.model_copy(update={"advice": _advice(found)})


def _vote_accuracy(
    rows: Sequence[VotedRow], weights: Mapping[str, float] | None, normalize: Normalize, options: Sequence[str]
) -> float:
    read = normalizer(normalize, options)
    total = 0.0
    for row in rows:
        candidates = named({name: Candidate(text=text) for name, text in row.votes.items()})
        election = hold_election(candidates, normalize, options=options)
        voters = [ballot.source for ballot in election.ballots]
        if not voters or (weights is not None and not any(weights[name] for name in voters)):
            continue
        vote = count_votes(election, Counting(weights=weights))
        label = read(row.label)
        winners = vote.tied or (vote.winner,)
        hits = sum(
            (a := read(winner or "")) is not None and label is not None and a.key == label.key for winner in winners
        )
        total += hits / len(winners)
    return total / len(rows)


def _advice(found: Weighed) -> str:
    members = ", ".join(f"{name} {share:.0%}" for name, share in sorted(found.accuracies.items()))
    vote, best = found.vote_accuracy, found.best_accuracy
    told = f"on {found.n} rows a majority is right in {vote:.0%}, the best member, {found.best!r}, in {best:.0%}"
    base = math.fsum(found.accuracies.values()) / len(found.accuracies)
    if base < 0.5:
        told += f"; the members are right in {base:.0%} on average, below one half ({members})"
    if vote < best:
        return f"{told}: do not vote, ask {found.best!r} alone; ensemble.stack may still gain from the others"
    if base < 0.5:
        return f"{told}: it gains only where wrong answers scatter; expect it to hurt where they agree"
    return f"{told}: voting pays" if vote > best else f"{told}: voting gains nothing here"


def condorcet_advice(accuracies: Mapping[str, float], voters: Sequence[str]) -> str | None:
    """Return a warning where members of these accuracies, were they independent, vote worse than one of them alone.

    Condorcet's jury theorem (1785): with two options and members that are right with less than one half, more members
    make the majority worse.
    """
    known = [accuracies[name] for name in voters if name in accuracies]
    if len(known) < 2 or (base := math.fsum(known) / len(known)) >= 0.5:
        return None
    together = majority_accuracy(known)
    return (
        f"the {len(known)} members that voted are right in {base:.0%} on average, below one half: of two answers, a "
        f"majority of independent members like these is right in {together:.0%}, the best of them alone in "
        f"{max(known):.0%} (Condorcet); ask that one, or measure with ensemble.weigh whether wrong answers scatter"
    )


def majority_accuracy(accuracies: Sequence[float]) -> float:
    """Return how often a majority of independent members is right, of two answers; a tie is right half the time."""
    n_right = [1.0]  # probability of each number of right members
    for p in accuracies:
        n_right = [
            (n_right[k] * (1 - p) if k < len(n_right) else 0.0) + (n_right[k - 1] * p if k else 0.0)
            for k in range(len(n_right) + 1)
        ]
    half = len(accuracies) / 2
    return math.fsum(share * (1.0 if k > half else 0.5 if k == half else 0.0) for k, share in enumerate(n_right))
