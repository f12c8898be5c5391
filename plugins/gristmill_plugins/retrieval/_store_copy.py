"""An index in a store of semantic memory: PostgreSQL, Qdrant, or the kernel's own, wherever several machines reach it.

The index file stays what it is, and its published chunks are copied with their vectors, so that nothing is embedded
again. The store's protocol has no transaction over several writes. One record, the catalogue, therefore says which
version of which file is found: a copy adds chunks that the catalogue does not name, then replaces the catalogue in one
write, then takes away what is named no more. Invariants: a search returns chunks of the catalogue's versions only; a
copy that was killed leaves the old catalogue, and the next one goes on with the chunks that are there.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from gristmill import CollectionName, FunctionError, Hit, Passage, StoredRecord, StoreQuery, VectorStore
from gristmill_plugins.retrieval._index_chunks import embedded_text
from gristmill_plugins.retrieval._search import Query, by_meaning, candidates, passages, ranked
from gristmill_plugins.retrieval._search_passages import Row
from gristmill_plugins.retrieval._store import IndexFile, StagedChunk

NAMESPACE = "retrieval"
AT_ONCE = 500
_MOST_CANDIDATES = 10_000
_CATALOGUE = "catalogue"
_OWN = ("_version", "_place", "_part", "_start", "_gap", "_context")
"""Keys of a record's metadata that are ours and not the document's."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Which version of each file is found, and what is being copied or still to be taken away."""

    fingerprint: str | None = None
    generation: int = 0
    files: Mapping[str, str] = field(default_factory=dict)
    """Path to the digest of a version."""
    unsettled: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Path to versions of which records may be there, although they are not found."""


class StoreCopy:
    """The copy of one named index in one store."""

    def __init__(self, store: VectorStore, name: str) -> None:
        self.store = store
        self.name = name
        self._chunks = CollectionName(NAMESPACE, name)
        self._catalogues = CollectionName(NAMESPACE, f"{name} (catalogue)")

    async def catalogue(self) -> Catalogue:
        """Return what the store holds of the index; an empty catalogue if that is nothing."""
        found = await self.store.read(self._catalogues, ids=[_CATALOGUE])
        return Catalogue(**found[0].metadata["catalogue"]) if found else Catalogue()

    async def _write(self, catalogue: Catalogue) -> None:
        data = {name: getattr(catalogue, name) for name in Catalogue.__slots__}
        record = StoredRecord(id=_CATALOGUE, text=self.name, metadata={"catalogue": data}, created=time.time())
        await self.store.upsert(self._catalogues, [record], None, None)

    async def follow(self, index: IndexFile, note: Callable[[str], None]) -> None:
        """Bring the store to what the index file has published.

        Raises:
            StoreError: the store cannot be read or written; what it held before is still found.
            UsageError: it holds vectors of another embedder.
        """
        before = await self.catalogue()
        stand, _ = await asyncio.to_thread(index.current)
        wanted = await asyncio.to_thread(index.digests)
        files = {path: digest for path, (_, digest) in wanted.items()}
        if files == before.files and not before.unsettled and before.fingerprint == stand.fingerprint:
            return
        if before.fingerprint not in (None, stand.fingerprint):
            raise FunctionError(
                f"the store's copy of {self.name!r} is by {before.fingerprint!r}, the index by {stand.fingerprint!r}",
                hint="give the index another name",
            )
        changed = [path for path, digest in files.items() if before.files.get(path) != digest]
        unsettled = {path: set(versions) for path, versions in before.unsettled.items()}
        for path in changed:
            unsettled.setdefault(path, set()).add(files[path])
        await self._write(Catalogue(before.fingerprint, before.generation, before.files, _lists(unsettled)))
        for path in changed:
            note(f"copying {path} to the store")
            await self._copy(index, path, *wanted[path], str(stand.fingerprint))
        for path, digest in before.files.items():
            if files.get(path) != digest:
                unsettled.setdefault(path, set()).add(digest)
        for path, digest in files.items():
            unsettled.get(path, set()).discard(digest)
        await self._write(Catalogue(stand.fingerprint, stand.generation, files, _lists(unsettled)))
        await self._take_away(unsettled)
        await self._write(Catalogue(stand.fingerprint, stand.generation, files))

    async def _copy(self, index: IndexFile, path: str, version: int, digest: str, fingerprint: str) -> None:
        """Write those chunks of a version that are not there yet."""
        import numpy as np

        place = 0
        while some := await asyncio.to_thread(index.chunks_of, version, place, AT_ONCE):
            place += len(some)
            records = [(_record(path, digest, chunk), row) for chunk, row in some]
            there = {
                record.id
                for record in await self.store.read(self._chunks, ids=[r.id for r, _ in records], limit=AT_ONCE)
            }
            new = [(record, row) for record, row in records if record.id not in there]
            if new:
                rows = np.stack([row for _, row in new])
                await self.store.upsert(self._chunks, [record for record, _ in new], rows, fingerprint)

    async def _take_away(self, unsettled: Mapping[str, set[str]]) -> None:
        for path, versions in unsettled.items():
            where = {"path": path, "_version": sorted(versions)}
            while versions and (some := await self.store.read(self._chunks, where=where, limit=AT_ONCE)):
                await self.store.delete(self._chunks, [record.id for record in some])

    async def search(self, query: Query) -> list[Passage]:
        """Return the passages that match best, best first.

        Raises:
            FunctionError: the store has no such index, or it is another embedder's.
            StoreError: the store cannot be read.
        """
        catalogue = await self.catalogue()
        if not catalogue.generation:
            raise FunctionError(f"the store has no index {self.name!r}", hint="make it with retrieval.index and store")
        if query.fingerprint is not None and query.fingerprint != catalogue.fingerprint:
            raise FunctionError(
                f"the index was made by {catalogue.fingerprint!r}, the query by {query.fingerprint!r}",
                hint="name the same embedder, or index again with this one",
            )
        n = candidates(query)
        hits = await self._hits(query, n, catalogue)
        best = ranked(hits, query)
        rows = {hit.record.id: _row(hit.record) for hit, _ in best}
        around = await self._neighbours(list(rows.values()), query.neighbours) if query.neighbours else None
        return list(passages(best, rows, around, by_meaning(hits, n), query.top_k))

    async def _hits(self, query: Query, n: int, catalogue: Catalogue) -> list[Hit]:
        """Ask for more until there are enough that the catalogue names: a copy under way adds others."""
        asked = n
        while True:
            words = None if query.mode == "dense" else query.text
            found = await self.store.search(
                self._chunks,
                StoreQuery(asked, query.vector, query.fingerprint if query.vector is not None else None, words,
                           query.where, with_vectors=query.mmr is not None),
            )  # fmt: skip
            named = [hit for hit in found if _is_named(hit.record, catalogue)]
            if len(named) >= n or len(found) < asked or asked >= _MOST_CANDIDATES:
                return named
            asked = min(4 * asked, _MOST_CANDIDATES)

    async def _neighbours(self, rows: Sequence[Row], n: int) -> Callable[[Row], list[Row]]:
        ids = dict.fromkeys(
            _id(row.path, str(row.version), place)
            for row in rows
            for place in range(max(row.place - n, 0), row.place + n + 1)
        )
        found = await self.store.read(self._chunks, ids=list(ids), limit=len(ids))
        by_place = {(row.version, row.path, row.place): row for row in map(_row, found)}

        def around(row: Row) -> list[Row]:
            places = range(row.place - n, row.place + n + 1)
            near = (by_place.get((row.version, row.path, place)) for place in places)
            return [one for one in near if one is not None and one.part == row.part]

        return around


def _lists(unsettled: Mapping[str, set[str]]) -> dict[str, list[str]]:
    return {path: sorted(versions) for path, versions in unsettled.items() if versions}


def _id(path: str, version: str, place: int) -> str:
    return hashlib.sha256(f"{path}\0{version}\0{place}".encode()).hexdigest()[:32]


def _record(path: str, version: str, chunk: StagedChunk) -> StoredRecord:
    own = (version, chunk.place, chunk.part, chunk.start, chunk.gap, len(embedded_text(chunk.context, "")))
    return StoredRecord(
        id=_id(path, version, chunk.place),
        text=embedded_text(chunk.context, chunk.text),
        metadata={**json.loads(chunk.metadata), "path": path, **dict(zip(_OWN, own, strict=True))},
        created=time.time(),
    )


def _is_named(record: StoredRecord, catalogue: Catalogue) -> bool:
    return catalogue.files.get(record.metadata["path"], "") == str(record.metadata["_version"])


def _row(record: StoredRecord) -> Row:
    version, place, part, start, gap, skipped = (record.metadata[key] for key in _OWN)
    metadata = {key: value for key, value in record.metadata.items() if key not in (*_OWN, "path")}
    return Row(record.id, version, place, part, start, gap, record.text[skipped:], json.dumps(metadata),
               record.metadata["path"])  # fmt: skip
