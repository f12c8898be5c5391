"""What a recipe answers far more often than it is right is told, and what chance or the data explain is not."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill_plugins.evaluation._leaning import Leaning, leaning
from gristmill_plugins.evaluation._rows import Row
from gristmill_plugins.evaluation._samples import Sample


def found(answers: Sequence[str | None], expected: Sequence[Any], data: Sequence[dict[str, Any]] = ()) -> Any:
    rows = [Row(n, facts) for n, facts in enumerate(data or [{}] * len(answers), 1)]
    texts = [(e,) if isinstance(e, str) else tuple(e) for e in expected]
    return leaning(rows, [Sample(answer=a, expected=e) for a, e in zip(answers, texts, strict=True)])


def test_a_label_that_is_given_too_often_is_told() -> None:
    told = found(["Spam."] * 38 + ["ham"] * 2, ["spam"] * 6 + ["ham"] * 34)
    assert told == Leaning("Spam.", None, None, given=38, right=6, n=40)
    assert str(told) == "'Spam.' is the answer in 38 of 40 rows and right in 6"


def test_an_answer_that_is_never_right_is_told_even_where_texts_are_free() -> None:
    told = found(["I do not know"] * 15 + [f"town {n}" for n in range(15)], [f"town {n}" for n in range(30)])
    assert told == Leaning("I do not know", None, None, given=15, right=0, n=30)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["a"] * 36 + ["b"] * 4, ["a"] * 36 + ["b"] * 4),  # right
        (["a"] * 20 + ["b"] * 20, ["b"] * 20 + ["a"] * 20),  # wrong, and even
        (["a"] * 23 + ["b"] * 17, ["a"] * 20 + ["b"] * 20),  # a nuance
        (["a"] * 5, ["b"] * 4 + ["a"]),  # too few to tell
        (["a"] * 40, [()] * 40),  # nothing is expected
        ([None] * 40, ["a"] * 40),  # nothing is answered
        ([], []),
        (["yes"] * 40, [("yes", "true")] * 40),  # several texts are right
    ],
)
def test_what_is_right_or_even_or_small_or_chance_is_no_leaning(answers: Any, expected: Any) -> None:
    assert found(answers, expected) is None


def test_a_place_that_is_taken_too_often_is_told_where_options_differ() -> None:
    data = [{"options": [f"{n} {letter}" for letter in "abcd"], "tags": ["x", "y"]} for n in range(40)]
    first = [row["options"][0] for row in data]
    right = [row["options"][n % 4].upper() for n, row in enumerate(data)]
    told = found(first, right, data)
    assert told == Leaning(None, "options", 1, given=40, right=10, n=40)
    assert str(told) == "no. 1 of 'options' is the answer in 40 of 40 rows and right in 10"
    assert found(right, right, data) is None
    assert found([f"{n} e" for n in range(40)], right, data) is None


def test_of_labels_that_all_rows_offer_the_label_is_told_and_not_its_place() -> None:
    told = found(["no"] * 40, ["yes", "no"] * 20, [{"choices": ["yes", "no"]}] * 40)
    assert (told.answer, told.place) == ("no", None)


def test_every_answer_of_a_list_counts_as_right_wherever_it_stands() -> None:
    aliases = [f"{letter}{n}" for n in range(40) for letter in "ab"]
    pairs = [tuple(aliases[2 * n : 2 * n + 2]) for n in range(40)]
    assert found([pair[0] for pair in pairs], pairs, [{"answers": list(pair)} for pair in pairs]) is None


def test_a_long_answer_is_cut_and_no_control_character_reaches_the_terminal() -> None:
    told = str(found(["\x1b[31m" + "long " * 100] * 40, ["a"] * 40))
    assert "\x1b" not in told
    assert told.endswith("…' is the answer in 40 of 40 rows and right in 0")
    assert len(told) < 160


LABEL = st.sampled_from(["a", "b", "c"])


@given(st.lists(st.tuples(LABEL, LABEL), min_size=1, max_size=80), st.randoms(use_true_random=False))
def test_order_changes_nothing_and_counts_are_those_of_the_rows(pairs: list[Any], chance: random.Random) -> None:
    told = found(*zip(*pairs, strict=True))
    shuffled = chance.sample(pairs, len(pairs))
    again = found(*zip(*shuffled, strict=True))
    assert (told is None) == (again is None)
    if told is not None:
        assert told.given == sum(answer == told.answer for answer, _ in pairs)
        assert told.right == sum(expected == told.answer for _, expected in pairs)
        assert told.given - told.right == max(
            sum(a == label for a, _ in pairs) - sum(e == label for _, e in pairs) for label in "abc"
        )
        assert told.given - told.right >= 0.2 * len(pairs)
