"""What a model is to gristmill: the one protocol behind every engine, local or remote.

It holds no engine, no cache and no retry. Invariants: a request says everything that can change its answer;
batching is the model's business, so a caller hands over all it has; what an engine cannot do yet is missing
from its `capabilities` and raises CapabilityError, and is never a different method.

Models live on one event loop, the kernel's. Every coroutine here may be cancelled: the model then stops the
work natively and the next call works.

It is long because the whole protocol of models stands in one place.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Protocol

from pydantic import BeforeValidator, Field, model_validator

from gristmill._errors import CapabilityError
from gristmill._values import Completion, Message, ToolCall, Value

if TYPE_CHECKING:
    import numpy as np

Capability = Literal[
    "generate", "score", "embed", "rank", "schema", "adapters", "logprobs", "beam", "sessions", "members", "tools"
]
Combine = Literal["arithmetic", "geometric", "vote"]

DEFAULT_MAX_TOKENS = 512


def _as_stops(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class Sampling(Value):
    """How tokens are drawn. The defaults are greedy decoding.

    Greedy or seeded, an engine may round a little differently in batches of another size; then, of two tokens that
    are nearly tied, now the one is taken and now the other. The same text every time comes from the prompt cache.
    """

    temperature: Annotated[
        float, Field(ge=0, le=100, allow_inf_nan=False, description="0 takes the most likely token; higher draws.")
    ] = 0.0
    top_k: Annotated[int, Field(ge=0, le=1_000_000, description="Draw from the k most likely tokens; 0: all.")] = 0
    top_p: Annotated[
        float, Field(gt=0, le=1, allow_inf_nan=False, description="Draw from the likeliest that hold this share.")
    ] = 1.0
    min_p: Annotated[
        float, Field(ge=0, le=1, allow_inf_nan=False, description="Leave out tokens below this part of the likeliest.")
    ] = 0.0
    typical_p: Annotated[
        float, Field(gt=0, le=1, allow_inf_nan=False, description="Locally typical sampling (Meister et al. 2022).")
    ] = 1.0
    repeat_penalty: Annotated[
        float,
        Field(gt=0, le=10, allow_inf_nan=False, description="Above 1 makes tokens of the recent text unlikelier."),
    ] = 1.0
    presence_penalty: Annotated[
        float, Field(ge=-10, le=10, allow_inf_nan=False, description="Taken from the logit of every token used.")
    ] = 0.0
    frequency_penalty: Annotated[
        float, Field(ge=-10, le=10, allow_inf_nan=False, description="Taken from a token's logit for each use.")
    ] = 0.0
    logit_bias: Annotated[
        dict[int, Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]],
        Field(description="Token id to what is added to its logit."),
    ] = {}
    beam_width: Annotated[int, Field(ge=1, le=64, description="Beam search over so many texts; greedy only.")] = 1
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000, description="The most tokens an answer may have.")] = (
        DEFAULT_MAX_TOKENS
    )
    stop: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        BeforeValidator(_as_stops),
        Field(description="Texts that end the answer before them."),
    ] = ()

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


class ToolSpec(Value):
    """A tool as a model is told of it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str = ""
    parameters: dict[str, Any] = {"type": "object", "properties": {}}
    """JSON Schema of the arguments, as one object."""


class ToolExchange(Value):
    """Calls that a model asked for in one turn, and the text that came of each, in their order."""

    text: str = ""
    """What the model wrote beside its calls."""
    calls: Annotated[tuple[ToolCall, ...], Field(min_length=1)]
    results: tuple[str, ...]

    @model_validator(mode="after")
    def _each_has_a_result(self) -> ToolExchange:
        if len(self.calls) != len(self.results):
            raise ValueError(f"{len(self.results)} results for {len(self.calls)} calls")
        return self


class GenerateRequest(Value):
    """One prompt, to be continued once for each sample index.

    Sample i is drawn with the seed `seed + i`: asking for twelve after eight were cached sends indices 8 to 11.
    """

    messages: tuple[Message, ...] = ()
    """Empty only beside `members`."""
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
    tools: tuple[ToolSpec, ...] = ()
    """What the model may ask to have called; only for a model with the capability "tools"."""
    tool_choice: Literal["auto", "required", "none"] = "auto"
    """Whether it must ask for a call, or must not."""
    exchanges: tuple[ToolExchange, ...] = ()
    """The calls after the last message and what came of them, in order."""

    @model_validator(mode="after")
    def _tools_stand_alone(self) -> GenerateRequest:
        if self.tools and (self.json_schema is not None or self.members):
            raise ValueError("tools go with neither json_schema nor members")
        return self


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


class Relevance(Value):
    """How relevant each text is to a query, in the order asked: higher is more, on the model's own scale."""

    scores: tuple[float, ...]
    prompt_tokens: tuple[int, ...]
    """Of each pair of query and text."""

    @model_validator(mode="after")
    def _each_has_its_tokens(self) -> Relevance:
        if len(self.scores) != len(self.prompt_tokens):
            raise ValueError(f"{len(self.prompt_tokens)} counts of tokens for {len(self.scores)} scores")
        return self


