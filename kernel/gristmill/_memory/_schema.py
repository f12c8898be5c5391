"""The file of semantic memory: its tables, how it is opened and brought up to date, and what its errors mean.

It reads and writes no record (`_store` does). Invariants: a file is changed only when its schema is one of ours; it is
brought up to date by the same steps that make a new one, each in one transaction; every error of SQLite leaves here as
a StoreError that says what to do.

Each collection has a word index of its own, so that neither the scores nor the time of a search depend on what other
collections, and other namespaces, hold.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

from gristmill._errors import StoreError
from gristmill._memory._tests import facts_of
from gristmill._memory._tokens import TOKENIZER
from gristmill.sqlite import Told, begin_wal, connect, explained, transaction

APPLICATION_ID = 0x67726D6D
"""Marks the file as ours ("grmm"), so that a database of another program is refused and left alone."""
LOCK_TIMEOUT_S = 30.0
"""Writers queue for one lock, and a batch of ten thousand records takes about a second to write."""

TOLD = Told(
    what="memory",
    elsewhere="name another folder: [memory] directory",
    repair="restore a copy, or move it away to begin anew",
    busy_s=LOCK_TIMEOUT_S,
)

_RECORDS = """
CREATE TABLE collections (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    fingerprint TEXT,                      -- of the embedder; NULL while no record has a vector
    dim INTEGER,
    deletions INTEGER NOT NULL DEFAULT 0,  -- raised when records go, so that a matrix in memory looks for which
    epoch INTEGER NOT NULL,                -- raised when all vectors change
    UNIQUE (namespace, name)
);
CREATE TABLE records (
    number INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again: what is above the last one seen is new
    collection INTEGER NOT NULL REFERENCES collections (number),
    id TEXT NOT NULL,
    text TEXT NOT NULL,
    metadata TEXT NOT NULL,
    created REAL NOT NULL,
    expires REAL,
    vector BLOB,
    UNIQUE (collection, id)
);
CREATE INDEX records_in ON records (collection);
CREATE INDEX records_expire ON records (collection, expires) WHERE expires IS NOT NULL;
"""
_FACTS = """
CREATE TABLE facts (
    collection INTEGER NOT NULL,
    key TEXT NOT NULL,
    kind INTEGER NOT NULL,
    value,
    number INTEGER NOT NULL REFERENCES records (number),
    PRIMARY KEY (collection, key, kind, value, number)
) WITHOUT ROWID;
CREATE INDEX facts_of ON facts (number);
"""


def _make_records(connection: sqlite3.Connection) -> None:
    _run(connection, _RECORDS)


def _make_facts(connection: sqlite3.Connection) -> None:
    _run(connection, _FACTS)
    for number, collection, metadata in connection.execute("SELECT number, collection, metadata FROM records"):
        rows = [(collection, *fact, number) for fact in facts_of(json.loads(metadata))]
        connection.executemany("INSERT INTO facts VALUES (?, ?, ?, ?, ?)", rows)


def _run(connection: sqlite3.Connection, script: str) -> None:
    for statement in script.split(";\n"):  # `executescript` would commit what came before
        if statement.strip():
            connection.execute(statement)


STEPS: tuple[Callable[[sqlite3.Connection], None], ...] = (_make_records, _make_facts)
"""Step n takes a file of version n to n + 1. Only ever append: files of every earlier version are about."""


def make_words(connection: sqlite3.Connection, collection: int) -> None:
    """Make the word index of a collection. `content=''`: the text lies in `records` and not a second time here."""
    connection.execute(
        f"CREATE VIRTUAL TABLE words_{collection:d} USING fts5(text, content='', tokenize='{TOKENIZER}')"
    )


def open_file(path: Path, *, steps: tuple[Callable[[sqlite3.Connection], None], ...] = STEPS) -> sqlite3.Connection:
    """Open the file, made or brought up to date if need be.

    The connection may be used from any thread, one at a time.

    Raises:
        StoreError: it cannot be opened, is no memory of gristmill's, or is a newer one's.
    """
    with explained(path, TOLD):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        connection = connect(path, timeout_s=LOCK_TIMEOUT_S)
        try:
            _bring_up_to_date(connection, path, steps)
        except BaseException:
            connection.close()
            raise
        return connection


def open_existing(path: Path) -> sqlite3.Connection | None:
    """Open the file for reading where it cannot be written; None if there is none.

    Raises:
        StoreError: it cannot be read, or is of another version.
    """
    with explained(path, TOLD):
        if not path.exists() or path.stat().st_size == 0:
            return None
        try:
            connection = connect(path, mode="ro", timeout_s=LOCK_TIMEOUT_S)
            version = _version(connection, path)
        except sqlite3.OperationalError:
            # On a read-only medium SQLite cannot make the shared memory of the log; nobody can write there either.
            connection = connect(path, mode="ro&immutable=1", timeout_s=LOCK_TIMEOUT_S)
            version = _version(connection, path)
        if version == len(STEPS):
            return connection
        connection.close()
        raise _other_version(path, version)


def _version(connection: sqlite3.Connection, path: Path) -> int:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    mark = int(connection.execute("PRAGMA application_id").fetchone()[0])
    tables = int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    if mark != APPLICATION_ID and (tables or version):
        raise StoreError(
            f"{path} is a database of another program", store=str(path), cause="damaged",
            hint="give memory a folder of its own: [memory] directory in gristmill.toml",
        )  # fmt: skip
    return version


def _other_version(path: Path, version: int) -> StoreError:
    newer = version > len(STEPS)
    return StoreError(
        f"{path} has version {version}, this gristmill reads version {len(STEPS)}", store=str(path), cause="version",
        hint="upgrade gristmill" if newer else "open it once where it can be written, and it is brought up to date",
    )  # fmt: skip


def _bring_up_to_date(
    connection: sqlite3.Connection, path: Path, steps: tuple[Callable[[sqlite3.Connection], None], ...]
) -> None:
    if _version(connection, path) == len(steps):
        return
    begin_wal(connection, timeout_s=LOCK_TIMEOUT_S)
    with transaction(connection):
        version = _version(connection, path)  # again, under the lock: another process may have been faster
        if version > len(steps):
            raise _other_version(path, version)
        for step in steps[version:]:
            step(connection)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID:d}")
        connection.execute(f"PRAGMA user_version = {len(steps):d}")
