"""The prompt cache's file: how an entry lies in a row, and how the SQLite file is read, checked and moved aside.

It writes no entry (`_disk.py` does, through diskcache) and decides nothing about warnings or retries
(`_api.py` does). Entries are read with SQL of our own, so that no code that could unpickle lies between a
row and its JSON, and so that a run answered from the cache never imports diskcache.

Invariant: bytes become a value only when mode, layout, format version and the checksum over key and text are
all ours. Anything else in the file is damage, whoever put it there, and names no path that is ever opened.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from gristmill._errors import UsageError

ENTRY_MODE = 100
"""The value of diskcache's `mode` column in our rows; stock diskcache uses 0 to 4, where 4 is a pickle."""
FORMAT = b"gm\x01"
"""What every entry starts with; the last byte is the version of the layout."""
DIGEST_BYTES = 16
BODY_AT = len(FORMAT) + DIGEST_BYTES
TOUCH_AFTER_S = 3600.0
RETRY_AFTER_S = 30.0
"""How long a cache that could not be opened or written is left alone before it is tried again."""

# What diskcache keeps in its Settings table. It turns any other name it finds there into an attribute or a
# PRAGMA, so a file with another name in it is not opened by diskcache at all.
KNOWN_SETTINGS = frozenset({
    "count", "cull_limit", "disk_min_file_size", "disk_pickle_protocol", "eviction_policy", "hits", "misses", "size",
    "size_limit", "sqlite_auto_vacuum", "sqlite_cache_size", "sqlite_journal_mode", "sqlite_mmap_size",
    "sqlite_synchronous", "statistics", "tag_index",
})  # fmt: skip

# The access time is compared here, not in Python, because a row may hold any type there. Ages count in both
# directions: after the clock was moved back, times in the future are as stale as old ones.
# Parameters: now, key, now.
SELECT_ENTRY = (
    f"SELECT mode, value, abs(access_time - ?) > {TOUCH_AFTER_S} FROM Cache"
    " WHERE key = ? AND raw = 1 AND (expire_time IS NULL OR expire_time > ?)"
)

# mmap_size 0: a mapped file that is cut short during a read kills the process with SIGBUS; reading without costs
#   1 µs more at 100,000 entries and nothing at 10. cache_size 8 MB: 2, 32 and 64 MB measured the same, since the
#   system caches the file as well. synchronous NORMAL: with the write-ahead log, a commit survives the death of
#   the process, and a power cut may lose it but never tear it. trusted_schema OFF: a hostile file's schema can
#   call harmless functions only.
PRAGMAS = ("mmap_size = 0", "cache_size = -8000", "synchronous = NORMAL", "trusted_schema = OFF")


class DamagedFileError(Exception):
    """A file that SQLite can open and that is not, or not wholly, a prompt cache."""


TROUBLE = (sqlite3.Error, OSError, OverflowError, DamagedFileError)
"""Everything that reading or writing the file may raise."""

_ENCODE = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False, check_circular=False).encode
_DECODE = json.JSONDecoder().raw_decode  # `decode` looks for white space with two regular expressions


def pack(key: str, value: Any) -> bytes:
    """Return the bytes to store for `value`: format, checksum over key and text, JSON as UTF-8.

    Raises:
        UsageError: `value` is not JSON data.
    """
    try:
        # Lone surrogates pass through as they are: `\\ud83d\\ude00` written as two escapes would come back as one
        # character.
        body = _ENCODE(value).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"a {type(value).__name__} cannot be kept in the cache: {error}",
            hint="give it dicts, lists, strings, finite numbers, booleans and None",
        ) from error
    return FORMAT + _digest(key, body) + body


