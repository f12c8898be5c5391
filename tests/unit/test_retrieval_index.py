"""Indexing: only what changed is read, only what is new is embedded, and a generation appears whole or not at all."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gristmill import Embedder, FunctionError, Kernel, Passage, RunError, StepNoted, StoreError
from gristmill import model_provider as provider
from gristmill.testing import FakeEmbedder, FakePlugin, check_plugin
from gristmill_plugins.retrieval import RetrievalPlugin
from gristmill_plugins.retrieval import _index_build as build
from gristmill_plugins.retrieval._chunks import Chunker, SplitOptions
from gristmill_plugins.retrieval._index_functions import Indexed
from gristmill_plugins.retrieval._index_progress import Progress
from gristmill_plugins.retrieval._index_walk import walk
from gristmill_plugins.retrieval._store import IndexFile, Stand
from gristmill_plugins.retrieval._store_file import WriterLock
from gristmill_plugins.retrieval._store_file import _version_of as version_of


class Counting(FakeEmbedder):
    """Remembers what it embedded, and can fail in the middle."""

    def __init__(self, fingerprint: str = "counting") -> None:
        self.fingerprint = fingerprint
        self.texts: list[str] = []
        self.fail_after: int | None = None

    async def embed(self, texts: Sequence[str]) -> np.ndarray:
        if self.fail_after is not None and len(self.texts) + len(texts) > self.fail_after:
            raise RuntimeError("the power went out")
        self.texts += texts
        return await super().embed(texts)


class Others:
    """Another embedder, to be declared by a recipe."""

    def __init__(self) -> None:
        self.made = Counting("others")

    @provider(name="vectors")
    def vectors(self) -> Embedder:
        """Other vectors."""
        return self.made


class Desk:
    """A kernel, a folder of documents, and short ways to index and search it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.docs = folder / "handbook"
        self.docs.mkdir()
        self.embedder = Counting()
        self.others = Others()
        self.kernel = self.open()

    def open(self) -> Kernel:
        plugins = {"retrieval": RetrievalPlugin(), "fake": FakePlugin(), "others": self.others}
        made = Kernel(plugins=plugins, cache=False)
        made.registry._scanned = True  # these plugins and no installed ones
        made.memory._default = lambda: self.embedder
        return made

    def write(self, name: str, text: str) -> Path:
        """Write a document whose time stamp is old enough to be trusted."""
        path = self.docs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        before = path.stat().st_mtime_ns - 60 * 10**9
        os.utime(path, ns=(before, before))
        return path

    def call(self, function: str, arguments: str, head: str = "") -> Any:
        recipe = self.folder / "r.yaml"
        recipe.write_text(
            f"version: 1\n{head}steps:\n  s:\n    use: retrieval.{function}\n"
            f"    with: {{{arguments}}}\noutput: ${{s}}\n"
        )
        self.notes: list[str] = []

        def heard(event: Any) -> None:
            if isinstance(event, StepNoted):
                self.notes.append(event.text)

        return self.kernel.recipe(recipe).run_with({}, on_event=heard).output

    def index(self, arguments: str = "", head: str = "") -> Indexed:
        made = self.call("index", "documents: ./handbook" + (f", {arguments}" if arguments else ""), head)
        assert isinstance(made, Indexed)
        return made

    def search(self, query: str, arguments: str = "documents: ./handbook", head: str = "") -> list[Passage]:
        found: list[Passage] = self.call("search", f"query: {query!r}, {arguments}", head)
        return found

    def fails(self, run: Callable[[], Any]) -> BaseException:
        with pytest.raises(RunError) as caught:
            run()
        return caught.value.failures["s"]

    @property
    def index_file(self) -> Path:
        (path,) = (Path(os.environ["XDG_DATA_HOME"]) / "gristmill" / "retrieval").glob("*/index.sqlite3")
        return path


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.kernel.close()


def sources(found: Sequence[Passage]) -> set[str]:
    return {passage.metadata["path"] for passage in found}


