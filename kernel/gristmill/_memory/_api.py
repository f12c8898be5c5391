"""What callers do with semantic memory: remember, recall, forget, list, export, import, re-embed.

It keeps no records (a VectorStore does) and makes no vectors (an Embedder does). Invariants: every vector of a
collection is of one embedder; what is recalled is of the namespace that was asked; a call that wrote and returned is
kept. Each call is written once, as a coroutine, and has two faces: `recall` waits, `arecall` is awaited.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gristmill._errors import PluginError, UsageError, suggest
from gristmill._memory._arguments import (
    Mode,
    check_recall,
    checked_id,
    checked_metadata,
    checked_text,
    checked_vectors,
    collection_name,
    one_for_each,
    plain_name,
)
from gristmill._memory._calls import Runner, awaited, waiting
from gristmill._memory._exchange import read_file, write_file
from gristmill._memory._rank import Fusion, diversify, fuse
from gristmill._memory._store import SqliteStore
from gristmill._memory._words import check_where
from gristmill._models import (
    CollectionInfo,
    CollectionName,
    Embedder,
    Hit,
    StoredRecord,
    StoreQuery,
    VectorStore,
)

if TYPE_CHECKING:
    import numpy as np

    from gristmill._cache import PromptCache

Records = list[StoredRecord]
Infos = list[CollectionInfo]
Ids = list[str]
DEFAULT_NAMESPACE = "default"
DEFAULT_DENSE_WEIGHT = 0.3
"""WordLlama is the weaker side: on SQuAD, 0.3 of it found 0.934 in the first five, it alone 0.766, BM25 alone 0.925."""
_FEWEST_CANDIDATES = 50
_AT_ONCE = 1000


class Memory:
    """The semantic memory of a kernel.

    Args:
        store: keeps the records.
        embedder: returns the default embedder, when one is first needed.
        runner: runs the calls; the kernel.
        cache: keeps the vectors that models make, if given.
    """

    def __init__(
        self,
        store: VectorStore,
        *,
        embedder: Callable[[], Embedder],
        runner: Runner,
        cache: PromptCache | None = None,
    ) -> None:
        self.store = store
        self.runner = runner
        self._default = embedder
        self._cache = cache

    @property
    def embedder(self) -> Embedder:
        """The default embedder, which is used where a call names none.

        Raises:
            PluginError: it is not installed.
        """
        return self._default()

    async def _remember(
        self,
        collection: str,
        text: str | Sequence[str],
        *,
        metadata: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        id: str | Sequence[str] | None = None,
        expires_s: float | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        embedder: Embedder | None = None,
    ) -> Ids:
        """Keep a text, or several together, all or none; return their ids.

        Args:
            collection: any name; it is made when it is first used.
            text: one text, or a list.
            metadata: JSON data by which records can be filtered; one for all, or one for each text.
            id: an id for each text; a record of that id is replaced. By default it is made from the text, so that the
                same text twice is one record.
            expires_s: seconds from now after which it is not found any more.
            namespace: keeps users apart.
            embedder: instead of the default one. Without any, records are kept without vectors and are found by words.

        Raises:
            UsageError: an argument means nothing, or the collection's vectors are another embedder's.
            StoreError: it could not be written; nothing was kept.
        """
        texts = [text] if isinstance(text, str) else list(text)
        if expires_s is not None and not expires_s > 0:
            raise UsageError(f"expires_s is a number of seconds above 0, this is {expires_s!r}")
        now = time.time()
        expires = None if expires_s is None else now + expires_s
        ids, facts = one_for_each(id, len(texts), "id", str), one_for_each(metadata, len(texts), "metadata", Mapping)
        records = [
            StoredRecord(
                id=checked_id(given, one),
                text=checked_text(one),
                metadata=checked_metadata(data),
                created=now,
                expires=expires,
            )
            for one, given, data in zip(texts, ids, facts, strict=True)
        ]
        await self._keep(collection_name(namespace, collection), records, embedder)
        return [record.id for record in records]

    async def _keep(self, collection: CollectionName, records: Records, embedder: Embedder | None) -> None:
        if not records:
            return
        chosen = embedder or self._installed()
        if chosen is None:
            await self.store.upsert(collection, records, None, None)
        else:
            vectors = await self._embed(chosen, [record.text for record in records])
            await self.store.upsert(collection, records, vectors, chosen.fingerprint)

    async def _recall(
        self,
        collection: str,
        query: str,
        *,
        top_k: int = 5,
        mode: Mode = "hybrid",
        where: Mapping[str, Any] | None = None,
        mmr: float | None = None,
        min_score: float | None = None,
        fusion: Fusion = "minmax",
        dense_weight: float = DEFAULT_DENSE_WEIGHT,
        namespace: str = DEFAULT_NAMESPACE,
        embedder: Embedder | None = None,
    ) -> Records:
        """Return the records that match best, best first, each with its score.

        Args:
            collection: one that does not exist holds nothing.
            query: any text; one with nothing in it finds nothing.
            top_k: how many records at most.
            mode: `dense` scores by meaning (cosine, -1 to 1), `lexical` by words (BM25, from 0), `hybrid` fuses both
                (0 to 1, relative to this query's other results).
            where: metadata that must hold: for each key a value, a list of values, or `{"min": ..., "max": ...}`.
            mmr: maximal marginal relevance: 1 is relevance only, less makes the results less alike.
            min_score: leave out what scores less, on the scale of the mode.
            fusion: how hybrid fuses: `minmax` (scores) or `rrf` (ranks).
            dense_weight: the share of meaning in hybrid, 0 to 1.
            namespace: keeps users apart.
            embedder: instead of the default one; it must be the one that made the collection's vectors.

        Raises:
            UsageError: an argument means nothing, or the vectors are another embedder's.
            PluginError: no embedder is installed, and the mode is not lexical.
            StoreError: the store cannot be read.
        """
        check_recall(top_k, mode, mmr, fusion, dense_weight)
        check_where(where or {})
        name = collection_name(namespace, collection)
        if not query.strip():
            return []
        vector, fingerprint = None, None
        if mode != "lexical":
            chosen = embedder or self._default()
            text = query.encode("utf-8", "replace").decode()
            vector, fingerprint = (await self._embed(chosen, [text]))[0], chosen.fingerprint
        wanted = top_k if mode != "hybrid" and mmr is None else max(_FEWEST_CANDIDATES, 5 * top_k)
        hits = await self.store.search(
            name,
            StoreQuery(wanted, vector, fingerprint, None if mode == "dense" else query, where or {}, mmr is not None),
        )
        scored = _scored(hits, mode, fusion, dense_weight)
        if min_score is not None:
            scored = [pair for pair in scored if pair[1] >= min_score]
        if mmr is not None:
            if any(hit.vector is None for hit, _ in scored):
                raise UsageError(f"mmr compares vectors, and the records of {collection!r} have none")
            scored = diversify(scored, top_k, mmr)
        return [hit.record.model_copy(update={"score": score}) for hit, score in scored[:top_k]]

    async def _forget(
        self,
        collection: str,
        ids: str | Sequence[str] | None = None,
        *,
        all: bool = False,
        namespace: str = DEFAULT_NAMESPACE,
    ) -> int:
        """Forget records by id, or with `all` the collection and everything in it; return how many there were.

        Raises:
            UsageError: neither ids nor `all` is given, or both are.
        """
        if (ids is None) != all:
            raise UsageError("forget takes ids, or all=True for everything in the collection")
        wanted = [ids] if isinstance(ids, str) else ids
        return await self.store.delete(collection_name(namespace, collection), None if wanted is None else list(wanted))

    async def _list(
        self,
        collection: str,
        *,
        where: Mapping[str, Any] | None = None,
        ids: Sequence[str] | None = None,
        offset: int = 0,
        limit: int = 100,
        namespace: str = DEFAULT_NAMESPACE,
    ) -> Records:
        """Return records as they are, in the order in which they were last written."""
        if offset < 0 or limit < 0:
            raise UsageError(f"offset and limit are from 0, these are {offset} and {limit}")
        return await self.store.read(
            collection_name(namespace, collection), where=where, ids=ids, offset=offset, limit=limit
        )

    async def _collections(self, *, namespace: str = DEFAULT_NAMESPACE) -> Infos:
        """Return what there is in a namespace, by name."""
        return await self.store.collections(plain_name(namespace, "namespace"))

    async def _export(self, collection: str, path: str | Path, *, namespace: str = DEFAULT_NAMESPACE) -> int:
        """Write a collection as JSON Lines, whole or not at all, without its vectors; return how many records.

        Raises:
            UsageError: there is no such collection, or the file cannot be written.
        """
        name = await self._existing(namespace, collection)
        records: Records = []
        while part := await self.store.read(name, offset=len(records), limit=_AT_ONCE):
            records += part
        write_file(Path(path), records)
        return len(records)

    async def _import(
        self,
        collection: str,
        path: str | Path,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        embedder: Embedder | None = None,
    ) -> int:
        """Add the records of a JSON Lines file, with vectors made anew; return how many.

        A line needs `text` and may have `id`, `metadata`, `created` and `expires`. Every line is read before the first
        is kept; they are kept a thousand at a time, and importing the same file again changes nothing.

        Raises:
            UsageError: a line is no record; the message has its number.
        """
        name = collection_name(namespace, collection)
        records = read_file(Path(path), lambda given, text: checked_id(given, text), time.time())
        for start in range(0, len(records), _AT_ONCE):
            await self._keep(name, records[start : start + _AT_ONCE], embedder)
        return len(records)

    async def _re_embed(
        self, collection: str, embedder: Embedder | None = None, *, namespace: str = DEFAULT_NAMESPACE
    ) -> int:
        """Make all vectors of a collection anew, by another embedder, all at once; return how many.

        Raises:
            UsageError: there is no such collection.
            PluginError: no embedder was given, and none is installed.
        """
        name = await self._existing(namespace, collection)
        chosen = embedder or self._default()

        async def embed(texts: Sequence[str]) -> np.ndarray:
            return await self._embed(chosen, texts)

        return await self.store.re_embed(name, embed, chosen.fingerprint)

    async def _index(self, collection: str, *, namespace: str = DEFAULT_NAMESPACE) -> int:
        """Make or extend the approximate index of a large collection now, and return how many vectors it holds.

        A search without a filter asks the index, and scans only what was written after it was made. The kernel's own
        store makes it by itself in the background.

        Raises:
            UsageError: there is no such collection, it is too small to gain by it, or the store has its own index.
            PluginError: usearch is not installed.
        """
        name = await self._existing(namespace, collection)
        if not isinstance(self.store, SqliteStore):
            raise UsageError("this store looks after its index itself")
        return await self.store.build_index(name)

    async def _existing(self, namespace: str, collection: str) -> CollectionName:
        name = collection_name(namespace, collection)
        there = [info.name for info in await self.store.collections(namespace)]
        if collection not in there:
            raise UsageError(f"there is no collection {collection!r}", hint=suggest(collection, there))
        return name

    def _installed(self) -> Embedder | None:
        """Return the default embedder, or None where its library is missing: records are then found by words only."""
        try:
            embedder = self._default()
            _ = embedder.fingerprint
        except PluginError:
            return None
        return embedder

    async def _embed(self, embedder: Embedder, texts: Sequence[str]) -> np.ndarray:
        """Return `(len(texts), dim) float32`; they come from the prompt cache where it has them.

        An embedder that sets `outruns_cache`, as static embeddings do, is asked directly.
        """
        if self._cache is None or getattr(embedder, "outruns_cache", False):
            return checked_vectors(await embedder.embed(texts), len(texts))
        import numpy as np

        from gristmill._cache._key import KeyPrefix

        prefix = KeyPrefix({"embed": embedder.fingerprint})
        by_key = {prefix.key({"text": text}): text for text in texts}

        async def compute(keys: Sequence[str]) -> list[str]:
            rows = checked_vectors(await embedder.embed([by_key[key] for key in keys]), len(keys))
            return [base64.b64encode(row.tobytes()).decode("ascii") for row in rows]

        keys = list(by_key)
        answers = await self._cache.get_or_compute_many(keys, compute)
        made = {
            key: np.frombuffer(base64.b64decode(value), np.float32)
            for key, (value, _) in zip(keys, answers, strict=True)
        }
        return np.stack([made[prefix.key({"text": text})] for text in texts])

    remember, aremember = waiting(_remember), awaited(_remember)
    recall, arecall = waiting(_recall), awaited(_recall)
    forget, aforget = waiting(_forget), awaited(_forget)
    list, alist = waiting(_list), awaited(_list)
    collections, acollections = waiting(_collections), awaited(_collections)
    export, aexport = waiting(_export), awaited(_export)
    import_, aimport = waiting(_import), awaited(_import)
    re_embed, are_embed = waiting(_re_embed), awaited(_re_embed)
    index, aindex = waiting(_index), awaited(_index)


def _scored(hits: Sequence[Hit], mode: Mode, fusion: Fusion, dense_weight: float) -> list[tuple[Hit, float]]:
    if mode == "hybrid":
        return fuse(hits, fusion=fusion, dense_weight=dense_weight)
    scores = [(hit, hit.dense if mode == "dense" else hit.lexical) for hit in hits]
    return sorted([(hit, score) for hit, score in scores if score is not None], key=lambda pair: -pair[1])
