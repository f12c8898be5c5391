"""The record of a run on disk: a JSON Lines trace, and what of it a later run can use again.

It writes no more than the trace's events, in their order, and reads them back. Invariant: a line that is not whole
(the process was killed while writing it) is ignored, and a step counts as finished only if its line is there.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from pydantic_core import to_json

from gristmill._errors import UsageError, suggest
from gristmill._events import Event, StepFinished, Token, jsonable
from gristmill._language._types import ANY, Type, coerce


def encode(event: Event) -> bytes:
    """Return an event as one line of JSON; what has no JSON form is shown by its type.

    pydantic's encoder takes a third of the time of `json`'s (5 µs for the two lines of a step, not 15), but no text
    with a lone surrogate, which a model may write.
    """
    try:
        return to_json(event.as_record(), inf_nan_mode="constants", fallback=jsonable) + b"\n"
    except ValueError:
        return json.dumps(event.as_json(), ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A finished step of an earlier run."""

    key: str
    output: Any


FLUSH_STEP_S = 0.005
FLUSH_EVERY_S = 0.05


class TraceWriter:
    """Writes events to a file as they happen; tokens are left out, their text is in the step's output."""

    def __init__(self, path: Path) -> None:
        try:
            self._file: IO[bytes] | None = _opened(path)
        except OSError as error:
            raise UsageError(f"the trace cannot be written to {path}: {error.strerror}") from error
        self.path = path
        self._flushed_s = 0.0

    def _is_due(self, event: StepFinished) -> bool:
        """Tell whether a finished step goes to the file now: a killed run may lose what took no time, no more."""
        return event.elapsed_s > FLUSH_STEP_S or event.at_s - self._flushed_s > FLUSH_EVERY_S

    def write(self, event: Event) -> None:
        kind = type(event)
        if self._file is None or kind is Token:
            return
        try:
            self._file.write(encode(event))
            if kind is StepFinished and self._is_due(cast(StepFinished, event)):
                self._flushed_s = event.at_s
                self._file.flush()
        except OSError as error:
            self._file = None
            warnings.warn(f"the trace {self.path} ends here: {error.strerror}", RuntimeWarning, stacklevel=2)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _opened(path: Path) -> IO[bytes]:
    try:
        return open(path, "wb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "wb")


def read_records(path: Path) -> dict[str, StepRecord]:
    """Return the finished steps of a recorded run, by their path."""
    records = {}
    for line in _lines(path):
        if line.get("event") == "step_finished" and isinstance(line.get("key"), str):
            records[str(line["step"])] = StepRecord(line["key"], line.get("output"))
    return records


def read_inputs(path: Path) -> dict[str, Any]:
    """Return the inputs of a recorded run."""
    first = next(iter(_lines(path)), {})
    inputs = first.get("inputs")
    return inputs if isinstance(inputs, dict) else {}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                yield record


def find_run(folder: Path, run_id: str) -> Path:
    """Return the record of a run.

    Raises:
        UsageError: there is none; the hint has the nearest.
    """
    known = {path.stem: path for path in folder.glob("*.jsonl")} if folder.is_dir() else {}
    if run_id in known:
        return known[run_id]
    raise UsageError(f"there is no record of a run {run_id!r} in {folder}", hint=suggest(run_id, known, most=5))


def prune(folder: Path, kept: int) -> None:
    """Delete the oldest records beyond `kept`."""
    records = sorted(folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime)
    for path in records[: max(0, len(records) - kept)]:
        try:
            os.unlink(path)
        except FileNotFoundError:
            continue  # another process was first


def restore(value: Any, target: Type) -> Any:
    """Return a recorded value as the type its step gives, so that a resumed run cannot tell it from a fresh one."""
    if value is None or target.kind == "any":
        return value
    return coerce(value, target if target.kind != "record" or target.python is None else _whole(target))


def _whole(target: Type) -> Type:
    return Type("record", target.name, item=target.item or ANY, fields=target.fields, python=target.python)
