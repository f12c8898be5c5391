"""What every SQLite file of ours needs: opened safely, in write-ahead mode, written whole, its errors told.

    from gristmill.sqlite import Told, begin_wal, connect, explained, transaction

It is for stores, the kernel's own and a plugin's; it holds no schema and no data. Invariants: a busy file is waited
for, for as long as the caller says, and no longer; a hostile file runs nothing and a short one kills nobody; what
SQLite or the file system raises inside `explained` leaves as a StoreError that says what to do.
"""

from __future__ import annotations

import errno
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gristmill._errors import StoreError

PAUSE_S = 0.005

# synchronous NORMAL: with the write-ahead log a commit survives the death of the process; a power cut may lose the
#   last ones but never tear one. trusted_schema OFF: the schema of a hostile file can call harmless functions only.
#   mmap_size 0: a mapped file that is cut short during a read kills the process.
_PRAGMAS = ("trusted_schema = OFF", "mmap_size = 0", "synchronous = NORMAL", "cache_size = -16000")


@dataclass(frozen=True, slots=True)
class Told:
    """How a kind of file is named in its errors, and what its user can do.

    Attributes:
        what: what the file is to its user: "memory", "the index".
        elsewhere: how it is put into another folder, as an imperative.
        repair: what to do with a damaged one, as an imperative.
        busy_s: seconds for which its connections wait for others.
    """

    what: str
    elsewhere: str
    repair: str
    busy_s: float


def connect(path: Path, *, mode: str = "rw", timeout_s: float) -> sqlite3.Connection:
    """Open a file that is there; transactions are the caller's, and any thread may use the connection, one at a time.

    Args:
        path: the file.
        mode: SQLite's own, of a URI: `ro`, `rw`, `ro&immutable=1`.
        timeout_s: seconds to wait for others that write.

    Raises:
        sqlite3.Error: it cannot be opened.
    """
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=timeout_s, isolation_level=None,
        check_same_thread=False,
    )  # fmt: skip
    try:
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def begin_wal(connection: sqlite3.Connection, *, timeout_s: float) -> None:
    """Put the file into write-ahead mode, waiting for others that do the same.

    SQLite's own busy timeout does not cover this: changing the mode takes an exclusive lock at once, and of two
    processes that begin a file together one is refused without waiting (sqlite.org/wal.html, section 5).

    Raises:
        sqlite3.OperationalError: it was busy for `timeout_s` seconds, or cannot be written.
    """
    give_up_at = time.monotonic() + timeout_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() >= give_up_at:
                raise
            time.sleep(PAUSE_S)
        else:
            return


def is_busy(error: sqlite3.Error) -> bool:
    """Tell whether another connection holds the file."""
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Write all of the block, or none of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        raise


@contextmanager
def explained(path: Path, told: Told) -> Iterator[None]:
    """Turn errors of SQLite and of the file system into a StoreError.

    Raises:
        StoreError: its `cause` says which.
    """
    try:
        yield
    except sqlite3.Error as error:
        cause, what, hint = _meaning(error, told)
        raise StoreError(f"{told.what} at {path}: {what}", store=str(path), cause=cause, hint=hint) from error
    except OSError as error:
        cause = _OS_CAUSES.get(error.errno or 0, "io")
        hint = "make room, then try again" if cause == "full" else told.elsewhere
        raise StoreError(f"{told.what} at {path}: {error.strerror}", store=str(path), cause=cause, hint=hint) from error


_OS_CAUSES = {
    errno.ENOSPC: "full", errno.EDQUOT: "full",
    errno.EACCES: "read_only", errno.EPERM: "read_only", errno.EROFS: "read_only",
}  # fmt: skip


def _meaning(error: sqlite3.Error, told: Told) -> tuple[str, str, str]:
    """Return the cause, what happened, and what to do."""
    match _code(error):
        case sqlite3.SQLITE_FULL:
            return "full", "the disk is full", "make room, then try again"
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return "read_only", "it cannot be written", f"make it writable, or {told.elsewhere}"
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return "locked", f"another process held it for {told.busy_s:.0f} s", "try again"
        case sqlite3.SQLITE_CORRUPT:
            return "damaged", "the file is damaged", told.repair
        case sqlite3.SQLITE_NOTADB:
            return "damaged", "the file is no database", told.repair
        case sqlite3.SQLITE_CANTOPEN:
            return "io", "it cannot be opened", "look at its folder and its permissions"
    return "io", str(error), "look at its folder and its disk"


def _code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
