"""Look at every entry of the prompt cache, and move what is damaged aside.

It repairs nothing and guesses nothing. Invariant: what leaves the cache here stays on disk beside it, as text
that no program runs, until the cache is cleared.
"""

from __future__ import annotations

import base64
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gristmill._cache import _file as file

SELECT_ROWS = "SELECT rowid, key, raw, mode, filename, value FROM Cache"


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What `verify` found and did."""

    checked: int = 0
    damaged: Mapping[str, int] = field(default_factory=dict)
    """What was wrong with how many entries."""
    problem: str | None = None
    """What is wrong with the file as a whole."""
    quarantine: Path | None = None
    """Where the damaged entries, or the damaged file, went."""

    @property
    def ok(self) -> bool:
        """Whether everything in the cache can be used."""
        return not self.damaged and self.problem is None


def verify_file(path: str, *, read_only: bool, timeout_s: float) -> VerifyReport:
    """Check the file at `path` and everything in it; a file that is not there is a sound, empty cache."""
    identity = None
    try:
        identity = None if read_only else file.identify(path)
        connection = file.open_reader(path, read_only=read_only, timeout_s=timeout_s)
    except FileNotFoundError:
        return VerifyReport()
    except file.TROUBLE as error:
        return _bad_file(path, error, identity)
    if connection is None:
        return VerifyReport()
    try:
        return _verify_rows(connection, path, read_only=read_only)
    except file.TROUBLE as error:
        return _bad_file(path, error, identity)
    finally:
        connection.close()


def _bad_file(path: str, error: Exception, identity: tuple[int, int] | None) -> VerifyReport:
    target = None
    if identity and file.is_corrupt(error):
        with suppress(OSError):
            target = file.move_aside(path, identity)
    return VerifyReport(problem=str(error), quarantine=target)


def _verify_rows(connection: sqlite3.Connection, path: str, *, read_only: bool) -> VerifyReport:
    ((structure,),) = connection.execute("PRAGMA integrity_check(1)").fetchall()
    if structure != b"ok":
        raise file.DamagedFileError(file.text(structure))
    faults = dict(_faults(connection))
    damaged = {rowid: fault for rowid, fault in faults.items() if fault}
    target = None
    if damaged and not read_only:
        target = _quarantine_rows(connection, list(damaged), path)
    return VerifyReport(len(faults), Counter(damaged.values()), quarantine=target)


def _faults(connection: sqlite3.Connection) -> Iterator[tuple[int, str | None]]:
    """Yield every row's id with what is wrong with it, or None; a page at a time, so that writers are not held up."""
    last = -(2**63)
    while rows := connection.execute(f"{SELECT_ROWS} WHERE rowid > ? ORDER BY rowid LIMIT 500", (last,)).fetchall():
        for row in rows:
            yield row[0], _fault(row)
        last = rows[-1][0]


def _fault(row: tuple[Any, ...]) -> str | None:
    _, key, raw, mode, _, data = row
    if raw != 1 or not isinstance(key, bytes):
        return "the key is not text"
    try:
        file.unpack(file.text(key), mode, data)
    except ValueError as error:
        return str(error)
    return None


def _quarantine_rows(connection: sqlite3.Connection, rowids: list[int], beside: str) -> Path:
    """Move damaged rows out of the cache into a JSON Lines file next to it, and return the file."""
    target = Path(file.aside(beside) + ".jsonl")
    connection.execute("BEGIN IMMEDIATE")
    try:
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as lines:
            for rowid in rowids:
                row = connection.execute(f"{SELECT_ROWS} WHERE rowid = ?", (rowid,)).fetchone()
                # Looked at again under the lock: another process may have replaced the entry with a good one.
                if row is not None and (reason := _fault(row)):
                    columns = zip(("rowid", "key", "raw", "mode", "filename", "value"), row, strict=True)
                    print(json.dumps({"reason": reason} | {name: _printable(x) for name, x in columns}), file=lines)
                    connection.execute("DELETE FROM Cache WHERE rowid = ?", (rowid,))
        connection.execute("COMMIT")
    except BaseException:
        file.roll_back(connection)
        raise
    return target


def _printable(value: Any) -> Any:
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value
