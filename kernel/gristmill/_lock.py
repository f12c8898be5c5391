"""Pins what a recipe depends on: `recipe.yaml` gets `recipe.lock.json` beside it.

A lock holds SHA-256 digests of model and adapter files, of called recipes, and the versions of plugins. It never
fetches or changes anything. Invariant: where a lock is, a run with anything different is refused before a step runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gristmill._errors import UsageError
from gristmill._language._recipe import FunctionCall, ModelDeclaration, Recipe
from gristmill._models import Model
from gristmill._plugins import FunctionSpec

LOCK_VERSION = 1


def lock_path(recipe: Recipe) -> Path:
    """Return where a recipe's lock stands."""
    return recipe.path.with_name(recipe.path.stem + ".lock.json")


def make_lock(recipe: Recipe, model_of: Callable[[ModelDeclaration], Model]) -> dict[str, Any]:
    """Return the lock of what is there now; reads each file once, starts no engine."""
    return {"lock": LOCK_VERSION, "recipe": recipe.name, "pins": dict(sorted(_pins(recipe, model_of, "").items()))}


def _pins(recipe: Recipe, model_of: Callable[[ModelDeclaration], Model], prefix: str) -> dict[str, str]:
    pins: dict[str, str] = {}
    for name, declared in recipe.models.items():
        made = model_of(declared)
        if declared.provider.makes == "store":
            continue
        roles = made.pins() if isinstance(made, Model) else {"embedder": made.fingerprint}
        pins |= {f"{prefix}models.{name}.{role}": digest for role, digest in roles.items()}
    for name, step in recipe.steps.items():
        if isinstance(step.work, FunctionCall):
            pins[f"{prefix}steps.{name}.function"] = _version(step.work.function)
        for named, function in step.named_functions.items():
            pins[f"{prefix}steps.{name}.{named}.function"] = _version(function)
    for name, called in recipe.sub_recipes().items():
        pins[f"{prefix}steps.{name}.recipe"] = called.digest
        pins |= _pins(called, model_of, f"{prefix}steps.{name}.")
    return pins


def _version(function: FunctionSpec) -> str:
    return f"{function.name} version {function.version}"


def write_lock(recipe: Recipe, model_of: Callable[[ModelDeclaration], Model]) -> Path:
    """Write the lock beside the recipe, whole or not at all."""
    path = lock_path(recipe)
    text = json.dumps(make_lock(recipe, model_of), indent=2) + "\n"
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise UsageError(f"{path}: the lock cannot be written: {error.strerror}") from error
    return path


class Lock:
    """The lock beside a recipe, if there is one: read again only when its file changes."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._path = str(lock_path(recipe))
        self._seen: tuple[int, int, int] | None = None
        self._pins: dict[str, Any] = {}

    def verify(self, model_of: Callable[[ModelDeclaration], Model]) -> None:
        """Compare the recipe with its lock; where none is, that costs one question to the file system.

        Raises:
            UsageError: naming everything that differs.
        """
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._unreadable(error) from error
        seen = (found.st_ino, found.st_size, found.st_mtime_ns)
        if seen != self._seen:
            self._pins, self._seen = self._read(), seen
        self._compare(make_lock(self._recipe, model_of)["pins"])

    def _read(self) -> dict[str, Any]:
        try:
            with open(self._path, encoding="utf-8") as file:
                locked = json.load(file)
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from error
        pins = locked.get("pins") if isinstance(locked, dict) and locked.get("lock") == LOCK_VERSION else None
        if not isinstance(pins, dict):
            what = f"{self._path}: this is no lock of version {LOCK_VERSION}"
            raise UsageError(what, hint="write it anew: gristmill lock")
        return pins

    def _unreadable(self, error: Exception) -> UsageError:
        return UsageError(f"{self._path}: the lock cannot be read: {error}", hint="write it anew: gristmill lock")

    def _compare(self, now: dict[str, str]) -> None:
        pins = self._pins
        changed = [
            f"{key}: locked {_short(pins.get(key))}, now {_short(now.get(key))}"
            for key in sorted({*pins, *now})
            if pins.get(key) != now.get(key)
        ]
        if changed:
            told = "\n  ".join(changed)
            raise UsageError(
                f"{Path(self._path).name} does not match what is here:\n  {told}",
                hint=f"undo the change, or accept it: gristmill lock {self._recipe.path.name}",
            )


def _short(digest: Any) -> str:
    text = "nothing" if digest is None else str(digest)
    return f"{text[:12]}…" if len(text) == 64 else text
