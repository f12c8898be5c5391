"""A GGUF model as gristmill's `Model`: requests are checked here and answered by an engine process.

It loads no native library. Invariants: making a model reads no file; nothing native sees a file that was not
checked; a request that fails for any reason leaves a model that answers the next one.

It is long because all that a model answers to stands in one place.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gristmill import (
    Capability,
    CapabilityError,
    Completion,
    GenerateRequest,
    Message,
    Model,
    ModelError,
    OnDelta,
    Relevance,
    ScoreRequest,
    Scores,
    Session,
)
from gristmill_plugins.llama import _files, _gguf, _grammar, _probe, _template
from gristmill_plugins.llama._answers import LlamaSession, as_completions, as_deltas
from gristmill_plugins.llama._checks import check_generate, check_length, check_score, check_text
from gristmill_plugins.llama._machine import cache_bytes, default_threads, free_bytes
from gristmill_plugins.llama._process import EngineProcess
from gristmill_plugins.llama._store import cache_folder

if TYPE_CHECKING:
    import numpy as np

DEFAULT_CONTEXT_TOKENS = 8192
MOST_GUESSING = 2  # in larger batches a wrong guess costs as much as a right one saves
DISTRIBUTION = "llama-cpp-python"
LOG = logging.getLogger("gristmill.llama")
RANKS: frozenset[Capability] = frozenset({"rank"})
WRITES: frozenset[Capability] = frozenset(
    {"generate", "score", "schema", "logprobs", "adapters", "beam", "sessions", "members", "embed"}
)


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """A LoRA adapter on offer, and the scale that stands for 1 in a request."""

    path: str
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class LlamaOptions:
    """How a model was declared. Fields are the provider's parameters, which describe them."""

    model: str = "smollm2"
    sha256: str | None = None
    context_tokens: int | None = None
    cache_tokens: int | None = None
    gpu_layers: int | Literal["auto"] = "auto"
    split: tuple[float, ...] = ()
    flash_attention: Literal["auto", "on", "off"] = "auto"
    cache_type: Literal["f16", "f32", "q8_0"] = "f16"
    threads: int | None = None
    batch_tokens: int | None = None
    adapters: Mapping[str, AdapterFile] = field(default_factory=dict)
    max_running: int = 32
    max_waiting: int = 1024
    reproducible: bool = False
    use_mmap: bool = True
    prefix_disk_mb: int = 0
    prompt_lookup: Literal["auto", "on", "off"] = "auto"


