"""A VectorStore in Qdrant: one of its collections for each of ours, and one more that lists them.

It embeds nothing and fuses no scores. Qdrant has no transactions: what is written in one request is kept whole or not
at all, and a request holds `AT_ONCE` records. Invariants: a call that returned was acknowledged by the server; a
namespace is part of a collection's name there, and nothing of one is reached through another.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from gristmill import CollectionInfo, CollectionName, Hit, StoredRecord, StoreQuery
from gristmill.stores import (
    batch_of,
    conditions_of,
    in_thread,
    query_words,
    same_dim,
    same_embedder,
    unit_rows,
    words_of,
)
from gristmill_plugins.qdrant import _points as points
from gristmill_plugins.qdrant._client import Held, Place

if TYPE_CHECKING:
    import numpy as np
    from qdrant_client import QdrantClient, models

AT_ONCE = 1000
_TEXTS_AT_ONCE = 256


class _Found(NamedTuple):
    place: str
    """Its collection in Qdrant."""
    fingerprint: str | None
    dim: int | None


class QdrantStore:
    """A VectorStore on a server or in a folder. Nothing is opened until it is used.

    Args:
        place: the server or folder.
        prefix: how the names of its collections there begin.
        exact: look at every vector.
        now: the clock that records expire by.
    """

    def __init__(
        self,
        place: Place,
        *,
        prefix: str = "gristmill",
        exact: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._held = Held(place)
        self._prefix = prefix
        self._exact = exact
        self._now = now
        self._last_number = 0
        self._numbering = threading.Lock()

    # The list of collections

    def _entry_id(self, collection: CollectionName) -> str:
        return points.point_id(json.dumps(list(collection)))

    def _find(self, client: QdrantClient, collection: CollectionName) -> _Found | None:
        if not client.collection_exists(self._prefix):
            return None
        entries = client.retrieve(self._prefix, [self._entry_id(collection)], with_payload=True)
        payload = entries[0].payload if entries else None
        return _Found(payload["place"], payload["fingerprint"], payload["dim"]) if payload else None

    def _enter(self, client: QdrantClient, collection: CollectionName, found: _Found) -> None:
        from qdrant_client import models

        if not client.collection_exists(self._prefix):
            self._create(client, self._prefix, {}, {})
        payload = {"namespace": collection.namespace, "name": collection.name, **found._asdict()}
        entry = models.PointStruct(id=self._entry_id(collection), vector={}, payload=payload)
        client.upsert(self._prefix, [entry], wait=True)

    def _place_of(self, collection: CollectionName, turn: str) -> str:
        digest = hashlib.sha256(json.dumps(list(collection)).encode()).hexdigest()[:32]
        return f"{self._prefix}-{digest}-{turn}"

    def _create(self, client: QdrantClient, place: str, dense: dict[str, Any], words: dict[str, Any]) -> None:
        from qdrant_client.http.exceptions import UnexpectedResponse

        try:
            client.create_collection(place, vectors_config=dense, sparse_vectors_config=words or None)
        except (UnexpectedResponse, ValueError):
            if not client.collection_exists(place):  # another process was faster
                raise

    def _make(self, client: QdrantClient, collection: CollectionName, found: _Found) -> None:
        """Make the collection for the records; it is not entered in the list yet."""
        from qdrant_client import models

        dense = {}
        if found.dim is not None:
            dense = {points.DENSE: models.VectorParams(size=found.dim, distance=models.Distance.DOT)}
        words = {points.WORDS: models.SparseVectorParams(modifier=models.Modifier.IDF)}
        self._create(client, found.place, dense, words)
        if self._held.place.path is None:
            kinds = models.PayloadSchemaType
            for field, kind in (("facts", kinds.KEYWORD), ("texts", kinds.KEYWORD), ("number", kinds.INTEGER),
                                ("expires", kinds.FLOAT)):  # fmt: skip
                client.create_payload_index(found.place, field, field_schema=kind, wait=True)

    # Records

    async def upsert(
        self,
        collection: CollectionName,
        records: Sequence[StoredRecord],
        vectors: np.ndarray | None,
        fingerprint: str | None,
    ) -> None:
        """Write records, `AT_ONCE` in a request that is kept whole or not at all; see VectorStore."""
        if records:
            await asyncio.to_thread(self._upsert, collection, records, vectors, fingerprint)

    def _upsert(
        self,
        collection: CollectionName,
        records: Sequence[StoredRecord],
        vectors: np.ndarray | None,
        fingerprint: str | None,
    ) -> None:
        kept, dim = batch_of(records, vectors)
        with self._held.use() as client:
            found = self._agreed(client, collection, fingerprint, dim)
            self._forget_expired(client, found)
            words = words_of([record.text for record, _ in kept])
            numbers = self._numbers(len(kept))
            made = [
                points.point(record, number, vector, text)
                for (record, vector), number, text in zip(kept, numbers, words, strict=True)
            ]
            for start in range(0, len(made), AT_ONCE):
                client.upsert(found.place, made[start : start + AT_ONCE], wait=True)

    def _agreed(
        self, client: QdrantClient, collection: CollectionName, fingerprint: str | None, dim: int | None
    ) -> _Found:
        """Return the collection, its embedder settled by the first record; refuse vectors that do not fit."""
        found = self._find(client, collection)
        if found is not None and client.count(found.place, exact=True).count:
            same_embedder(collection, found.fingerprint, fingerprint)
            same_dim(collection, found.dim, dim)
            return found
        if found is not None and (found.fingerprint, found.dim) == (fingerprint, dim):
            return found
        if found is not None:
            client.delete_collection(found.place)
        made = _Found(self._place_of(collection, "first"), fingerprint, dim)
        self._make(client, collection, made)
        self._enter(client, collection, made)
        return made

    def _numbers(self, n: int) -> range:
        """Return numbers above all earlier ones: nanoseconds, which also order what several processes write."""
        with self._numbering:
            first = max(time.time_ns(), self._last_number + 1)
            self._last_number = first + n - 1
            return range(first, first + n)

    def _forget_expired(self, client: QdrantClient, found: _Found) -> None:
        from qdrant_client import models

        over = models.FieldCondition(key="expires", range=models.Range(lte=self._now()))
        client.delete(found.place, models.FilterSelector(filter=models.Filter(must=[over])), wait=True)

    @in_thread
    def search(self, collection: CollectionName, query: StoreQuery) -> list[Hit]:
        """Return what either side of the query found; see VectorStore."""
        conditions_of(query.where)
        with self._held.use() as client:
            found = self._find(client, collection)
            if found is None or not client.count(found.place, exact=True).count:
                return []
            if query.vector is not None:
                same_embedder(collection, found.fingerprint, query.fingerprint)
            return self._search(client, found, query)

    def _search(self, client: QdrantClient, found: _Found, query: StoreQuery) -> list[Hit]:
        selected = self._selection(client, found, query.where)
        with_vectors = (
            [points.DENSE] if found.dim is not None and (query.vector is not None or query.with_vectors) else []
        )
        dense: Sequence[models.ScoredPoint] = ()
        lexical: Sequence[models.ScoredPoint] = ()
        if query.vector is not None:
            dense = self._query(client, found, query.vector.tolist(), points.DENSE, query.n, selected, with_vectors)
        if query.text is not None and (words := [part for word in query_words(query.text) for part in word]):
            asked = points.sparse([])
            asked.indices = list({points.index_of(word) for word in words})
            asked.values = [1.0] * len(asked.indices)
            lexical = self._query(client, found, asked, points.WORDS, query.n, selected, with_vectors)
        by_words = {point.id: point.score for point in lexical}
        return [
            self._hit(point, by_words.get(point.id), query)
            for point in {point.id: point for point in [*dense, *lexical]}.values()
        ]

    def _query(
        self,
        client: QdrantClient,
        found: _Found,
        query: Any,
        using: str,
        n: int,
        selected: Any,
        with_vectors: list[str],
    ) -> Sequence[models.ScoredPoint]:
        from qdrant_client import models

        exact = models.SearchParams(exact=True) if self._exact and using == points.DENSE else None
        answer = client.query_points(
            found.place, query=query, using=using, limit=n, query_filter=selected, search_params=exact,
            with_payload=True, with_vectors=with_vectors or False,
        )  # fmt: skip
        scored: Sequence[models.ScoredPoint] = answer.points
        return scored

    def _hit(self, point: models.ScoredPoint, lexical: float | None, query: StoreQuery) -> Hit:
        import numpy as np

        vectors = point.vector if isinstance(point.vector, dict) else {}
        vector = None if vectors.get(points.DENSE) is None else np.asarray(vectors[points.DENSE], np.float32)
        dense = None if query.vector is None or vector is None else float(vector @ query.vector)
        record = points.record(point.payload or {}, self._held.place.name)
        return Hit(record, dense, lexical, vector if query.with_vectors else None)

    def _selection(self, client: QdrantClient, found: _Found, where: Mapping[str, Any]) -> models.Filter:
        def texts_of(key: str) -> set[str]:
            from qdrant_client import models

            having = models.Filter(must=[models.FieldCondition(key="texts", match=models.MatchValue(value=key))])
            facts = (json.loads(fact) for point in self._scroll(client, found, having, ["facts"])
                     for fact in (point.payload or {})["facts"])  # fmt: skip
            return {value for name, kind, value in facts if (name, kind) == (key, points.TEXT)}

        return points.selection(where, self._now(), texts_of)

    def _scroll(
        self, client: QdrantClient, found: _Found, selected: Any, payload: Any, *, vectors: bool = False
    ) -> Iterator[models.Record]:
        offset = None
        while True:
            page, offset = client.scroll(
                found.place, scroll_filter=selected, limit=AT_ONCE, offset=offset, with_payload=payload,
                with_vectors=vectors,
            )  # fmt: skip
            yield from page
            if offset is None:
                return

    @in_thread
    def read(
        self,
        collection: CollectionName,
        *,
        where: Mapping[str, Any] | None = None,
        ids: Sequence[str] | None = None,
        offset: int = 0,
        limit: int = 100,
    ) -> list[StoredRecord]:
        """Return records in the order in which they were last written; see VectorStore."""
        from qdrant_client import models

        conditions_of(where or {})
        with self._held.use() as client:
            found = self._find(client, collection)
            if found is None or limit == 0:
                return []
            selected = self._selection(client, found, where or {})
            if ids is not None:
                selected.must.append(models.HasIdCondition(has_id=[points.point_id(id_) for id_ in ids]))
            order = models.OrderBy(key="number")
            numbered, _ = client.scroll(
                found.place, scroll_filter=selected, limit=offset + limit, order_by=order, with_payload=["number"]
            )
            wanted = [point.id for point in numbered[offset:]]
            by_id = {point.id: point for point in client.retrieve(found.place, wanted, with_payload=True)}
            return [points.record(by_id[id_].payload or {}, self._held.place.name) for id_ in wanted if id_ in by_id]

    @in_thread
    def delete(self, collection: CollectionName, ids: Sequence[str] | None) -> int:
        """Forget records, or the whole collection; see VectorStore."""
        from qdrant_client import models

        with self._held.use() as client:
            found = self._find(client, collection)
            if found is None:
                return 0
            if ids is None:
                n = int(client.count(found.place, exact=True).count)
                entry = models.PointIdsList(points=[self._entry_id(collection)])
                client.delete(self._prefix, entry, wait=True)
                client.delete_collection(found.place)
                return n
            n = 0
            wanted = [points.point_id(id_) for id_ in dict.fromkeys(ids)]
            for start in range(0, len(wanted), AT_ONCE):
                there = client.retrieve(found.place, wanted[start : start + AT_ONCE], with_payload=False)
                if there:
                    client.delete(found.place, models.PointIdsList(points=[point.id for point in there]), wait=True)
                n += len(there)
            return n

    @in_thread
    def collections(self, namespace: str) -> list[CollectionInfo]:
        """Return the collections of one namespace, by name; see VectorStore."""
        from qdrant_client import models

        with self._held.use() as client:
            if not client.collection_exists(self._prefix):
                return []
            of = models.Filter(must=[models.FieldCondition(key="namespace", match=models.MatchValue(value=namespace))])
            entries = self._scroll(client, _Found(self._prefix, None, None), of, True)
            infos = [self._info(client, entry.payload or {}) for entry in entries]
            return sorted(infos, key=lambda info: info.name)

    def _info(self, client: QdrantClient, entry: Mapping[str, Any]) -> CollectionInfo:
        alive = points.selection({}, self._now(), lambda _: set())
        return CollectionInfo(
            namespace=entry["namespace"], name=entry["name"], embedder=entry["fingerprint"], dim=entry["dim"],
            n_records=client.count(entry["place"], count_filter=alive, exact=True).count,
        )  # fmt: skip

    async def re_embed(
        self, collection: CollectionName, embed: Callable[[Sequence[str]], Awaitable[np.ndarray]], fingerprint: str
    ) -> int:
        """Give every record a vector of another embedder, all at once; see VectorStore.

        The records are copied to a new collection with their new vectors, round after round until nothing has changed
        meanwhile; then the list names the new collection, and the old one is deleted. What another process writes
        between the last look and that moment is lost.
        """
        old, target = await asyncio.to_thread(self._find_now, collection), None
        if old is None:
            return 0
        while changed := await asyncio.to_thread(self._changed, old, target):
            for start in range(0, len(changed), _TEXTS_AT_ONCE):
                part = changed[start : start + _TEXTS_AT_ONCE]
                rows = unit_rows(await embed([str(payload["text"]) for payload in part]), len(part))
                if target is None:
                    target = _Found(self._place_of(collection, secrets.token_hex(4)), fingerprint, int(rows.shape[1]))
                    await asyncio.to_thread(self._begin, collection, target)
                await asyncio.to_thread(self._copy, target, part, rows)
        return await asyncio.to_thread(self._flip, collection, old, target)

    def _find_now(self, collection: CollectionName) -> _Found | None:
        with self._held.use() as client:
            return self._find(client, collection)

    def _begin(self, collection: CollectionName, target: _Found) -> None:
        with self._held.use() as client:
            self._make(client, collection, target)

    def _changed(self, old: _Found, target: _Found | None) -> list[dict[str, Any]]:
        """Return the records that the new collection lacks or has as they were; drop there what is gone."""
        from qdrant_client import models

        with self._held.use() as client:
            numbers: dict[Any, int] = {}
            if target is not None:
                copied = self._scroll(client, target, None, ["number"])
                numbers = {point.id: (point.payload or {})["number"] for point in copied}
            changed = []
            for point in self._scroll(client, old, None, True):
                payload = dict(point.payload or {})
                if numbers.pop(point.id, None) != payload["number"]:
                    changed.append(payload)
            if target is not None and numbers:
                client.delete(target.place, models.PointIdsList(points=list(numbers)), wait=True)
            return changed

    def _copy(self, target: _Found, payloads: Sequence[dict[str, Any]], rows: np.ndarray) -> None:
        name = self._held.place.name
        records = [points.record(payload, name) for payload in payloads]
        words = words_of([record.text for record in records])
        made = [
            points.point(record, payload["number"], row, text)
            for record, payload, row, text in zip(records, payloads, rows, words, strict=True)
        ]
        with self._held.use() as client:
            client.upsert(target.place, made, wait=True)

    def _flip(self, collection: CollectionName, old: _Found, target: _Found | None) -> int:
        if target is None:
            return 0
        with self._held.use() as client:
            self._enter(client, collection, target)
            client.delete_collection(old.place)
            return int(client.count(target.place, exact=True).count)

    async def close(self) -> None:
        """Let go of the server or the folder; the next call opens it again."""
        await asyncio.to_thread(self._held.close)
