"""An index: what is in it, what is being added, and how the new takes the place of the old.

Work is staged first: chunks and vectors are written above the watermark, where no search sees them, a batch a
transaction. `publish` then makes them the next generation in one transaction. Invariants: a search sees one generation,
whole; what was staged and not published is used again by the next writer and never embedded twice; the words of FTS5
are those of the published chunks. It embeds nothing and ranks nothing.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gristmill.sqlite import explained, transaction
from gristmill_plugins.retrieval._store_file import INDEX_NAME, TOLD, open_index, reading

if TYPE_CHECKING:
    import numpy as np

INDEXED = "CASE context WHEN '' THEN text ELSE context || char(10) || text END"
"""What of a chunk is matched by words. FTS5 keeps no copy, so a chunk that goes must be taken out by the same text."""
_UNUSED_SHARE = 0.25
"""Vectors are packed anew when more than this share belongs to no chunk."""


@dataclass(frozen=True, slots=True)
class Stand:
    """Which generation an index is at, and how it was made."""

    generation: int = 0
    watermark: int = 0
    """The highest number of a published chunk."""
    epoch: int = 0
    """Changes when vectors that were read before may have moved."""
    fingerprint: str | None = None
    """The embedder's; None before the first generation, and where there are no vectors."""
    dim: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    documents: tuple[str, ...] = ()
    state: int = 0
    """Changes with anything that is published or noted: equal states have equal stands and files."""


class FileRow(NamedTuple):
    """A file of the generation. `problem` says why it could not be read, if it could not."""

    version: int
    size_bytes: int
    modified_ns: int
    problem: str | None = None


class StagedChunk(NamedTuple):
    """A chunk of a version, with the digest of what is embedded for it and by what."""

    version: int
    place: int
    """Order within the file."""
    part: int
    start: int
    """Character offset within the part."""
    gap: str
    """White space between the chunk before, of the same part, and this one."""
    digest: str
    context: str
    text: str
    metadata: str
    """JSON."""


