"""A semantic-kernel collection is a store of memory: what it can do works, what it cannot is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("semantic_kernel")

from semantic_kernel.connectors.in_memory import InMemoryCollection
from semantic_kernel.data.vector import VectorStoreCollectionDefinition, VectorStoreField

from gristmill import Embedder, Kernel, Memory, StoreError, UsageError, model_provider
from gristmill.testing import FakeEmbedder, check_plugin
from gristmill_plugins.semantic_kernel import SemanticKernelPlugin

TEXTS = {"mill": "The mill grinds.", "river": "The river Lea flows.", "belt": "The belt slipped."}


def definition(dim: int, *more: VectorStoreField) -> VectorStoreCollectionDefinition:
    """A collection of somebody's own, made without gristmill in mind."""
    return VectorStoreCollectionDefinition(
        fields=[
            VectorStoreField("key", name="key", type="str"),
            VectorStoreField("data", name="year", type="int"),
            VectorStoreField("data", name="body", type="str", is_full_text_indexed=True),
            VectorStoreField("data", name="kind", type="str"),
            *more,
            VectorStoreField("vector", name="embedding", type="float", dimensions=dim),
        ]
    )


@pytest.fixture
def dim() -> int:
    import asyncio

    return int(asyncio.run(FakeEmbedder().embed(["x"])).shape[1])


@pytest.fixture
def collection(dim: int) -> Any:
    return InMemoryCollection(record_type=dict, definition=definition(dim), collection_name="theirs")


@pytest.fixture
def memory(collection: Any) -> Iterator[Memory]:
    store = SemanticKernelPlugin().store_of({"notes": collection})
    with Kernel(memory=store, cache=False) as kernel:
        kernel.memory._default = FakeEmbedder
        yield kernel.memory


@pytest.fixture
def mill(memory: Memory) -> Memory:
    facts = [{"year": 1800, "kind": "place"}, {"year": 1900, "kind": "place"}, {"year": 2024, "kind": "error"}]
    memory.remember("notes", list(TEXTS.values()), id=list(TEXTS), metadata=facts)
    return memory


def found(memory: Memory, query: str, **options: Any) -> list[str]:
    return [record.id for record in memory.recall("notes", query, mode="dense", **options)]


def test_what_is_remembered_lies_in_their_collection_and_is_found_again(mill: Memory, collection: Any) -> None:
    assert found(mill, "The mill grinds.", top_k=1) == ["mill"]
    (best,) = mill.recall("notes", "The belt slipped.", mode="dense", top_k=1)
    assert (best.id, best.text, best.metadata) == ("belt", "The belt slipped.", {"year": 2024, "kind": "error"})
    assert best.score == pytest.approx(1.0, abs=1e-5)
    assert collection.inner_storage["river"]["body"] == "The river Lea flows."
    assert len(mill.recall("notes", "mill", mode="dense", mmr=0.5)) == 3


def test_records_are_replaced_listed_and_forgotten(mill: Memory) -> None:
    mill.remember("notes", "The belt holds.", id="belt", metadata={"year": 2025, "kind": "place"})
    assert [record.text for record in mill.list("notes", ids=["belt", "none"])] == ["The belt holds."]
    assert {record.id for record in mill.list("notes")} == set(TEXTS)
    assert len(mill.list("notes", offset=1, limit=1)) == 1
    assert mill.collections()[0].n_records == 3
    assert mill.forget("notes", ["mill", "none"]) == 1
    assert found(mill, "The mill grinds.", top_k=1) != ["mill"]
    assert mill.forget("notes", all=True) == 2
    assert mill.list("notes") == []
    assert found(mill, "mill") == []


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ({"kind": "place"}, {"mill", "river"}),
        ({"kind": ["error", "none"]}, {"belt"}),
        ({"year": {"min": 1900}}, {"river", "belt"}),
        ({"year": {"min": 1801, "max": 2000}, "kind": "place"}, {"river"}),
        ({"year": "1800"}, set()),
        ({"kind": "' or True or '"}, set()),
        ({"kind": []}, set()),
    ],
)
def test_filters_mean_what_they_mean_in_every_store(mill: Memory, where: dict[str, Any], ids: set[str]) -> None:
    assert set(found(mill, "mill", where=where)) == ids
    assert {record.id for record in mill.list("notes", where=where)} == ids


def test_one_and_true_differ_though_semantic_kernel_takes_them_for_the_same(memory: Memory) -> None:
    memory.remember("notes", "one", id="one", metadata={"year": 1, "kind": "x"})
    assert found(memory, "one", where={"year": 1}) == ["one"]
    assert found(memory, "one", where={"year": True}) == []


