"""A collection that has grown large gets its approximate index from a process of its own, and loses nothing by it."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import numpy as np

from gristmill import CollectionName, StoredRecord, StoreQuery
from gristmill._memory import SqliteStore
from gristmill._memory._approximate import FEWEST, index_folder

HERE = CollectionName("default", "c")
DIM = 8
PATIENCE_S = 300


def unit_vectors() -> np.ndarray:
    made = np.random.default_rng(5).standard_normal((FEWEST, DIM), dtype=np.float32)
    rows: np.ndarray = made / np.linalg.norm(made, axis=1, keepdims=True)
    return rows


def filled(folder: Path, vectors: np.ndarray) -> SqliteStore:
    """Return a store with as many records as make an index worth while."""
    store = SqliteStore(folder)
    for start in range(0, FEWEST, 10_000):
        records = [StoredRecord(id=str(n), text="a") for n in range(start, start + 10_000)]
        asyncio.run(store.upsert(HERE, records, vectors[start : start + 10_000], "x"))
    return store


def found(store: SqliteStore, vector: np.ndarray) -> list[str]:
    return [hit.record.id for hit in asyncio.run(store.search(HERE, StoreQuery(10, vector, "x")))]


def started(store: SqliteStore) -> subprocess.Popen[bytes]:
    assert store._indexing is not None
    assert store._indexing[1] is not None
    return store._indexing[1]


def indexes(store: SqliteStore) -> list[Path]:
    return list(index_folder(store.path).glob("*.usearch"))


def test_searches_are_exact_until_the_index_is_there_though_its_maker_is_killed_and_ask_it_then(tmp_path: Path) -> None:
    vectors = unit_vectors()
    store = filled(tmp_path, vectors)
    assert store._indexing is None, "writing alone makes none"
    exact = [found(store, vectors[n]) for n in range(20)]
    assert [ids[0] for ids in exact] == [str(n) for n in range(20)]

    started(store).kill()
    started(store).wait(PATIENCE_S)
    assert indexes(store) == []
    index_folder(store.path).mkdir(exist_ok=True)
    (left := index_folder(store.path) / ".1-1.part").write_bytes(b"half an index")
    assert found(store, vectors[7]) == exact[7]
    asyncio.run(store.close())

    again = SqliteStore(tmp_path)
    assert found(again, vectors[7]) == exact[7]
    assert started(again).wait(PATIENCE_S) == 0
    assert len(indexes(again)) == 1
    assert not left.exists()
    asked = [found(again, vectors[n]) for n in range(20)]
    assert [after > 0 for _, after in again._matrices] == [True], "the vectors were scanned"
    assert sum(len(set(one) & set(other)) for one, other in zip(exact, asked, strict=True)) >= 190, "of 200"
    asyncio.run(again.upsert(HERE, [StoredRecord(id="new", text="b")], -vectors[:1], "x"))
    assert found(again, -vectors[0])[0] == "new"
    asyncio.run(again.close())
