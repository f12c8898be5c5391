"""The output file of a batch: one JSON line for each input row, and beside it what the batch depends on.

`OUT.jsonl` only ever grows by whole lines, each written with one system call, so that a killed process leaves whole
lines and at most one torn one at the end, which the next opening cuts off. `OUT.jsonl.batch.json` says from which
recipe, models and data they come. Which rows are done is kept as one bit for each. Invariant: a row has at most one
record, and no file holds records of two different batches.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from gristmill import UsageError
from gristmill_plugins.evaluation._identity import Identity, differences

HEAD_VERSION = 1
SYNC_EVERY_ROWS = 1_000
"""After so many records they are forced to the disk: what a power failure may lose. A killed process loses none."""


class DoneRows:
    """A set of row numbers, one bit each: a hundred million rows take 12 MB."""

    def __init__(self) -> None:
        self._bits = bytearray()
        self.count = 0

    def add(self, number: int) -> bool:
        """Put a number in; return whether it is new."""
        place, bit = divmod(number, 8)
        if place >= len(self._bits):
            self._bits.extend(bytes(place + 1 - len(self._bits) + len(self._bits) // 8))
        if self._bits[place] >> bit & 1:
            return False
        self._bits[place] |= 1 << bit
        self.count += 1
        return True

    def __contains__(self, number: int) -> bool:
        place, bit = divmod(number, 8)
        return place < len(self._bits) and bool(self._bits[place] >> bit & 1)


class Ledger:
    """The records of a batch, open for more. Use it in a `with`; one process at a time.

    Args:
        path: the output file; it is made if it is not there.
        identity: what the batch depends on; records of another one are refused.
        retry_failed: drop the records of rows that failed, so that they run again.

    Raises:
        UsageError: the file is another batch's, no batch's, damaged, or in use.
    """

    def __init__(self, path: Path, identity: Identity, *, retry_failed: bool = False) -> None:
        self.path = path.resolve() if path.is_symlink() else path  # it may be replaced, the link may not
        self.head_path = path.with_name(path.name + ".batch.json")
        self.done = DoneRows()
        self.n_failed = 0
        self._unsynced = 0
        self._file = self._open()
        try:
            self._check_head(identity)
            if retry_failed:
                self._drop_failed()
            self._read()
            if not self.head_path.exists():
                self._write_head(identity)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> IO[bytes]:
        try:
            file = self.path.open("a+b", buffering=0)
        except OSError as error:
            raise UsageError(f"{self.path}: the output cannot be written: {error.strerror}") from error
        if not _take_lock(file):
            file.close()
            raise UsageError(f"{self.path}: another batch is writing this file", hint="wait for it, or give another")
        return file

    def _check_head(self, identity: Identity) -> None:
        empty = self.path.stat().st_size == 0
        try:
            head = json.loads(self.head_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            if not empty:
                raise UsageError(f"{self.path} exists, and no batch wrote it", hint="give another --out") from None
            return
        except (OSError, ValueError) as error:
            raise UsageError(f"{self.head_path}: it cannot be read: {error}", hint="give another --out") from error
        if empty:  # killed before the first record: nothing to mix with
            self.head_path.unlink()
            return
        if not isinstance(head, dict) or head.get("batch") != HEAD_VERSION:
            raise UsageError(f"{self.head_path}: written by another version of gristmill", hint="give another --out")
        changed = differences(head["identity"], identity)
        if changed:
            told = "\n  ".join(changed)
            raise UsageError(
                f"{self.path} holds records of another batch:\n  {told}",
                hint="undo the change and run the same command to go on, or give another --out to begin anew",
            )

    def _write_head(self, identity: Identity) -> None:
        text = json.dumps({"batch": HEAD_VERSION, "identity": identity}, indent=1, ensure_ascii=False) + "\n"
        partial = self.head_path.with_name(f".{self.head_path.name}.{os.getpid()}")
        try:
            with partial.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self.head_path)
        except OSError as error:
            raise UsageError(f"{self.head_path} cannot be written: {error.strerror}",
                             hint="it stands beside the output: give an --out elsewhere") from error  # fmt: skip

    def _read(self) -> None:
        """Find out which rows are done, and cut a torn last line off."""
        whole = 0
        for number, (line, record) in enumerate(self._lines(), 1):
            if record is None:
                if line.endswith(b"\n"):
                    raise UsageError(f"{self.path}:{number}: this line is no record of a batch: the file is damaged",
                                     hint="restore it from a copy, or give another --out")  # fmt: skip
                break
            whole += len(line)
            if not self.done.add(record["row"]):
                raise UsageError(f"{self.path}:{number}: a second record of row {record['row']}: the file was edited",
                                 hint="delete one of them, or give another --out")  # fmt: skip
            self.n_failed += "error" in record
        self._file.truncate(whole)

    def _lines(self) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
        with self.path.open("rb") as file:
            for line in file:
                yield line, _record(line)

    def _drop_failed(self) -> None:
        """Write the file anew without the records of failures; whole or not at all."""
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with partial.open("wb") as kept:
            for line, record in self._lines():
                if record is None or "error" not in record:
                    kept.write(line)
            kept.flush()
            os.fsync(kept.fileno())
        os.replace(partial, self.path)
        self._file.close()
        self._file = self._open()

    def write(self, record: dict[str, Any]) -> None:
        """Append one row's record; a killed process does not lose it.

        Raises:
            UsageError: the disk is full, or the file cannot be written.
        """
        line = json.dumps(record, ensure_ascii=False, separators=(", ", ": ")).encode(errors="backslashreplace") + b"\n"
        if not self.done.add(record["row"]):
            raise AssertionError(f"row {record['row']} was recorded already")
        try:
            if self._file.write(line) != len(line):
                raise OSError(28, "the disk is full")
            self._unsynced += 1
            if self._unsynced >= SYNC_EVERY_ROWS:
                self.sync()
        except OSError as error:
            raise UsageError(f"{self.path}: a record cannot be written: {error.strerror}",
                             hint="make room; the same command goes on where this stopped") from error  # fmt: skip
        self.n_failed += "error" in record

    def sync(self) -> None:
        """Force what was written to the disk."""
        os.fsync(self._file.fileno())
        self._unsynced = 0

    def close(self) -> None:
        """Let the file go; idempotent."""
        if not self._file.closed:
            if self._unsynced:
                self.sync()
            self._file.close()


def _record(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line.decode())
    except ValueError:
        return None
    good = isinstance(record, dict) and type(record.get("row")) is int and ("output" in record) != ("error" in record)
    return record if good else None


def _take_lock(file: IO[bytes]) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows: two batches on one file are the user's to avoid
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
