"""Finding answers, reading numbers, and arithmetic: the parts of the reasoning plugin that ask no model."""

from __future__ import annotations

import asyncio
import json
import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill import FunctionError
from gristmill_plugins.reasoning import ReasoningPlugin
from gristmill_plugins.reasoning._calculate import evaluate
from gristmill_plugins.reasoning._extract import Kind, extract
from gristmill_plugins.reasoning._numbers import find_numbers, write_number

REASONING = ReasoningPlugin()


@pytest.mark.parametrize(
    ("text", "answer", "unit"),
    [
        ("The answer is 1,000.", "1000", ""),
        ("The answer is -3.", "-3", ""),
        ("The answer is −3", "-3", ""),
        ("So she pays $5.00.", "5", "$"),
        ("The answer is -$5.50", "-5.5", "$"),
        ("The answer is $-5.50", "-5.5", "$"),
        ("That is 3/4 of the cake.", "0.75", "of"),
        ("The answer is 6/4.", "1.5", ""),
        ("The answer is 1/3.", "1/3", ""),
        ("The answer is 1 1/2 cups.", "1.5", "cups"),
        ("The answer is 1½.", "1.5", ""),
        ("½", "0.5", ""),
        ("The answer is \\frac{3}{8}", "0.375", ""),
        ("Therefore, \\boxed{42}.", "42", ""),
        ("#### 18", "18", ""),
        ("Half of 10 is 5. The answer is 5 + 3 = 8 apples.", "8", "apples"),
        ("The answer is 18 dollars, and he has 3 left.", "18", "dollars"),
        ("First 2, then 4, so 6 in all.", "6", ""),
        ("It is 12.5%", "12.5", "%"),
        ("That is $18,000/year", "18000", "$"),
        ("Two a day.\nSo he makes 60 * 2 = $120 in 2 weeks", "120", "$"),
        ("She eats 84 / 12 = 7 dozen eggs", "7", "dozen"),
        ("The answer is 20 °C.", "20", "°C"),
        ("The answer (arabic numerals) is 7", "7", ""),
        ("The answer is 1.5e3.", "1500", ""),
        ("The answer is 2.5 million.", "2500000", ""),
        ("The answer is 0.10", "0.1", ""),
        ("The answer is .5", "0.5", ""),
        ("From 5-3 we get 2", "2", ""),
        ("A spider has eight legs.", "8", ""),
        ("The answer is forty-two.", "42", ""),
        ("The answer is three hundred and five thousand two hundred.", "305200", ""),
        ("Answer: 3\nThe answer is 4.\nAnswer: none", "4", ""),
        ("**Answer:** 12", "12", ""),
    ],
)  # fmt: skip
def test_a_number_is_found_and_written_in_one_way(text: str, answer: str, unit: str) -> None:
    found = extract(text, "number")
    assert (found.text, found.found) == (answer, True)
    assert found.unit == ("" if unit == "of" else unit)
    assert found.value == pytest.approx(float(Fraction(answer)))


@pytest.mark.parametrize(
    "text", ["", "None of them.", "I do not know.", "3/0", "1e99999", "9" * 60, "3/4/2020", "v1.2.3x", "the A380"]
)
def test_where_there_is_no_number_it_says_so(text: str) -> None:
    found = extract(text, "number")
    assert (found.found, found.text, found.value) == (False, "", None)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is (B).", "B"),
        ("The answer is B) rye", "B"),
        ("answer: c", "C"),
        ("b", "B"),
        ("B.", "B"),
        ("**C**", "C"),
        ("Answer C is right.", "C"),
        ("It cannot be (A), so it is (D).", "D"),
        ("D) because it is the only one", "D"),
        ("A) rye\nB) oats\nC) maize\nIt must be (B).", "B"),
        ("The answer is a mill. (C)", "C"),
    ],
)
def test_a_letter_is_found(text: str, letter: str) -> None:
    assert extract(text, "letter").text == letter


