"""Marks such as [1] become passages, and are never made up."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from gristmill import Passage
from gristmill_plugins.retrieval._answer_functions import AnswerFunctions
from gristmill_plugins.retrieval._cite import Cited, cite, numbers_in, place_of, without_marks

PASSAGES = [
    Passage(text="The mill stands on the river Lea.", source="mill.md#L3-4"),
    Passage(text="It grinds rye and wheat.", source="mill.pdf#page=2"),
    Passage(text="The belt slipped off.", source="log.jsonl", metadata={"page": 7, "line": 9}),
]


def test_each_passage_is_listed_once_in_the_order_of_its_first_mark() -> None:
    cited = asyncio.run(AnswerFunctions().cite("Rye [2], on the Lea [1; 2]. Both [2,3].", PASSAGES))
    assert [citation.number for citation in cited.citations] == [2, 1, 3]
    assert [citation.source for citation in cited.citations] == ["mill.pdf#page=2", "mill.md#L3-4", "log.jsonl"]
    assert [(c.page, c.line) for c in cited.citations] == [(2, None), (None, 3), (7, 9)]
    assert not any(citation.matched for citation in cited.citations)
    assert cited.as_text() == "Rye [2], on the Lea [1; 2]. Both [2,3]."


def test_a_number_without_a_passage_is_reported_and_not_guessed() -> None:
    cited = cite("As is known [0], [9] and [1].", PASSAGES)
    assert cited.unknown == (0, 9)
    assert [citation.number for citation in cited.citations] == [1]


def test_matching_mends_only_sentences_whose_words_another_passage_has() -> None:
    cited = cite(
        "The mill stands at the Lea. It is painted blue every year [3]! It grinds rye [9].", PASSAGES, match=True
    )
    assert cited.text == "The mill stands at the Lea [1]. It is painted blue every year [3]! It grinds rye [2]."
    assert [(c.number, c.matched) for c in cited.citations] == [(1, True), (3, False), (2, True)]
    assert cited.unknown == (9,)
    cited = cite("The mill stands [1, 3]. By the Lea.", PASSAGES, match=True)
    assert cited.text == "The mill stands [1, 3]. By the Lea [1]."
    assert [(c.number, c.matched) for c in cited.citations] == [(1, False), (3, False)]
    cited = cite('It grinds rye. "Belt slipped!"', PASSAGES, match=True)
    assert cited.text == 'It grinds rye [2]. "Belt slipped!" [3]'
    assert [(c.number, c.matched) for c in cited.citations] == [(2, True), (3, True)]


def test_nothing_to_cite_is_no_error() -> None:
    assert cite("", [], match=True) == Cited(text="")
    assert cite("The mill [1].", [], match=True).unknown == (1,)


def test_marks_are_found_and_taken_out() -> None:
    assert numbers_in("a [1] b [2, 3][x] [2024-01] c[10]") == [1, 2, 3, 10]
    assert without_marks("The mill [1] grinds [2, 3]. [x]") == "The mill grinds. [x]"


@given(st.text(alphabet=st.sampled_from("mil Rye.!?[]12,\n")))
def test_marks_added_by_matching_are_the_only_change(text: str) -> None:
    cited = cite(text, PASSAGES, match=True)
    assert "".join(without_marks(cited.text).split()) == "".join(without_marks(text).split())


def test_places_come_from_metadata_or_else_from_the_source() -> None:
    assert place_of(Passage(text="", source="a#L10")) == (None, 10)
    assert place_of(Passage(text="", source="a#page=x", metadata={"line": "4"})) == (None, None)
