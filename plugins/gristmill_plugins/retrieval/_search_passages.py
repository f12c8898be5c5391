"""From a chunk that was found to a passage: its text with its neighbours', its source, and how it was found.

It searches nothing. Invariant: the text of a passage is a piece of the document, and `source` says which.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gristmill import Passage


class Row(NamedTuple):
    """A chunk of an index, with the path of its file; `metadata` is JSON."""

    number: int | str
    version: int | str
    place: int
    part: int
    start: int
    gap: str
    text: str
    metadata: str
    path: str


class Sides(NamedTuple):
    """What either side of a search says of a chunk."""

    dense: float | None
    bm25: float | None
    by_meaning: bool
    """Whether it is among the best by meaning; `dense` is also known of others."""


def passage_of(row: Row, around: Sequence[Row], sides: Sides, score: float) -> Passage:
    """Return a chunk, joined with those around it, as a passage."""
    own = json.loads(row.metadata)
    if "line" in own and len(around) > 1:
        first, last = json.loads(around[0].metadata), json.loads(around[-1].metadata)
        own |= {"line": first["line"], "end_line": last["end_line"]}
    found_by = [*(["dense"] if sides.by_meaning else []), *(["bm25"] if sides.bm25 is not None else [])]
    scores = {"dense": sides.dense, "bm25": sides.bm25}
    identity = hashlib.sha256(f"{row.path}\0{row.part}\0{row.start}\0{row.text}".encode()).hexdigest()[:16]
    metadata = {
        **own,
        "id": identity,
        "path": row.path,
        "found_by": found_by,
        **{side: value for side, value in scores.items() if value is not None},
    }
    return Passage(text=_joined(around), source=source_of(metadata), score=score, metadata=metadata)


def source_of(metadata: Mapping[str, Any]) -> str:
    """Return `path#page=3`, `path#L10-20`, `path#L10` or `path`."""
    path, line, end_line = metadata["path"], metadata.get("line"), metadata.get("end_line")
    if line is not None:
        return f"{path}#L{line}" if line == end_line else f"{path}#L{line}-{end_line}"
    return f"{path}#page={metadata['page']}" if "page" in metadata else str(path)


def _joined(rows: Sequence[Row]) -> str:
    """Return the text of neighbours, what two of them share only once."""
    text, end = "", 0
    for row in rows:
        shared = end - row.start
        if not text:
            text = row.text
        elif shared > 0:
            text += row.text[shared:]
        else:
            text += row.gap + row.text
        end = max(end, row.start + len(row.text))
    return text
