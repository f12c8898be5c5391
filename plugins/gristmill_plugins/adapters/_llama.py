"""What the adapters plugin asks of the llama plugin, found by its name in the registry.

Plugins do not import each other: this names the few methods that are used, and nothing else. It keeps no state.
Invariant: a GGUF file reaches numpy or llama.cpp only after the llama plugin's strict reader accepted it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from gristmill import Kernel

if TYPE_CHECKING:
    from gristmill import Model


class LlamaFiles(Protocol):
    """The part of the llama plugin that works on files, and its provider."""

    def describe_model(self, name: str) -> dict[str, Any]:
        """Return path, format and other facts of a model, by any name that it takes."""
        ...

    def read_gguf(self, name: str | Path) -> dict[str, Any]:
        """Return the header of a GGUF file as data."""
        ...

    def check_adapter(self, path: str | Path, *, base: str) -> None:
        """Raise a ModelError that says why an adapter cannot be used with a model."""
        ...

    def quantize_model(self, name: str, *, to: str, output: Path | None = None) -> Path:
        """Write a model in another format."""
        ...

    def llama(self, **options: Any) -> Model:
        """Return a model that runs in a process of its own."""
        ...


def llama() -> LlamaFiles:
    """Return the llama plugin.

    Raises:
        PluginError: it is not installed, or cannot be imported.
    """
    with Kernel(cache=False) as kernel:
        return cast(LlamaFiles, kernel.registry.plugin("llama").plugin)
