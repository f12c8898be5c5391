"""Stacking: what it learns, what it refuses, and what is left on disk."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from gristmill import Candidate, FunctionError
from gristmill_plugins.ensemble._learned_file import load, save
from gristmill_plugins.ensemble._stack import FittedStack, mean_of, predict
from gristmill_plugins.ensemble._stack_fit import LabelledRow, fit_stack

pytest.importorskip("sklearn", reason="fitting needs the extra gristmill[ensemble]")

ACCURACIES = {"good": 0.75, "fair": 0.7, "liar": 0.25}


def labelled(n: int, seed: int = 0, *, probabilities: bool = True) -> list[LabelledRow]:
    """Three members that err independently; one is wrong three times of four, and says so surely."""
    rng = random.Random(seed)
    rows = []
    for _ in range(n):
        right = rng.choice(["no", "yes"])
        members = {}
        for name, accuracy in ACCURACIES.items():
            said = right if rng.random() < accuracy else {"no": "yes", "yes": "no"}[right]
            sure = 0.6 + 0.3 * rng.random()
            shares = {label: sure if label == said else 1 - sure for label in ("no", "yes")}
            members[name] = Candidate(text=said, probabilities=shares if probabilities else None)
        rows.append(LabelledRow(members, right))
    return rows


def with_options(n: int, seed: int = 0) -> list[LabelledRow]:
    """Questions whose four options are never the same twice."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        options = [f"option {i}.{k}" for k in range(4)]
        right = rng.randrange(4)
        members = {}
        for name, accuracy in (("good", 0.6), ("guess", 0.25)):
            said = right if rng.random() < accuracy else (right + rng.randrange(1, 4)) % 4
            shares = {option: 0.85 if k == said else 0.05 for k, option in enumerate(options)}
            members[name] = Candidate(text=options[said], probabilities=shares)
        rows.append(LabelledRow(members, options[right]))
    return rows


@pytest.fixture(scope="module")
def fitted() -> FittedStack:
    return fit_stack(labelled(200))


@pytest.mark.parametrize("meta", ["logistic", "lda"])
@pytest.mark.parametrize("probabilities", [True, False])
def test_a_stack_beats_its_best_member_and_the_mean(meta: str, probabilities: bool) -> None:
    model = fit_stack(labelled(200, probabilities=probabilities), meta=meta)  # type: ignore[arg-type]
    fresh = labelled(400, seed=1, probabilities=probabilities)
    best = max(sum(row.members[name].text == row.label for row in fresh) for name in ACCURACIES)
    mean = sum(mean_of(row.members).text == row.label for row in fresh)
    stacked = sum(predict(model, row.members).text == row.label for row in fresh)
    assert stacked > best + 10
    assert stacked > mean + 10
    assert model.evidence.accuracy > max(model.evidence.members.values())
    assert model.evidence.accuracy == pytest.approx(stacked / 400, abs=0.07)


def test_options_that_differ_from_row_to_row_share_the_members_weights() -> None:
    model = fit_stack(with_options(150))
    assert model.labels is None
    assert model.features == ("good:log_ratio", "good:vote", "guess:log_ratio", "guess:vote")
    fresh = with_options(300, seed=1)
    assert sum(predict(model, row.members).text == row.label for row in fresh) > 165
    weights = dict(zip(model.features, model.coefficients[0], strict=True))
    assert weights["good:vote"] > 2 * abs(weights["guess:vote"])


def test_probabilities_of_a_stack_sum_to_one_and_the_likeliest_wins(fitted: FittedStack) -> None:
    result = predict(fitted, labelled(1, seed=3)[0].members)
    assert sum(result.probabilities.values()) == pytest.approx(1)
    assert result.confidence == max(result.probabilities.values()) == result.probabilities[result.text]
    assert result.fitted


def test_reordering_members_or_their_options_changes_nothing(fitted: FittedStack) -> None:
    members = labelled(1, seed=4)[0].members
    turned = {}
    for name, candidate in reversed(list(members.items())):
        shares = list((candidate.probabilities or {}).items())
        turned[name] = candidate.model_copy(update={"probabilities": dict(reversed(shares))})
    one, other = predict(fitted, members), predict(fitted, turned)
    assert one.text == other.text
    assert one.probabilities == pytest.approx(other.probabilities)


def test_the_same_rows_and_seed_give_the_same_model(fitted: FittedStack) -> None:
    assert fit_stack(labelled(200)) == fitted


def test_a_question_embedding_tells_apart_what_members_cannot() -> None:
    rng = random.Random(0)
    rows = []
    for row in labelled(200):
        topic = [1.0, 0.0] if row.label == "yes" else [0.0, 1.0]
        rows.append(LabelledRow(row.members, row.label, tuple(value + rng.gauss(0, 0.3) for value in topic)))
    model = fit_stack(rows, embedder="e")
    assert model.features[-2:] == ("embedding[0]", "embedding[1]")
    assert model.evidence.accuracy > fit_stack(labelled(200)).evidence.accuracy + 0.05