def test_the_plugin_keeps_the_contract() -> None:
    check_plugin("retrieval", RetrievalPlugin())


def test_the_doctor_says_what_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = RetrievalPlugin().doctor()
    assert line.status == "ok"
    assert ".pdf" in line.detail
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pypdf" else find_spec(name))
    (line,) = RetrievalPlugin().doctor()
    assert (line.status, line.mend) == ("note", 'pip install "gristmill[retrieval]"')
    assert line.detail == "pypdf not installed: long texts, PDF and DOCX cannot be indexed"


def test_documents_are_indexed_when_first_searched_and_embedded_once(desk: Desk) -> None:
    desk.write("a.md", "# Leave\n\nEveryone has 25 days.\n")
    desk.write("sub/b.txt", "The mill stands on the river.")
    assert desk.search("mill")[0].source == "handbook/sub/b.txt#L1"
    n = len(desk.embedder.texts)
    assert n == 3  # two chunks and the query
    assert desk.search("25 days")[0].text == "# Leave\n\nEveryone has 25 days."
    assert len(desk.embedder.texts) == n + 1


def test_another_process_finds_the_index_as_it_is(desk: Desk) -> None:
    desk.write("a.txt", "the mill")
    desk.index()
    desk.kernel.close()
    desk.kernel, desk.embedder.texts = desk.open(), []
    assert sources(desk.search("mill")) == {"handbook/a.txt"}
    assert desk.embedder.texts == ["mill"]


def test_only_changed_files_are_read_and_only_new_words_embedded(desk: Desk) -> None:
    desk.write("a.txt", "the mill")
    desk.write("b.txt", "the stone")
    first = desk.index()
    assert (first.generation, first.n_files, first.n_passages, first.n_embedded) == (1, 2, 2, 2)
    desk.write("b.txt", "the wheel")
    desk.write("c.txt", "the mill")  # the same words in another file
    second = desk.index()
    assert (second.generation, second.n_passages, second.n_embedded, second.n_reused) == (2, 3, 1, 1)
    assert desk.embedder.texts == ["the mill", "the stone", "the wheel"]
    assert [p.text for p in desk.search("stone", "documents: ./handbook, mode: bm25")] == []
    assert sources(desk.search("mill", "documents: ./handbook, mode: bm25")) == {"handbook/a.txt", "handbook/c.txt"}


def test_a_file_that_was_only_touched_makes_no_generation(desk: Desk) -> None:
    path = desk.write("a.txt", "the mill")
    desk.index()
    os.utime(path, ns=(5 * 10**9, 5 * 10**9))
    assert desk.index().generation == 1
    assert IndexFile(desk.index_file.parent).current()[1]["handbook/a.txt"].modified_ns == 5 * 10**9


def test_a_change_within_the_tick_of_the_clock_is_seen(desk: Desk) -> None:
    path = desk.docs / "a.txt"
    path.write_text("mill")
    stamp = path.stat().st_mtime_ns
    desk.index()
    path.write_text("lock")  # of equal size
    os.utime(path, ns=(stamp, stamp))
    assert [p.text for p in desk.search("lock", "documents: ./handbook, mode: bm25")] == ["lock"]


def test_a_deleted_file_leaves_and_a_renamed_one_is_not_embedded_again(desk: Desk) -> None:
    gone, moved = desk.write("gone.txt", "the mill"), desk.write("old.txt", "the stone")
    desk.index()
    gone.unlink()
    moved.rename(desk.docs / "new.txt")
    after = desk.index()
    assert (after.n_files, after.n_removed, after.n_embedded, after.n_reused) == (1, 2, 0, 1)
    assert sources(desk.search("the mill stone")) == {"handbook/new.txt"}


def test_an_emptied_folder_is_an_empty_index(desk: Desk) -> None:
    path = desk.write("a.txt", "the mill")
    desk.index()
    path.unlink()
    assert desk.index().n_passages == 0
    assert desk.search("mill") == []


