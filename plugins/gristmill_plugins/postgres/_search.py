"""The statements of a search: by vector, by words, and filters by metadata.

They are values to a cursor and never texts put together from what a user gave. Invariants: a filter means what it means
to the kernel's own store (`gristmill.stores`); a word's score is BM25 with FTS5's constants, over the collection alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from gristmill.stores import Condition, conditions_of
from gristmill_plugins.postgres._text import seal

TEXT = 3
"""The kind of a text among facts; see `gristmill.stores.fact_of`."""
K1, B = 1.2, 0.75
"""Robertson and Zaragoza, The Probabilistic Relevance Framework (2009), section 3.5, as SQLite's FTS5 sets them."""

# A word of a query is one lexeme, or several next to one another; of several the rarest counts. A word that more than
# half of the records have weighs next to nothing, as in FTS5.
BM25 = """
WITH found AS MATERIALIZED (
    SELECT number, words, n_words, (expires IS NULL OR expires > %(now)s) {where} AS fits
    FROM {schema}.records WHERE words @@ %(any)s::tsquery AND collection = %(collection)s
), asked AS (
    SELECT * FROM unnest(%(numbers)s::int[], %(queries)s::text[], %(parts)s::text[]) AS t (word, query, parts)
), hits AS MATERIALIZED (
    SELECT f.number, f.n_words, f.fits, a.word, x.n
    FROM found f JOIN asked a ON f.words @@ a.query::tsquery
    CROSS JOIN LATERAL (
        SELECT min(cardinality(u.positions)) AS n FROM unnest(f.words) u
        WHERE u.lexeme = ANY(string_to_array(a.parts, ' '))
    ) x
), weights AS MATERIALIZED (
    SELECT word, greatest(ln((%(n_records)s - count(*) + 0.5) / (count(*) + 0.5)), 1e-6)::float8 AS weight
    FROM hits GROUP BY word
)
SELECT h.number, sum(w.weight * h.n * (%(k1)s + 1)
    / (h.n + %(k1)s * (1 - %(b)s + %(b)s * h.n_words / %(usual)s)))::float8 AS score
FROM hits h JOIN weights w USING (word)
WHERE h.fits
GROUP BY h.number ORDER BY score DESC, h.number LIMIT %(n)s
"""


def filters(where: Mapping[str, Any], schema: str, values: dict[str, Any]) -> str:
    """Return SQL that holds for the records `where` allows, beginning with AND; its values go into `values`.

    Raises:
        UsageError: a filter that means nothing.
    """
    return "".join(_filter(n, condition, schema, values) for n, condition in enumerate(conditions_of(where)))


def _filter(n: int, condition: Condition, schema: str, values: dict[str, Any]) -> str:
    values[f"key{n}"] = seal(condition.key)
    if condition.is_range:
        test = _range(n, condition, values)
    else:
        tests = [_equals(f"{n}_{kind}", kind, wanted, values) for kind, wanted in condition.by_kind().items()]
        test = " OR ".join(tests) or "false"
    return (
        f" AND number IN (SELECT number FROM {schema}.facts WHERE collection = %(collection)s"
        f" AND left(key, 100) = left(%(key{n})s, 100) AND key = %(key{n})s AND ({test}))"
    )


def _equals(name: str, kind: int, wanted: Sequence[Any], values: dict[str, Any]) -> str:
    values[f"kind{name}"] = kind
    if kind != TEXT:
        values[f"any{name}"] = [Decimal(value) for value in wanted]
        return f"kind = %(kind{name})s AND num = ANY(%(any{name})s)"
    texts = [seal(value) for value in wanted]
    values[f"any{name}"], values[f"begin{name}"] = texts, [text[:300] for text in texts]
    return f"kind = %(kind{name})s AND left(txt, 300) = ANY(%(begin{name})s) AND txt = ANY(%(any{name})s)"


def _range(n: int, condition: Condition, values: dict[str, Any]) -> str:
    values[f"kind{n}"] = condition.kind
    test = f"kind = %(kind{n})s"
    for sign, name, end in ((">=", f"low{n}", condition.low), ("<=", f"high{n}", condition.high)):
        if end is None:
            continue
        if condition.kind == TEXT:
            values[name] = seal(end[1])
            test += f" AND left(txt, 300) {sign} left(%({name})s, 300) AND txt {sign} %({name})s"
        else:
            values[name] = Decimal(end[1])
            test += f" AND num {sign} %({name})s"
    return test


def bm25_values(words: Sequence[tuple[str, ...]], collection: int) -> dict[str, Any]:
    """Return the words of a query as BM25 takes them: each a tsquery, and its lexemes."""
    queries = [" <-> ".join(map(_quoted, word)) for word in words]
    return {
        "any": f"{_quoted(mark(collection))} & ({' | '.join(f'({query})' for query in queries)})",
        "numbers": list(range(len(words))),
        "queries": queries,
        "parts": [" ".join(lexeme[:MOST_LETTERS] for lexeme in word) for word in words],
        "k1": K1,
        "b": B,
    }


MOST_WORDS = 16_000
"""Of one text: PostgreSQL numbers no more positions, and keeps no more than 1 MB of words."""
MOST_LETTERS = 500


def mark(collection: int) -> str:
    """Return the lexeme that every record of a collection has; no word has a colon."""
    return f"in:{collection:d}"


def vector_of(words: Sequence[str], collection: int) -> str:
    """Return a text's words as a tsvector."""
    places: dict[str, list[int]] = {}
    for place, word in enumerate(words[:MOST_WORDS], start=1):
        places.setdefault(word[:MOST_LETTERS], []).append(place)
    lexemes = (f"{_quoted(word)}:{','.join(map(str, at[:255]))}" for word, at in places.items())
    return " ".join([_quoted(mark(collection)), *lexemes])


def _quoted(lexeme: str) -> str:
    return "'" + lexeme[:MOST_LETTERS].replace("\\", "\\\\").replace("'", "''") + "'"
