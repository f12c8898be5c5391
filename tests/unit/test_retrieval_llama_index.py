"""LlamaIndex both ways: our models in its code, and a user's parts of it by a registered name."""

# mypy: disallow-subclassing-any=False

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, PromptTemplate
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.indices.query.query_transform import HyDEQueryTransform
from llama_index.core.indices.vector_store import VectorStoreIndex
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.readers.base import BaseReader
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores import SimpleVectorStore

from gristmill import (
    Context,
    FunctionError,
    GenerateRequest,
    Kernel,
    Passage,
    PluginError,
    RunError,
    Sampling,
    function,
)
from gristmill._settings import load_settings
from gristmill.testing import FakeEmbedder, FakePlugin
from gristmill_plugins.retrieval import RetrievalPlugin, make_embedding, make_llm
from gristmill_plugins.retrieval._llama_index_models import waited
from gristmill_plugins.retrieval._llama_index_nodes import to_node, to_passage
from gristmill_plugins.retrieval._llama_index_parts import Parts


class Library(BaseRetriever):
    """A retriever of somebody's own."""

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        node = TextNode(text=f"about {query_bundle.query_str}", id_="n1", metadata={"file_path": "a.txt", "kind": "x"})
        other = TextNode(text="other", metadata={"file_name": "b.pdf", "page_label": "7", "odd": object()})
        return [NodeWithScore(node=node, score=0.9), NodeWithScore(node=other, score=0.1)]


class Broken(BaseRetriever):
    """A retriever that fails."""

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        raise ValueError("no library card")


class Mail(BaseReader):
    """A reader of somebody's own."""

    def load_data(self, file: Path) -> list[Document]:
        return [Document(text=file.read_text().upper(), metadata={"sender": "me", "parts": [1]})]


class Reversed(BaseNodePostprocessor):
    """A reranker of somebody's own."""

    def _postprocess_nodes(self, nodes: list[NodeWithScore], query_bundle: Any = None) -> list[NodeWithScore]:
        return nodes[::-1]


def make_store() -> SimpleVectorStore:
    """Make a store that holds vectors and no texts."""
    store = SimpleVectorStore()
    store.add([TextNode(text="the mill", id_="m", embedding=FakeEmbedder().vectors(["the mill"])[0].tolist())])
    return store


class TextStore(SimpleVectorStore):
    """A store that keeps texts as well."""

    def query(self, query: Any, **kwargs: Any) -> Any:
        found = super().query(query, **kwargs)
        found.nodes = [TextNode(text="the mill", id_=id_) for id_ in found.ids or []]
        return found


def make_text_store() -> TextStore:
    store = TextStore()
    store.add([TextNode(text="the mill", id_="m", embedding=FakeEmbedder().vectors(["the mill"])[0].tolist())])
    return store


class Asker:
    """Runs LlamaIndex's own code on the recipe's model."""

    def __init__(self) -> None:
        self.llm: Any = None

    @function
    async def hyde(self, question: str, context: Context) -> str:
        """Ask by HyDE."""
        llm = make_llm(context.model("main"), sampling=Sampling(max_tokens=9))
        transform = HyDEQueryTransform(llm=llm, hyde_prompt=PromptTemplate("Write about {context_str}"))
        bundle = await asyncio.to_thread(transform.run, question)
        self.llm = llm
        return str(bundle.custom_embedding_strs[0])

    @function
    async def chat(self, question: str, context: Context) -> list[str]:
        """Ask in every way that LlamaIndex has."""
        from llama_index.core.llms import ChatMessage

        llm = make_llm(context.model("main"), asyncio.get_running_loop())
        turns = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content=question)]
        return [
            (await llm.acomplete(question)).text,
            (await llm.achat(turns)).message.content or "",
            (await asyncio.to_thread(llm.complete, question)).text,
            (await asyncio.to_thread(llm.chat, turns)).message.content or "",
            "".join(await asyncio.to_thread(lambda: [part.delta or "" for part in llm.stream_complete(question)])),
        ]

    @function
    async def odd(self, context: Context) -> str:
        """Send a turn of a tool."""
        from llama_index.core.llms import ChatMessage

        llm = make_llm(context.model("main"), asyncio.get_running_loop())
        await llm.achat([ChatMessage(role="tool", content="x")])
        return ""