def test_a_broken_file_is_reported_and_skipped(desk: Desk) -> None:
    desk.write("good.txt", "the mill")
    (desk.docs / "bad.txt").write_bytes(b"\xff\xfa\x00")
    made = desk.index()
    assert [(s.path, s.reason) for s in made.skipped] == [("handbook/bad.txt", "it is not utf-8: byte 0")]
    assert made.n_files == 1
    assert "skipped handbook/bad.txt: it is not utf-8: byte 0" in desk.notes
    assert sources(desk.search("mill")) == {"handbook/good.txt"}


def test_a_broken_file_is_tried_again_when_indexed_and_not_when_searched(desk: Desk) -> None:
    bad = desk.write("bad.jsonl", "{")
    desk.search("mill")
    assert len(desk.notes) == 1
    desk.search("mill")
    assert desk.notes == []
    assert len(desk.index().skipped) == 1
    desk.write(bad.name, '{"text": "the mill"}')
    assert sources(desk.search("mill")) == {"handbook/bad.jsonl"}


def test_a_broken_file_stops_the_run_if_asked_and_the_old_generation_stays(desk: Desk) -> None:
    desk.write("a.txt", "the mill")
    desk.index()
    desk.write("a.txt", "the stone")
    desk.write("bad.csv", "a,b\n1,2,3\n")
    error = desk.fails(lambda: desk.index("on_error: stop"))
    assert isinstance(error, FunctionError)
    assert str(error) == "handbook/bad.csv: line 2 has 3 cells under 2 names\n  mend it, or on_error: skip"
    assert IndexFile(desk.index_file.parent).stand().generation == 1


def test_files_of_other_kinds_and_hidden_ones_are_left_out(desk: Desk) -> None:
    desk.write("a.txt", "the mill")
    desk.write("picture.png", "x")
    desk.write(".git/config.txt", "the mill")
    made = desk.index()
    assert (made.n_files, made.n_ignored) == (1, 1)


def test_a_file_of_a_kind_that_nothing_reads_is_refused_when_named(desk: Desk) -> None:
    desk.write("picture.png", "x")
    error = desk.fails(lambda: desk.call("index", "documents: ./handbook/picture.png"))
    assert "nothing reads .png" in str(error)
    assert ".md" in str(error)


def test_documents_that_do_not_exist_are_refused(desk: Desk) -> None:
    error = desk.fails(lambda: desk.search("mill", "documents: ./nowhere"))
    assert str(error) == f"the documents {desk.folder / 'nowhere'} do not exist"


