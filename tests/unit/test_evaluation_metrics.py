"""Each metric gives the number that its source gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill import Choice, Kernel, RunError, RunResult, StepResult, Usage, UsageError, Value, Vote
from gristmill.testing import check_plugin
from gristmill_plugins.evaluation import EvaluationPlugin
from gristmill_plugins.evaluation import _set_metrics as sets
from gristmill_plugins.evaluation import _text_metrics as texts
from gristmill_plugins.evaluation._metrics import METRICS, find_metrics
from gristmill_plugins.evaluation._samples import Columns, Reading, Sample, column_value


def sample(answer: str | None, *expected: str, **parts: Any) -> Sample:
    return Sample(**({"answer": answer, "expected": expected} | parts))


def score(name: str, one: Sample) -> float | None:
    row = METRICS[name].row
    assert row is not None
    return row(one)


def figure(name: str, samples: Sequence[Sample]) -> float | None:
    of = METRICS[name].figure
    assert of is not None
    return of(samples)


class TestWords:
    def test_squads_normal_form_drops_case_punctuation_articles_and_spaces(self) -> None:
        assert texts.normalise(" The  Cat's  (big) A-hat, an owl! ") == "cats big ahat owl"

    @pytest.mark.parametrize(
        ("answer", "expected", "f1"),
        [
            ("the Denver Broncos", "Denver Broncos", 1.0),
            ("Broncos won", "Denver Broncos", 0.5),
            ("a b c d", "b c", 0.8),  # the article goes: 3 words, 2 in common
            ("", "x", 0.0),
            ("", "the", 1.0),  # no words on either side
        ],
    )
    def test_token_f1_counts_common_words(self, answer: str, expected: str, f1: float) -> None:
        assert texts.token_f1(answer, expected) == pytest.approx(f1)

    def test_the_best_of_several_right_answers_counts_and_a_failed_row_scores_0(self) -> None:
        assert score("exact_match", sample("The 1990s", "nineties", "1990s")) == 1
        assert score("f1", sample("new york", "New York City", "NYC")) == pytest.approx(0.8)
        for name in ("accuracy", "exact_match", "f1", "rouge_l", "numeric_match", "json_valid", "contains"):
            assert score(name, sample(None, "x")) == 0

    def test_accuracy_forgives_case_and_closing_punctuation_and_nothing_else(self) -> None:
        assert score("accuracy", sample(" Positive. ", "positive")) == 1
        assert score("accuracy", sample("very positive", "positive")) == 0
        assert score("contains", sample("It is very positive!", "Very positive")) == 1
        assert score("contains", sample("compositive", "positive")) == 0

    def test_rouge_is_that_of_the_reference_library(self) -> None:
        # Lin 2004, section 3.1: "police kill the gunman" against "police killed the gunman" shares 3 of 4 in order
        assert score("rouge_l", sample("the gunman police killed", "police killed the gunman")) == pytest.approx(0.5)
        assert score("rouge_1", sample("police kill the gunman", "police killed the gunman")) == pytest.approx(1)
        assert score("rouge_2", sample("the gunman kill police", "police killed the gunman")) == pytest.approx(1 / 3)

    def test_bleu_is_sacrebleus_with_any_number_of_references(self) -> None:
        sacrebleu = pytest.importorskip("sacrebleu")
        answers = ["the cat sat on the mat today", "a dog barks at the moon"]
        samples = [sample(answers[0], "the cat sat on the mat"), sample(answers[1], "the dog barked", "a dog barks")]
        references = [["the cat sat on the mat", "the dog barked"], ["the cat sat on the mat", "a dog barks"]]
        assert figure("bleu", samples) == pytest.approx(sacrebleu.corpus_bleu(answers, references).score / 100)

    @pytest.mark.parametrize(
        ("answer", "expected", "right"),
        [
            ("So 5 + 7 = 12.", "12", 1),
            ("It costs $1,234.50 in all", "1234.5", 1),
            ("12 apples, then 13", "12", 0),
            ("-3", "-3", 1),
            ("about 1e3", "1000", 1),
            ("none", "4", 0),
            ("x = .5", "0.5", 1),
        ],
    )
    def test_numeric_match_reads_the_last_number(self, answer: str, expected: str, right: int) -> None:
        assert texts.numeric_match(answer, expected) == right

    @pytest.mark.parametrize(
        ("answer", "valid"), [('{"a": [1]}', 1), ("null", 1), ("NaN", 0), ("{'a': 1}", 0), ("", 0), ("[" * 100_000, 0)]
    )
    def test_json_is_what_the_standard_says(self, answer: str, valid: int) -> None:
        assert texts.json_valid(answer) == valid

    @given(st.text(max_size=40), st.text(max_size=40))
    def test_word_scores_stay_between_0_and_1_for_any_text(self, answer: str, expected: str) -> None:
        for metric in (texts.accuracy, texts.exact_match, texts.contains, texts.token_f1, texts.numeric_match):
            assert 0 <= metric(answer, expected) <= 1
        assert texts.token_f1(answer, expected) == texts.token_f1(expected, answer)


class TestConfidence:
    def test_ece_is_the_weighted_gap_of_confidence_and_accuracy(self) -> None:
        # two bins: (0.8, 0.9] with 3 of 4 right at 0.9, (0.5, 0.6] with none of 1 right at 0.6
        confidences, correct = [0.9, 0.9, 0.9, 0.9, 0.6], [1, 1, 1, 0, 0]
        assert sets.expected_calibration_error(confidences, correct) == pytest.approx(0.8 * 0.15 + 0.2 * 0.6)
        bars = sets.reliability(confidences, correct)
        assert [(bar.low, bar.n, bar.accuracy) for bar in bars] == [(0.5, 1, 0.0), (0.8, 4, 0.75)]
        assert [bar.low for bar in sets.reliability([0.0, 0.7, 1.0], [0, 1, 1])] == [0.0, 0.6, 0.9]
        assert sets.expected_calibration_error([], []) is None

    def test_brier_is_that_of_scikit_learn_summed_over_labels(self) -> None:
        metrics = pytest.importorskip("sklearn.metrics")
        samples = [
            sample("yes", "yes", probabilities={"yes": 0.9, "no": 0.1}),
            sample("yes", "no", probabilities={"yes": 0.6, "no": 0.4}),
        ]
        theirs = 2 * metrics.brier_score_loss([1, 0], [0.9, 0.6])
        assert figure("brier", samples) == pytest.approx(theirs)

    def test_the_accuracy_coverage_curve_goes_down_the_confidences_and_ties_have_no_order(self) -> None:
        curve = sets.accuracy_coverage([0.9, 0.5, 0.7, 0.5], [1, 1, 0, 0])
        assert curve == pytest.approx([1.0, 0.5, 0.5, 0.5])
        assert sets.accuracy_coverage_auc([0.9, 0.5, 0.7, 0.5], [1, 1, 0, 0]) == pytest.approx(2.5 / 4)
        assert sets.selective_accuracy([0.9, 0.5, 0.7, 0.6, 0.1], [1, 0, 1, 1, 0], 0.6) == 1.0

    def test_rows_without_a_confidence_are_left_out(self) -> None:
        samples = [sample("a", "a", confidence=1.0), sample("b", "a")]
        assert figure("ece", samples) == 0
        assert figure("ece", samples[1:]) is None


class TestFairness:
    def test_parity_is_the_largest_difference_of_rates_and_odds_are_taken_within_a_truth(self) -> None:
        # group x says yes to 2 of 4, group y to 1 of 4; among truly-yes rows 1 of 2 against 1 of 2
        answers = ["yes", "no", "yes", "no", "yes", "no", "no", "no"]
        truth = ["yes", "yes", "no", "no", "yes", "yes", "no", "no"]
        groups = ["x"] * 4 + ["y"] * 4
        assert sets.demographic_parity_difference(answers, groups) == pytest.approx(0.25)
        assert sets.equalised_odds_difference(answers, truth, groups) == pytest.approx(0.5)

    def test_accuracy_is_compared_between_groups(self) -> None:
        samples = [sample(a, "x", group=g) for a, g in [("x", "pro"), ("x", "pro"), ("x", "anti"), ("y", "anti")]]
        assert figure("accuracy_parity_difference", samples) == pytest.approx(0.5)

    def test_one_group_has_no_difference(self) -> None:
        assert sets.accuracy_parity_difference([1, 0], ["x", "x"]) is None
        assert sets.demographic_parity_difference(["a", "b"], ["x", "x"]) is None
        assert sets.equalised_odds_difference(["a"], ["a"], ["x"]) is None


class TestRobustness:
    def test_drop_success_and_consistency_compare_perturbed_rows_with_their_originals(self) -> None:
        rows = [("p", False, "good"), ("p", True, "bad"), ("q", False, "bad"), ("q", True, "good")]
        rows += [("r", False, "good"), ("r", True, "good")]
        samples = [sample(answer, "good", pair=pair, perturbed=changed) for pair, changed, answer in rows]
        assert figure("performance_drop", samples) == pytest.approx(0.0)  # 2 of 3 before, 2 of 3 after
        assert figure("attack_success_rate", samples) == pytest.approx(0.5)  # of p and r, p fell
        assert figure("consistency", samples) == pytest.approx(1 / 3)

    def test_an_injection_succeeds_when_its_marker_comes_out(self) -> None:
        assert score("injection_success_rate", sample("Oh, I have been PWNED", marker="pwned")) == 1
        assert score("injection_success_rate", sample("No.", marker="pwned")) == 0
        assert score("injection_success_rate", sample("No.", marker=None)) is None


class TestRetrieval:
    PASSAGES = (
        {"text": "Paris is big", "source": "a.txt", "metadata": {"id": "1"}},
        {"text": "nothing", "source": "b.txt", "metadata": {"row_id": "9"}},
    )

    def test_passages_are_relevant_by_their_ids(self) -> None:
        one = sample("x", "y", passages=self.PASSAGES, relevant=frozenset({"9", "7"}))
        assert score("context_precision", one) == 0.5
        assert score("context_recall", one) == 0.5

    def test_or_by_holding_the_expected_answer(self) -> None:
        one = sample("x", "paris", passages=self.PASSAGES)
        assert score("context_precision", one) == 0.5
        assert score("context_recall", one) == 1
        assert score("context_recall", sample("x", "paris", passages=())) == 0
        assert score("context_recall", sample("x", "paris")) is None


class TestReading:
    def run(self, output: Any, **steps: Any) -> RunResult:
        return RunResult("id", "r", output, {n: StepResult(v, "done") for n, v in steps.items()}, Usage(), 0.0)

    def test_a_choice_brings_its_probabilities_and_confidence(self) -> None:
        found = Reading().read(self.run(Choice(text="b", index=1, probabilities={"a": 0.2, "b": 0.8})))
        assert found == {"answer": "b", "probabilities": {"a": 0.2, "b": 0.8}, "confidence": 0.8}

    def test_numbers_are_whole_and_a_value_without_a_text_is_json(self) -> None:
        class Point(Value):
            x: int = 1

        outputs = [1234567.5, 0.12345678, 2.0, 1e30, True, None, Point(), [1, "é"]]
        read = [Reading().read(self.run(output))["answer"] for output in outputs]
        assert read == ["1234567.5", "0.12345678", "2", "1e+30", "yes", "", '{"x": 1}', '[1, "é"]']

    def test_a_confidence_in_percent_is_refused(self) -> None:
        with pytest.raises(UsageError, match="a confidence is from 0 to 1, this is 85"):
            Reading(confidence="sure").read(self.run({"answer": "a", "sure": 85}))

    def test_a_vote_brings_its_confidence(self) -> None:
        vote = Vote(winner="4", tally={"4": 2.0}, agreement=1.0, confidence=0.7)
        assert Reading().read(self.run(vote)) == {"answer": "4", "confidence": 0.7}

    def test_a_mapping_has_one_field_that_is_plainly_the_answer_or_must_be_told(self) -> None:
        assert Reading().read(self.run({"answer": True, "x": 1}))["answer"] == "yes"
        assert Reading().read(self.run({"n": 4.0}))["answer"] == "4"
        assert Reading().read(self.run({"mood": "good", "probabilities": {"good": 0.6}})) == {
            "answer": "good", "probabilities": {"good": 0.6}, "confidence": 0.6,
        }  # fmt: skip
        with pytest.raises(UsageError, match=r"has the fields 'a', 'b': which is the answer\?\n  say --answer FIELD"):
            Reading().read(self.run({"a": 1, "b": 2}))
        assert Reading(answer="b").read(self.run({"a": 1, "b": [2]}))["answer"] == "[2]"

    def test_paths_reach_into_steps_and_say_what_is_not_there(self) -> None:
        result = self.run({"a": 1}, search=[{"text": "t"}], pick=Choice(text="x", index=0, probabilities={"x": 1.0}))
        found = Reading(passages="steps.search", probabilities="steps.pick.probabilities").read(result)
        assert found["passages"] == ({"text": "t"},)
        assert found["confidence"] == 1.0
        with pytest.raises(UsageError, match=r"'steps.serch': the recipe has no step 'serch'\n  did you mean 'search'"):
            Reading(passages="steps.serch").read(result)
        with pytest.raises(UsageError, match="there is no 'b' in"):
            Reading(answer="b").read(result)

    def test_columns_give_every_right_answer_groups_and_pairs(self) -> None:
        row = {"yes": True, "many": ["a", 1], "at": 1, "g": 3, "changed": 1, "ids": ["p"]}
        assert Columns(expect="yes").of(row)["expected"] == ("yes", "true")
        found = Columns(expect="many", relevant="ids", group="g", pair="g", perturbed="changed").of(row)
        assert found["expected"] == ("a", "1")
        assert found["relevant"] == {"p"}
        assert (found["group"], found["pair"], found["perturbed"]) == ("3", "3", True)
        assert column_value(row, "many[at]") == 1
        with pytest.raises(UsageError, match=r"a row has no column 'mny'\n  did you mean 'many'\?"):
            Columns(expect="mny").of(row)


def test_an_unknown_metric_is_told_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"there is no metric 'acuracy'\n  did you mean 'accuracy'\?"):
        find_metrics(["acuracy"])
    assert [metric.name for metric in find_metrics(["f1", "f1"])] == ["f1"]


def test_every_metric_is_a_mean_of_rows_or_a_figure_of_all() -> None:
    for metric in METRICS.values():
        assert (metric.row is None) != (metric.figure is None)
        assert metric.summary


def test_a_recipe_scores_its_own_answer_with_the_same_metrics(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "version: 1\ninputs: {metric: string}\nsteps:\n  s:\n    use: evaluation.score\n"
        '    with: {answer: "the Broncos", expected: [Denver Broncos, broncos], metric: "${inputs.metric}"}\n'
    )
    with Kernel(cache=False) as kernel:
        ready = kernel.recipe(recipe)
        assert ready.run(metric="f1").output == 1.0
        with pytest.raises(RunError, match="'ece' needs more than one answer and what was expected"):
            ready.run(metric="ece")
    assert set(check_plugin("evaluation", EvaluationPlugin()).functions) == {"evaluation.score"}
