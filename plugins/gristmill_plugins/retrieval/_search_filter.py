"""Metadata filters: `{"year": {"min": 1990}, "kind": ["a", "b"]}`, the same language as semantic memory's.

It reads no index. Invariant: a boolean is never equal to a number, and a key that a chunk does not have allows nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gristmill import FunctionError

_HINT = "give a text, a number, a boolean or null; a list of them; or {min: ..., max: ...} of numbers or of texts"


class Filter:
    """What metadata must hold: for each key a value, a list of values, or a range with both ends included.

    Raises:
        FunctionError: it means nothing.
    """

    def __init__(self, where: Mapping[str, Any]) -> None:
        self._tests = [(key, *_read(key, wanted)) for key, wanted in where.items()]

    def allows(self, metadata: Mapping[str, Any]) -> bool:
        """Tell whether metadata holds all of it; of a list, one item is enough."""
        return all(_passes(metadata.get(key, _MISSING), values, ends) for key, values, ends in self._tests)


_MISSING: Any = object()
_Fact = tuple[str, Any]


def _read(key: str, wanted: Any) -> tuple[frozenset[_Fact] | None, Mapping[str, _Fact]]:
    if isinstance(wanted, Mapping):
        ends = {name: _fact(value) for name, value in wanted.items() if name in ("min", "max")}
        kinds = {fact[0] for fact in ends.values() if fact}
        if not ends or len(ends) < len(wanted) or None in ends.values() or kinds not in ({"number"}, {"text"}):
            raise _meaningless(key, wanted)
        return None, {name: fact for name, fact in ends.items() if fact}
    facts = [_fact(item) for item in (wanted if isinstance(wanted, list | tuple) else [wanted])]
    if None in facts:
        raise _meaningless(key, wanted)
    return frozenset(fact for fact in facts if fact), {}


def _meaningless(key: str, wanted: Any) -> FunctionError:
    return FunctionError(f"the filter {key!r} cannot be {wanted!r}", hint=_HINT)


def _fact(value: Any) -> _Fact | None:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean", value
    if isinstance(value, int | float):
        return "number", value
    return ("text", value) if isinstance(value, str) else None


def _passes(value: Any, values: frozenset[_Fact] | None, ends: Mapping[str, _Fact]) -> bool:
    facts = [] if value is _MISSING else [_fact(item) for item in (value if isinstance(value, list) else [value])]
    if values is not None:
        return any(fact in values for fact in facts)
    return any(fact is not None and _within(fact, ends) for fact in facts)


def _within(fact: _Fact, ends: Mapping[str, _Fact]) -> bool:
    low, high = ends.get("min"), ends.get("max")
    if fact[0] != (low or high or fact)[0]:
        return False
    return (low is None or fact[1] >= low[1]) and (high is None or fact[1] <= high[1])