def kernel_with(parts: dict[str, Any]) -> tuple[Kernel, FakePlugin, Asker]:
    fake, asker = FakePlugin("a mill is a machine"), Asker()
    kernel = Kernel(plugins={"retrieval": RetrievalPlugin(parts=parts), "fake": fake, "asker": asker}, cache=False)
    kernel.registry._scanned = True  # these plugins and no installed ones
    kernel.memory._default = FakeEmbedder
    return kernel, fake, asker


PARTS = {
    "library": Library, "broken": Broken(), "mail": Mail(), "reversed": Reversed, "store": make_store,
    "texts": make_text_store,
}  # fmt: skip


def run(folder: Path, use: str, arguments: str, parts: dict[str, Any] | None = None) -> Any:
    (folder / "r.yaml").write_text(
        "version: 1\nmodels: {main: {use: fake}}\nsteps:\n"
        f"  s:\n    use: {use}\n    with: {{{arguments}}}\noutput: ${{s}}\n"
    )
    kernel, _, _ = kernel_with(PARTS if parts is None else parts)
    with kernel:
        return kernel.recipe(folder / "r.yaml").run().output


def failure(folder: Path, use: str, arguments: str, parts: dict[str, Any] | None = None) -> BaseException:
    with pytest.raises(RunError) as caught:
        run(folder, use, arguments, parts)
    return caught.value.failures["s"]


def test_a_registered_retriever_answers_a_search(tmp_path: Path) -> None:
    found = run(tmp_path, "retrieval.search", "query: mills, retriever: library")
    assert [(p.text, p.source, p.score) for p in found] == [
        ("about mills", "a.txt", 0.9),
        ("other", "b.pdf#page=7", 0.1),
    ]
    assert found[0].metadata == {"file_path": "a.txt", "kind": "x", "id": "n1", "found_by": ["library"]}
    assert "odd" not in found[1].metadata


def test_filters_scores_and_top_k_hold_for_a_retriever_too(tmp_path: Path) -> None:
    for arguments, n in (("where: {kind: x}", 1), ("min_score: 0.5", 1), ("top_k: 1", 1), ("min_score: 0.95", 0)):
        assert len(run(tmp_path, "retrieval.search", f"query: mills, retriever: library, {arguments}")) == n


def test_a_registered_store_is_asked_by_vector(tmp_path: Path) -> None:
    (found,) = run(tmp_path, "retrieval.search", "query: the mill, retriever: texts")
    assert (found.text, found.source) == ("the mill", "m")
    assert found.score == pytest.approx(1.0)


def test_a_store_without_texts_says_what_to_register(tmp_path: Path) -> None:
    error = failure(tmp_path, "retrieval.search", "query: the mill, retriever: store")
    assert str(error) == ("'store' failed: ValueError: it returns ids and no texts; register a retriever over it")


def test_a_retriever_that_fails_is_named(tmp_path: Path) -> None:
    error = failure(tmp_path, "retrieval.search", "query: mills, retriever: broken")
    assert str(error) == "'broken' failed: ValueError: no library card"