def test_no_link_leads_out_of_what_the_recipe_may_read(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.txt").write_text("the secret")
    desk.write("a.txt", "the mill")
    (desk.docs / "link.txt").symlink_to(outside / "secret.txt")
    (desk.docs / "inner.txt").symlink_to(desk.docs / "a.txt")
    (desk.docs / "folder").symlink_to(outside)
    made = desk.index()
    assert made.n_files == 2
    reasons = {skipped.path: skipped.reason for skipped in made.skipped}
    assert "outside what this recipe may read" in reasons["handbook/link.txt"]
    assert reasons["handbook/folder"] == "a link to a folder is not followed"
    assert "the secret" not in desk.embedder.texts


def test_documents_outside_the_recipe_are_refused(desk: Desk) -> None:
    error = desk.fails(lambda: desk.search("mill", "documents: /etc"))
    assert "outside what this recipe may read" in str(error)


def test_several_documents_make_one_index(desk: Desk) -> None:
    one, two = desk.write("one.txt", "the mill"), desk.write("b/two.txt", "the stone")
    found = desk.search("mill stone", "documents: [./handbook/one.txt, ./handbook/b]")
    assert sources(found) == {one.name, f"b/{two.name}"}


def test_folders_of_one_name_are_told_apart(desk: Desk) -> None:
    desk.write("x/docs/a.txt", "the mill")
    desk.write("y/docs/a.txt", "the stone")
    found = desk.search("mill stone", "documents: [./handbook/x/docs, ./handbook/y/docs]")
    assert len(sources(found)) == 2


def test_nothing_is_written_beside_the_documents(desk: Desk) -> None:
    desk.write("a.txt", "the mill")
    desk.search("mill")
    assert [path.name for path in desk.docs.rglob("*")] == ["a.txt"]


def test_a_named_index_is_searched_by_its_name_and_does_not_follow_the_files(desk: Desk) -> None:
    desk.write("a.txt", "the mill")
    assert desk.index("name: manual").index == "manual"
    desk.write("a.txt", "the stone")
    assert desk.search("mill", "index: manual")[0].text == "the mill"
    error = desk.fails(lambda: desk.search("mill", "index: nothing"))
    assert str(error) == "there is no index 'nothing'\n  make it with retrieval.index"


def test_an_index_searched_by_words_alone_embeds_nothing(desk: Desk) -> None:
    desk.write("a.txt", "the mill")
    desk.index("name: manual")
    desk.embedder.texts = []
    assert desk.search("mill", "index: manual, mode: bm25")[0].text == "the mill"
    assert desk.embedder.texts == []


OTHERS = "models: {e: {use: others.vectors}}\n"


def test_an_index_without_vectors_embeds_nothing_and_follows_its_documents(desk: Desk) -> None:
    desk.write("a.txt", "the mill grinds")
    made = desk.index("vectors: false")
    assert (made.n_passages, made.n_embedded) == (1, 0)
    desk.write("b.txt", "the mill stands")
    found = desk.search("mill", "documents: ./handbook, mode: bm25")
    assert sources(found) == {"handbook/a.txt", "handbook/b.txt"}
    assert desk.embedder.texts == []
    for how in ("mode: hybrid", "mode: dense", "mode: bm25, mmr: 0.5"):
        error = desk.fails(partial(desk.search, "mill", f"documents: ./handbook, {how}"))
        assert str(error) == "the index has no vectors\n  search it with mode: bm25, or index with vectors"


def test_vectors_come_and_go_when_an_index_is_made_with_or_without_them(desk: Desk) -> None:
    desk.write("a.txt", "the mill grinds")
    desk.index("vectors: false")
    assert desk.index().n_embedded == 1
    assert desk.search("the mill grinds", "documents: ./handbook, mode: dense")[0].score == pytest.approx(1)
    desk.index("vectors: false")
    with sqlite3.connect(desk.index_file) as connection:
        assert connection.execute("SELECT count(*) FROM vectors").fetchone() == (0,)
    connection.close()
    assert [one.text for one in desk.search("mill", "documents: ./handbook, mode: bm25")] == ["the mill grinds"]


def test_each_embedder_has_an_index_of_its_own(desk: Desk) -> None:
    desk.write("a.txt", "the mill")
    desk.search("mill")
    assert desk.search("mill", "documents: ./handbook, embedder: e", OTHERS)[0].text == "the mill"
    assert desk.others.made.texts == ["mill", "the mill"]
    desk.search("mill")
    assert sorted(desk.embedder.texts) == ["mill", "mill", "the mill"]


def test_a_named_index_refuses_the_vectors_of_another_embedder(desk: Desk) -> None:
    desk.write("a.txt", "the mill")
    desk.index("name: manual")
    error = desk.fails(lambda: desk.search("mill", "index: manual, embedder: e", OTHERS))
    assert str(error) == (
        "the index was made by 'counting', the query by 'others'\n"
        "  name the same embedder, or index again with this one"
    )
    assert desk.index("name: manual, embedder: e", OTHERS).n_embedded == 1
    assert desk.search("mill", "index: manual, embedder: e", OTHERS)[0].text == "the mill"


def test_other_sizes_make_other_passages_and_a_search_keeps_them(desk: Desk) -> None:
    desk.write("a.txt", " ".join(f"Sentence number {i} says little." for i in range(40)))
    assert desk.index().n_passages == 2
    small = desk.index("size: 40, overlap: 0")
    assert small.n_passages == 8
    desk.write("b.txt", " ".join(f"Sentence {i} of another text." for i in range(40)))
    desk.search("sentence")
    again = desk.index("size: 40, overlap: 0")
    assert (again.n_embedded, again.generation) == (0, 3)


def test_a_killed_run_leaves_the_old_generation_and_its_work_is_used_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "BATCH", 4)
    desk.write("a.txt", "the old mill")
    desk.index("splitter: none")
    rows = "".join(f'{{"text": "row number{i}"}}\n' for i in range(30))
    desk.write("rows.jsonl", rows)
    desk.embedder.fail_after = 15
    assert "the power went out" in str(desk.fails(lambda: desk.index("splitter: none")))
    embedded = list(desk.embedder.texts)
    assert len(embedded) == 13
    with sqlite3.connect(desk.index_file) as connection:
        assert connection.execute("SELECT count(*) FROM chunks").fetchone() == (13,)
    connection.close()
    desk.embedder.fail_after = None
    index = IndexFile(desk.index_file.parent)
    assert index.stand().generation == 1
    assert index.count() == (1, 1)
    after = desk.index("splitter: none")
    assert (after.n_passages, after.n_embedded, after.n_reused) == (31, 18, 12)
    assert sorted(desk.embedder.texts) == sorted({*desk.embedder.texts})  # nothing was embedded twice
    assert desk.search("number29", "documents: ./handbook, mode: bm25")[0].source == "handbook/rows.jsonl#L30"


