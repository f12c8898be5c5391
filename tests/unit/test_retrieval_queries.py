"""Texts to search with: hypothetical documents, other wordings, simpler questions; and several results made one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gristmill import GenerateRequest, Kernel, Passage, StepNoted
from gristmill.testing import FakePlugin
from gristmill_plugins.retrieval._answer_functions import AnswerFunctions


@pytest.fixture
def fake() -> FakePlugin:
    return FakePlugin()


@pytest.fixture
def call(fake: FakePlugin, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    with Kernel(plugins={"retrieval": AnswerFunctions(), "fake": fake}, cache=False) as kernel:
        kernel.registry._scanned = True  # these plugins and no installed ones

        def call(function: str, **arguments: Any) -> Any:
            path = tmp_path / "r.yaml"
            path.write_text(
                "version: 1\nmodels: {main: {use: fake}}\n"
                f"steps: {{x: {{use: retrieval.{function}, with: {json.dumps(arguments)}}}}}\n"
            )
            return kernel.recipe(path).run()

        yield call


def asked(fake: FakePlugin) -> GenerateRequest:
    (request,) = fake.models["fake"].requests
    assert isinstance(request, GenerateRequest)
    return request


def test_hyde_draws_its_documents_in_one_request_and_keeps_the_question_first(
    call: Callable[..., Any], fake: FakePlugin
) -> None:
    fake.answers = lambda _, index: ["The Lea runs by it.", " ", "The Lea runs by it.", "At Ware."][index]
    made = call("hyde", question="Where is the mill?", samples=4, genre="an entry of a gazetteer").output
    assert made.documents == ("The Lea runs by it.", "At Ware.")
    assert made.texts == ("Where is the mill?", *made.documents)
    assert made.as_text() == "Where is the mill?\nThe Lea runs by it.\nAt Ware."
    request = asked(fake)
    assert request.sample_indices == (0, 1, 2, 3)
    assert request.sampling.temperature == 0.7
    assert "Write an entry of a gazetteer that answers" in request.messages[0].content


def test_other_wordings_follow_the_question_without_repetitions(call: Callable[..., Any], fake: FakePlugin) -> None:
    fake.answers = lambda _, index: ['"Where does the mill stand?"', "WHERE is the mill?", ""][index]
    found = call("multi_query", question="Where is the mill?", samples=3).output
    assert found == ["Where is the mill?", "Where does the mill stand?"]
    assert asked(fake).sampling.stop == ("\n",)


def test_a_question_is_split_under_a_schema(call: Callable[..., Any], fake: FakePlugin) -> None:
    fake.answers = '{"questions": ["Who built the mill?", "When was  he\\nborn?", "Who built the mill?"]}'
    found = call("decompose", question="When was the builder of the mill born?", most=3).output
    assert found == ["Who built the mill?", "When was he born?"]
    schema = asked(fake).json_schema
    assert schema is not None
    assert schema["properties"]["questions"]["maxItems"] == 3


def test_a_question_that_cannot_be_split_stays_as_it_is(call: Callable[..., Any], fake: FakePlugin) -> None:
    fake.answers = '{"questions": [" "]}'
    assert call("decompose", question="Where?").output == ["Where?"]
    fake.answers = '{"questions": ["a b c'
    result = call("decompose", question="Where?", max_tokens=2)
    assert result.output == ["Where?"]
    (note,) = [event.text for event in result.trace if isinstance(event, StepNoted)]
    assert note.startswith("the question was not split: the answer was cut off before its JSON was complete")


def test_merging_sums_reciprocal_ranks_and_keeps_each_passage_once() -> None:
    def passage(text: str, **metadata: Any) -> Passage:
        return Passage(text=text, source="a.md", score=9.0, metadata=metadata)

    a, b, c = passage("a", id="1"), passage("b", id="2"), passage("c")
    again = passage("a, in other words", id="1")
    merged = asyncio.run(AnswerFunctions().merge([[b, a], [again, c], []], top_k=10))
    assert [p.text for p in merged] == ["a", "b", "c"]
    assert [p.score for p in merged] == pytest.approx([1 / 62 + 1 / 61, 1 / 61, 1 / 62])
    assert [p.text for p in asyncio.run(AnswerFunctions().merge([[b, a], [again]], top_k=1))] == ["a"]
    assert asyncio.run(AnswerFunctions().merge([])) == []
