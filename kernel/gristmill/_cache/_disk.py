"""The writing half of the prompt cache: diskcache, without its pickles and without its files.

It is imported at the first write, never for a hit. It reads no entry (`_file.py` does) and knows no
JSON: values arrive here as packed bytes. diskcache brings the schema, transactions between processes, expiry
and eviction.

Invariant: nothing here can pickle, unpickle, or touch any file but the database, whatever the rows say. Stock
Disk and JSONDisk execute pickles found in a row, a file or a key, and delete whatever path a row names.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any, NoReturn

import diskcache

from gristmill._cache._file import ENTRY_MODE, connect
from gristmill.sqlite import begin_wal

# Never reached by an entry: values lie in the database, where a transaction covers them. Files beside it are
# not synced, can be torn, and outlive a killed writer.
NEVER_A_FILE = 2**62


class EntryDisk(diskcache.Disk):
    """Text keys and packed bytes in the row itself; refuses everything else."""

    def put(self, key: Any) -> tuple[str, bool]:
        """Return the key's columns."""
        if type(key) is not str:
            raise TypeError(f"a cache key is text, not {type(key).__name__}")
        return key, True

    def get(self, key: Any, raw: Any) -> str:
        """Return the key of a row; diskcache would unpickle it where `raw` is 0."""
        if not raw or type(key) is not str:
            raise OSError("the row's key is not text")
        return key

    def store(self, value: Any, read: bool, key: Any = None) -> tuple[int, int, None, bytes]:
        """Return the value's columns: size of its file (none), mode, file name (none), bytes."""
        if read or type(value) is not bytes:
            raise TypeError(f"an entry is packed bytes, not {type(value).__name__}")
        return 0, ENTRY_MODE, None, value

    def fetch(self, mode: Any, filename: Any, value: Any, read: bool) -> bytes:
        """Return the packed bytes of a row of ours. diskcache takes an OSError for a miss."""
        if read or mode != ENTRY_MODE or filename is not None or type(value) is not bytes:
            raise OSError("the row is not an entry of this cache")
        return value

    def filename(self, key: Any = None, value: Any = None) -> NoReturn:
        """Refuse: no entry lies in a file of its own."""
        raise OSError("an entry is never a file of its own")

    def remove(self, file_path: Any) -> None:
        """Leave every file alone: no row of ours names one, so the name is damage or an attack."""


class Store(diskcache.Cache):
    """The database opened for writing. One connection, used by one thread at a time under the caller's lock."""

    def __init__(self, path: str, directory: str, *, size_limit_bytes: int, timeout_s: float) -> None:
        self._connection: sqlite3.Connection | None = None
        self._opening = True
        # Every setting diskcache knows is given, so that none is taken from the file.
        settings = diskcache.DEFAULT_SETTINGS | {
            "size_limit": size_limit_bytes,
            "disk_min_file_size": NEVER_A_FILE,
            # Measured at 100,000 entries of 1 KB: a write takes 40 µs under either policy. diskcache's own
            # reads write under this one (40 µs against 6), but ours note uses in batches, once an hour an entry.
            "eviction_policy": "least-recently-used",
            # `volume` counts pages in use, so the file need not shrink at each commit.
            "sqlite_auto_vacuum": 0,
            "sqlite_mmap_size": 0,
            "sqlite_cache_size": -8000,
        }
        try:
            self._connection = connect(path, mode="rw", timeout_s=timeout_s)
            begin_wal(self._connection, timeout_s=timeout_s)
            # Under one lock, so that no process sees half a schema, and so that diskcache meets no lock while it
            # starts: it would try again for a minute, whatever its timeout.
            self._connection.execute("BEGIN IMMEDIATE")
            super().__init__(directory, timeout=timeout_s, disk=EntryDisk, **settings)  # type: ignore[no-untyped-call]
            self._connection.execute("COMMIT")
        except BaseException:
            self._opening = False
            self.close()
            raise
        self._opening = False

    # diskcache opens a connection a thread, closes only the calling thread's, and applies any PRAGMA named in the
    # file. One connection of ours replaces that; diskcache 5 reaches its database through this property alone.
    @property
    def _con(self) -> sqlite3.Connection:
        if self._connection is None:
            raise sqlite3.ProgrammingError("the cache is closed")
        return self._connection

    def close(self) -> None:
        """Close the connection; idempotent. diskcache closes it once while it starts, which is passed over."""
        if self._connection is not None and not self._opening:
            self._connection.close()
            self._connection = None

    def volume(self) -> int:
        """Return the bytes in use. diskcache counts free pages too, and so evicts without end in a long transaction."""
        ((pages,),) = self._con.execute("PRAGMA page_count").fetchall()
        ((free,),) = self._con.execute("PRAGMA freelist_count").fetchall()
        return int(pages - free) * int(self._page_size)

    def write(self, entries: Iterable[tuple[str, bytes]], expire_s: float | None) -> None:
        """Write packed entries in one transaction; once this returns they survive `kill -9`.

        Raises:
            sqlite3.Error: none of them was written.
        """
        try:
            with self.transact():
                for key, data in entries:
                    self.set(key, data, expire=expire_s)  # type: ignore[no-untyped-call]
        except diskcache.Timeout as error:
            # diskcache calls every failure to begin a timeout; SQLite's own error says which one it was.
            cause = error.__context__
            raise cause if isinstance(cause, sqlite3.Error) else sqlite3.OperationalError("it is locked") from None
