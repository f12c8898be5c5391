"""The statements of the store: how a collection and its records lie in the tables.

It opens no file and holds nothing. Every function works within the caller's transaction. Invariants: the words and the
facts of a record come and go with it; the numbers of records only rise.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, NamedTuple

from gristmill._errors import StoreError
from gristmill._memory._rules import same_dim, same_embedder, unit_rows
from gristmill._memory._schema import make_words
from gristmill._memory._tests import facts_of
from gristmill._memory._words import conditions, match_expression, queries
from gristmill._models import CollectionName, StoredRecord, StoreQuery

if TYPE_CHECKING:
    import numpy as np

ALIVE = "(expires IS NULL OR expires > ?)"
COLUMNS = "number, id, text, metadata, created, expires"
_EXPIRED_AT_ONCE = 200


class Found(NamedTuple):
    """A collection's row."""

    number: int
    fingerprint: str | None
    dim: int | None
    deletions: int
    epoch: int


def find(connection: sqlite3.Connection, collection: CollectionName) -> Found | None:
    row = connection.execute(
        "SELECT number, fingerprint, dim, deletions, epoch FROM collections WHERE namespace = ? AND name = ?",
        collection,
    ).fetchone()
    return Found(*row) if row else None


def make(connection: sqlite3.Connection, collection: CollectionName) -> Found:
    # The epoch begins anywhere, so that a matrix in memory is never taken for one of another file's collection.
    values = (*collection, secrets.randbits(60))
    connection.execute("INSERT INTO collections (namespace, name, epoch) VALUES (?, ?, ?)", values)
    found = find(connection, collection)
    assert found is not None
    make_words(connection, found.number)
    return found


def drop(connection: sqlite3.Connection, found: Found) -> int:
    connection.execute("DELETE FROM facts WHERE collection = ?", found[:1])
    n = connection.execute("DELETE FROM records WHERE collection = ?", found[:1]).rowcount
    connection.execute("DELETE FROM collections WHERE number = ?", found[:1])
    connection.execute(f"DROP TABLE words_{found.number:d}")
    return n


def holds_any(connection: sqlite3.Connection, found: Found) -> bool:
    return connection.execute("SELECT 1 FROM records WHERE collection = ? LIMIT 1", found[:1]).fetchone() is not None


def agree(
    connection: sqlite3.Connection, collection: CollectionName, found: Found, fingerprint: str | None, dim: int | None
) -> Found:
    """Return the collection, its embedder settled by the first record; refuse vectors that do not fit.

    Raises:
        UsageError: the vectors are of another embedder.
    """
    if found.fingerprint != fingerprint:
        if holds_any(connection, found):
            same_embedder(collection, found.fingerprint, fingerprint)
        connection.execute(
            "UPDATE collections SET fingerprint = ?, dim = ?, epoch = epoch + 1 WHERE number = ?",
            (fingerprint, dim, found.number),
        )
        return found._replace(fingerprint=fingerprint, dim=dim)
    same_dim(collection, found.dim, dim)
    return found


def blobs(vectors: np.ndarray | None, n: int) -> list[bytes | Any]:
    if vectors is None:
        return [None] * n
    return [row.tobytes() for row in unit_rows(vectors, n)]


def rows_of(connection: sqlite3.Connection, found: Found, ids: Sequence[str]) -> list[tuple[int, str]]:
    return connection.execute(
        "SELECT number, text FROM records WHERE collection = ? AND id IN (SELECT value FROM json_each(?))",
        (found.number, json.dumps(list(ids))),
    ).fetchall()


def expired(connection: sqlite3.Connection, found: Found, now: float) -> list[tuple[int, str]]:
    """Return some of those that nobody can find any more: each write takes a few away."""
    return connection.execute(
        "SELECT number, text FROM records WHERE collection = ? AND expires <= ? LIMIT ?",
        (found.number, now, _EXPIRED_AT_ONCE),
    ).fetchall()


