"""Which files a run may read: those below the recipe's folder, and those given as inputs.

It opens nothing. Invariant: a path it returns is absolute, with symbolic links resolved, and inside an allowed root.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from gristmill._errors import FunctionError


class Files:
    """The file boundary of one run; a called recipe obeys its caller's."""

    def __init__(self, folder: Path, given: Iterable[Path] = ()) -> None:
        self._folder = folder.absolute()
        self._given = tuple(path.resolve() for path in given)

    @cached_property
    def folder(self) -> Path:
        """Resolved when a path is first asked for: most runs ask for none."""
        return self._folder.resolve()

    @cached_property
    def roots(self) -> tuple[Path, ...]:
        return (self.folder, *self._given)

    def resolve(self, path: str | Path) -> Path:
        """Return the absolute path; a relative one is taken from the recipe's folder.

        Raises:
            FunctionError: it leads out of what the run may read.
        """
        if "\0" in str(path):
            raise FunctionError(f"{str(path)!r} is no path: it holds a NUL")
        try:
            resolved = (self.folder / path).resolve()
        except (OSError, RuntimeError) as error:
            raise FunctionError(f"{str(path)!r} cannot be resolved: {error}") from error
        if any(resolved == root or resolved.is_relative_to(root) for root in self.roots):
            return resolved
        raise FunctionError(
            f"{str(path)!r} is outside what this recipe may read: {self.folder} and the paths given as inputs",
            hint="pass it as an input of type path",
        )