def test_what_semantic_kernel_cannot_promise_is_refused(mill: Memory) -> None:
    fits = {"year": 1, "kind": "x"}
    refused: list[tuple[Any, str]] = [
        (lambda: mill.recall("notes", "mill"), "searched by meaning only\n  recall with mode: dense"),
        (lambda: mill.recall("notes", "mill", mode="lexical"), "searched by meaning only"),
        (lambda: mill.recall("notes", "mill", mode="dense", namespace="ada"), "has no namespaces, this is 'ada'"),
        (
            lambda: mill.recall("notes", "mill", mode="dense", where={"page": 1}),
            "no field 'page'\n  it has: year, kind",
        ),
        (lambda: mill.remember("notes", "x", metadata={"year": 1}), r"has the fields \['kind', 'year'\]"),
        (lambda: mill.remember("notes", "x", metadata=fits | {"year": 1.5}), "the field 'year' takes int, this is 1.5"),
        (lambda: mill.remember("notes", "x", metadata=fits, expires_s=9), "collection cannot expire"),
        (lambda: mill.remember("other", "x"), "no semantic-kernel collection 'other'\n  there is: notes"),
        (lambda: mill.re_embed("notes"), "cannot change its vectors all at once"),
    ]
    for call, told in refused:
        with pytest.raises(UsageError, match=told):
            call()
    assert {record.id for record in mill.list("notes")} == set(TEXTS)


def test_a_collection_that_has_no_text_or_no_vector_is_refused() -> None:
    bare = VectorStoreCollectionDefinition(fields=[VectorStoreField("key", name="key", type="str")])
    store = SemanticKernelPlugin().store_of(
        {"c": InMemoryCollection(record_type=dict, definition=bare, collection_name="c")}
    )
    with (
        Kernel(memory=store, cache=False) as kernel,
        pytest.raises(UsageError, match="has 0 text fields and 0 vectors"),
    ):
        kernel.memory.list("c")


RECIPE = """version: 1
models: {wiki: {use: semantic_kernel, connector: in_memory, dimensions: DIM, fields: {page: int}}, words: {use: words}}
steps:
  keep:
    use: memory.remember
    with: {collection: notes, text: [The mill grinds., Tea.], store: wiki, embedder: words, metadata: {page: 7}}
  found:
    use: memory.recall
    needs: keep
    with: {collection: notes, query: mill, mode: dense, store: wiki, embedder: words, where: {page: 7}, top_k: 1}
output: ${found[0].text}
"""


class Words:
    """An embedder for recipes."""

    @model_provider
    def words(self) -> Embedder:
        """A bag of words."""
        return FakeEmbedder()


def _kernel() -> Kernel:
    return Kernel(plugins={"words": Words()}, cache=False)


def test_a_recipe_and_the_settings_declare_a_connector(
    dim: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE.replace("DIM", str(dim)))
    with _kernel() as kernel:
        assert kernel.recipe(tmp_path / "r.yaml").run().output == "The mill grinds."
    monkeypatch.chdir(tmp_path)
    declared = f'[memory.store]\nuse = "semantic_kernel"\nconnector = "in_memory"\ndimensions = {dim}\n'
    (tmp_path / "gristmill.toml").write_text(declared)
    with _kernel() as kernel:
        kernel.memory.remember("c", "kept", embedder=FakeEmbedder())
        assert [record.text for record in kernel.memory.recall("c", "kept", mode="dense", embedder=FakeEmbedder())] == [
            "kept"
        ]


class Other(FakeEmbedder):
    """Another embedder of as many dimensions."""

    fingerprint = "another"


def test_vectors_of_two_embedders_do_not_meet_in_a_collection_that_gristmill_made(dim: int) -> None:
    store = SemanticKernelPlugin().semantic_kernel(connector="in_memory", dimensions=dim)
    with Kernel(memory=store, cache=False) as kernel:
        kernel.memory.remember("c", "one", embedder=FakeEmbedder())
        with pytest.raises(UsageError, match="the vectors of collection 'c' are by "):
            kernel.memory.remember("c", "two", embedder=Other())
        with pytest.raises(UsageError, match="the vectors of collection 'c' are by "):
            kernel.memory.recall("c", "one", mode="dense", embedder=Other())


def test_a_declaration_that_means_nothing_is_told() -> None:
    plugin = SemanticKernelPlugin()
    check_plugin("semantic_kernel", plugin)
    for given, told in (
        ({"connector": "nowhere"}, "semantic-kernel has no connector 'nowhere'\n  such as in_memory"),
        ({"connector": "in_memory", "fields": {"x": "date"}}, "the field 'x' cannot be 'date'"),
        ({"connector": "in_memory", "fields": {"text": "str"}}, "the field 'text' cannot be 'str'"),
    ):
        with pytest.raises(UsageError, match=told):
            plugin.semantic_kernel(**given)


def test_a_failure_of_the_connector_is_an_error_of_the_store(
    memory: Memory, collection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from semantic_kernel.exceptions import VectorStoreOperationException

    async def broken(*_: object, **__: object) -> None:
        raise VectorStoreOperationException("the server is gone")

    monkeypatch.setattr(type(collection), "_inner_upsert", broken)
    with pytest.raises(StoreError, match=r"semantic-kernel: .*the server is gone"):
        memory.remember("notes", "x", metadata={"year": 1, "kind": "x"})