def remove(connection: sqlite3.Connection, found: Found, rows: Sequence[tuple[int, str]]) -> None:
    if not rows:
        return
    words = f"words_{found.number:d}"
    connection.executemany(f"INSERT INTO {words} ({words}, rowid, text) VALUES ('delete', ?, ?)", rows)
    numbers = [(number,) for number, _ in rows]
    connection.executemany("DELETE FROM facts WHERE number = ?", numbers)
    connection.executemany("DELETE FROM records WHERE number = ?", numbers)
    connection.execute("UPDATE collections SET deletions = deletions + 1 WHERE number = ?", found[:1])


def insert(connection: sqlite3.Connection, found: Found, records: Sequence[tuple[StoredRecord, bytes | None]]) -> None:
    last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'records'").fetchone()
    numbered = list(enumerate(records, start=(last[0] if last else 0) + 1))
    connection.executemany(
        "INSERT INTO records (number, collection, id, text, metadata, created, expires, vector)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (number, found.number, r.id, r.text, _as_json(r.metadata), r.created, r.expires, vector)
            for number, (r, vector) in numbered
        ),
    )
    words = ((number, record.text) for number, (record, _) in numbered)
    connection.executemany(f"INSERT INTO words_{found.number:d} (rowid, text) VALUES (?, ?)", words)
    facts = ((found.number, *fact, number) for number, (record, _) in numbered for fact in facts_of(record.metadata))
    connection.executemany("INSERT INTO facts VALUES (?, ?, ?, ?, ?)", facts)


def _as_json(metadata: Mapping[str, Any]) -> str:
    return json.dumps(metadata, ensure_ascii=False, allow_nan=False) if metadata else "{}"


def numbers(connection: sqlite3.Connection, sql: str, values: Sequence[Any]) -> np.ndarray:
    import numpy as np

    return np.fromiter((number for (number,) in connection.execute(sql + " ORDER BY number", values)), np.int64)


def allowed(connection: sqlite3.Connection, found: Found, where: Mapping[str, Any]) -> np.ndarray | None:
    """Return the numbers of the records that `where` allows, rising; None if it allows all."""
    if not where:
        return None
    import numpy as np

    each = [numbers(connection, sql, values) for sql, values in queries(found.number, where)]
    return reduce(partial(np.intersect1d, assume_unique=True), each)


def match(connection: sqlite3.Connection, found: Found, query: StoreQuery, now: float) -> dict[int, float]:
    """Return number to BM25 of the best matches of the query's words, best first."""
    expression = match_expression(query.text or "")
    if expression is None:
        return {}
    words = f"words_{found.number:d}"
    # "+": without it SQLite looks each allowed record up in the index, 1.6 s at 20,000 records instead of 10 ms.
    condition, values = conditions(found.number, query.where, "+rowid")
    rows = connection.execute(
        f"SELECT rowid, -bm25({words}) FROM {words} WHERE {words} MATCH ?"
        " AND rowid NOT IN (SELECT number FROM records WHERE collection = ? AND expires <= ?)"
        f"{condition} ORDER BY rank, rowid LIMIT ?",
        (expression, found.number, now, *values, query.n),
    )
    return dict(rows.fetchall())


def vectors(
    connection: sqlite3.Connection, found: Found, numbers: Sequence[int], now: float
) -> list[tuple[int, bytes]]:
    """Return number and vector of those among `numbers` that are there."""
    # "+": without it SQLite goes through the whole collection, 350 ms at 100,000 records instead of 1 ms.
    return connection.execute(
        "SELECT number, vector FROM records WHERE number IN (SELECT value FROM json_each(?)) AND +collection = ?"
        f" AND {ALIVE}",
        (json.dumps(list(numbers)), found.number, now),
    ).fetchall()


def fetch(connection: sqlite3.Connection, numbers: Sequence[int]) -> Iterator[tuple[int, StoredRecord]]:
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM records WHERE number IN (SELECT value FROM json_each(?))", (json.dumps(list(numbers)),)
    )
    by_number = {row[0]: row for row in rows}
    return ((number, record(by_number[number])) for number in numbers)


def record(row: Sequence[Any]) -> StoredRecord:
    _, id_, text, metadata, created, expires = row
    try:
        return StoredRecord(id=id_, text=text, metadata=json.loads(metadata), created=created, expires=expires)
    except ValueError as error:
        raise StoreError(f"record {id_!r} of memory is damaged: {error}", store="", cause="damaged") from error
