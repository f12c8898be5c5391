"""Several models, prompts or adapters answer as one."""

from __future__ import annotations


class EnsemblePlugin:
    """Several models, prompts or adapters answer as one."""

    plugin_api = 1
