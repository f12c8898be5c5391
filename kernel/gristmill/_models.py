"""What a model is to gristmill: the one protocol behind every engine, local or remote.

It holds no engine, no cache and no retry. Invariants: a request says everything that can change its answer;
batching is the model's business, so a caller hands over all it has; what an engine cannot do yet is missing
from its `capabilities` and raises CapabilityError, and is never a different method.

Models live on one event loop, the kernel's. Every coroutine here may be cancelled: the model then stops the
work natively and the next call works.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import BeforeValidator, Field, model_validator

from gristmill._errors import CapabilityError
from gristmill._values import Completion, Message, Value

if TYPE_CHECKING:
    import numpy as np

Capability = Literal["generate", "score", "embed", "schema", "adapters", "logprobs", "beam", "sessions", "members"]
Combine = Literal["arithmetic", "geometric", "vote"]

DEFAULT_MAX_TOKENS = 512


def _as_stops(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class Sampling(Value):
    """How tokens are drawn. The defaults are greedy decoding: the same prompt gives the same text."""

    temperature: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 0.0
    """0 is greedy: the most likely token, and the seed plays no part."""
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    typical_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    repeat_penalty: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)] = 0.0
    logit_bias: dict[int, Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]] = {}
    """Token id to what is added to its logit."""
    beam_width: Annotated[int, Field(ge=1, le=64)] = 1
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = DEFAULT_MAX_TOKENS
    stop: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_as_stops)] = ()
    """Generation ends before the first of these strings; it is not part of the text."""

    @model_validator(mode="after")
    def _beams_are_greedy(self) -> Sampling:
        if self.beam_width > 1 and self.temperature > 0:
            raise ValueError("beam search is greedy: leave out temperature, or leave out beam_width")
        return self


class Member(Value):
    """One of several prompts or adapter sets that decode a single text together."""

    messages: tuple[Message, ...]
    adapters: dict[str, float] = {}
    weight: float = 1.0


class GenerateRequest(Value):
    """One prompt, to be continued once for each sample index.

    Sample i is drawn with the seed `seed + i`: asking for twelve after eight were cached sends indices 8 to 11.
    """

    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    seed: int = 0
    sample_indices: tuple[int, ...] = (0,)
    json_schema: dict[str, Any] | None = None
    """Full JSON Schema (not the short form) within `SCHEMA_KEYWORDS`; decoding is constrained to it."""
    adapters: dict[str, float] = {}
    """Adapter name, as declared with the model, to scale."""
    top_logprobs: Annotated[int, Field(ge=0, le=64)] | None = None
    """None: no log-probabilities; n: the chosen token's and the n most likely."""
    members: tuple[Member, ...] = ()
    """When given, these decode together under `combine` and `messages` is empty."""
    combine: Combine | None = None


class ScoreRequest(Value):
    """Log-probabilities of each choice, as a whole, as the assistant's answer to the messages."""

    messages: tuple[Message, ...]
    choices: tuple[str, ...]
    adapters: dict[str, float] = {}


class Delta(Value):
    """A piece of text as it is generated. Pieces of one sample, joined, are its completion's text."""

    sample: int
    """The sample index of the request."""
    text: str
    n_tokens: int = 1


class Scores(Value):
    """The answer to a ScoreRequest: natural log-probability of each whole choice, in the order asked."""

    logprobs: tuple[float, ...]
    prompt_tokens: int = 0


OnDelta = Callable[[Delta], None]


class Session(Protocol):
    """One sequence under the caller's control, so that several members can decode in step outside the engine."""

    async def next_logprobs(self) -> np.ndarray:
        """Return `(n_vocabulary,) float32` natural log-probabilities of the next token."""
        ...

    async def accept(self, token: int) -> str:
        """Append a token and return the text it completes."""
        ...

    async def close(self) -> None:
        """Give the sequence back; idempotent."""
        ...


