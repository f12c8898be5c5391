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


def record_of(folder: Path, run: str) -> Path:
    """Return the record of a run; `last` is the latest.

    Raises:
        UsageError: there is none; the hint has the nearest.
    """
    known = sorted(folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime) if folder.is_dir() else []
    if run == "last" and known:
        return known[-1]
    for path in known:
        if path.stem == run:
            return path
    near = difflib.get_close_matches(run, [path.stem for path in known], n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`gristmill run` records every run; `last` is the latest"
    raise UsageError(f"there is no record of a run {run!r} in {folder}", hint=hint)


def decisions_of(record: Path, step: str | None = None) -> list[Decision]:
    """Return the decisions that learners made in a run, in the order in which their steps finished.

    Raises:
        UsageError: none was made, or none in that step.
    """
    found: list[Decision] = []
    for line in record.read_text(encoding="utf-8").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue  # the run was killed while it wrote this line
        if event.get("event") == "step_finished" and step in (None, event.get("step")):
            found += _within(event.get("output"))
    if not found:
        where = f"step {step!r} of run {record.stem}" if step else f"run {record.stem}"
        raise UsageError(f"{where} asked no learner", hint="feedback is for steps that use ensemble.learn")
    return found


def _within(output: Any) -> Iterator[Decision]:
    """Yield the decision of a step's value, or of each item's."""
    for item in output if isinstance(output, list) else [output]:
        if isinstance(item, dict) and "decision" in item:
            try:
                yield Decision.model_validate(item["decision"])
            except ValidationError:
                continue  # another function's field of that name