def test_members_that_a_stack_was_not_fitted_on_are_refused_by_name(fitted: FittedStack) -> None:
    members = dict(labelled(1)[0].members)
    members["other"] = members.pop("fair")
    with pytest.raises(FunctionError, match="it was fitted on 'fair', which is missing; it was not fitted on 'other'"):
        predict(fitted, members)


def test_labels_that_a_stack_was_not_fitted_on_are_refused(fitted: FittedStack) -> None:
    members = {name: Candidate(text="a", probabilities={"a": 0.5, "b": 0.5}) for name in ACCURACIES}
    with pytest.raises(FunctionError, match="member 'fair' has probabilities for 'a', 'b'; wanted are 'no', 'yes'"):
        predict(fitted, members)


def test_an_embedding_of_another_length_is_refused(fitted: FittedStack) -> None:
    with pytest.raises(FunctionError, match="was fitted on 12 features, these are 13"):
        predict(fitted, labelled(1)[0].members, (0.5,))


def test_rows_that_cannot_be_fitted_are_refused_with_the_reason() -> None:
    rows = labelled(20)
    with pytest.raises(FunctionError, match="10 rows or more, these are 9"):
        fit_stack(rows[:9])
    with pytest.raises(FunctionError, match="the label 'no' has 20 of 20 rows: two labels with 4 rows each are needed"):
        fit_stack([LabelledRow(row.members, "no") for row in rows])
    with pytest.raises(FunctionError, match="row 2 has the members"):
        fit_stack([rows[0], LabelledRow({"good": rows[1].members["good"]}, "yes"), *rows[2:]])
    with pytest.raises(FunctionError, match="row 1 has the label 'perhaps'; members chose among 'no', 'yes'"):
        fit_stack([LabelledRow(rows[0].members, "perhaps"), *rows[1:]])
    with pytest.raises(FunctionError, match="'lda' needs labels"):
        fit_stack(with_options(20), meta="lda")
    with pytest.raises(FunctionError, match="says nothing about options"):
        fit_stack([LabelledRow(row.members, row.label, (1.0,)) for row in with_options(20)])


def test_without_a_model_the_mean_of_the_members_decides() -> None:
    members = {
        "a": Candidate(text="no", probabilities={"no": 0.6, "yes": 0.4}),
        "b": Candidate(text="yes", probabilities={"no": 0.1, "yes": 0.9}),
    }
    result = mean_of(members)
    assert (result.text, result.agreement, result.fitted) == ("yes", 0.5, False)
    assert result.confidence == pytest.approx((0.4 * 0.9) ** 0.5 / ((0.4 * 0.9) ** 0.5 + (0.6 * 0.1) ** 0.5))


def test_a_fitted_stack_is_read_back_as_it_was_written(fitted: FittedStack, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "stack.json"
    save(path, fitted)
    assert load(path, FittedStack) == fitted
    assert [entry.name for entry in path.parent.iterdir()] == ["stack.json"]
    assert json.loads(path.read_text())["kind"] == "ensemble.stack"


def test_a_fitted_file_that_was_tampered_with_is_refused(fitted: FittedStack, tmp_path: Path) -> None:
    path = tmp_path / "stack.json"
    save(path, fitted)
    whole = path.read_text()
    record = json.loads(whole)
    record["content"]["intercepts"][0] += 0.5
    path.write_text(json.dumps(record))
    with pytest.raises(
        FunctionError, match="was changed after it was written: its digest does not match\n  fit it again"
    ):
        load(path, FittedStack)
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(FunctionError, match="is no JSON"):
        load(path, FittedStack)
    path.write_text("[1, 2]")
    with pytest.raises(FunctionError, match="holds no JSON object"):
        load(path, FittedStack)


def test_a_file_of_another_kind_or_format_or_no_file_is_refused(fitted: FittedStack, tmp_path: Path) -> None:
    path = tmp_path / "stack.json"
    with pytest.raises(FunctionError, match=r"there is no .*stack\.json"):
        load(path, FittedStack)
    save(path, fitted)
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "kind": "ensemble.gate"}))
    with pytest.raises(FunctionError, match=r"holds 'ensemble\.gate', and 'ensemble\.stack' is wanted"):
        load(path, FittedStack)
    path.write_text(json.dumps({**record, "format": 9}))
    with pytest.raises(FunctionError, match="has the format 9; this gristmill reads 1"):
        load(path, FittedStack)


def test_a_file_with_a_fitting_digest_and_shapes_that_do_not_agree_is_refused(
    fitted: FittedStack, tmp_path: Path
) -> None:
    path = tmp_path / "stack.json"
    save(path, fitted.model_copy(update={"mean": fitted.mean[:-1]}))
    with pytest.raises(FunctionError, match="12 features need 12 means, scales and coefficients a row"):
        load(path, FittedStack)
