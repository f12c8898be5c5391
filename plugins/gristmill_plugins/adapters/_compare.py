"""How far two ways to run a model are apart: base with adapters, and a merged file.

Invariant: both are asked for the same prompts, by the engine that answers recipes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gristmill import GenerateRequest, Message, Model, Value
from gristmill_plugins.adapters._llama import llama

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PROMPTS = (
    "Name a fruit.",
    "Is this text message spam or ham?\n\nYou have won a prize, call now",
    "What is the capital of Norway?",
    "Write a polite answer to a customer whose parcel is late.",
    "table: film\ncolumns: Title, Year\nQ: Which film is from 1999?\nA:",
    "My card was charged twice, what now?",
    "Explain in one sentence why the sky is blue.",
    "Translate into French: the mill stands by the river.",
)
"""Neither long nor about one thing."""


class Divergence(Value):
    """How far the next-token distributions of two ways are apart over some prompts."""

    n: int
    n_same: int
    """Prompts after which both find the same token most likely."""
    mean_nats: float
    """Kullback-Leibler divergence of the second from the first."""
    largest: float
    """Largest difference of any log-probability above e^-10."""


def divergence(base: str, weights: Mapping[str | Path, float], merged: str) -> Divergence:
    """Compare a base with adapters applied at run time to a file that they were merged into.

    Raises:
        ModelError: one of them cannot be loaded.
    """
    import numpy as np

    names = {f"a{number}": str(path) for number, path in enumerate(weights)}
    scales = dict(zip(names, weights.values(), strict=True))
    plugin = llama()
    apart = plugin.llama(model=base, adapters=names, context_tokens=512, reproducible=True)
    together = plugin.llama(model=merged, context_tokens=512, reproducible=True)
    first, second = asyncio.run(_both(apart, scales, together))
    likely = first > -10
    return Divergence(
        n=len(first),
        n_same=int((first.argmax(1) == second.argmax(1)).sum()),
        mean_nats=max(0.0, float((np.exp(first) * (first - second)).sum(1).mean())),
        largest=float(np.abs(first - second)[likely].max()),
    )


async def _both(
    apart: Model, scales: dict[str, float], together: Model
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    first = await next_logprobs(apart, scales)
    return first, await next_logprobs(together, {})


async def next_logprobs(model: Model, adapters: dict[str, float]) -> npt.NDArray[np.float32]:
    """Return `(len(PROMPTS), n_vocabulary) float32`, what a model expects after each prompt, and close it."""
    import numpy as np

    rows = []
    try:
        for prompt in PROMPTS:
            request = GenerateRequest(messages=(Message(role="user", content=prompt),), adapters=adapters)
            session = await model.open_session(request)
            rows.append(np.asarray(await session.next_logprobs(), np.float32))
            await session.close()
    finally:
        await model.close()
    return np.stack(rows)
