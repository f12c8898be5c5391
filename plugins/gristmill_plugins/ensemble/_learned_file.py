"""Files that fitting and learning leave behind: JSON with the digest of its own content.

It knows neither what was fitted nor how. Invariant: what `load` returns is what `save` was given; a file that is
missing, of another kind, cut short or edited is refused, because numbers that nobody fitted would pass for fitted ones.
A file is replaced whole or not at all, also by `kill -9`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import ValidationError

from gristmill import FunctionError, Value

FORMAT = 1
AGAIN = "fit it again: gristmill ensemble fit RECIPE STEP --data FILE --out FILE"
MOST_BYTES = 100_000_000


class Kept(Value):
    """Base of what is kept in such a file; `kind` is written into it."""

    kind: ClassVar[str] = "fitted file"
    again: ClassVar[str] = AGAIN
    """What to do when the file cannot be used."""


K = TypeVar("K", bound=Kept)


def save(path: Path, kept: Kept) -> None:
    """Write a file whole or not at all.

    Raises:
        FunctionError: the folder cannot be written.
    """
    content = kept.model_dump(mode="json")
    record = {"format": FORMAT, "kind": kept.kind, "sha256": _digest(content), "content": content}
    text = json.dumps(record, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(partial, 0o644)  # mkstemp lets nobody else read
            os.replace(partial, path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise FunctionError(f"{path} cannot be written: {error.strerror}") from error


def load(path: Path, cls: type[K]) -> K:
    """Read what `save` wrote.

    Raises:
        FunctionError: the file is missing, no JSON, of another kind or format, or not as it was written.
    """
    record = _read(path, cls)
    if record.get("kind") != cls.kind:
        raise FunctionError(f"{path} holds {record.get('kind')!r}, and {cls.kind!r} is wanted", hint=cls.again)
    if record.get("format") != FORMAT:
        raise FunctionError(
            f"{path} has the format {record.get('format')!r}; this gristmill reads {FORMAT}", hint=cls.again
        )
    content = record.get("content")
    if record.get("sha256") != _digest(content):
        raise FunctionError(f"{path} was changed after it was written: its digest does not match", hint=cls.again)
    try:
        return cls.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "content"
        raise FunctionError(f"{path}: {where}: {first['msg']}", hint=cls.again) from error


def _read(path: Path, cls: type[Kept]) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise FunctionError(f"{path} has more than {MOST_BYTES:,} bytes: it is no {cls.kind}", hint=cls.again)
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FunctionError(f"there is no {path}", hint=cls.again) from error
    except OSError as error:
        raise FunctionError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise FunctionError(f"{path} is no JSON: {error}", hint=cls.again) from error
    if not isinstance(record, dict):
        raise FunctionError(f"{path} holds no JSON object", hint=cls.again)
    return record


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file's lock while it is read, changed and written, against other threads and processes.

    The lock is the operating system's, on a file beside it, and goes with the process that holds it.

    Raises:
        FunctionError: the folder cannot be written.
    """
    beside = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("a+b") as file:
            _lock(file.fileno())
            yield
    except OSError as error:
        raise FunctionError(f"{path} cannot be locked: {error.strerror}") from error


def _lock(descriptor: int) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)  # type: ignore[attr-defined]
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX)


def kind_of(path: Path) -> str:
    """Return what a file says it holds.

    Raises:
        FunctionError: it is missing or no JSON object.
    """
    return str(_read(path, Kept).get("kind"))
