"""Says what a run of a recipe depends on: digests of recipe, models and data, versions, overrides.

Two runs with equal identities can be told apart by nothing but chance. It reads files for their digests, starts no
engine and keeps nothing. Invariant: everything in an identity is JSON.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gristmill import Model

if TYPE_CHECKING:
    from gristmill import RunnableRecipe

Identity = dict[str, Any]


def identify(recipe: RunnableRecipe, overrides: Mapping[str, str]) -> Identity:
    """Return what a recipe's answers depend on.

    Keys: `recipe` (name, path, sha256 of the file), `called` (sha256 of each recipe that a step calls), `functions`
    (versions of the functions that steps use), `models` (each model's name, file digests and a digest of everything
    else that changes its answers), `overrides`.
    """
    checked = recipe.recipe
    return {
        "recipe": {"name": checked.name, "path": str(checked.path), "sha256": checked.digest},
        "called": _called(checked, ""),
        "functions": _functions(checked, ""),
        "models": {name: _model(recipe, declared) for name, declared in checked.models.items()},
        "overrides": dict(overrides),
    }


def _called(recipe: Any, prefix: str) -> dict[str, str]:
    found = {}
    for step, called in recipe.sub_recipes().items():
        found[prefix + step] = called.digest
        found |= _called(called, f"{prefix}{step}/")
    return found


def _functions(recipe: Any, prefix: str) -> dict[str, str]:
    found = {}
    for name, step in recipe.steps.items():
        function = getattr(step.work, "function", None)
        if function is not None:
            found[prefix + name] = f"{function.name} version {function.version}"
    for name, called in recipe.sub_recipes().items():
        found |= _functions(called, f"{prefix}{name}/")
    return found


def _model(recipe: RunnableRecipe, declared: Any) -> dict[str, Any]:
    model = recipe.kernel.model_of(declared)
    if not isinstance(model, Model):
        return {"provider": declared.provider.name, "arguments": digest_of(dict(declared.arguments))}
    return {"name": model.name, "files": dict(model.pins()), "fingerprint": digest_of(model.fingerprint)}


def digest_of(value: Any) -> str:
    """Return the SHA-256 of canonical JSON, in hex."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(before: Identity, now: Identity) -> list[str]:
    """Say what differs between two identities, one line for each thing that a person would name."""
    told = []
    if before["recipe"]["sha256"] != now["recipe"]["sha256"]:
        told.append(f"the recipe {now['recipe']['name']!r} was edited or is another one ({now['recipe']['path']})")
    what = {
        "called": "the recipe that step {!r} calls", "functions": "the function that step {!r} uses",
        "models": "the model {!r}", "overrides": "the override of {!r}", "map": "the column for the input {!r}",
        "constants": "the input {!r}", "plugins": "the plugin {!r}", "options": "the option {!r}",
    }  # fmt: skip
    for part, words in what.items():
        old, new = before.get(part) or {}, now.get(part) or {}
        told += [f"{words.format(name)} changed" for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    if now.get("order") and not before.get("order"):
        told.append("the records so far are in no order, and '--in-order' is asked for")
    old, new = before.get("data") or {}, now.get("data") or {}
    if old.get("sha256") != new.get("sha256"):
        told.append(f"the data were edited or are another file ({new.get('path')})")
    return told


def versions() -> dict[str, str]:
    """Return the versions of gristmill, Python, and the libraries that answers and scores go through."""
    found = {"python": platform.python_version()}
    for name in ("gristmill", "llama-cpp-python", "numpy", "rouge-score", "sacrebleu", "scikit-learn"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
