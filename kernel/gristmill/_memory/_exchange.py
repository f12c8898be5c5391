"""A collection as JSON Lines: one record a line, without vectors, which any embedder can make again.

It knows no store. Invariant: a file is written whole or not at all, and read whole before anything of it is used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gristmill._errors import UsageError
from gristmill._models import StoredRecord

_MOST_TOLD = 80


def write_file(path: Path, records: Sequence[StoredRecord]) -> None:
    """Write records to a file.

    Raises:
        UsageError: it cannot be written; what was there before is still there.
    """
    partial = path.with_name(path.name + ".part")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            for record in records:
                file.write(record.model_dump_json(exclude={"score"}) + "\n")
        partial.replace(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error


def read_file(path: Path, id_of: Callable[[str | None, str], str], now: float) -> list[StoredRecord]:
    """Return the records of a file; `id_of` makes an id from the one given, if any, and the text.

    Raises:
        UsageError: it cannot be read, or a line is no record.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8: byte {error.start}", hint="save it as UTF-8") from error
    return [_record(path, n, line, id_of, now) for n, line in enumerate(lines, start=1) if line.strip()]


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _record(path: Path, n: int, line: str, id_of: Callable[[str | None, str], str], now: float) -> StoredRecord:
    try:
        data: Any = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}:{n}: no JSON: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("text"), str) or not data["text"].strip():
        raise UsageError(f"{path}:{n}: a record needs a `text`, this is {line[:_MOST_TOLD]}")
    try:
        record = StoredRecord.model_validate({"id": "", "created": now} | data | {"score": None})
        record = record.model_copy(update={"id": id_of(data.get("id"), record.text)})
        record.model_dump_json().encode()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UsageError(f"{path}:{n}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except UsageError as error:
        raise UsageError(f"{path}:{n}: {error.message}") from error
    except ValueError as error:
        raise UsageError(f"{path}:{n}: the record holds what is no text: {error}") from error
    return record
