"""Holds the rows of a task where they take no memory: read once, kept in a temporary file, fetched one at a time.

An evaluation asks for the same rows again: for each recipe, for the examples of a comparison, for a metric that is a
recipe. The data file itself cannot be asked for row 70,000, so the rows are written once to a file of their own, which
has no name and ends with the process; the first `MEMORY_BYTES` of it never reach the disk. It knows neither recipe nor
metric. Invariant: the row at place `i` is always the same and has the number `i + 1`.
"""

from __future__ import annotations

import contextlib
import pickle
import tempfile
import threading
import weakref
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

from gristmill import UsageError
from gristmill_plugins.evaluation._rows import Row

MEMORY_BYTES = 16 << 20
"""What small data take at most: they stay in memory as the bytes that they are."""


class _Spool:
    """A file of rows and where each begins.

    Rows are pickled, which nothing else here is: Parquet has dates and bytes that JSON has not, and a file without a
    name that ends with its process holds nothing foreign.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=MEMORY_BYTES)  # noqa: SIM115  # closed with the last that uses it
        weakref.finalize(self, _let_go, self._file)
        self._starts = array("Q", [0])
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._starts) - 1

    def add(self, data: Mapping[str, Any]) -> None:
        try:
            line = pickle.dumps(dict(data), protocol=pickle.HIGHEST_PROTOCOL)
            with self._lock:
                self._file.seek(self._starts[-1])
                self._file.write(line)
                self._starts.append(self._starts[-1] + len(line))
        except OSError as error:
            raise UsageError(
                f"the rows cannot be kept in {tempfile.gettempdir()}: {error.strerror}",
                hint="make room there, or set TMPDIR to a folder that has it",
            ) from error
        except RecursionError as error:
            raise UsageError(f"row {len(self) + 1} is nested too deeply to be kept", hint="flatten it") from error

    def fetch(self, place: int) -> dict[str, Any]:
        start, end = self._starts[place], self._starts[place + 1]
        with self._lock:
            self._file.seek(start)
            line = self._file.read(end - start)
        data: dict[str, Any] = pickle.loads(line)  # written by `add`
        return data


def _let_go(file: Any) -> None:
    with contextlib.suppress(OSError):  # what did not fit is not written out now either
        file.close()


class Rows(Sequence[Row]):
    """Rows in an order, each read when it is asked for. A row takes 16 bytes of memory, whatever it holds."""

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self._spool = _Spool()
        for data in rows:
            self._spool.add(data)
        self._places = array("Q", range(len(self._spool)))

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> Row | Rows:
        if isinstance(index, slice):
            return self.pick(range(*index.indices(len(self))))
        place = self._places[index]
        return Row(range(len(self))[index] + 1, self._spool.fetch(place))

    def __iter__(self) -> Iterator[Row]:
        for number, place in enumerate(self._places, 1):
            yield Row(number, self._spool.fetch(place))

    def pick(self, order: Iterable[int]) -> Rows:
        """Return some of the rows, in another order, numbered anew; nothing is copied."""
        picked = Rows.__new__(Rows)
        picked._spool = self._spool
        picked._places = array("Q", (self._places[place] for place in order))
        return picked
