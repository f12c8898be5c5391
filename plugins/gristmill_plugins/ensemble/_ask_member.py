"""Asking one member or all of them: a model with a prompt and adapters of its own, or any recipe.

It combines nothing. Invariant: a reply holds what its member alone said and cost, whatever went on beside it; a member
that fails takes no other with it, but a spent budget or a cancellation ends them all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import Field, FiniteFloat

from gristmill import (
    BudgetError,
    Candidate,
    Choice,
    Completion,
    Context,
    FunctionError,
    GenerateRequest,
    GristmillError,
    Message,
    ModelHandle,
    ModelRef,
    RecipeRef,
    Sampling,
    Usage,
    Value,
    Vote,
)

from ._ask_together import together


class Example(Value):
    """A question and its answer, shown before the prompt."""

    input: str
    output: str


class MemberSpec(Value):
    """One member. What it does not say, the function's own arguments say."""

    model: ModelRef | None = None
    prompt: str | None = None
    system: str | None = None
    examples: tuple[Example, ...] = ()
    adapters: dict[str, FiniteFloat] = {}
    """Adapter to scale, instead of the step's."""
    temperature: float | None = Field(default=None, ge=0, le=100)
    max_tokens: int | None = Field(default=None, ge=1)
    recipe: RecipeRef | None = None
    """A recipe, by name or by a path below this one, instead of a model and a prompt."""
    inputs: dict[str, Any] = {}
    """The recipe's inputs. One called `seed` is raised by the number of each further sample."""
    weight: FiniteFloat = Field(default=1.0, ge=0)


class Question(Value):
    """What members are asked, as far as they do not say it themselves."""

    prompt: str | None = None
    system: str | None = None
    model: str | None = None
    choices: tuple[str, ...] = ()
    """When given, members score these instead of writing text."""
    calibrate: bool = False
    temperature: float = 0.0
    max_tokens: int = 512
    samples: int = 1
    first_sample: int = 0
    """The index of the first sample: drawing on after eight begins with 8."""
    seed: int = 0
    logprobs: bool = False
    """Give each candidate the log-probability of its text."""


class Reply(Value):
    """What one member said: a candidate for each sample, or an error."""

    member: str
    candidates: tuple[Candidate, ...] = ()
    usage: Usage = Usage()
    error: str | None = None


async def ask_member(context: Context, name: str, spec: MemberSpec, question: Question) -> Reply:
    """Ask one member and count what it costs.

    Raises:
        FunctionError: it has no prompt or model, or its recipe's output is no answer.
        GristmillError: whatever its model or recipe raises.
    """
    part = context.apart(name)
    if spec.recipe is not None:
        candidates = await _run_recipe(part, spec, question)
    elif question.choices:
        candidates = [await _choose(part, name, spec, question)]
    else:
        candidates = await _generate(part, name, spec, question)
    named = tuple(candidate.model_copy(update={"source": name}) for candidate in candidates)
    return Reply(member=name, candidates=named, usage=part.usage)


async def ask_members(
    context: Context, members: Mapping[str, MemberSpec], question: Question, *, min_answers: int | None = None
) -> dict[str, Reply]:
    """Ask all members at once; their order is that of `members`.

    Args:
        context: the step's.
        members: name to member.
        question: what they are asked.
        min_answers: how many must answer; all of them by default.

    Raises:
        FunctionError: fewer answered than `min_answers`; it says what became of each of the others.
        BudgetError: the budget was spent.
    """
    wanted = answers_wanted(members, min_answers)
    replies = await gather_replies(context, members, dict.fromkeys(members, question))
    failures = {name: reply.error for name, reply in replies.items() if reply.error is not None}
    if len(replies) - len(failures) < wanted:
        told = "; ".join(f"{name!r}: {error}" for name, error in failures.items())
        raise FunctionError(
            f"{len(replies) - len(failures)} of {len(members)} members answered, and {wanted} must: {told}",
            hint="lower min_answers to go on without them",
        )
    for name, error in failures.items():
        context.note(f"member {name!r} failed and is left out: {error}")
    return replies


def answers_wanted(members: Mapping[str, MemberSpec], min_answers: int | None) -> int:
    """Return how many members must answer.

    Raises:
        FunctionError: there are no members, or fewer than that.
    """
    if not members:
        raise FunctionError("an ensemble needs members", hint="members: {first: {prompt: ...}, second: {prompt: ...}}")
    wanted = len(members) if min_answers is None else min_answers
    if not 1 <= wanted <= len(members):
        raise FunctionError(f"min_answers is from 1 to the number of members, {len(members)}; this is {wanted}")
    return wanted


async def gather_replies(
    context: Context, members: Mapping[str, MemberSpec], questions: Mapping[str, Question]
) -> dict[str, Reply]:
    """Ask those members that there is a question for, all at once; a failure is its member's reply."""
    replies = await together(_tolerant(context, name, members[name], question) for name, question in questions.items())
    return {reply.member: reply for reply in replies}


