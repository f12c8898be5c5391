"""Drawing the answers of a vote, and stopping once more of them cannot matter.

It decides which samples to draw next; asking is `_ask_member`'s and counting `_votes_count`'s. Members take turns:
first the first sample of each, then the second. Invariants: with `certain`, the winner is the one that all samples
would have given; with equal weights no batch goes beyond the earliest sample at which drawing could end.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gristmill import Candidate, FunctionError, Usage, Vote

from ._ask_member import Reply
from ._votes_posterior import lead_is_real

EarlyStop = Literal["certain"] | float


@dataclass(frozen=True, slots=True)
class Draw:
    """One sample of one member."""

    member: str
    sample: int


Ask = Callable[[Sequence[Draw]], Awaitable[Mapping[str, Reply]]]
"""Asks for a batch: a member's draws follow one another; its reply has a candidate for each, or an error."""


@dataclass(slots=True)
class Drawing:
    """A vote that draws its own answers.

    Args:
        weights: member to what its vote weighs at most; the members take turns in this order.
        samples: how many each member gives at most.
        early_stop: None draws all; "certain" until the outcome cannot change; a number from 0.5 until it is so likely
            that the leader leads.
        most_failures: so many members may fail.
    """

    weights: Mapping[str, float]
    samples: int
    early_stop: EarlyStop | None = None
    most_failures: int = 0
    said: dict[Draw, Candidate] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    usage: dict[str, Usage] = field(default_factory=dict)

    async def run(self, ask: Ask, count: Callable[[Sequence[Candidate]], Vote]) -> Vote:
        """Draw and count until the outcome is settled or nothing is left to draw.

        Raises:
            FunctionError: too many members failed, or none said anything.
        """
        order = [Draw(member, sample) for sample in range(self.samples) for member in self.weights]
        left, n_drawn = list(order), 0
        vote = Vote(winner=None, tally={}, agreement=0.0)
        while left and (size := self._next(vote, left)):
            batch, left = left[:size], left[size:]
            self._take(batch, await ask(batch))
            n_drawn += len(batch)
            left = [draw for draw in left if draw.member not in self.failures]
            vote = count([self.said[draw] for draw in order if draw in self.said])
        return vote.model_copy(update={"n_asked": n_drawn, "n_saved": len(left), "usage": self.usage})

    def _take(self, batch: Sequence[Draw], replies: Mapping[str, Reply]) -> None:
        for name, reply in replies.items():
            self.usage[name] = self.usage.get(name, Usage()) + reply.usage
            if reply.error is not None:
                self.failures[name] = reply.error
                continue
            own = [draw for draw in batch if draw.member == name]
            self.said.update(zip(own, reply.candidates, strict=True))
        if len(self.failures) > self.most_failures:
            told = "; ".join(f"{name!r}: {error}" for name, error in self.failures.items())
            raise FunctionError(
                f"{len(self.weights) - len(self.failures)} of {len(self.weights)} members answered, and "
                f"{len(self.weights) - self.most_failures} must: {told}",
                hint="lower min_answers to go on without them",
            )

    def _next(self, vote: Vote, left: Sequence[Draw]) -> int:
        """Return the least number of samples after which drawing could end, 0 if it can end now."""
        if self.early_stop is None:
            return len(left)
        votes = [*vote.tally.values(), 0.0, 0.0]  # of majority, most first
        weights = [self.weights[draw.member] for draw in left]
        if self.early_stop == "certain":
            return _until_certain(votes[0] - votes[1], weights)
        scale = len(vote.votes) / math.fsum(vote.weights.values()) if vote.votes else 1.0
        return _until_likely(votes[0] * scale, votes[1] * scale, len(left), self.early_stop)


def _until_certain(lead: float, weights: Sequence[float]) -> int:
    """Return how many of the next votes must all go to the leader until the rest cannot catch up."""
    rest = math.fsum(weights)
    for n, weight in enumerate(weights):
        if lead > rest + 1e-9:
            return n
        lead, rest = lead + weight, rest - weight
    return len(weights)


def _until_likely(leader: float, runner_up: float, most: int, enough: float) -> int:
    """Return how many of the next votes must all go to the leader until its lead is likely enough."""
    return next((n for n in range(most) if lead_is_real(leader + n, runner_up) >= enough), most)