def test_an_option_is_found_by_its_text_and_the_longer_hides_the_shorter() -> None:
    options = ["wind", "wind mill", "water"]
    assert extract("The answer is the wind mill.", "letter", options).text == "B"
    assert extract("The answer is water", "letter", options).text == "C"
    assert not extract("It is wind or water.", "letter", options).found
    assert not extract("The answer is (E).", "letter", options).found


@pytest.mark.parametrize("text", ["I think a mill is a good answer.", "A mill grinds.", "A) x\nB) y\nC) z", ""])
def test_where_there_is_no_letter_it_says_so(text: str) -> None:
    assert not extract(text, "letter").found


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yes, it does.", "yes"),
        ("NO", "no"),
        ("The answer is no, though some say yes.", "no"),
        ("Is it true? Let me see. In the end: yes", "yes"),
        ("The statement is false.", "no"),
        ("Nobody knows.", ""),
        ("Yesterday.", ""),
    ],
)
def test_yes_and_no_are_found_as_words(text: str, answer: str) -> None:
    found = extract(text, "yes_no")
    assert found.text == answer
    assert found.found == bool(answer)
    assert found.value == {"yes": True, "no": False, "": None}[answer]


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ('Reasoning.\nThe answer is "Paris, France".', "Paris, France"),
        ("Paris.", "Paris"),
        ("It is known.\nAnswer: the **gristmill**\nDone.", "the **gristmill"),
        ("One line.\nTwo lines.", ""),
        ("", ""),
        ("The answer is   ", ""),
    ],
)
def test_a_span_stands_behind_a_marker_or_alone(text: str, span: str) -> None:
    found = extract(text, "span")
    assert (found.text, found.found) == (span, bool(span))


def test_json_is_found_in_a_text_and_written_in_one_way() -> None:
    assert extract('Sure: ```json\n{"b": [1, 2], "a": "ü"}\n``` as [asked]', "json").text == '{"a": "ü", "b": [1, 2]}'
    assert extract("[1, 2", "json").found is False
    assert extract("no {braces here}", "json").found is False
    assert extract("[" * 100_000, "json").found is False


@pytest.mark.parametrize(
    ("text", "kind", "answer"),
    [
        ("Step 1. Step 2. The answer is 7.", "number", "7"),
        ("Thinking. The answer is yes.", "yes_no", "yes"),
        ("Thinking. The answer is the old mill by the river.", "span", "the old mill by the river"),
        ("Paris", "span", "Paris"),
        ("One.\nTwo.\nSo we have 12 of them.", "number", "12"),
    ],
)
def test_auto_takes_the_kind_that_is_there(text: str, kind: Kind, answer: str) -> None:
    found = extract(text, "auto")
    assert (found.kind, found.text) == (kind, answer)


def test_text_is_all_that_was_written() -> None:
    assert extract(" One.\nTwo. ", "text").text == "One.\nTwo."
    assert not extract(" \n", "text").found


def test_auto_with_options_is_a_letter() -> None:
    assert REASONING.extract_answer("The answer is oats.", options=["rye", "oats"]).text == "B"


def test_a_number_of_options_that_letters_cannot_name_is_refused() -> None:
    with pytest.raises(FunctionError, match="options are 2 to 26 texts, these are 1"):
        REASONING.extract_answer("x", options=["one"])


@given(st.text(), st.sampled_from(["auto", "number", "letter", "yes_no", "span", "json"]))
def test_any_text_has_an_answer_or_none(text: str, kind: Kind) -> None:
    found = extract(text, kind)
    assert found.found or found.text == ""


@pytest.mark.parametrize("text", ["1," * 60_000, "1" * 200_000, "answer is " * 20_000, "$-" * 60_000, "(a) " * 50_000,
                                  "{[" * 50_000, "one " * 50_000, "1 1/" * 50_000])  # fmt: skip
@pytest.mark.parametrize("kind", ["number", "letter", "json", "auto"])
def test_a_long_hostile_text_is_read_to_its_end(text: str, kind: Kind) -> None:
    extract(text, kind)


