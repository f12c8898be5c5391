"""Reranking orders what it is given, loses nothing and invents nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill import Kernel, Model, Passage, RunError, ScoreRequest, Scores, model_provider
from gristmill.testing import FakeModel
from gristmill_plugins.retrieval import RetrievalPlugin
from gristmill_plugins.retrieval._answer_functions import AnswerFunctions
from gristmill_plugins.retrieval._rerank import ranking_in, unit

FOUND = [
    {"text": "It grinds rye.", "source": "a", "score": 3.0},
    {"text": "The mill stands on the Lea.", "source": "b", "score": 2.0, "metadata": {"id": "b1"}},
    {"text": "Nothing here.", "source": "c", "score": 1.0},
]


class Judge(FakeModel):
    """Likes passages that name the Lea, and Yes the more the better it likes; an empty passage is neither."""

    async def score(self, request: ScoreRequest) -> Scores:
        self.requests.append(request)
        liked = "Lea" in request.messages[-1].content
        if "Yes" in request.choices:
            return Scores(logprobs=(-0.1, -3.0) if liked else (-1.0, -1.0))
        return Scores(logprobs=tuple(-5.0 if liked else -20.0 for _ in request.choices))


class Judges:
    """Makes the judge."""

    def __init__(self) -> None:
        self.made = Judge("3 > 1, 7 > 3")

    @model_provider
    def judge(self) -> Model:
        """The judge."""
        return self.made


Run = Callable[..., list[Passage]]


@pytest.fixture
def judges() -> Judges:
    return Judges()


@pytest.fixture
def run(judges: Judges, tmp_path: Path) -> Iterator[Run]:
    with Kernel(plugins={"retrieval": AnswerFunctions(), "judge": judges}, cache=False) as kernel:
        kernel.registry._scanned = True  # these plugins and no installed ones

        def run(more: str, found: Sequence[Any] = FOUND) -> list[Passage]:
            path = tmp_path / "r.yaml"
            path.write_text(
                "version: 1\nmodels: {main: {use: judge}}\ninputs: {found: {type: list}}\nsteps:\n  x:\n"
                "    use: retrieval.rerank\n"
                f"    with: {{question: Where is the mill?, passages: '${{inputs.found}}', {more}}}\n"
            )
            output: list[Passage] = kernel.recipe(path).run(found=list(found)).output
            return output

        yield run


@pytest.mark.parametrize("method", ["likelihood", "relevance"])
def test_the_passage_that_the_model_prefers_comes_first(run: Run, method: str) -> None:
    ranked = run(f"method: {method}, weight: 1")
    assert [passage.source for passage in ranked] == ["b", "a", "c"]
    assert [passage.score for passage in ranked] == [1.0, 0.0, 0.0]
    told = -5.0 if method == "likelihood" else pytest.approx(0.948, abs=0.001)
    assert ranked[0].metadata == {"id": "b1", "search_score": 2.0, "rerank_score": told}


def test_a_cross_encoders_scores_alone_make_the_order(run: Run, judges: Judges) -> None:
    ranked = run("method: cross_encoder")
    assert [passage.source for passage in ranked] == ["b", "a", "c"]
    assert [passage.score for passage in ranked] == [1.0, 0.0, 0.0]
    assert [passage.metadata["rerank_score"] for passage in ranked] == [0.25, 0.0, 0.0]
    assert judges.made.requests == []  # nothing is generated, and no choice is scored
    mixed = run("method: cross_encoder, weight: 0.5")
    assert [passage.score for passage in mixed] == [0.75, 0.5, 0.0]


def test_a_model_that_is_no_reranker_is_told_so(run: Run, judges: Judges) -> None:
    judges.made.rank = Model.rank.__get__(judges.made)  # type: ignore[method-assign]
    judges.made.capabilities = frozenset({"generate"})
    with pytest.raises(RunError, match="fake cannot rank texts: it can generate"):
        run("method: cross_encoder")


def test_check_knows_the_methods(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "version: 1\nmodels: {main: {use: judge}}\nsteps:\n  x:\n    use: retrieval.rerank\n"
        "    with: {question: q, passages: [], method: cross_encode, weight: 2}\n"
    )
    with Kernel(plugins={"retrieval": AnswerFunctions(), "judge": Judges()}, cache=False) as kernel:
        kernel.registry._scanned = True  # these plugins and no installed ones
        told = " ".join(f"{diagnostic.message} {diagnostic.hint}" for diagnostic in kernel.check(path).errors)
    assert "'cross_encoder'" in told
    assert "weight" in told


def test_the_weight_mixes_the_models_scores_with_the_searchs(run: Run) -> None:
    assert [passage.source for passage in run("weight: 0")] == ["a", "b", "c"]
    mixed = run("weight: 0.5")
    assert [passage.source for passage in mixed] == ["b", "a", "c"]
    assert [passage.score for passage in mixed] == [0.75, 0.5, 0.0]
    assert [passage.source for passage in run("weight: 0.5, top_k: 1")] == ["b"]


def test_likelihood_is_of_the_question_after_each_passage(run: Run, judges: Judges) -> None:
    run("method: likelihood")
    assert [request.choices for request in judges.made.requests if isinstance(request, ScoreRequest)] == [
        ("Where is the mill?",)
    ] * 3
    assert [request.messages[-1].content for request in judges.made.requests] == [one["text"] for one in FOUND]


def test_listwise_takes_the_order_that_is_written_and_keeps_the_rest(run: Run) -> None:
    ranked = run("method: listwise, weight: 1")
    assert [passage.source for passage in ranked] == ["c", "a", "b"]
    assert ranked[0].score == 1.0


def test_no_passages_are_no_error_and_no_question_to_a_model(run: Run, judges: Judges) -> None:
    assert run("method: relevance", found=[]) == []
    assert judges.made.requests == []


@given(st.text(), st.integers(0, 12))
def test_any_answer_gives_a_permutation(text: str, n_passages: int) -> None:
    assert sorted(ranking_in(text, n_passages)) == list(range(1, n_passages + 1))


def test_scores_are_brought_to_0_and_1() -> None:
    assert unit([3, 1, 2]) == [1.0, 0.0, 0.5]
    assert unit([2, 2]) == [0.0, 0.0]


class ShortestFirst:
    """A reranker of somebody's own, with LlamaIndex's one method; it rewrites what it is handed."""

    def postprocess_nodes(self, nodes: Sequence[Any], *, query_str: str) -> list[Any]:
        assert query_str == "Where is the mill?"
        for node in nodes:
            node.score = 1 / len(node.node.text)
            node.node.text = "rewritten"
        return sorted(nodes, key=lambda node: -node.score)[:2]


class Failing(ShortestFirst):
    """One that fails."""

    def postprocess_nodes(self, nodes: Sequence[Any], *, query_str: str) -> list[Any]:
        raise ValueError("no weights")


class Inventing(ShortestFirst):
    """One that returns what it was not given."""

    def postprocess_nodes(self, nodes: Sequence[Any], *, query_str: str) -> list[Any]:
        nodes[0].node.metadata = {}
        return list(nodes)


RERANK_WITH = """version: 1
inputs: {found: {type: list}}
steps:
  x:
    use: retrieval.rerank_with
    with: {reranker: NAME, question: Where is the mill?, passages: "${inputs.found}"}
