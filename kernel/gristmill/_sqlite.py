"""What every SQLite file of ours needs and SQLite does not do by itself.

It opens nothing and holds no schema. Invariant: a busy file is waited for, for as long as the caller says, and no
longer.
"""

from __future__ import annotations

import sqlite3
import time

PAUSE_S = 0.005


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
            busy = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            if not busy or time.monotonic() >= give_up_at:
                raise
            time.sleep(PAUSE_S)
        else:
            return
