"""The `evaluation` plugin: one metric as a step; the commands that measure recipes are in `_commands`.

The plugin's class is imported when it is first used, and not for the names of its commands, which `gristmill --help`
lists.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._plugin import EvaluationPlugin as EvaluationPlugin

__all__ = ["EvaluationPlugin"]


def __getattr__(name: str) -> Any:
    if name == "EvaluationPlugin":
        from ._plugin import EvaluationPlugin

        return EvaluationPlugin
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
