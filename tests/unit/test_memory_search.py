"""What recall finds: the same as looking at every record, whatever the query and the way of fusing.

What every store does alike, filters among it, is tested in tests/integration/test_memory_stores.py.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill import CollectionName, Hit, Kernel, Memory, SqliteStore, StoredRecord, StoreQuery, UsageError
from gristmill._memory._rank import diversify, fuse
from gristmill._memory._words import match_expression
from gristmill.testing import FakeEmbedder

HERE = CollectionName("default", "c")
HOSTILE = [
    "GM-2041", "?", '"', '""', "'", "NEAR(", "NEAR(a b, 5)", "*", "a*", "^a", "a:b", "text:a", "-a", "a AND", "OR",
    "NOT", "AND OR NOT", "(", ")", "()", "{a b}", "+", "\\", "%", "_", ";DROP TABLE records;--", "\x00", "a\x00b",
    "\ud800", "é", "日本語", "🧮", "\u202e", "\ufeff", "a" * 5000, "word " * 3000, "'; SELECT 1; --", "${x}",
    "{% raw %}", "<b>", "\n\t\r", "`", "||", "1e309", "-0", "NaN", "a.b.c", "C++", "#hash", "@home", "/etc/passwd",
    "C:\\x", "--", "/*", "*/", "\x1b[31m",
]  # fmt: skip


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with Kernel(memory=tmp_path / "memory", cache=False) as kernel:
        kernel.memory._default = FakeEmbedder
        yield kernel.memory


@pytest.fixture
def mill(memory: Memory) -> Memory:
    facts: list[dict[str, Any]] = [
        {"kind": "place", "year": 1850},
        {"kind": "rule", "year": 2020, "tags": ["leave", "pay"]},
        {"kind": "error"},
    ]
    texts = ["the mill stands on the river", "everyone has 25 days of leave", "error GM-2041 means the belt slipped"]
    memory.remember("c", texts, metadata=facts, id=["mill", "leave", "belt"])
    return memory


def ids(records: Sequence[StoredRecord]) -> list[str]:
    return [record.id for record in records]


@pytest.mark.parametrize("mode", ["hybrid", "lexical", "dense"])
def test_any_text_is_a_query_and_can_be_kept(memory: Memory, mode: Any) -> None:
    for n, query in enumerate(HOSTILE):
        text = query.replace("\ud800", "x").strip() or "x"
        memory.remember(f"c{n}", [text, "something else"], metadata={query.replace("\ud800", "x"): "value"})
        found = memory.recall(f"c{n}", query, mode=mode)
        assert all(isinstance(record.score, float) and math.isfinite(record.score) for record in found)
        if mode == "lexical" and any(character.isalnum() for character in query) and "\x00" not in query:
            assert text in [record.text for record in found]
        assert len(memory.list(f"c{n}", where={query.replace("\ud800", "x"): "value"})) == 2


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_no_text_makes_an_expression_that_fts5_refuses(text: str) -> None:
    import sqlite3

    expression = match_expression(text)
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE VIRTUAL TABLE words USING fts5(text, tokenize='porter unicode61 remove_diacritics 2')")
    connection.execute("INSERT INTO words VALUES ('a b c')")
    if expression is not None:
        connection.execute("SELECT bm25(words) FROM words WHERE words MATCH ?", (expression,)).fetchall()
    connection.close()


def test_words_that_every_text_has_do_not_drown_those_that_tell() -> None:
    assert match_expression("where is the mill?") == '"mill?"'
    assert match_expression("who is it") == '"who" OR "is" OR "it"'
    assert match_expression(' ?! "" ') is None


UNIT = st.integers(0, 2**31).map(lambda seed: np.random.default_rng(seed))


@contextmanager
def fresh_store() -> Iterator[SqliteStore]:
    """Give each example of a property a store of its own."""
    with tempfile.TemporaryDirectory() as folder:
        store = SqliteStore(folder)
        yield store
        store._close()


@settings(max_examples=25, deadline=None)
@given(UNIT, st.integers(1, 60), st.integers(1, 12))
def test_dense_search_equals_brute_force_through_writes_and_deletes(
    random: np.random.Generator, n: int, top_k: int
) -> None:
    with fresh_store() as store:
        _compare_with_brute_force(store, random, n, top_k)


def _compare_with_brute_force(store: SqliteStore, random: np.random.Generator, n: int, top_k: int) -> None:
    alive: dict[str, np.ndarray] = {}
    for turn in range(3):
        vectors = _unit(random, n)
        names = [f"r{random.integers(80)}" for _ in range(n)]
        records = [StoredRecord(id=name, text=f"t {name}", metadata={"turn": turn}) for name in names]
        store._upsert(HERE, records, vectors, "e")
        alive |= dict(zip(names, vectors, strict=True))
        gone = [name for name in sorted(alive) if random.random() < 0.3]
        SqliteStore.delete.__wrapped__(store, HERE, gone)  # type: ignore[attr-defined]
        alive = {name: vector for name, vector in alive.items() if name not in gone}
        query = _unit(random, 1)[0]
        hits = SqliteStore.search.__wrapped__(store, HERE, StoreQuery(top_k, query, "e"))  # type: ignore[attr-defined]
        expected = sorted(((float(vector @ query), name) for name, vector in alive.items()), reverse=True)[:top_k]
        assert [hit.record.id for hit in hits] == [name for _, name in expected]
        assert [hit.dense for hit in hits] == pytest.approx([score for score, _ in expected], abs=1e-6)


def _unit(random: np.random.Generator, n: int) -> np.ndarray:
    vectors = random.standard_normal((n, 8)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def test_a_range_of_several_values_holds_for_one_of_them(mill: Memory) -> None:
    assert ids(mill.recall("c", "the", where={"year": {"min": 2000}})) == ["leave"]
    assert ids(mill.recall("c", "the", where={"kind": ["place", "error"], "year": {"max": 1900}})) == ["mill"]
    assert ids(mill.recall("c", "the", where={"tags": "pay"})) == ["leave"]
    assert mill.recall("c", "the", where={"tags": []}) == []
    assert ids(mill.recall("c", "the", where={"year": list(range(5000))}, top_k=9)) == ["mill", "leave"]
    assert len(mill.list("c", ids=[str(n) for n in range(50_000)] + ["mill"])) == 1
    assert mill.forget("c", [str(n) for n in range(50_000)]) == 0


def test_filters_that_mean_nothing_are_refused_even_where_there_is_nothing(memory: Memory) -> None:
    told = r"the filter 'x' cannot be .*\n  give a text, a number, a boolean or null; a list of them; or \{min"
    for wanted in ({}, {"min": None}, {"least": 1}, {"min": 1, "max": "a"}, [[1]], {"min": True}, [{"min": 1}]):
        with pytest.raises(UsageError, match=told):
            memory.recall("nothing", "q", where={"x": wanted})
    with pytest.raises(UsageError, match="the filter 'x' has 10001 values, the most is 10000"):
        memory.list("nothing", where={"x": list(range(10_001))})
    where: Any = {1: "x"}
    with pytest.raises(UsageError, match="a metadata key is text, this is 1"):
        memory.list("nothing", where=where)


def _hit(name: str, dense: float | None, lexical: float | None, vector: Sequence[float] = (1.0, 0.0)) -> Hit:
    return Hit(StoredRecord(id=name, text=name), dense, lexical, np.array(vector, np.float32))


def test_minmax_scales_each_side_and_weighs_them() -> None:
    hits = [_hit("a", 0.9, None), _hit("b", 0.5, 4.0), _hit("c", 0.1, 8.0)]
    fused = {hit.record.id: score for hit, score in fuse(hits, fusion="minmax", dense_weight=0.25)}
    assert fused == pytest.approx({"a": 0.25, "b": 0.25 * 0.5 + 0.75 * 0.5, "c": 0.75})


def test_reciprocal_ranks_count_places_and_not_scores() -> None:
    hits = [_hit("a", 0.9, None), _hit("b", 0.89, 100.0), _hit("c", -1.0, 1.0)]
    fused = {hit.record.id: score for hit, score in fuse(hits, fusion="rrf", dense_weight=0.5)}
    assert fused == pytest.approx({"a": 0.5, "b": 0.5 * 61 / 62 + 0.5, "c": 0.5 * 61 / 63 + 0.5 * 61 / 62})


def test_one_hit_that_both_sides_found_scores_1() -> None:
    assert [score for _, score in fuse([_hit("a", 0.2, 0.1)], fusion="minmax", dense_weight=0.3)] == pytest.approx(
        [1.0]
    )


def test_marginal_relevance_passes_over_what_says_the_same_again() -> None:
    hits = [(_hit("a", 1, None), 1.0), (_hit("again", 1, None), 0.99), (_hit("b", 0, None, (0, 1)), 0.5)]
    assert [hit.record.id for hit, _ in diversify(hits, 2, 0.5)] == ["a", "b"]
    assert [hit.record.id for hit, _ in diversify(hits, 3, 1.0)] == ["a", "again", "b"]
    assert diversify([], 3, 0.5) == []


def test_a_minimum_score_leaves_out_the_rest(mill: Memory) -> None:
    everything = mill.recall("c", "mill river", mode="dense")
    least = everything[0].score
    assert ids(mill.recall("c", "mill river", mode="dense", min_score=least)) == ["mill"]
    assert mill.recall("c", "mill river", mode="dense", min_score=1.1) == []


def test_nothing_is_found_by_an_empty_query_or_where_nothing_is(mill: Memory) -> None:
    assert mill.recall("c", " \n") == []
    assert mill.recall("other", "mill") == []
    assert mill.list("other") == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"top_k": 0}, "top_k is a whole number from 1, this is 0"),
        ({"mode": "densely"}, "'densely' is no mode\n  did you mean 'dense'"),
        ({"fusion": "max"}, "'max' is no fusion"),
        ({"mmr": 2}, "mmr is a number from 0 to 1, this is 2"),
        ({"dense_weight": -1}, "dense_weight is a number from 0 to 1, this is -1"),
        ({"namespace": ""}, "the name of a namespace is 1 to 200 printable characters, this is ''"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(mill: Memory, arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        mill.recall("c", "mill", **arguments)


# the approximate index


@pytest.fixture
def large(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> Memory:
    """Enough records for an index, by a lower bar."""
    from gristmill._memory import _approximate

    monkeypatch.setattr(_approximate, "FEWEST", 50)
    memory.remember("c", [f"stone {n} mill" for n in range(60)], id=[str(n) for n in range(60)])
    return memory


def test_an_index_finds_what_a_scan_finds_and_what_came_after_it(large: Memory) -> None:
    queries = ("stone 7 mill", "7 mill", "stone 41")
    before = [_first(large, query, mode) for query in queries for mode in ("dense", "hybrid")]
    assert large.index("c") == 60
    store = large.store
    assert isinstance(store, SqliteStore)
    store._matrices.clear()
    after = [_first(large, query, mode) for query in queries for mode in ("dense", "hybrid")]
    assert after == before
    assert [(m.n, after > 0) for (_, after), m in store._matrices.items()] == [(0, True)], "the index was not asked"
    large.remember("c", ["a new stone 7 mill", "stone replaced"], id=["new", "3"])
    large.forget("c", ["7"])
    found = ids(large.recall("c", "a new stone 7 mill", mode="dense", top_k=99))
    assert found[0] == "new"
    assert "7" not in found
    assert len(found) == len(set(found)) == 60
    assert large.recall("c", "stone replaced", mode="dense", top_k=1)[0].text == "stone replaced"
    assert [after > 0 for _, after in store._matrices] == [True]


def _first(memory: Memory, query: str, mode: Any) -> tuple[str, list[float | None]]:
    """The best record, and the scores of the first five: records that score alike may come in any order."""
    found = memory.recall("c", query, mode=mode)
    return found[0].id, [None if record.score is None else round(record.score, 5) for record in found]


def test_an_index_is_asked_by_other_processes_and_mmr_and_left_for_filters(large: Memory) -> None:
    large.remember("c", "stone of a kind", metadata={"kind": "x"}, id="x")
    large.index("c")
    with Kernel(memory=SqliteStore(Path(large.store.path).parent), cache=False) as kernel:  # type: ignore[attr-defined]
        kernel.memory._default = FakeEmbedder
        assert ids(kernel.memory.recall("c", "stone of a kind", mode="dense", top_k=1)) == ["x"]
        assert len(kernel.memory.recall("c", "stone", top_k=3, mmr=0.5)) == 3
        assert all(after for _, after in kernel.memory.store._matrices)  # type: ignore[attr-defined]
        assert ids(kernel.memory.recall("c", "stone", where={"kind": "x"}, mode="dense")) == ["x"]


def test_an_index_of_another_state_or_that_is_damaged_is_not_used(large: Memory) -> None:
    large.index("c")
    store = large.store
    assert isinstance(store, SqliteStore)
    (file,) = (store.path.with_name(store.path.name + ".indexes")).glob("*.usearch")
    file.write_bytes(b"x" * 100)
    assert len(large.recall("c", "stone 7 mill", mode="dense")) == 5
    assert store._matrices
    large.index("c")
    large.re_embed("c")
    store._matrices.clear()
    assert len(large.recall("c", "stone 7 mill", mode="dense")) == 5
    assert store._matrices


def test_what_an_index_cannot_be_made_of_is_told(memory: Memory) -> None:
    memory.remember("c", "one")
    with pytest.raises(UsageError, match="collection 'c' has 1 records, and an index is slower below 50000"):
        memory.index("c")
    with pytest.raises(UsageError, match="there is no collection 'd'"):
        memory.index("d")


def test_an_index_is_extended_by_what_came_after_it_and_made_anew_when_much_of_it_is_gone(large: Memory) -> None:
    large.index("c")
    large.remember("c", [f"pebble {n}" for n in range(20)], id=[f"p{n}" for n in range(20)])
    assert large.index("c") == 80
    large.forget("c", [str(n) for n in range(5)])
    large.remember("c", "slate")
    assert large.index("c") == 81, "a few that are gone stay in it"
    large.forget("c", [str(n) for n in range(5, 26)])
    large.remember("c", "granite")
    assert large.index("c") == 56
    assert large.recall("c", "granite", mode="dense", top_k=1)[0].text == "granite"
    assert large.recall("c", "pebble 7", mode="dense", top_k=1)[0].id == "p7"


def test_where_an_index_has_lost_what_is_near_the_query_all_is_scanned(large: Memory) -> None:
    large.remember("c", [f"gravel {n}" for n in range(30)], id=[f"g{n}" for n in range(30)])
    large.index("c")
    large.forget("c", [f"g{n}" for n in range(1, 30)])
    assert ids(large.recall("c", "gravel 0", mode="dense", top_k=5))[0] == "g0"
    assert len(large.recall("c", "gravel 0", mode="dense", top_k=5)) == 5


def test_only_one_makes_indexes_of_a_memory_at_a_time(large: Memory) -> None:
    from gristmill._memory._approximate import alone

    with (
        alone(large.store.path),  # type: ignore[attr-defined]
        pytest.raises(UsageError, match="another process makes an index of this memory\n  try again when it is done"),
    ):
        large.index("c")
    assert large.index("c") == 60


@pytest.mark.parametrize(
    ("n_indexed", "n_newer", "worth"),
    [(0, 49_999, False), (0, 50_000, True), (60_000, 9_999, False), (60_000, 12_000, True), (10**6, 199_999, False)],
)
def test_an_index_is_worth_making_of_a_large_collection_and_extending_by_a_fifth(
    n_indexed: int, n_newer: int, worth: bool
) -> None:
    from gristmill._memory._approximate import grown

    assert grown(n_indexed, n_newer) is worth
