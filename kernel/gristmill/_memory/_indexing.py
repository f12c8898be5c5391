"""The process that makes an approximate index while searches go on without it.

It is started by a search of a collection that has grown, and by nothing else; it reads the store like any other
process and outlives the one that started it, so that short commands get an index as well. Invariant: whatever becomes
of it, the store is as it was, and at most there is no index yet.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from gristmill._errors import GristmillError
from gristmill._models import CollectionName

_PROGRAM = "import sys; sys.path[:] = sys.argv[4:]; from gristmill._memory._indexing import main; main()"
"""Modules come from where this process has them, never from the folder it happens to be in."""


def start(directory: Path, collection: CollectionName) -> subprocess.Popen[bytes] | None:
    """Start making the index of a collection; None if it cannot be."""
    if importlib.util.find_spec("usearch") is None or not sys.executable:
        return None
    path = [entry for entry in sys.path if entry]
    command = [sys.executable, "-c", _PROGRAM, str(directory.resolve()), *collection, *path]
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    except OSError:
        return None
    threading.Thread(target=process.wait, name="gristmill-index", daemon=True).start()  # so that it is no zombie
    return process


def main() -> None:
    """Make the index that the arguments name, at the lowest priority; exit with 1 if it could not be made."""
    from gristmill._memory._store import SqliteStore

    with suppress(AttributeError, OSError):
        os.nice(19)
    directory, namespace, name = sys.argv[1:4]
    try:
        asyncio.run(SqliteStore(directory).build_index(CollectionName(namespace, name)))
    except GristmillError:
        sys.exit(1)
