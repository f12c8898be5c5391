"""`chain_of_thought` and `plan_and_solve`: reason in words first, then answer.

    zero-shot             step_by_step: true (the default)            Kojima et al. 2022
    few-shot              examples with `reasoning`                   Wei et al. 2022
    combined              examples, and step_by_step: true
    self-consistency      samples: 8, then ensemble.vote              Wang et al. 2022
    plan-and-solve        plan_and_solve, in_detail: true for PS+     Wang et al. 2023

Invariants: however many samples, the chains are one request to the model; the result is one Chain for each sample, in
order, and a Chain is a Candidate, so that a vote takes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from gristmill import Candidate, Choice, Completion, Context, Message, ModelHandle, ModelRef, Value, function
from gristmill_plugins.reasoning._asking import (
    Given,
    MaxTokens,
    Question,
    Samples,
    Seed,
    Temperature,
    TopP,
    assistant,
    given_text,
    lettered,
    together,
    user,
    write,
)
from gristmill_plugins.reasoning._extract import LETTERS, Answer, Kind, extract, has_marker
from gristmill_plugins.reasoning._prompts import Prompt, Replaced, load

ANSWER_TOKENS = 32
"""What a second request may write: the answer alone."""
MANY = 0.7
"""The temperature for several samples: Wang et al. 2022, section 3.1."""

Finish = Annotated[
    Literal["extract", "ask"], "How the answer leaves the chain: found in its text, or asked for in a second request."
]
AnswerKind = Annotated[Kind, "What kind of answer to find; auto takes a letter if there are options."]
Options = Annotated[list[str] | None, "The texts of a multiple choice; they are shown as (A), (B), ..."]
Logprobs = Annotated[bool, "Give each chain its log-probability, for votes that weigh by it."]


class Example(Value):
    """A worked example that is shown to the model."""

    text_field = "input"

    input: str
    output: str
    reasoning: str = ""
    """The chain of thought that leads to the output; without one the example shows the answer only."""


class Chain(Candidate):
    """One chain of thought and its answer. `text` is the answer, or where none was `found` the whole chain.

    `logprob` is the whole chain's; divided by `n_tokens` it is what Wang et al. 2022 weigh votes by (section 2).
    """

    reasoning: str
    """What the model wrote."""
    value: Any = None
    """The answer as a number, a truth value or JSON; see `extract_answer`."""
    unit: str = ""
    finish_reason: Literal["stop", "length"] = "stop"
    prompt: str = ""
    """Which prompt it was, with its version."""


@dataclass(frozen=True, slots=True)
class ChainRequest:
    """Everything that makes chains, whichever technique asks."""

    prompt: Prompt
    messages: tuple[Message, ...]
    kind: Kind
    options: Sequence[str] | None
    finish: Literal["extract", "ask"]
    samples: int
    temperature: float | None
    top_p: float
    max_tokens: int
    seed: int
    logprobs: bool


class ChainFunctions:
    """Chains of thought."""

    @function
    async def chain_of_thought(
        self,
        question: Question,
        run: Context,
        *,
        model: ModelRef,
        context: Given = None,
        examples: Annotated[list[Example] | None, "Worked examples: {input, reasoning, output}."] = None,
        step_by_step: Annotated[bool, "Ask for steps in words; false leaves that to the examples."] = True,
        options: Options = None,
        kind: AnswerKind = "auto",
        finish: Finish = "extract",
        samples: Samples = 1,
        temperature: Temperature = None,
        top_p: TopP = 1.0,
        max_tokens: MaxTokens = 256,
        seed: Seed = 0,
        logprobs: Logprobs = False,
        prompts: Replaced = None,
    ) -> list[Chain]:
        """Reason in words and then answer, once or many times; a list, one chain for each sample."""
        prompt = load("chain_of_thought", prompts)
        trigger = prompt.fill("step_by_step") if step_by_step else None
        messages = [*_shown(prompt, examples or (), trigger), _asked(prompt, question, context, options, trigger)]
        request = ChainRequest(
            prompt, tuple(messages), kind, options, finish, samples, temperature, top_p, max_tokens, seed, logprobs
        )
        return await make_chains(run, run.model(model), request)

    @function
    async def plan_and_solve(
        self,
        question: Question,
        run: Context,
        *,
        model: ModelRef,
        context: Given = None,
        in_detail: Annotated[bool, "The longer prompt, PS+, that asks for variables and intermediate results."] = False,
        options: Options = None,
        kind: AnswerKind = "auto",
        finish: Finish = "ask",
        samples: Samples = 1,
        temperature: Temperature = None,
        top_p: TopP = 1.0,
        max_tokens: MaxTokens = 384,
        seed: Seed = 0,
        logprobs: Logprobs = False,
        prompts: Replaced = None,
    ) -> list[Chain]:
        """Plan, carry out the plan step by step, and then answer; a list, one chain for each sample."""
        prompt = load("plan_and_solve", prompts)
        trigger = prompt.fill("plan_in_detail" if in_detail else "plan")
        messages = (_asked(prompt, question, context, options, trigger),)
        request = ChainRequest(
            prompt, messages, kind, options, finish, samples, temperature, top_p, max_tokens, seed, logprobs
        )
        return await make_chains(run, run.model(model), request)


def _shown(prompt: Prompt, examples: Sequence[Example], trigger: str | None) -> list[Message]:
    """Return examples as earlier turns, asked in the same way as the question will be."""
    turns = []
    for example in examples:
        turns.append(user(prompt.fill("ask", question=example.input), trigger))
        shown = prompt.fill("example", reasoning=example.reasoning, output=example.output)
        turns.append(assistant(shown if example.reasoning else example.output))
    return turns


def _asked(
    prompt: Prompt,
    question: str,
    context: str | Sequence[str] | None,
    options: Sequence[str] | None,
    trigger: str | None,
) -> Message:
    listed = prompt.fill("options", options=lettered(options)) if options else None
    return user(given_text(prompt, context), prompt.fill("ask", question=question), listed, trigger)


async def make_chains(run: Context, model: ModelHandle, request: ChainRequest) -> list[Chain]:
    """Return one chain for each sample: one request, and one more for each if the answer is asked for."""
    extract("", request.kind, request.options)  # a wrong number of options is told before anything is asked
    temperature = request.temperature
    if temperature is None:
        temperature = MANY if request.samples > 1 else 0.0
    completions = await write(
        run, model, request.messages, max_tokens=request.max_tokens, samples=request.samples, seed=request.seed,
        temperature=temperature, top_p=request.top_p, logprobs=request.logprobs,
    )  # fmt: skip
    if request.finish == "extract":
        answers: list[tuple[Answer, Choice | None]] = [(_extracted(one, request), None) for one in completions]
    else:
        answers = await together(_ask_for_answer(run, model, request, one) for one in completions)
    if without := sum(not answer.found for answer, _ in answers):
        run.note(f"{without} of {len(answers)} chains had no answer")
    return [
        _chain(completion, answer, chosen, request)
        for completion, (answer, chosen) in zip(completions, answers, strict=True)
    ]


def _extracted(completion: Completion, request: ChainRequest) -> Answer:
    """Return the answer in a chain; one that was cut off before it came to an answer has none."""
    if completion.finish_reason == "length" and request.kind != "text" and not has_marker(completion.text):
        return Answer(text="", found=False, kind=request.kind)
    return extract(completion.text, request.kind, request.options)


async def _ask_for_answer(
    run: Context, model: ModelHandle, request: ChainRequest, completion: Completion
) -> tuple[Answer, Choice | None]:
    """Ask for the answer behind the chain: letters, yes and no by their probabilities, anything else in words."""
    kind: Kind = "letter" if request.kind == "auto" and request.options else request.kind
    question = request.prompt.fill(f"answer_{kind}")
    messages = [*request.messages, assistant(completion.text), user(question)]
    closed = {"yes_no": ("yes", "no"), "letter": tuple(LETTERS[: len(request.options or ())])}.get(kind)
    if closed:
        chosen = await model.choose(messages, closed)
        return extract(chosen.text, kind), chosen
    written = (await write(run, model, messages, max_tokens=ANSWER_TOKENS))[0].text
    lead = "" if kind == "text" else "The answer is "
    return extract(lead + written.strip(), kind, request.options), None


def _chain(completion: Completion, answer: Answer, chosen: Choice | None, request: ChainRequest) -> Chain:
    logprobs = completion.logprobs or ()
    return Chain(
        text=answer.text if answer.found else completion.text.strip(),
        probabilities=chosen.probabilities if chosen else None,
        logprob=sum(token.logprob for token in logprobs) if logprobs else None,
        n_tokens=len(logprobs) or None,
        reasoning=completion.text,
        found=answer.found,
        value=answer.value,
        unit=answer.unit,
        finish_reason=completion.finish_reason,
        prompt=request.prompt.label,
    )
