"""Measures recipes on data and compares them."""

from __future__ import annotations


class EvaluationPlugin:
    """Measures recipes on data and compares them."""

    plugin_api = 1
