"""Reads rows of data from JSONL, CSV and Parquet files, one at a time.

It keeps no more than one row (of Parquet, one batch of rows) in memory, knows no recipe, and writes nothing. A line
that cannot be read is a row that says so: whether that stops the work is the caller's to decide. Invariant: the same
bytes give the same rows with the same numbers.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gristmill import UsageError, suggest

READERS = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
BLOCK_BYTES = 1 << 20
PARQUET_ROWS = 1_000
Skip = Callable[[int], bool]
"""Tells of a row's number whether nobody wants the row."""
_QUOTES = 'a cell that holds a quotation mark is quoted, and the mark inside it doubled: "5"" pipe"'
MOST_CELL_CHARS = 10_000_000
"""csv refuses cells of more than 131,072 characters by default, which documents have."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row. `number` counts the rows of the file from 1; `error` says why there is no `data`."""

    number: int
    data: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file of rows, and what it was when it was looked at."""

    path: Path
    sha256: str
    size_bytes: int
    n_rows: int
    """About how many: lines of a text file, which an empty line or a line break inside a CSV cell makes too many."""

    modified_ns: int = 0

    def unchanged(self) -> bool:
        """Tell whether the file still is the one that was digested, by its size and its time of change."""
        try:
            now = self.path.stat()
        except OSError:
            return False
        return (now.st_size, now.st_mtime_ns) == (self.size_bytes, self.modified_ns)


def look_at(path: Path) -> DataFile:
    """Digest a data file and count its rows, in one pass over its bytes.

    Raises:
        UsageError: it cannot be read, or has an ending that no reader is for.
    """
    if path.suffix.lower() not in READERS:
        raise UsageError(f"{path}: no reader is for {path.suffix or 'a file without ending'!r}",
                         hint=f"data are read from {', '.join(READERS)}")  # fmt: skip
    digest, n_bytes, n_lines, last = hashlib.sha256(), 0, 0, b"\n"
    try:
        with path.open("rb") as file:
            modified_ns = os.fstat(file.fileno()).st_mtime_ns
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
                n_bytes += len(block)
                n_lines += block.count(b"\n")
                last = block[-1:]
    except OSError as error:
        raise UsageError(f"{path}: the data cannot be read: {error.strerror}") from error
    if path.suffix.lower() == ".parquet":
        n_rows = _parquet(path).metadata.num_rows
    else:
        n_rows = n_lines + (last != b"\n") - (path.suffix.lower() in (".csv", ".tsv"))
    return DataFile(path, digest.hexdigest(), n_bytes, max(0, n_rows), modified_ns)


def read_rows(path: Path, skip: Skip = lambda _: False) -> Iterator[Row]:
    """Yield a file's rows in order, but for those whose numbers are to be skipped.

    Raises:
        UsageError: the file cannot be read, or has no reader.
    """
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        return _json_rows(path, skip)
    if suffix in (".csv", ".tsv"):
        rows = _csv_rows(path, "\t" if suffix == ".tsv" else ",")
        return (row for row in rows if not skip(row.number))
    if suffix == ".parquet":
        return (row for row in _parquet_rows(path) if not skip(row.number))
    raise UsageError(f"{path}: no reader is for {suffix!r}", hint=f"data are read from {', '.join(READERS)}")


def _json_rows(path: Path, skip: Skip) -> Iterator[Row]:
    number = 0
    try:
        with path.open("rb") as file:
            for line_number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                number += 1
                if skip(number):
                    continue  # not even parsed: a batch that goes on passes most of its rows here
                try:
                    data = json.loads(line)
                except (ValueError, RecursionError) as error:
                    whole = "" if line.endswith(b"\n") else " (the last line, which may not be whole)"
                    yield Row(number, error=f"{path.name}:{line_number}: no JSON: {error}{whole}")
                    continue
                if isinstance(data, dict):
                    yield Row(number, data)
                else:
                    yield Row(number, error=f"{path.name}:{line_number}: a row is an object, this is {data!r:.60}")
    except OSError as error:
        raise UsageError(f"{path}: the data cannot be read: {error.strerror}") from error


def _csv_rows(path: Path, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(MOST_CELL_CHARS)
    number, first_line = 0, 1
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = next(reader, [])
            _need_names(path, header)
            first_line = reader.line_num + 1
            for cells in reader:
                if cells:
                    number += 1
                    yield _csv_row(number, header, cells, f"{path.name}:{first_line}")
                first_line = reader.line_num + 1
    except OSError as error:
        raise UsageError(f"{path}: the data cannot be read: {error.strerror}") from error
    except csv.Error as error:  # where the row ends is not known, so the rows after it are not either
        raise UsageError(f"{path}:{first_line}: the row that begins here is no CSV: {error}", hint=_QUOTES) from error


def _csv_row(number: int, header: list[str], cells: list[str], place: str) -> Row:
    if len(cells) != len(header):
        return Row(number, error=f"{place}: {len(cells)} cells under {len(header)} headings")
    if not all(map(_is_text, cells)):
        return Row(number, error=f"{place}: it is not UTF-8")
    return Row(number, dict(zip(header, cells, strict=True)))


def _need_names(path: Path, header: list[str]) -> None:
    if not all(map(_is_text, header)):
        raise UsageError(f"{path}: the headings are not UTF-8", hint="save the file as UTF-8")
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise UsageError(f"{path}: two columns are called {twice!r}", hint="rename one")


def _is_text(cell: str) -> bool:
    """Tell whether a cell had no byte that is not UTF-8; such a one was read as half a character."""
    return cell.isascii() or not any("\udc80" <= char <= "\udcff" for char in cell)


def _parquet_rows(path: Path) -> Iterator[Row]:
    number = 0
    with _parquet(path) as file:
        _need_names(path, file.schema_arrow.names)
        try:
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                for data in batch.to_pylist():
                    number += 1
                    yield Row(number, data)
        except OSError as error:
            raise UsageError(f"{path}: the file is damaged after row {number}: {error}") from error


def _parquet(path: Path) -> Any:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise UsageError(
            f"{path}: reading Parquet needs pyarrow", hint="pip install 'gristmill[evaluation]'"
        ) from error
    try:
        return ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise UsageError(f"{path}: no Parquet file: {error}") from error


def value_at(data: Mapping[str, Any], column: str) -> Any:
    """Return a column's value; `a.b` is `b` inside `a` unless a column is called so.

    Raises:
        KeyError: there is none.
    """
    if column in data:
        return data[column]
    head, dot, rest = column.partition(".")
    inner = data.get(head)
    if dot and isinstance(inner, Mapping):
        return value_at(inner, rest)
    raise KeyError(column)


def need_column(data: Mapping[str, Any], column: str, why: str) -> None:
    """Raise UsageError unless the data have a column, with the nearest there is."""
    try:
        value_at(data, column)
    except KeyError:
        raise UsageError(f"the data have no column {column!r}, which {why}", hint=suggest(column, data)) from None
