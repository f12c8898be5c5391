"""What memory and its SQLite file promise beyond the contract of all stores: refusals, files, versions, full disks.

The contract, for SQLite too, is tests/integration/test_memory_stores.py.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gristmill import (
    CollectionInfo,
    CollectionName,
    Kernel,
    Memory,
    PluginError,
    SqliteStore,
    StoredRecord,
    StoreError,
    UsageError,
)
from gristmill._memory._file import HeldFile
from gristmill._memory._schema import APPLICATION_ID, STEPS, TOLD, open_existing, open_file
from gristmill.sqlite import explained
from gristmill.testing import FakeEmbedder, FakeModel

HERE = CollectionName("default", "c")


class Other(FakeEmbedder):
    """Another vector space: the same vectors, turned."""

    fingerprint = "other"

    async def embed(self, texts: Sequence[str]) -> np.ndarray:
        return np.asarray(np.roll(self.vectors(texts), 1, axis=1)[:, :32])


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    with Kernel(memory=tmp_path / "memory", cache=False) as made:
        made.memory._default = FakeEmbedder
        yield made


@pytest.fixture
def memory(kernel: Kernel) -> Memory:
    return kernel.memory


def texts(records: Sequence[StoredRecord]) -> list[str]:
    return [record.text for record in records]


def test_the_same_text_twice_is_one_record_and_an_id_is_replaced(memory: Memory) -> None:
    first = memory.remember("c", ["same", "same"], metadata={"n": 1})
    assert memory.remember("c", "same", metadata={"n": 2}) == first[:1] == first[1:]
    memory.remember("c", "before", id="x")
    memory.remember("c", "after", id="x")
    assert [(record.text, record.metadata) for record in memory.list("c")] == [("same", {"n": 2}), ("after", {})]
    assert memory.recall("c", "before", mode="lexical") == []


def test_several_texts_have_metadata_and_ids_of_their_own(memory: Memory) -> None:
    memory.remember("c", ["a", "b"], metadata=[{"n": 1}, {"n": 2}], id=["x", "y"])
    assert [(r.id, r.metadata["n"]) for r in memory.list("c")] == [("x", 1), ("y", 2)]
    assert memory.remember("c", []) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"text": " "}, "a record's text is one that is not empty, this is ' '"),
        ({"text": 3}, "'int' object is not iterable"),
        ({"text": "a\ud800"}, r"a record's text holds half a character at 1: '\\ud800'"),
        ({"text": "a", "id": " "}, "an id is a text of 1 to 200 characters without NUL, this is ' '"),
        ({"text": "a", "id": "a\x00"}, r"an id is a text of 1 to 200 characters without NUL, this is 'a\\x00'"),
        ({"text": ["a", "b"], "id": "x"}, "one id for 2 texts\n  give a list, or leave it out"),
        ({"text": ["a", "b"], "metadata": [{}]}, "1 of metadata for 2 texts\n  give one for each text"),
        ({"text": "a", "metadata": {"x": float("nan")}}, "metadata is JSON data: "),
        ({"text": "a", "metadata": {"x": object()}}, "metadata is JSON data: "),
        ({"text": "a", "metadata": {"x": "\ud800"}}, "metadata holds half a character"),
        ({"text": "a", "expires_s": 0}, "expires_s is a number of seconds above 0, this is 0"),
        (
            {"text": "a", "collection": "a\nb"},
            r"the name of a collection is 1 to 200 printable characters, this is 'a\\nb'",
        ),
        ({"text": "a", "namespace": " a"}, "the name of a namespace is 1 to 200 printable characters, this is ' a'"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_the_reason(memory: Memory, arguments: dict[str, Any], told: str) -> None:
    with pytest.raises((UsageError, TypeError), match=told):
        memory.remember(**({"collection": "c"} | arguments))
    assert memory.collections() == []


def test_expires_s_counts_from_now(memory: Memory) -> None:
    memory.remember("c", "for an hour", expires_s=3600)
    (record,) = memory.list("c")
    assert record.expires == pytest.approx(time.time() + 3600, abs=60)


def test_re_embedding_what_is_not_there_is_refused(memory: Memory) -> None:
    memory.remember("notes", "x")
    told = "there is no collection 'note'\n  did you mean 'notes'"
    with pytest.raises(UsageError, match=told):
        memory.re_embed("note")
    with pytest.raises(UsageError, match=told):
        memory.export("note", "x.jsonl")


def test_without_an_embedder_records_are_found_by_words(kernel: Kernel) -> None:
    def none() -> FakeEmbedder:
        raise PluginError("WordLlama's embeddings need wordllama", hint='pip install "gristmill[memory]"')

    kernel.memory._default = none
    memory = kernel.memory
    memory.remember("c", "the mill")
    assert texts(memory.recall("c", "mill", mode="lexical")) == ["the mill"]
    for mode in ("hybrid", "dense"):
        with pytest.raises(PluginError, match=r'pip install "gristmill\[memory\]"'):
            memory.recall("c", "mill", mode=mode)
    with pytest.raises(UsageError, match="mmr compares vectors, and the records of 'c' have none"):
        memory.recall("c", "mill", mode="lexical", mmr=0.5)
    memory._default = FakeEmbedder
    for call in (memory.remember, memory.recall):
        with pytest.raises(UsageError) as caught:
            call("c", "mill")
        assert str(caught.value) == (
            "the records of collection 'c' have no vectors\n"
            "  search it with mode lexical, or make them: gristmill memory re-embed c --embedder NAME"
        )
    assert memory.re_embed("c") == 1
    assert texts(memory.recall("c", "mill")) == ["the mill"]


def test_a_collection_with_vectors_takes_no_record_without(memory: Memory) -> None:
    memory.remember("c", "a", namespace="ada")
    store = memory.store
    assert isinstance(store, SqliteStore)
    with pytest.raises(UsageError, match=r"no embedder was given\n.*re-embed c --namespace ada --embedder NAME"):
        store._upsert(CollectionName("ada", "c"), [StoredRecord(id="b", text="b")], None, None)


def test_an_emptied_collection_may_change_its_embedder(memory: Memory) -> None:
    (first,) = memory.remember("c", "a")
    memory.recall("c", "a")
    assert memory.forget("c", first) == 1
    memory.remember("c", "a b", embedder=Other())
    assert texts(memory.recall("c", "a b", embedder=Other(), mode="dense")) == ["a b"]


def test_vectors_that_fit_nothing_are_refused(memory: Memory) -> None:
    class Wrong(FakeEmbedder):
        made = np.zeros((2, 4), np.float32)

        async def embed(self, texts: Sequence[str]) -> np.ndarray:
            return self.made

    with pytest.raises(UsageError, match=r"the embedder made \(2, 4\) for 1 texts\n  it returns \(n, dim\) float32"):
        memory.remember("c", "a", embedder=Wrong())
    Wrong.made = np.full((1, 4), np.nan, np.float32)
    with pytest.raises(UsageError, match="1 vectors of finite numbers are wanted"):
        memory.remember("c", "a", embedder=Wrong())
    memory.remember("c", "a")
    Wrong.made = np.zeros((1, 4), np.float32)
    with pytest.raises(UsageError, match="collection 'c' has vectors of 64 dimensions, these have 4"):
        memory.remember("c", "b", embedder=Wrong())
    assert texts(memory.list("c")) == ["a"]


def test_forget_takes_ids_or_everything_and_not_both(memory: Memory) -> None:
    one, _ = memory.remember("c", ["a", "b"])
    both: list[dict[str, Any]] = [{}, {"ids": one, "all": True}]
    for arguments in both:
        with pytest.raises(UsageError, match="forget takes ids, or all=True for everything in the collection"):
            memory.forget("c", **arguments)
    assert memory.forget("c", [one, one, "none"]) == 1
    assert texts(memory.recall("c", "a b", top_k=9)) == ["b"]
    assert memory.forget("nothing", all=True) == 0


def test_lists_come_in_pages(memory: Memory) -> None:
    memory.remember("c", [f"t{n}" for n in range(7)])
    assert texts(memory.list("c", offset=2, limit=3)) == ["t2", "t3", "t4"]
    with pytest.raises(UsageError, match="offset and limit are from 0, these are -1 and 100"):
        memory.list("c", offset=-1)


def test_a_file_goes_out_and_comes_back_the_same(memory: Memory, tmp_path: Path) -> None:
    memory.remember("c", ["a\nb\u2028c", "é🧮"], metadata=[{"n": 1}, {"x": [None]}], expires_s=9999)
    assert memory.export("c", tmp_path / "c.jsonl") == 2
    assert memory.import_("copy", tmp_path / "c.jsonl", namespace="ada") == 2
    assert memory.import_("copy", tmp_path / "c.jsonl", namespace="ada") == 2
    assert memory.list("copy", namespace="ada") == memory.list("c")
    assert texts(memory.recall("copy", "é🧮", namespace="ada", top_k=1)) == ["é🧮"]
    assert "vector" not in (tmp_path / "c.jsonl").read_text()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", r"bad.jsonl:2: no JSON: "),
        ("[" * 100_000, r"bad.jsonl:2: no JSON: "),
        ('{"text": "a", "metadata": {"x": NaN}}', r"bad.jsonl:2: no JSON: NaN is no number"),
        ('{"id": "a"}', r"bad.jsonl:2: a record needs a `text`, this is \{\"id\": \"a\"\}"),
        ('{"text": "a", "colour": 1}', r"bad.jsonl:2: colour: Extra inputs are not permitted"),
        ('{"text": "a", "id": 3}', r"bad.jsonl:2: id: Input should be a valid string"),
        ('{"text": "a", "id": " "}', r"bad.jsonl:2: an id is a text of 1 to 200 characters"),
        ('{"text": "a\\ud800"}', r"bad.jsonl:2: "),
    ],
)
def test_a_line_that_is_no_record_is_named_and_nothing_is_kept(
    memory: Memory, tmp_path: Path, line: str, told: str
) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "good"}\n' + line)
    with pytest.raises(UsageError, match=told):
        memory.import_("c", tmp_path / "bad.jsonl")
    assert memory.collections() == []


def test_files_that_cannot_be_read_or_written_are_named(memory: Memory, tmp_path: Path) -> None:
    memory.remember("c", "a")
    with pytest.raises(UsageError, match=r"none.jsonl cannot be read: No such file"):
        memory.import_("c", tmp_path / "none.jsonl")
    (tmp_path / "latin").write_bytes(b"\xe9")
    with pytest.raises(UsageError, match="latin is not UTF-8: byte 0\n  save it as UTF-8"):
        memory.import_("c", tmp_path / "latin")
    with pytest.raises(UsageError, match="cannot be written: No such file"):
        memory.export("c", tmp_path / "no" / "folder")


async def test_every_call_has_an_awaited_face(memory: Memory, tmp_path: Path) -> None:
    (one,) = await memory.aremember("c", "the mill")
    assert texts(await memory.arecall("c", "mill")) == texts(await memory.alist("c")) == ["the mill"]
    assert [info.name for info in await memory.acollections()] == ["c"]
    assert await memory.aexport("c", tmp_path / "x") == await memory.aimport("d", tmp_path / "x") == 1
    assert await memory.are_embed("c", Other()) == await memory.aforget("c", one) == 1


def test_vectors_of_a_model_come_from_the_prompt_cache(tmp_path: Path) -> None:
    asked: list[str] = []

    class Embedding(FakeModel):
        async def embed(self, texts: Sequence[str]) -> np.ndarray:
            asked.extend(texts)
            return await super().embed(texts)

    with Kernel(memory=tmp_path) as kernel:
        model = Embedding()
        kernel.memory.remember("c", ["a", "b", "a"], id=["1", "2", "3"], embedder=model)
        assert asked == ["a", "b"]
        assert texts(kernel.memory.recall("c", "b", mode="dense", top_k=1, embedder=model)) == ["b"]
        assert asked == ["a", "b"]


def test_vectors_of_any_embedder_are_cached_unless_it_outruns_the_cache(tmp_path: Path) -> None:
    class Counting(FakeEmbedder):
        asked = 0

        async def embed(self, texts: Sequence[str]) -> np.ndarray:
            self.asked += len(texts)
            return await super().embed(texts)

    class Fast(Counting):
        fingerprint = "fast"
        outruns_cache = True

    with Kernel(memory=tmp_path) as kernel:
        for embedder, asked in ((Counting(), 2), (Fast(), 4)):
            for _ in range(2):
                kernel.memory.remember(embedder.fingerprint, ["a", "b"], embedder=embedder)
            assert embedder.asked == asked


def test_a_file_of_an_older_version_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "memory.sqlite3"
    old = open_file(path, steps=STEPS[:1])
    old.execute("INSERT INTO collections (namespace, name, epoch) VALUES ('default', 'c', 7)")
    old.execute(
        "CREATE VIRTUAL TABLE words_1 USING fts5(text, content='', tokenize='porter unicode61 remove_diacritics 2')"
    )
    for number, (text, metadata) in enumerate([("the mill", {"n": 1}), ("the belt", {"n": 2})], start=1):
        values = (number, str(number), text, json.dumps(metadata), 5.0)
        old.execute("INSERT INTO records VALUES (?, 1, ?, ?, ?, ?, NULL, NULL)", values)
        old.execute("INSERT INTO words_1 (rowid, text) VALUES (?, ?)", (number, text))
    old.close()
    with Kernel(memory=tmp_path, cache=False) as kernel:
        kernel.memory._default = FakeEmbedder
        assert texts(kernel.memory.list("c", where={"n": 2})) == ["the belt"]
        assert texts(kernel.memory.recall("c", "mill", mode="lexical")) == ["the mill"]
        assert kernel.memory.re_embed("c") == 2
        assert kernel.memory.collections() == [
            CollectionInfo(namespace="default", name="c", n_records=2, embedder="fake-embedder", dim=64)
        ]


def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "memory.sqlite3"
    newer = open_file(path)
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    for open_ in (open_file, open_existing):
        with pytest.raises(
            StoreError, match=f"version 99, this gristmill reads version {len(STEPS)}\n  upgrade"
        ) as told:
            open_(path)
        assert told.value.cause == "version"
    old = tmp_path / "old.sqlite3"
    open_file(old, steps=STEPS[:1]).close()
    with pytest.raises(StoreError, match=r"has version 1, .*\n  open it once where it can be written"):
        open_existing(old)


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "memory.sqlite3"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (x)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(
        StoreError, match=r"is a database of another program\n  give memory a folder of its own: \[memory\]"
    ):
        open_file(path)
    assert path.read_bytes() == before


def damaged(path: Path) -> None:
    path.write_bytes(b"no database at all " * 400)


def locked_out(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_text("a file where the folder should be")


@pytest.mark.parametrize(
    ("harm", "cause", "told"),
    [
        (damaged, "damaged", "the file is no database\n  restore a copy, or move it away to begin anew"),
        (locked_out, "io", "Not a directory\n  name another folder"),
    ],
)
def test_a_store_that_cannot_be_used_refuses_loudly(tmp_path: Path, harm: Any, cause: str, told: str) -> None:
    folder = tmp_path / "memory"
    folder.mkdir()
    harm(folder / "memory.sqlite3")
    with Kernel(memory=folder, cache=False) as kernel:
        kernel.memory._default = FakeEmbedder
        with pytest.raises(StoreError, match=told) as caught:
            kernel.memory.remember("c", "a")
        assert caught.value.cause == cause
        assert caught.value.store.endswith("memory.sqlite3")


def test_a_full_disk_refuses_and_keeps_what_was_there(memory: Memory) -> None:
    memory.remember("c", "kept")
    store = memory.store
    assert isinstance(store, SqliteStore)
    with store._writer.writing() as connection:
        assert connection is not None
    connection.execute(f"PRAGMA max_page_count = {connection.execute('PRAGMA page_count').fetchone()[0]}")
    with pytest.raises(StoreError, match="the disk is full\n  make room, then try again") as caught:
        memory.remember("c", [f"{n} " * 2000 for n in range(50)])
    assert caught.value.cause == "full"
    assert texts(memory.list("c")) == ["kept"]
    connection.execute("PRAGMA max_page_count = 1073741823")
    memory.remember("c", "more")
    assert texts(memory.recall("c", "kept more", top_k=9)) == ["kept", "more"]


def test_a_read_only_file_can_be_searched_and_refuses_writes(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.remember("c", "kept")
    store = memory.store
    assert isinstance(store, SqliteStore)
    store._close()

    def refuse(path: Path) -> None:
        with explained(path, TOLD):
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("gristmill._memory._file.open_file", refuse)
    assert texts(memory.recall("c", "kept")) == ["kept"]
    with pytest.raises(StoreError, match=r"Permission denied\n  name another folder: \[memory\] directory") as caught:
        memory.remember("c", "more")
    assert caught.value.cause == "read_only"


@pytest.mark.parametrize(
    ("code", "cause", "told"),
    [
        (
            sqlite3.SQLITE_READONLY,
            "read_only",
            "it cannot be written\n  make it writable, or name another folder",
        ),
        (sqlite3.SQLITE_BUSY, "locked", "another process held it for 30 s\n  try again"),
        (sqlite3.SQLITE_CORRUPT, "damaged", "the file is damaged\n  restore a copy"),
        (sqlite3.SQLITE_CANTOPEN, "io", "it cannot be opened\n  look at its folder"),
        (sqlite3.SQLITE_IOERR, "io", "disk I/O error\n  look at its folder and its disk"),
    ],
)
def test_errors_of_sqlite_say_what_to_do(tmp_path: Path, code: int, cause: str, told: str) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code | (1 << 8)
    with pytest.raises(StoreError, match=told) as caught, explained(tmp_path / "m", TOLD):
        raise error
    assert (caught.value.cause, caught.value.store) == (cause, str(tmp_path / "m"))


def test_a_record_whose_row_was_damaged_is_named(memory: Memory) -> None:
    memory.remember("c", "a", id="x")
    store = memory.store
    assert isinstance(store, SqliteStore)
    with store._writer.writing() as connection:
        connection.execute("UPDATE records SET metadata = '{'")
    with pytest.raises(StoreError, match="record 'x' of memory is damaged: "):
        memory.list("c")


def test_a_folder_that_was_deleted_is_begun_anew(memory: Memory, tmp_path: Path) -> None:
    memory.remember("c", ["old one", "old two"])
    memory.recall("c", "old")
    for file in (tmp_path / "memory").iterdir():
        file.unlink()
    assert memory.recall("c", "old") == []
    memory.remember("c", ["new one", "new two", "new three"])
    assert sorted(texts(memory.recall("c", "new", mode="dense", top_k=9))) == ["new one", "new three", "new two"]


@pytest.mark.skipif(sys.platform == "win32", reason="fork")
@pytest.mark.filterwarnings("ignore:This process")
def test_a_forked_process_has_a_connection_of_its_own(tmp_path: Path) -> None:
    held = HeldFile(tmp_path / "memory.sqlite3")
    with held.writing() as connection:
        parent = connection
        child = os.fork()
        if child == 0:  # while the parent's thread holds the lock and a transaction
            with held.reading() as mine:
                os._exit(0 if mine is not None and mine is not parent else 1)
        assert os.waitpid(child, 0)[1] == 0
    held.close()


def test_the_folder_is_private_and_nothing_is_made_by_reading(memory: Memory, tmp_path: Path) -> None:
    assert memory.recall("c", "a") == memory.list("c") == []
    assert memory.collections() == []
    assert memory.forget("c", all=True) == 0
    assert not (tmp_path / "memory").exists()
    memory.remember("c", "a")
    assert (tmp_path / "memory").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "memory" / "memory.sqlite3").stat().st_mode & 0o777 == 0o600
    assert APPLICATION_ID < 2**31


def test_the_settings_say_where_memory_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gristmill.toml").write_text("[memory]\ndirectory = 'here'\n")
    monkeypatch.chdir(tmp_path)
    with Kernel(cache=False) as kernel:
        kernel.memory._default = FakeEmbedder
        kernel.memory.remember("c", "a")
    assert (tmp_path / "here" / "memory.sqlite3").is_file()
    monkeypatch.chdir(tmp_path.parent)
    assert Kernel(cache=False).settings.memory_directory.parts[-2:] == ("gristmill", "memory")


def test_matrices_in_memory_are_bounded(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gristmill._memory._store.MOST_MATRIX_BYTES", 1)
    for name in ("a", "b"):
        memory.remember(name, "text")
    for name in ("a", "b", "a"):
        assert texts(memory.recall(name, "text")) == ["text"]
    store = memory.store
    assert isinstance(store, SqliteStore)
    assert len(store._matrices) == 1


def test_what_a_write_keeps_is_said_once_for_all_stores() -> None:
    from gristmill.stores import batch_of

    records = [StoredRecord(id="a", text="first"), StoredRecord(id="b", text="b"), StoredRecord(id="a", text="last")]
    kept, dim = batch_of(records, [[1, 0], [0, 1], [0, 2]])
    assert [(record.text, row.tolist()) for record, row in kept] == [("last", [0, 2]), ("b", [0, 1])]
    assert dim == 2
    assert batch_of(records, None) == ([(records[2], None), (records[1], None)], None)
    with pytest.raises(UsageError, match=r"3 vectors of finite numbers are wanted, these are \(2, 2\)"):
        batch_of(records, [[1, 0], [0, 1]])
