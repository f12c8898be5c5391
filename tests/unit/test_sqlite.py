"""A file that another process is changing is waited for."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from gristmill.sqlite import begin_wal


def held(path: Path) -> sqlite3.Connection:
    """Return a connection that holds the file's exclusive lock, as one that changes the mode does."""
    holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    holder.execute("CREATE TABLE t (x)")
    holder.execute("BEGIN EXCLUSIVE")
    return holder


def test_the_mode_is_changed_once_the_other_process_lets_go(tmp_path: Path) -> None:
    holder = held(tmp_path / "f.db")
    connection = sqlite3.connect(tmp_path / "f.db", timeout=0, isolation_level=None)
    timer = threading.Timer(0.1, lambda: holder.execute("COMMIT"))
    timer.start()
    begin_wal(connection, timeout_s=60)
    timer.join()
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    holder.close()


def test_a_file_that_stays_busy_is_an_error_after_the_time_given(tmp_path: Path) -> None:
    holder = held(tmp_path / "f.db")
    connection = sqlite3.connect(tmp_path / "f.db", timeout=0, isolation_level=None)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        begin_wal(connection, timeout_s=0.05)
    connection.close()
    holder.close()


def test_an_error_that_waiting_cannot_mend_is_raised_at_once(tmp_path: Path) -> None:
    (tmp_path / "f.db").write_bytes(b"this is no database" * 100)
    connection = sqlite3.connect(tmp_path / "f.db", isolation_level=None)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        begin_wal(connection, timeout_s=600)
    connection.close()
