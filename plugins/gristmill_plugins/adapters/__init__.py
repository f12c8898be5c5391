"""The `adapters` plugin: LoRA adapters as files: inspect, verify, convert, blend, merge, train.

The plugin's class is imported when it is first used, and not for the names of its commands, which `gristmill --help`
lists.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._plugin import AdaptersPlugin as AdaptersPlugin
    from ._plugin import options_of as options_of

__all__ = ["AdaptersPlugin", "options_of"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from . import _plugin

        return getattr(_plugin, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
