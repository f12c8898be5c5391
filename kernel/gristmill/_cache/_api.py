"""The prompt cache: an exact answer for an exact request, kept in one SQLite file through diskcache.

It does not know what a request or a completion is: the caller builds a key from everything that can change the
answer (`cache_key`, `KeyPrefix`) and stores JSON data under it. It never matches by likeness.

Invariants. What `get` returns is what `set` was given, checked against a checksum, or MISS. No file, however it
came to be, runs code or stops a run: a cache that is broken, full, locked or read-only is a miss, and one
`CacheWarning` for each kind of trouble (through `warnings.warn`, so filters and `catch_warnings` apply). Corrupt
files are moved aside, never deleted. Any number of processes may share a directory, which belongs to the cache
and is made private (0700); two that ask for the same key at once may both compute it.

How it stays fast: a hit is one `stat`, one SELECT, one checksum and one JSON decode. diskcache is imported at
the first write, so a run answered from the cache never loads it.
"""

from __future__ import annotations

import enum
import os
import sqlite3
import time
import warnings
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from gristmill._cache import _file as file
from gristmill._errors import UsageError

if TYPE_CHECKING:
    from gristmill._cache._disk import Store
    from gristmill._cache._verify import VerifyReport
    from gristmill._single_flight import Answer

DEFAULT_SIZE_LIMIT_BYTES = 2 * 2**30
READ_TIMEOUT_S = 0.25
"""Readers wait only for another process's recovery after a crash; an answer not found by then is computed."""
WRITE_TIMEOUT_S = 5.0
"""Writers queue for one lock; four processes writing without pause were measured to wait well under a second."""
MOST_TOUCHED = 256
MOST_TRIES = 3
"""Of a write, each after another process took the file away or a corrupt one was moved aside."""


class CacheWarning(UserWarning):
    """The prompt cache cannot do its work; answers are computed instead."""


class Miss(enum.Enum):
    """The type of MISS, which is no value that can be stored."""

    MISS = "miss"

    def __bool__(self) -> Literal[False]:
        return False

    def __repr__(self) -> str:
        return "MISS"


