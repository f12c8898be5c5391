"""`retrieval.index` and `retrieval.search`: what a recipe says of them, and which index that means.

An index lies in the data folder, never beside the documents. Unnamed, it belongs to its documents and its embedder, so
that two recipes over one folder share it; named, it is found by its name and changes only when it is indexed again.
Invariant: a recipe's files are read within its boundary, which holds for links inside a folder as well.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from gristmill import Context, Embedder, EmbedderRef, FunctionError, ModelRef, Passage, Value, function
from gristmill_plugins.retrieval._chunks import Chunker, SplitOptions, Splitter, estimated_tokens
from gristmill_plugins.retrieval._index_build import Build, OnError, Plan, Tally, changed_files
from gristmill_plugins.retrieval._index_walk import walk
from gristmill_plugins.retrieval._llama_index_models import make_embedding, waited
from gristmill_plugins.retrieval._llama_index_parts import Parts
from gristmill_plugins.retrieval._readers import READERS, whole
from gristmill_plugins.retrieval._search import Mode, Query, find
from gristmill_plugins.retrieval._search_elsewhere import search_elsewhere
from gristmill_plugins.retrieval._search_filter import Filter
from gristmill_plugins.retrieval._store import IndexFile, Stand
from gristmill_plugins.retrieval._store_file import WriterLock
from gristmill_plugins.retrieval._store_view import View

if TYPE_CHECKING:
    import numpy as np

Documents = Annotated[Path | list[Path], "A file or folder, or several; below the recipe, or given as inputs."]
EmbedderName = Annotated[EmbedderRef | None, "One declared under models:, instead of WordLlama."]


DEFAULT_OPTIONS: Mapping[str, Any] = {
    "splitter": "markdown", "size": 256, "overlap": 32, "tokens_of": None, "counted_by": None, "readers": {},
}  # fmt: skip
_SMALL_CHUNKS, _SMALL_FILES = 4000, 50
"""What is searched on the loop itself: it takes up to a millisecond, and a thread costs 0.1 ms, 2 on a busy machine."""
_POLL_S = 0.05
"""Between two looks at whether another process is done with an index."""


class Skipped(Value):
    """A file that is not in the index."""

    path: str
    reason: str


class Indexed(Value):
    """What an indexing run did, and what the index holds now."""

    index: str
    """Its name; of an unnamed one the id of its folder."""
    generation: int
    """Raised whenever what can be found changes."""
    n_files: int
    n_passages: int
    n_embedded: int
    """Passages that were embedded in this run."""
    n_reused: int
    """Passages of changed files whose vectors were there already."""
    n_removed: int
    """Files that were in the index and are gone."""
    n_ignored: int
    """Files of kinds that nothing reads."""
    skipped: tuple[Skipped, ...] = ()
    elapsed_s: float = 0.0


class _Opened:
    """An index in use: its file, its vectors in memory, and whose turn it is to bring it up to date."""

    def __init__(self, folder: Path) -> None:
        self.file = IndexFile(folder)
        self.view = View()
        self.turn = asyncio.Lock()

    def is_small(self) -> bool:
        """Tell whether a search takes less time than handing it to a thread would, as far as is known."""
        stand, rows = self.file.known()
        return 0 < stand.watermark <= _SMALL_CHUNKS and len(rows) <= _SMALL_FILES

    def look(self, asked: Query, roots: Sequence[Path], context: Context) -> list[Passage] | None:
        """Search; None if there is no index, or some document changed since it was made."""
        stand, rows = self.file.current()
        if not stand.generation:
            return None
        if roots:
            found = walk(roots, READERS.keys() | stand.options["readers"].keys(), context.path)
            if len(found.sources) != len(rows) or changed_files(found, rows):
                return None
        return find(self.file, self.view, asked) if asked.text.strip() else []


class IndexFunctions:
    """Indexing and searching; state is what is open."""

    def __init__(self, parts: Mapping[str, Any] | None = None) -> None:
        self.parts = Parts(parts)
        self._opened: dict[Path, _Opened] = {}

    @function(writes=True)
    async def index(
        self,
        documents: Documents,
        context: Context,
        *,
        name: Annotated[str | None, "Searched by `index: NAME`; without it, by the same documents."] = None,
        splitter: Annotated[
            Splitter, "At headings and sentences, at sentences, where the meaning turns, or not at all."
        ] = "markdown",
        size: Annotated[int, Field(ge=16, le=100_000, description="Tokens of a passage at most.")] = 256,
        overlap: Annotated[int, Field(ge=0, description="Tokens that a passage repeats of the one before.")] = 32,
        tokens_of: Annotated[ModelRef | None, "The model that will read the passages; else an estimate."] = None,
        embedder: EmbedderName = None,
        on_error: Annotated[OnError, "Report a file that cannot be read, or stop at it."] = "skip",
        readers: Annotated[
            dict[str, str] | None, "A file's ending, such as .eml, to a LlamaIndex reader registered by name."
        ] = None,
    ) -> Indexed:
        """Index documents so that they can be searched; only what changed is read, and only what is new embedded."""
        if overlap >= size:
            raise FunctionError(f"overlap is below size: overlap={overlap}, size={size}")
        options = {"splitter": splitter, "size": size, "overlap": overlap, "tokens_of": tokens_of,
                   "counted_by": None, "readers": _endings(readers or {})}  # fmt: skip
        roots = _roots(documents)
        chosen = _embedder(context, embedder)
        opened, called = self._open(context, name, roots, chosen)
        began = time.monotonic()
        async with opened.turn:
            run = _Run(self, context, opened, roots, chosen, options, on_error, again=True)
            stand, tally, n_ignored = await run.bring_up_to_date()
        n_files, n_passages = await asyncio.to_thread(opened.file.count)
        return Indexed(
            index=called, generation=stand.generation, n_files=n_files, n_passages=n_passages,
            n_embedded=tally.n_embedded, n_reused=tally.n_reused, n_removed=tally.n_removed, n_ignored=n_ignored,
            skipped=tuple(Skipped(path=path, reason=reason) for path, reason in tally.skipped),
            elapsed_s=time.monotonic() - began,
        )  # fmt: skip

    @function
    async def search(
        self,
        query: Annotated[str, "Any text; a question."],
        context: Context,
        *,
        documents: Annotated[
            Path | list[Path] | None, "Indexed when first used, and followed when they change."
        ] = None,
        index: Annotated[str | None, "Instead of documents: the name that retrieval.index was given."] = None,
        retriever: Annotated[str | None, "Instead: a LlamaIndex retriever or vector store registered by name."] = None,
        mode: Annotated[Mode, "By meaning and words, by meaning, or by words."] = "hybrid",
        top_k: Annotated[int, Field(ge=1, le=10_000, description="How many passages at most.")] = 5,
        where: Annotated[
            dict[str, Any] | None, "Metadata that must hold: a value, a list, or {min: ..., max: ...} for each key."
        ] = None,
        mmr: Annotated[
            float | None, Field(ge=0, le=1), "Below 1, passages are less alike (maximal marginal relevance)."
        ] = None,
        neighbours: Annotated[int, Field(ge=0, le=100, description="How many passages before and after to join.")] = 0,
        min_score: Annotated[float | None, "Leave out what scores less, on the scale of the mode."] = None,
        fusion: Annotated[
            Literal["minmax", "rrf"], "How hybrid fuses: by scores, or by ranks (reciprocal rank fusion)."
        ] = "minmax",
        dense_weight: Annotated[float, Field(ge=0, le=1, description="The share of meaning in hybrid.")] = 0.3,
        embedder: EmbedderName = None,
    ) -> list[Passage]:
        """Return the passages that answer best, best first, each with its file and its lines or page."""
        places = {"documents": documents, "index": index, "retriever": retriever}
        given = [word for word, value in places.items() if value is not None]
        if len(given) != 1:
            told = " and ".join(given) or "none of them"
            raise FunctionError(f"search takes one of documents, index and retriever, this has {told}")
        Filter(where or {})
        if retriever is not None:
            kind, part = self.parts.any_of(retriever, ("retriever", "store"), context.settings)
            made_by = _embedder(context, embedder) if kind == "store" else None
            passages = await search_elsewhere(part, retriever, query, top_k, made_by)
            return _kept(passages, where or {}, min_score, top_k)
        chosen = None if mode == "bm25" and documents is None and mmr is None else _embedder(context, embedder)
        roots = [] if documents is None else _roots(documents)
        opened, _ = self._open(context, index, roots, chosen)
        vector = await _vector(chosen, query) if mode != "bm25" and chosen is not None and query.strip() else None
        asked = Query(
            query, vector, None if chosen is None else chosen.fingerprint, mode, top_k, where or {}, mmr,
            neighbours, min_score, fusion, dense_weight,
        )  # fmt: skip
        found = opened.look(asked, roots, context) if opened.is_small() else await asyncio.to_thread(
            opened.look, asked, roots, context
        )  # fmt: skip
        if found is None and index is not None:
            raise FunctionError(f"there is no index {index!r}", hint="make it with retrieval.index")
        if found is None:
            assert chosen is not None
            async with opened.turn:
                await _Run(self, context, opened, roots, chosen, None, "skip", again=False).bring_up_to_date()
            found = await asyncio.to_thread(find, opened.file, opened.view, asked)
        return found

    def _open(
        self, context: Context, name: str | None, roots: Sequence[Path], embedder: Embedder | None
    ) -> tuple[_Opened, str]:
        if name is not None and not 0 < len(name.strip()) <= 200:
            raise FunctionError(f"the name of an index is 1 to 200 characters, this is {name!r}")
        identity = {"name": name} if name is not None else {
            "documents": [str(root) for root in roots], "embedder": embedder and embedder.fingerprint,
        }  # fmt: skip
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]
        folder = _home(context.settings) / key
        if folder not in self._opened:
            self._opened[folder] = _Opened(folder)
        return self._opened[folder], name or key


class _Run:
    """Bringing one index up to date with its documents."""

    def __init__(
        self,
        functions: IndexFunctions,
        context: Context,
        opened: _Opened,
        roots: Sequence[Path],
        embedder: Embedder,
        options: Mapping[str, Any] | None,
        on_error: OnError,
        *,
        again: bool,
    ) -> None:
        self.functions = functions
        self.context = context
        self.file = opened.file
        self.roots = roots
        self.embedder = embedder
        self.options = options
        self.on_error: OnError = on_error
        self.again = again

    async def bring_up_to_date(self) -> tuple[Stand, Tally, int]:
        """Index what changed, if anything did; take the options of the index where none are given."""
        before, rows = await asyncio.to_thread(self.file.current)
        plan = self._plan(before)
        found = await asyncio.to_thread(walk, self.roots, READERS.keys() | plan.readers.keys(), self.context.path)
        build = Build(self.file, plan, found, self.context.note)
        changed = build.changed(before, rows, again=self.again)
        if not changed and before.generation and len(rows) == len(found.sources):
            return before, build.tally, found.n_ignored
        async with _only_writer(self.file.folder):
            before, rows = await asyncio.to_thread(self.file.current)
            changed = build.changed(before, rows, again=self.again)  # another process may have been faster
            stand = await build.run(before, rows, changed)
        return stand, build.tally, found.n_ignored

    def _plan(self, before: Stand) -> Plan:
        options = dict(self.options or before.options or DEFAULT_OPTIONS)
        settings = self.context.settings
        readers = {e: self.functions.parts.get(name, "reader", settings) for e, name in options["readers"].items()}
        loop = asyncio.get_running_loop()
        model = options["tokens_of"]
        if self.options and model is not None:
            options["counted_by"] = self.context.model(model).model.fingerprint
        split = SplitOptions(options["splitter"], options["size"], options["overlap"])
        return Plan(
            embed=self.embedder.embed,
            chunker=Chunker(
                split,
                estimated_tokens if model is None else lambda text: waited(self._count(model, text), loop),
                make_embedding(self.embedder, loop) if split.splitter == "semantic" else None,
            ),
            readers=readers,
            on_error=self.on_error,
            stand=Stand(fingerprint=self.embedder.fingerprint, options=options,
                        documents=tuple(str(root) for root in self.roots)),
        )  # fmt: skip

    async def _count(self, model: str, text: str) -> int:
        return await self.context.model(model).count_tokens(text)


@asynccontextmanager
async def _only_writer(folder: Path) -> AsyncIterator[None]:
    """Hold the right to write the index in a folder, waiting for whoever has it."""
    lock = WriterLock(folder)
    try:
        while not await asyncio.to_thread(lock.acquire):
            await asyncio.sleep(_POLL_S)
        yield
    finally:
        lock.release()


def _home(settings: Mapping[str, Any]) -> Path:
    """Return the folder of all indexes.

    Raises:
        FunctionError: the settings name a relative one.
    """
    if directory := settings.get("directory"):
        home = Path(str(directory)).expanduser()
        if not home.is_absolute():
            raise FunctionError(f"[plugin.retrieval] directory is an absolute path, this is {directory!r}")
        return home
    base = os.environ.get("XDG_DATA_HOME", "")  # a relative one is to be ignored, as the XDG specification says
    root = Path(base) if Path(base).is_absolute() else Path.home() / ".local/share"
    return root / "gristmill" / "retrieval"


def _roots(documents: Path | list[Path]) -> list[Path]:
    roots = sorted(set(documents if isinstance(documents, list) else [documents]))
    if not roots:
        raise FunctionError("documents is an empty list")
    return roots


def _endings(readers: Mapping[str, str]) -> dict[str, str]:
    for ending in readers:
        if not ending.startswith(".") or len(ending) < 2:
            raise FunctionError(f"readers are by a file's ending, such as .eml, this is {ending!r}")
    return {ending.lower(): name for ending, name in readers.items()}


def _embedder(context: Context, name: str | None) -> Embedder:
    return context.memory.embedder if name is None else context.embedder(name)


async def _vector(embedder: Embedder, query: str) -> np.ndarray | None:
    """Return the query's vector; None where the embedder knows nothing of it."""
    vector: np.ndarray = (await embedder.embed([whole(query)]))[0]
    return vector if vector.any() else None


def _kept(passages: Sequence[Passage], where: Mapping[str, Any], min_score: float | None, top_k: int) -> list[Passage]:
    """Return those of somebody else's passages that a filter and a score allow."""
    allows = Filter(where).allows
    kept = (p for p in passages if allows(p.metadata) and (min_score is None or p.score >= min_score))
    return list(kept)[:top_k]