async def _tolerant(context: Context, name: str, spec: MemberSpec, question: Question) -> Reply:
    try:
        return await ask_member(context, name, spec, question)
    except BudgetError:
        raise
    except GristmillError as error:
        return Reply(member=name, error=str(error))


def _handle(part: Context, name: str, spec: MemberSpec, question: Question) -> ModelHandle:
    model = spec.model or question.model
    if model is None:
        raise FunctionError(f"member {name!r} has no model", hint="give it one, or write `model:` beside `use:`")
    return part.model(model, adapters=dict(spec.adapters)) if spec.adapters else part.model(model)


def messages_of(name: str, spec: MemberSpec, question: Question) -> tuple[Message, ...]:
    """Return the messages that a member is asked with.

    Raises:
        FunctionError: there is no prompt, or it is empty.
    """
    prompt = question.prompt if spec.prompt is None else spec.prompt
    if prompt is None or not prompt.strip():
        what = "an empty prompt" if prompt is not None else "no prompt"
        raise FunctionError(
            f"member {name!r} has {what}", hint="write `prompt:` for it, or one for all beside `members:`"
        )
    system = question.system if spec.system is None else spec.system
    turns = [Message(role="system", content=system)] if system else []
    for example in spec.examples:
        turns.append(Message(role="user", content=example.input))
        turns.append(Message(role="assistant", content=example.output))
    return (*turns, Message(role="user", content=prompt))


def check_samples(members: Mapping[str, MemberSpec], question: Question) -> None:
    """Refuse to draw several samples of a member that would say the same each time.

    Raises:
        FunctionError: naming the member.
    """
    if question.samples == 1:
        return
    for name, spec in members.items():
        if spec.recipe is not None:
            if not isinstance(spec.inputs.get("seed"), int):
                raise FunctionError(
                    f"member {name!r} is a recipe, and would say the same {question.samples} times",
                    hint="give it an input `seed` that its steps use; each sample raises it by one",
                )
        elif not question.choices and (question.temperature if spec.temperature is None else spec.temperature) == 0:
            raise FunctionError(
                f"member {name!r} is greedy, and would say the same {question.samples} times",
                hint="set a temperature, such as 0.7",
            )


async def _choose(part: Context, name: str, spec: MemberSpec, question: Question) -> Candidate:
    handle = _handle(part, name, spec, question)
    choice = await handle.choose(messages_of(name, spec, question), question.choices, calibrate=question.calibrate)
    return Candidate(text=choice.text, probabilities=choice.probabilities)


async def _generate(part: Context, name: str, spec: MemberSpec, question: Question) -> list[Candidate]:
    sampling = Sampling(
        temperature=question.temperature if spec.temperature is None else spec.temperature,
        max_tokens=spec.max_tokens or question.max_tokens,
    )
    request = GenerateRequest(
        messages=messages_of(name, spec, question),
        sampling=sampling,
        seed=question.seed,
        sample_indices=tuple(range(question.first_sample, question.first_sample + question.samples)),
        top_logprobs=0 if question.logprobs else None,
    )
    return [candidate_of(answer) for answer in await _handle(part, name, spec, question).generate(request)]


async def _run_recipe(part: Context, spec: MemberSpec, question: Question) -> list[Candidate]:
    """Run a member's recipe once for each sample."""
    assert spec.recipe is not None
    seed = spec.inputs.get("seed")
    answers: list[Candidate] = []
    for index in range(question.first_sample, question.first_sample + question.samples):
        inputs = {**spec.inputs, "seed": seed + index} if isinstance(seed, int) else dict(spec.inputs)
        answers.append(candidate_of(await part.run_recipe(spec.recipe, inputs)))
    return answers


def candidate_of(output: Any) -> Candidate:
    """Return what a model or a recipe gave, as a candidate.

    Raises:
        FunctionError: it is null, or a list.
    """
    if isinstance(output, Candidate):
        return output
    if isinstance(output, Completion):
        logprobs = output.logprobs
        return Candidate(
            text=output.text,
            logprob=None if logprobs is None else sum(token.logprob for token in logprobs),
            n_tokens=None if logprobs is None else len(logprobs),
        )
    if isinstance(output, Choice):
        return Candidate(text=output.text, probabilities=output.probabilities)
    if isinstance(output, Vote) and output.winner is not None and (total := sum(output.tally.values())) > 0:
        return Candidate(text=output.winner, probabilities={k: v / total for k, v in output.tally.items()})
    text = output.as_text() if isinstance(output, Value) and output.text_field else output
    if isinstance(text, str):
        return Candidate(text=text, probabilities=getattr(output, "probabilities", None))
    if text is None:
        raise FunctionError("its answer is null")
    if isinstance(text, list | tuple):
        raise FunctionError(f"its answer is a list of {len(text)}", hint="let the member's recipe vote or choose")
    if isinstance(text, Mapping) and isinstance(text.get("text"), str):
        return Candidate(text=text["text"], probabilities=text.get("probabilities"))
    return Candidate(text=json.dumps(text, ensure_ascii=False, sort_keys=True, default=_data))


def _data(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, Value) else str(value)