"""


@pytest.fixture
def rerank_with(tmp_path: Path) -> Iterator[Callable[..., list[Passage]]]:
    pytest.importorskip("llama_index.core", reason="a LlamaIndex reranker needs the extra gristmill[retrieval]")
    parts = {"short": ShortestFirst, "failing": Failing, "inventing": Inventing}
    with Kernel(plugins={"retrieval": RetrievalPlugin(parts)}, cache=False) as kernel:
        kernel.registry._scanned = True  # these plugins and no installed ones

        def run(name: str, found: Sequence[Any] = FOUND) -> list[Passage]:
            path = tmp_path / "r.yaml"
            path.write_text(RERANK_WITH.replace("NAME", name))
            output: list[Passage] = kernel.recipe(path).run(found=list(found)).output
            return output

        yield run


def test_a_reranker_of_ones_own_orders_and_drops_but_never_rewrites(rerank_with: Callable[..., Any]) -> None:
    ranked = rerank_with("short")
    assert [passage.text for passage in ranked] == ["Nothing here.", "It grinds rye."]
    assert ranked[0].score == pytest.approx(1 / 13)
    assert ranked[0].metadata == {"search_score": 1.0}
    assert rerank_with("short", found=[]) == []


def test_llama_indexs_own_postprocessors_and_a_cross_encoder_are_rerankers(tmp_path: Path) -> None:
    postprocessor = pytest.importorskip("llama_index.core.postprocessor", reason="it is LlamaIndex's")
    from llama_index.core.bridge.pydantic import Field
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

    class CrossEncoder(BaseNodePostprocessor):  # type: ignore[misc]
        """As SentenceTransformerRerank is: reads question and passage together, and keeps the best `top_n`."""

        top_n: int = Field(default=2)

        def _postprocess_nodes(
            self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
        ) -> list[NodeWithScore]:
            assert query_bundle is not None
            for node in nodes:
                text = node.node.get_content(metadata_mode=MetadataMode.EMBED)
                assert text in [one["text"] for one in FOUND]  # the passage, and nothing that the search said of it
                node.score = len(set(text.lower().split()) & set(query_bundle.query_str.lower().split()))
            return sorted(nodes, key=lambda node: -(node.score or 0))[: self.top_n]

    parts = {"cross": CrossEncoder(top_n=1), "similar": postprocessor.SimilarityPostprocessor(similarity_cutoff=1.5)}
    with Kernel(plugins={"retrieval": RetrievalPlugin(parts)}, cache=False) as kernel:
        kernel.registry._scanned = True  # these plugins and no installed ones

        def ranked(name: str) -> list[Passage]:
            path = tmp_path / "r.yaml"
            path.write_text(RERANK_WITH.replace("NAME", name))
            output: list[Passage] = kernel.recipe(path).run(found=FOUND).output
            return output

        (best,) = ranked("cross")
        assert (best.text, best.source, best.score) == ("The mill stands on the Lea.", "b", 1.0)
        assert [passage.source for passage in ranked("similar")] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("failing", "'failing' failed: ValueError: no weights"),
        ("inventing", "'inventing' returned a passage that it was not given"),
        ("missing", "no LlamaIndex part is registered as 'missing'"),
    ],
)
def test_a_reranker_that_cannot_be_used_is_named(rerank_with: Callable[..., Any], name: str, told: str) -> None:
    with pytest.raises(RunError, match=told):
        rerank_with(name)
