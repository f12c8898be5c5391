"""The vectors of one collection in memory, scanned exactly.

It reads no file: the store appends what is new and names what is left. Invariants: row i belongs to record
`numbers[i]`, and numbers rise; a row that is gone or has expired is never returned; scores are float32 dot products
of L2-normalised rows, which are cosines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

_GONE = -np.inf
"""In the place of a row's expiry: it is no longer there."""
_ROOM = 1024


@dataclass(slots=True)
class Stand:
    """How far a matrix follows the file."""

    epoch: int
    deletions: int = 0
    last: int = 0
    """The highest record number that was read."""


class Matrix:
    """Vectors `(n, dim) float32` with the record numbers and the expiry of their rows."""

    def __init__(self, dim: int, epoch: int) -> None:
        self.stand = Stand(epoch)
        self.n = 0
        self._numbers = np.empty(_ROOM, np.int64)
        self._expires = np.empty(_ROOM, np.float64)
        self._rows = np.empty((_ROOM, dim), np.float32)

    @property
    def size_bytes(self) -> int:
        return int(self._rows.nbytes + self._numbers.nbytes + self._expires.nbytes)

    def append(self, numbers: list[int], expires: list[float | None], vectors: bytes) -> None:
        """Add rows; `numbers` rise and are above all that are there."""
        end = self.n + len(numbers)
        if end > len(self._numbers):
            room = max(end, len(self._numbers) * 3 // 2)
            self._numbers, self._expires, self._rows = (
                _grown(array, room, self.n) for array in (self._numbers, self._expires, self._rows)
            )
        self._numbers[self.n : end] = numbers
        self._expires[self.n : end] = [np.inf if when is None else when for when in expires]
        self._rows[self.n : end] = np.frombuffer(vectors, np.float32).reshape(len(numbers), -1)
        self.n = end
        self.stand.last = numbers[-1]

    def keep(self, alive: np.ndarray[Any, Any]) -> None:
        """Forget the rows of records that are not among `alive`, `(n,) int64` and rising."""
        gone = ~_among(self._numbers[: self.n], alive)
        self._expires[: self.n][gone] = _GONE
        dead = self._expires[: self.n] == _GONE
        if int(dead.sum()) * 4 > self.n:
            kept = np.flatnonzero(~dead)
            for array in (self._numbers, self._expires, self._rows):
                array[: len(kept)] = array[kept]
            self.n = len(kept)

    def scores(self, vector: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return `(n,) float32`: the cosine of every row to `vector`."""
        # Not `@`: its BLAS threads wait for one another on a busy machine (12 ms at 100,000 rows beside seven other
        # processes, 4 ms alone); this takes 3.4 ms in one thread either way, about what reading the rows takes.
        return np.asarray(np.einsum("ij,j->i", self._rows[: self.n], vector))

    def top(
        self, scores: np.ndarray[Any, Any], n: int, now: float, allowed: np.ndarray[Any, Any] | None
    ) -> dict[int, float]:
        """Return number to score of the `n` best, best first and ties by number; `allowed` are rising numbers."""
        hidden = self._expires[: self.n] <= now
        if allowed is not None:
            hidden |= ~_among(self._numbers[: self.n], allowed)
        scores = np.where(hidden, np.float32(-np.inf), scores)
        if n < len(scores):
            worst = np.partition(scores, len(scores) - n)[len(scores) - n]
            found = np.flatnonzero(scores >= worst)
        else:
            found = np.arange(len(scores))
        found = found[scores[found] > -np.inf]
        found = found[np.lexsort((found, -scores[found]))[:n]]
        return dict(zip(self._numbers[found].tolist(), scores[found].tolist(), strict=True))

    def row_of(self, number: int) -> int | None:
        """Return where a record's vector is."""
        row = int(np.searchsorted(self._numbers[: self.n], number))
        return row if row < self.n and self._numbers[row] == number else None

    def vector(self, row: int) -> np.ndarray[Any, Any]:
        """Return a copy of one row: the matrix moves on."""
        return np.array(self._rows[row])


def _grown(array: np.ndarray[Any, Any], room: int, n: int) -> np.ndarray[Any, Any]:
    larger = np.empty((room, *array.shape[1:]), array.dtype)
    larger[:n] = array[:n]
    return larger


def _among(numbers: np.ndarray[Any, Any], allowed: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return for each of the rising `numbers` whether it is among the rising `allowed`."""
    if not len(allowed):
        return np.zeros(len(numbers), bool)
    places = np.searchsorted(allowed, numbers)
    places[places == len(allowed)] = 0
    return np.asarray(allowed[places] == numbers)
