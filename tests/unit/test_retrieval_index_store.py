"""An index copied into a store of semantic memory: found from elsewhere, and whole at any moment."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gristmill import (
    CollectionName,
    FunctionError,
    Kernel,
    Passage,
    RunError,
    SqliteStore,
    StoredRecord,
    VectorStore,
)
from gristmill import model_provider as provider
from gristmill.testing import FakeEmbedder
from gristmill_plugins.retrieval import RetrievalPlugin
from gristmill_plugins.retrieval import _store_copy as copying

CHUNKS = CollectionName("retrieval", "manual")


class Counting(FakeEmbedder):
    """Remembers how many texts it embedded."""

    def __init__(self) -> None:
        self.fingerprint = "counting"
        self.n = 0

    async def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.n += len(texts)
        return await super().embed(texts)


class Shelf(SqliteStore):
    """A store that remembers what was written, and can fail."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.written: list[str] = []
        self.fail_after: int | None = None

    async def upsert(
        self, collection: CollectionName, records: Sequence[StoredRecord], vectors: Any, fingerprint: str | None
    ) -> None:
        if collection == CHUNKS:
            if self.fail_after is not None and len(self.written) + len(records) > self.fail_after:
                raise RuntimeError("the line is cut")
            self.written += [record.id for record in records]
        await super().upsert(collection, records, vectors, fingerprint)


class Keep:
    """Offers the store to recipes."""

    def __init__(self, store: Shelf) -> None:
        self.store = store

    @provider(name="shelf")
    def shelf(self) -> VectorStore:
        """The store of this test."""
        return self.store


