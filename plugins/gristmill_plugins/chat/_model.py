"""A model behind an OpenAI-compatible server, as gristmill's `Model`.

It loads no weights and keeps no key. Invariants: making one sends nothing; what the server cannot do is a
CapabilityError before anything is sent; a call that fails or is cancelled leaves a model that answers the next one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gristmill import CapabilityError, Completion, Delta, GenerateRequest, Model, ScoreRequest, Scores
from gristmill_plugins.chat import _embed, _native, _wire
from gristmill_plugins.chat._answer import Assembler
from gristmill_plugins.chat._failures import Refused
from gristmill_plugins.chat._options import ChatOptions
from gristmill_plugins.chat._tasks import all_of
from gristmill_plugins.chat._transport import Transport

if TYPE_CHECKING:
    import numpy as np

_SCORE_HINT = "declare dialect: llama_cpp or vllm if the server is one, or ask with `schema: {answer: {enum: [...]}}`"


class ChatModel(Model):
    """A model that a server runs. Connections open at the first call and are kept for the next."""

    def __init__(self, options: ChatOptions) -> None:
        self._options = options
        self._transport = Transport(options)
        self._native = _native.native(options, self._transport)
        # llama-server reads a prompt once whoever asks, and only single requests draw sample i with the seed + i.
        self._together = options.dialect != "llama_cpp"
        if self._native is None:
            self.capabilities = frozenset({"generate", "schema", "logprobs", "embed", "tools"})
        else:
            self.capabilities = frozenset({"generate", "schema", "logprobs", "embed", "score", "tools"})

    def __repr__(self) -> str:
        return f"ChatModel({self._options.model!r} at {self._options.base_url!r})"

    @property
    def name(self) -> str:
        return self._options.model

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the declaration. A server can change its weights under one name: `revision` tells them apart."""
        return self._options.fingerprint

    @property
    def context_tokens(self) -> int:
        if self._options.context_tokens is None:
            raise CapabilityError(
                f"{self.name} does not know the length of its context", hint="declare it: context_tokens: 8192"
            )
        return self._options.context_tokens

    async def generate(
        self, request: GenerateRequest, on_delta: Callable[[Delta], None] | None = None
    ) -> list[Completion]:
        _wire.check(request, self._options)
        started = time.perf_counter()
        asks = _wire.asks(request, together=self._together)
        found: dict[int, Completion] = {}
        for part in await all_of(self._ask(request, ask, on_delta) for ask in asks):
            found |= part
        completions = [found[index] for index in request.sample_indices]
        if completions:
            usage = completions[0].usage.model_copy(update={"elapsed_s": time.perf_counter() - started})
            completions[0] = completions[0].model_copy(update={"usage": usage})
        return completions

    async def _ask(
        self, request: GenerateRequest, ask: _wire.Ask, on_delta: Callable[[Delta], None] | None
    ) -> dict[int, Completion]:
        """Return the completions of one chat request; samples that the server leaves out are asked for singly."""
        found: dict[int, Completion] = {}
        is_alone = len(ask.samples) == 1
        if self._together or is_alone:
            try:
                found = await self._once(request, ask, on_delta)
            except Refused as error:
                if is_alone or error.status not in (400, 422):
                    raise
        if len(ask.samples) > 1 and len(found) < len(ask.samples):
            for part in await all_of(self._ask(request, one, on_delta) for one in ask.singly(found)):
                found |= part
            self._together = False  # it was `n` that the server did not take, not the request
        return found

    async def _once(
        self, request: GenerateRequest, ask: _wire.Ask, on_delta: Callable[[Delta], None] | None
    ) -> dict[int, Completion]:
        assembler = Assembler(request, ask, self._options, on_delta)
        body = _wire.body(request, ask, self._options, stream=on_delta is not None)
        url = f"{self._options.base_url}/chat/completions"
        if on_delta is None:
            assembler.take(await self._transport.json(url, body))
        else:
            await self._transport.events(url, body, assembler.take, handed_on=lambda: assembler.handed_on)
        return assembler.finished()

    async def score(self, request: ScoreRequest) -> Scores:
        """Return exact log-probabilities, where the dialect has an endpoint for them."""
        if self._native is None:
            raise CapabilityError(
                f"{self.name} cannot score choices: OpenAI's protocol shows the likeliest tokens only", hint=_SCORE_HINT
            )
        if request.adapters:
            raise CapabilityError(f"{self.name} has no adapters", hint="use the llama plugin for them")
        _wire.check_texts([*(m.content for m in request.messages), *request.choices], self._options)
        if not request.choices:
            return Scores(logprobs=())
        return await _native.score(self._native, request, self._options)

    async def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return `(len(texts), dim) float32`, rows L2-normalised."""
        _wire.check_texts(list(texts), self._options)
        return await _embed.embed(self._transport, self._options, texts)

    async def count_tokens(self, text: str) -> int:
        if self._native is None:
            raise CapabilityError(
                f"{self.name} cannot count tokens: OpenAI's protocol has no endpoint for it",
                hint="declare dialect: llama_cpp or vllm if the server is one",
            )
        _wire.check_texts([text], self._options)
        return await self._native.count(text)

    async def close(self) -> None:
        await self._transport.close()
