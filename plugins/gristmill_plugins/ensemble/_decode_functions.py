"""The functions of `ensemble` that combine probabilities: of next tokens (average, vote_tokens) and of choices.

It holds signatures and help; the work is in the modules beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from gristmill import Context, FunctionError, ModelRef, function

from ._ask_member import Question, ask_members
from ._ask_rows import distinct, labelled_rows
from ._ask_types import (
    MaxTokens,
    MaybeCandidates,
    MaybeMembers,
    Members,
    MinAnswers,
    Prompt,
    Seed,
    System,
    Temperature,
    Weights,
)
from ._average import Together, write_together
from ._ballots import named
from ._choose import Chosen, Mean, choices_of, combine_choices
from ._choose_calibrate import Calibrated, ChosenRow, calibrate
from ._tokens import Unit, write_by_phrases


class _DecodeFunctions:
    """Combining probabilities instead of answers."""

    @function
    async def average(
        self,
        members: Members,
        context: Context,
        *,
        prompt: Prompt = None,
        system: System = None,
        model: Annotated[ModelRef | None, "The model of members that name none."] = None,
        combine: Annotated[
            Literal["arithmetic", "geometric"], "The mean of probabilities or of their logs."
        ] = "arithmetic",
        temperature: Temperature = 0.0,
        max_tokens: MaxTokens = 512,
        seed: Seed = 0,
    ) -> Together:
        """Write one text from the mean of the members' next-token probabilities; they must share a vocabulary."""
        question = Question(prompt=prompt, system=system, model=model, temperature=temperature,
                            max_tokens=max_tokens, seed=seed + context.seed)  # fmt: skip
        return await write_together(context, members, question, combine)

    @function
    async def vote_tokens(
        self,
        members: Members,
        context: Context,
        *,
        prompt: Prompt = None,
        system: System = None,
        model: Annotated[ModelRef | None, "The model of members that name none."] = None,
        unit: Annotated[Unit, "What is voted on: the next token, word or sentence."] = "token",
        max_tokens: MaxTokens = 512,
    ) -> Together:
        """Write one text by voting on what comes next; the members must share a vocabulary."""
        question = Question(prompt=prompt, system=system, model=model, max_tokens=max_tokens)
        if unit == "token":
            return await write_together(context, members, question, "vote")
        return await write_by_phrases(context, members, question, unit)

    @function
    async def choose(
        self,
        context: Context,
        choices: Annotated[list[str] | None, "What members choose from."] = None,
        *,
        candidates: MaybeCandidates = None,
        members: MaybeMembers = None,
        prompt: Prompt = None,
        system: System = None,
        model: Annotated[ModelRef | None, "The model of members that name none."] = None,
        how: Annotated[Mean, "The mean of probabilities, or their product (of experts)."] = "mean",
        weights: Weights = None,
        temperatures: Annotated[dict[str, float] | None, "Member to temperature, from ensemble.calibrate."] = None,
        calibrate: Annotated[bool, "Divide each choice's probability by the one it has for 'N/A'."] = False,
        min_answers: MinAnswers = None,
    ) -> Chosen:
        """Choose from a closed list by the members' mean probabilities; any models, prompts, adapters and recipes."""
        if (candidates is None) == (members is None):
            raise FunctionError("choose takes members to ask, or candidates that have chosen")
        if candidates is not None:
            if prompt is not None or system is not None or calibrate or min_answers is not None:
                raise FunctionError("prompt, system, calibrate and min_answers are for `members` that are asked")
            given = named(candidates)
            return combine_choices(
                given, choices or choices_of(given), how=how, weights=weights, temperatures=temperatures
            )
        assert members is not None
        if choices is None:
            raise FunctionError("choose needs the choices that members are asked about")
        question = Question(prompt=prompt, system=system, model=model, choices=distinct(choices), calibrate=calibrate)
        replies = await ask_members(context, members, question, min_answers=min_answers)
        answers = {name: reply.candidates[0] for name, reply in replies.items() if reply.candidates}
        own = weights or {name: spec.weight for name, spec in members.items()}
        chosen = combine_choices(answers, choices, how=how, weights=own, temperatures=temperatures)
        failures = {name: reply.error for name, reply in replies.items() if reply.error is not None}
        return chosen.model_copy(update={"failures": failures, "usage": {n: r.usage for n, r in replies.items()}})

    @function
    def calibrate(
        self,
        data: Annotated[
            Path | list[ChosenRow] | None, "Labelled rows {members: {name: {choice: p}}, label: text}, or a JSONL file."
        ] = None,
        *,
        answers: Annotated[
            list[dict[str, dict[str, float]]] | None, "Instead: the `members` of what choose gave for each row."
        ] = None,
        labels: Annotated[list[str] | None, "The right choice of each of those rows."] = None,
    ) -> Calibrated:
        """Return the temperatures that make members' probabilities mean what they say (temperature scaling)."""
        return calibrate(labelled_rows(ChosenRow, data, answers, labels))