class Site:
    """A kernel with documents and a store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.docs = folder / "docs"
        self.docs.mkdir()
        self.store = Shelf(folder / "store")
        self.embedder = Counting()
        plugins = {"retrieval": RetrievalPlugin(), "keep": Keep(self.store)}
        self.kernel = Kernel(plugins=plugins, cache=False)
        self.kernel.registry._scanned = True  # these plugins and no installed ones
        self.kernel.memory._default = lambda: self.embedder

    def call(self, function: str, arguments: dict[str, Any]) -> Any:
        recipe = self.folder / "r.yaml"
        recipe.write_text(
            "version: 1\nmodels: {shelf: {use: keep.shelf}}\nsteps:\n"
            f"  s:\n    use: retrieval.{function}\n    with: {json.dumps(arguments)}\noutput: ${{s}}\n"
        )
        return self.kernel.recipe(recipe).run().output

    def index(self, **more: Any) -> Any:
        return self.call(
            "index", {"documents": "./docs", "name": "manual", "store": "shelf", "splitter": "none", **more}
        )

    def search(self, query: str, **more: Any) -> list[Passage]:
        found: list[Passage] = self.call("search", {"query": query, "index": "manual", "store": "shelf", **more})
        return found

    def fails(self, function: str, arguments: dict[str, Any]) -> BaseException:
        with pytest.raises(RunError) as caught:
            self.call(function, arguments)
        return caught.value.failures["s"]

    def records(self) -> list[StoredRecord]:
        return asyncio.run(self.store.read(CHUNKS, limit=10_000))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    (made.docs / "mill.md").write_text("# Mill\n\nThe mill grinds wheat.\n")
    (made.docs / "rows.jsonl").write_text('{"text": "a water wheel", "kind": "x"}\n{"text": "a wind sail"}\n')
    yield made
    made.kernel.close()


def test_the_store_finds_what_the_file_finds_with_the_same_sources(site: Site) -> None:
    site.index()
    for mode in ("bm25", "dense", "hybrid"):
        for query in ("wheat mill", "wheel", "sail wind"):
            stored = site.search(query, mode=mode)
            own = site.call("search", {"query": query, "index": "manual", "mode": mode})
            assert [(p.source, p.text, p.metadata) for p in stored] == [(p.source, p.text, p.metadata) for p in own]
            assert [p.score for p in stored] == pytest.approx([p.score for p in own])
    (filtered,) = site.search("wheel", where={"kind": "x"})
    assert filtered.source == "docs/rows.jsonl#L1"
    assert site.search(" ") == []


def test_nothing_is_embedded_for_the_store_and_another_machine_finds_it(site: Site) -> None:
    site.index()
    assert site.embedder.n == 3
    shutil.rmtree(Path(os.environ["XDG_DATA_HOME"]) / "gristmill" / "retrieval")
    assert site.search("wheat", mode="bm25")[0].source == "docs/mill.md#L1-3"


def test_the_store_follows_changes_and_keeps_nothing_else(site: Site) -> None:
    site.index()
    (site.docs / "mill.md").write_text("# Mill\n\nThe mill grinds rye.\n")
    (site.docs / "rows.jsonl").unlink()
    site.index()
    assert [p.text for p in site.search("mill", mode="bm25")] == ["# Mill\n\nThe mill grinds rye."]
    assert site.search("wheel wheat", mode="bm25") == []
    assert len(site.records()) == 1
    written = len(site.store.written)
    site.index()
    assert len(site.store.written) == written


def test_a_copy_that_was_cut_off_leaves_the_old_index_and_the_next_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "AT_ONCE", 2)
    site.index()
    old = site.search("mill", mode="hybrid")
    rows = "".join(f'{{"text": "mill number{i}"}}\n' for i in range(9))
    (site.docs / "rows.jsonl").write_text(rows)
    site.store.fail_after = len(site.store.written) + 5
    with pytest.raises(RunError, match="the line is cut"):
        site.index()
    assert len(site.records()) > 3
    assert [p.text for p in site.search("mill", mode="hybrid")] == [p.text for p in old]
    assert [p.text for p in site.search("mill", mode="dense", top_k=1)] == [old[0].text]
    assert site.search("number3", mode="bm25") == []
    site.store.fail_after = None
    before = list(site.store.written)
    site.index()
    assert not set(before) & set(site.store.written[len(before) :]), "a chunk was written twice"
    assert site.search("number3", mode="bm25")[0].source == "docs/rows.jsonl#L4"
    assert len(site.records()) == 10


def test_what_a_cut_copy_left_is_taken_away_though_the_file_changed_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "AT_ONCE", 2)
    site.index()
    (site.docs / "rows.jsonl").write_text("".join(f'{{"text": "mill number{i}"}}\n' for i in range(9)))
    site.store.fail_after = len(site.store.written) + 5
    with pytest.raises(RunError):
        site.index()
    site.store.fail_after = None
    (site.docs / "rows.jsonl").write_text('{"text": "only this"}\n')
    site.index()
    assert sorted(record.text for record in site.records()) == ["# Mill\n\nThe mill grinds wheat.", "only this"]


def test_neighbours_come_from_the_store_too(site: Site) -> None:
    text = " ".join(f"Sentence {i} is about subject{i} alone." for i in range(40))
    (site.docs / "long.txt").write_text(text)
    site.index(splitter="sentence", size=32, overlap=8)
    (found,) = site.search("subject20", mode="bm25", neighbours=1, top_k=1)
    assert found.text in text
    assert "subject17" in found.text
    assert "subject23" in found.text
    (row,) = site.search("wheel", mode="bm25", neighbours=1, top_k=1)
    assert row.text == "a water wheel"


def test_diverse_passages_come_from_the_store_too(site: Site) -> None:
    site.index()
    assert len(site.search("mill wheel", mode="dense", mmr=0.5, top_k=2)) == 2


def test_what_means_nothing_is_refused(site: Site) -> None:
    error = site.fails("index", {"documents": "./docs", "store": "shelf"})
    assert str(error) == "an index in a store needs a name\n  it is searched by index: NAME and store"
    error = site.fails("search", {"query": "x", "documents": "./docs", "store": "shelf"})
    assert str(error) == "a store is searched by the name of an index\n  give index: NAME"
    error = site.fails("search", {"query": "x", "index": "none", "store": "shelf"})
    assert str(error) == "the store has no index 'none'\n  make it with retrieval.index and store"


def test_another_embedder_is_refused(site: Site) -> None:
    site.index()
    site.embedder.fingerprint = "another"
    error = site.fails("search", {"query": "x", "index": "manual", "store": "shelf"})
    assert "the index was made by 'counting', the query by 'another'" in str(error)
    with pytest.raises(RunError) as caught:
        site.index()
    refused = caught.value.failures["s"]
    assert isinstance(refused, FunctionError)
    assert refused.message == "the store's copy of 'manual' is by 'counting', the index by 'another'"
    assert refused.hint == "give the index another name"
