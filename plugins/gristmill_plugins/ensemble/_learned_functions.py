"""The functions of `ensemble` that are fitted or learn: stack, cascade, assign, route, learn, feedback.

It holds signatures and help, asks the members and hands their answers to the modules beside it, where the arithmetic
is. Invariant: a file that was fitted on other members, or another embedder, is refused before a member is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from gristmill import Context, Embedder, EmbedderRef, FunctionError, ModelRef, function

from ._ask_member import MemberSpec, Question
from ._ask_types import Candidates, MaxTokens, Members, NormalizeAs, Prompt, System, Temperature
from ._ballots import named
from ._cascade import Cascaded, FittedCascade, check_members, thresholds_of
from ._cascade_ask import run_cascade
from ._gate import Assignment, FittedGate
from ._learn import Decision, Feedback, Learned, decide, give_feedback
from ._learn_ask import ask_decided
from ._learned_file import load
from ._route import Routed, ask_assigned, assign_texts, check_assignment
from ._stack import FittedStack, Stacked, mean_of, predict
from ._stack_models import check_models, stacked_models

Choices = Annotated[list[str] | None, "Members score these instead of writing text."]
Calibrate = Annotated[bool, "Divide each choice's probability by the one it has for 'N/A'."]
EmbedderName = Annotated[EmbedderRef | None, "One declared under models:, instead of WordLlama."]
Examples = Annotated[dict[str, list[str]] | None, "Member to texts that it is for; the likest win."]
TopK = Annotated[int, Field(ge=1, description="How many members a question goes to.")]


class _LearnedFunctions:
    """Combiners that are fitted on labelled data or learn from feedback."""

    @function
    async def stack(
        self,
        candidates: Candidates,
        context: Context,
        *,
        fitted: Annotated[Path | None, "What `gristmill ensemble fit` wrote; without it the mean decides."] = None,
        text: Annotated[str | None, "A text whose embedding the model also looks at."] = None,
        embedder: EmbedderName = None,
        models: Annotated[dict[str, ModelRef] | None, "Member to the model that answered, if not `model`."] = None,
        model: Annotated[ModelRef | None, "The model that answered; a fit is bound to its files."] = None,
    ) -> Stacked:
        """Weigh members' answers by a meta-model that was fitted on labelled data."""
        answers = named(candidates)
        if not answers:
            raise FunctionError("a stack needs candidates", hint="candidates: {first: ${...}, second: ${...}}")
        vector: tuple[float, ...] = ()
        fingerprint = None
        if text is not None:
            chosen = _embedder(context, embedder)
            vector, fingerprint = await _vector(chosen, text), chosen.fingerprint
        asked = stacked_models(context, list(answers), models or {}, model)
        if fitted is None:
            result = mean_of(answers)
        else:
            kept = load(fitted, FittedStack)
            if kept.embedder != fingerprint:
                raise FunctionError(
                    f"the stack was fitted on embeddings of {kept.embedder!r}, these are {fingerprint!r}",
                    hint="give the same `text` and `embedder` as when it was fitted",
                )
            check_models(kept, asked)
            result = predict(kept, answers, vector)
        return result.model_copy(update={"embedding": vector, "embedder": fingerprint, "models": asked})

    @function
    async def cascade(
        self,
        members: Members,
        context: Context,
        *,
        prompt: Prompt = None,
        system: System = None,
        model: Annotated[ModelRef | None, "The model of members that name none."] = None,
        choices: Choices = None,
        calibrate: Calibrate = False,
        samples: Annotated[int, Field(ge=1, description="Answers of a member; their agreement is its confidence.")] = 1,
        temperature: Temperature = 0.0,
        max_tokens: MaxTokens = 512,
        normalize: NormalizeAs = "text",
        threshold: Annotated[float | list[float], "The confidence at which no other member is asked."] = 0.8,
        fitted: Annotated[Path | None, "What `gristmill ensemble fit` wrote: calibrations and thresholds."] = None,
        ask_all: Annotated[bool, "Ask everybody all the same, to fit thresholds by."] = False,
    ) -> Cascaded:
        """Ask members one after the other until one is sure enough; the last one's answer is always taken."""
        if len(members) < 2:
            raise FunctionError(f"a cascade has two members or more, this has {len(members)}")
        limits = thresholds_of(threshold, len(members))
        kept = None
        if fitted is not None:
            kept = load(fitted, FittedCascade)
            check_members(kept, list(members))
            limits = [kept.thresholds[name] for name in kept.members[:-1]]
        question = Question(
            prompt=prompt, system=system, model=model, choices=tuple(choices or ()), calibrate=calibrate,
            samples=samples, temperature=temperature, max_tokens=max_tokens, seed=context.seed,
        )  # fmt: skip
        return await run_cascade(context, members, question, limits, normalize=normalize, fitted=kept, ask_all=ask_all)

    @function
    async def assign(
        self,
        texts: Annotated[list[str], "The questions, all together."],
        context: Context,
        *,
        examples: Examples = None,
        fitted: Annotated[Path | None, "What `gristmill ensemble fit` wrote: a gate."] = None,
        embedder: EmbedderName = None,
        top_k: TopK = 1,
        balance: Annotated[
            float, Field(ge=0, le=1, description="How far scores are bent to even out the load, 0 to 1.")
        ] = 0.0,
        capacity: Annotated[
            float | dict[str, int] | None, "The most questions of a member, by name, or as a multiple of an even share."
        ] = None,
    ) -> list[Assignment]:
        """Say which members each of many questions goes to, evenly and within their capacity."""
        if isinstance(capacity, int | float) and capacity <= 0:
            raise FunctionError(f"capacity is above 0, this is {capacity:g}", hint="1.25 leaves a quarter of room")
        gate = _gate(examples, fitted)
        return await assign_texts(
            _embedder(context, embedder), texts, gate, top_k=top_k, balance=balance, capacity=capacity
        )

    @function
    async def route(
        self,
        members: Members,
        context: Context,
        *,
        prompt: Prompt = None,
        system: System = None,
        model: Annotated[ModelRef | None, "The model of members that name none."] = None,
        choices: Choices = None,
        calibrate: Calibrate = False,
        temperature: Temperature = 0.0,
        max_tokens: MaxTokens = 512,
        text: Annotated[str | None, "What the gate looks at; the prompt by default."] = None,
        examples: Examples = None,
        fitted: Annotated[Path | None, "What `gristmill ensemble fit` wrote: a gate."] = None,
        assignment: Annotated[Assignment | None, "What `ensemble.assign` said, instead of a gate here."] = None,
        embedder: EmbedderName = None,
        top_k: TopK = 1,
        normalize: NormalizeAs = "text",
        ask_all: Annotated[bool, "Ask everybody all the same, to fit a gate by."] = False,
    ) -> Routed:
        """Ask the members that suit a question best, and weigh their answers by how well they do."""
        question = Question(
            prompt=prompt, system=system, model=model, choices=tuple(choices or ()), calibrate=calibrate,
            temperature=temperature, max_tokens=max_tokens, seed=context.seed,
        )  # fmt: skip
        if assignment is not None and (examples is not None or fitted is not None):
            raise FunctionError("an assignment is already decided: leave out `examples` and `fitted`, or `assignment`")
        vector: tuple[float, ...] = ()
        fingerprint = None
        if assignment is None or ask_all:
            seen = prompt if text is None else text
            if seen is None:
                raise FunctionError("the gate has nothing to look at", hint="give `text:`, or a `prompt:` for all")
            chosen = _embedder(context, embedder)
            vector, fingerprint = await _vector(chosen, seen), chosen.fingerprint
            if assignment is None:
                gate = _gate(examples, fitted, members if ask_all else ())
                (assignment,) = await assign_texts(chosen, [seen], gate, top_k=top_k)
        check_assignment(assignment, members)
        result = await ask_assigned(context, members, question, assignment, normalize=normalize, ask_all=ask_all)
        return result.model_copy(update={"embedding": vector, "embedder": fingerprint}) if ask_all else result

    @function
    async def learn(
        self,
        members: Members,
        policy: Annotated[Path, "Where the learner keeps what it knows; made by the first feedback."],
        context: Context,
        *,
        prompt: Prompt = None,
        system: System = None,
        model: Annotated[ModelRef | None, "The model of members that name none."] = None,
        choices: Choices = None,
        calibrate: Calibrate = False,
        temperature: Temperature = 0.0,
        max_tokens: MaxTokens = 512,
        text: Annotated[str | None, "What questions are told apart by; without it one member is best for all."] = None,
        embedder: EmbedderName = None,
        explore: Annotated[bool, "Draw a member from the policy; false takes its likeliest."] = True,
        target_entropy: Annotated[
            float, Field(gt=0, lt=1, description="How even the policy is kept, as a share of all even.")
        ] = 0.4,
        seed: Annotated[int, Field(ge=0, description="Of the draws.")] = 0,
    ) -> Learned:
        """Ask the member that a policy chooses, which learns from feedback whom to ask."""
        if not members:
            raise FunctionError("a learner needs members", hint="members: {first: {prompt: ...}, second: ...}")
        features: tuple[float, ...] = ()
        fingerprint = None
        if text is not None:
            chosen = _embedder(context, embedder)
            features, fingerprint = await _vector(chosen, text), chosen.fingerprint
        decision, shares = decide(
            policy, list(members), features=features, embedder=fingerprint, explore=explore,
            target_entropy=target_entropy, seed=(seed << 32) ^ context.seed,
        )  # fmt: skip
        question = Question(
            prompt=prompt, system=system, model=model, choices=tuple(choices or ()), calibrate=calibrate,
            temperature=temperature, max_tokens=max_tokens, seed=context.seed,
        )  # fmt: skip
        return await ask_decided(context, members, question, decision, shares)

    @function(writes=True)
    async def feedback(
        self,
        decision: Annotated[Decision, "What `ensemble.learn` said about its choice: ${step.decision}."],
        reward: Annotated[float, Field(ge=-1, le=1, description="How good the answer was, -1 to 1.")],
        context: Context,
    ) -> Feedback:
        """Tell a learner how good an answer was; what was said about it before is replaced."""
        path = context.path(decision.policy_file)
        return await asyncio.to_thread(give_feedback, decision, reward, path=path)


def _embedder(context: Context, name: str | None) -> Embedder:
    return context.memory.embedder if name is None else context.embedder(name)


async def _vector(embedder: Embedder, text: str) -> tuple[float, ...]:
    return tuple((await embedder.embed([text]))[0].tolist())


def _gate(
    examples: Mapping[str, Sequence[str]] | None,
    fitted: Path | None,
    without: Mapping[str, MemberSpec] | Sequence[str] = (),
) -> Mapping[str, Sequence[str]] | FittedGate:
    """Return what decides: a fitted gate or examples; `without` either, the members that are all asked alike."""
    if examples is not None and fitted is not None:
        raise FunctionError("a gate is fitted, or looks at examples: give one of `examples` and `fitted`")
    if fitted is not None:
        return load(fitted, FittedGate)
    if examples is None and without:
        return {name: [] for name in without}
    if not examples or not all(examples.values()):
        raise FunctionError(
            "a gate needs examples of every member, or a fitted file", hint="examples: {maths: [...], words: [...]}"
        )
    return examples
