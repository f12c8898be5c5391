"""From ballots to a Vote: weights, the rule, ties, and how clear and how sure the outcome is.

It draws no sample and reads no text. Invariant: but for `ties: first`, which is about order, neither the order nor the
names of the members change the winner.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from gristmill import FunctionError, Vote

from ._ballots import Ballot, Election
from ._votes_posterior import lead_is_real
from ._votes_rules import RULES, Rule, Weighted, first_choices, pairwise

Ties = Literal["first", "confidence", "random", "abstain"]
WeighBy = Literal["one", "probability", "mean_probability", "confidence"]


@dataclass(frozen=True, slots=True)
class Counting:
    """How votes are counted."""

    rule: Rule = "majority"
    ties: Ties = "first"
    seed: int = 0
    weights: Mapping[str, float] | None = None
    """Source to weight."""
    accuracies: Mapping[str, float] | None = None
    """Source to its share of right answers, from which weights follow."""
    weigh_by: WeighBy = "one"
    n_options: int = 2
    """Among how many answers a guess would be made, for weights from accuracies."""

    def source_weights(self) -> Mapping[str, float] | None:
        """Return source to weight; None where all weigh the same.

        Raises:
            FunctionError: a weight is negative or no number.
        """
        own = self.weights
        if self.accuracies is not None:
            own = accuracy_weights(self.accuracies, self.n_options)
        for name, weight in (own or {}).items():
            if not 0 <= weight < math.inf:
                raise FunctionError(f"the weight of {name!r} is {weight}: a weight is 0 or more")
        return own


def count_votes(election: Election, counting: Counting) -> Vote:
    """Return the outcome; nobody wins where nobody voted, or where a tie is to decide nothing.

    Raises:
        FunctionError: a weight is missing, negative, or all are zero.
    """
    weights = ballot_weights(election, counting)
    if not election.ballots:
        return Vote(winner=None, tally={}, agreement=0.0, abstained=election.abstained)
    if not any(weights.values()):
        raise FunctionError(
            "every vote weighs nothing",
            hint="give a member a weight above 0; one that is no better than guessing has none",
        )
    ballots: Weighted = [(Fraction(weights[b.member]), b.ranking) for b in election.ballots]
    outcome = RULES[counting.rule](ballots, election.options)
    winner = _break_tie(outcome.winners, election, counting)
    shares = _shares(first_choices(ballots, election.options))
    return Vote(
        winner=winner,
        value=None if winner is None else election.values.get(winner, winner),
        tally=_sorted({option: float(votes) for option, votes in outcome.tally.items()}),
        agreement=0.0 if winner is None else min(shares[winner], 1.0),
        entropy=-math.fsum(share * math.log2(share) for share in shares.values() if share > 0) + 0.0,
        confidence=0.0 if winner is None else _confidence(winner, ballots, election.options, counting.rule),
        votes={ballot.member: ballot.first[0] for ballot in election.ballots},
        weights=weights,
        abstained=election.abstained,
        tied=tuple(sorted(outcome.winners)) if len(outcome.winners) > 1 else (),
        rounds=tuple(_sorted({o: float(v) for o, v in count.items()}) for count in outcome.rounds),
    )


def ballot_weights(election: Election, counting: Counting) -> dict[str, float]:
    """Return what each ballot counts: its source's weight, times what `weigh_by` says of the answer itself."""
    own = counting.source_weights()
    missing = sorted({b.source for b in election.ballots if own is not None and b.source not in own})
    if missing:
        raise FunctionError(
            f"{', '.join(map(repr, missing))} voted and {'has' if len(missing) == 1 else 'have'} no weight; "
            f"there are weights for {', '.join(map(repr, sorted(own or {})))}",
            hint="weights are by the member's name; those of candidates without a source are '1', '2', ...",
        )
    likeliest = max((b.logprob for b in election.ballots if b.logprob is not None), default=0.0)
    return {
        b.member: (1.0 if own is None else own[b.source]) * _answer_weight(b, counting.weigh_by, likeliest)
        for b in election.ballots
    }


def accuracy_weights(accuracies: Mapping[str, float], n_options: int) -> dict[str, float]:
    """Return log((n - 1) p / (1 - p)), what a vote is worth as evidence; 0 for one no better than guessing.

    For independent members and two options this is the weighting with the most right outcomes (Nitzan and Paroush
    1982, Optimal Decision Rules in Uncertain Dichotomous Choice Situations, theorem 1). Accuracies count from 0.001 to
    0.999: nobody is certain.
    """
    weights = {}
    for name, accuracy in accuracies.items():
        if not 0 <= accuracy <= 1:
            raise FunctionError(f"the accuracy of {name!r} is {accuracy}: it is from 0 to 1")
        p = min(max(accuracy, 0.001), 0.999)
        weights[name] = max(0.0, math.log((n_options - 1) * p / (1 - p)))
    return weights


def _answer_weight(ballot: Ballot, weigh_by: WeighBy, likeliest: float) -> float:
    """Return 1, or a probability; those of whole texts are relative to the likeliest, as they may be below 1e-300."""
    if weigh_by == "one":
        return 1.0
    if weigh_by == "confidence":
        if ballot.confidence is None:
            raise FunctionError(f"{ballot.member!r} gave no probability for its answer: it cannot be weighed by it")
        return ballot.confidence
    if ballot.logprob is None:
        raise FunctionError(
            f"{ballot.member!r} gave no log-probability",
            hint="ask with `top_logprobs: 0`, or let ensemble.vote ask: it takes `prompt` and `members`",
        )
    if weigh_by == "probability":
        return math.exp(ballot.logprob - likeliest)
    return math.exp(ballot.logprob / max(ballot.n_tokens or 1, 1))


def _break_tie(winners: frozenset[str], election: Election, counting: Counting) -> str | None:
    if len(winners) == 1:
        return next(iter(winners))
    if counting.ties == "abstain":
        return None
    if counting.ties == "random":
        return random.Random(counting.seed).choice(sorted(winners))
    if counting.ties == "confidence":
        sureness = {option: _sureness(option, election.ballots) for option in winners}
        most = max(sureness.values())
        winners = frozenset(option for option in winners if sureness[option] == most)
    return next(option for option in election.options if option in winners)


def _sureness(option: str, ballots: Sequence[Ballot]) -> float:
    """Return the mean probability that those who put an option first gave it."""
    own = [b.confidence if b.confidence is not None else math.exp(b.logprob) if b.logprob is not None else 0.0
           for b in ballots if option in b.first]  # fmt: skip
    return math.fsum(own) / len(own) if own else 0.0


def _shares(count: Mapping[str, Fraction]) -> dict[str, float]:
    total = sum(count.values()) or Fraction(1)
    return {option: float(votes / total) for option, votes in count.items()}


def _confidence(winner: str, ballots: Weighted, options: Sequence[str], rule: Rule) -> float:
    """Return the posterior of the winner's lead over its closest rival; a vote of mean weight counts as one."""
    scale = Fraction(len(ballots)) / sum((weight for weight, _ in ballots), Fraction(0))
    if rule == "majority":
        first = first_choices(ballots, options)
        versus = {other: (first[winner], first[other]) for other in options if other != winner}
    else:
        count = pairwise(ballots, options)
        versus = {other: (count[winner, other], count[other, winner]) for other in options if other != winner}
    duels = [(float(own * scale), float(other * scale)) for own, other in versus.values()]
    if not duels:
        duels = [(float(len(ballots)), 0.0)]
    return min(lead_is_real(own, other) for own, other in duels)


def _sorted(count: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(count.items(), key=lambda item: (-item[1], item[0])))
