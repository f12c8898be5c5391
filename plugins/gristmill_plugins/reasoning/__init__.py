"""Chains of reasoning as steps."""

from __future__ import annotations


class ReasoningPlugin:
    """Chains of reasoning as steps."""

    plugin_api = 1
