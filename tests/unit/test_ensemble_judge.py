"""Judging two answers and fusing several: places cancel out, and a verdict says how sure it is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill import Candidate, FunctionError, GenerateRequest
from gristmill_plugins.ensemble._fuse import fuse_messages
from gristmill_plugins.ensemble._judge import Verdict, judgement_of, letter_of, sigmoid, without_bias

if TYPE_CHECKING:
    from tests.unit.conftest import Bench

JUDGE = "steps:\n  j: {use: ensemble.judge, with: {question: How many?, candidates: {x: eight, y: six}"


def prefers(text: str, *, always_first: bool = False) -> object:
    """A judge that finds the answer with this text better, or always what stands first."""

    def answer(request: GenerateRequest, _: int) -> str:
        shown = request.messages[-1].content
        if always_first:
            return "A"
        return "A" if shown.index(text) < shown.index("Answer B:") else "B"

    return answer


@settings(deadline=None, max_examples=60)
@given(st.floats(-8, 8), st.floats(-8, 8))
def test_a_liking_for_a_place_cancels_out_exactly(quality: float, bias: float) -> None:
    verdict = without_bias(quality + bias, -quality + bias)
    assert verdict.odds == pytest.approx(quality, abs=1e-9)
    assert verdict.bias == pytest.approx(bias, abs=1e-9)
    exchanged = without_bias(-quality + bias, quality + bias)
    assert exchanged.probability == pytest.approx(1 - verdict.probability)
    if abs(abs(quality) - abs(bias)) > 1e-6:
        assert verdict.agrees == (abs(quality) > abs(bias))


def test_odds_become_probabilities_without_overflow() -> None:
    assert (sigmoid(0.0), sigmoid(1000.0), sigmoid(-1000.0)) == (0.5, 1.0, 0.0)
    assert sigmoid(math.log(3)) == pytest.approx(0.75)


def test_the_better_answer_wins_in_either_order(bench: Bench) -> None:
    bench.plugin.answers = prefers("eight")  # type: ignore[assignment]
    judgement = bench.run(JUDGE + "}}\n").output
    assert (judgement.winner, judgement.text, judgement.agrees) == ("x", "eight", True)
    assert judgement.probabilities["x"] > 0.9
    assert sum(judgement.probabilities.values()) == pytest.approx(1)
    assert judgement.usage.calls == 2
    first, second = (request.messages[-1].content for request in bench.model.requests)
    assert "Answer A:\neight\n\nAnswer B:\nsix" in first
    assert "Answer A:\nsix\n\nAnswer B:\neight" in second
    assert first.startswith("Question:\nHow many?")


def test_a_judge_that_always_takes_the_first_decides_nothing(bench: Bench) -> None:
    bench.plugin.answers = prefers("", always_first=True)  # type: ignore[assignment]
    judgement = bench.run(JUDGE + ", margin: 0.01}}\n").output
    assert (judgement.winner, judgement.text, judgement.agrees) == (None, None, False)
    assert judgement.probabilities == {"x": pytest.approx(0.5), "y": pytest.approx(0.5)}
    assert judgement.first_shown > 0.9
    alone = bench.run(JUDGE + ", swap: false}}\n").output
    assert (alone.winner, alone.agrees, alone.first_shown, alone.usage.calls) == ("x", None, None, 1)


def test_equal_answers_are_a_tie_without_a_call(bench: Bench) -> None:
    judgement = bench.run("steps:\n  j: {use: ensemble.judge, with: {question: q, candidates: [same, same]}}\n").output
    assert (judgement.winner, judgement.probabilities, judgement.usage.calls) == (None, {"1": 0.5, "2": 0.5}, 0)


def test_the_criterion_is_what_the_judge_reads(bench: Bench) -> None:
    bench.plugin.answers = "A"
    bench.run(JUDGE + ", criterion: Prefer the shorter answer.}}\n")
    assert bench.prompts[0].endswith("Prefer the shorter answer. Which answer is better, A or B? Say the letter only.")


def test_judge_takes_two(bench: Bench) -> None:
    told = str(bench.fails("steps:\n  j: {use: ensemble.judge, with: {question: q, candidates: [a, b, c]}}\n"))
    assert "judge compares two answers, these are 3" in told


def test_a_verdict_within_the_margin_names_nobody() -> None:
    close = Verdict(0.1)
    assert judgement_of(("x", "y"), ("a", "b"), close, 0.0).winner == "x"
    assert judgement_of(("x", "y"), ("a", "b"), close, 0.1).winner is None
    assert judgement_of(("x", "y"), ("a", "b"), Verdict(-3.0), 0.1).text == "b"


def test_there_are_letters_for_26_answers() -> None:
    assert (letter_of(0), letter_of(25)) == ("A", "Z")
    with pytest.raises(FunctionError, match="at most 26 answers can be shown together"):
        letter_of(26)


# Fusing


def test_the_fuser_reads_the_best_few_drafts_each_once(bench: Bench) -> None:
    bench.plugin.answers = "A spider has eight legs."
    fused = bench.run(
        "steps:\n  f: {use: ensemble.fuse, with: {question: How many legs?, top_k: 2, "
        "candidates: {a: Eight., b: Eight., c: Eight legs., d: Six.}}}\n"
    ).output
    assert (fused.text, fused.sources) == ("A spider has eight legs.", ("a", "c"))
    assert fused.usage.calls == 1
    (prompt,) = bench.prompts
    assert "How many legs?" in prompt
    assert "Draft 1:\nEight.\n\nDraft 2:\nEight legs.\n\n" in prompt
    assert "Six" not in prompt


def test_nothing_cannot_be_fused() -> None:
    with pytest.raises(FunctionError, match="there is no answer to fuse"):
        fuse_messages("q", {"a": Candidate(text=" ")}, top_k=3)
