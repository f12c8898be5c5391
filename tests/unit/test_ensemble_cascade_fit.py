"""Cascades: calibration, thresholds for a target, and what is refused."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from gristmill import FunctionError
from gristmill_plugins.ensemble._cascade import FittedCascade, check_members, logit, sigmoid, thresholds_of
from gristmill_plugins.ensemble._cascade_fit import Answered, Target, fit_cascade
from gristmill_plugins.ensemble._learned_file import load, save

pytest.importorskip("sklearn", reason="fitting needs the extra gristmill[ensemble]")

MEMBERS = ("cheap", "dear")


def answered(n: int, seed: int = 0, *, honest: bool = True) -> list[dict[str, Answered]]:
    """A cheap member that is right as often as the square of its confidence says, and a dear one that mostly is."""
    rng = random.Random(seed)
    rows = []
    for _ in range(n):
        sure = 0.5 + 0.5 * rng.random()
        right = rng.random() < sure**2
        confidence = sure if honest else 1.5 - sure
        rows.append({"cheap": Answered(right, confidence, 1.0), "dear": Answered(rng.random() < 0.9, 0.7, 10.0)})
    return rows


def test_calibration_turns_confidence_into_the_chance_of_being_right() -> None:
    model = fit_cascade(answered(1500), MEMBERS)
    for sure in (0.6, 0.75, 0.9):
        assert model.calibrated("cheap", sure) == pytest.approx(sure**2, abs=0.08)
    assert model.calibrated("dear", 0.7) == pytest.approx(0.9, abs=0.03)


def test_a_target_accuracy_is_reached_as_cheaply_as_can_be() -> None:
    costs = []
    for accuracy in (0.7, 0.8, 0.88):
        evidence = fit_cascade(answered(600), MEMBERS, target=Target(accuracy=accuracy)).evidence
        assert evidence.accuracy == pytest.approx(accuracy, abs=0.04)
        assert sum(evidence.shares.values()) == pytest.approx(1)
        costs.append(evidence.cost)
    assert costs == sorted(costs)
    assert costs[0] < 6 < costs[2] < 11


def test_a_target_cost_is_kept_as_accurately_as_can_be() -> None:
    accuracies = []
    for cost in (2.0, 5.0, 9.0):
        evidence = fit_cascade(answered(600), MEMBERS, target=Target(cost=cost)).evidence
        assert evidence.cost == pytest.approx(cost, abs=0.7)
        accuracies.append(evidence.accuracy)
    assert accuracies == sorted(accuracies)
    assert accuracies[2] > accuracies[0] + 0.1


def test_a_cascade_within_a_budget_beats_the_cheap_member_alone() -> None:
    evidence = fit_cascade(answered(600), MEMBERS, target=Target(cost=6.0)).evidence
    assert evidence.accuracy > evidence.members["cheap"] + 0.08


def test_confidence_that_misleads_is_worth_no_more_than_the_base_rate() -> None:
    model = fit_cascade(answered(400, honest=False), MEMBERS)
    assert model.slopes["cheap"] == 0
    assert model.calibrated("cheap", 0.99) == model.calibrated("cheap", 0.5)
    assert model.calibrated("cheap", 0.5) == pytest.approx(model.evidence.members["cheap"], abs=0.01)


def test_a_member_that_was_never_wrong_is_not_certain_to_be_right() -> None:
    rows = [{"cheap": Answered(True, 0.8, 1.0), "dear": Answered(False, 0.8, 9.0)} for _ in range(20)]
    model = fit_cascade(rows, MEMBERS)
    assert model.calibrated("cheap", 0.8) == pytest.approx(21 / 22)
    assert model.evidence.accuracy == 1
    assert model.evidence.cost == 1


def test_three_members_are_asked_in_their_order() -> None:
    rng = random.Random(2)
    rows = [
        {
            name: Answered((right := rng.random() < accuracy), 0.9 if right else 0.4 + 0.3 * rng.random(), cost)
            for name, accuracy, cost in (("a", 0.4, 1.0), ("b", 0.5, 2.0), ("c", 0.7, 4.0))
        }
        for _ in range(200)
    ]
    evidence = fit_cascade(rows, ("a", "b", "c"), target=Target(accuracy=0.85)).evidence
    assert evidence.accuracy > 0.8 > max(evidence.members.values())
    assert set(evidence.shares) == {"a", "b", "c"}


def test_the_same_rows_and_seed_give_the_same_cascade() -> None:
    assert fit_cascade(answered(60), MEMBERS, seed=3) == fit_cascade(answered(60), MEMBERS, seed=3)


def test_rows_and_targets_that_cannot_be_fitted_are_refused_with_the_reason() -> None:
    rows = answered(40)
    with pytest.raises(FunctionError, match="20 rows or more, these are 19"):
        fit_cascade(rows[:19], MEMBERS)
    with pytest.raises(FunctionError, match="two members or more, this has 1"):
        fit_cascade(rows, ("cheap",))
    with pytest.raises(FunctionError, match="row 3 has no answer of 'dear'\n  collect the rows with `ask_all: true`"):
        fit_cascade([*rows[:2], {"cheap": rows[2]["cheap"]}, *rows[3:]], MEMBERS)
    with pytest.raises(FunctionError, match="not for both"):
        fit_cascade(rows, MEMBERS, target=Target(accuracy=0.5, cost=1))
    with pytest.raises(FunctionError, match=r"no thresholds reach an accuracy of 0\.999: the best is 0\.9"):
        fit_cascade(answered(400), MEMBERS, target=Target(accuracy=0.999))
    with pytest.raises(FunctionError, match=r"no thresholds stay within a cost of 0\.5: the least is 1"):
        fit_cascade(rows, MEMBERS, target=Target(cost=0.5))


def test_other_members_or_another_order_are_refused() -> None:
    model = fit_cascade(answered(40), MEMBERS)
    check_members(model, ["cheap", "dear"])
    with pytest.raises(FunctionError, match="was fitted on cheap then dear, and not on dear then cheap"):
        check_members(model, ["dear", "cheap"])


def test_a_fitted_cascade_is_read_back_and_one_with_a_missing_threshold_refused(tmp_path: Path) -> None:
    model = fit_cascade(answered(40), MEMBERS)
    path = tmp_path / "cascade.json"
    save(path, model)
    assert load(path, FittedCascade) == model
    save(path, model.model_copy(update={"thresholds": {}}))
    with pytest.raises(FunctionError, match="every member but the last needs a threshold"):
        load(path, FittedCascade)


def test_thresholds_are_one_for_all_or_one_for_each_but_the_last() -> None:
    assert thresholds_of(0.7, 3) == [0.7, 0.7]
    assert thresholds_of([0.9, 0.5], 3) == [0.9, 0.5]
    with pytest.raises(FunctionError, match="3 members need 2 thresholds, these are 1"):
        thresholds_of([0.9], 3)


@pytest.mark.parametrize("value", [0.0, 1e-9, 0.3, 0.5, 0.999, 1.0])
def test_logits_are_finite_and_sigmoids_undo_them(value: float) -> None:
    assert sigmoid(logit(value)) == pytest.approx(value, abs=1e-5)
    assert sigmoid(-1000) == 0
    assert sigmoid(1000) == 1