def unpack(key: str, mode: Any, data: Any) -> Any:
    """Return the value that `pack(key, value)` stored. A row's `filename` is never looked at.

    Raises:
        ValueError: the columns are not a whole entry of this key; its text says what is wrong.
    """
    if mode != ENTRY_MODE or type(data) is not bytes:
        raise ValueError("not an entry of this cache")
    if not data.startswith(FORMAT):
        raise ValueError("another format or version")
    body = data[BODY_AT:]
    if _digest(key, body) != data[len(FORMAT) : BODY_AT]:
        raise ValueError("the checksum does not match")
    try:
        value, _ = _DECODE(str(body, "utf-8", "surrogatepass"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return value


def _digest(key: str, body: bytes) -> bytes:
    # The key takes part, so that a damaged index or a swapped row cannot answer another prompt.
    return blake2b(key.encode("utf-8", "surrogatepass") + b"\n" + body, digest_size=DIGEST_BYTES).digest()


def connect(path: str, *, mode: str, timeout_s: float) -> sqlite3.Connection:
    """Open the SQLite file with this cache's settings; `mode` is SQLite's "rw", "ro", or "ro&immutable=1".

    The caller holds a lock around each use: the connection may be used from any thread, one at a time.
    """
    uri = f"{Path(path).as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=timeout_s, isolation_level=None, check_same_thread=False)
    try:
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def open_reader(path: str, *, read_only: bool, timeout_s: float) -> sqlite3.Connection | None:
    """Open an existing file for reading entries; None if it holds no cache yet.

    Raises:
        DamagedFileError: the file is something else.
        sqlite3.Error: it is corrupt, locked, or cannot be read.
    """
    # Immutable is the last resort: on a read-only medium SQLite cannot make the shared-memory file that a
    # database with a write-ahead log needs, and nobody else can write there either.
    modes = ("ro", "ro&immutable=1") if read_only else ("rw", "ro&immutable=1")
    for mode in modes:
        try:
            return _open_if_cache(path, mode=mode, timeout_s=timeout_s)
        except sqlite3.OperationalError as error:
            if mode == modes[-1] or primary_code(error) not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
                raise
    return None


def _open_if_cache(path: str, *, mode: str, timeout_s: float) -> sqlite3.Connection | None:
    connection = connect(path, mode=mode, timeout_s=timeout_s)
    connection.text_factory = bytes  # text that is not UTF-8 is damage in one row, not an error of the query
    try:
        if holds_cache(connection):
            return connection
    except BaseException:
        connection.close()
        raise
    connection.close()
    return None


def holds_cache(connection: sqlite3.Connection) -> bool:
    """Return whether the cache's tables are there; a file without any is a cache not yet begun.

    Raises:
        DamagedFileError: there are tables, and they are not ours.
    """
    names = connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')").fetchall()
    tables = {text(name) for (name,) in names if not text(name).startswith("sqlite_")}
    if "Cache" not in tables:
        # Another process may be between its first and its last CREATE TABLE.
        if tables <= {"Settings"}:
            return False
        raise DamagedFileError(f"it holds the tables {', '.join(sorted(tables))}")
    try:
        settings = {text(name) for (name,) in connection.execute("SELECT key FROM Settings")}
        connection.execute(f"{SELECT_ENTRY} LIMIT 0", (0.0, "", 0.0))
    except sqlite3.OperationalError as error:
        if primary_code(error) == sqlite3.SQLITE_ERROR:
            raise DamagedFileError(str(error)) from error
        raise
    if unknown := settings - KNOWN_SETTINGS:
        raise DamagedFileError(f"it holds the settings {', '.join(sorted(unknown))}")
    return True


def primary_code(error: BaseException) -> int:
    """Return SQLite's primary result code of an error, 0 where it carries none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def is_corrupt(error: BaseException) -> bool:
    """Return whether the error says that the file itself can no longer be a cache."""
    return isinstance(error, DamagedFileError) or primary_code(error) in (
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
    )


class Closable(Protocol):
    """What can be held open."""

    def close(self) -> None: ...


T = TypeVar("T", bound=Closable)


class Held(Generic[T]):
    """Something open on the file: opened again when another file took its place, left alone a while after trouble."""

    def __init__(self, path: str, open_: Callable[[], T | None]) -> None:
        self.lock = threading.Lock()
        self.identity = (0, 0)
        self._path = path
        self._open = open_
        self.held: T | None = None
        self._again_at = 0.0

    def current(self) -> T | None:
        """Return it, open; None while it is left alone or there is nothing to open. The caller holds the lock."""
        identity = identify(self._path)
        if self.held is None or identity != self.identity:
            self.close()
            if self.paused:
                return None
            self.identity = identity
            self.held = self._open()
        return self.held

    @property
    def paused(self) -> bool:
        return time.monotonic() < self._again_at

    def pause(self) -> None:
        self._again_at = time.monotonic() + RETRY_AFTER_S

    def close(self) -> None:
        if self.held is not None:
            held, self.held = self.held, None
            held.close()


def touch(connection: sqlite3.Connection, times: dict[str, float]) -> None:
    """Note when entries were last used, for eviction; lost without harm when the file cannot be written now."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        rows = [(when, key) for key, when in times.items()]
        connection.executemany("UPDATE Cache SET access_time = ? WHERE key = ? AND raw = 1", rows)
        connection.execute("COMMIT")
    except sqlite3.Error:
        roll_back(connection)


def identify(path: str) -> tuple[int, int]:
    """Return device and inode: whether a path still names the file that was opened."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def is_replaced(path: str, identity: tuple[int, int]) -> bool:
    """Return whether the file that was opened is gone from `path`."""
    try:
        return identify(path) != identity
    except FileNotFoundError:
        return True


def move_aside(path: str, identity: tuple[int, int]) -> Path | None:
    """Rename a corrupt file with its log; None if another process was faster."""
    if is_replaced(path, identity):
        return None
    target = aside(path)
    # The log goes first: were the file gone before it, a new database could pick up the old one's log.
    with suppress(FileNotFoundError):
        os.rename(f"{path}-wal", f"{target}-wal")
    with suppress(FileNotFoundError):
        os.unlink(f"{path}-shm")
    with suppress(FileNotFoundError):
        os.rename(path, target)
    return Path(target)


def empty(connection: sqlite3.Connection) -> int:
    """Delete every entry and give the space back; return how many there were. Other processes may go on working."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        n_entries = connection.execute("DELETE FROM Cache").rowcount
        connection.execute("COMMIT")
    except BaseException:
        roll_back(connection)
        raise
    with suppress(sqlite3.Error):  # someone is reading: the pages are free for new entries all the same
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return n_entries


def remove(path: str) -> None:
    """Delete the file and its log. Works on a full disk, where DELETE cannot."""
    for name in (f"{path}-wal", f"{path}-shm", path):
        with suppress(FileNotFoundError):
            os.unlink(name)


def set_aside(path: str) -> list[Path]:
    """Return the files that were moved aside and are still there."""
    return sorted(Path(path).parent.glob(f"{Path(path).name}.bad-*"))


def aside(path: str) -> str:
    return f"{path}.bad-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"


def roll_back(connection: sqlite3.Connection) -> None:
    with suppress(sqlite3.Error):
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
