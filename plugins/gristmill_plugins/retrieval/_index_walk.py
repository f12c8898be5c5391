"""Which files there are to index, and what they are called.

It opens none. Invariants: a file is called by a path that begins with the name of the folder, or the file, that was
given, so that an index and its citations are the same wherever the folder stands; no link leads out of what the run may
read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gristmill import FunctionError


@dataclass(frozen=True, slots=True)
class Source:
    """A file to index."""

    path: str
    """What it is called."""
    file: Path
    size_bytes: int
    modified_ns: int


@dataclass(slots=True)
class Found:
    """What there is below the documents."""

    sources: list[Source] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """(path, reason) of what cannot be read."""
    n_ignored: int = 0
    """Files of kinds that nothing reads."""


Resolve = Callable[[Path], Path]


def walk(documents: Sequence[Path], endings: Collection[str], resolve: Resolve) -> Found:
    """Return the files below the documents, by name; hidden ones are left out.

    Args:
        documents: files and folders, absolute.
        endings: such as ".md", in small letters; a file that is itself given has one of them too.
        resolve: returns where a link leads, or raises FunctionError where the run may not read.

    Raises:
        FunctionError: one of the documents does not exist, or is of a kind that nothing reads.
    """
    found = Found()
    names = [root.name for root in documents]
    for root in dict.fromkeys(documents):
        name = root.name if names.count(root.name) == 1 else root.as_posix()
        if root.is_dir():
            _walk_folder(root, name, endings, resolve, found)
        elif root.is_file():
            if root.suffix.lower() not in endings:
                raise FunctionError(f"nothing reads {root.suffix or 'files without an ending'}: {root}",
                                    hint=f"there is: {', '.join(sorted(endings))}")  # fmt: skip
            _add(found, name, root)
        else:
            raise FunctionError(f"the documents {root} do not exist")
    return found


def _walk_folder(root: Path, name: str, endings: Collection[str], resolve: Resolve, found: Found) -> None:
    for entry, path in _entries(root, name, found):
        if Path(entry.name).suffix.lower() not in endings:
            found.n_ignored += 1
            continue
        try:
            file = resolve(Path(entry.path)) if entry.is_symlink() else Path(entry.path)
        except FunctionError as error:
            found.skipped.append((path, error.message))
            continue
        _add(found, path, file)


def _entries(folder: Path, name: str, found: Found) -> Iterator[tuple[os.DirEntry[str], str]]:
    """Yield the files below a folder, in order."""
    try:
        with os.scandir(folder) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
    except OSError as error:
        found.skipped.append((name, f"it cannot be read: {error.strerror}"))
        return
    for entry in entries:
        path = f"{name}/{entry.name}"
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _entries(Path(entry.path), path, found)
        elif entry.is_dir():
            found.skipped.append((path, "a link to a folder is not followed"))
        else:
            yield entry, path


def _add(found: Found, path: str, file: Path) -> None:
    try:
        status = file.stat()
        path.encode()
    except OSError as error:
        found.skipped.append((path, f"it cannot be read: {error.strerror}"))
    except UnicodeEncodeError:
        found.skipped.append((path.encode("utf-8", "replace").decode(), "its name is no UTF-8"))
    else:
        found.sources.append(Source(path, file, status.st_size, status.st_mtime_ns))
