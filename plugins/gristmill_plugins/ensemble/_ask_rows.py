"""Reading what functions are given: labelled rows from JSONL, and lists of choices.

It knows nothing of what rows mean. Invariant: a bad line is told with its file and number.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from gristmill import FunctionError, Value

V = TypeVar("V", bound=Value)


def labelled_rows(
    cls: type[V], data: Path | list[V] | None, answers: Sequence[object] | None, labels: Sequence[str] | None
) -> list[V]:
    """Return rows of a class with two fields, what was said and the label, from either way of giving them.

    Raises:
        FunctionError: they are given in both ways or in none, or answers and labels are not as many.
    """
    if (data is None) == (answers is None) or (answers is None) != (labels is None):
        raise FunctionError("this takes `data`, or `answers` with their `labels`")
    if data is not None:
        return read_rows(data, cls) if isinstance(data, Path) else data
    assert answers is not None
    assert labels is not None
    if len(answers) != len(labels):
        raise FunctionError(f"there are {len(answers)} answers and {len(labels)} labels")
    (said,) = (name for name in cls.model_fields if name != "label")
    return [cls.model_validate({said: row, "label": label}) for row, label in zip(answers, labels, strict=True)]


def read_rows(path: Path, cls: type[V]) -> list[V]:
    """Return one value for each line of a JSONL file that is not blank.

    Raises:
        FunctionError: the file cannot be read, or a line is not such a value.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise FunctionError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FunctionError(f"{path} is not UTF-8: byte {error.start}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                rows.append(cls.model_validate_json(line))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise FunctionError(f"{path}:{number}: {where + ': ' if where else ''}{first['msg']}") from error
    return rows


def distinct(choices: Sequence[str] | None) -> tuple[str, ...]:
    """Return choices as members are asked about them; none where there are none.

    Raises:
        FunctionError: there is one, one is empty, or two are equal.
    """
    if choices is None:
        return ()
    if len(choices) < 2 or len(set(choices)) < len(choices) or "" in choices:
        raise FunctionError(f"choices are at least two different texts, none of them empty; these are {choices!r}")
    return tuple(choices)
