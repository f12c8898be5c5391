"""The text plugin: reading, splitting, packing, joining, matching."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill import FunctionError, Kernel
from gristmill.testing import FakePlugin
from gristmill_plugins.text import TextPlugin

TEXT = TextPlugin()
Unit = Literal["chars", "words", "lines", "paragraphs", "sentences"]
UNITS: list[Unit] = [
    "chars",
    "words",
    "lines",
    "paragraphs",
    "sentences",
]


def test_read_keeps_line_ends_and_drops_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\n")
    assert TEXT.read(path) == "one\r\ntwo\n"


def test_read_says_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    binary = tmp_path / "b.bin"
    binary.write_bytes(b"ok\xff")
    with pytest.raises(FunctionError, match=r"is not utf-8: byte 2"):
        TEXT.read(binary)
    with pytest.raises(FunctionError, match="'klingon' is no encoding"):
        TEXT.read(binary, encoding="klingon")
    with pytest.raises(FunctionError, match="No such file"):
        TEXT.read(tmp_path / "missing")
    with pytest.raises(FunctionError, match="is not a file"):
        TEXT.read(tmp_path)


def test_split_counts_in_its_unit_and_overlaps() -> None:
    words = asyncio.run(TEXT.split("one two three four five", by="words", size=2, overlap=1))
    assert words == ["one two", "two three", "three four", "four five"]
    assert asyncio.run(TEXT.split("A b. C d! E?", by="sentences", size=1)) == ["A b.", "C d!", "E?"]
    assert asyncio.run(TEXT.split("a\nb\n\n\nc", by="paragraphs", size=1)) == ["a\nb", "c"]
    assert asyncio.run(TEXT.split("a\n\n b\nc", by="lines", size=2)) == ["a\n\n b", "c"]
    assert asyncio.run(TEXT.split(" \n ", by="words", size=2)) == []


def test_split_refuses_an_overlap_as_long_as_a_piece() -> None:
    with pytest.raises(FunctionError, match="overlap from 0 below it: size=2, overlap=2"):
        asyncio.run(TEXT.split("a b", size=2, overlap=2))


@given(st.text(), st.sampled_from(UNITS), st.integers(1, 5))
def test_split_without_overlap_loses_nothing_but_white_space(text: str, by: Unit, size: int) -> None:
    pieces = asyncio.run(TEXT.split(text, by=by, size=size))
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(piece == piece.strip() and piece for piece in pieces)


@pytest.mark.parametrize("by", UNITS)
@pytest.mark.parametrize("text", ["\n" * 300_000, " " * 300_000 + "x", ". " * 100_000, "a\n \n" * 60_000])
def test_split_is_linear_on_hostile_text(by: Unit, text: str) -> None:
    started = time.process_time()
    asyncio.run(TEXT.split(text, by=by, size=100))
    assert time.process_time() - started < 20  # a quadratic one would take hours


def test_match_returns_groups_and_names() -> None:
    found = TEXT.match("a1 b2", r"(?P<letter>[a-z])(\d)")
    assert [(hit.text, hit.groups, hit.named, hit.start) for hit in found] == [
        ("a1", ("a", "1"), {"letter": "a"}, 0),
        ("b2", ("b", "2"), {"letter": "b"}, 3),
    ]
    assert TEXT.match("A", "a") == []
    assert len(TEXT.match("A", "a", ignore_case=True)) == 1


def test_match_refuses_a_broken_pattern_and_stops_a_hostile_one() -> None:
    with pytest.raises(FunctionError, match="is no regular expression"):
        TEXT.match("a", "(")
    with pytest.raises(FunctionError, match="took longer than 2 s"):
        TEXT.match("a" * 60 + "!", r"(a|a|aa)+$" + r"(a*)*b")


def test_pack_keeps_whole_items_and_reports_the_rest(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        "version: 1\nmodels: {main: {use: fake}}\nsteps:\n"
        "  packed: {use: text.pack, with: {items: [one two, three, four five six], tokens: 4}}\n"
    )
    with Kernel(plugins={"fake": FakePlugin()}, cache=False) as kernel:
        packed = kernel.recipe(tmp_path / "p.yaml").run().output
    assert (packed.text, packed.items, packed.dropped, packed.n_tokens) == (
        "one two\n\nthree",
        ("one two", "three"),
        ("four five six",),
        3,
    )
