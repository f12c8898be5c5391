"""An approximate index of one collection's vectors on disk, for collections too large to scan.

Malkov and Yashunin 2018 (HNSW), by usearch, with vectors in half precision. It is a copy that can be made again:
SQLite stays the source of truth, what the index finds is scored exactly from there, and what was written after it was
made is scanned. Invariants: its file's name says which state of which collection it is of, so that another one is
never used; it appears whole or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gristmill._errors import PluginError

FEWEST = 50_000
"""Records from which an index may be worth its file: scanning fewer takes about as long as the rest of a search."""
EXPANSION = 256
"""Nodes looked at, in building and in searching: with it, all of the true ten were found at 100,000 vectors."""
CONNECTIVITY = 16
_CANDIDATES = 4
"""Times as many are fetched as are wanted: some have expired or were replaced, and half precision swaps neighbours."""


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

        index = Index(ndim=dim, metric="ip", dtype="f16", expansion_search=EXPANSION)
        index.view(str(path))
    except (ImportError, RuntimeError, OSError, ValueError):
        return None
    return Indexed(index, last, path) if len(index) else None


def nearest(indexed: Indexed, vector: np.ndarray[Any, Any], n: int) -> list[int]:
    """Return the numbers of the records that are probably nearest."""
    matches = indexed.index.search(vector, _CANDIDATES * n)
    return [int(number) for number in matches.keys]


def build_index(store: Path, collection: int, epoch: int, dim: int, parts: Iterator[tuple[list[int], bytes]]) -> int:
    """Write the index of a collection's vectors, given with rising numbers; return how many there are.

    Raises:
        PluginError: usearch is not installed.
    """
    try:
        from usearch.index import Index
    except ImportError as error:
        raise PluginError(f"an index needs {error.name}", hint='pip install "gristmill[memory]"') from error
    index = Index(
        ndim=dim, metric="ip", dtype="f16", connectivity=CONNECTIVITY, expansion_add=EXPANSION,
        expansion_search=EXPANSION,
    )  # fmt: skip
    last = 0
    for numbers, vectors in parts:
        index.add(np.array(numbers, np.uint64), np.frombuffer(vectors, np.float32).reshape(len(numbers), dim))
        last = numbers[-1]
    folder = index_folder(store)
    folder.mkdir(mode=0o700, exist_ok=True)
    partial = folder / f".{collection}-{os.getpid()}.part"
    index.save(str(partial))
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, folder / f"{collection}-{epoch}-{last}.usearch")
    for old in folder.glob(f"{collection}-*.usearch"):
        if old.name != f"{collection}-{epoch}-{last}.usearch":
            old.unlink(missing_ok=True)
    return len(index)
