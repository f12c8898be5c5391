"""Runs a recipe on every row of a file, with one output record for each, and goes on where it was stopped.

The same command after a crash, `kill -9` included, runs the rows that have no record and no others. A row that was
under way when the process died runs again: calls happen at least once, records exactly once. It keeps no more in memory
than the rows under way and one bit for each row done. Invariant: when a batch has ended, every input row has exactly
one record, of its output or of its error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gristmill import UsageError, Value
from gristmill_plugins.evaluation._cost import Cost, Spent
from gristmill_plugins.evaluation._identity import Identity, file_digest, identify
from gristmill_plugins.evaluation._inputs import map_inputs
from gristmill_plugins.evaluation._ledger import Ledger
from gristmill_plugins.evaluation._plain import jsonable
from gristmill_plugins.evaluation._rows import DataFile, Row, look_at, need_column, read_rows, value_at
from gristmill_plugins.evaluation._runner import DEFAULT_EFFORT, Effort, Outcome, run_rows, told

if TYPE_CHECKING:
    from gristmill import RunnableRecipe


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """What a batch is told beside its recipe and data; see `gristmill batch --help`."""

    columns: dict[str, str]
    constants: dict[str, Any]
    overrides: dict[str, str]
    effort: Effort = DEFAULT_EFFORT
    id_column: str | None = None
    in_order: bool = False
    retry_failed: bool = False
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class BatchSummary:
    """How a batch ended. `n_before`: rows that had their record when it began."""

    n_rows: int
    n_before: int
    n_failed: int
    identity: Identity = field(repr=False, compare=False)
    """What the records depend on, data included."""
    file: DataFile = field(repr=False, compare=False)
    cost: Cost = field(repr=False, compare=False)
    """Of the rows that ran this time."""


Progress = Callable[[int, int, int], None]
"""Told of rows done, rows failed, and about how many rows there are."""


def run_batch(
    recipe: RunnableRecipe, data: Path, out: Path, options: BatchOptions, progress: Progress = lambda *_: None
) -> BatchSummary:
    """Run a recipe on a file of rows and write one record for each.

    Raises:
        UsageError: the data or the output cannot be used, or the output is another batch's.
        GristmillError: no row could succeed: a model cannot be loaded.
    """
    if options.in_order and options.retry_failed:
        raise UsageError("rows that are tried again get their records last: --retry-failed excludes --in-order")
    if not out.name or (out.exists() and not out.is_file()):
        raise UsageError(f"{str(out)!r} is no file that records could be written to", hint="--out OUT.jsonl")
    if out.resolve() == data.resolve():
        raise UsageError(f"{out} is the data: the output needs a file of its own")
    file = look_at(data)
    first = next(read_rows(data), None)
    inputs = map_inputs(recipe, options.columns, options.constants, first)
    if options.id_column is not None and first is not None and first.error is None:
        need_column(first.data, options.id_column, "--id names")
    identity = (
        identify(recipe, options.overrides)
        | {
            "data": {"path": str(data), "sha256": file.sha256, "size_bytes": file.size_bytes},
            "map": dict(inputs.columns),
            "constants": {name: _constant(value) for name, value in options.constants.items()},
            "plugins": {str(path): file_digest(Path(path)) for path in recipe.kernel.plugin_files},
            "options": {"--id": options.id_column} if options.id_column else {},
        }
        | ({"order": {"--in-order": True}} if options.in_order else {})
    )
    with Ledger(out, identity, retry_failed=options.retry_failed) as ledger:
        n_before = ledger.done.count
        writer = _Writer(ledger, options, file, progress)
        pending = _upto(read_rows(data, skip=ledger.done.__contains__), options.limit)
        started = time.perf_counter()
        run_rows(recipe, pending, inputs, options.effort, writer.take, in_order=options.in_order)
        seconds = time.perf_counter() - started
        if not file.unchanged():
            raise UsageError(f"{data} changed while the batch read it", hint=f"begin anew, not with {out}")
        cost = writer.spent.cost(seconds=seconds, n_rows=ledger.done.count - n_before)
        return BatchSummary(ledger.done.count, n_before, ledger.n_failed, identity, file, cost)


def _constant(value: Any) -> Any:
    """Return what stands for an input that all rows share: of a file its bytes too, for they may change."""
    return [str(value), file_digest(value)] if isinstance(value, Path) and value.is_file() else jsonable(value)


def _upto(rows: Iterator[Row], limit: int | None) -> Iterator[Row]:
    return rows if limit is None else takewhile(lambda row: row.number <= limit, rows)


class _Writer:
    """Writes each outcome to the ledger as it comes."""

    def __init__(self, ledger: Ledger, options: BatchOptions, file: DataFile, progress: Progress) -> None:
        self.ledger = ledger
        self.options = options
        self.n_rows = file.n_rows if options.limit is None else min(file.n_rows, options.limit)
        self.progress = progress
        self.spent = Spent()

    def take(self, outcome: Outcome) -> None:
        if outcome.result is not None:
            self.spent.add(outcome.result.usage)
        try:
            record = record_of(outcome, self.options.id_column)
        except RecursionError:
            record = _too_deep(outcome)
        self.ledger.write(record)
        self.progress(self.ledger.done.count, self.ledger.n_failed, self.n_rows)


def record_of(outcome: Outcome, id_column: str | None) -> dict[str, Any]:
    """Return the output record of a row: row, id, input, output or error, attempts."""
    row = outcome.row
    record: dict[str, Any] = {"row": row.number, "id": _id_of(row, id_column), "input": jsonable(outcome.inputs)}
    if outcome.error is not None:
        failure = told(outcome.error)
        record["error"] = {"type": failure.kind, "message": failure.message}
    else:
        assert outcome.result is not None
        output = outcome.result.output
        text = output.as_text() if isinstance(output, Value) else None
        record["output"] = jsonable(output) if text is None else text
    record["attempts"] = outcome.attempts
    return record


def _too_deep(outcome: Outcome) -> dict[str, Any]:
    told = "the row, or what came of it, is nested too deeply to be written"
    return {"row": outcome.row.number, "id": outcome.row.number, "input": None,
            "error": {"type": "RecursionError", "message": told}, "attempts": outcome.attempts}  # fmt: skip


def _id_of(row: Row, column: str | None) -> Any:
    try:
        return jsonable(value_at(row.data, column or "id"))
    except KeyError:
        return row.number
