"""What a filter by metadata means, and what a record can be found by: the same for every store.

It knows no store. Invariants: values of two kinds are never equal (`1`, `"1"` and `true` differ, `1` and `1.0` do not);
a list in the metadata is found by each of its items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gristmill._errors import UsageError

MOST_VALUES = 10_000
"""Of one filter: SQLite takes no more than 32,766 values in a statement."""

Fact = tuple[str, int, Any]
NULL_KIND, BOOLEAN_KIND, NUMBER_KIND, TEXT_KIND = range(4)


def fact_of(value: Any) -> tuple[int, Any] | None:
    """Return kind and value of a scalar as an index of metadata holds it, or None for what cannot be looked up.

    Kinds are 0 null (the value is then 0), 1 boolean (0 or 1), 2 number, 3 text.
    """
    if value is None:
        return NULL_KIND, 0  # a NULL in SQL is equal to nothing
    if isinstance(value, bool):
        return BOOLEAN_KIND, int(value)
    if isinstance(value, int | float):
        return NUMBER_KIND, value if -(2**63) <= value < 2**63 or isinstance(value, float) else float(value)
    return (TEXT_KIND, value) if isinstance(value, str) else None


def facts_of(metadata: Mapping[str, Any]) -> set[Fact]:
    """Return what a record can be found by: key, kind and value of each scalar, and of each scalar of a list."""
    facts = set()
    for key, value in metadata.items():
        for item in value if isinstance(value, list | tuple) else [value]:
            if (fact := fact_of(item)) is not None:
                facts.add((key, *fact))
    return facts


@dataclass(frozen=True, slots=True)
class Condition:
    """What must hold for one key: one of `values` (kind and value), or a range of one kind."""

    key: str
    values: tuple[tuple[int, Any], ...] = ()
    """With neither `low` nor `high`: one of them must be among the record's; none holds for none."""
    low: tuple[int, Any] | None = None
    high: tuple[int, Any] | None = None

    @property
    def is_range(self) -> bool:
        return self.low is not None or self.high is not None

    @property
    def kind(self) -> int:
        """The kind of a range: number or text."""
        end = self.low or self.high
        assert end is not None
        return end[0]

    def by_kind(self) -> dict[int, list[Any]]:
        """Return the values of each kind."""
        kinds: dict[int, list[Any]] = {}
        for kind, value in self.values:
            kinds.setdefault(kind, []).append(value)
        return kinds


def conditions_of(where: Mapping[str, Any]) -> list[Condition]:
    """Return what `where` asks for, all of which must hold.

    Raises:
        UsageError: a filter that means nothing.
    """
    return [_condition(key, wanted) for key, wanted in where.items()]


def _condition(key: Any, wanted: Any) -> Condition:
    if not isinstance(key, str):
        raise UsageError(f"a metadata key is text, this is {key!r}")
    if isinstance(wanted, Mapping):
        return _range(key, wanted)
    items = wanted if isinstance(wanted, list | tuple | set | frozenset) else [wanted]
    facts = [fact_of(item) for item in items]
    if None in facts:
        raise _meaningless(key, wanted)
    if len(facts) > MOST_VALUES:
        raise UsageError(f"the filter {key!r} has {len(facts)} values, the most is {MOST_VALUES}")
    return Condition(key, tuple(filter(None, facts)))


def _range(key: str, wanted: Mapping[str, Any]) -> Condition:
    ends = {name: fact_of(value) for name, value in wanted.items() if name in ("min", "max")}
    kinds = {fact[0] for fact in ends.values() if fact}
    if not ends or len(ends) < len(wanted) or len(kinds) != 1 or None in ends.values() or min(kinds) < NUMBER_KIND:
        raise _meaningless(key, wanted)
    return Condition(key, low=ends.get("min"), high=ends.get("max"))


def _meaningless(key: str, wanted: Any) -> UsageError:
    return UsageError(
        f"the filter {key!r} cannot be {wanted!r}",
        hint="give a text, a number, a boolean or null; a list of them; or {min: ..., max: ...} of numbers or of texts",
    )
