"""From what members said to ballots: names, normalised answers, and each member's order of preference.

It counts nothing. Invariants: two spellings of one answer are one option, and how it is written does not depend on the
order in which the members come; a text that holds no answer of the wanted kind is an abstention and never a guess,
and so is one that says of itself that it holds none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gristmill import Candidate, FunctionError, suggest

from ._ballots_normalize import Answer, Normalize, normalizer

Ranking = tuple[tuple[str, ...], ...]
"""Options in groups, the most preferred first; those of one group are preferred alike."""


@dataclass(frozen=True, slots=True)
class Ballot:
    """One vote. `member` is unique in an election; `source` is what weights are bound to."""

    member: str
    source: str
    ranking: Ranking
    confidence: float | None = None
    """Probability that the member itself gives its first option."""
    logprob: float | None = None
    n_tokens: int | None = None

    @property
    def first(self) -> tuple[str, ...]:
        return self.ranking[0]


@dataclass(frozen=True, slots=True)
class Election:
    """All ballots, the options in the order in which they were first named, and who abstained."""

    ballots: tuple[Ballot, ...]
    options: tuple[str, ...]
    values: Mapping[str, Any] = field(default_factory=dict)
    abstained: tuple[str, ...] = ()


def named(candidates: Sequence[Candidate] | Mapping[str, Candidate]) -> dict[str, Candidate]:
    """Return candidates by a name of their own: a mapping's key, the source, or the place from 1.

    A source that comes again is "a#2", "a#3"; its `source` stays "a".
    """
    if isinstance(candidates, Mapping):
        return {name: candidate.model_copy(update={"source": name}) for name, candidate in candidates.items()}
    result: dict[str, Candidate] = {}
    counts: Counter[str] = Counter()
    for place, candidate in enumerate(candidates, start=1):
        base = candidate.source or str(place)
        counts[base] += 1
        name = base if counts[base] == 1 else f"{base}#{counts[base]}"
        while name in result:  # a source may itself be called "a#2"
            counts[base] += 1
            name = f"{base}#{counts[base]}"
        result[name] = candidate if candidate.source else candidate.model_copy(update={"source": base})
    return result


def hold_election(
    candidates: Mapping[str, Candidate], normalize: Normalize, *, options: Sequence[str] = (), ranked: bool = False
) -> Election:
    """Read every candidate's text, and with `ranked` its probabilities, as a ballot.

    Args:
        candidates: member to what it said.
        normalize: what kind of answer a text holds.
        options: the only answers that count; any by default.
        ranked: a candidate with probabilities ranks all their options; any other names one.
    """
    read = normalizer(normalize, options)
    answers: dict[str, Answer | None] = {
        name: read(candidate.text) if candidate.found else None for name, candidate in candidates.items()
    }
    others = [
        answer
        for candidate in candidates.values()
        for option in (candidate.probabilities or ())
        if ranked and candidate.found and (answer := read(option)) is not None
    ]
    spelling = _spellings([*(read(option) for option in options), *answers.values(), *others])
    ballots: list[Ballot] = []
    for name, answer in answers.items():
        if answer is not None:
            ballots.append(_ballot(name, candidates[name], answer, spelling, read if ranked else None))
    values = {spelling[a.key]: a.value for a in [*answers.values(), *others] if a is not None}
    return Election(
        ballots=tuple(ballots),
        options=_options(ballots, [spelling[a.key] for a in map(read, options) if a is not None]),
        values=values,
        abstained=tuple(name for name, answer in answers.items() if answer is None),
    )


def ranked_election(rankings: Mapping[str, Sequence[str]], *, options: Sequence[str] = ()) -> Election:
    """Read rankings, the best first, as ballots.

    Raises:
        FunctionError: a ranking names an option twice, or one that is not to be chosen.
    """
    ballots = []
    abstained = []
    for member, ranking in rankings.items():
        if len(set(ranking)) < len(ranking):
            twice = next(option for option, n in Counter(ranking).items() if n > 1)
            raise FunctionError(f"the ranking of {member!r} has {twice!r} twice")
        unknown = [option for option in ranking if options and option not in options]
        if unknown:
            raise FunctionError(f"{member!r} ranks {unknown[0]!r}", hint=suggest(unknown[0], options))
        if ranking:
            ballots.append(Ballot(member, member, tuple((option,) for option in ranking)))
        else:
            abstained.append(member)
    found = _options(ballots, options)
    return Election(tuple(ballots), found, {option: option for option in found}, tuple(abstained))


def _options(ballots: Sequence[Ballot], options: Sequence[str]) -> tuple[str, ...]:
    named_first = [option for ballot in ballots for group in ballot.ranking for option in group]
    return tuple(dict.fromkeys([*named_first, *options]))


def _spellings(answers: Sequence[Answer | None]) -> dict[str, str]:
    """Return how each key is written: as most members wrote it, and of those the first in the alphabet."""
    counts: dict[str, Counter[str]] = {}
    for answer in answers:
        if answer is not None:
            counts.setdefault(answer.key, Counter())[answer.shown] += 1
    chosen = {key: min(shown, key=lambda text: (-shown[text], text)) for key, shown in counts.items()}
    taken = Counter(chosen.values())
    return {key: shown if taken[shown] == 1 else key for key, shown in chosen.items()}


def _ballot(member: str, candidate: Candidate, answer: Answer, spelling: Mapping[str, str], read: Any) -> Ballot:
    chosen = spelling[answer.key]
    ballot = Ballot(
        member=member,
        source=candidate.source or member,
        ranking=((chosen,),),
        confidence=(candidate.probabilities or {}).get(candidate.text),
        logprob=candidate.logprob,
        n_tokens=candidate.n_tokens,
    )
    if read is None or not candidate.probabilities:
        return ballot
    shares: dict[str, float] = {}
    for option, probability in candidate.probabilities.items():
        if (found := read(option)) is not None:
            shares[spelling[found.key]] = shares.get(spelling[found.key], 0.0) + probability
    levels = sorted(set(shares.values()), reverse=True)
    ranking = tuple(tuple(option for option in shares if shares[option] == level) for level in levels)
    return replace(ballot, ranking=ranking) if ranking else ballot