def test_what_is_staged_is_not_found_before_it_is_published(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.write("a.txt", "the mill stands")
    desk.index()
    before = desk.search("mill stands", "documents: ./handbook, mode: bm25")

    def killed(*_: Any) -> None:
        raise RuntimeError("killed")

    desk.write("b.txt", "the mill stands twice")
    monkeypatch.setattr(IndexFile, "publish", killed)
    assert "killed" in str(desk.fails(desk.index))
    index = IndexFile(desk.index_file.parent)
    with index.reading() as connection:
        assert connection is not None
        assert connection.execute("SELECT count(*) FROM chunks").fetchone() == (2,)
        assert connection.execute("SELECT count(*) FROM words WHERE words MATCH 'mill'").fetchone() == (1,)
    monkeypatch.undo()
    (desk.docs / "b.txt").unlink()
    assert desk.search("mill stands", "documents: ./handbook, mode: bm25") == before


def test_a_reader_keeps_its_generation_while_another_is_published(desk: Desk) -> None:
    desk.write("a.txt", "the mill")
    desk.index()
    reader = IndexFile(desk.index_file.parent)
    with reader.reading() as connection:
        assert connection is not None
        n = connection.execute("SELECT count(*) FROM words WHERE words MATCH 'mill'").fetchone()
        desk.write("b.txt", "another mill")
        assert desk.index().generation == 2
        assert connection.execute("SELECT count(*) FROM words WHERE words MATCH 'mill'").fetchone() == n == (1,)
    assert reader.stand().generation == 2


def test_vectors_are_packed_when_many_are_of_no_use(desk: Desk) -> None:
    for i in range(8):
        desk.write(f"{i}.txt", f"text number{i}")
    desk.index()
    before = IndexFile(desk.index_file.parent).stand()
    for i in range(5):
        (desk.docs / f"{i}.txt").unlink()
    desk.index()
    after = IndexFile(desk.index_file.parent).stand()
    assert before.epoch != after.epoch
    with sqlite3.connect(desk.index_file) as connection:
        (numbers,) = connection.execute("SELECT numbers FROM vectors").fetchone()
    connection.close()
    assert len(numbers) // 8 == 3
    found = desk.search("text number6", "documents: ./handbook, mode: dense, top_k: 1")
    assert found[0].text == "text number6"
    assert found[0].score == pytest.approx(1.0)


def test_vectors_follow_additions_and_removals_without_being_read_anew(desk: Desk) -> None:
    for i in range(8):
        desk.write(f"{i}.txt", f"alpha{i}")
    for round_ in range(3):
        (desk.docs / f"{round_}.txt").unlink()
        desk.write(f"new{round_}.txt", f"beta{round_}")
        found = desk.search(f"beta{round_}", "documents: ./handbook, mode: dense, top_k: 20")
        assert found[0].text == f"beta{round_}"
        assert len(found) == 8


def test_an_index_that_was_thrown_away_is_made_anew(desk: Desk) -> None:
    desk.write("a.txt", "the mill")
    desk.search("mill")
    shutil.rmtree(desk.index_file.parent)
    assert desk.search("mill")[0].text == "the mill"


def test_a_damaged_index_says_so(desk: Desk) -> None:
    desk.write("a.txt", "the mill")
    desk.index()
    desk.kernel.close()
    path = desk.index_file
    for log in path.parent.glob("*-wal"):
        log.unlink()
    path.write_bytes(b"not a database" * 1000)
    desk.kernel = desk.open()
    error = desk.fails(lambda: desk.search("mill"))
    assert isinstance(error, StoreError)
    assert (error.cause, error.hint) == ("damaged", "move it away, and it is made anew")
    assert str(path) in error.message


def test_another_programs_file_is_left_alone(desk: Desk) -> None:
    desk.write("a.txt", "the mill")
    desk.index()
    changed(desk, "PRAGMA application_id = 5")
    assert "is no index of gristmill's" in str(desk.fails(lambda: desk.search("mill")))
    assert "is no index of gristmill's" in str(desk.fails(desk.index))


OTHER_TABLES = "ALTER TABLE chunks DROP COLUMN gap"
OTHER_VERSION = "PRAGMA user_version = 1"


def changed(desk: Desk, *statements: str) -> None:
    """Change the index while nobody has it open, and open a kernel again."""
    desk.kernel.close()
    connection = sqlite3.connect(desk.index_file, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()
    desk.kernel = desk.open()


def test_an_index_of_another_version_is_made_anew_from_documents_that_are_there(desk: Desk) -> None:
    desk.write("a.txt", "the mill")
    desk.search("mill")
    changed(desk, OTHER_TABLES, OTHER_VERSION)
    assert [passage.text for passage in desk.search("mill")] == ["the mill"]
    assert desk.embedder.texts.count("the mill") == 2
    desk.search("mill")
    assert desk.embedder.texts.count("the mill") == 2


def test_a_named_index_of_another_version_says_how_it_is_made_anew(desk: Desk) -> None:
    desk.write("a.txt", "the mill")
    desk.index("name: manual")
    changed(desk, OTHER_TABLES, OTHER_VERSION)
    error = desk.fails(lambda: desk.search("mill", "index: manual"))
    assert isinstance(error, StoreError)
    assert error.cause == "version"
    assert error.message == f"{desk.index_file} was made by another version of gristmill"
    assert error.hint == "run retrieval.index for it again: it is made anew from the documents"
    assert desk.index("name: manual").n_embedded == 1
    assert [passage.text for passage in desk.search("mill", "index: manual")] == ["the mill"]


def test_other_tables_are_another_version_and_other_comments_are_not() -> None:
    tables = "CREATE TABLE a (\n    b TEXT  -- words\n)"
    assert version_of(tables) == version_of("CREATE TABLE a ( b TEXT )")
    assert version_of(tables) != version_of("CREATE TABLE a ( b TEXT, c TEXT )")
    assert 0 < version_of(tables) < 2**31  # SQLite keeps it in 32 bits with a sign


def test_a_log_that_was_left_behind_is_not_read_into_the_next_index(desk: Desk) -> None:
    desk.write("a.txt", "the mill")
    desk.search("mill")
    path = desk.index_file
    log = path.with_name(path.name + "-wal")
    assert log.stat().st_size == 0  # published, so all is in the file
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("UPDATE chunks SET text = 'a ghost'")
        left = log.read_bytes()
    other.close()
    desk.kernel.close()
    path.unlink()
    log.write_bytes(left)
    desk.kernel = desk.open()
    assert [passage.text for passage in desk.search("mill")] == ["the mill"]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    one, two = WriterLock(tmp_path / "index"), WriterLock(tmp_path / "index")
    assert one.acquire()
    assert not two.acquire()
    one.release()
    one.release()
    assert two.acquire()
    two.release()


def test_a_cancelled_run_keeps_its_lock_until_its_last_write_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("the mill")
    index = IndexFile(tmp_path / "index")
    entered, let_go = threading.Event(), threading.Event()
    publish = IndexFile.publish

    def slowly(self: IndexFile, *arguments: Any) -> Any:
        entered.set()
        assert let_go.wait(600)
        return publish(self, *arguments)

    monkeypatch.setattr(IndexFile, "publish", slowly)

    async def run() -> None:
        found = walk([tmp_path / "a.txt"], [".txt"], lambda path: path)
        stand = Stand(fingerprint="counting")
        plan = build.Plan(Counting().embed, Chunker(SplitOptions()), {}, "skip", stand)
        notes: list[str] = []
        one = build.Build(index, plan, found, notes.append)
        running = asyncio.ensure_future(one.run(Stand(), {}, found.sources))
        assert await asyncio.to_thread(entered.wait, 600)
        running.cancel()
        done, _ = await asyncio.wait([running], timeout=0.1)
        assert not done
        let_go.set()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(run())
    assert index.stand().generation == 1


def test_an_index_lies_in_the_folder_that_the_settings_name(desk: Desk, tmp_path: Path) -> None:
    desk.write("a.txt", "the mill")
    desk.kernel.close()
    (desk.folder / "gristmill.toml").write_text(f'[plugin.retrieval]\ndirectory = "{tmp_path / "elsewhere"}"\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(desk.folder)
        desk.kernel = desk.open()
        desk.index()
        assert list((tmp_path / "elsewhere").glob("*/index.sqlite3"))
        (desk.folder / "gristmill.toml").write_text('[plugin.retrieval]\ndirectory = "elsewhere"\n')
        desk.kernel.close()
        desk.kernel = desk.open()
        error = desk.fails(desk.index)
    assert str(error) == "[plugin.retrieval] directory is an absolute path, this is 'elsewhere'"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("size: 32, overlap: 32", "overlap is below size: overlap=32, size=32"),
        ("name: ''", "the name of an index is 1 to 200 characters, this is ''"),
        ("readers: {eml: mine}", "readers are by a file's ending, such as .eml, this is 'eml'"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(desk: Desk, arguments: str, told: str) -> None:
    desk.write("a.txt", "the mill")
    assert str(desk.fails(lambda: desk.index(arguments))) == told


def test_an_empty_list_of_documents_is_refused(desk: Desk) -> None:
    assert str(desk.fails(lambda: desk.call("index", "documents: []"))) == "documents is an empty list"


def test_passages_are_measured_in_the_tokens_of_the_model_that_reads_them(desk: Desk) -> None:
    desk.write("a.txt", " ".join(f"Word{i}." for i in range(64)))
    head = "models: {main: {use: fake}}\n"
    made = desk.index("tokens_of: main, size: 16, overlap: 0, splitter: sentence", head)
    assert made.n_passages == 4  # the fake model's tokens are words


def test_progress_has_a_rate_and_the_time_left() -> None:
    told: list[str] = []
    now = [100.0]
    progress = Progress(told.append, n_files=4, n_bytes=1000, clock=lambda: now[0])
    progress.file_done(100)
    assert told == []  # a short run says nothing
    now[0] += 10
    progress.chunks_done(500, 150)
    assert told == ["indexing: 1 of 4 files, 500 passages (50/s), about 30 s left"]
    now[0] += 90
    progress.file_done(0)
    assert told[1] == "indexing: 2 of 4 files, 500 passages (5/s), about 15 min 0 s left"
    progress.publishing()
    assert told[2] == "indexing: publishing 500 passages"
