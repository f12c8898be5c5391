"""Each sentence is checked against its closest evidence, and what the scores are made from is shown."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill import Kernel, Model, Passage, ScoreRequest, Scores, model_provider
from gristmill.testing import FakeEmbedder, FakeModel
from gristmill_plugins.retrieval._answer_functions import AnswerFunctions
from gristmill_plugins.retrieval._check import WITH_MEANING, WORDS_ONLY, verdict_scores
from gristmill_plugins.retrieval._check_evidence import Evidence, direction, find_evidence, is_negated

MILL = Passage(text="Ware is a town. The mill stands on the river Lea. It rains.", source="mill.md#L3")
BELT = Passage(text="The belt slipped off the wheel. Nobody was hurt.", source="belt.md")


class Reader(FakeModel):
    """Finds a statement likely after a passage that shares its last word, and surprising otherwise."""

    async def score(self, request: ScoreRequest) -> Scores:
        self.requests.append(request)
        told = request.messages[-1].content
        known = [choice.rstrip(".").rsplit(" ", 1)[-1] in told for choice in request.choices]
        return Scores(logprobs=tuple(-5.0 if one else -20.0 for one in known))


class Readers:
    """Makes the reader."""

    def __init__(self) -> None:
        self.made = Reader()

    @model_provider
    def reader(self) -> Model:
        """The reader."""
        return self.made


@pytest.fixture
def readers() -> Readers:
    return Readers()


@pytest.fixture
def check(readers: Readers, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    plugins = {"retrieval": AnswerFunctions(), "reader": readers}
    with Kernel(plugins=plugins, cache=False, memory=tmp_path / "memory") as kernel:
        kernel.registry._scanned = True  # these plugins and no installed ones
        kernel.memory._default = FakeEmbedder
        path = tmp_path / "r.yaml"
        path.write_text(
            "version: 1\nmodels: {main: {use: reader}}\ninputs: {text: string, found: list}\nsteps:\n  x:\n"
            "    use: retrieval.check\n    with: {text: '${inputs.text}', passages: '${inputs.found}'}\n"
        )
        yield lambda text, *found: kernel.recipe(path).run(text=text, found=list(found)).output


def test_a_sentence_that_the_passages_hold_is_supported_and_another_is_not(check: Callable[..., Any]) -> None:
    checked = check("The mill stands on the Lea [1]. Whales sing at night.", BELT, MILL)
    held, other = checked.sentences
    assert (held.text, held.verdict, held.number, held.source) == (
        "The mill stands on the Lea.", "supported", 2, "mill.md#L3",
    )  # fmt: skip
    assert "The mill stands on the river Lea." in held.evidence
    assert held.signs["surprise"] == pytest.approx(0.75)
    assert (other.text, other.verdict) == ("Whales sing at night.", "unsupported")
    assert not checked.supported
    assert checked.score == other.supported < held.supported


def test_a_negated_copy_is_contradicted(check: Callable[..., Any]) -> None:
    (said,) = check("The mill does not stand on the river Lea.", MILL).sentences
    assert said.verdict == "contradicted"
    assert said.signs["negated"] == 1.0
    assert said.supported + said.contradicted + said.unsupported == pytest.approx(1)


def test_without_passages_nothing_is_supported_and_no_model_is_asked(
    check: Callable[..., Any], readers: Readers
) -> None:
    checked = check("The mill stands.", Passage(text=" "))
    assert (checked.supported, checked.score) == (False, 0.0)
    assert checked.sentences[0].verdict == "unsupported"
    assert check(" [1] ", MILL).sentences == ()
    assert readers.made.requests == []


def test_evidence_is_the_closest_passages_best_sentences_in_their_order() -> None:
    async def find(statement: str, *passages: Passage) -> Evidence | None:
        return (await find_evidence([statement], passages, None))[0]

    long = Passage(text="The mill is old. Cats sleep. The mill grinds. Dogs bark. The mill stands on the Lea.")
    found = asyncio.run(find("The old mill grinds on the Lea.", BELT, long))
    assert found is not None
    assert (found.number, found.text) == (2, "The mill is old. The mill grinds. The mill stands on the Lea.")
    assert found.cosine == 0.0
    assert found.coverage == pytest.approx(1.0)
    assert asyncio.run(find("x", Passage(text=""))) is None


@pytest.mark.parametrize(
    ("text", "negated", "way"),
    [
        ("Aspirin lowers the risk.", False, -1),
        ("Aspirin does not increase the risk.", True, 1),
        ("It isn’t higher or lower.", True, 0),
        ("The knot was tied.", False, 0),
        ("Growth failed without light.", True, 0),
    ],
)
def test_negation_and_direction_are_read_off_words(text: str, negated: bool, way: int) -> None:
    assert is_negated(text) is negated
    assert direction(text) == way


@given(st.floats(0, 1), st.floats(-1, 1), st.booleans(), st.sampled_from([-1, 0, 1]), st.floats(-1e6, 1))
def test_scores_are_a_distribution_and_evidence_never_hurts(
    coverage: float, cosine: float, negated: bool, direction: int, surprise: float
) -> None:
    def scores(coverage: float) -> dict[Any, float]:
        return verdict_scores(Evidence(1, "", coverage, cosine, negated, direction), surprise, WITH_MEANING)

    assert math.isclose(sum(scores(coverage).values()), 1)
    assert all(0 <= value <= 1 for value in scores(coverage).values())
    assert scores(1.0)["unsupported"] <= scores(0.0)["unsupported"]
    assert WORDS_ONLY.cosine == 0.0
