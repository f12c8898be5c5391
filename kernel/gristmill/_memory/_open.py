"""How a kernel gets its memory: which store, which embedder, and the arguments that an embedder is made with.

It opens no file. Invariant: the default embedder is looked up by name like any other, so any plugin may offer it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gristmill._errors import UsageError, suggest
from gristmill._language._types import CoercionError
from gristmill._memory._api import Memory
from gristmill._memory._store import SqliteStore
from gristmill._models import VectorStore
from gristmill._plugins import ProviderSpec

if TYPE_CHECKING:
    from gristmill._kernel import Kernel

DEFAULT_EMBEDDER = "wordllama"
"""The provider of the embedder where a call or a step names none."""


def open_memory(kernel: Kernel, at: VectorStore | str | Path | None) -> Memory:
    """Return a kernel's memory: in the store or folder `at`, by default as the settings say.

    Raises:
        UsageError: the store of the settings is declared wrongly.
        PluginError: there is no such store, or its library is missing.
    """
    if at is None and kernel.settings.memory_store is not None:
        at = _declared(kernel, dict(kernel.settings.memory_store))
    if at is None or isinstance(at, str | Path):
        at = SqliteStore(at or kernel.settings.memory_directory)
    return Memory(at, embedder=lambda: kernel.embedder(DEFAULT_EMBEDDER), runner=kernel, cache=kernel.cache)


def _declared(kernel: Kernel, table: dict[str, Any]) -> VectorStore:
    """Return the store of `[memory.store]`, whose keys are those of a declaration under `models:`."""
    use = table.pop("use", None)
    if not isinstance(use, str):
        raise UsageError("[memory.store] needs `use`", hint='such as use = "postgres"')
    spec = kernel.registry.provider(use)
    if spec.makes != "store":
        raise UsageError(f"[memory.store]: {use!r} makes no store", hint=f"it makes a {spec.makes}")
    store: VectorStore = spec.call(**accept_arguments(spec, table))
    return store


def accept_arguments(spec: ProviderSpec, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a provider's arguments as it takes them.

    Raises:
        UsageError: one is unknown, missing, or of the wrong type.
    """
    unknown = [name for name in given if name not in spec.parameters]
    if unknown:
        hint = suggest(unknown[0], spec.parameters) if spec.parameters else "it takes none"
        raise UsageError(f"{spec.name} has no argument {unknown[0]!r}", hint=hint)
    missing = [p.name for p in spec.parameters.values() if p.required and p.name not in given]
    if missing:
        raise UsageError(f"{spec.name} needs {' and '.join(missing)}", hint=f"--set {missing[0]}=...")
    try:
        return {name: spec.parameters[name].accept(value) for name, value in given.items()}
    except CoercionError as error:
        raise UsageError(f"{spec.name}: {error}") from error
