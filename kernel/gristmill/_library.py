"""Finds recipes: by path, or by the name they were installed under.

Packages of recipes are named by entry points in the group `gristmill.recipes` (the recipes that ship, too); nothing
is imported. It reads no recipe. Invariant: a name leads to one file; two packages with one name are an error.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from pathlib import Path

from gristmill._errors import UsageError, suggest

GROUP = "gristmill.recipes"
SUFFIXES = (".yaml", ".yml")


class RecipeLibrary:
    """The installed recipes, looked for when first needed."""

    def __init__(self) -> None:
        self._files: dict[str, list[Path]] | None = None

    def files(self) -> dict[str, Path]:
        """Return every installed recipe by name."""
        return {name: paths[0] for name, paths in sorted(self._scan().items())}

    def _scan(self) -> dict[str, list[Path]]:
        if self._files is None:
            files: dict[str, list[Path]] = {}
            modules = dict.fromkeys(point.value for point in importlib.metadata.entry_points(group=GROUP))
            for module in modules:
                spec = importlib.util.find_spec(module)
                for folder in (spec.submodule_search_locations or ()) if spec else ():
                    for path in sorted(Path(folder).glob("*.yaml")):
                        if not path.name.endswith(".test.yaml"):
                            files.setdefault(path.stem, []).append(path)
            self._files = files  # whole at once: other threads may look meanwhile
        return self._files

    def find(self, recipe: str | Path) -> Path:
        """Return a recipe's file.

        Raises:
            UsageError: there is none, or two packages have the name.
        """
        text = str(recipe)
        if isinstance(recipe, Path) or "/" in text or text.endswith(SUFFIXES):
            path = Path(text).expanduser()
            if os.path.isfile(path):  # unlike Path.is_file, False for a name that is too long or holds a NUL
                return path
            what = "is a folder" if os.path.isdir(path) else "does not exist"
            near = sorted(p.name for p in path.parent.glob("*.yaml")) if os.path.isdir(path.parent) else []
            hint = suggest(path.name, near) if near else "give the path of a .yaml file, or the name of a recipe"
            raise UsageError(f"the recipe {text!r} {what}", hint=hint)
        found = self._scan().get(text, [])
        if len(found) > 1:
            raise UsageError(f"the recipe name {text!r} is taken twice: {found[0]} and {found[1]}", hint="give a path")
        if found:
            return found[0]
        local = [f"./{text}{suffix}" for suffix in SUFFIXES if os.path.isfile(text + suffix)]
        hint = f"there is a file here: write {local[0]}" if local else suggest(text, self._scan())
        raise UsageError(f"no recipe is called {text!r}", hint=hint)
