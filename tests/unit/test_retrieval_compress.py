"""Compression keeps the sentences that matter, as they are, within the budget."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gristmill import Kernel, Passage, PluginError, StepNoted
from gristmill.testing import FakeEmbedder, FakeModel, FakePlugin
from gristmill_plugins.retrieval._answer_functions import AnswerFunctions
from gristmill_plugins.retrieval._compress import compress, worths

MILL = Passage(text="Ware is a town. The mill stands on the Lea. It rains often.", source="a.md#L1", score=2.0)
BELT = Passage(text="The belt slipped. Who mended the mill is not known.", source="b.md")


def test_the_sentences_about_the_question_are_kept_in_their_order_and_place() -> None:
    found = asyncio.run(compress("Where does the mill stand?", [MILL, BELT], FakeModel(), 6, None))  # type: ignore[arg-type]
    assert found == [MILL.model_copy(update={"text": "The mill stands on the Lea."})]
    found = asyncio.run(compress("Where does the mill stand?", [MILL, BELT], FakeModel(), 14, FakeEmbedder()))  # type: ignore[arg-type]
    assert [passage.source for passage in found] == ["a.md#L1", "b.md"]
    assert found[1].text == "Who mended the mill is not known."


def test_of_equal_sentences_that_of_the_better_passage_is_kept() -> None:
    first, second = (Passage(text=f"The mill stands on the {river}.", source=river) for river in ("Lea", "Ash"))
    for passages, kept in (([first, second], "Lea"), ([second, first], "Ash")):
        found = asyncio.run(compress("Where is the mill?", passages, FakeModel(), 6, None))  # type: ignore[arg-type]
        assert [passage.source for passage in found] == [kept]
    likely = Passage(text="It rains. The mill stands on the Lea, and not on the Ash.", source="c")
    found = asyncio.run(compress("Where does the mill stand, on the Ash?", [MILL, likely], FakeModel(), 11, None))  # type: ignore[arg-type]
    assert [passage.source for passage in found] == ["c"]  # and a better sentence of a later passage wins


@given(st.integers(1, 40))
def test_the_budget_is_never_exceeded(tokens: int) -> None:
    found = asyncio.run(compress("Which mill?", [MILL, BELT], FakeModel(), tokens, FakeEmbedder()))  # type: ignore[arg-type]
    assert sum(len(passage.text.split()) for passage in found) <= tokens


def test_without_text_there_is_nothing_to_weigh() -> None:
    assert asyncio.run(worths("q", [], FakeEmbedder())) == []
    assert asyncio.run(compress("q", [Passage(text=" ")], FakeModel(), 5, None)) == []  # type: ignore[arg-type]


RECIPE = """version: 1
models: {main: {use: fake}}
inputs: {found: {type: list}}
steps:
  x:
    use: retrieval.compress
    with: {question: Where is the mill?, passages: "${inputs.found}", tokens: 6}
"""


def test_without_an_embedder_words_decide_and_the_trace_says_so(tmp_path: Path) -> None:
    class Missing:
        """An embedder whose files are not there."""

        @property
        def fingerprint(self) -> str:
            raise PluginError("WordLlama's embeddings need wordllama")

        async def embed(self, texts: Any) -> Any:
            raise AssertionError

    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    plugins = {"retrieval": AnswerFunctions(), "fake": FakePlugin()}
    with Kernel(plugins=plugins, cache=False, memory=tmp_path / "memory") as kernel:
        kernel.registry._scanned = True  # these plugins and no installed ones
        kernel.memory._default = Missing
        result = kernel.recipe(path).run(found=[MILL.model_dump()])
    assert [passage.text for passage in result.output] == ["The mill stands on the Lea."]
    (note,) = [event.text for event in result.trace if isinstance(event, StepNoted)]
    assert note == "by words only, not by meaning: WordLlama's embeddings need wordllama"
