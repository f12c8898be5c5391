"""From a question to passages: both sides of an index are asked, fused, and made into passages with their sources.

It writes nothing and embeds nothing. Invariants: everything of one search is of one generation; no chunk is returned
twice, be it as a hit or as the neighbour of one.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from gristmill import FunctionError, Hit, Passage, StoredRecord
from gristmill.ranking import Fusion, diversify, fuse, match_expression
from gristmill_plugins.retrieval._store import IndexFile, Stand
from gristmill_plugins.retrieval._store_view import View

if TYPE_CHECKING:
    import numpy as np

Mode = Literal["hybrid", "dense", "bm25"]
_FEWEST_CANDIDATES = 50


@dataclass(frozen=True, slots=True)
class Query:
    """What is looked for, and how."""

    text: str
    vector: np.ndarray | None
    """`(dim,) float32`, L2-normalised, by the embedder of `fingerprint`; None where only words count."""
    fingerprint: str | None
    mode: Mode = "hybrid"
    top_k: int = 5
    where: Mapping[str, Any] = field(default_factory=dict)
    mmr: float | None = None
    neighbours: int = 0
    min_score: float | None = None
    fusion: Fusion = "minmax"
    dense_weight: float = 0.3


class _Row(NamedTuple):
    number: int
    version: int
    place: int
    part: int
    start: int
    text: str
    metadata: str
    path: str


def find(index: IndexFile, view: View, query: Query) -> list[Passage]:
    """Return the passages that match best, best first.

    Raises:
        FunctionError: the index is another embedder's.
        StoreError: it cannot be read.
    """
    with index.reading() as connection:
        stand = Stand() if connection is None else index.current_in(connection)[0]
        if connection is None or stand.generation == 0:
            return []
        if query.fingerprint is not None and query.fingerprint != stand.fingerprint:
            raise FunctionError(
                f"the index was made by {stand.fingerprint!r}, the query by {query.fingerprint!r}",
                hint="name the same embedder, or index again with this one",
            )
        hits = _hits(connection, view, stand, query)
        scored = _scored(hits, query)
        if query.min_score is not None:
            scored = [pair for pair in scored if pair[1] >= query.min_score]
        if query.mmr is not None:
            wanted = query.top_k if not query.neighbours else len(scored)
            scored = diversify([pair for pair in scored if pair[0].vector is not None], wanted, query.mmr)
        return list(_passages(connection, scored, query))


def _hits(connection: sqlite3.Connection, view: View, stand: Stand, query: Query) -> list[Hit]:
    plain = query.mode != "hybrid" and query.mmr is None and not query.neighbours
    n = query.top_k if plain else max(_FEWEST_CANDIDATES, 5 * query.top_k)
    allowed = view.allowed(connection, stand, query.where)
    matrix = view.matrix(connection, stand) if query.vector is not None or query.mmr is not None else None
    dense: dict[int, float] = {}
    scores = None
    if query.vector is not None and matrix is not None:
        scores = matrix.scores(query.vector)
        dense = matrix.top(scores, n, 0.0, allowed)
    words = {} if query.mode == "dense" else _by_words(connection, query.text, n, allowed)
    hits = []
    for number in dict.fromkeys([*dense, *words]):
        row = matrix.row_of(number) if matrix is not None else None
        hits.append(
            Hit(
                StoredRecord(id=str(number), text="", metadata={"dense": number in dense}),
                None if scores is None or row is None else float(scores[row]),
                words.get(number),
                matrix.vector(row) if query.mmr is not None and matrix is not None and row is not None else None,
            )
        )
    return hits


def _by_words(connection: sqlite3.Connection, text: str, n: int, allowed: np.ndarray | None) -> dict[int, float]:
    """Return number to BM25 of the best matches, best first; nothing of the text is ever FTS5 syntax."""
    expression = match_expression(text)
    if expression is None:
        return {}
    # "+": without it SQLite looks each allowed chunk up in the index, which takes a hundred times as long.
    only = "" if allowed is None else " AND +rowid IN (SELECT value FROM json_each(?))"
    values = [] if allowed is None else [json.dumps(allowed.tolist())]
    rows = connection.execute(
        f"SELECT rowid, -rank FROM words WHERE words MATCH ?{only} ORDER BY rank LIMIT ?", (expression, *values, n)
    )
    return dict(sorted(rows.fetchall(), key=lambda row: (-row[1], row[0])))


def _scored(hits: Sequence[Hit], query: Query) -> list[tuple[Hit, float]]:
    if query.mode == "hybrid":
        return fuse(hits, fusion=query.fusion, dense_weight=query.dense_weight if query.vector is not None else 0.0)
    scores = [(hit, hit.dense if query.mode == "dense" else hit.lexical) for hit in hits]
    return sorted(((hit, score) for hit, score in scores if score is not None), key=lambda pair: -pair[1])


_SELECT = (
    "SELECT chunks.number, version, place, part, start, text, metadata, path FROM chunks JOIN files USING (version)"
)


def _passages(connection: sqlite3.Connection, scored: Sequence[tuple[Hit, float]], query: Query) -> Iterator[Passage]:
    best = scored if query.neighbours else scored[: query.top_k]
    numbers = [int(hit.record.id) for hit, _ in best]
    rows = {
        row[0]: _Row(*row)
        for row in connection.execute(
            f"{_SELECT} WHERE chunks.number IN (SELECT value FROM json_each(?))", (json.dumps(numbers),)
        )
    }
    taken: set[int] = set()
    n = 0
    for hit, score in best:
        row = rows[int(hit.record.id)]
        if row.number in taken:
            continue
        around = _around(connection, row, query.neighbours) if query.neighbours else [row]
        around = _untaken(around, row, taken)
        taken |= {one.number for one in around}
        yield _passage(row, around, hit, score)
        n += 1
        if n == query.top_k:
            return


def _around(connection: sqlite3.Connection, row: _Row, n: int) -> list[_Row]:
    """Return a chunk with up to `n` chunks of the same part before and after it."""
    return [
        _Row(*found)
        for found in connection.execute(
            f"{_SELECT} WHERE version = ? AND part = ? AND place BETWEEN ? AND ? ORDER BY place",
            (row.version, row.part, row.place - n, row.place + n),
        )
    ]


def _untaken(around: Sequence[_Row], row: _Row, taken: set[int]) -> list[_Row]:
    """Return those next to `row` that no earlier passage holds, without a gap."""
    low = max((one.place for one in around if one.number in taken and one.place < row.place), default=-1)
    high = min((one.place for one in around if one.number in taken and one.place > row.place), default=2**62)
    return [one for one in around if low < one.place < high]


def _passage(row: _Row, around: Sequence[_Row], hit: Hit, score: float) -> Passage:
    own = json.loads(row.metadata)
    if "line" in own and len(around) > 1:
        first, last = json.loads(around[0].metadata), json.loads(around[-1].metadata)
        own |= {"line": first["line"], "end_line": last["end_line"]}
    found_by = [*(["dense"] if hit.record.metadata["dense"] else []), *(["bm25"] if hit.lexical is not None else [])]
    sides = {"dense": hit.dense, "bm25": hit.lexical}
    identity = hashlib.sha256(f"{row.path}\0{row.part}\0{row.start}\0{row.text}".encode()).hexdigest()[:16]
    metadata = {
        **own,
        "id": identity,
        "path": row.path,
        "found_by": found_by,
        **{side: value for side, value in sides.items() if value is not None},
    }
    return Passage(text=_joined(around), source=source_of(metadata), score=score, metadata=metadata)


def source_of(metadata: Mapping[str, Any]) -> str:
    """Return `path#page=3`, `path#L10-20`, `path#L10` or `path`."""
    path, line, end_line = metadata["path"], metadata.get("line"), metadata.get("end_line")
    if line is not None:
        return f"{path}#L{line}" if line == end_line else f"{path}#L{line}-{end_line}"
    return f"{path}#page={metadata['page']}" if "page" in metadata else str(path)


def _joined(rows: Sequence[_Row]) -> str:
    """Return the text of neighbours, what two of them share only once."""
    text, end = "", 0
    for row in rows:
        shared = end - row.start
        if not text:
            text = row.text
        elif shared > 0:
            text += row.text[shared:]
        else:
            text += ("\n" if shared else " ") + row.text
        end = max(end, row.start + len(row.text))
    return text
