"""Pieces of a stream that come in quick succession go together, and none is lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gristmill_plugins.llama._deltas import PACE_S, PacedDeltas


class Line:
    """What was sent, and a clock that is set by hand."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, str, int]] = []
        self.now = 0.0
        self.deltas = PacedDeltas(lambda *piece: self.sent.append(piece), lambda: self.now)

    def add(self, sample: int, text: str, *, after: float = 0.0) -> None:
        self.now += after
        self.deltas.add(sample, text, 1)


def test_the_first_piece_goes_at_once() -> None:
    line = Line()
    line.add(0, "Par")
    assert line.sent == [(0, "Par", 1)]


def test_pieces_that_come_quickly_go_together_with_all_their_tokens() -> None:
    line = Line()
    for text in ("a", "b", "c"):
        line.add(0, text, after=PACE_S / 4)
    line.add(0, "d", after=PACE_S)
    assert line.sent == [(0, "a", 1), (0, "bcd", 3)]


def test_pieces_that_come_slowly_go_one_by_one() -> None:
    line = Line()
    for text in ("a", "b", "c"):
        line.add(0, text, after=PACE_S)
    assert line.sent == [(0, "a", 1), (0, "b", 1), (0, "c", 1)]


def test_what_waits_goes_with_the_end() -> None:
    line = Line()
    line.add(0, "a")
    line.add(0, "b")
    line.add(1, "c")
    line.deltas.flush()
    assert line.sent == [(0, "a", 1), (0, "b", 1), (1, "c", 1)]
    line.deltas.flush()
    assert len(line.sent) == 3


@given(st.lists(st.tuples(st.integers(0, 2), st.text(max_size=3), st.floats(0, 2 * PACE_S))))
def test_whatever_the_rhythm_each_sample_gets_its_text_in_order(pieces: list[tuple[int, str, float]]) -> None:
    line = Line()
    for sample, text, after in pieces:
        line.add(sample, text, after=after)
    line.deltas.flush()
    for sample in range(3):
        added = [text for number, text, _ in pieces if number == sample]
        sent = [piece for piece in line.sent if piece[0] == sample]
        assert "".join(text for _, text, _ in sent) == "".join(added)
        assert sum(n_tokens for *_, n_tokens in sent) == len(added)
