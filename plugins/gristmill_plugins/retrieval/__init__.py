"""Documents become passages: indexed, searched, answered from and checked."""

from __future__ import annotations


class RetrievalPlugin:
    """Documents become passages: indexed, searched, answered from and checked."""

    plugin_api = 1
