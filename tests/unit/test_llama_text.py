"""Bytes of tokens to text that may be shown: whole characters, no part of a stop string."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill_plugins.llama._text import TextStream


def pour(pieces: list[bytes], stops: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    stream = TextStream(stops)
    shown = [stream.feed(piece) for piece in pieces]
    shown.append(stream.finish())
    return shown, stream


def test_half_characters_wait_for_their_other_half() -> None:
    shown, _ = pour([b"a\xc3", b"\xa9b"])
    assert shown == ["a", "éb", ""]


def test_an_unfinished_character_at_the_end_is_dropped() -> None:
    shown, stream = pour([b"ok", b"\xf0\x9f"])
    assert "".join(shown) == stream.text == "ok"


def test_bytes_that_are_no_text_become_replacement_characters() -> None:
    shown, _ = pour([b"\xc3", b"\xc3", b"\xc3", b"a"])
    assert "".join(shown) == "\ufffd\ufffd\ufffda"


def test_a_stop_string_across_pieces_is_never_shown() -> None:
    shown, stream = pour([b"say E", b"N", b"D now"], ("END",))
    assert shown == ["say ", "", "", ""]
    assert stream.stopped


def test_what_only_looked_like_a_stop_string_is_shown_later() -> None:
    shown, stream = pour([b"E", b"N", b"X"], ("END",))
    assert shown == ["", "", "ENX", ""]
    assert not stream.stopped


def test_the_earliest_of_several_stop_strings_wins() -> None:
    _, stream = pour([b"one two three"], ("three", "two"))
    assert stream.text == "one "


def test_nothing_is_taken_in_after_a_stop() -> None:
    stream = TextStream(("x",))
    assert stream.feed(b"ax") == "a"
    assert stream.feed(b"b") == stream.finish() == ""


@given(st.text(alphabet="abcé\U0001f9ff", max_size=30), st.lists(st.text("abcé", min_size=1, max_size=4), max_size=3))
def test_any_cut_of_the_bytes_gives_the_same_text(text: str, stops: list[str]) -> None:
    data = text.encode()
    whole, _ = pour([data], tuple(stops))
    bytewise, stream = pour([data[i : i + 1] for i in range(len(data))], tuple(stops))
    assert "".join(bytewise) == stream.text
    ends = [at for stop in stops if (at := text.find(stop)) >= 0]
    assert "".join(whole) == (text[: min(ends)] if ends else text)
    assert not any(stop in stream.text for stop in stops)


@pytest.mark.parametrize("stops", [(), ("never",)])
def test_the_pieces_joined_are_the_text(stops: tuple[str, ...]) -> None:
    shown, stream = pour([b"a", b"ne", b"ver"[:2], b"z"], stops)
    assert "".join(shown) == stream.text == "anevez"