OnDelta = Callable[[Delta], None]


class Session(Protocol):
    """One sequence under the caller's control, so that several members can decode in step outside the engine."""

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end an answer; they have no text."""
        ...

    @property
    def prompt_tokens(self) -> int:
        """How many tokens the prompt took."""
        ...

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
    holds_weights: bool = False
    """Whether a call loads weights into this machine's memory, so that limits on loaded models count it."""
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

    async def rank(self, query: str, texts: Sequence[str]) -> Relevance:
        """Return how relevant each text is to the query, reading the two together as a cross-encoder does."""
        raise self._cannot("rank texts", hint="that is a reranker's work: a cross-encoder, declared under models:")

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

    def _cannot(self, what: str, *, hint: str | None = None) -> CapabilityError:
        able = ", ".join(sorted(self.capabilities)) or "nothing"
        return CapabilityError(f"{self.name} cannot {what}: it can {able}", hint=hint)


class Embedder(Protocol):
    """Text to vectors. A Model that can `embed` is one.

    Vectors are kept in the prompt cache, unless the embedder has an attribute `outruns_cache` that is true.
    """

    @property
    def fingerprint(self) -> str:
        """What identifies the vector space; vectors of two fingerprints never mix."""
        ...

    async def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return `(len(texts), dim) float32`, rows L2-normalised."""
        ...


class StoredRecord(Value):
    """A record of semantic memory. `score` is set on recall only; higher is closer."""

    text_field = "text"

    id: str
    text: str
    metadata: dict[str, Any] = {}
    created: float = 0.0
    """Seconds since the epoch."""
    expires: float | None = None
    """Seconds since the epoch; from then on the record is not found."""
    score: float | None = None


class CollectionName(NamedTuple):
    """A collection within a namespace; two namespaces share nothing, whatever their collections are called."""

    namespace: str
    name: str


class CollectionInfo(Value):
    """What a store knows of one collection."""

    namespace: str
    name: str
    n_records: int
    embedder: str | None = None
    """The fingerprint of the embedder that made its vectors; None when it has none and is searched by words only."""
    dim: int | None = None


@dataclass(frozen=True, slots=True)
class StoreQuery:
    """What a store is asked for: the `n` closest by `vector`, and the `n` best matches of `text`, where given."""

    n: int
    vector: np.ndarray | None = None
    """`(dim,) float32`, L2-normalised, made by the embedder of `fingerprint`."""
    fingerprint: str | None = None
    text: str | None = None
    """Any text: a store takes words from it, never syntax."""
    where: Mapping[str, Any] = field(default_factory=dict)
    """Metadata that must hold: a value, a list of values, or a range `{"min": ..., "max": ...}` for each key."""
    with_vectors: bool = False


@dataclass(frozen=True, slots=True)
class Hit:
    """A record that a store found. What both sides found is one hit; how they are weighed is the kernel's business."""

    record: StoredRecord
    dense: float | None = None
    """Cosine of the angle to the query's vector; given for every hit when the query has a vector."""
    lexical: float | None = None
    """BM25, higher is better; None when no word of the query is in the text."""
    vector: np.ndarray | None = None


EmbedTexts = Callable[[Sequence[str]], Awaitable["np.ndarray"]]


class VectorStore(Protocol):
    """Named collections of records, kept by a plugin or by the kernel's own SQLite store.

    Every method but `close` raises StoreError when the store cannot be read or written. A record that has expired is
    never returned. The vectors of a collection are all of one embedder, or there are none.
    """

    async def upsert(
        self,
        collection: CollectionName,
        records: Sequence[StoredRecord],
        vectors: np.ndarray | None,
        fingerprint: str | None,
    ) -> None:
        """Write records, all or none, with `(n, dim) float32` vectors; they survive `kill -9` once this returns.

        Raises:
            UsageError: the collection's vectors are another embedder's, or only one side has any.
        """
        ...

    async def search(self, collection: CollectionName, query: StoreQuery) -> list[Hit]:
        """Return what either side of the query found, each record once; none if there is no such collection.

        Raises:
            UsageError: the collection's vectors are not of the query's embedder, or `where` means nothing.
        """
        ...

    async def read(
        self,
        collection: CollectionName,
        *,
        where: Mapping[str, Any] | None = None,
        ids: Sequence[str] | None = None,
        offset: int = 0,
        limit: int = 100,
    ) -> list[StoredRecord]:
        """Return records in the order in which they were last written."""
        ...

    async def delete(self, collection: CollectionName, ids: Sequence[str] | None) -> int:
        """Forget records, or with None the collection and all in it; return how many there were."""
        ...

    async def collections(self, namespace: str) -> list[CollectionInfo]:
        """Return the collections of one namespace, by name."""
        ...

    async def re_embed(self, collection: CollectionName, embed: EmbedTexts, fingerprint: str) -> int:
        """Give every record a vector of another embedder, all at once: a search sees the old or the new ones."""
        ...

    async def close(self) -> None:
        """Let go of files and connections; idempotent."""
        ...
