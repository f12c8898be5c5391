"""Voting rules over weighted ballots: plurality, Borda, instant runoff, Schulze.

It knows no members, texts or ties: where several options share the first place, it returns them all. Ballots may rank
options equally and leave options out. Invariants: the result depends on the ballots as a collection and on no order of
ballots or options (anonymity, neutrality); sums are exact, so that equal weights never lose a tie to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from ._ballots import Ranking

Rule = Literal["majority", "borda", "instant_runoff", "schulze"]
Weighted = Sequence[tuple[Fraction, Ranking]]
"""Ballots with their weights, none of them negative."""
Count = dict[str, Fraction]


@dataclass(frozen=True, slots=True)
class Outcome:
    """`winners` are several where the rule cannot tell them apart; `tally` has every option."""

    winners: frozenset[str]
    tally: Count
    rounds: tuple[Count, ...] = ()


def first_choices(ballots: Weighted, options: Collection[str]) -> Count:
    """Return the weight behind each option as a first choice; equal first choices share a ballot."""
    count = dict.fromkeys(options, Fraction(0))
    for weight, ranking in ballots:
        first = [option for option in next((g for g in ranking if count.keys() & set(g)), ()) if option in count]
        for option in first:
            count[option] += weight / len(first)
    return count


def majority(ballots: Weighted, options: Collection[str]) -> Outcome:
    """Most first choices win, though they be fewer than half (plurality)."""
    count = first_choices(ballots, options)
    return Outcome(_best(count), count)


def borda(ballots: Weighted, options: Collection[str]) -> Outcome:
    """An option scores, on each ballot, one point for each option below it (Borda 1781).

    Options ranked alike, and those left out, share the points of their places.
    """
    count = dict.fromkeys(options, Fraction(0))
    for weight, ranking in ballots:
        below = len(count)
        for group in _complete(ranking, options):
            below -= len(group)
            for option in group:
                count[option] += weight * (below + Fraction(len(group) - 1, 2))
    return Outcome(_best(count), count)


def instant_runoff(ballots: Weighted, options: Collection[str]) -> Outcome:
    """The option with the fewest first choices goes, and its ballots pass to their next, until one has over half.

    All that share the last place go together, unless nobody would be left: then they have tied. A ballot whose options
    are all gone counts no more. The tally of an option is its count in the last round it saw.
    """
    left = set(options)
    tally: Count = dict.fromkeys(options, Fraction(0))
    rounds: list[Count] = []
    while True:
        count = first_choices(ballots, left)
        rounds.append(count)
        tally |= count
        best = _best(count)
        if len(best) == len(left) or any(votes * 2 > sum(count.values()) for votes in count.values()):
            return Outcome(best, tally, tuple(rounds))
        fewest = min(count.values())
        left -= {option for option, votes in count.items() if votes == fewest}


def schulze(ballots: Weighted, options: Collection[str]) -> Outcome:
    """The strongest beatpaths win (Schulze 2011, A New Monotonic, Clone-Independent, Reversal Symmetric Method).

    A defeat's strength is its winning votes; an option that beats every other one by one always wins (Condorcet). The
    tally of an option is how many others it beats by its strongest path.
    """
    names = list(options)
    prefers = pairwise(ballots, names)
    path = {
        (a, b): prefers[a, b] if prefers[a, b] > prefers[b, a] else Fraction(0) for a in names for b in names if a != b
    }
    for over in names:
        for a in names:
            for b in names:
                if len({a, b, over}) == 3:
                    path[a, b] = max(path[a, b], min(path[a, over], path[over, b]))
    tally = {a: Fraction(sum(path[a, b] > path[b, a] for b in names if b != a)) for a in names}
    winners = {a for a in names if all(path[a, b] >= path[b, a] for b in names if b != a)}
    return Outcome(frozenset(winners), tally)


def pairwise(ballots: Weighted, options: Collection[str]) -> dict[tuple[str, str], Fraction]:
    """Return, for every two options, the weight of the ballots that rank the first above the second."""
    count = {(a, b): Fraction(0) for a in options for b in options if a != b}
    for weight, ranking in ballots:
        above: list[str] = []
        for group in _complete(ranking, options):
            for b in group:
                for a in above:
                    count[a, b] += weight
            above += group
    return count


RULES: Mapping[Rule, Callable[[Weighted, Collection[str]], Outcome]] = {
    "majority": majority,
    "borda": borda,
    "instant_runoff": instant_runoff,
    "schulze": schulze,
}


def _best(count: Count) -> frozenset[str]:
    most = max(count.values(), default=Fraction(0))
    return frozenset(option for option, votes in count.items() if votes == most)


def _complete(ranking: Ranking, options: Collection[str]) -> list[list[str]]:
    """Return the ranking with the options that it leaves out as its last group."""
    groups = [[option for option in group if option in options] for group in ranking]
    ranked = {option for group in groups for option in group}
    rest = [option for option in options if option not in ranked]
    return [group for group in (*groups, rest) if group]
