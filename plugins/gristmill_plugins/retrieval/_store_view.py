"""What a search holds of an index in memory: its vectors, and which chunks a filter allows.

It reads the index and ranks nothing. Invariant: what it returns is of the generation that the connection sees, whatever
was in memory before.
"""

from __future__ import annotations

import json
import sqlite3
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gristmill_plugins.retrieval._search_filter import Filter
from gristmill_plugins.retrieval._store import Stand

if TYPE_CHECKING:
    import numpy as np

    from gristmill.ranking import Matrix

_FILTERS_KEPT = 32


class View:
    """The vectors of one index, brought up to date before each search."""

    def __init__(self) -> None:
        self._matrix: Matrix | None = None
        self._at: tuple[int, int] | None = None
        self._filters: OrderedDict[str, np.ndarray] = OrderedDict()

    def matrix(self, connection: sqlite3.Connection, stand: Stand) -> Matrix | None:
        """Return the published vectors; None if there are none."""
        self._follow(connection, stand)
        return self._matrix

    def allowed(self, connection: sqlite3.Connection, stand: Stand, where: Mapping[str, Any]) -> np.ndarray | None:
        """Return the numbers of the chunks that a filter allows, `(n,) int64` and rising; None if it allows all.

        The first search with a filter reads all metadata (0.2 s at 100,000 chunks), the next ones none.
        """
        if not where:
            return None
        import numpy as np

        self._follow(connection, stand)
        key = json.dumps(where, sort_keys=True, default=str)
        if key not in self._filters:
            allows = Filter(where).allows
            rows = connection.execute(
                "SELECT chunks.number, path, metadata FROM chunks JOIN files USING (version)"
                " WHERE chunks.number <= ? ORDER BY chunks.number",
                (stand.watermark,),
            )
            found = (number for number, path, metadata in rows if allows({**json.loads(metadata), "path": path}))
            self._filters[key] = np.fromiter(found, np.int64)
        self._filters.move_to_end(key)
        while len(self._filters) > _FILTERS_KEPT:
            self._filters.popitem(last=False)
        return self._filters[key]

    def _follow(self, connection: sqlite3.Connection, stand: Stand) -> None:
        at = (stand.epoch, stand.generation)
        if at == self._at:
            return
        self._filters.clear()
        self._matrix = self._loaded(connection, stand)
        self._at = at

    def _loaded(self, connection: sqlite3.Connection, stand: Stand) -> Matrix | None:
        if stand.dim is None:
            return None
        import numpy as np

        from gristmill.ranking import Matrix

        matrix = self._matrix
        if matrix is None or matrix.stand.epoch != stand.epoch:
            matrix = Matrix(stand.dim, stand.epoch)
        alive = connection.execute("SELECT number FROM chunks WHERE number <= ? ORDER BY number", (stand.watermark,))
        numbers_alive = np.fromiter((number for (number,) in alive), np.int64)
        blocks = connection.execute(
            "SELECT numbers, rows FROM vectors WHERE first > ? AND first <= ? ORDER BY first",
            (matrix.stand.last, stand.watermark),
        )
        for numbers_blob, rows_blob in blocks:
            numbers = np.frombuffer(numbers_blob, np.int64)
            used = np.isin(numbers, numbers_alive, assume_unique=True)
            if used.all():
                matrix.append(numbers.tolist(), [None] * len(numbers), rows_blob)
            elif used.any():
                rows = np.frombuffer(rows_blob, np.float32).reshape(len(numbers), -1)[used]
                matrix.append(numbers[used].tolist(), [None] * len(rows), rows.tobytes())
        matrix.keep(numbers_alive)
        return matrix
