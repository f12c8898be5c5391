"""The functions of `ensemble` that work with whole answers: ask, vote, weigh.

It holds signatures and help; the work is in the modules beside it. Invariant: weights, usage and failures are told by
the member's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from gristmill import Candidate, Context, FunctionError, ModelRef, Vote, function

from ._ask_member import MemberSpec, Question, ask_members, check_samples
from ._ask_rows import distinct, labelled_rows
from ._ask_types import (
    Asked,
    EarlyStops,
    MaxTokens,
    MaybeCandidates,
    MaybeMembers,
    Members,
    MinAnswers,
    NormalizeAs,
    Options,
    Prompt,
    Samples,
    Seed,
    System,
    Temperature,
    TieRule,
    WeighedBy,
    Weights,
)
from ._ballots import Election, hold_election, named, ranked_election
from ._votes_advice import VotedRow, Weighed, condorcet_advice, weigh
from ._votes_count import Counting, count_votes
from ._votes_poll import Poll
from ._votes_rules import Rule


class _VoteFunctions:
    """Asking members, and voting."""

    @function
    async def ask(
        self,
        members: Members,
        context: Context,
        *,
        prompt: Prompt = None,
        system: System = None,
        model: Annotated[ModelRef | None, "The model of members that name none."] = None,
        choices: Annotated[list[str] | None, "Members score these instead of writing text."] = None,
        calibrate: Annotated[bool, "Divide each choice's probability by the one it has for 'N/A'."] = False,
        samples: Samples = 1,
        temperature: Temperature = 0.0,
        max_tokens: MaxTokens = 512,
        seed: Seed = 0,
        min_answers: MinAnswers = None,
    ) -> Asked:
        """Ask several models, prompts, adapters or recipes at once."""
        question = Question(
            prompt=prompt, system=system, model=model, choices=distinct(choices), calibrate=calibrate,
            samples=samples, temperature=temperature, max_tokens=max_tokens, seed=seed + context.seed,
        )  # fmt: skip
        check_samples(members, question)
        replies = await ask_members(context, members, question, min_answers=min_answers)
        candidates = tuple(candidate for reply in replies.values() for candidate in reply.candidates)
        return Asked(
            candidates=candidates,
            answers={name: candidate.text for name, candidate in named(candidates).items()},
            failures={name: reply.error for name, reply in replies.items() if reply.error is not None},
            usage={name: reply.usage for name, reply in replies.items()},
        )

    @function
    async def vote(
        self,
        context: Context,
        candidates: MaybeCandidates = None,
        *,
        rankings: Annotated[dict[str, list[str]] | None, "Member to all its options, the best first."] = None,
        rule: Annotated[Rule, "How ballots are counted."] = "majority",
        weights: Weights = None,
        accuracies: Annotated[dict[str, float] | None, "Member to its share of right answers; weights follow."] = None,
        weigh_by: WeighedBy = "one",
        normalize: NormalizeAs = "text",
        options: Options = None,
        ties: TieRule = "first",
        seed: Seed = 0,
        members: MaybeMembers = None,
        prompt: Prompt = None,
        system: System = None,
        model: Annotated[ModelRef | None, "The model of members that name none."] = None,
        samples: Samples = 1,
        temperature: Temperature = 0.0,
        max_tokens: MaxTokens = 512,
        min_answers: MinAnswers = None,
        early_stop: EarlyStops = None,
    ) -> Vote:
        """Return what most say: of answers that are there, of rankings, or of members and samples that are asked."""
        _one_of(candidates=candidates, rankings=rankings, **{"members or a prompt": members or prompt})
        if weights is not None and accuracies is not None:
            raise FunctionError("weights follow from accuracies: give one of them")
        if prompt is None and members is None and (early_stop is not None or samples > 1 or min_answers is not None):
            raise FunctionError("samples, early_stop and min_answers are for votes that ask `members` or a `prompt`")
        allowed = tuple(options or ())
        counting = Counting(rule, ties, seed, weights, accuracies, weigh_by, n_options=len(allowed) or 2)

        def hold(found: Sequence[Candidate] | dict[str, Candidate]) -> Election:
            return hold_election(named(found), normalize, options=allowed, ranked=rule != "majority")

        if rankings is not None:
            vote = count_votes(ranked_election(rankings, options=allowed), counting)
        elif candidates is not None:
            vote = count_votes(hold(candidates), counting)
        else:
            question = Question(
                prompt=prompt, system=system, model=model, samples=samples, temperature=temperature,
                max_tokens=max_tokens, seed=seed + context.seed, logprobs=weigh_by.endswith("probability"),
            )  # fmt: skip
            poll = Poll(context, members or {"answer": MemberSpec()}, question, early_stop, min_answers)
            vote = await poll.take(counting, hold)
        if accuracies is not None and (advice := condorcet_advice(accuracies, sorted(set(vote.votes)))):
            context.note(advice)
            vote = vote.model_copy(update={"advice": advice})
        return vote

    @function
    def weigh(
        self,
        data: Annotated[
            Path | list[VotedRow] | None, "Labelled rows {votes: {member: text}, label: text}, or a JSONL file."
        ] = None,
        *,
        answers: Annotated[list[dict[str, str]] | None, "Instead: for each row, member to its answer."] = None,
        labels: Annotated[list[str] | None, "The right answer of each of those rows."] = None,
        normalize: NormalizeAs = "text",
        options: Options = None,
    ) -> Weighed:
        """Return members' accuracies and weights on labelled data, and whether voting pays there."""
        rows = labelled_rows(VotedRow, data, answers, labels)
        return weigh(rows, normalize=normalize, options=options or ())


def _one_of(**given: object) -> None:
    """Refuse what takes its votes from nowhere, or from two places."""
    found = [name for name, value in given.items() if value is not None]
    if len(found) != 1:
        told = " and ".join(found) if found else "none of these"
        raise FunctionError(f"a vote takes {', or '.join(given)}; this has {told}")