class IndexFile:
    """One index in one folder. Readers need no lock; what writes is called by the holder of `only_writer`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._finalizer: Callable[[], Any] = lambda: None
        self._known: tuple[Stand, dict[str, FileRow]] = (Stand(), {})

    @contextmanager
    def _open(self, *, make: bool = False) -> Iterator[sqlite3.Connection | None]:
        path = self.folder / INDEX_NAME
        with self._lock, explained(path, TOLD):
            try:
                status = path.stat()
                identity = (status.st_dev, status.st_ino)
            except FileNotFoundError:
                identity = None
            if self._connection is None or identity != self._identity:
                self._close()  # it was deleted, or is another file
                self._connection = open_index(self.folder, make=make)
                if self._connection is not None:
                    status = path.stat()
                    self._identity = (status.st_dev, status.st_ino)
                    self._finalizer = weakref.finalize(self, self._connection.close)
            yield self._connection

    def _close(self) -> None:
        self._connection = self._identity = None
        self._finalizer()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._open(make=True) as connection:
            assert connection is not None
            with transaction(connection):
                yield connection

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection | None]:
        """Read one state of the index; None where there is none."""
        with self._open() as connection:
            if connection is None:
                yield None
                return
            with reading(connection):
                yield connection

    def close(self) -> None:
        """Let go of the file; the next use opens it again."""
        with self._lock:
            self._close()

    def stand(self) -> Stand:
        """Return which generation is published."""
        return self.current()[0]

    def known(self) -> tuple[Stand, Mapping[str, FileRow]]:
        """Return what `current` returned last, without looking."""
        return self._known

    def current(self) -> tuple[Stand, Mapping[str, FileRow]]:
        """Return which generation is published, and its files; they are read again only when they changed."""
        with self.reading() as connection:
            return (Stand(), {}) if connection is None else self.current_in(connection)

    def current_in(self, connection: sqlite3.Connection) -> tuple[Stand, Mapping[str, FileRow]]:
        """Return what `current` does, as the transaction sees it. The caller is `reading`."""
        row = connection.execute("SELECT value FROM facts WHERE key = 'state'").fetchone()
        if row is None:
            return Stand(), {}
        if int(row[0]) != self._known[0].state:
            rows = connection.execute(
                "SELECT files.path, version, size_bytes, modified_ns, problem FROM files"
                " JOIN versions ON versions.number = version"
            )
            self._known = read_stand(connection), {path: FileRow(*rest) for path, *rest in rows}
        return self._known

    def count(self) -> tuple[int, int]:
        """Return how many files that could be read, and how many chunks, the generation has."""
        with self.reading() as connection:
            if connection is None:
                return 0, 0
            n_files = connection.execute(
                "SELECT count(*) FROM files JOIN versions ON versions.number = version WHERE problem IS NULL"
            ).fetchone()[0]
            watermark = self.current_in(connection)[0].watermark
            n_chunks = connection.execute("SELECT count(*) FROM chunks WHERE number <= ?", (watermark,)).fetchone()[0]
            return int(n_files), int(n_chunks)

    def find_version(self, path: str, digest: str) -> int | None:
        """Return the version of a file in this state if all its chunks are there, published or not."""
        with self.reading() as connection:
            if connection is None:
                return None
            row = connection.execute(
                "SELECT number FROM versions WHERE path = ? AND digest = ? AND complete AND problem IS NULL",
                (path, digest),
            ).fetchone()
            return int(row[0]) if row else None

    def begin_version(self, path: str, digest: str, problem: str | None = None) -> int:
        """Return a new version of a file, to which chunks are staged; none are where there is a problem."""
        with self._writing() as connection:
            number = connection.execute(
                "INSERT INTO versions (path, digest, complete, problem) VALUES (?, ?, ?, ?)",
                (path, digest, problem is not None, problem),
            ).lastrowid
            assert number is not None
            return number

    def stage(self, chunks: Sequence[StagedChunk], rows: np.ndarray | None, complete: Sequence[int]) -> None:
        """Write chunks with their vectors `(n, dim) float32`, all or none; they survive `kill -9` from here on.

        `complete` are the versions that have all their chunks now.
        """
        import numpy as np

        with self._writing() as connection:
            if chunks:
                last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'chunks'").fetchone()
                first = (last[0] if last else 0) + 1
                connection.executemany(
                    "INSERT INTO chunks (number, version, place, part, start, gap, digest, context, text, metadata)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    ((number, *chunk) for number, chunk in enumerate(chunks, start=first)),
                )
                if rows is not None:
                    numbers = np.arange(first, first + len(chunks), dtype=np.int64)
                    _insert_block(connection, numbers, np.ascontiguousarray(rows, np.float32))
            connection.executemany("UPDATE versions SET complete = 1 WHERE number = ?", [(n,) for n in complete])

    def vectors_of(self, digests: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the vector of each digest that was embedded before, published or only staged."""
        with self.reading() as connection:
            if connection is None:
                return {}
            found = connection.execute(
                "SELECT digest, max(number) FROM chunks WHERE digest IN (SELECT value FROM json_each(?))"
                " GROUP BY digest ORDER BY 2",
                (json.dumps(list(digests)),),
            ).fetchall()
            return dict(_rows_of(connection, found)) if found else {}

    def digests(self) -> dict[str, tuple[int, str]]:
        """Return for each file of the generation its version and the digest of that version."""
        with self.reading() as connection:
            if connection is None:
                return {}
            rows = connection.execute(
                "SELECT files.path, version, digest FROM files JOIN versions ON versions.number = version"
                " WHERE problem IS NULL"
            )
            return {path: (version, digest) for path, version, digest in rows}

    def chunks_of(self, version: int, first_place: int, n: int) -> list[tuple[StagedChunk, np.ndarray]]:
        """Return `n` chunks of a version, from a place on, each with its vector."""
        with self.reading() as connection:
            if connection is None:
                return []
            rows = connection.execute(
                "SELECT number, version, place, part, start, gap, digest, context, text, metadata FROM chunks"
                " WHERE version = ? AND place >= ? ORDER BY place LIMIT ?",
                (version, first_place, n),
            ).fetchall()
            by_number = [(str(number), number) for number, *_ in rows]
            vectors = dict(_rows_of(connection, by_number))
            return [(StagedChunk(*rest), vectors[str(number)]) for number, *rest in rows]

    def publish(self, files: Mapping[str, FileRow], stand: Stand) -> Stand:
        """Make these files, whose versions are complete, the next generation, in one transaction; return its stand.

        What of older versions, and of what was staged and is not wanted, is deleted in the same transaction.
        """
        with self._writing() as connection:
            before = read_stand(connection)
            connection.execute("DELETE FROM files")
            rows = [(path, row.version, row.size_bytes, row.modified_ns) for path, row in files.items()]
            connection.executemany("INSERT INTO files VALUES (?, ?, ?, ?)", rows)
            gone = _forget_others(connection, before.watermark)
            connection.execute(
                f"INSERT INTO words (rowid, text)"
                f" SELECT number, {INDEXED} FROM chunks WHERE number > ? ORDER BY number",
                (before.watermark,),
            )
            if _is_mostly_new(connection, before.watermark):
                connection.execute("INSERT INTO words (words) VALUES ('optimize')")  # searches are a sixth faster
            moved = gone and _pack(connection)
            watermark = connection.execute("SELECT coalesce(max(number), 0) FROM chunks").fetchone()[0]
            after = Stand(
                generation=before.generation + 1,
                watermark=max(watermark, before.watermark),
                epoch=before.epoch if before.epoch and not moved else _new_state(),
                fingerprint=stand.fingerprint, dim=_dim(connection), options=stand.options, documents=stand.documents,
                state=_new_state(),
            )  # fmt: skip
            _write_stand(connection, after)
        with self._open() as connection:
            assert connection is not None
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # where a reader is in the way, the next one does it
        return after

    def touch(self, files: Mapping[str, FileRow]) -> None:
        """Note new sizes and times of files whose content is the same."""
        with self._writing() as connection:
            connection.executemany(
                "UPDATE files SET size_bytes = ?, modified_ns = ? WHERE path = ?",
                [(row.size_bytes, row.modified_ns, path) for path, row in files.items()],
            )
            connection.execute("UPDATE facts SET value = ? WHERE key = 'state'", (str(_new_state()),))


