"""Which answer a text holds: spelled in any way it is one answer, and where there is none nobody votes."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill import Candidate, FunctionError
from gristmill_plugins.ensemble._ballots import hold_election, named
from gristmill_plugins.ensemble._ballots_normalize import Normalize, normalizer

UNHURRIED = settings(deadline=None, max_examples=60)


def shown(kind: Normalize, text: str, *options: str) -> str | None:
    answer = normalizer(kind, options)(text)
    return None if answer is None else answer.shown


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("42", "42"),
        ("1,000", "1000"),
        ("-3", "-3"),
        ("−3 degrees", "-3"),
        ("$5.00", "5"),
        ("-$1,250.50", "-1250.5"),
        ("$-7", "-7"),
        ("3/4 of a cup", "0.75"),
        ("1/3", "1/3"),
        ("50%", "50"),
        ("1e3", "1000"),
        ("2.50 kg", "2.5"),
        (".5", "0.5"),
        ("5-3", "3"),
        ("2024-05-06", "6"),
        ("First 4, then 8. So it is 12.", "12"),
        ("12 + 30 = 42 apples", "42"),
        ("#### 7 (after 3 steps)", "7"),
        ("The answer is 9. I checked it 2 times.", "9"),
        (r"so \boxed{15} in 20 minutes", "15"),
        ("1,2,3", "3"),
        ("no idea", None),
        ("", None),
        ("12e99999", None),
        ("1/0", "1"),
        ("a 1" + "0" * 1000, None),
    ],
)
def test_a_number_is_read_whatever_it_is_written_like(text: str, number: str | None) -> None:
    assert shown("number", text) == number


@UNHURRIED
@given(st.integers(-(10**12), 10**12), st.integers(0, 4))
def test_every_number_is_read_back_from_plain_and_from_grouped_digits(whole: int, places: int) -> None:
    value = Fraction(whole, 10**places)
    plain = f"{float(value):.{places}f}" if abs(whole) < 10**9 else str(whole)
    wanted = value if abs(whole) < 10**9 else Fraction(whole)
    for text in (plain, f"It is {plain}.", f"${plain}"):
        answer = normalizer("number")(text)
        assert answer is not None
        assert Fraction(answer.shown) == wanted
    grouped = normalizer("number")(f"{whole:,}")
    assert grouped is not None
    assert grouped.value == whole


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b.", "B"),
        ("(C)", "C"),
        ("The answer is B.", "B"),
        ("Answer: (D) because A is wrong", "D"),
        ("C) Paris", "C"),
        ("I think it is B", "B"),
        ("I would say that A man did it", None),
        ("Not (A), but (B)", "B"),
        ("none of these", None),
        ("", None),
    ],
)
def test_a_letter_is_read_where_one_is_chosen(text: str, letter: str | None) -> None:
    assert shown("letter", text) == letter


def test_only_letters_on_offer_are_read() -> None:
    assert shown("letter", "Plan B leads to (A)", "A", "C") == "A"
    assert shown("letter", "It is D", "A", "B") is None


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ('{"a": 1, "b": 2}', 'Sure: {"b": 2.0, "a": 1} is it.'),
        ("[1, 2]", "```json\n[1,2]\n```"),
        ('"x"', '"x"'),
        ("{not it} {}", "{}"),
    ],
)
def test_json_is_compared_by_what_it_says(left: str, right: str) -> None:
    assert shown("json", left) == shown("json", right) is not None


def test_text_that_holds_no_json_abstains() -> None:
    for text in ("no", "{", "[1, 2", "NaN", '{"a": Infinity}', "[" * 30_000):
        assert shown("json", text) is None


def test_texts_differ_by_more_than_case_white_space_and_punctuation() -> None:
    assert len({normalizer("text")(text).key for text in ("Paris", " paris. ", '"PARIS"', "Paris!")}) == 1  # type: ignore[union-attr]
    assert len({normalizer("text")(text).key for text in ("-3", "3", ".3", "C", "C++", "!")}) == 6  # type: ignore[union-attr]
    assert shown("text", " \n ") is None


@UNHURRIED
@given(st.text(max_size=60), st.sampled_from(["text", "number", "letter", "json"]))
def test_what_is_shown_is_the_same_answer_again(text: str, kind: Normalize) -> None:
    answer = normalizer(kind)(text)
    if answer is not None and kind != "text":
        again = normalizer(kind)(answer.shown)
        assert again is not None
        assert again.key == answer.key


def test_only_options_count_where_options_are_given() -> None:
    assert shown("text", "SPAM.", "spam", "ham") == "spam"
    assert shown("text", "eggs", "spam", "ham") is None
    assert shown("number", "about 4.0", "4", "5") == "4"
    with pytest.raises(FunctionError, match="the option 'many' holds no number"):
        normalizer("number", ["many"])
    with pytest.raises(FunctionError, match=r"the options '4' and '4\.0' are the same number"):
        normalizer("number", ["4", "4.0"])


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("Fire is hot.", "hot"),
        ("It is COLD, very cold", "cold"),
        ("The answer: very hot", "very hot"),
        ("hot or cold", None),
        ("It is not hot.", None),
        ("It isn't cold", None),
        ("a hotel", None),
        ("I would say neither", None),
    ],
)
def test_a_sentence_that_names_one_option_and_denies_nothing_is_an_answer(text: str, option: str | None) -> None:
    assert shown("text", text, "hot", "cold", "very hot") == option


def test_an_option_may_itself_deny() -> None:
    assert shown("text", "This is not spam.", "spam", "not spam") == "not spam"


def test_an_answer_is_written_as_most_wrote_it_whoever_came_first() -> None:
    texts = ["PARIS", "Paris", "Paris", "lyon"]
    for order in (texts, texts[::-1]):
        election = hold_election(named([Candidate(text=text) for text in order]), "text")
        assert set(election.options) == {"Paris", "lyon"}


@pytest.mark.parametrize(
    ("candidates", "names"),
    [
        ([{"text": "x"}, {"text": "y"}], ["1", "2"]),
        ([{"text": "x", "source": "a"}, {"text": "y", "source": "a"}], ["a", "a#2"]),
        (
            [{"text": "x", "source": "a#2"}, {"text": "y", "source": "a"}, {"text": "z", "source": "a"}],
            ["a#2", "a", "a#3"],
        ),
        ({"k": {"text": "x", "source": "other"}}, ["k"]),
    ],
)
def test_every_candidate_has_a_name_of_its_own(candidates: Any, names: list[str]) -> None:
    if isinstance(candidates, dict):
        found = named({name: Candidate(**fields) for name, fields in candidates.items()})
        assert [candidate.source for candidate in found.values()] == names
    else:
        found = named([Candidate(**fields) for fields in candidates])
    assert list(found) == names
