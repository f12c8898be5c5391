"""Rows of a CSV or JSONL file to training examples, and their split.

It does not tokenise and knows no model. Invariants: the split depends on the rows and the seed alone; equal prompts
are never on both sides of it; text from the file is data: a template's `${column}` is replaced once and never rendered
again.
"""

from __future__ import annotations

import csv
import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gristmill import FunctionError, UsageError

MOST_BYTES = 1 << 30
MOST_LABELS = 20
"""With up to so many different completions a task counts as choosing, and is measured by the choices' probabilities."""
_COLUMN = re.compile(r"\$\{\s*([^{}]+?)\s*\}")


@dataclass(frozen=True, slots=True)
class Example:
    """One row: a completion after a prompt, or (where `prompt` is None) a text to go on with like it."""

    prompt: str | None
    completion: str


@dataclass(frozen=True, slots=True)
class Columns:
    """Templates that make an example of a row; either `text` alone, or prompt and completion."""

    prompt: str = "${prompt}"
    completion: str = "${completion}"
    text: str | None = None

    def example(self, row: Mapping[str, Any]) -> Example:
        """Return the example of one row; the completion without white space at its ends."""
        if self.text is not None:
            return Example(None, fill(self.text, row).strip())
        return Example(fill(self.prompt, row), fill(self.completion, row).strip())


def fill(template: str, row: Mapping[str, Any]) -> str:
    """Return a template with each `${column}` replaced by the row's value; a list is joined with commas.

    Raises:
        FunctionError: the row has no such column.
    """

    def value(match: re.Match[str]) -> str:
        try:
            found = row[match[1]]
        except KeyError as error:
            raise FunctionError(f"there is no column {match[1]!r}", hint=f"columns: {', '.join(row)}") from error
        if isinstance(found, list):
            return ", ".join(map(str, found))
        return "" if found is None else found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)

    return _COLUMN.sub(value, template)


def read_examples(path: Path, columns: Columns) -> list[Example]:
    """Return the examples of a file; rows whose completion or text is empty are left out.

    Raises:
        UsageError: there is no such file, it is too large, or of another kind.
        FunctionError: a row cannot be read or lacks a column; the text names its line.
    """
    found = []
    for line, row in _rows(path):
        try:
            example = columns.example(row)
        except FunctionError as error:
            raise FunctionError(f"{path}:{line}: {error.message}", hint=error.hint) from error
        if example.completion and (example.prompt is None or example.prompt.strip()):
            found.append(example)
    if not found:
        raise FunctionError(f"{path} holds no example", hint="every row's prompt or completion is empty")
    return found


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file", hint="give a .csv or .jsonl file with examples")
    if path.stat().st_size > MOST_BYTES:
        raise UsageError(f"{path} has more than {MOST_BYTES >> 30} GB", hint="give a part of it")
    kind = path.suffix.lower()
    if kind not in (".csv", ".jsonl"):
        raise UsageError(f"{path}: its name ends with neither .csv nor .jsonl", hint="give a file of one of these")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _csv_rows(path, file) if kind == ".csv" else _json_rows(path, file)
    except UnicodeDecodeError as error:
        raise FunctionError(f"{path} is not UTF-8: byte {error.start}", hint="write it anew as UTF-8") from error


def _csv_rows(path: Path, file: Any) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(file, restkey="", restval=None, strict=True)
    try:
        for row in reader:
            if "" in row or None in row.values():
                raise FunctionError(f"{path}:{reader.line_num}: the row has not as many cells as the first line")
            yield reader.line_num, row
    except csv.Error as error:
        raise FunctionError(
            f"{path}:{reader.line_num}: {error}", hint="quote cells that hold commas or quotes"
        ) from error


def _json_rows(path: Path, file: Any) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise FunctionError(f"{path}:{number}: this is no JSON: {error}", hint="one object a line") from error
        if not isinstance(row, dict):
            raise FunctionError(
                f"{path}:{number}: this is no JSON object", hint='such as {"prompt": ..., "completion": ...}'
            )
        yield number, row


def split(examples: Sequence[Example], holdout: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Return what to train on and what to hold out, about `holdout` of all; each keeps the order of the file.

    Raises:
        FunctionError: one side would be empty.
    """
    groups = sorted({_group(example) for example in examples})
    random.Random(seed).shuffle(groups)
    held = set(groups[: round(holdout * len(groups))])
    kept = [example for example in examples if _group(example) not in held]
    out = [example for example in examples if _group(example) in held]
    if not kept or (holdout > 0 and not out):
        raise FunctionError(
            f"{len(groups)} different examples cannot be split {1 - holdout:.0%} to {holdout:.0%}",
            hint="give more rows, or another share to hold out",
        )
    return kept, out


def _group(example: Example) -> str:
    return hashlib.sha256((example.prompt or example.completion).encode()).hexdigest()


def labels_of(examples: Sequence[Example]) -> tuple[str, ...]:
    """Return the completions of a task of choosing, most frequent first; empty where it is none."""
    counts = Counter(example.completion for example in examples if example.prompt is not None)
    if not 2 <= len(counts) <= MOST_LABELS or len(examples) < 3 * len(counts):
        return ()
    return tuple(label for label, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def pick_shots(examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    """Return examples to show in a prompt: different completions in turn, so that each label comes up alike."""
    shuffled = [example for example in examples if example.prompt is not None]
    random.Random(seed).shuffle(shuffled)
    seen: Counter[str] = Counter()
    rounds: list[tuple[int, int, Example]] = []
    for example in shuffled:
        rounds.append((seen[example.completion], len(rounds), example))
        seen[example.completion] += 1
    return [example for _, _, example in sorted(rounds, key=lambda item: item[:2])[:count]]
