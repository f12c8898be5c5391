"""The file of an index: its tables, how it is made and opened, who may write it, and what its errors mean.

A file with other tables is another version's. Nothing is converted: an index can be made again from its documents, and
the writer who has them takes the old file away (`discard_outdated`); who only reads is told to index again.

It reads and writes no passage (`_store` does). Invariants: a file appears whole, with all its tables, or not at all;
one process at a time holds the right to write, and loses it when it dies; every error of SQLite leaves here as a
StoreError that says what to do.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gristmill import StoreError
from gristmill.sqlite import Told, connect, explained, is_busy

INDEX_NAME = "index.sqlite3"
LOCK_NAME = "lock.sqlite3"
APPLICATION_ID = 0x67726D69
"""Marks the file as ours ("grmi")."""
BUSY_S = 30.0

TOLD = Told(
    what="the index",
    elsewhere="set XDG_DATA_HOME to a folder that can be written",
    repair="move it away, and it is made anew",
    busy_s=BUSY_S,
)

_SCHEMA = """
CREATE TABLE facts (
    key TEXT PRIMARY KEY,               -- the generation, the embedder, ...
    value TEXT NOT NULL                 -- JSON
) WITHOUT ROWID;
CREATE TABLE versions (                 -- one state of one file, read and split in one way
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    path TEXT NOT NULL,
    digest TEXT NOT NULL,               -- of the file's bytes and of all that decides what is made of them
    complete INTEGER NOT NULL DEFAULT 0,
    problem TEXT                        -- why the file could not be read; it has no chunks then
);
CREATE INDEX versions_of ON versions (path, digest);
CREATE TABLE files (                    -- the generation: which state of which file is found
    path TEXT PRIMARY KEY,
    version INTEGER NOT NULL REFERENCES versions (number),
    size_bytes INTEGER NOT NULL,
    modified_ns INTEGER NOT NULL        -- -1 where the time stamp could hide a later change
) WITHOUT ROWID;
CREATE UNIQUE INDEX files_by_version ON files (version);
CREATE TABLE chunks (
    number INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again; those above the watermark are not published
    version INTEGER NOT NULL REFERENCES versions (number),
    place INTEGER NOT NULL,             -- order within the file
    part INTEGER NOT NULL,              -- chunks of one part are neighbours
    start INTEGER NOT NULL,             -- character offset within the part
    gap TEXT NOT NULL,                  -- white space between the chunk before, of the same part, and this one
    digest TEXT NOT NULL,               -- of what was embedded, and by what
    context TEXT NOT NULL,              -- title and headings: embedded and matched, not shown
    text TEXT NOT NULL,
    metadata TEXT NOT NULL              -- JSON
);
CREATE INDEX chunks_of ON chunks (version, place);
CREATE INDEX chunks_by_digest ON chunks (digest);
CREATE TABLE vectors (                  -- blocks of rows: one by one they load three times as slowly
    first INTEGER PRIMARY KEY,
    numbers BLOB NOT NULL,              -- int64, rising
    rows BLOB NOT NULL                  -- float32, L2-normalised
);
CREATE VIRTUAL TABLE words USING fts5(text, content='', tokenize='porter unicode61 remove_diacritics 2')
"""


def _version_of(schema: str) -> int:
    """Return a number for SQLite's `user_version` that changes with the tables, and not with what is said of them."""
    bare = " ".join(re.sub(r"--.*", "", schema).split())
    return int.from_bytes(hashlib.sha256(bare.encode()).digest()[:4], "big") >> 1


VERSION = _version_of(_SCHEMA)
"""A digest and no counter, so that no change of the tables can forget to raise it."""


def open_index(folder: Path, *, make: bool) -> sqlite3.Connection | None:
    """Open the index in a folder; None where there is none and none is made.

    The caller who makes one holds the right to write.

    Raises:
        StoreError: it cannot be opened, or is another program's or version's.
    """
    path = folder / INDEX_NAME
    with explained(path, TOLD):
        if not path.exists():
            if not make:
                return None
            _make(path)
        connection = connect(path, timeout_s=BUSY_S)
        try:
            _check(connection, path)
        except BaseException:
            connection.close()
            raise
        return connection


def _make(path: Path) -> None:
    """Make the file beside its place and move it there, so that nobody opens half of one.

    A log that a file of before left there would be read into the new one, so it goes first.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    for leftover in (*_files_of(new), *_files_of(path)):
        leftover.unlink(missing_ok=True)
    new.touch(mode=0o600)
    connection = connect(new, timeout_s=BUSY_S)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        for statement in _SCHEMA.split(";\n"):
            if statement.strip():
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID:d}")
        connection.execute(f"PRAGMA user_version = {VERSION:d}")
    finally:
        connection.close()  # writes the log into the file
    os.replace(new, path)


def _files_of(path: Path) -> tuple[Path, Path, Path]:
    return path, Path(f"{path}-wal"), Path(f"{path}-shm")


def discard_outdated(folder: Path) -> None:
    """Take away the index in a folder if it is another version's. The caller holds the right to write."""
    if is_outdated(folder):
        for file in _files_of(folder / INDEX_NAME):  # the log last: what is left of it goes when the next is made
            file.unlink(missing_ok=True)


def is_outdated(folder: Path) -> bool:
    """Tell whether there is an index of gristmill's in a folder that this version cannot read.

    Raises:
        StoreError: it cannot be opened.
    """
    path = folder / INDEX_NAME
    with explained(path, TOLD):
        if not path.exists():
            return False
        connection = connect(path, timeout_s=BUSY_S)
        try:
            mark, version = _marks(connection)
        finally:
            connection.close()
        return mark == APPLICATION_ID and version != VERSION


def _marks(connection: sqlite3.Connection) -> tuple[int, int]:
    mark = connection.execute("PRAGMA application_id").fetchone()[0]
    return int(mark), int(connection.execute("PRAGMA user_version").fetchone()[0])


def _check(connection: sqlite3.Connection, path: Path) -> None:
    mark, version = _marks(connection)
    if mark != APPLICATION_ID:
        raise StoreError(f"{path} is no index of gristmill's", store=str(path), cause="damaged",
                         hint="move it away, and it is made anew")  # fmt: skip
    if version != VERSION:
        raise StoreError(f"{path} was made by another version of gristmill", store=str(path), cause="version",
                         hint="run retrieval.index for it again: it is made anew from the documents")  # fmt: skip


@contextmanager
def reading(connection: sqlite3.Connection) -> Iterator[None]:
    """Read one state of the file."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")  # nothing was written: this ends the reading


class WriterLock:
    """The right to write an index; it ends with the process, however that ends.

    It is an exclusive lock on a second file, since the index itself must stay readable meanwhile.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_NAME
        self._connection: sqlite3.Connection | None = None

    def acquire(self) -> bool:
        """Take it if nobody has it, and tell whether that went well.

        Raises:
            StoreError: the folder cannot be written.
        """
        with explained(self._path, TOLD):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            connection = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
            if _locked(connection):
                self._connection = connection
                return True
            connection.close()
            return False

    def release(self) -> None:
        """Give it back; idempotent."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()


def _locked(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        if not is_busy(error):
            connection.close()
            raise
        return False
    return True
