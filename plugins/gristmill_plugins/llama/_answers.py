"""The engine's answers as gristmill's values, in the client.

It talks to no process but through the session's engine. Invariant: greedy samples, which the engine computes once,
appear once for each index that was asked for, and cost nothing but the first time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from gristmill import Completion, Delta, GenerateRequest, TokenLogprob, Usage
from gristmill_plugins.llama._process import EngineProcess

if TYPE_CHECKING:
    import numpy as np


class LlamaSession:
    """One sequence in the engine, stepped by the caller; it ends with the engine that holds it."""

    def __init__(self, engine: EngineProcess, opened: dict[str, Any]) -> None:
        self._engine = engine
        self._number: int = opened["session"]
        self.ends: frozenset[int] = frozenset(opened["ends"])
        self.prompt_tokens: int = opened["prompt_tokens"]
        self._closed = False

    async def next_logprobs(self) -> np.ndarray:
        import numpy as np

        frame = await self._engine.call({"op": "row", "session": self._number})
        return np.frombuffer(frame.blob, np.float32)

    async def accept(self, token: int) -> str:
        frame = await self._engine.call({"op": "accept", "session": self._number, "token": int(token)})
        return str(frame.message["result"]["text"])

    async def close(self) -> None:
        if not self._closed and self._engine.usable:
            self._closed = True
            await self._engine.call({"op": "end", "session": self._number})


def as_deltas(event: dict[str, Any], request: GenerateRequest) -> Iterable[Delta]:
    """Return a piece of text once for each sample it belongs to: greedy samples are computed once."""
    alike = request.sample_indices if request.sampling.temperature == 0 else (event["sample"],)
    for sample in alike:
        n_tokens = event["n_tokens"] if sample == event["sample"] else 0
        yield Delta(sample=sample, text=event["text"], n_tokens=n_tokens)


def as_completions(result: dict[str, Any], request: GenerateRequest) -> list[Completion]:
    """Return a completion for each sample index; the prompt's tokens count on the first, copies cost nothing."""
    samples = result["samples"]
    first = Usage(
        prompt_tokens=result["prompt_tokens"],
        completion_tokens=samples[0]["n_tokens"],
        calls=1,
        elapsed_s=result["elapsed_s"],
    )
    usages = [first, *(Usage(completion_tokens=sample["n_tokens"]) for sample in samples[1:])]
    completions = [_as_completion(sample, usage, request) for sample, usage in zip(samples, usages, strict=True)]
    copy = completions[0].model_copy(update={"usage": Usage()})
    return completions + [copy] * (len(request.sample_indices) - len(completions))


def _as_completion(sample: dict[str, Any], usage: Usage, request: GenerateRequest) -> Completion:
    is_whole = sample["finish_reason"] == "stop"
    return Completion(
        text=sample["text"],
        finish_reason=sample["finish_reason"],
        usage=usage,
        value=_parse(sample["text"]) if request.json_schema is not None and is_whole else None,
        logprobs=None
        if request.top_logprobs is None
        else tuple(TokenLogprob.model_validate(entry) for entry in sample["logprobs"]),
    )


def _parse(text: str) -> Any:
    """Return the JSON value of a constrained answer; None where a stop string cut it."""
    try:
        return json.loads(text)
    except ValueError:
        return None
