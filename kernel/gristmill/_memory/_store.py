"""The kernel's own store: records, words and vectors in one SQLite file, vectors also in memory for the search.

It embeds nothing and fuses no scores (`_memory` and `_rank` do). Invariants: SQLite is the source of truth, and what is
in memory is brought up to its state before each search; a namespace is part of how a collection is found, once, in
`_find`, so that no query can reach another's records; a call that returned has committed.
"""

from __future__ import annotations

import asyncio
import functools
import json
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gristmill._errors import UsageError
from gristmill._memory import _rows as table
from gristmill._memory._file import HeldFile
from gristmill._memory._rules import batch_of, same_embedder
from gristmill._memory._threads import in_thread
from gristmill._memory._words import check_where, conditions
from gristmill._models import CollectionInfo, CollectionName, EmbedTexts, Hit, StoredRecord, StoreQuery

if TYPE_CHECKING:
    import subprocess

    import numpy as np

    from gristmill._memory._approximate import Indexed
    from gristmill._memory._matrix import Matrix

FILE_NAME = "memory.sqlite3"
MOST_MATRIX_BYTES = 2 * 2**30
"""What matrices in memory may take together; the one in use always stays."""
_ROWS_AT_ONCE = 4096


class SqliteStore:
    """A VectorStore in one file below `directory`. Any number of processes may use it; nothing is opened until used."""

    def __init__(self, directory: str | Path, *, now: Callable[[], float] = time.time) -> None:
        self.path = Path(directory) / FILE_NAME
        self._now = now
        self._writer = HeldFile(self.path)
        self._reader = HeldFile(self.path)
        self._matrices: OrderedDict[tuple[int, int], Matrix] = OrderedDict()  # by collection and first number
        self._indexes: dict[int, Indexed] = {}
        self._indexing: tuple[tuple[int, int, int], subprocess.Popen[bytes] | None] | None = None

    async def upsert(
        self,
        collection: CollectionName,
        records: Sequence[StoredRecord],
        vectors: np.ndarray | None,
        fingerprint: str | None,
    ) -> None:
        """Write records, all or none; see VectorStore."""
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
        with self._writer.writing() as connection:
            found = table.find(connection, collection) or table.make(connection, collection)
            found = table.agree(connection, collection, found, fingerprint, dim)
            table.remove(connection, found, table.rows_of(connection, found, [record.id for record, _ in kept]))
            table.remove(connection, found, table.expired(connection, found, self._now()))
            rows = [(record, None if row is None else row.tobytes()) for record, row in kept]
            table.insert(connection, found, rows)

    @in_thread
    def search(self, collection: CollectionName, query: StoreQuery) -> list[Hit]:
        """Return what either side of the query found; see VectorStore."""
        check_where(query.where)
        with self._reader.reading() as connection:
            found = table.find(connection, collection) if connection else None
            if connection is None or found is None:
                return []
            return self._search(connection, collection, found, query)

    def _search(
        self, connection: sqlite3.Connection, collection: CollectionName, found: table.Found, query: StoreQuery
    ) -> list[Hit]:
        now = self._now()
        if query.vector is not None:
            if found.fingerprint is None and not table.holds_any(connection, found):
                return []
            same_embedder(collection, found.fingerprint, query.fingerprint)
            if not query.where and (indexed := self._index(found)) is not None:
                hits = self._search_index(connection, collection, found, query, indexed)
                if hits is not None:
                    return hits
        dense: dict[int, float] = {}
        scores = matrix = None
        if query.vector is not None or (query.with_vectors and found.fingerprint is not None):
            matrix = self._matrix(connection, found)
            self._index_if_grown(collection, found, 0, matrix.n)
        if query.vector is not None and matrix is not None:
            scores = matrix.scores(query.vector)
            dense = matrix.top(scores, query.n, now, table.allowed(connection, found, query.where))
        lexical = table.match(connection, found, query, now) if query.text is not None else {}
        hits = []
        for number, record in table.fetch(connection, [*dense, *(number for number in lexical if number not in dense)]):
            row = matrix.row_of(number) if matrix is not None else None
            hits.append(
                Hit(
                    record,
                    None if scores is None or row is None else float(scores[row]),
                    lexical.get(number),
                    matrix.vector(row) if query.with_vectors and matrix is not None and row is not None else None,
                )
            )
        return hits

    def _search_index(
        self, connection: sqlite3.Connection, collection: CollectionName, found: table.Found, query: StoreQuery,
        indexed: Indexed,
    ) -> list[Hit] | None:  # fmt: skip
        """Search by the approximate index: score what it found, and what is newer, exactly; None if it finds too few.

        It does when most of what it holds near the query is gone from the collection.
        """
        import numpy as np

        from gristmill._memory._approximate import nearest

        assert query.vector is not None
        now = self._now()
        newer = self._matrix(connection, found, indexed.last)
        self._index_if_grown(collection, found, indexed.last, newer.n)
        lexical = table.match(connection, found, query, now) if query.text is not None else {}
        newest = newer.top(newer.scores(query.vector), query.n, now, None)
        near = nearest(indexed, query.vector, query.n)
        rows = table.vectors(connection, found, [*near, *newest, *lexical], now)
        numbers = np.fromiter((number for number, _ in rows), np.int64)
        if len(near) < len(indexed.index) and len(np.intersect1d(numbers, near)) < query.n:
            self._start_index(collection, found, indexed.last)
            return None
        matrix = np.frombuffer(b"".join(vector for _, vector in rows), np.float32).reshape(len(rows), found.dim or 0)
        scores = np.einsum("ij,j->i", matrix, query.vector)
        best = numbers[np.lexsort((numbers, -scores))[: query.n]].tolist()
        place = {number: row for row, number in enumerate(numbers.tolist())}
        wanted = [*best, *(number for number in lexical if number not in set(best))]
        return [
            Hit(
                record,
                float(scores[place[number]]) if number in place else None,
                lexical.get(number),
                np.array(matrix[place[number]]) if query.with_vectors and number in place else None,
            )
            for number, record in table.fetch(connection, wanted)
        ]

    def _index_if_grown(self, collection: CollectionName, found: table.Found, last: int, n_newer: int) -> None:
        """Have an index made or extended by another process, once for each state; the search goes on without it."""
        from gristmill._memory import _approximate

        held = self._indexes.get(found.number) if last else None
        if _approximate.grown(0 if held is None else len(held.index), n_newer):
            self._start_index(collection, found, last)

    def _start_index(self, collection: CollectionName, found: table.Found, last: int) -> None:
        from gristmill._memory import _indexing

        state = (found.number, found.epoch, last)
        if self._indexing is None or self._indexing[0] != state:
            self._indexing = (state, _indexing.start(self.path.parent, collection))

    def _index(self, found: table.Found) -> Indexed | None:
        """Return the collection's approximate index, opened, if there is one of its present state."""
        from gristmill._memory._approximate import find_index, open_index

        there = find_index(self.path, found.number, found.epoch)
        held = self._indexes.get(found.number)
        if there is None or (held is not None and held.path == there[0]):
            return held if there is not None else None
        opened = open_index(*there, found.dim or 0)
        if opened is not None:
            self._indexes[found.number] = opened
            for key in [key for key in self._matrices if key[0] == found.number]:
                del self._matrices[key]  # from now on only what is newer is scanned
        return opened

    @in_thread
    def build_index(self, collection: CollectionName) -> int:
        """Make or extend the approximate index of a collection now; return how many vectors it holds.

        Searches start it by themselves, in another process, for a collection that has grown large.

        Raises:
            UsageError: the collection is too small to gain by it, or has no vectors; or another process is at it.
            PluginError: usearch is not installed.
        """
        from gristmill._memory import _approximate

        reader = HeldFile(self.path)  # of its own, so that searches of this store need not wait
        try:
            with reader.reading() as connection:
                found = table.find(connection, collection) if connection else None
                if connection is None or found is None or found.dim is None:
                    raise UsageError(f"collection {collection.name!r} has no vectors")
                (n,) = connection.execute("SELECT count(*) FROM records WHERE collection = ?", found[:1]).fetchone()
            if n < _approximate.FEWEST:
                raise UsageError(
                    f"collection {collection.name!r} has {n} records, and an index is slower below"
                    f" {_approximate.FEWEST}",
                    hint="searching them all is exact as well",
                )
            with _approximate.alone(self.path):
                rows = functools.partial(_vectors_after, reader, collection, found)
                left = functools.partial(_count_until, reader, found)
                return _approximate.build_index(self.path, found.number, found.epoch, found.dim, left, rows)
        finally:
            reader.close()

    def _matrix(self, connection: sqlite3.Connection, found: table.Found, after: int = 0) -> Matrix:
        """Return the collection's vectors after a record as they are in the file now. The caller holds the reader."""
        from gristmill._memory._matrix import Matrix

        key = (found.number, after)
        matrix = self._matrices.get(key)
        if matrix is None or matrix.stand.epoch != found.epoch:
            matrix = Matrix(found.dim or 0, found.epoch)
            matrix.stand.deletions, matrix.stand.last = found.deletions, after
        if matrix.stand.deletions != found.deletions:
            numbers = "SELECT number FROM records WHERE collection = ? AND number > ?"
            matrix.keep(table.numbers(connection, numbers, key))
            matrix.stand.deletions = found.deletions
        rows = connection.execute(
            "SELECT number, expires, vector FROM records WHERE collection = ? AND number > ? ORDER BY number",
            (found.number, matrix.stand.last),
        )
        while chunk := rows.fetchmany(_ROWS_AT_ONCE):
            numbers_, expires, vectors = zip(*chunk, strict=True)
            matrix.append(list(numbers_), list(expires), b"".join(vectors))
        self._matrices[key] = matrix
        self._matrices.move_to_end(key)
        while len(self._matrices) > 1 and sum(m.size_bytes for m in self._matrices.values()) > MOST_MATRIX_BYTES:
            self._matrices.popitem(last=False)
        return matrix

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
        check_where(where or {})
        with self._reader.reading() as connection:
            found = table.find(connection, collection) if connection else None
            if connection is None or found is None:
                return []
            condition, values = conditions(found.number, where or {})
            if ids is not None:
                condition += " AND id IN (SELECT value FROM json_each(?))"
                values.append(json.dumps(list(ids)))
            rows = connection.execute(
                f"SELECT {table.COLUMNS} FROM records WHERE collection = ? AND {table.ALIVE}{condition}"
                " ORDER BY number LIMIT ? OFFSET ?",
                (found.number, self._now(), *values, limit, offset),
            )
            return [table.record(row) for row in rows]

    @in_thread
    def delete(self, collection: CollectionName, ids: Sequence[str] | None) -> int:
        """Forget records, or the whole collection; see VectorStore."""
        with self._reader.reading() as connection:
            if connection is None or table.find(connection, collection) is None:
                return 0
        with self._writer.writing() as connection:
            found = table.find(connection, collection)
            if found is None:
                return 0
            if ids is None:
                return table.drop(connection, found)
            rows = table.rows_of(connection, found, ids)
            table.remove(connection, found, rows)
            return len(rows)

    @in_thread
    def collections(self, namespace: str) -> list[CollectionInfo]:
        """Return the collections of one namespace, by name; see VectorStore."""
        with self._reader.reading() as connection:
            if connection is None:
                return []
            rows = connection.execute(
                "SELECT name, fingerprint, dim,"
                f" (SELECT count(*) FROM records WHERE collection = c.number AND {table.ALIVE})"
                " FROM collections AS c WHERE namespace = ? ORDER BY name",
                (self._now(), namespace),
            ).fetchall()
            return [
                CollectionInfo(namespace=namespace, name=name, n_records=n, embedder=fingerprint, dim=dim)
                for name, fingerprint, dim, n in rows
            ]

    async def re_embed(self, collection: CollectionName, embed: EmbedTexts, fingerprint: str) -> int:
        """Give every record a vector of another embedder, all at once; see VectorStore.

        The texts are embedded before anything is locked; what other processes write meanwhile is embedded in the next
        round, and only when nothing is missing are the new vectors put in place, in one transaction.
        """
        made: dict[int, bytes] = {}
        while True:
            missing = await asyncio.to_thread(self._texts, collection, made)
            for start in range(0, len(missing), 256):
                part = missing[start : start + 256]
                vectors = await embed([text for _, text in part])
                made |= zip((number for number, _ in part), table.blobs(vectors, len(part)), strict=True)
            if (n := await asyncio.to_thread(self._put_vectors, collection, made, fingerprint)) is not None:
                return n

    def _texts(self, collection: CollectionName, made: Mapping[int, bytes]) -> list[tuple[int, str]]:
        with self._reader.reading() as connection:
            found = table.find(connection, collection) if connection else None
            if connection is None or found is None:
                return []
            rows = connection.execute("SELECT number, text FROM records WHERE collection = ?", (found.number,))
            return [(number, text) for number, text in rows if number not in made]

    def _put_vectors(self, collection: CollectionName, made: Mapping[int, bytes], fingerprint: str) -> int | None:
        """Return how many records have a new vector, or None if one that is needed was not made."""
        with self._writer.writing() as connection:
            found = table.find(connection, collection)
            if found is None:
                return 0
            numbers = [n for (n,) in connection.execute("SELECT number FROM records WHERE collection = ?", found[:1])]
            if not all(number in made for number in numbers):
                return None
            dim = len(made[numbers[0]]) // 4 if numbers else None
            rows = [(made[number], number) for number in numbers]
            connection.executemany("UPDATE records SET vector = ? WHERE number = ?", rows)
            connection.execute(
                "UPDATE collections SET fingerprint = ?, dim = ?, epoch = epoch + 1 WHERE number = ?",
                (fingerprint if numbers else None, dim, found.number),
            )
            return len(numbers)

    async def close(self) -> None:
        """Let go of the file and of the vectors in memory; the next call opens it again."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._reader.close()
        self._writer.close()
        self._matrices.clear()
        self._indexes.clear()


def _count_until(reader: HeldFile, found: table.Found, last: int) -> int:
    with reader.reading() as connection:
        assert connection is not None
        counted = "SELECT count(*) FROM records WHERE collection = ? AND number <= ?"
        return int(connection.execute(counted, (found.number, last)).fetchone()[0])


def _vectors_after(
    reader: HeldFile, collection: CollectionName, found: table.Found, last: int
) -> Iterator[tuple[list[int], bytes]]:
    """Yield numbers and vectors of the records after one, in parts, each read by itself: the log can shrink between.

    Raises:
        UsageError: the vectors became others meanwhile.
    """
    while True:
        with reader.reading() as connection:
            now = table.find(connection, collection) if connection else None
            if connection is None or now is None or now.epoch != found.epoch:
                raise UsageError(f"the vectors of collection {collection.name!r} have changed", hint="try again")
            rows = connection.execute(
                "SELECT number, vector FROM records WHERE collection = ? AND number > ? ORDER BY number LIMIT ?",
                (found.number, last, _ROWS_AT_ONCE),
            ).fetchall()
        if not rows:
            return
        last = rows[-1][0]
        yield [number for number, _ in rows], b"".join(vector for _, vector in rows)
