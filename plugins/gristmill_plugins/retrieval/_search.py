"""From a question to passages: both sides of an index are asked, fused, and made into passages with their sources.

It writes nothing and embeds nothing. Invariants: everything of one search is of one generation; no chunk is returned
twice, be it as a hit or as the neighbour of one.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from gristmill import FunctionError, Hit, Passage, StoredRecord
from gristmill.ranking import Fusion, diversify, fuse, match_expression
from gristmill_plugins.retrieval._search_passages import Row, Sides, passage_of
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


def find(index: IndexFile, view: View, query: Query) -> list[Passage]:
    """Return the passages that match best, best first.

    Raises:
        FunctionError: the index is another embedder's, or has no vectors.
        StoreError: it cannot be read.
    """
    with index.reading() as connection:
        stand = Stand() if connection is None else index.current_in(connection)[0]
        if connection is None or stand.generation == 0:
            return []
        if query.fingerprint is not None and stand.fingerprint is None:
            raise FunctionError("the index has no vectors", hint="search it with mode: bm25, or index with vectors")
        if query.fingerprint is not None and query.fingerprint != stand.fingerprint:
            raise FunctionError(
                f"the index was made by {stand.fingerprint!r}, the query by {query.fingerprint!r}",
                hint="name the same embedder, or index again with this one",
            )
        n = candidates(query)
        hits = _hits(connection, view, stand, query, n)
        best = ranked(hits, query)
        rows = _rows(connection, best if query.neighbours else best[: query.top_k])
        around = (lambda row: _around(connection, row, query.neighbours)) if query.neighbours else None
        return list(passages(best, rows, around, by_meaning(hits, n), query.top_k))


def candidates(query: Query) -> int:
    """Return how many of the best each side is asked for."""
    plain = query.mode != "hybrid" and query.mmr is None and not query.neighbours
    return query.top_k if plain else max(_FEWEST_CANDIDATES, 5 * query.top_k)


def _hits(connection: sqlite3.Connection, view: View, stand: Stand, query: Query, n: int) -> list[Hit]:
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
                StoredRecord(id=str(number), text=""),
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


def ranked(hits: Sequence[Hit], query: Query) -> list[tuple[Hit, float]]:
    """Return the hits that a query wants with their scores, best first."""
    if query.mode == "hybrid":
        weight = query.dense_weight if query.vector is not None else 0.0
        scored = fuse(hits, fusion=query.fusion, dense_weight=weight)
    else:
        sides = [(hit, hit.dense if query.mode == "dense" else hit.lexical) for hit in hits]
        scored = sorted(((hit, side) for hit, side in sides if side is not None), key=lambda pair: -pair[1])
    if query.min_score is not None:
        scored = [pair for pair in scored if pair[1] >= query.min_score]
    if query.mmr is None:
        return scored
    wanted = query.top_k if not query.neighbours else len(scored)
    return diversify([pair for pair in scored if pair[0].vector is not None], wanted, query.mmr)


def by_meaning(hits: Sequence[Hit], n: int) -> set[str]:
    """Return the ids of the `n` best by meaning; the others were found by words."""
    known = sorted((hit for hit in hits if hit.dense is not None), key=lambda hit: -(hit.dense or 0.0))
    return {hit.record.id for hit in known[:n]}


_SELECT = (
    "SELECT chunks.number, version, place, part, start, gap, text, metadata, path"
    " FROM chunks JOIN files USING (version)"
)


def _rows(connection: sqlite3.Connection, best: Sequence[tuple[Hit, float]]) -> dict[str, Row]:
    numbers = [int(hit.record.id) for hit, _ in best]
    found = connection.execute(
        f"{_SELECT} WHERE chunks.number IN (SELECT value FROM json_each(?))", (json.dumps(numbers),)
    )
    return {str(row[0]): Row(*row) for row in found}


def passages(
    best: Sequence[tuple[Hit, float]],
    rows: Mapping[str, Row],
    around: Callable[[Row], list[Row]] | None,
    meaning: set[str],
    top_k: int,
) -> Iterator[Passage]:
    """Yield a passage for each hit, `top_k` at most, leaving out what an earlier one holds.

    Args:
        best: the hits with their scores, best first.
        rows: the chunks of the hits, by the record's id.
        around: returns a chunk with its neighbours; None where they are not wanted.
        meaning: the ids of those found by meaning.
        top_k: how many passages at most.
    """
    taken: set[int | str] = set()
    n = 0
    for hit, score in best:
        if n == top_k:
            return
        row = rows[hit.record.id]
        if row.number in taken:
            continue
        joined = [row] if around is None else _untaken(around(row), row, taken)
        taken |= {one.number for one in joined}
        yield passage_of(row, joined, Sides(hit.dense, hit.lexical, hit.record.id in meaning), score)
        n += 1


def _around(connection: sqlite3.Connection, row: Row, n: int) -> list[Row]:
    """Return a chunk with up to `n` chunks of the same part before and after it."""
    return [
        Row(*found)
        for found in connection.execute(
            f"{_SELECT} WHERE version = ? AND part = ? AND place BETWEEN ? AND ? ORDER BY place",
            (row.version, row.part, row.place - n, row.place + n),
        )
    ]


def _untaken(around: Sequence[Row], row: Row, taken: set[int | str]) -> list[Row]:
    """Return those next to `row` that no earlier passage holds, without a gap."""
    low = max((one.place for one in around if one.number in taken and one.place < row.place), default=-1)
    high = min((one.place for one in around if one.number in taken and one.place > row.place), default=2**62)
    return [one for one in around if low < one.place < high]