class LlamaModel(Model):
    """A GGUF model that llama.cpp runs in a process of its own, started by the first call that needs it."""

    holds_weights = True

    def __init__(self, options: LlamaOptions) -> None:
        self._options = options
        self._engine: EngineProcess | None = None
        self._loaded: object = None
        """The state of the file that the engine has loaded."""
        self._lock: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None
        self._records = _probe.ProbeRecords()
        self.loading: float | None = None
        """How much of the model has loaded, while it does."""

    # What is known without an engine

    @property
    def name(self) -> str:
        return self._options.model

    @cached_property
    def _path(self) -> Path:
        return _files.resolve(self._options.model, sha256=self._options.sha256)

    @property
    def capabilities(self) -> frozenset[Capability]:  # type: ignore[override]
        """What can be asked of this file; of one that cannot be read, whatever a language model can: a call tells."""
        try:
            return RANKS if self._header.kind == "reranker" else WRITES
        except ModelError:
            return WRITES

    @property
    def _header(self) -> _gguf.GGUFHeader:
        return _gguf.read_header(self._path)

    @property
    def context_tokens(self) -> int:
        trained = self._header.context_length or DEFAULT_CONTEXT_TOKENS
        return self._options.context_tokens or min(trained, DEFAULT_CONTEXT_TOKENS)

    @property
    def vocabulary_digest(self) -> str:
        return self._header.vocabulary_digest

    @property
    def fingerprint(self) -> str:
        options, template = self._options, _template.source_of(self._header)
        facts = {
            "engine": f"{DISTRIBUTION} {_version()}",
            "template": template,
            "date": date.today().isoformat() if "strftime_now" in template else None,
            "context_tokens": self.context_tokens,
            "gpu_layers": options.gpu_layers,
            "flash_attention": options.flash_attention,
            "cache_type": options.cache_type,
            "reproducible": options.reproducible,
            "scales": {name: adapter.scale for name, adapter in options.adapters.items()},
            **self.pins(),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def pins(self) -> Mapping[str, str]:
        """Return the SHA-256 of the model's file and of each adapter's, as `model` and `adapter:NAME`."""
        adapters = {
            f"adapter:{name}": _files.digest(Path(adapter.path)) for name, adapter in self._options.adapters.items()
        }
        return {"model": _files.digest(self._path)} | adapters

    # Calls

    async def generate(self, request: GenerateRequest, on_delta: OnDelta | None = None) -> list[Completion]:
        check_generate(request, adapters=self._options.adapters, model=self.name)
        self._check_kind("generate text")
        self._check_room([*request.messages, *(m for member in request.members for m in member.messages)])
        grammar = None if request.json_schema is None else _grammar.to_gbnf(request.json_schema)
        message = {
            "op": "generate",
            "request": self._wire(request),
            "grammar": grammar,
            "stream": on_delta is not None,
        }

        def pass_on(event: dict[str, Any]) -> None:
            if on_delta is not None:
                for delta in as_deltas(event, request):
                    on_delta(delta)

        result = await self._call(message, pass_on)
        return as_completions(result, request)

    async def score(self, request: ScoreRequest) -> Scores:
        check_score(request, adapters=self._options.adapters, model=self.name)
        self._check_kind("score choices")
        self._check_room(request.messages)
        if not request.choices:
            return Scores(logprobs=())
        result = await self._call({"op": "score", "request": self._wire(request)})
        return Scores(logprobs=tuple(result["logprobs"]), prompt_tokens=result["prompt_tokens"])

    async def embed(self, texts: Sequence[str]) -> np.ndarray:
        self._check_kind("embed text")
        return (await self._rows(texts))[0]

    async def rank(self, query: str, texts: Sequence[str]) -> Relevance:
        if self._header.kind != "reranker":
            raise CapabilityError(
                f"{self.name} cannot rank texts: its kind is {self._header.kind!r}, not 'reranker'",
                hint="declare the GGUF file of a cross-encoder for that, such as bge-reranker; this one can put "
                "passages in order by another `method` of retrieval.rerank",
            )
        check_text(query, model=self.name)
        rows, n_tokens = await self._rows(texts, query)
        return Relevance(scores=tuple(rows[:, 0].tolist()), prompt_tokens=tuple(n_tokens))

    async def _rows(self, texts: Sequence[str], query: str | None = None) -> tuple[np.ndarray, list[int]]:
        """Return `(len(texts), width) float32`, and how many tokens each text took."""
        import numpy as np

        for text in texts:
            check_text(text, model=self.name)
        engine = await self._running_engine()
        frame = await engine.call({"op": "embed", "texts": list(texts), "query": query})
        result = frame.message["result"]
        if result["n_cut"]:
            LOG.warning("%s: %d of %d texts were too long and were cut", self.name, result["n_cut"], len(texts))
        return np.frombuffer(frame.blob, np.float32).reshape(result["shape"]), list(result["n_tokens"])

    async def count_tokens(self, text: str) -> int:
        check_text(text, model=self.name)
        result = await self._call({"op": "count", "text": text})
        return int(result["n_tokens"])

    async def open_session(self, request: GenerateRequest) -> Session:
        check_generate(request, adapters=self._options.adapters, model=self.name)
        self._check_kind("open a session")
        self._check_room(request.messages)
        if request.members or request.json_schema is not None:
            raise CapabilityError(f"{self.name} opens sessions only without members and schema")
        engine = await self._running_engine()
        opened = await engine.call({"op": "open", "request": self._wire(request)})
        return LlamaSession(engine, opened.message["result"])

    async def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the token ids of the prompt that these messages make."""
        request = GenerateRequest(messages=tuple(messages)).model_dump(mode="json")
        result = await self._call({"op": "prompt", "messages": request["messages"]})
        return list(result["ids"])

    async def counters(self) -> dict[str, int]:
        """Return what the running engine has done: steps, tokens decoded, tokens shared, largest batch."""
        return dict(await self._call({"op": "counters"}))

    async def close(self) -> None:
        async with self._loading_lock():
            engine, self._engine = self._engine, None
            if engine is not None:
                await engine.close()

    @property
    def engine_pid(self) -> int | None:
        """The engine's process id, while one runs."""
        return self._engine.pid if self._engine is not None and self._engine.usable else None

    # Requests on the wire

    def _check_kind(self, what: str) -> None:
        if self._header.kind == "reranker":
            raise CapabilityError(
                f"{self.name} is a reranker: it scores how well a text answers a query, and cannot {what}",
                hint="put passages in order with it, by retrieval.rerank with `method: cross_encoder`; "
                f"to {what}, declare another model",
            )

    def _check_room(self, messages: Sequence[Message]) -> None:
        """Refuse at once what cannot fit however it is tokenised: ten megabytes would take 13 seconds."""
        check_length(
            (message.content for message in messages),
            longest_token=self._longest_token,
            context_tokens=self.context_tokens,
            model=self.name,
        )

    @cached_property
    def _longest_token(self) -> int:
        return max(map(len, self._header.tokens), default=1) or 1

    def _wire(self, request: GenerateRequest | ScoreRequest) -> dict[str, Any]:
        """Return a request as JSON-ready data, its adapter scales as the engine applies them."""
        data = request.model_dump(mode="json")
        for part in (data, *data.get("members", ())):
            part["adapters"] = self._scaled(part["adapters"])
        data.pop("json_schema", None)
        return data

    def _scaled(self, adapters: Mapping[str, float]) -> dict[str, float]:
        return {name: scale * self._options.adapters[name].scale for name, scale in adapters.items()}

    # The engine

    async def _call(self, message: dict[str, Any], on_event: Callable[[dict[str, Any]], None] | None = None) -> Any:
        engine = await self._running_engine()
        return (await engine.call(message, on_event)).message["result"]

    async def _running_engine(self) -> EngineProcess:
        """Return the engine, started if there is none or the last one ended."""
        if (engine := self._usable_engine()) is not None:
            return engine
        async with self._loading_lock():
            if (engine := self._usable_engine()) is not None:
                return engine
            if self._engine is not None:
                self._engine.kill()
            self._engine = await self._start()
            return self._engine

    def _loading_lock(self) -> asyncio.Lock:
        """Return the lock under which engines come and go; each event loop has its own."""
        loop = asyncio.get_running_loop()
        if self._lock is None or self._lock[0] is not loop:
            self._lock = loop, asyncio.Lock()
        return self._lock[1]

    def _usable_engine(self) -> EngineProcess | None:
        engine = self._engine
        if engine is None or not engine.usable or engine.loop is not asyncio.get_running_loop():
            return None
        # A file that was replaced has another fingerprint than the weights in memory: load again.
        return engine if self._header.identity == self._loaded else None

    async def _start(self) -> EngineProcess:
        """Check the files and load them; where the fast kernels crash, once more without them."""
        header = await asyncio.to_thread(self._check_files)
        key = _probe.build_key(_version(), _library(), (tensor.type for tensor in header.tensors))
        attempt = _probe.first_attempt(self._records.get(key))
        while True:
            engine = EngineProcess(str(self._path))
            stage = _Loading(self)
            try:
                await engine.call(self._load_message(header, attempt), stage)
            except BaseException as error:
                await _end(engine)
                again = _probe.next_attempt(attempt, exit_code=engine.exit_code, probing=stage.probing)
                if again is None or not isinstance(error, ModelError) or error.cause != "died":
                    raise
                attempt = again
                continue
            finally:
                self.loading = None
            self._loaded = header.identity
            if attempt.probe:
                self._records.put(key, attempt.use_extra_bufts)
            return engine

    def _check_files(self) -> _gguf.GGUFHeader:
        header = _gguf.check_model(self._path)
        for adapter in self._options.adapters.values():
            _gguf.check_adapter(Path(adapter.path), header)
        needed = self._cache_bytes(header)
        if (free := free_bytes()) is not None and needed > free:
            raise ModelError(
                f"{self.name} needs {needed / 1e9:.1f} GB for a cache of {self._cache_tokens} tokens, and "
                f"{free / 1e9:.1f} GB of memory are free",
                model=self.name,
                cause="load",
                hint="declare the model with fewer context_tokens or cache_tokens, or close other models",
            )
        return header

    def _cache_bytes(self, header: _gguf.GGUFHeader) -> int:
        return cache_bytes(header.metadata, header.architecture, self._cache_tokens, self._options.cache_type)

    @property
    def _cache_tokens(self) -> int:
        return max(self.context_tokens, self._options.cache_tokens or DEFAULT_CONTEXT_TOKENS)

    @property
    def _most_guessing(self) -> int:
        """How many sequences may guess ahead together; a guess is verified in a batch, with other rounding."""
        asked = "off" if self._options.reproducible else self._options.prompt_lookup
        return {"off": 0, "auto": MOST_GUESSING, "on": self._options.max_running}[asked]

    @property
    def _flash_attention(self) -> bool | None:
        """Whether to use flash attention; None: llama.cpp decides."""
        asked = "off" if self._options.reproducible else self._options.flash_attention
        return {"auto": None, "on": True, "off": False}[asked]

    def _load_message(self, header: _gguf.GGUFHeader, attempt: _probe.Attempt) -> dict[str, Any]:
        options = self._options
        return {
            "op": "load",
            "path": str(self._path),
            "template": _template.source_of(header),
            "pairs": {"template": header.metadata.get("tokenizer.chat_template.rerank")}
            if header.kind == "reranker"
            else None,
            "bos": header.token("bos"),
            "eos": header.token("eos"),
            "context_tokens": self.context_tokens,
            "adapters": {name: adapter.path for name, adapter in options.adapters.items()},
            "max_running": options.max_running,
            "max_waiting": options.max_waiting,
            "reproducible": options.reproducible,
            "most_guessing": self._most_guessing,
            "probe": attempt.probe,
            "shelf": self._shelf_options(attempt),
            "stow_bytes": min(self._cache_bytes(header), (free_bytes() or 0) // 4),
            "params": {
                "path": str(self._path),
                "n_ctx": self._cache_tokens,
                "n_seq_max": min(2 * options.max_running, 255) + 1,
                "n_threads": options.threads or default_threads(),
                "gpu_layers": None if options.gpu_layers == "auto" else options.gpu_layers,
                "use_mmap": options.use_mmap,
                "use_extra_bufts": attempt.use_extra_bufts,
                "n_batch": options.batch_tokens or 0,
                "split": options.split,
                "flash_attention": self._flash_attention,
                "cache_type": options.cache_type,
            },
        }

    def _shelf_options(self, attempt: _probe.Attempt) -> dict[str, Any] | None:
        """Return where prefixes are kept on disk, and all that their cells depend on besides the tokens."""
        if not self._options.prefix_disk_mb:
            return None
        facts = {"context": self._cache_tokens, "bufts": attempt.use_extra_bufts, "fingerprint": self.fingerprint}
        return {
            "folder": str(cache_folder() / "prefixes"),
            "key": json.dumps(facts, sort_keys=True),
            "limit_bytes": self._options.prefix_disk_mb << 20,
        }


class _Loading:
    """Listens to a load: how far it is, and whether it has come to the trial prompt."""

    def __init__(self, model: LlamaModel) -> None:
        self._model = model
        self.probing = False

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] == "probing":
            self.probing = True
        elif event["event"] == "progress":
            self._model.loading = event["fraction"]
            if self._model.on_loading is not None:
                self._model.on_loading(event["fraction"])


async def _end(engine: EngineProcess) -> None:
    """End an engine that did not load, whatever else is being cancelled."""
    engine.kill()
    await asyncio.shield(engine.close())


def _version() -> str:
    """Return the installed release of llama-cpp-python, without importing it."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _library() -> Path:
    """Return where llama.cpp's library should be, without importing its package."""
    spec = importlib.util.find_spec("llama_cpp")
    folder = Path(spec.origin).parent if spec is not None and spec.origin else Path()
    return folder / "lib" / "libllama.so"
