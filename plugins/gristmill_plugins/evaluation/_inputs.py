"""Makes a recipe's inputs from a row of data, as `--map INPUT=COLUMN` says.

An input that is not mapped takes the column of its own name, if there is one. CSV has texts only, so a text becomes
the number, boolean, list or mapping that the input is declared to be. It runs nothing. Invariant: what it returns
depends on the row alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from gristmill import UsageError, suggest
from gristmill_plugins.evaluation._plain import jsonable
from gristmill_plugins.evaluation._rows import Row, need_column, value_at

if TYPE_CHECKING:
    from gristmill import RunnableRecipe

_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}


class RowError(Exception):
    """A row that cannot become inputs; the text says why."""


@dataclass(frozen=True, slots=True)
class InputMap:
    """Which column goes to which input of one recipe, and the inputs that are the same for every row."""

    columns: Mapping[str, str]
    optional: frozenset[str]
    """Inputs that a row may leave out: they have a default."""
    kinds: Mapping[str, str]
    constants: Mapping[str, Any]

    def inputs(self, row: Row) -> dict[str, Any]:
        """Return the inputs for a row.

        Raises:
            RowError: the row cannot be read, or lacks a column.
        """
        if row.error is not None:
            raise RowError(row.error)
        inputs = dict(self.constants)
        for name, column in self.columns.items():
            try:
                value = value_at(row.data, column)
            except KeyError:
                if name in self.optional:
                    continue
                raise RowError(f"the row has no column {column!r} for the input {name!r}") from None
            inputs[name] = _converted(name, value, self.kinds[name])
        return inputs


def parse_pairs(option: str, pairs: Iterable[str] | None) -> dict[str, str]:
    """Return what NAME=VALUE options say.

    Raises:
        UsageError: one has no `=`.
    """
    found = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals or not name or not value:
            raise UsageError(f"{option} {pair!r} is not NAME=VALUE", hint=f"{option} question=text")
        found[name] = value
    return found


def map_inputs(
    recipe: RunnableRecipe, columns: Mapping[str, str], constants: Mapping[str, Any], first: Row | None
) -> InputMap:
    """Return the map for a recipe, checked against the data's first row, so that mistakes show before a model loads.

    Raises:
        UsageError: an input is unknown, or a needed column is not in the data.
    """
    declared = recipe.recipe.inputs
    for name in (*columns, *constants):
        if name not in declared:
            hint = suggest(name, declared) if declared else "it takes none"
            raise UsageError(f"recipe {recipe.recipe.name!r} has no input {name!r}", hint=hint)
    data = first.data if first is not None and first.error is None else None
    chosen = dict(columns)
    for name, entry in declared.items():
        if name in chosen or name in constants:
            continue
        if entry.required or (data is not None and name in data):
            chosen[name] = name
    optional = frozenset(name for name in chosen if not declared[name].required and name not in columns)
    if data is not None:
        for name, column in chosen.items():
            if name not in optional:
                need_column(data, column, f"the input {name!r} takes (--map {name}=COLUMN names another)")
    kinds = {name: declared[name].type.kind for name in chosen}
    return InputMap(chosen, optional, kinds, dict(constants))


def _converted(name: str, value: Any, kind: str) -> Any:
    if kind == "string" and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, Decimal):
        value = jsonable(value)
    if not isinstance(value, str) or kind in ("string", "path", "any"):
        return value
    try:
        if kind == "integer":
            return int(value)
        if kind == "number":
            return float(value)
        if kind == "boolean":
            return _BOOLEANS[value.strip().lower()]
        return json.loads(value)
    except (ValueError, KeyError, RecursionError):
        raise RowError(f"{value!r:.60} is no {kind}, which the input {name!r} is") from None