def _new_state() -> int:
    return secrets.randbits(60) | 1


def read_stand(connection: sqlite3.Connection) -> Stand:
    """Return which generation is published."""
    facts = {key: json.loads(value) for key, value in connection.execute("SELECT key, value FROM facts")}
    if "documents" in facts:
        facts["documents"] = tuple(facts["documents"])
    return Stand(**facts)


def _write_stand(connection: sqlite3.Connection, stand: Stand) -> None:
    facts = {name: getattr(stand, name) for name in Stand.__slots__}
    connection.executemany(
        "INSERT OR REPLACE INTO facts VALUES (?, ?)", [(key, json.dumps(value)) for key, value in facts.items()]
    )


def _is_mostly_new(connection: sqlite3.Connection, watermark: int) -> bool:
    counted = "SELECT count(*), coalesce(sum(number > ?), 0) FROM chunks"
    n, n_new = connection.execute(counted, (watermark,)).fetchone()
    return bool(2 * n_new > n)


def _forget_others(connection: sqlite3.Connection, watermark: int) -> bool:
    """Delete the chunks of versions that no file of the generation has; return whether there were any."""
    others = "version NOT IN (SELECT version FROM files)"
    connection.execute(
        f"INSERT INTO words (words, rowid, text) SELECT 'delete', number, {INDEXED} FROM chunks"
        f" WHERE number <= ? AND {others}",
        (watermark,),
    )
    n = connection.execute(f"DELETE FROM chunks WHERE {others}").rowcount
    connection.execute("DELETE FROM versions WHERE number NOT IN (SELECT version FROM files)")
    return n > 0


def _insert_block(connection: sqlite3.Connection, numbers: np.ndarray, rows: np.ndarray) -> None:
    connection.execute("INSERT INTO vectors VALUES (?, ?, ?)", (int(numbers[0]), numbers.tobytes(), rows.tobytes()))


def _dim(connection: sqlite3.Connection) -> int | None:
    row = connection.execute(
        "SELECT length(rows) / 4 / (length(numbers) / 8) FROM vectors ORDER BY first DESC LIMIT 1"
    ).fetchone()
    return int(row[0]) if row else None


def _pack(connection: sqlite3.Connection) -> bool:
    """Drop blocks of which no row is used, and pack all anew if many rows are not; return whether rows moved."""
    import numpy as np

    alive = np.fromiter((n for (n,) in connection.execute("SELECT number FROM chunks ORDER BY number")), np.int64)
    blocks = [
        (first, np.isin(np.frombuffer(numbers, np.int64), alive, assume_unique=True))
        for first, numbers in connection.execute("SELECT first, numbers FROM vectors")
    ]
    for first, used in blocks:
        if not used.any():
            connection.execute("DELETE FROM vectors WHERE first = ?", (first,))
    blocks = [(first, used) for first, used in blocks if used.any()]
    if sum(int((~used).sum()) for _, used in blocks) <= _UNUSED_SHARE * sum(len(used) for _, used in blocks):
        return False
    for first, used in blocks:
        numbers, rows = connection.execute("SELECT numbers, rows FROM vectors WHERE first = ?", (first,)).fetchone()
        connection.execute("DELETE FROM vectors WHERE first = ?", (first,))
        kept = np.frombuffer(numbers, np.int64)[used]
        _insert_block(connection, kept, np.frombuffer(rows, np.float32).reshape(len(used), -1)[used])
    return True


def _rows_of(connection: sqlite3.Connection, found: Sequence[tuple[str, int]]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the vector of each digest, its chunk's number given and rising, reading each block once."""
    import numpy as np

    firsts = [first for (first,) in connection.execute("SELECT first FROM vectors ORDER BY first")]
    opened, numbers, rows = -1, np.empty(0, np.int64), np.empty((0, 0), np.float32)
    for digest, number in found:
        block = bisect_right(firsts, number) - 1
        if block < 0:
            continue
        if block != opened:
            blobs = connection.execute("SELECT numbers, rows FROM vectors WHERE first = ?", (firsts[block],)).fetchone()
            numbers = np.frombuffer(blobs[0], np.int64)
            opened, rows = block, np.frombuffer(blobs[1], np.float32).reshape(len(numbers), -1)
        place = int(np.searchsorted(numbers, number))
        if place < len(numbers) and numbers[place] == number:
            yield digest, rows[place]
