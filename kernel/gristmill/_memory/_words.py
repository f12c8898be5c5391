"""From what a caller asks to what SQLite is asked: any text to a match expression, filters to conditions with values.

It runs no query. Invariant: nothing of a query, a metadata key or a value is ever part of the SQL; of FTS5's own syntax
nothing is left, since every word becomes a quoted string.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gristmill._memory._tests import Condition, conditions_of
from gristmill._memory._tokens import telling_words


def match_expression(text: str) -> str | None:
    """Return an FTS5 expression that matches any of the words; None when there are none.

    What white space separates is one string: `GM-2041` matches "GM" next to "2041", not each by itself.
    """
    return " OR ".join('"' + word.replace('"', " ") + '"' for word in telling_words(text)) or None


Query = tuple[str, list[Any]]


def queries(collection: int, where: Mapping[str, Any]) -> list[Query]:
    """Return for each key the query for the numbers of the records that it allows, and its values.

    Raises:
        UsageError: a filter that means nothing.
    """
    found = []
    for condition in conditions_of(where):
        test, tested = _test(condition)
        sql = f"SELECT DISTINCT number FROM facts WHERE collection = ? AND key = ? AND ({test})"
        found.append((sql, [collection, condition.key, *tested]))
    return found


def conditions(collection: int, where: Mapping[str, Any], column: str = "number") -> Query:
    """Return SQL that holds for the records that `where` allows, beginning with AND, and its values."""
    parts = queries(collection, where)
    sql = "".join(f" AND {column} IN ({part})" for part, _ in parts)
    return sql, [value for _, values in parts for value in values]


def check_where(where: Mapping[str, Any]) -> None:
    """Raise UsageError for a filter that means nothing, also where there is no record to try it on."""
    conditions_of(where)


def _test(condition: Condition) -> tuple[str, list[Any]]:
    if condition.is_range:
        ends = [(sign, end) for sign, end in ((">=", condition.low), ("<=", condition.high)) if end is not None]
        return "kind = ?" + "".join(f" AND value {sign} ?" for sign, _ in ends), [
            condition.kind, *(value for _, (_, value) in ends)
        ]  # fmt: skip
    # One `IN` for each kind of value: for one value SQLite then goes straight to it in the index.
    by_kind = condition.by_kind()
    tests = [f"kind = ? AND value IN ({', '.join('?' * len(values))})" for values in by_kind.values()]
    return " OR ".join(tests) or "0", [part for kind, values in by_kind.items() for part in (kind, *values)]
