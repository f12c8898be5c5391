"""A vote that asks its members itself: which of them, how often, and until when.

It joins `_ask_member`, `_votes_draw` and `_votes_count`, and does none of their work. Invariant: every sample that was
drawn is counted, and costs what the vote says it cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from gristmill import Candidate, Context, FunctionError, Vote

from ._ask_member import MemberSpec, Question, Reply, answers_wanted, check_samples, gather_replies
from ._ballots import Election
from ._votes_count import Counting, count_votes
from ._votes_draw import Draw, Drawing, EarlyStop


@dataclass(frozen=True, slots=True)
class Poll:
    """Members and what they are asked; `question.samples` is the most that each of them gives."""

    context: Context
    members: Mapping[str, MemberSpec]
    question: Question
    early_stop: EarlyStop | None
    min_answers: int | None

    async def take(self, counting: Counting, hold: Callable[[Sequence[Candidate]], Election]) -> Vote:
        """Ask and count.

        Raises:
            FunctionError: members, weights or the stop make no sense, or too many members failed.
        """
        self._check(counting)
        if counting.weights is None and counting.accuracies is None:
            counting = replace(counting, weights={name: spec.weight for name, spec in self.members.items()})
        own = counting.source_weights() or {}
        without = [name for name in self.members if name not in own]
        if without:
            raise FunctionError(f"member {without[0]!r} has no weight; there are weights for {sorted(own)}")
        drawing = Drawing(
            weights={name: own[name] for name in self.members},
            samples=self.question.samples,
            early_stop=self.early_stop,
            most_failures=len(self.members) - answers_wanted(self.members, self.min_answers),
        )
        vote = await drawing.run(self._ask, lambda candidates: count_votes(hold(candidates), counting))
        for name, error in drawing.failures.items():
            self.context.note(f"member {name!r} failed and is left out: {error}")
        if vote.n_saved:
            self.context.note(f"settled after {vote.n_asked} of {vote.n_asked + vote.n_saved} samples")
        return vote

    def _check(self, counting: Counting) -> None:
        check_samples(self.members, self.question)
        stop = self.early_stop
        if stop is None:
            return
        if counting.rule != "majority":
            raise FunctionError(f"early_stop works with the rule 'majority', not with {counting.rule!r}")
        if counting.weigh_by == "probability":
            raise FunctionError(
                "early_stop cannot weigh by probability: one likelier text to come may outweigh all",
                hint="weigh_by: mean_probability can",
            )
        if isinstance(stop, float | int) and not 0.5 < stop < 1:
            raise FunctionError(f"early_stop is 'certain', or a probability above 0.5 and below 1; this is {stop}")

    async def _ask(self, batch: Sequence[Draw]) -> Mapping[str, Reply]:
        first: dict[str, int] = {}
        n_draws: dict[str, int] = {}
        for draw in batch:
            first.setdefault(draw.member, draw.sample)
            n_draws[draw.member] = n_draws.get(draw.member, 0) + 1
        questions = {
            name: self.question.model_copy(update={"first_sample": start, "samples": n_draws[name]})
            for name, start in first.items()
        }
        return await gather_replies(self.context, self.members, questions)
