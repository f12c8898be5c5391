"""Gates: who is chosen, evenly and within limits, and what is learned and refused."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill import FunctionError
from gristmill_plugins.ensemble._gate import FittedGate, assign, check_gate, likeness
from gristmill_plugins.ensemble._gate_fit import GateRow, fit_gate
from gristmill_plugins.ensemble._learned_file import load, save

ROWS = st.lists(st.fixed_dictionaries({name: st.floats(-1, 1) for name in ("a", "b", "c")}), min_size=1, max_size=12)


def uneven(n: int, seed: int = 0) -> list[dict[str, float]]:
    """Questions that nearly all like one of four members best."""
    rng = random.Random(seed)
    return [{"loved": 0.6 + 0.4 * rng.random()} | {name: rng.random() for name in "xyz"} for _ in range(n)]


def loads(scores: list[dict[str, float]], **options: object) -> Counter[str]:
    return Counter(name for one in assign(scores, **options) for name in one.members)  # type: ignore[arg-type]


@settings(deadline=None)
@given(ROWS, st.integers(1, 3))
def test_without_limits_everybody_gets_the_best_k(scores: list[dict[str, float]], top_k: int) -> None:
    for row, assigned in zip(scores, assign(scores, top_k=top_k), strict=True):
        assert len(assigned.members) == top_k
        worst = min(row[name] for name in assigned.members)
        assert all(value <= worst for name, value in row.items() if name not in assigned.members)
        assert sum(assigned.members.values()) == pytest.approx(1)
        assert list(assigned.members.values()) == sorted(assigned.members.values(), reverse=True)


@settings(deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_the_order_of_questions_and_members_changes_no_assignment(
    scores: list[dict[str, float]], rng: random.Random
) -> None:
    scores = [{name: value + rng.random() for name, value in row.items()} for row in scores]  # no ties
    order = list(range(len(scores)))
    rng.shuffle(order)
    plain = assign(scores, capacity=1.0, balance=0.3)
    turned = assign([dict(reversed(list(scores[i].items()))) for i in order], capacity=1.0, balance=0.3)
    assert [turned[order.index(i)] for i in range(len(scores))] == plain


@settings(deadline=None)
@given(ROWS)
def test_no_member_takes_more_than_its_capacity_and_every_question_is_taken(scores: list[dict[str, float]]) -> None:
    counts = loads(scores, capacity=1.0)
    assert counts.total() == len(scores)
    assert max(counts.values()) <= -(-len(scores) // 3)


@settings(deadline=None)
@given(ROWS, st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 12)), st.integers(1, 3))
def test_every_question_gets_all_its_members_wherever_there_is_room_at_all(
    scores: list[dict[str, float]], places: tuple[int, int, int], top_k: int
) -> None:
    capacity = dict(zip("abc", places, strict=True))
    if sum(min(most, len(scores)) for most in places) < len(scores) * top_k:
        with pytest.raises(FunctionError, match="no room"):
            assign(scores, top_k=top_k, capacity=capacity)
        return
    assigned = assign(scores, top_k=top_k, capacity=capacity)
    assert all(len(one.members) == top_k for one in assigned)
    counts = Counter(name for one in assigned for name in one.members)
    assert all(counts[name] <= most for name, most in capacity.items())


def test_a_member_that_later_questions_cannot_do_without_is_taken_first() -> None:
    scores = [{"a": 0.9, "b": 0.5, "c": 0.1}, {"a": 0.7, "b": 0.6, "c": 0.5}]
    # Both need c, which alone has two places; by likeness the first would take a and b, and leave one member.
    assert [set(one.members) for one in assign(scores, top_k=2, capacity={"a": 1, "b": 1, "c": 2})] == [
        {"a", "c"}, {"b", "c"}
    ]  # fmt: skip


def test_balance_evens_out_the_load_more_the_higher_it_is() -> None:
    scores = uneven(200)
    most = [max(loads(scores, balance=balance).values()) for balance in (0.0, 0.1, 1.0)]
    assert most[0] > 110
    assert most[0] > most[1] > most[2]
    assert most[2] <= 60


def test_a_capacity_by_name_binds_that_member_alone() -> None:
    counts = loads(uneven(50), capacity={"loved": 5})
    assert counts["loved"] == 5
    assert counts.total() == 50


def test_whoever_loses_most_by_a_second_choice_keeps_the_first() -> None:
    scores = [{"a": 0.6, "b": 0.5}, {"a": 0.9, "b": 0.1}]
    assert [list(one.members) for one in assign(scores, capacity={"a": 1})] == [["b"], ["a"]]


def test_wishes_that_cannot_be_met_are_refused() -> None:
    with pytest.raises(FunctionError, match="top_k is 3, and there are 2 members"):
        assign([{"a": 0.1, "b": 0.2}], top_k=3)
    with pytest.raises(FunctionError, match="no room for 2 questions of 1 members each\n  raise capacity"):
        assign([{"a": 0.1, "b": 0.2}] * 2, capacity={"a": 1, "b": 0})
    with pytest.raises(FunctionError, match="capacity names 'z', which is no member: a, b"):
        assign([{"a": 0.1, "b": 0.2}], capacity={"z": 1})


def test_likeness_is_the_mean_cosine_to_the_closest_three_examples() -> None:
    examples = {"a": [(1.0, 0.0)] * 3 + [(-1.0, 0.0)], "b": [(0.0, 1.0)]}
    assert likeness((0.6, 0.8), examples) == pytest.approx({"a": 0.6, "b": 0.8})


def topics(n: int, seed: int = 0) -> list[GateRow]:
    """Two topics, each with a member that is good at it, and one that is bad at both."""
    rng = random.Random(seed)
    rows = []
    for _ in range(n):
        topic = rng.randrange(2)
        vector = tuple((1.0 if k == topic else 0.0) + rng.gauss(0, 0.3) for k in range(4))
        right = {name: rng.random() < (0.9 if k == topic else 0.4) for k, name in enumerate(("maths", "words"))}
        rows.append(GateRow(vector, right | {"weak": rng.random() < 0.2}))
    return rows


def test_a_fitted_gate_beats_its_best_member() -> None:
    pytest.importorskip("sklearn", reason="fitting needs the extra gristmill[ensemble]")
    gate = fit_gate(topics(200), embedder="e")
    assert gate.evidence.accuracy > max(gate.evidence.members.values()) + 0.1
    scores = gate.scores((1.0, 0.0, 0.0, 0.0))
    assert max(scores, key=lambda name: scores[name]) == "maths"
    assert scores["maths"] == pytest.approx(0.9, abs=0.12)
    assert scores["weak"] == pytest.approx(0.2, abs=0.12)
    assert fit_gate(topics(200), embedder="e") == gate


def test_a_gate_refuses_other_members_and_other_embeddings(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="fitting needs the extra gristmill[ensemble]")
    gate = fit_gate(topics(40), embedder="e")
    path = tmp_path / "gate.json"
    save(path, gate)
    assert load(path, FittedGate) == gate
    check_gate(gate, ["words", "maths", "weak"], "e")
    with pytest.raises(FunctionError, match="fitted on maths, weak, words; 'more' is only on one side"):
        check_gate(gate, ["words", "maths", "weak", "more"], "e")
    with pytest.raises(FunctionError, match="fitted on embeddings of 'e', these are 'f'"):
        check_gate(gate, ["words", "maths", "weak"], "f")
    save(path, gate.model_copy(update={"dim": 5}))
    with pytest.raises(FunctionError, match="5 weights for each member are wanted"):
        load(path, FittedGate)


def test_rows_that_no_gate_can_be_fitted_on_are_refused() -> None:
    rows = topics(30)
    with pytest.raises(FunctionError, match="20 rows or more, these are 19"):
        fit_gate(rows[:19], embedder="e")
    with pytest.raises(FunctionError, match="two members or more, this has 1"):
        fit_gate([GateRow(row.vector, {"weak": True}) for row in rows], embedder="e")
    with pytest.raises(FunctionError, match="row 2 has the members"):
        fit_gate([rows[0], GateRow(rows[1].vector, {"weak": True}), *rows[2:]], embedder="e")
    with pytest.raises(FunctionError, match="row 2 has a vector of 1, the first row of 4"):
        fit_gate([rows[0], GateRow((1.0,), rows[1].right), *rows[2:]], embedder="e")
