"""Long prefixes on disk: their key-value cells, so that another process need not read them again.

It knows neither models nor schedulers; cells are bytes to it. Invariants: what is handed out is exactly what was
put in, under the same key, for the same tokens (a checksum says so; a damaged file is removed and none); files
together stay under the limit, the longest unused going first; a full or read-only disk is no error.

A file is: one line of JSON (version, number of tokens, SHA-256 of what follows), the tokens as int32, the cells.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gristmill_plugins.llama._store import write_atomically

VERSION = 1
HEAD_TOKENS = 64
"""Files are named by the digest of so many first tokens, so that only those that may match are opened."""
MAX_LINE_BYTES = 4096
STALE_S = 3600.0

Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Shelved:
    """A prefix found on disk."""

    tokens: Tokens
    cells: bytes


class PrefixShelf:
    """A folder of prefixes for one engine. `key` names all that the cells depend on besides the tokens."""

    def __init__(self, folder: Path, *, key: str, limit_bytes: int) -> None:
        self._folder = folder
        self._key = key
        self._limit_bytes = limit_bytes
        self._orders: queue.SimpleQueue[tuple[Path, bytes] | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_orders, name="prefix writer", daemon=True)
        self._writer.start()

    def find(self, tokens: Tokens, variant: str, *, beyond: int) -> Shelved | None:
        """Return the prefix with the longest common beginning, if that is longer than `beyond` tokens."""
        best: tuple[int, Path] | None = None
        for path in self._folder.glob(f"{self._name_of(tokens, variant)}-*.kv"):
            with contextlib.suppress(OSError, ValueError):
                common = n_common(tokens, _read_tokens(path))
                if common > max(beyond, best[0] if best else 0):
                    best = common, path
        return self._take(best[1]) if best else None

    def put(self, tokens: Tokens, variant: str, cells: bytes) -> None:
        """Keep a prefix; it is written in the background."""
        if tokens.size < HEAD_TOKENS:
            return
        body = tokens.astype("<i4").tobytes() + cells
        name = f"{self._name_of(tokens, variant)}-{hashlib.sha256(tokens.tobytes()).hexdigest()[:16]}.kv"
        path = self._folder / name
        if path.exists():
            return
        line = {"version": VERSION, "n_tokens": int(tokens.size), "sha256": hashlib.sha256(body).hexdigest()}
        self._orders.put((path, json.dumps(line).encode() + b"\n" + body))

    def close(self, *, wait_s: float) -> None:
        """Finish writing, within a time."""
        self._orders.put(None)
        self._writer.join(wait_s)

    def _name_of(self, tokens: Tokens, variant: str) -> str:
        head = hashlib.sha256(f"{self._key}|{variant}|".encode() + tokens[:HEAD_TOKENS].tobytes())
        return head.hexdigest()[:24]

    def _take(self, path: Path) -> Shelved | None:
        try:
            with path.open("rb") as file:
                line = json.loads(file.readline(MAX_LINE_BYTES))
                body = file.read()
            n_tokens = int(line["n_tokens"])
            if line["version"] == VERSION and hashlib.sha256(body).hexdigest() == line["sha256"]:
                os.utime(path)
                return Shelved(np.frombuffer(body, "<i4", n_tokens).astype(np.int32), body[4 * n_tokens :])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        with contextlib.suppress(OSError):
            path.unlink()
        return None

    def _write_orders(self) -> None:
        while (order := self._orders.get()) is not None:
            path, content = order
            with contextlib.suppress(OSError):
                self._make_room(len(content))
                write_atomically(path, content)

    def _make_room(self, size_bytes: int) -> None:
        """Remove the longest unused files until the new one fits under the limit."""
        for left in self._folder.glob(".*.kv.*"):  # by a process that was killed while it wrote
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > STALE_S:
                    left.unlink()
        files = sorted(_stat_files(self._folder), reverse=True)
        total = size_bytes
        for _, file_bytes, path in files:
            total += file_bytes
            if total > self._limit_bytes:
                with contextlib.suppress(OSError):
                    path.unlink()


def _stat_files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    for path in folder.glob("*.kv"):
        with contextlib.suppress(OSError):
            status = path.stat()
            yield status.st_mtime, status.st_size, path


def _read_tokens(path: Path) -> Tokens:
    """Return the tokens of a file without its cells.

    Raises:
        ValueError: it is not such a file.
    """
    with path.open("rb") as file:
        line = json.loads(file.readline(MAX_LINE_BYTES))
        n_tokens = line.get("n_tokens", 0) if isinstance(line, dict) else 0
        data = file.read(4 * n_tokens)
    return np.frombuffer(data, "<i4").astype(np.int32)


def n_common(left: Tokens, right: Tokens) -> int:
    """Return the length of the common beginning."""
    size = min(left.size, right.size)
    differ = left[:size] != right[:size]
    return int(differ.argmax()) if differ.any() else size
