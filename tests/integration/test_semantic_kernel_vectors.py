"""Gristmill's memory as a semantic-kernel vector store: both sides see the same records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("semantic_kernel", reason='needs the extra: pip install "gristmill[semantic-kernel]"')
pytest.importorskip("wordllama", reason="vectors are WordLlama's")

from semantic_kernel.data.vector import (
    DistanceFunction,
    VectorStoreCollectionDefinition,
    VectorStoreField,
)
from semantic_kernel.exceptions import (
    VectorSearchExecutionException,
    VectorStoreOperationException,
    VectorStoreOperationNotSupportedException,
)

from gristmill import Kernel

TEXTS = {
    "leave": ("Everyone has 25 days of holiday a year.", 2024),
    "error": ("Error GM-2041 means that the belt slipped.", 1999),
    "mill": ("The mill stands on the river Lea.", 1800),
}


def definition(distance: Any = DistanceFunction.COSINE_SIMILARITY) -> VectorStoreCollectionDefinition:
    return VectorStoreCollectionDefinition(
        fields=[
            VectorStoreField("key", name="id", type="str"),
            VectorStoreField("data", name="text", type="str", is_full_text_indexed=True),
            VectorStoreField("data", name="year", type="int"),
            VectorStoreField("vector", name="vector", dimensions=256, type="float", distance_function=distance),
        ]
    )


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    with Kernel(memory=tmp_path / "memory", cache=False) as made:
        yield made


def records() -> list[dict[str, Any]]:
    return [{"id": id_, "text": text, "year": year, "vector": text} for id_, (text, year) in TEXTS.items()]


async def found(results: Any) -> list[tuple[str, float]]:
    return [(result.record["id"], result.score) async for result in results.results]


async def test_records_go_in_are_found_and_are_there_for_gristmill_too(kernel: Kernel) -> None:
    store = kernel.semantic_kernel.memory_store()
    async with store.get_collection(dict, definition=definition(), collection_name="notes") as notes:
        assert not await notes.collection_exists()
        await notes.ensure_collection_exists()
        assert list(await notes.upsert(records())) == list(TEXTS)
        assert await notes.collection_exists()
        best = await found(await notes.search("vacation days", top=2))
        assert best[0][0] == "leave"
        assert 1 > best[0][1] > best[1][1]
        assert (await found(await notes.hybrid_search("GM-2041", additional_property_name="text")))[0][0] == "error"
        record = await notes.get("mill")
        assert (record["id"], record["text"], record["year"]) == ("mill", *TEXTS["mill"])
        assert kernel.memory.collections()[0].embedder == kernel.embedder("wordllama").fingerprint
        assert kernel.memory.recall("notes", "vacation days", mode="dense")[0].id == "leave"
        kernel.memory.remember("notes", "The stone is new.", id="stone", metadata={"year": 2025})
        assert (await found(await notes.search("a new stone", top=1)))[0][0] == "stone"
        await notes.delete("stone")
        assert len(kernel.memory.list("notes")) == 3
    assert await store.list_collection_names() == ["notes"]
    assert await kernel.semantic_kernel.memory_store(namespace="ada").list_collection_names() == []
    await store.ensure_collection_deleted("notes")
    assert kernel.memory.collections() == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("lambda x: x.year == 1800", ["mill"]),
        ("lambda x: x.year in [1800, 1999]", ["error", "mill"]),
        ("lambda x: x.year >= 1900 and x.year <= 2000", ["error"]),
        (["lambda x: x.year >= 1900", "lambda x: x.year <= 2000"], ["error"]),
    ],
)
async def test_filters_are_those_of_memory(kernel: Kernel, given: Any, expected: list[str]) -> None:
    notes = kernel.semantic_kernel.memory_store().get_collection(dict, definition=definition(), collection_name="c")
    await notes.upsert(records())
    results = await notes.search("mill", filter=given, include_total_count=True)
    assert results.total_count == len(expected)
    assert sorted(id_ for id_, _ in await found(results)) == expected


@pytest.mark.parametrize("given", ["lambda x: x.year != 3", "lambda x: x.year == 1 or x.year == 2",
                                   "lambda x: x.year == x.text", "lambda x: x.year == 1 and x.year == 2"])  # fmt: skip
async def test_a_filter_that_memory_has_not_is_refused(kernel: Kernel, given: str) -> None:
    notes = kernel.semantic_kernel.memory_store().get_collection(dict, definition=definition(), collection_name="c")
    with pytest.raises(
        (VectorStoreOperationNotSupportedException, VectorSearchExecutionException, VectorStoreOperationException),
        match=r"a filter is `x.field == value`|the filter asks twice for 'year'",
    ):
        await notes.search("mill", filter=given)


async def test_given_vectors_are_kept_and_do_not_mix_with_embedded_ones(kernel: Kernel) -> None:
    face = kernel.semantic_kernel
    notes = face.memory_store().get_collection(dict, definition=definition(), collection_name="c")
    await notes.upsert(records())
    vector = (await face.add_embedder("words").generate_embeddings(["The mill stands on the river Lea."]))[0]
    results = await notes.search(vector=(vector * 7).tolist(), top=1, include_vectors=True)
    (result,) = [result async for result in results.results]
    assert (result.record["id"], round(result.score, 4)) == ("mill", 1.0)
    assert result.record["vector"] == pytest.approx(vector.tolist(), abs=1e-5)
    other = face.add_embedder("short", use="wordllama", dim=64)
    mixed = face.memory_store(embedder=other).get_collection(dict, definition=definition(), collection_name="c")
    with pytest.raises(VectorSearchExecutionException, match="the vectors of collection 'c' are by"):
        await mixed.search("mill")


async def test_a_distance_is_one_less_the_cosine_and_others_are_refused(kernel: Kernel) -> None:
    store = kernel.semantic_kernel.memory_store()
    near = store.get_collection(dict, definition=definition(DistanceFunction.COSINE_DISTANCE), collection_name="c")
    await near.upsert(records())
    scores = [score for _, score in await found(await near.search("The mill stands on the river Lea."))]
    assert scores == sorted(scores)
    assert scores[0] == pytest.approx(0, abs=1e-4)
    far = store.get_collection(dict, definition=definition(DistanceFunction.EUCLIDEAN_DISTANCE), collection_name="c")
    with pytest.raises(
        (VectorStoreOperationNotSupportedException, VectorSearchExecutionException), match="compared by their cosine"
    ):
        await far.search("mill")