@given(st.fractions(max_denominator=10**6))
def test_a_number_written_here_is_found_again(value: Fraction) -> None:
    number = next(find_numbers(write_number(value)))
    assert number.value == value


@given(st.integers(-(10**12), 10**12))
def test_thousands_separators_change_nothing(value: int) -> None:
    assert extract(f"The answer is {value:,}.", "number").text == str(value)


# -- arithmetic --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("3 * (2 + 4.5)", 19.5),
        ("2 ^ 10", 1024),
        ("2 ** 3 ** 2", 512),
        ("-2 ^ 2", -4),
        ("2 ^ -1", 0.5),
        ("7 // 2", 3),
        ("7 % 4", 3),
        ("15% of 80", 12),
        ("20%", 0.2),
        ("(50%) + 1", 1.5),
        ("1,000 × 3 ÷ 2 =", 1500),
        ("$5.50 + $4.50", 10),
        ("sqrt(16) + abs(-3)", 7),
        ("round(2.567, 2)", 2.57),
        ("max(1, 2, 3) - min(4, 5)", -1),
        ("log(1000)", 3),
        ("pi", math.pi),
        ("0.1 + 0.2", 0.3),
        ("1/3*3", 1),
        ("(-1) ^ 1000001", -1),
        ("0 ^ 0", 1),
        ("2 ^ 0.5", math.sqrt(2)),
    ],
)
def test_arithmetic_is_computed(expression: str, value: float) -> None:
    assert asyncio.run(REASONING.calculate(expression)) == pytest.approx(value)


def test_whole_numbers_stay_whole_and_fractions_exact() -> None:
    assert asyncio.run(REASONING.calculate("2^100")) == 2**100
    assert evaluate("0.1 + 0.2") == Fraction(3, 10)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "the expression is empty"),
        ("1 / 0", "it divides by zero"),
        ("1 % (2 - 2)", "it divides by zero"),
        ("0 ^ -1", "it divides by zero"),
        ("2 +", "it ends too early"),
        ("(1 + 2", "a parenthesis is not closed"),
        ("1 2", "'2' is not expected here"),
        (") 1", r"'\)' is not expected here"),
        ("import os", "'import' is no function"),
        ("sqroot(2)", "did you mean 'sqrt'"),
        ("sqrt 2", "sqrt needs its arguments in parentheses"),
        ("sqrt(-1)", "a negative number has no root here"),
        ("(-2) ^ 0.5", "a negative number has no root here"),
        ("round(1, 99)", "round takes a number of digits from -50 to 50"),
        ("log(0)", "cannot be computed"),
        ("abs(1, 2)", "cannot be computed"),
        ("9^9^9^9", "its result is too large"),
        ("10^1000 * 10^1000", "its result is too large"),
        ("10^400 + 0.5", "its result is too large"),
        ("exp(100000)", "cannot be computed"),
        ("a.__class__", "is not arithmetic"),
        ("(" * 100 + "1" + ")" * 99, "it nests deeper than 40"),
        ("1" + "^1" * 90, "it nests deeper than 40"),
        ("1" * 201, "200 characters at most, this has 201"),
    ],
)
def test_what_is_no_arithmetic_is_told(expression: str, message: str) -> None:
    with pytest.raises(FunctionError, match=message):
        asyncio.run(REASONING.calculate(expression))


@given(st.text(alphabet="0123456789+-*/%^(). ,sqrtlogexpi", max_size=200))
def test_any_expression_ends_in_a_number_or_an_error(expression: str) -> None:
    try:
        value: Any = asyncio.run(REASONING.calculate(expression))
    except FunctionError:
        return
    assert json.dumps(value)


@given(st.integers(-999, 999), st.integers(-999, 999), st.sampled_from("+-*"))
def test_arithmetic_agrees_with_python(a: int, b: int, operator: str) -> None:
    assert evaluate(f"({a}) {operator} ({b})") == {"+": a + b, "-": a - b, "*": a * b}[operator]
