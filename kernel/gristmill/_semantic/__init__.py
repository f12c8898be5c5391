"""Answers to a prompt that means the same: off by default, asked for with `cache: {semantic: 0.97}`.

See `_likeness` for what must be equal, `_index` for where earlier prompts are kept, `_audit` for how it is measured.
"""

from __future__ import annotations
