"""An index in use: where it lies, whether its documents changed, and what brings it up to date.

It says nothing of arguments (`_index_functions` does). Invariant: one run at a time works on an index in a process, and
one writer at a time of all processes; whoever waited looks again at what is left to do.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gristmill import Context, Embedder, FunctionError, Passage, StoreError
from gristmill_plugins.retrieval._chunks import Chunker, SplitOptions, estimated_tokens
from gristmill_plugins.retrieval._index_build import Build, OnError, Plan, Tally, changed_files
from gristmill_plugins.retrieval._index_walk import walk
from gristmill_plugins.retrieval._llama_index_models import make_embedding, waited
from gristmill_plugins.retrieval._llama_index_parts import Parts
from gristmill_plugins.retrieval._readers import READERS
from gristmill_plugins.retrieval._search import Query, find
from gristmill_plugins.retrieval._store import IndexFile, Stand
from gristmill_plugins.retrieval._store_file import WriterLock, discard_outdated, is_outdated
from gristmill_plugins.retrieval._store_view import View

DEFAULT_OPTIONS: Mapping[str, Any] = {
    "splitter": "markdown", "size": 256, "overlap": 32, "tokens_of": None, "counted_by": None, "readers": {},
    "vectors": True,
}  # fmt: skip
_SMALL_CHUNKS, _SMALL_FILES = 4000, 50
"""What is searched on the loop itself: it takes up to a millisecond, and a thread costs 0.1 ms, 2 on a busy machine."""
_POLL_S = 0.05
"""Between two looks at whether another process is done with an index."""


class Opened:
    """An index in use: its file, its vectors in memory, and whose turn it is to bring it up to date."""

    def __init__(self, folder: Path) -> None:
        self.file = IndexFile(folder)
        self.view = View()
        self.turn = asyncio.Lock()
        self._n_seen = _SMALL_FILES + 1
        """Files below the documents, those that nothing reads included, when they were last looked at."""

    def is_small(self) -> bool:
        """Tell whether a search takes less time than handing it to a thread would, as far as is known."""
        stand, _ = self.file.known()
        return 0 < stand.watermark <= _SMALL_CHUNKS and self._n_seen <= _SMALL_FILES

    def look(self, asked: Query, roots: Sequence[Path], context: Context) -> list[Passage] | None:
        """Search; None if there is no index, or it is to be brought up to date with its documents.

        Raises:
            StoreError: a named index is of another version: its documents are not known here.
        """
        try:
            stand, rows = self.file.current()
        except StoreError as error:
            if not roots or error.cause != "version":
                raise
            return None
        if not stand.generation:
            return None
        self._n_seen = 0
        if roots:
            found = walk(roots, READERS.keys() | stand.options["readers"].keys(), context.path)
            self._n_seen = len(found.sources) + found.n_ignored
            if len(found.sources) != len(rows) or changed_files(found, rows):
                return None
        return find(self.file, self.view, asked) if asked.text.strip() else []


class Run:
    """Bringing one index up to date with its documents."""

    def __init__(
        self,
        parts: Parts,
        context: Context,
        opened: Opened,
        roots: Sequence[Path],
        embedder: Embedder,
        options: Mapping[str, Any] | None,
        on_error: OnError,
        *,
        again: bool,
    ) -> None:
        self.parts = parts
        self.context = context
        self.file = opened.file
        self.roots = roots
        self.embedder = embedder
        self.options = options
        self.on_error: OnError = on_error
        self.again = again

    async def bring_up_to_date(self) -> tuple[Stand, Tally, int]:
        """Index what changed, if anything did; take the options of the index where none are given.

        An index of another version is made anew, for its documents are here.
        """
        if await asyncio.to_thread(is_outdated, self.file.folder):
            async with _only_writer(self.file.folder):
                await asyncio.to_thread(discard_outdated, self.file.folder)
        before, rows = await asyncio.to_thread(self.file.current)
        plan = self._plan(before)
        found = await asyncio.to_thread(walk, self.roots, READERS.keys() | plan.readers.keys(), self.context.path)
        build = Build(self.file, plan, found, self.context.note)
        changed = build.changed(before, rows, again=self.again)
        if not changed and before.generation and len(rows) == len(found.sources):
            return before, build.tally, found.n_ignored
        async with _only_writer(self.file.folder):
            before, rows = await asyncio.to_thread(self.file.current)
            changed = build.changed(before, rows, again=self.again)  # another process may have been faster
            stand = await build.run(before, rows, changed)
        return stand, build.tally, found.n_ignored

    def _plan(self, before: Stand) -> Plan:
        options = {**DEFAULT_OPTIONS, **(self.options or before.options)}
        settings = self.context.settings
        readers = {e: self.parts.get(name, "reader", settings) for e, name in options["readers"].items()}
        loop = asyncio.get_running_loop()
        model = options["tokens_of"]
        if self.options and model is not None:
            options["counted_by"] = self.context.model(model).model.fingerprint
        split = SplitOptions(options["splitter"], options["size"], options["overlap"])
        return Plan(
            embed=self.embedder.embed if options["vectors"] else None,
            chunker=Chunker(
                split,
                estimated_tokens if model is None else lambda text: waited(self._count(model, text), loop),
                make_embedding(self.embedder, loop) if split.splitter == "semantic" else None,
            ),
            readers=readers,
            on_error=self.on_error,
            stand=Stand(fingerprint=self.embedder.fingerprint if options["vectors"] else None, options=options,
                        documents=tuple(str(root) for root in self.roots)),
        )  # fmt: skip

    async def _count(self, model: str, text: str) -> int:
        return await self.context.model(model).count_tokens(text)


@asynccontextmanager
async def _only_writer(folder: Path) -> AsyncIterator[None]:
    """Hold the right to write the index in a folder, waiting for whoever has it."""
    lock = WriterLock(folder)
    try:
        while not await asyncio.to_thread(lock.acquire):
            await asyncio.sleep(_POLL_S)
        yield
    finally:
        lock.release()


def home_of(settings: Mapping[str, Any]) -> Path:
    """Return the folder of all indexes.

    Raises:
        FunctionError: the settings name a relative one.
    """
    if directory := settings.get("directory"):
        home = Path(str(directory)).expanduser()
        if not home.is_absolute():
            raise FunctionError(f"[plugin.retrieval] directory is an absolute path, this is {directory!r}")
        return home
    base = os.environ.get("XDG_DATA_HOME", "")  # a relative one is to be ignored, as the XDG specification says
    root = Path(base) if Path(base).is_absolute() else Path.home() / ".local/share"
    return root / "gristmill" / "retrieval"
