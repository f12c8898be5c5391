"""What the techniques share: messages, one request for many samples, the model's own yes or no, calls made together.

It holds no technique and no prompt. Invariants: samples of one prompt are one request; when one of several calls fails,
the others are stopped before the failure is handed on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import Field

from gristmill import (
    Completion,
    Context,
    GenerateRequest,
    Message,
    ModelHandle,
    ModelRef,
    Sampling,
)
from gristmill_plugins.reasoning._prompts import Prompt

T = TypeVar("T")

Question = Annotated[str, "The question, or the task."]
Given = Annotated[str | list[str] | None, "Text to answer from: one, or several such as passages."]
Samples = Annotated[int, Field(ge=1, le=1000, description="How many to draw, decoded as one request.")]
Temperature = Annotated[
    float | None, Field(ge=0, le=100, description="By default 0 for one sample and 0.7 for several.")
]
TopP = Annotated[float, Field(gt=0, le=1, description="Draw from the likeliest tokens that hold this share.")]
MaxTokens = Annotated[int, Field(ge=1, le=100_000, description="The most tokens that one text of the model may have.")]
Seed = Annotated[int, "Sample i uses seed + i."]
Share = Annotated[float, Field(ge=0, le=1)]
Critic = Annotated[ModelRef | None, "Another model that judges; by default the same."]


def user(*parts: str | None) -> Message:
    """Return a user's turn of the parts that there are, a blank line between two."""
    return Message(role="user", content="\n\n".join(part for part in parts if part))


def assistant(text: str) -> Message:
    return Message(role="assistant", content=text)


def given_text(prompt: Prompt, context: str | Sequence[str] | None) -> str | None:
    """Return the prompt's `context` part about the texts that were given, or None."""
    if not context:
        return None
    joined = context if isinstance(context, str) else "\n\n".join(context)
    return prompt.fill("context", context=joined)


def lettered(options: Sequence[str]) -> str:
    """Return options as chain-of-thought papers write them: "(A) rye (B) oats"."""
    return " ".join(f"({chr(ord('A') + n)}) {option}" for n, option in enumerate(options))


async def write(
    run: Context,
    model: ModelHandle,
    messages: Sequence[Message],
    *,
    max_tokens: int,
    samples: int = 1,
    temperature: float = 0.0,
    top_p: float = 1.0,
    stop: Sequence[str] = (),
    seed: int = 0,
    schema: dict[str, Any] | None = None,
    logprobs: bool = False,
) -> list[Completion]:
    """Let the model continue the messages, `samples` times in one request."""
    sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=max_tokens, stop=tuple(stop))
    request = GenerateRequest(
        messages=tuple(messages),
        sampling=sampling,
        seed=run.seed + seed,
        sample_indices=tuple(range(samples)),
        json_schema=schema,
        top_logprobs=0 if logprobs else None,
    )
    return await model.generate(request)


async def probability_of_yes(model: ModelHandle, text: str) -> float:
    """Return the model's probability of "yes" against "no" as the answer to a text."""
    chosen = await model.choose([user(text)], ("yes", "no"))
    return chosen.probabilities["yes"]


async def together(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Await calls at once and return their results in order; the first failure stops the rest."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
