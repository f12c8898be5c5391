"""The `adapters` plugin: LoRA adapters as files: inspect, verify, convert, blend, merge, train.

The plugin's class is imported when it is first used, and not for the names of its commands, which `gristmill --help`
lists.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._plugin import AdaptersPlugin as AdaptersPlugin

__all__ = ["AdaptersPlugin"]


def __getattr__(name: str) -> Any:
    if name == "AdaptersPlugin":
        from ._plugin import AdaptersPlugin

        return AdaptersPlugin
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
