"""Ranking answers: by pairs or all at once, whatever order they are given in and whatever places a judge likes."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill import Candidate, Choice, FunctionError, GenerateRequest, Message
from gristmill_plugins.ensemble._judge import Judge
from gristmill_plugins.ensemble._rank import rank_listwise, rank_pairwise, rotated_scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.unit.conftest import Bench

NAMES = "pqrs"


class LikingJudge:
    """Answers by quality, the number in an answer's text, and by a liking for places."""

    def __init__(self, places: Sequence[float]) -> None:
        self.places = places
        self.n_calls = 0

    async def choose(self, messages: Sequence[Message], choices: Sequence[str], *, calibrate: bool = False) -> Choice:
        self.n_calls += 1
        shown = [float(part.split("\n")[1]) for part in messages[-1].content.split("Answer ")[1:]]
        logits = [quality + self.places[place] for place, quality in enumerate(shown)]
        total = math.fsum(map(math.exp, logits))
        return Choice(
            text="", index=0, probabilities={c: math.exp(x) / total for c, x in zip(choices, logits, strict=True)}
        )


def answers(qualities: Sequence[float]) -> dict[str, Candidate]:
    return {
        name: Candidate(text=f"{quality:.6f}", source=name) for name, quality in zip(NAMES, qualities, strict=False)
    }


QUALITIES = st.lists(st.floats(-3, 3), min_size=2, max_size=4)
PLACES = st.lists(st.floats(-3, 3), min_size=4, max_size=4)


@settings(deadline=None, max_examples=40)
@given(QUALITIES, PLACES)
async def test_answers_are_ranked_by_quality_whatever_places_the_judge_likes(
    qualities: list[float], places: list[float]
) -> None:
    candidates = answers(qualities)
    by_text = {name: float(candidate.text) for name, candidate in candidates.items()}
    for rank in (rank_pairwise, rank_listwise):
        judge = LikingJudge(places)
        ranking = await rank(Judge(judge, "q", "", ""), candidates)  # type: ignore[arg-type]
        found = [by_text[name] for name in ranking.order]
        assert all(a >= b - 1e-5 for a, b in itertools.pairwise(found))
        assert [candidate.source for candidate in ranking.candidates] == list(ranking.order)
        assert ranking.text == ranking.candidates[0].text


@settings(deadline=None, max_examples=30)
@given(QUALITIES, PLACES, st.data())
async def test_the_order_in_which_answers_are_given_changes_no_score(
    qualities: list[float], places: list[float], data: st.DataObject
) -> None:
    candidates = answers(qualities)
    moved = {name: candidates[name] for name in data.draw(st.permutations(list(candidates)))}
    one = await rank_pairwise(Judge(LikingJudge(places), "q", "", ""), candidates)  # type: ignore[arg-type]
    other = await rank_pairwise(Judge(LikingJudge(places), "q", "", ""), moved)  # type: ignore[arg-type]
    assert other.scores == pytest.approx(one.scores)


async def test_pairwise_scores_are_the_mean_of_comparisons() -> None:
    judge = LikingJudge([0.5, 0.0])
    ranking = await rank_pairwise(Judge(judge, "q", "", ""), answers([2.0, 0.0, 1.0]))  # type: ignore[arg-type]
    assert ranking.order == ("p", "r", "q")
    assert ranking.wins["p"] == {"q": pytest.approx(1 / (1 + math.exp(-2))), "r": pytest.approx(1 / (1 + math.exp(-1)))}
    assert ranking.scores["p"] == pytest.approx(sum(ranking.wins["p"].values()) / 2)
    assert ranking.first_shown == pytest.approx(1 / (1 + math.exp(-0.5)))
    assert judge.n_calls == 6


async def test_listwise_scores_are_the_softmax_of_quality() -> None:
    judge = LikingJudge([3.0, 0.0, -1.0])
    ranking = await rank_listwise(Judge(judge, "q", "", ""), answers([2.0, 0.0, 1.0]))  # type: ignore[arg-type]
    total = math.exp(2) + 1 + math.e
    assert ranking.scores == {"p": pytest.approx(math.exp(2) / total), "r": pytest.approx(math.e / total),
                              "q": pytest.approx(1 / total)}  # fmt: skip
    places = math.exp(3) + 1 + math.exp(-1)
    assert ranking.first_shown == pytest.approx(math.exp(3) / places)
    assert judge.n_calls == 3


async def test_without_swapping_a_liking_for_a_place_can_win() -> None:
    for rank, n_calls in ((rank_pairwise, 1), (rank_listwise, 1)):
        judge = LikingJudge([5.0, 0.0])
        ranking = await rank(Judge(judge, "q", "", "", swap=False), answers([0.0, 1.0]))  # type: ignore[arg-type]
        assert ranking.order == ("p", "q")
        assert (judge.n_calls, ranking.first_shown) == (n_calls, None)


async def test_a_single_answer_is_the_best_without_a_call() -> None:
    for rank in (rank_pairwise, rank_listwise):
        judge = LikingJudge([0.0])
        ranking = await rank(Judge(judge, "q", "", ""), answers([1.0]))  # type: ignore[arg-type]
        assert (ranking.order, ranking.scores, judge.n_calls) == (("p",), {"p": 1.0}, 0)


async def test_more_answers_than_letters_are_ranked_pairwise() -> None:
    many = {f"m{n}": Candidate(text=str(n)) for n in range(27)}
    with pytest.raises(FunctionError, match="at most 26 answers"):
        await rank_listwise(Judge(LikingJudge([]), "q", "", ""), many)  # type: ignore[arg-type]


def test_equals_stay_in_the_order_given() -> None:
    candidates = answers([1.0, 1.0, 1.0])
    rotations = [["p", "q", "r"], ["q", "r", "p"], ["r", "p", "q"]]
    assert rotated_scores(candidates, rotations, [[-1.0] * 3] * 3).order == ("p", "q", "r")


def test_a_step_ranks_and_the_next_takes_the_best(bench: Bench) -> None:
    def answer(request: GenerateRequest, _: int) -> str:
        shown = request.messages[-1].content
        return next((part[0] for part in shown.split("Answer ")[1:] if "eight" in part), "B")

    bench.plugin.answers = answer
    result = bench.run(
        "steps:\n  r: {use: ensemble.rank, with: {question: Legs?, method: listwise, "
        "candidates: {a: six, b: eight, c: ten}}}\n"
        "  f: {use: ensemble.fuse, with: {question: Legs?, candidates: '${r.candidates}', top_k: 1}}\n"
        "output: {best: '${r.text}', read: '${f.sources}'}\n"
    )
    assert result.output == {"best": "eight", "read": ("b",)}
    assert result.steps["r"].value.usage.calls == 3


def test_nothing_cannot_be_ranked(bench: Bench) -> None:
    told = str(bench.fails("steps:\n  r: {use: ensemble.rank, with: {question: q, candidates: []}}\n"))
    assert "there is no answer to rank" in told
