"""Keeps what was run: a record of each evaluation, comparison, search, ladder and batch, with what repeats it.

A record is a JSON file below the data folder, and beside it one JSON line for each row with every answer and score; a
batch's rows are its output file. It measures nothing. Invariant: a record is written whole or not at all.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gristmill import UsageError, suggest
from gristmill_plugins.evaluation._identity import digest_of, versions
from gristmill_plugins.evaluation._plain import jsonable

if TYPE_CHECKING:
    from gristmill import Kernel
    from gristmill_plugins.evaluation._batch import BatchSummary
    from gristmill_plugins.evaluation._cost import Cost
    from gristmill_plugins.evaluation._evaluate import Evaluated, Figure, TaskRows
    from gristmill_plugins.evaluation._rows import DataFile
    from gristmill_plugins.evaluation._task_file import Task

FOLDER = "evaluations"
_KEYS = {"id", "kind", "at", "versions", "data", "recipes"}
"""What every record has; a file without is none."""


def figure_record(figure: Figure) -> dict[str, Any]:
    """Return a figure as JSON: value and interval, null where there is none."""
    return {
        "value": _finite(figure.value), "low": _finite(figure.interval.low), "high": _finite(figure.interval.high),
        "n": figure.n, "lower_is_better": figure.lower_is_better,
    }  # fmt: skip


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def evaluated_record(evaluated: Evaluated) -> dict[str, Any]:
    """Return what was measured of one recipe as JSON, its rows aside."""
    return {
        "identity": evaluated.identity,
        "metrics": _figure_records(evaluated.figures),
        "slices": {
            column: {
                value: {name: figure_record(f) for name, f in figures.items()} for value, figures in values.items()
            }
            for column, values in evaluated.slices.items()
        },
        "spread": dict(evaluated.spread),
        "cost": cost_record(evaluated.cost),
        "failed": evaluated.n_failed,
        "leaning": evaluated.leaning.as_json() if evaluated.leaning else None,
    }


def cost_record(cost: Cost) -> dict[str, Any]:
    """Return a cost as JSON."""
    return asdict(cost) | {"tokens_per_row": cost.tokens_per_row}


def _figure_records(figures: Mapping[str, Figure]) -> dict[str, Any]:
    return {name: figure_record(figure) for name, figure in figures.items()}


def make_record(kind: str, task: Task, data: TaskRows, evaluated: Iterable[Evaluated], **more: Any) -> dict[str, Any]:
    """Return a record: what was asked, of what, with which versions, and what came out."""
    return _head(kind, task.data, data.file, len(data.rows)) | {
        "task": task.model_dump(mode="json", exclude_defaults=True),
        "recipes": {one.name: evaluated_record(one) for one in evaluated},
        **more,
    }


def batch_record(data: Path, out: Path, done: BatchSummary) -> dict[str, Any]:
    """Return the record of a batch: the same, without figures, and where its rows are."""
    recipe = {"identity": done.identity, "metrics": {}, "slices": {}, "spread": {}, "cost": cost_record(done.cost),
              "failed": done.n_failed}  # fmt: skip
    return _head("batch", data, done.file, done.n_rows) | {
        "recipes": {done.identity["recipe"]["name"]: recipe},
        "out": {"path": str(out), "rows": done.n_rows, "before": done.n_before, "failed": done.n_failed},
    }


def _head(kind: str, data: Path, file: DataFile, n_rows: int) -> dict[str, Any]:
    return {
        "id": f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}",
        "kind": kind,
        "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": versions(),
        "data": {"path": str(data), "sha256": file.sha256, "size_bytes": file.size_bytes, "rows": n_rows},
    }


def prepare(kernel: Kernel) -> Path:
    """Return the folder of records, made if it is not there, before something is run whose record could not be kept.

    Raises:
        UsageError: it cannot be written.
    """
    folder = kernel.settings.data_directory / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: no record can be kept there: {error.strerror}",
                         hint="set XDG_DATA_HOME to a folder that can be written") from error  # fmt: skip
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{folder}: no record can be kept there: it cannot be written",
                         hint="set XDG_DATA_HOME to a folder that can be written")  # fmt: skip
    return folder


def keep(kernel: Kernel, record: Mapping[str, Any], rows: Iterable[str] | None = None) -> Path:
    """Write a record and its rows' lines, drop the oldest beyond `[limits] runs_kept`; return the record's file."""
    folder = prepare(kernel)
    path = folder / f"{record['id']}.json"
    if rows is not None:
        _write(path.with_suffix(".rows.jsonl"), rows)
    _write(path, [json.dumps(record, ensure_ascii=False, indent=1) + "\n"])
    for old in sorted(folder.glob("*.json"), key=_age)[: -kernel.settings.runs_kept]:
        old.unlink(missing_ok=True)
        old.with_suffix(".rows.jsonl").unlink(missing_ok=True)
    return path


def row_lines(data: TaskRows, evaluated: Sequence[Evaluated]) -> Iterator[str]:
    """Return a JSON line for each row: every recipe's answer and scores."""
    for index, row in enumerate(data.rows):
        answers = {one.name: one.samples[index].answer for one in evaluated}
        errors = {one.name: one.samples[index].error for one in evaluated if one.samples[index].error}
        scores = {
            one.name: {name: f.scores[index] for name, f in one.figures.items() if f.scores is not None}
            for one in evaluated
        }
        line = {
            "row": row.number, "id": jsonable(row.data.get("id", row.number)), "digest": digest_of(row.data)[:16],
            "answers": answers, "scores": scores,
        } | ({"errors": errors} if errors else {})  # fmt: skip
        yield json.dumps(line, ensure_ascii=False) + "\n"


def _write(path: Path, lines: Iterable[str]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(lines)
        os.replace(partial, path)
    except OSError as error:
        raise UsageError(f"{path}: the record cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def list_records(folder: Path) -> list[dict[str, Any]]:
    """Return the records in a data folder, the oldest first; files that are none are left out."""
    found = []
    for path in sorted((folder / FOLDER).glob("*.json"), key=_age):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(record, dict) and record.keys() >= _KEYS:
            found.append(record)
    return found


def _age(path: Path) -> tuple[str, int]:
    """Return what puts records in order: the second in their id, and within it when they were written."""
    return path.name[: len("20260101-120000")], path.stat().st_mtime_ns


def find_record(folder: Path, name: str) -> dict[str, Any]:
    """Return a record by its id or the beginning of it; `last` is the newest.

    Raises:
        UsageError: there is none, or several begin so.
    """
    records = list_records(folder)
    if name == "last" and records:
        return records[-1]
    found = [record for record in records if record["id"].startswith(name)]
    if len(found) == 1:
        return found[0]
    known = [record["id"] for record in records]
    if found:
        raise UsageError(f"{len(found)} records begin with {name!r}", hint="give more of the id")
    raise UsageError(f"there is no record {name!r}", hint=suggest(name, known, most=5))


def read_scores(folder: Path, record_id: str) -> list[dict[str, Any]]:
    """Return the rows of a record, empty if they are gone."""
    path = folder / FOLDER / f"{record_id}.rows.jsonl"
    try:
        with path.open(encoding="utf-8") as file:  # no other line break than these ends a line
            return [json.loads(line) for line in file]
    except (OSError, ValueError):
        return []
