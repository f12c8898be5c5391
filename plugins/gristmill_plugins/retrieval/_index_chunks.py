"""From the parts of a file to the rows of an index: each chunk with its place, its lines, and what is embedded for it.

It embeds and writes nothing. Invariant: the digest of a chunk covers the embedder and every character that is embedded,
so equal digests have equal vectors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from gristmill_plugins.retrieval._chunks import Chunk, Chunker
from gristmill_plugins.retrieval._readers import Part
from gristmill_plugins.retrieval._store import StagedChunk

_MOST_CONTEXT = 300
"""Characters of title and headings: a page whose title is its text would otherwise drown its passages."""

_MOST_GAP = 100
"""Characters of white space between two chunks that are kept for when they are joined."""


class Splitting:
    """The chunks of one version of a file, made as they are taken: a file of a million rows is never all in chunks."""

    def __init__(self, version: int, parts: Sequence[Part], chunker: Chunker, fingerprint: str) -> None:
        self.share = 0.0
        """How much of the parts was split, 0 to 1."""
        self._version = version
        self._parts = parts
        self._chunker = chunker
        self._fingerprint = fingerprint
        self._chunks = self._all()

    def take(self, n: int) -> list[StagedChunk]:
        """Return the next chunks, `n` at most; none at the end."""
        return list(islice(self._chunks, n))

    def _all(self) -> Iterator[StagedChunk]:
        place, number, base = 0, -1, 0
        for i, part in enumerate(self._parts):
            if i and part.continues:
                base += len(self._parts[i - 1].text) + 1
            else:
                number, base = number + 1, 0
            end, page_break = 0, "\n" if base else ""
            for chunk in self._chunker.chunks(part):
                gap = page_break + part.text[end : chunk.start]
                yield self._row(place, number, base, gap[:_MOST_GAP], part, chunk)
                place, end, page_break = place + 1, chunk.end, ""
            self.share = (i + 1) / len(self._parts)

    def _row(self, place: int, number: int, base: int, gap: str, part: Part, chunk: Chunk) -> StagedChunk:
        metadata = dict(part.metadata)
        if (line := part.line_at(chunk.start)) is not None:
            metadata |= {"line": line, "end_line": part.line_at(chunk.end - 1)}
        if heading := part.heading_at(chunk.start):
            metadata["heading"] = heading
        context = _context(metadata, chunk.text)
        digest = hashlib.sha256(f"{self._fingerprint}\0{embedded_text(context, chunk.text)}".encode()).hexdigest()[:32]
        return StagedChunk(
            self._version, place, number, base + chunk.start, gap, digest, context, chunk.text,
            json.dumps(metadata, ensure_ascii=False),
        )  # fmt: skip


def embedded_text(context: str, text: str) -> str:
    """Return what is embedded, and matched by words, for a chunk."""
    return f"{context}\n{text}" if context else text


def _context(metadata: Mapping[str, Any], text: str) -> str:
    """Return the title and the headings above a chunk, as far as it does not say them itself."""
    title, heading = metadata.get("title"), metadata.get("heading")
    names = [title] if isinstance(title, str) else []
    names += str(heading).split(" > ") if heading else []
    if not names:
        return ""
    first_line = text.split("\n", 1)[0]
    return " > ".join(name for name in dict.fromkeys(names) if name and name not in first_line)[:_MOST_CONTEXT]
