"""One indexing run: what changed is read, split, embedded and staged, and then all of it is published at once.

Files are told apart by content; size and time only say where to look. Invariants: until `publish`, every search sees
the old generation; a file's chunks are embedded only where no chunk with the same words and the same embedder was
embedded before; whatever ends the run, the next one goes on from the last batch that was staged.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from gristmill import FunctionError
from gristmill_plugins.retrieval._chunks import Chunker
from gristmill_plugins.retrieval._index_chunks import Splitting, embedded_text
from gristmill_plugins.retrieval._index_progress import Progress
from gristmill_plugins.retrieval._index_walk import Found, Source
from gristmill_plugins.retrieval._readers import Part, read_file
from gristmill_plugins.retrieval._store import FileRow, IndexFile, StagedChunk, Stand

if TYPE_CHECKING:
    import numpy as np

FORMAT = 1
"""Raised when the same file and options give other chunks, so that all are made anew."""
BATCH = 512
"""Chunks that are embedded and staged together: what a kill can cost."""
_STAMP_TELLS_NS = 2 * 10**9
"""A file that changed this recently may change again within the tick of its clock."""
OnError = Literal["skip", "stop"]
P = ParamSpec("P")
R = TypeVar("R")
Embed = Callable[[Sequence[str]], Awaitable["np.ndarray"]]


@dataclass(frozen=True, slots=True)
class Plan:
    """All that decides what an index is made of, beside the files."""

    embed: Embed | None
    """None where passages are found by words alone."""
    chunker: Chunker
    readers: Mapping[str, Any]
    """Ending to LlamaIndex reader, for those that are read by a registered one."""
    on_error: OnError
    stand: Stand
    """The embedder and the options of the new generation; its numbers are set when it is published."""


@dataclass(slots=True)
class Tally:
    """What a run did."""

    n_embedded: int = 0
    n_reused: int = 0
    """Chunks whose vectors were there, of files that were read."""
    n_removed: int = 0
    """Files that were in the index and are gone."""
    generation: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)


class Build:
    """One run over the files that were found."""

    def __init__(self, index: IndexFile, plan: Plan, found: Found, note: Callable[[str], None]) -> None:
        self.index = index
        self.plan = plan
        self.found = found
        self.tally = Tally(skipped=list(found.skipped))
        self._note = note
        self._settings = json.dumps([FORMAT, plan.stand.fingerprint, plan.stand.options], sort_keys=True)
        self._batch: list[StagedChunk] = []
        self._complete: list[int] = []

    def changed(self, before: Stand, rows: Mapping[str, FileRow], *, again: bool) -> list[Source]:
        """Return the files that may differ from the generation's; with `again` also those that could not be read."""
        return changed_files(self.found, rows, again=again) if self._made_alike(before) else self.found.sources

    async def run(self, before: Stand, rows: Mapping[str, FileRow], changed: Sequence[Source]) -> Stand:
        """Bring the index up to date, and return where it stands.

        Raises:
            FunctionError: a file cannot be read and `on_error` is "stop"; nothing was published.
        """
        wanted = {source.path for source in changed}
        files = {s.path: rows[s.path] for s in self.found.sources if s.path not in wanted}
        self.tally.n_removed = len(rows.keys() - {source.path for source in self.found.sources})
        progress = Progress(self._note, len(changed), sum(source.size_bytes for source in changed))
        for source in changed:
            files[source.path] = await self._file(source, progress)
            progress.file_done(source.size_bytes)
        await self._flush()
        if self._is_published(before, rows, files):
            await _to_the_end(self.index.touch, {p: row for p, row in files.items() if row != rows[p]})
            return before
        progress.publishing()
        return await _to_the_end(self.index.publish, files, self.plan.stand)

    def _is_published(self, before: Stand, rows: Mapping[str, FileRow], files: Mapping[str, FileRow]) -> bool:
        """Tell whether the published generation holds just these versions, made in this way."""
        versions = {path: row.version for path, row in files.items()}
        return self._made_alike(before) and versions == {path: row.version for path, row in rows.items()}

    def _made_alike(self, before: Stand) -> bool:
        stand = self.plan.stand
        return bool(before.generation) and (before.fingerprint, before.options) == (stand.fingerprint, stand.options)

    async def _file(self, source: Source, progress: Progress) -> FileRow:
        """Return the row of a file, its chunks staged or in the batch."""
        modified_ns = source.modified_ns if time.time_ns() - source.modified_ns > _STAMP_TELLS_NS else -1
        try:
            digest = await asyncio.to_thread(self._digest, source.file)
            version = await asyncio.to_thread(self.index.find_version, source.path, digest)
            if version is None:
                parts = await asyncio.to_thread(read_file, source.file, self.plan.readers)
                version = await _to_the_end(self.index.begin_version, source.path, digest)
                await self._stage_parts(version, parts, source, progress)
            return FileRow(version, source.size_bytes, modified_ns)
        except (FunctionError, OSError) as error:
            told = error.message if isinstance(error, FunctionError) else f"it cannot be read: {error.strerror}"
            if self.plan.on_error == "stop":
                raise FunctionError(f"{source.path}: {told}", hint="mend it, or on_error: skip") from error
            self.tally.skipped.append((source.path, told))
            self._note(f"skipped {source.path}: {told}")
            version = await _to_the_end(self.index.begin_version, source.path, "", told)
            return FileRow(version, source.size_bytes, modified_ns, told)

    def _digest(self, file: Path) -> str:
        with file.open("rb") as opened:
            content = hashlib.file_digest(opened, "sha256").hexdigest()
        return hashlib.sha256(f"{content} {self._settings}".encode()).hexdigest()

    async def _stage_parts(self, version: int, parts: Sequence[Part], source: Source, progress: Progress) -> None:
        splitting = Splitting(version, parts, self.plan.chunker, str(self.plan.stand.fingerprint))
        while some := await asyncio.to_thread(splitting.take, BATCH - len(self._batch)):
            self._batch += some
            if len(self._batch) >= BATCH:
                await self._flush()
            progress.chunks_done(len(some), int(source.size_bytes * splitting.share))
        self._complete.append(version)

    async def _flush(self) -> None:
        """Embed what is new in the batch and stage all of it."""
        if not self._batch and not self._complete:
            return
        rows = await self._vectors(self.plan.embed) if self._batch and self.plan.embed else None
        await _to_the_end(self.index.stage, self._batch, rows, self._complete)
        self._batch, self._complete = [], []

    async def _vectors(self, embed: Embed) -> np.ndarray:
        """Return the vector of each chunk of the batch, `(n, dim) float32`."""
        import numpy as np

        by_digest = {chunk.digest: chunk for chunk in self._batch}
        vectors = await asyncio.to_thread(self.index.vectors_of, list(by_digest))
        missing = [chunk for digest, chunk in by_digest.items() if digest not in vectors]
        if missing:
            rows = await embed([embedded_text(chunk.context, chunk.text) for chunk in missing])
            vectors |= zip((chunk.digest for chunk in missing), np.asarray(rows, np.float32), strict=True)
        self.tally.n_embedded += len(missing)
        self.tally.n_reused += len(self._batch) - len(missing)
        return np.stack([vectors[chunk.digest] for chunk in self._batch])


async def _to_the_end(write: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
    """Run a write in a thread; a cancellation waits for it, so that it never goes on after the lock is given back."""
    writing = asyncio.ensure_future(asyncio.to_thread(write, *arguments, **named))
    try:
        return await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait([writing])
        raise


def changed_files(found: Found, rows: Mapping[str, FileRow], *, again: bool = False) -> list[Source]:
    """Return the files that look different from those of the generation; with `again` also those with a problem."""
    return [source for source in found.sources if not _same(rows.get(source.path), source, again)]


def _same(row: FileRow | None, source: Source, again: bool) -> bool:
    if row is None or (again and row.problem is not None):
        return False
    return (row.size_bytes, row.modified_ns) == (source.size_bytes, source.modified_ns)
