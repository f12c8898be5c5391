"""Server-sent events, as far as chat streams use them: the data of each event, from bytes in any pieces.

Follows the WHATWG HTML standard, section 9.2.6, except that a lone carriage return ends no line and that an event
which the end of the stream cuts short is still given, so that its reader can say what came.
"""

from __future__ import annotations

from collections.abc import Iterator


class EventParser:
    """Turns the bytes of a stream into the data of its events; linear in their number."""

    def __init__(self) -> None:
        self._line: list[bytes] = []
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the data of every event that `chunk` completes."""
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            self._line.append(line)
            yield from self._take(b"".join(self._line).removesuffix(b"\r"))
            self._line = []
        self._line.append(rest)

    def end(self) -> Iterator[bytes]:
        """Yield what the stream ended in the middle of."""
        yield from self._take(b"".join(self._line).removesuffix(b"\r"))
        yield from self._take(b"")
        self._line = []

    def _take(self, line: bytes) -> Iterator[bytes]:
        if not line and self._data:
            yield b"\n".join(self._data)
            self._data = []
        elif line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
