"""Guesses come from what was seen, stay within their limits, and stop where they do not pay."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gristmill_plugins.llama._lookup import FIRST_GUESS, LONGEST_GUESS, LONGEST_PAUSE, PromptLookup

ROOM = 100


def test_the_latest_occurrence_says_what_follows() -> None:
    seen = [1, 2, 3, 4, 5, 6, 1, 2, 3, 7, 8, 9, 1, 2, 3]
    assert PromptLookup(limit=100).guess(seen, ROOM) == [7, 8, 9]


def test_what_was_never_seen_is_not_guessed() -> None:
    assert PromptLookup(limit=100).guess([1, 2, 3, 4, 5, 6], ROOM) == []
    assert PromptLookup(limit=100).guess([1, 2], ROOM) == []


def test_a_text_that_loops_is_guessed_beyond_its_end() -> None:
    lookup = PromptLookup(limit=100)
    lookup.learn(8, 3, 3)
    assert lookup.guess([1, 2, 1, 2, 1, 2, 1, 2], ROOM) == [1, 2, 1, 2, 1, 2, 1]


def test_a_guess_keeps_to_the_room_and_to_the_end_of_the_answer() -> None:
    loop = [1, 2, 1, 2, 1, 2, 1, 2]
    assert PromptLookup(limit=100).guess(loop, 2) == [1, 2]
    assert PromptLookup(limit=len(loop) + 2).guess(loop, ROOM) == [1]
    assert PromptLookup(limit=len(loop) + 1).guess(loop, ROOM) == []


def test_right_guesses_grow_and_wrong_ones_rest_for_longer_each_time() -> None:
    lookup = PromptLookup(limit=10_000)
    sizes, pauses, tokens = [], [], [1, 2] * 4
    for _ in range(4):
        sizes.append(len(lookup.guess(tokens, ROOM)))
        lookup.learn(len(tokens), sizes[-1], sizes[-1])
    for _ in range(7):
        lookup.learn(len(tokens), FIRST_GUESS, 0)
        before = len(tokens)
        while not lookup.guess(tokens, ROOM):
            tokens += [1, 2]
        pauses.append(len(tokens) - before)
    assert sizes == [FIRST_GUESS, 7, LONGEST_GUESS, LONGEST_GUESS]
    assert pauses == [4, 8, 16, 32, 64, LONGEST_PAUSE, LONGEST_PAUSE]


@given(st.lists(st.integers(0, 2), max_size=60), st.integers(0, 20), st.integers(0, 80))
def test_a_guess_is_never_longer_than_asked(tokens: list[int], room: int, limit: int) -> None:
    assert len(PromptLookup(limit=limit).guess(tokens, room)) <= max(0, min(room, limit - len(tokens) - 1))
