"""Choosing together: means and products of probabilities, and temperatures that make them mean what they say."""

from __future__ import annotations

import json
import math
import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from gristmill import Candidate, FunctionError
from gristmill_plugins.ensemble._choose import choices_of, combine_choices, scale
from gristmill_plugins.ensemble._choose_calibrate import ChosenRow, calibrate, calibration_error, log_loss

if TYPE_CHECKING:
    from tests.unit.conftest import Bench

CHOICES = ("yes", "no", "maybe")
MEMBERS = st.dictionaries(
    st.sampled_from("pqrs"), st.lists(st.floats(0.01, 1), min_size=3, max_size=3), min_size=1, max_size=4
)


def said(*probabilities: float, choices: tuple[str, ...] = CHOICES) -> Candidate:
    row = dict(zip(choices, probabilities, strict=True))
    return Candidate(text=max(row, key=lambda choice: row[choice]), probabilities=row)


@settings(deadline=None, max_examples=60)
@given(MEMBERS, st.data())
def test_the_mean_is_a_mixture_and_the_product_one_of_powers(rows: dict[str, list[float]], data: st.DataObject) -> None:
    weights = {name: data.draw(st.floats(0.1, 5)) for name in rows}
    candidates = {name: said(*row) for name, row in rows.items()}
    total = sum(weights.values())
    own = {name: [value / sum(row) for value in row] for name, row in rows.items()}
    mixture = [sum(weights[name] / total * row[i] for name, row in own.items()) for i in range(3)]
    assert list(combine_choices(candidates, CHOICES, weights=weights).probabilities.values()) == pytest.approx(mixture)
    product = [math.prod(row[i] ** (weights[name] / total) for name, row in own.items()) for i in range(3)]
    chosen = combine_choices(candidates, CHOICES, how="product", weights=weights)
    assert list(chosen.probabilities.values()) == pytest.approx([value / sum(product) for value in product])
    assert (chosen.text, chosen.confidence) == (CHOICES[chosen.index], max(chosen.probabilities.values()))


@settings(deadline=None, max_examples=40)
@given(MEMBERS, st.sampled_from(["mean", "product"]))
def test_neither_order_nor_names_of_members_change_a_choice(rows: dict[str, list[float]], how: Any) -> None:
    candidates = {name: said(*row) for name, row in rows.items()}
    other = {f"x{name}": candidate for name, candidate in reversed(candidates.items())}
    assert combine_choices(candidates, CHOICES, how=how).probabilities == pytest.approx(
        combine_choices(other, CHOICES, how=how).probabilities
    )


def test_one_sure_member_has_no_veto_and_agreement_is_who_chose_it() -> None:
    candidates = {"sure": said(1.0, 0.0, 0.0), "a": said(0.1, 0.8, 0.1), "b": said(0.1, 0.8, 0.1)}
    chosen = combine_choices(candidates, CHOICES)
    assert chosen.text == "no"
    assert chosen.agreement == pytest.approx(2 / 3)
    product = combine_choices(candidates, CHOICES, how="product").probabilities
    assert all(value > 0 for value in product.values())


def test_a_temperature_flattens_a_member_that_is_too_sure() -> None:
    candidates = {"sure": said(0.98, 0.01, 0.01), "modest": said(0.2, 0.7, 0.1)}
    assert combine_choices(candidates, CHOICES).text == "yes"
    cooled = combine_choices(candidates, CHOICES, temperatures={"sure": 5.0, "modest": 1.0})
    assert cooled.text == "no"
    assert cooled.members["sure"]["yes"] == pytest.approx(0.98)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0.001, 1), min_size=2, max_size=5), st.floats(0.05, 20))
def test_scaling_keeps_the_order_and_sums_to_one(row: list[float], temperature: float) -> None:
    row = [value / sum(row) for value in row]
    scaled = scale(row, temperature)
    assert sum(scaled) == pytest.approx(1)
    for i in range(len(row)):
        for j in range(len(row)):
            if row[i] > row[j]:
                assert scaled[i] >= scaled[j]


@pytest.mark.parametrize(
    ("candidates", "more", "message"),
    [
        ({}, {}, "no member answered"),
        ({"a": Candidate(text="yes")}, {}, "member 'a' answered 'yes' without probabilities"),
        (
            {"a": said(0.5, 0.5, choices=("yes", "no"))},
            {},
            r"member 'a' chose among \['yes', 'no'\], and the choices are",
        ),
        ({"a": said(0.0, 0.0, 0.0)}, {}, "the probabilities of member 'a' are"),
        ({"a": said(1, 0, 0), "b": said(1, 0, 0)}, {"weights": {"a": 1}}, r"member 'b' has no weight.*\['a'\]"),
        ({"a": said(1, 0, 0)}, {"weights": {"a": 0}}, "none may be negative, nor all zero"),
        ({"a": said(1, 0, 0)}, {"temperatures": {"a": 0}}, "the temperature of member 'a' is 0: it is above 0"),
        ({"a": said(1, 0, 0)}, {"temperatures": {"b": 2}}, "member 'a' has no temperature"),
    ],
)
def test_what_cannot_be_combined_is_refused(candidates: Any, more: Any, message: str) -> None:
    with pytest.raises(FunctionError, match=message):
        combine_choices(candidates, CHOICES, **more)


def test_choices_are_those_that_members_chose_from() -> None:
    assert choices_of({"a": Candidate(text="x"), "b": said(1, 0, 0)}) == CHOICES
    assert choices_of({}) == ()


# Temperature scaling


