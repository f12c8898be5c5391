"""LoRA adapters: inspect, convert, blend, merge, train."""

from __future__ import annotations


class AdaptersPlugin:
    """LoRA adapters: inspect, convert, blend, merge, train."""

    plugin_api = 1