class Model(ABC):
    """A language model. Making one is cheap: weights load at the first call that needs them."""

    capabilities: frozenset[Capability] = frozenset()
    on_loading: Callable[[float], None] | None = None
    """Set by the kernel; a model that takes long to load calls it with a fraction from 0 to 1, on the kernel's loop."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What to call this model in messages: a file name or a remote model's name."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """All that identifies what the model computes: weights, template, engine version, adapters on offer.

        Known without starting an engine. Raises ModelError when the file cannot be read.
        """

    @property
    def context_tokens(self) -> int:
        """The longest prompt plus answer, in tokens."""
        raise CapabilityError(f"{self.name} does not know the length of its context")

    @property
    def vocabulary_digest(self) -> str:
        """SHA-256 of the token list: members may be averaged by token only where it is equal."""
        raise CapabilityError(f"{self.name} does not show its vocabulary")

    async def generate(self, request: GenerateRequest, on_delta: OnDelta | None = None) -> list[Completion]:
        """Return one completion for each of `request.sample_indices`, in that order."""
        raise self._cannot("generate text")

    async def stream(self, request: GenerateRequest) -> AsyncIterator[Delta | Completion]:
        """Yield deltas as they come and, at the end, each sample's Completion."""
        queue: asyncio.Queue[Delta | None] = asyncio.Queue()
        task = asyncio.create_task(self.generate(request, queue.put_nowait))
        task.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (delta := await queue.get()) is not None:
                yield delta
            for completion in await task:
                yield completion
        finally:
            task.cancel()

    async def score(self, request: ScoreRequest) -> Scores:
        """Return the log-probability of every choice."""
        raise self._cannot("score choices")

    async def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return `(len(texts), dim) float32`, rows L2-normalised."""
        raise self._cannot("embed text")

    async def count_tokens(self, text: str) -> int:
        """Return how many tokens `text` is to this model, control tokens aside."""
        raise self._cannot("count tokens")

    async def open_session(self, request: GenerateRequest) -> Session:
        """Prefill the request's prompt and hand its sequence to the caller."""
        raise self._cannot("open a session")

    def pins(self) -> Mapping[str, str]:
        """Return what a lock file pins: file role ("model", "adapter:spam") to SHA-256 in hex."""
        return {}

    async def close(self) -> None:
        """Release the engine; idempotent. A later call loads it again."""
        return

    def _cannot(self, what: str) -> CapabilityError:
        able = ", ".join(sorted(self.capabilities)) or "nothing"
        return CapabilityError(f"{self.name} cannot {what}: it can {able}")


class Embedder(Protocol):
    """Text to vectors. A Model that can `embed` is one."""

    @property
    def fingerprint(self) -> str:
        """What identifies the vector space; vectors of two fingerprints never mix."""
        ...

    async def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return `(len(texts), dim) float32`, rows L2-normalised."""
        ...


class StoredRecord(Value):
    """A record of semantic memory. `score` is set on recall only; higher is closer."""

    id: str
    text: str
    metadata: dict[str, Any] = {}
    created: float = 0.0
    """Seconds since the epoch."""
    expires: float | None = None
    score: float | None = None


class VectorStore(Protocol):
    """Named collections of records with vectors, kept by a plugin or by the kernel's own SQLite store."""

    async def upsert(self, collection: str, records: Sequence[StoredRecord], vectors: np.ndarray) -> None:
        """Write records with `(n, dim) float32` vectors; they survive `kill -9` once this returns."""
        ...

    async def search(
        self,
        collection: str,
        *,
        vector: np.ndarray | None,
        text: str | None,
        top_k: int,
        where: Mapping[str, Any] | None = None,
    ) -> list[StoredRecord]:
        """Return the closest records: dense by `vector`, lexical by `text`, hybrid by both."""
        ...

    async def delete(self, collection: str, ids: Sequence[str]) -> int:
        """Forget records; return how many there were."""
        ...
