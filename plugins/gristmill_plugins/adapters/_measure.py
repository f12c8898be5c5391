"""How often a model answers right, before and after: with nothing, with examples in the prompt, with the adapter.

It trains nothing. Invariant: all ways are measured on the same held-out examples, through the engine that will be used;
a proportion never comes without its interval.

The interval is Wilson's (1927) at 95%; before and after are compared by the exact sign test on the examples that only
one of them has right (McNemar 1947).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence

from gristmill import GenerateRequest, Model, Sampling, ScoreRequest, Value
from gristmill_plugins.adapters._examples import Example
from gristmill_plugins.adapters._tokens import messages_of

AT_ONCE = 64


class Measured(Value):
    """How many of the held-out examples one way got right."""

    how: str
    n: int
    n_right: int
    accuracy: float
    low: float
    """End of the 95% interval."""
    high: float
    p_value: float | None = None
    """Of the sign test against the first way; None for the first."""


def wilson(n_right: int, n: int) -> tuple[float, float]:
    """Return the 95% interval of a proportion (Wilson 1927); (0, 1) of nothing."""
    if not n:
        return 0.0, 1.0
    z, share = 1.959964, n_right / n
    middle = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, (middle - spread) / (1 + z * z / n)), min(1.0, (middle + spread) / (1 + z * z / n))


def sign_test(before: Sequence[bool], after: Sequence[bool]) -> float:
    """Return the two-sided exact p-value that two ways are equally often right."""
    gained = sum(late and not early for early, late in zip(before, after, strict=True))
    lost = sum(early and not late for early, late in zip(before, after, strict=True))
    n, few = gained + lost, min(gained, lost)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(few + 1)) / 2**n) if n else 1.0


def as_measured(how: str, right: Sequence[bool], first: Sequence[bool] | None = None) -> Measured:
    """Return counts and interval, and the test against the first way."""
    low, high = wilson(sum(right), len(right))
    share = sum(right) / len(right) if right else 0.0
    p_value = None if first is None else sign_test(first, right)
    return Measured(how=how, n=len(right), n_right=sum(right), accuracy=share, low=low, high=high, p_value=p_value)


async def answers(
    model: Model,
    examples: Sequence[Example],
    *,
    system: str | None,
    labels: Sequence[str] = (),
    shots: Sequence[Example] = (),
    adapters: Mapping[str, float] | None = None,
) -> list[str]:
    """Return the model's answer to each example: the likeliest label, or greedy text, cut at the longest completion."""
    limit = asyncio.Semaphore(AT_ONCE)
    longest = max((len(example.completion) for example in (*examples, *shots)), default=0)
    sampling = Sampling(max_tokens=max(16, longest // 2), stop=("\n",))

    async def answer(example: Example) -> str:
        messages = tuple(messages_of(example, system, shots))
        async with limit:
            if labels:
                asked = ScoreRequest(messages=messages, choices=tuple(labels), adapters=dict(adapters or {}))
                scores = (await model.score(asked)).logprobs
                return labels[max(range(len(labels)), key=lambda index: scores[index])]
            request = GenerateRequest(messages=messages, sampling=sampling, adapters=dict(adapters or {}))
            return (await model.generate(request))[0].text

    return list(await asyncio.gather(*map(answer, examples)))


def right(found: Sequence[str], examples: Sequence[Example]) -> list[bool]:
    """Return which answers are the completions, white space aside."""
    return [
        " ".join(text.split()) == " ".join(one.completion.split()) for text, one in zip(found, examples, strict=True)
    ]
