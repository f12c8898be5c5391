"""An approximate index of one collection's vectors on disk, for collections too large to scan.

Malkov and Yashunin 2018 (HNSW), by usearch, with vectors as bytes. It is a copy that can be made again: SQLite stays
the source of truth, what the index finds is scored exactly from there, and what was written after it was made is
scanned. Invariants: its file's name says which state of which collection it is of, so that another one is never used;
it appears whole or not at all; one process makes indexes at a time, whatever becomes of it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gristmill._errors import PluginError, UsageError

FEWEST = 50_000
"""Records from which an index may be worth its file: scanning fewer takes about as long as the rest of a search."""
EXPANSION = 128
"""Nodes looked at in building. At 60,000 sentences by WordLlama, 300 of them asked for the nearest ten: with 128 in
building and 256 in searching 0.995 of the true ten were found, in 0.6 ms; 128 and 128 found 0.983 in 0.3 ms, 64 and 256
found 0.985. Building took 18 s of processor time with 128 and 9 s with 64."""
EXPANSION_SEARCH = 256
"""Nodes looked at in searching."""
CONNECTIVITY = 16
_CANDIDATES = 2
"""Times as many are fetched as are wanted: some have expired or were replaced, and bytes swap neighbours. Four times as
many found no more."""
_SHARE = 5
"""An index is extended when a fifth as many records as it holds came after it, and made anew when as many are gone."""


class Indexed(NamedTuple):
    """An index that is open, and up to which record it goes."""

    index: Any
    last: int
    path: Path


def index_folder(store: Path) -> Path:
    """Return where the indexes of the store's file lie."""
    return store.with_name(f"{store.name}.indexes")


def find_index(store: Path, collection: int, epoch: int) -> tuple[Path, int] | None:
    """Return the newest index of a collection's state, and the last record in it."""
    begins = f"{collection}-{epoch}-"
    found = [
        (int(path.stem.removeprefix(begins)), path) for path in index_folder(store).glob(f"{begins}*.usearch")
        if path.stem.removeprefix(begins).isdigit()
    ]  # fmt: skip
    return max(found)[::-1] if found else None


def open_index(path: Path, last: int, dim: int) -> Indexed | None:
    """Open an index without reading it into memory; None if its library is missing or the file is damaged."""
    try:
        from usearch.index import Index

        index = Index(ndim=dim, metric="ip", dtype="i8", expansion_search=EXPANSION_SEARCH)
        index.view(str(path))
    except (ImportError, RuntimeError, OSError, ValueError):
        return None
    return Indexed(index, last, path) if len(index) else None


def nearest(indexed: Indexed, vector: np.ndarray[Any, Any], n: int) -> list[int]:
    """Return the numbers of the records that are probably nearest."""
    matches = indexed.index.search(vector, _CANDIDATES * n, threads=1)
    return [int(number) for number in matches.keys]


def grown(n_indexed: int, n_newer: int) -> bool:
    """Whether an index of so many records, none if there is no index, is worth making or extending."""
    return n_newer >= (max(FEWEST, n_indexed) // _SHARE if n_indexed else FEWEST)


@contextmanager
def alone(store: Path) -> Iterator[None]:
    """Make indexes of the store's file in the block, as the only process; a process that dies lets go of it.

    Raises:
        UsageError: another process is at it.
    """
    folder = index_folder(store)
    folder.mkdir(mode=0o700, exist_ok=True)
    connection = sqlite3.connect(folder / "lock", timeout=0, isolation_level=None)
    try:
        connection.execute("BEGIN EXCLUSIVE")
        for left in folder.glob(".*.part"):
            left.unlink(missing_ok=True)
        yield
    except sqlite3.OperationalError as error:
        raise UsageError("another process makes an index of this memory", hint="try again when it is done") from error
    finally:
        connection.close()


Rows = tuple[list[int], bytes]


def build_index(
    store: Path,
    collection: int,
    epoch: int,
    dim: int,
    left: Callable[[int], int],
    newer: Callable[[int], Iterator[Rows]],
) -> int:
    """Write the index of a collection's vectors, the last one extended where it can be; return how many it holds.

    Args:
        store: the file of memory.
        collection: its number.
        epoch: of its vectors.
        dim: their length.
        left: returns how many records there are up to a number.
        newer: returns numbers, rising, and vectors of the records after a number, in parts.

    Raises:
        PluginError: usearch is not installed.
    """
    try:
        from usearch.index import Index
    except ImportError as error:
        raise PluginError(f"an index needs {error.name}", hint='pip install "gristmill[memory]"') from error
    options: dict[str, Any] = {"metric": "ip", "dtype": "i8", "connectivity": CONNECTIVITY}
    index, last = Index(ndim=dim, **options, expansion_add=EXPANSION), 0
    there = find_index(store, collection, epoch)
    held = open_index(*there, dim) if there is not None else None
    if held is not None and len(held.index) <= left(held.last) * (_SHARE + 1) // _SHARE:
        index.load(str(held.path))
        last = held.last
    before = last
    for numbers, vectors in newer(last):
        index.add(np.array(numbers, np.uint64), np.frombuffer(vectors, np.float32).reshape(len(numbers), dim))
        last = numbers[-1]
    if last > before:
        _put(index, store, collection, f"{collection}-{epoch}-{last}.usearch")
    return len(index)


def _put(index: Any, store: Path, collection: int, name: str) -> None:
    folder = index_folder(store)
    partial = folder / f".{collection}-{os.getpid()}.part"
    index.save(str(partial))
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, folder / name)
    for old in folder.glob(f"{collection}-*.usearch"):
        if old.name != name:
            with suppress(OSError):  # Windows keeps a file that another process has open
                old.unlink()
