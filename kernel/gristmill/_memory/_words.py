"""From what a caller asks to what SQLite is asked: any text to a match expression, filters to conditions with values.

It runs no query. Invariant: nothing of a query, a metadata key or a value is ever part of the SQL; of FTS5's own syntax
nothing is left, since every word becomes a quoted string.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gristmill._errors import UsageError
from gristmill._memory._schema import TEXT_KIND, fact_of

MOST_WORDS = 200
"""Of a query, the first ones count; a page of text as a query would otherwise rank every record."""

MOST_VALUES = 10_000
"""Of one filter: SQLite takes no more than 32,766 values in a statement."""

# English, since the stemmer is too. They are dropped from a query that has other words as well: nearly every text
# matches "the", FTS5 ranks every match, and what is in nearly every text tells next to nothing.
_STOP_WORDS = (
    "a about an and are as at be by can could did do does for from had has have how i if in is it its me my of on or"
    " our shall should so that the their them then there these they this to was we were what when where which who whom"
    " why will with would you your"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())
_ENDS = re.compile(r"[\W_]+")


def match_expression(text: str) -> str | None:
    """Return an FTS5 expression that matches any of the words; None when there are none.

    What white space separates is one string: `GM-2041` matches "GM" next to "2041", not each by itself.
    """
    words = list(dict.fromkeys(re.sub(r"[\x00\ud800-\udfff]", " ", text).split()))
    words = [word for word in words if any(part for part in _ENDS.split(word))]
    telling = [word for word in words if _ENDS.sub("", word).lower() not in STOP_WORDS]
    quoted = ['"' + word.replace('"', " ") + '"' for word in (telling or words)[:MOST_WORDS]]
    return " OR ".join(quoted) or None


Query = tuple[str, list[Any]]


def queries(collection: int, where: Mapping[str, Any]) -> list[Query]:
    """Return for each key the query for the numbers of the records that it allows, and its values.

    Raises:
        UsageError: a filter that means nothing.
    """
    found = []
    for key, wanted in where.items():
        test, tested = _test(key, wanted)
        sql = f"SELECT DISTINCT number FROM facts WHERE collection = ? AND key = ? AND ({test})"
        found.append((sql, [collection, key, *tested]))
    return found


def conditions(collection: int, where: Mapping[str, Any], column: str = "number") -> Query:
    """Return SQL that holds for the records that `where` allows, beginning with AND, and its values."""
    parts = queries(collection, where)
    sql = "".join(f" AND {column} IN ({part})" for part, _ in parts)
    return sql, [value for _, values in parts for value in values]


def check_where(where: Mapping[str, Any]) -> None:
    """Raise UsageError for a filter that means nothing, also where there is no record to try it on."""
    queries(0, where)


def _test(key: str, wanted: Any) -> tuple[str, list[Any]]:
    if not isinstance(key, str):
        raise UsageError(f"a metadata key is text, this is {key!r}")
    if isinstance(wanted, Mapping):
        return _range(key, wanted)
    items = wanted if isinstance(wanted, list | tuple | set | frozenset) else [wanted]
    facts = [fact_of(item) for item in items]
    if None in facts:
        raise _meaningless(key, wanted)
    if not facts:
        return "0", []
    if len(facts) > MOST_VALUES:
        raise UsageError(f"the filter {key!r} has {len(facts)} values, the most is {MOST_VALUES}")
    by_kind: dict[int, list[Any]] = {}
    for kind, value in filter(None, facts):
        by_kind.setdefault(kind, []).append(value)
    # One `IN` for each kind of value: for one value SQLite then goes straight to it in the index.
    tests = [f"kind = ? AND value IN ({', '.join('?' * len(values))})" for values in by_kind.values()]
    return " OR ".join(tests), [part for kind, values in by_kind.items() for part in (kind, *values)]


def _range(key: str, wanted: Mapping[str, Any]) -> tuple[str, list[Any]]:
    ends = {name: fact_of(value) for name, value in wanted.items() if name in ("min", "max")}
    kinds = {fact[0] for fact in ends.values() if fact}
    if not ends or len(ends) < len(wanted) or len(kinds) != 1 or None in ends.values() or min(kinds) < TEXT_KIND - 1:
        raise _meaningless(key, wanted)
    test = "kind = ?"
    values: list[Any] = [kinds.pop()]
    for name, fact in ends.items():
        test += f" AND value {'>=' if name == 'min' else '<='} ?"
        values.append(fact[1] if fact else None)
    return test, values


def _meaningless(key: str, wanted: Any) -> UsageError:
    return UsageError(
        f"the filter {key!r} cannot be {wanted!r}",
        hint="give a text, a number, a boolean or null; a list of them; or {min: ..., max: ...} of numbers or of texts",
    )