def test_a_registered_reader_reads_the_files_of_its_ending(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.eml").write_text("the mill")
    made = run(tmp_path, "retrieval.index", "documents: ./docs, name: post, readers: {.EML: mail}")
    assert made.n_passages == 1
    (found,) = run(tmp_path, "retrieval.search", "query: mill, index: post, mode: bm25")
    assert (found.text, found.source, found.metadata["sender"]) == ("THE MILL", "docs/a.eml", "me")
    assert "parts" not in found.metadata


def test_a_reader_of_llama_indexs_own_plugs_in_by_the_settings(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.xml").write_text("<doc><title>Mills</title><body>The mill grinds rye.</body></doc>")
    (tmp_path / "gristmill.toml").write_text('[plugin.retrieval.parts]\nxml = "llama_index.readers.file:XMLReader"\n')
    (tmp_path / "r.yaml").write_text(
        "version: 1\nsteps:\n  i:\n    use: retrieval.index\n"
        "    with: {documents: ./docs, name: pages, readers: {.xml: xml}}\n"
        "  s:\n    needs: [i]\n    use: retrieval.search\n    with: {query: rye, index: pages, mode: bm25}\n"
        "output: ${s}\n"
    )
    kernel = Kernel(plugins={"retrieval": RetrievalPlugin()}, cache=False, settings=load_settings(tmp_path))
    kernel.registry._scanned = True  # this plugin and no installed ones
    kernel.memory._default = FakeEmbedder
    with kernel:
        (found,) = kernel.recipe(tmp_path / "r.yaml").run().output
    assert "The mill grinds rye." in found.text
    assert found.source == "docs/a.xml"


def test_a_part_of_another_kind_is_refused(tmp_path: Path) -> None:
    error = failure(tmp_path, "retrieval.search", "query: mills, retriever: mail")
    assert str(error) == "'mail' is no retriever and no store\n  it is a reader"
    with pytest.raises(FunctionError, match="'library' is no reranker: it has no method 'postprocess_nodes'"):
        Parts(PARTS).get("library", "reranker", {})


def test_a_reranker_is_handed_out_and_made_once() -> None:
    parts = Parts(PARTS)
    reranker = parts.get("reversed", "reranker", {})
    assert reranker is parts.get("reversed", "reranker", {})
    nodes = [to_node(Passage(text=text, source="s")) for text in "ab"]
    assert [to_passage(node).text for node in reranker.postprocess_nodes(nodes)] == ["b", "a"]


def test_an_unknown_name_tells_the_known_ones(tmp_path: Path) -> None:
    error = failure(tmp_path, "retrieval.search", "query: mills, retriever: librry")
    assert str(error).startswith("no LlamaIndex part is registered as 'librry'\n  there is: broken, library, mail")
    assert "entry point group gristmill.llama_index" in str(
        failure(tmp_path, "retrieval.search", "query: mills, retriever: x", {})
    )


def test_parts_are_found_in_the_settings_and_two_of_one_name_are_refused() -> None:
    table = {"parts": {"simple": "llama_index.core.vector_stores:SimpleVectorStore", "library": "x:y"}}
    assert isinstance(Parts().get("simple", "store", table), SimpleVectorStore)
    with pytest.raises(PluginError, match=r"'library' is registered by Python and by gristmill\.toml"):
        Parts(PARTS).get("library", "retriever", table)


def test_parts_are_found_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint("packaged", "llama_index.core.vector_stores:SimpleVectorStore", "g")
    asked: dict[str, Any] = {"gristmill.llama_index": importlib.metadata.EntryPoints([point])}
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: asked[group])
    assert isinstance(Parts().get("packaged", "store", {}), SimpleVectorStore)


def test_a_part_that_cannot_be_made_says_why() -> None:
    for place, told in (("nowhere_at_all:X", "No module named"), ("json:nothing", "has no attribute 'nothing'")):
        with pytest.raises(PluginError, match=f"the LlamaIndex part 'mine' cannot be made: .*{told}"):
            Parts().get("mine", "store", {"parts": {"mine": place}})


def test_a_passage_becomes_a_node_and_comes_back() -> None:
    passage = Passage(text="the mill", source="a.md#L1-2", score=0.5, metadata={"line": 1, "path": "a.md"})
    node = to_node(passage)
    assert node.get_content() == "the mill"
    assert to_passage(node) == passage
    assert to_passage(TextNode(text="bare", id_="x")) == Passage(text="bare", source="x")


def test_llama_index_code_asks_our_model(tmp_path: Path) -> None:
    assert run(tmp_path, "asker.hyde", "question: mills") == "a mill is a machine"
    answers = run(tmp_path, "asker.chat", "question: What is a mill?")
    assert answers == ["a mill is a machine"] * 5


def test_sampling_and_the_model_are_handed_on(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "version: 1\nmodels: {main: {use: fake}}\nsteps:\n  s:\n    use: asker.hyde\n    with: {question: mills}\n"
    )
    kernel, fake, asker = kernel_with({})
    with kernel:
        kernel.recipe(tmp_path / "r.yaml").run()
    (request,) = fake.models["fake"].requests
    assert isinstance(request, GenerateRequest)
    assert request.sampling.max_tokens == 9
    assert request.messages[0].content == "Write about mills"
    metadata = asker.llm.metadata
    assert (metadata.model_name, metadata.num_output, metadata.is_chat_model) == ("fake", 9, True)
    assert asker.llm.class_name() == "GristmillLLM"


def test_a_turn_of_another_role_is_refused(tmp_path: Path) -> None:
    assert "'system', 'user' or 'assistant'" in str(failure(tmp_path, "asker.odd", ""))


def test_our_embedder_is_an_embedding_of_llama_index() -> None:
    async def on_loop() -> None:
        loop = asyncio.get_running_loop()
        embedding = make_embedding(FakeEmbedder(), loop)
        expected = FakeEmbedder().vectors(["the mill", "a stone"]).tolist()
        assert await embedding.aget_text_embedding("the mill") == expected[0]
        assert await embedding.aget_query_embedding("the mill") == expected[0]
        assert await embedding.aget_text_embedding_batch(["the mill", "a stone"]) == expected
        assert await asyncio.to_thread(embedding.get_text_embedding_batch, ["the mill", "a stone"]) == expected
        assert await asyncio.to_thread(embedding.get_text_embedding, "a stone") == expected[1]
        assert await asyncio.to_thread(embedding.get_query_embedding, "a stone") == expected[1]
        assert (embedding.model_name, embedding.class_name()) == ("fake-embedder", "GristmillEmbedding")
        index = await asyncio.to_thread(
            lambda: VectorStoreIndex.from_documents(
                [Document(text="the mill")], embed_model=embedding, transformations=[]
            )
        )
        found = await asyncio.to_thread(lambda: index.as_retriever(similarity_top_k=1).retrieve("the mill"))
        assert found[0].text == "the mill"

    asyncio.run(on_loop())


def test_waiting_on_the_loop_for_the_loop_is_refused() -> None:
    async def on_loop() -> None:
        embedding = make_embedding(FakeEmbedder(), asyncio.get_running_loop())
        with pytest.raises(RuntimeError, match="this would wait for itself: call the `a` method"):
            embedding.get_text_embedding("the mill")

    asyncio.run(on_loop())
    loop = asyncio.new_event_loop()
    with pytest.raises(RuntimeError, match="this would wait for itself"):
        loop.run_until_complete(_wait_here(loop))
    loop.close()


async def _wait_here(loop: asyncio.AbstractEventLoop) -> None:
    waited(asyncio.sleep(0), loop)


def test_passages_are_cut_where_the_meaning_turns(tmp_path: Path) -> None:
    mill = "The mill grinds wheat. The mill grinds rye. The mill grinds oats. "
    sea = "Ships sail the sea. Ships cross the sea. Ships love the sea."
    (tmp_path / "a.txt").write_text(mill + sea)
    made = run(tmp_path, "retrieval.index", "documents: ./a.txt, name: cut, splitter: semantic")
    assert made.n_passages == 2
    found = run(tmp_path, "retrieval.search", "query: mill, index: cut, mode: bm25")
    assert [p.text for p in found] == [mill.strip()]


OFFLINE = """
import json, sys
sys.addaudithook(lambda event, arguments: event in ("socket.connect", "socket.getaddrinfo") and sys.exit("network!"))
import pathlib
from gristmill import Kernel
from gristmill.testing import FakeEmbedder
folder = pathlib.Path(sys.argv[1])
(folder / "docs").mkdir()
(folder / "docs" / "a.txt").write_text("One sentence about a mill. " * 200)
(folder / "r.yaml").write_text(
    "version: 1\\nsteps:\\n  s:\\n    use: retrieval.search\\n    with: {documents: ./docs, query: mill}\\n"
)
with Kernel(cache=False) as kernel:
    kernel.memory._default = FakeEmbedder
    n = len(kernel.recipe(folder / "r.yaml").run().output)
    before = sorted(name for name in sys.modules if name.startswith("llama_index"))
    kernel.recipe(folder / "r.yaml").run()
loaded = [name for name in sys.modules if name in ("openai", "nltk.tokenize.punkt", "tiktoken_ext.openai_public")]
print(json.dumps({"n": n, "split_by": len(before), "loaded": loaded}))
"""
COLD = (
    OFFLINE.split('(folder / "docs").mkdir()')[0]
    + """
with Kernel(cache=False) as kernel:
    kernel.memory._default = FakeEmbedder
    n = len(kernel.recipe(folder / "r.yaml").run().output)
print(json.dumps({"n": n, "imported": [name for name in sys.modules if name.startswith("llama_index")]}))
"""
)


def test_splitting_downloads_nothing_and_a_search_of_an_index_imports_no_llama_index(tmp_path: Path) -> None:
    told = {}
    for name, code in (("first", OFFLINE), ("again", COLD)):
        ended = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=600, check=False
        )
        assert ended.returncode == 0, ended.stderr
        told[name] = json.loads(ended.stdout)
    assert told["first"]["n"] == told["again"]["n"] == 5
    assert told["first"]["split_by"] > 0
    assert told["first"]["loaded"] == []
    assert told["again"]["imported"] == []