def labelled(n: int, sharpness: float, seed: int = 0) -> list[ChosenRow]:
    """Rows whose labels are drawn from the true probabilities; the member says those, to a power."""
    chance = random.Random(seed)
    rows = []
    for _ in range(n):
        true = [chance.random() ** 2 + 0.02 for _ in CHOICES]
        true = [value / sum(true) for value in true]
        label = chance.choices(CHOICES, true)[0]
        said_ = [value**sharpness for value in true]
        own = dict(zip(CHOICES, [value / sum(said_) for value in said_], strict=True))
        rows.append(ChosenRow(members={"m": own}, label=label))
    return rows


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_how_much_too_sure_a_member_is(sharpness: float) -> None:
    found = calibrate(labelled(3000, sharpness))
    assert found.temperatures["m"] == pytest.approx(sharpness, rel=0.12)
    assert found.log_loss_scaled["m"] <= found.log_loss["m"]
    if sharpness == 3.0:
        assert found.calibration_error_scaled["m"] < found.calibration_error["m"] / 3


def test_the_temperature_is_where_scipy_finds_the_least_loss() -> None:
    rows = labelled(200, 2.0, seed=3)
    data = [(row.members["m"], row.label) for row in rows]
    best = optimize.minimize_scalar(lambda t: log_loss(data, t), bounds=(0.05, 20), method="bounded")
    assert calibrate(rows).temperatures["m"] == pytest.approx(float(best.x), rel=1e-2)


def test_the_calibration_error_is_the_gap_between_sureness_and_truth() -> None:
    sure = [({"yes": 0.9, "no": 0.1}, "yes")] * 6 + [({"yes": 0.9, "no": 0.1}, "no")] * 4
    assert calibration_error(sure, 1.0) == pytest.approx(0.3)
    assert calibration_error([({"yes": 1.0, "no": 0.0}, "yes")], 1.0) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "there are no labelled rows"),
        (
            [{"members": {"a": {"x": 1}}, "label": "x"}, {"members": {"b": {"x": 1}}, "label": "x"}],
            r"row 2 has the members \['b'\]",
        ),
        ([{"members": {"a": {"x": 1}}, "label": "y"}], r"row 1: the label 'y' is none of the choices of 'a', \['x'\]"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_learnt_from_are_refused(rows: list[Any], message: str) -> None:
    with pytest.raises(FunctionError, match=message):
        calibrate([ChosenRow.model_validate(row) for row in rows])


# As steps


def test_members_choose_together_and_tell_what_each_thinks_and_costs(bench: Bench) -> None:
    bench.plugin.answers = {"One": "ham", "Two": "spam", "Three": "spam"}
    result = bench.run(
        "steps:\n  c:\n    use: ensemble.choose\n    with:\n      choices: [ham, spam]\n      members:\n"
        "        a: {prompt: One}\n        b: {prompt: Two}\n        c: {prompt: Three}\n"
        "output: {text: '${c.text}', p: '${c.probabilities.spam}'}\n"
    )
    chosen = result.steps["c"].value
    assert result.output["text"] == "spam"
    assert set(chosen.members) == set(chosen.usage) == {"a", "b", "c"}
    assert chosen.members["a"]["ham"] > 0.9
    assert chosen.agreement == pytest.approx(2 / 3)
    assert chosen.probabilities["spam"] == pytest.approx(sum(row["spam"] for row in chosen.members.values()) / 3)


def test_choices_of_other_steps_are_candidates(bench: Bench) -> None:
    bench.plugin.answers = "no"
    result = bench.run(
        "steps:\n  a: {prompt: One, choices: ['yes', 'no']}\n  b: {prompt: Two, choices: ['yes', 'no']}\n"
        "  c: {use: ensemble.choose, with: {candidates: {a: '${a}', b: '${b}'}, weights: {a: 1, b: 3}, how: product}}\n"
    )
    assert (result.output.text, result.output.index) == ("no", 1)
    assert not result.output.usage


def test_a_member_that_fails_is_left_out_within_min_answers(bench: Bench) -> None:
    arguments = "{choices: [x, y], prompt: P, min_answers: 1, members: {a: {}, b: {model: '${\"none\"}'}}}"
    chosen = bench.run(f"steps:\n  c: {{use: ensemble.choose, with: {arguments}}}\n").output
    assert list(chosen.members) == ["a"]
    assert "'none' is no model" in chosen.failures["b"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("choices: [x, y]", "choose takes members to ask, or candidates that have chosen"),
        ("members: {a: {prompt: p}}", "choose needs the choices"),
        ("candidates: [x], prompt: p", "prompt, system, calibrate and min_answers are for `members` that are asked"),
        ("members: {a: {prompt: p}}, choices: [x, x]", "at least two different texts"),
        ("candidates: [x], choices: [x, y]", "member '1' answered 'x' without probabilities"),
    ],
)
def test_choices_that_make_no_sense_are_refused(bench: Bench, arguments: str, message: str) -> None:
    assert message in str(bench.fails(f"steps:\n  c: {{use: ensemble.choose, with: {{{arguments}}}}}\n"))


def test_calibrate_reads_what_choose_gave(bench: Bench) -> None:
    rows = [row.model_dump() for row in labelled(50, 2.0)]
    (bench.folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    found = bench.run("steps:\n  c: {use: ensemble.calibrate, with: {data: rows.jsonl}}\n").output
    assert found.n == 50
    again = bench.run(
        "steps:\n  c: {use: ensemble.calibrate, with: {answers: [{m: {a: 0.6, b: 0.4}}, {m: {a: 0.7, b: 0.3}}], "
        "labels: [a, b]}}\n"
    ).output
    assert (again.n, list(again.temperatures)) == (2, ["m"])
    assert found.temperatures["m"] == calibrate([ChosenRow.model_validate(row) for row in rows]).temperatures["m"]
