"""A VectorStore in PostgreSQL: collections, records and facts in tables, vectors in pgvector.

It embeds nothing and fuses no scores. Invariants: a call that returned has committed; a search sees one state of the
database; a namespace is part of how a collection is found, and nothing of one is reached through another.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from gristmill import CollectionInfo, CollectionName, Hit, StoredRecord, StoreError, StoreQuery
from gristmill.stores import (
    batch_of,
    conditions_of,
    facts_of,
    in_thread,
    query_words,
    same_dim,
    same_embedder,
    unit_rows,
    words_of,
)
from gristmill_plugins.postgres import _search as sql
from gristmill_plugins.postgres._pool import Place, Pool
from gristmill_plugins.postgres._text import seal, unseal

if TYPE_CHECKING:
    from collections.abc import Awaitable

    import numpy as np
    from psycopg import Connection

ALIVE = "(expires IS NULL OR expires > %(now)s)"
_COLUMNS = "number, id, text, metadata, created, expires"
_EXPIRED_AT_ONCE = 200
_TEXTS_AT_ONCE = 256
_MOST_EF = 1000


class _Found(NamedTuple):
    number: int
    fingerprint: str | None
    dim: int | None
    n_records: int
    n_words: int
    indexed: bool


class PostgresStore:
    """A VectorStore in one schema of a database. Nothing is opened until it is used.

    Args:
        place: the database.
        hnsw_from: how many records a collection has before it gets an approximate index; None for never.
        now: the clock that records expire by.
    """

    def __init__(self, place: Place, *, hnsw_from: int | None = None, now: Callable[[], float] = time.time) -> None:
        self._place = place
        self._schema = place.schema
        self._pool = Pool(place)
        self._hnsw_from = hnsw_from
        self._now = now
        _ = place.parts  # says now what is wrong with it

    @contextmanager
    def _writing(self) -> Iterator[Connection[Any]]:
        with self._pool.connection() as connection, connection.transaction():
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[Connection[Any]]:
        with self._pool.connection() as connection, connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield connection

    def _run(self, connection: Connection[Any], statement: str, values: Any = None) -> Any:
        return connection.execute(statement.replace("{schema}", self._schema).encode(), values)

    def _find(self, connection: Connection[Any], collection: CollectionName, *, lock: bool = False) -> _Found | None:
        row = self._run(
            connection,
            "SELECT number, fingerprint, dim, n_records, n_words, indexed FROM {schema}.collections"
            f" WHERE namespace = %s AND name = %s{' FOR UPDATE' if lock else ''}",
            tuple(map(seal, collection)),
        ).fetchone()
        return _Found(*row) if row else None

    def _made(self, connection: Connection[Any], collection: CollectionName) -> _Found:
        """Return the collection, made if need be, locked until the transaction ends."""
        for _ in range(10):  # another process may delete what was just made
            if found := self._find(connection, collection, lock=True):
                return found
            self._run(
                connection,
                "INSERT INTO {schema}.collections (namespace, name) VALUES (%s, %s) ON CONFLICT DO NOTHING",
                tuple(map(seal, collection)),
            )
        raise StoreError(
            f"collection {collection.name!r} is deleted as fast as it is made", store=self._place.name, cause="locked"
        )

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
        with self._writing() as connection:
            found = self._agreed(connection, collection, fingerprint, dim)
            gone = "id = ANY(%(ids)s) OR number IN (SELECT number FROM {schema}.records"
            gone += " WHERE collection = %(collection)s AND expires <= %(now)s LIMIT %(most)s)"
            self._remove(connection, found, gone, ids=[seal(record.id) for record, _ in kept], most=_EXPIRED_AT_ONCE)
            self._insert(connection, found, kept)
            self._index(connection, found, dim)

    def _agreed(
        self, connection: Connection[Any], collection: CollectionName, fingerprint: str | None, dim: int | None
    ) -> _Found:
        """Return the collection, its embedder settled by the first record; refuse vectors that do not fit."""
        found = self._made(connection, collection)
        if found.n_records:
            same_embedder(collection, found.fingerprint, fingerprint)
            same_dim(collection, found.dim, dim)
            return found
        self._settle(connection, found, fingerprint, dim)
        return found._replace(fingerprint=fingerprint, dim=dim, indexed=False)

    def _settle(self, connection: Connection[Any], found: _Found, fingerprint: str | None, dim: int | None) -> None:
        if found.indexed:
            connection.execute(f"DROP INDEX IF EXISTS {self._schema}.records_hnsw_{found.number:d}".encode())
        self._run(
            connection,
            "UPDATE {schema}.collections SET fingerprint = %s, dim = %s, indexed = false WHERE number = %s",
            (fingerprint, dim, found.number),
        )

    def _remove(self, connection: Connection[Any], found: _Found, which: str, **values: Any) -> int:
        """Delete what `which` holds for, facts included, and count it out; return how many."""
        row = self._run(
            connection,
            "WITH gone AS (DELETE FROM {schema}.records WHERE collection = %(collection)s AND (" + which + ")"
            " RETURNING n_words) SELECT count(*), coalesce(sum(n_words), 0) FROM gone",
            {"collection": found.number, "now": self._now(), **values},
        ).fetchone()
        self._count(connection, found, -row[0], -row[1])
        return int(row[0])

    def _count(self, connection: Connection[Any], found: _Found, n_records: int, n_words: int) -> None:
        if n_records:
            self._run(
                connection,
                "UPDATE {schema}.collections SET n_records = n_records + %s, n_words = n_words + %s WHERE number = %s",
                (n_records, n_words, found.number),
            )

    def _insert(
        self, connection: Connection[Any], found: _Found, kept: Sequence[tuple[StoredRecord, np.ndarray | None]]
    ) -> None:
        words = words_of([record.text for record, _ in kept])
        sequence = f"{self._schema}.records"
        numbers = [
            number
            for (number,) in connection.execute(
                "SELECT nextval(pg_get_serial_sequence(%s, 'number')) FROM generate_series(1, %s)",
                (sequence, len(kept)),
            )
        ]
        rows = [
            (number, found.number, seal(r.id), seal(r.text), json.dumps(r.metadata), r.created, r.expires, vector,
             sql.vector_of(text, found.number), len(text))
            for number, text, (r, vector) in zip(numbers, words, kept, strict=True)
        ]  # fmt: skip
        facts = [
            (found.number, seal(key), kind, None if kind == sql.TEXT else Decimal(value),
             seal(value) if kind == sql.TEXT else None, number)
            for number, (record, _) in zip(numbers, kept, strict=True)
            for key, kind, value in facts_of(record.metadata)
        ]  # fmt: skip
        with connection.cursor() as cursor:
            copy = "COPY {schema}.records (number, collection, id, text, metadata, created, expires, vector, words,"
            _copy(cursor, (copy + " n_words) FROM STDIN").replace("{schema}", self._schema), rows)
            copy = f"COPY {self._schema}.facts (collection, key, kind, num, txt, number) FROM STDIN"
            _copy(cursor, copy, facts)
        self._count(connection, found, len(kept), sum(map(len, words)))

    def _index(self, connection: Connection[Any], found: _Found, dim: int | None) -> None:
        """Give a collection that has grown large its approximate index: it is searched exactly until then."""
        if self._hnsw_from is None or found.indexed or dim is None:
            return
        (n_records,) = self._run(
            connection, "SELECT n_records FROM {schema}.collections WHERE number = %s", (found.number,)
        ).fetchone()
        if n_records < self._hnsw_from:
            return
        connection.execute(
            f"CREATE INDEX records_hnsw_{found.number:d} ON {self._schema}.records"
            f" USING hnsw ((vector::vector({dim:d})) vector_ip_ops) WHERE collection = {found.number:d}".encode()
        )
        self._run(connection, "UPDATE {schema}.collections SET indexed = true WHERE number = %s", (found.number,))
        self._run(connection, "ANALYZE {schema}.records")  # without it the planner scans, for want of numbers

    @in_thread
    def search(self, collection: CollectionName, query: StoreQuery) -> list[Hit]:
        """Return what either side of the query found; see VectorStore."""
        conditions_of(query.where)
        with self._reading() as connection:
            found = self._find(connection, collection)
            if found is None or not found.n_records:
                return []
            if query.vector is not None:
                same_embedder(collection, found.fingerprint, query.fingerprint)
            dense = [] if query.vector is None else self._dense(connection, found, query)
            lexical = {} if query.text is None else self._lexical(connection, found, query)
            return self._hits(connection, query, list(dict.fromkeys([*dense, *lexical])), lexical)

    def _dense(self, connection: Connection[Any], found: _Found, query: StoreQuery) -> list[int]:
        values: dict[str, Any] = {
            "collection": found.number, "now": self._now(), "n": query.n, "vector": query.vector
        }  # fmt: skip
        where = sql.filters(query.where, self._schema, values)
        column = "vector"
        if found.indexed:
            column = f"vector::vector({found.dim:d})"
            connection.execute(f"SET LOCAL hnsw.ef_search = {min(max(2 * query.n, 100), _MOST_EF):d}".encode())
            connection.execute("SET LOCAL hnsw.iterative_scan = strict_order")
        rows = self._run(
            connection,
            f"SELECT number FROM {{schema}}.records WHERE collection = {found.number:d} AND {ALIVE}{where}"
            f" ORDER BY ({column}) <#> %(vector)s{'' if found.indexed else ', number'} LIMIT %(n)s",
            values,
        )
        return [number for (number,) in rows]

    def _lexical(self, connection: Connection[Any], found: _Found, query: StoreQuery) -> dict[int, float]:
        words = query_words(query.text or "")
        if not words:
            return {}
        values = sql.bm25_values(words, found.number)
        values |= {"collection": found.number, "now": self._now(), "n": query.n, "n_records": found.n_records}
        values["usual"] = found.n_words / found.n_records or 1.0
        where = sql.filters(query.where, self._schema, values)
        return dict(self._run(connection, sql.BM25.replace("{where}", where), values).fetchall())

    def _hits(
        self, connection: Connection[Any], query: StoreQuery, numbers: list[int], lexical: Mapping[int, float]
    ) -> list[Hit]:
        cosine = "NULL" if query.vector is None else "-(vector <#> %(vector)s)"
        rows = self._run(
            connection,
            f"SELECT {_COLUMNS}, {cosine}, {'vector::real[]' if query.with_vectors else 'NULL'} FROM {{schema}}.records"
            " WHERE number = ANY(%(numbers)s)",
            {"numbers": numbers, "vector": query.vector},
        )
        by_number = {row[0]: row for row in rows}
        return [
            Hit(self._record(row), row[6], lexical.get(number), None if row[7] is None else _floats(row[7]))
            for number, row in ((number, by_number[number]) for number in numbers)
        ]

    def _record(self, row: Sequence[Any]) -> StoredRecord:
        _, id_, text, metadata, created, expires, *_ = row
        try:
            data = json.loads(metadata)
        except ValueError as error:
            raise StoreError(f"record {id_!r} of memory is damaged: {error}", store=self._place.name,
                             cause="damaged") from error  # fmt: skip
        return StoredRecord(id=unseal(id_), text=unseal(text), metadata=data, created=created, expires=expires)

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
        conditions_of(where or {})
        with self._reading() as connection:
            found = self._find(connection, collection)
            if found is None:
                return []
            values: dict[str, Any] = {
                "collection": found.number, "now": self._now(), "limit": limit, "offset": offset,
                "ids": None if ids is None else [seal(id_) for id_ in ids],
            }  # fmt: skip
            test = sql.filters(where or {}, self._schema, values) + (
                " AND id = ANY(%(ids)s)" if ids is not None else ""
            )
            rows = self._run(
                connection,
                f"SELECT {_COLUMNS} FROM {{schema}}.records WHERE collection = %(collection)s AND {ALIVE}{test}"
                " ORDER BY number LIMIT %(limit)s OFFSET %(offset)s",
                values,
            )
            return [self._record(row) for row in rows]

    @in_thread
    def delete(self, collection: CollectionName, ids: Sequence[str] | None) -> int:
        """Forget records, or the whole collection; see VectorStore."""
        with self._writing() as connection:
            found = self._find(connection, collection, lock=True)
            if found is None:
                return 0
            if ids is not None:
                return self._remove(connection, found, "id = ANY(%(ids)s)", ids=[seal(id_) for id_ in ids])
            if found.indexed:
                connection.execute(f"DROP INDEX IF EXISTS {self._schema}.records_hnsw_{found.number:d}".encode())
            self._run(connection, "DELETE FROM {schema}.collections WHERE number = %s", (found.number,))
            return found.n_records

    @in_thread
    def collections(self, namespace: str) -> list[CollectionInfo]:
        """Return the collections of one namespace, by name; see VectorStore."""
        with self._reading() as connection:
            rows = self._run(
                connection,
                "SELECT name, fingerprint, dim, n_records - (SELECT count(*) FROM {schema}.records"
                " WHERE collection = c.number AND expires <= %(now)s)"
                ' FROM {schema}.collections c WHERE namespace = %(namespace)s ORDER BY name COLLATE "C"',
                {"now": self._now(), "namespace": seal(namespace)},
            )
            return [
                CollectionInfo(namespace=namespace, name=unseal(name), n_records=n, embedder=fingerprint, dim=dim)
                for name, fingerprint, dim, n in rows
            ]

    async def re_embed(
        self, collection: CollectionName, embed: Callable[[Sequence[str]], Awaitable[np.ndarray]], fingerprint: str
    ) -> int:
        """Give every record a vector of another embedder, all at once; see VectorStore.

        The texts are embedded before anything is locked; what others write meanwhile is embedded in the next round.
        """
        made: dict[int, np.ndarray] = {}
        while True:
            missing = await asyncio.to_thread(self._texts, collection, made)
            for start in range(0, len(missing), _TEXTS_AT_ONCE):
                part = missing[start : start + _TEXTS_AT_ONCE]
                rows = unit_rows(await embed([text for _, text in part]), len(part))
                made |= zip((number for number, _ in part), rows, strict=True)
            if (n := await asyncio.to_thread(self._put_vectors, collection, made, fingerprint)) is not None:
                return n

    def _texts(self, collection: CollectionName, made: Mapping[int, Any]) -> list[tuple[int, str]]:
        with self._reading() as connection:
            found = self._find(connection, collection)
            if found is None:
                return []
            rows = self._run(
                connection, "SELECT number, text FROM {schema}.records WHERE collection = %s", (found.number,)
            )
            return [(number, unseal(text)) for number, text in rows if number not in made]

    def _put_vectors(self, collection: CollectionName, made: Mapping[int, np.ndarray], fingerprint: str) -> int | None:
        """Return how many records have a new vector, or None if one that is needed was not made."""
        with self._writing() as connection:
            found = self._find(connection, collection, lock=True)
            if found is None:
                return 0
            numbers = [
                number
                for (number,) in self._run(
                    connection, "SELECT number FROM {schema}.records WHERE collection = %s", (found.number,)
                )
            ]
            if not all(number in made for number in numbers):
                return None
            dim = len(made[numbers[0]]) if numbers else None
            self._settle(connection, found, fingerprint if numbers else None, dim)
            with connection.cursor() as cursor:
                cursor.execute("CREATE TEMPORARY TABLE made (number bigint, vector vector) ON COMMIT DROP")
                _copy(cursor, "COPY made FROM STDIN", [(number, made[number]) for number in numbers])
            self._run(
                connection,
                "UPDATE {schema}.records r SET vector = made.vector FROM made WHERE r.number = made.number",
            )
            self._index(connection, found._replace(indexed=False), dim)
            return len(numbers)

    async def close(self) -> None:
        """Let go of the connections; the next call opens others."""
        await asyncio.to_thread(self._pool.close)


def _copy(cursor: Any, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    if rows:
        with cursor.copy(statement.encode()) as copy:
            for row in rows:
                copy.write_row(row)


def _floats(vector: Any) -> np.ndarray:
    import numpy as np

    return np.asarray(vector, dtype=np.float32)
