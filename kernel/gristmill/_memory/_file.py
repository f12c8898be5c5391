"""A connection to the file of semantic memory, held open for one kind of use.

It runs no query. Invariants: one thread uses the connection at a time; a process that was forked, and a file that was
moved or replaced, get a connection of their own, so that nothing is written where nobody will find it.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gristmill._errors import StoreError
from gristmill._memory._schema import TOLD, open_existing, open_file
from gristmill.sqlite import explained, transaction


class HeldFile:
    """One connection, opened when it is first used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._identity: tuple[int, int] | None = None
        self._connection: sqlite3.Connection | None = None

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Write all of the block, or none of it; the file is made if there is none.

        Raises:
            StoreError: it cannot be written.
        """
        with self._own_lock(), explained(self.path, TOLD):
            connection = self._current(make=True)
            assert connection is not None
            with transaction(connection):
                yield connection

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection | None]:
        """Read one state of the file; None if there is none yet.

        Raises:
            StoreError: it cannot be read.
        """
        with self._own_lock(), explained(self.path, TOLD):
            connection = self._current(make=False)
            if connection is None:
                yield None
                return
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")  # nothing was written: this ends the reading

    def _own_lock(self) -> threading.RLock:
        if self._process != os.getpid():
            # The parent's thread may hold the lock for ever here, and SQLite forbids using its connection: drop both.
            self._lock = threading.RLock()
            self._process, self._connection = os.getpid(), None
        return self._lock

    def _current(self, *, make: bool) -> sqlite3.Connection | None:
        try:
            status = self.path.stat()
            identity = (status.st_dev, status.st_ino) if status.st_size or make else None
        except FileNotFoundError:
            identity = None
        if self._connection is None or identity != self._identity or identity is None:
            self.close()
            if identity is not None or make:
                self._connection = self._open(make=make)
                status = self.path.stat()
                self._identity = (status.st_dev, status.st_ino)
        return self._connection

    def _open(self, *, make: bool) -> sqlite3.Connection | None:
        try:
            return open_file(self.path)
        except StoreError as error:
            if make or error.cause not in ("read_only", "io"):
                raise
            return open_existing(self.path)

    def close(self) -> None:
        """Let go of the connection; the next use opens it again."""
        with self._own_lock():
            if self._connection is not None:
                connection, self._connection = self._connection, None
                connection.close()
