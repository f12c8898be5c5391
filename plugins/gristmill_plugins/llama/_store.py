"""Where model files live, how they are opened, and what is remembered about them between runs.

It does not read GGUF, resolve names or reach the network. Invariants: opening never blocks and never yields
anything but a regular file; what is remembered about a file is forgotten as soon as the file changes, and a
damaged or unwritable memory is the same as an empty one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
from dataclasses import asdict, dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from gristmill import ModelError


def cache_folder() -> Path:
    """Return the folder for what can be computed again; it may not exist yet."""
    return _xdg_folder("XDG_CACHE_HOME", ".cache")


def data_folder() -> Path:
    """Return the folder for what cannot, downloaded models among it; it may not exist yet."""
    return _xdg_folder("XDG_DATA_HOME", ".local/share")


def _xdg_folder(variable: str, fallback: str) -> Path:
    named = os.environ.get(variable, "")
    # The XDG specification: a relative path in these variables is to be ignored.
    base = Path(named) if os.path.isabs(named) else Path.home() / fallback
    return base / "gristmill"


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What tells one state of a file from another without reading it."""

    path: str
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    """Also moves when a file is rewritten in place and its mtime is put back (`rsync -t --inplace`)."""

    @classmethod
    def of(cls, path: str | Path, status: os.stat_result) -> FileIdentity:
        absolute = os.path.abspath(path)
        return cls(absolute, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def open_file(path: str | Path) -> tuple[BufferedReader, FileIdentity]:
    """Open a regular file for reading; a FIFO, device, folder or symlink loop is refused and never waited for.

    Raises:
        ModelError: it does not exist, is not a regular file, or may not be read.
    """
    # O_NONBLOCK: opening a FIFO for reading otherwise waits for a writer, for ever.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:
        raise _cannot_open(path, error) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise file_error(path, f"is {_kind(status.st_mode)}, not a file", hint="give the path of a .gguf file")
        return os.fdopen(descriptor, "rb"), FileIdentity.of(path, status)
    except BaseException:
        os.close(descriptor)
        raise


def file_error(path: str | Path, reason: str, *, hint: str | None = None) -> ModelError:
    """Make the error for a model or adapter file that cannot be used."""
    return ModelError(f"{path}: {reason}", model=str(path), cause="file", hint=hint)


def _cannot_open(path: str | Path, error: Exception) -> ModelError:
    if isinstance(error, FileNotFoundError):
        return file_error(path, "there is no such file", hint="check the path; relative ones start at the recipe")
    if isinstance(error, PermissionError):
        return file_error(path, "this user may not read it", hint=f"chmod u+r {str(path)!r}, or ask its owner")
    if isinstance(error, OSError) and error.strerror:
        return file_error(path, f"cannot be opened: {error.strerror}", hint="give the path of a .gguf file")
    return file_error(repr(str(path)), f"is not a path: {error}", hint="give the path of a .gguf file")


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device"


def recall(identity: FileIdentity) -> dict[str, Any]:
    """Return the facts remembered about exactly this state of the file; empty if there are none."""
    try:
        record = json.loads(_record_path(identity).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(record, dict) or record.get("identity") != asdict(identity):
        return {}
    facts = record.get("facts")
    return facts if isinstance(facts, dict) else {}


def remember(identity: FileIdentity, facts: dict[str, Any]) -> None:
    """Add facts about this state of the file. One that cannot be kept will be computed again: never an error."""
    record = {"identity": asdict(identity), "facts": {**recall(identity), **facts}}
    with contextlib.suppress(OSError):
        write_atomically(_record_path(identity), json.dumps(record).encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file so that readers, and a crash at any moment, leave the old content or the new.

    Raises:
        OSError: it could not be written; the old content is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _record_path(identity: FileIdentity) -> Path:
    # One record a file: two processes that learn about different models never overwrite one another.
    name = hashlib.sha256(os.fsencode(identity.path)).hexdigest()[:40]
    return cache_folder() / "model-files" / f"{name}.json"


def hash_file(path: str | Path, identity: FileIdentity) -> str:
    """Return the SHA-256 of a file, in hex, if it is still in the state that `identity` describes.

    Raises:
        ModelError: it changed, or cannot be read.
    """
    file, found = open_file(path)
    with file:
        try:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            after = FileIdentity.of(path, os.fstat(file.fileno()))
        except OSError as error:
            raise file_error(path, f"cannot be read: {error.strerror}", hint="try again") from error
    if not found == after == identity:
        raise file_error(path, "it changed while it was read", hint="try again when it is no longer written to")
    return digest
