"""Finding, in the record of a run, the decisions of learners. Invariant: it changes nothing."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gristmill import UsageError

from ._learn import Decision


def find_decisions(folder: Path, run: str, step: str | None = None) -> list[Decision]:
    """Return the decisions that learners made in a recorded run, in the order in which their steps finished.

    Args:
        folder: of the records.
        run: its id; `last` is the latest run that asked a learner.
        step: only of this step.

    Raises:
        UsageError: there is no such run, or it asked no learner.
    """
    records = sorted(folder.glob("*.jsonl"), key=_written) if folder.is_dir() else []
    wanted = reversed(records) if run == "last" else [path for path in records if path.stem == run]
    seen = False
    for record in wanted:
        seen = True
        if found := _decisions(record, step):
            return found
    if seen:
        where = f"step {step!r} of run {run}" if step else f"run {run}"
        raise UsageError(f"{where} asked no learner", hint="feedback is for steps that use ensemble.learn")
    near = difflib.get_close_matches(run, [path.stem for path in records], n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`gristmill run` records every run; `last` is the latest"
    raise UsageError(f"there is no record of a run {run!r} in {folder}", hint=hint)


def _written(record: Path) -> float:
    try:
        return record.stat().st_mtime
    except OSError:
        return 0.0  # deleted meanwhile: only so many runs are kept


def _decisions(record: Path, step: str | None) -> list[Decision]:
    found: list[Decision] = []
    try:
        lines = record.read_text(encoding="utf-8").splitlines()
    except OSError:
        return found
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # the run was killed while it wrote this line
        if event.get("event") == "step_finished" and step in (None, event.get("step")):
            found += _within(event.get("output"))
    return found


def _within(output: Any) -> Iterator[Decision]:
    """Yield the decision of a step's value, or of each item's."""
    for item in output if isinstance(output, list) else [output]:
        if isinstance(item, dict) and "decision" in item:
            try:
                yield Decision.model_validate(item["decision"])
            except ValidationError:
                continue  # another function's field of that name
