"""Frames between client and engine are whole or an error."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill_plugins.llama import _protocol

MESSAGES = st.dictionaries(st.text(), st.recursive(st.integers() | st.text() | st.none(), st.lists, max_leaves=5))


@given(MESSAGES, st.binary(max_size=200))
def test_a_frame_is_read_as_it_was_written(message: dict[str, object], blob: bytes) -> None:
    stream = io.BytesIO(_protocol.encode(message, blob) * 2)
    assert _protocol.read(stream) == _protocol.read(stream) == _protocol.Frame(message, blob)
    assert _protocol.read(stream) is None


def test_a_frame_that_is_cut_short_is_an_error() -> None:
    data = _protocol.encode({"id": 1}, b"blob")
    for size in range(1, len(data)):
        with pytest.raises(EOFError, match="inside a frame"):
            _protocol.read(io.BytesIO(data[:size]))


def test_an_absurd_length_is_an_error_before_it_is_read() -> None:
    with pytest.raises(ValueError, match="announces 4294967295 bytes"):
        _protocol.read(io.BytesIO(struct.pack(">II", 2**32 - 1, 0)))