MISS: Final = Miss.MISS


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What is in the cache, and what this process asked of it."""

    entries: int = 0
    size_bytes: int = 0
    """On disk, the write-ahead log included."""
    oldest: float | None = None
    """When the oldest entry was stored, in seconds since the epoch."""
    newest: float | None = None
    hits: int = 0
    misses: int = 0
    damaged: int = 0
    """Entries that this process found and did not use, because they were not whole."""
    quarantined: tuple[Path, ...] = ()
    """Files with what was moved aside; `clear` deletes them."""


def _keep_all(_: Any) -> bool:
    return True


class PromptCache:
    """A directory of answers. Making one is cheap: nothing is opened, made or imported before its first use.

    Safe to use from several threads and processes; after a fork, parent and child each go on with their own
    connections. Eviction drops the entries used least recently, to the hour, once `size_limit_bytes` are in use;
    an entry older than `expire_s` is a miss.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        size_limit_bytes: int = DEFAULT_SIZE_LIMIT_BYTES,
        expire_s: float | None = None,
        read_only: bool = False,
    ) -> None:
        """Name the directory.

        Raises:
            UsageError: a limit that is not positive.
        """
        if size_limit_bytes <= 0:
            raise UsageError(f"size_limit_bytes must be positive, not {size_limit_bytes!r}")
        if expire_s is not None and not expire_s > 0:
            raise UsageError(f"expire_s must be positive, or None to keep entries, not {expire_s!r}")
        self.directory = Path(directory).absolute()
        self.read_only = read_only
        self._path = str(self.directory / "cache.db")
        self._size_limit_bytes = size_limit_bytes
        self._expire_s = expire_s
        self._hits = self._misses = self._damaged = 0
        self._warned: set[str] = set()
        self._touched: dict[str, float] = {}
        self._inherited: list[Any] = []
        self._flights: Any = None
        self._pid = 0
        self._sides: tuple[file.Held[sqlite3.Connection], file.Held[Store]]
        self._own_sides()

    def _own_sides(self) -> tuple[file.Held[sqlite3.Connection], file.Held[Store]]:
        if self._pid != os.getpid():
            # SQLite forbids even to close a connection that came through a fork, and a lock may be held by a thread
            # that did not come through. What was inherited is kept, unused.
            if self._pid:
                self._inherited.append(self._sides)
            self._sides = (file.Held(self._path, self._open_reader), file.Held(self._path, self._open_writer))
            self._pid = os.getpid()
        return self._sides

    def get(self, key: str) -> Any | Miss:
        """Return the value stored under `key`, or MISS."""
        return self.get_many((key,))[0]

    def get_many(self, keys: Sequence[str]) -> list[Any | Miss]:
        """Return the value or MISS for each of `keys`, in their order."""
        reader, _ = self._own_sides()
        with reader.lock:
            hits = self._hits
            try:
                connection = reader.current()
                now = time.time()
                values = [MISS if connection is None else self._entry(connection, key, now) for key in keys]
            except FileNotFoundError:
                reader.close()
                values = [MISS] * len(keys)
            except file.TROUBLE as error:
                self._reading_failed(reader, error)
                values = [MISS] * len(keys)
                self._hits = hits
            self._misses += len(values) - (self._hits - hits)
        return values

    def _entry(self, connection: sqlite3.Connection, key: str, now: float) -> Any | Miss:
        row = connection.execute(file.SELECT_ENTRY, (now, key, now)).fetchone()
        if row is None:
            return MISS
        mode, data, stale = row
        try:
            value = file.unpack(key, mode, data)
        except ValueError as error:
            self._damaged += 1
            self._warn("entry", f"an entry is damaged and was not used ({error}); `gristmill cache verify` removes it")
            return MISS
        self._hits += 1
        if stale and not self.read_only:
            self._touched[key] = now
            if len(self._touched) >= MOST_TOUCHED:
                self._note_uses(connection)
        return value

    def set(self, key: str, value: Any) -> bool:
        """Store JSON data under `key`; return whether it is kept. Once True is returned it survives `kill -9`.

        Raises:
            UsageError: `value` is not JSON data.
        """
        return self.set_many([(key, value)])

    def set_many(self, pairs: Iterable[tuple[str, Any]]) -> bool:
        """Store several values in one transaction; return whether they are kept, all of them or none."""
        entries = [(key, file.pack(key, value)) for key, value in pairs]
        if self.read_only:
            return False
        _, writer = self._own_sides()
        with writer.lock:
            return any(
                self._write(writer, entries, last_try=attempt == MOST_TRIES) for attempt in range(1, MOST_TRIES + 1)
            )

    def _write(self, writer: file.Held[Store], entries: Sequence[tuple[str, bytes]], *, last_try: bool) -> bool:
        if writer.paused:
            return False
        try:
            self._make_file()
            if (store := writer.current()) is not None:
                store.write(entries, self._expire_s)
                return True
        except file.TROUBLE as error:
            writer.close()
            if last_try or not self._may_begin_anew(error, writer.identity):
                writer.pause()
                self._warn("write", f"it cannot be written ({error}); new answers are not kept")
        return False

    async def get_or_compute(
        self, key: str, compute: Callable[[], Awaitable[Any]], *, keep: Callable[[Any], bool] = _keep_all
    ) -> Answer:
        """Return the answer of `key`, computing and storing it when it is missing; see `get_or_compute_many`."""

        async def compute_one(_: Sequence[str]) -> list[Any]:
            return [await compute()]

        return (await self.get_or_compute_many([key], compute_one, keep=keep))[0]

    async def get_or_compute_many(
        self,
        keys: Sequence[str],
        compute: Callable[[Sequence[str]], Awaitable[Sequence[Any]]],
        *,
        keep: Callable[[Any], bool] = _keep_all,
    ) -> list[Answer]:
        """Return an answer for each key. `compute` is given the distinct keys that are missing, all at once.

        Tasks of one event loop that ask for the same key at the same time compute it once. An error reaches all
        who wait for that computation and is not stored; when the task that computes is cancelled, one of the
        others takes over. `keep` says which values to store. Values are shared: do not change them.
        """
        import asyncio  # not needed to open, read, count or clear a cache

        from gristmill._single_flight import SingleFlight

        async def store(computed: Mapping[str, Any]) -> None:
            # In a thread: 40 µs as a rule, but WRITE_TIMEOUT_S when another process holds the lock.
            if kept := [(key, value) for key, value in computed.items() if keep(value)]:
                await asyncio.to_thread(self.set_many, kept)

        if self._flights is None:
            self._flights = SingleFlight()
        answers = await self._flights.run(keys, self._found, compute, store)
        return [answers[key] for key in keys]

    def _found(self, keys: Sequence[str]) -> dict[str, Any]:
        values = zip(keys, self.get_many(keys), strict=True)
        return {key: value for key, value in values if value is not MISS}

    def stats(self) -> CacheStats:
        """Return counts; those of the whole cache take some 40 ms at 100,000 entries."""
        row: Sequence[Any] = (0, None, None)
        reader, _ = self._own_sides()
        with reader.lock:
            try:
                if connection := reader.current():
                    row = connection.execute("SELECT count(*), min(store_time), max(store_time) FROM Cache").fetchone()
            except FileNotFoundError:
                pass
            except file.TROUBLE as error:
                self._reading_failed(reader, error)
        size = sum(os.path.getsize(path) for path in (self._path, f"{self._path}-wal") if os.path.exists(path))
        aside = tuple(file.set_aside(self._path))
        return CacheStats(row[0], size, row[1], row[2], self._hits, self._misses, self._damaged, aside)

    def verify(self) -> VerifyReport:
        """Check every entry; move damaged ones, or a damaged file as a whole, aside. Read-only, it only reports."""
        from gristmill._cache._verify import verify_file

        return verify_file(self._path, read_only=self.read_only, timeout_s=WRITE_TIMEOUT_S)

    def clear(self) -> int:
        """Delete every entry and everything that was moved aside; return how many entries there were.

        Raises:
            UsageError: the cache is read-only, or its files cannot be deleted.
        """
        if self.read_only:
            raise UsageError(f"the cache in {self.directory} was opened read-only and cannot be cleared")
        reader, writer = self._own_sides()
        n_entries = 0
        with writer.lock, reader.lock:
            self._touched.clear()
            try:
                try:
                    if connection := reader.current():
                        n_entries = file.empty(connection)
                except FileNotFoundError:
                    pass
                except file.TROUBLE:
                    # Corrupt, or on a full disk, where even DELETE needs room: the files go instead. Entries that
                    # another process is storing at this moment go with them.
                    writer.close()
                    reader.close()
                    file.remove(self._path)
                for quarantined in file.set_aside(self._path):
                    quarantined.unlink(missing_ok=True)
            except OSError as error:
                raise UsageError(f"the cache in {self.directory} cannot be cleared: {error}") from error
        return n_entries

    def close(self) -> None:
        """Close the connections; idempotent. A later call opens them again."""
        reader, writer = self._own_sides()
        with writer.lock, reader.lock:
            writer.close()
            if reader.held is not None:
                self._note_uses(reader.held)
            reader.close()

    def __enter__(self) -> PromptCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_reader(self) -> sqlite3.Connection | None:
        return file.open_reader(self._path, read_only=self.read_only, timeout_s=READ_TIMEOUT_S)

    def _open_writer(self) -> Store:
        from gristmill._cache._disk import Store

        # diskcache would take over whatever file it finds; ours looks first and refuses what is not a cache.
        if reader := file.open_reader(self._path, read_only=False, timeout_s=WRITE_TIMEOUT_S):
            reader.close()
        return Store(
            self._path, str(self.directory), size_limit_bytes=self._size_limit_bytes, timeout_s=WRITE_TIMEOUT_S
        )

    def _make_file(self) -> None:
        if not os.path.exists(self._path):
            os.makedirs(self.directory, mode=0o700, exist_ok=True)
            with suppress(PermissionError):  # someone else's directory: the file is private all the same
                os.chmod(self.directory, 0o700)
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))

    def _note_uses(self, connection: sqlite3.Connection) -> None:
        if self._touched:
            times, self._touched = self._touched, {}
            file.touch(connection, times)

    def _reading_failed(self, reader: file.Held[sqlite3.Connection], error: Exception) -> None:
        reader.close()
        if self._may_begin_anew(error, reader.identity):
            return
        if file.primary_code(error) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            reader.pause()
        self._warn("read", f"it cannot be read ({error}); answers are computed")

    def _may_begin_anew(self, error: Exception, identity: tuple[int, int]) -> bool:
        """Return whether the file that failed is out of the way; a corrupt one is moved, unless read-only."""
        try:
            if file.is_corrupt(error) and not self.read_only and (target := file.move_aside(self._path, identity)):
                text = f"the file is damaged ({error}); it is now {target.name} and a new one is begun"
                self._warn(target.name, text)
            return file.is_replaced(self._path, identity)
        except OSError:
            return False

    def _warn(self, kind: str, text: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(f"prompt cache {self.directory}: {text}", CacheWarning, stacklevel=3)
