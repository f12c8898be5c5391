"""`retrieval.index` and `retrieval.search`: what a recipe says of them, and which index that means.

An index lies in the data folder, never beside the documents. Unnamed, it belongs to its documents and its embedder, so
that two recipes over one folder share it; named, it is found by its name and changes only when it is indexed again.
Invariant: a recipe's files are read within its boundary, which holds for links inside a folder as well.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from gristmill import Context, Embedder, EmbedderRef, FunctionError, ModelRef, Passage, StoreRef, Value, function
from gristmill_plugins.retrieval._chunks import Splitter
from gristmill_plugins.retrieval._index_build import OnError
from gristmill_plugins.retrieval._index_run import Opened, Run, home_of
from gristmill_plugins.retrieval._llama_index_parts import Parts
from gristmill_plugins.retrieval._readers import whole
from gristmill_plugins.retrieval._search import Mode, Query, find
from gristmill_plugins.retrieval._search_elsewhere import search_elsewhere
from gristmill_plugins.retrieval._search_filter import Filter
from gristmill_plugins.retrieval._store_copy import StoreCopy

if TYPE_CHECKING:
    import numpy as np

Documents = Annotated[Path | list[Path], "A file or folder, or several; below the recipe, or given as inputs."]
EmbedderName = Annotated[EmbedderRef | None, "One declared under models:, instead of WordLlama."]
StoreName = Annotated[StoreRef | None, "A store declared under models: that holds a copy of the named index."]


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


class IndexFunctions:
    """Indexing and searching; state is what is open."""

    def __init__(self, parts: Mapping[str, Any] | None = None) -> None:
        self.parts = Parts(parts)
        self._opened: dict[Path, Opened] = {}

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
        vectors: Annotated[bool, "Off: nothing is embedded, and passages are found by words (mode: bm25)."] = True,
        on_error: Annotated[OnError, "Report a file that cannot be read, or stop at it."] = "skip",
        readers: Annotated[
            dict[str, str] | None, "A file's ending, such as .eml, to a LlamaIndex reader registered by name."
        ] = None,
        store: StoreName = None,
    ) -> Indexed:
        """Index documents so that they can be searched; only what changed is read, and only what is new embedded."""
        if store is not None and name is None:
            raise FunctionError("an index in a store needs a name", hint="it is searched by index: NAME and store")
        if store is not None and not vectors:
            raise FunctionError("a store is searched by vectors", hint="leave out vectors: false, or store")
        if overlap >= size:
            raise FunctionError(f"overlap is below size: overlap={overlap}, size={size}")
        options = {"splitter": splitter, "size": size, "overlap": overlap, "tokens_of": tokens_of,
                   "counted_by": None, "readers": _endings(readers or {}), "vectors": vectors}  # fmt: skip
        roots = _roots(documents)
        chosen = _embedder(context, embedder)
        opened, called = self._open(context, name, roots, chosen)
        began = time.monotonic()
        async with opened.turn:
            run = Run(self.parts, context, opened, roots, chosen, options, on_error, again=True)
            stand, tally, n_ignored = await run.bring_up_to_date()
            if store is not None and name is not None:
                await StoreCopy(context.memory_in(store).store, name).follow(opened.file, context.note)
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
        store: StoreName = None,
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
        by_words = mode == "bm25" and mmr is None
        chosen = None if by_words and documents is None else _embedder(context, embedder)
        vector = await _vector(chosen, query) if mode != "bm25" and chosen is not None and query.strip() else None
        asked = Query(
            query, vector, None if chosen is None or by_words else chosen.fingerprint, mode, top_k, where or {}, mmr,
            neighbours, min_score, fusion, dense_weight,
        )  # fmt: skip
        if store is None:
            return await self._search(context, asked, documents, index, chosen)
        if index is None:
            raise FunctionError("a store is searched by the name of an index", hint="give index: NAME")
        return await StoreCopy(context.memory_in(store).store, index).search(asked) if query.strip() else []

    async def _search(
        self,
        context: Context,
        asked: Query,
        documents: Path | list[Path] | None,
        name: str | None,
        embedder: Embedder | None,
    ) -> list[Passage]:
        """Search a named index as it is, or that of documents, brought up to date."""
        roots = [] if documents is None else _roots(documents)
        opened, _ = self._open(context, name, roots, embedder)
        if opened.is_small():
            found = opened.look(asked, roots, context)
        else:
            found = await asyncio.to_thread(opened.look, asked, roots, context)
        if found is not None:
            return found
        if embedder is None or documents is None:
            raise FunctionError(f"there is no index {name!r}", hint="make it with retrieval.index")
        async with opened.turn:
            await Run(self.parts, context, opened, roots, embedder, None, "skip", again=False).bring_up_to_date()
        return await asyncio.to_thread(find, opened.file, opened.view, asked)

    def _open(
        self, context: Context, name: str | None, roots: Sequence[Path], embedder: Embedder | None
    ) -> tuple[Opened, str]:
        if name is not None and not 0 < len(name.strip()) <= 200:
            raise FunctionError(f"the name of an index is 1 to 200 characters, this is {name!r}")
        identity = {"name": name} if name is not None else {
            "documents": [str(root) for root in roots], "embedder": embedder and embedder.fingerprint,
        }  # fmt: skip
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]
        folder = home_of(context.settings) / key
        if folder not in self._opened:
            self._opened[folder] = Opened(folder)
        return self._opened[folder], name or key


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
