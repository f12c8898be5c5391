"""Semantic memory: named collections of texts that are found again by meaning, by words, or by both.

    from gristmill import Kernel
    with Kernel() as kernel:
        kernel.memory.remember("notes", "The mill stands on the river Lea.", metadata={"kind": "place"})
        print(kernel.memory.recall("notes", "Where is the mill?")[0].text)

Nothing heavy is imported until a vector is needed.
"""

from __future__ import annotations

from gristmill._memory._api import Memory
from gristmill._memory._arguments import Mode
from gristmill._memory._rank import Fusion
from gristmill._memory._store import SqliteStore

__all__ = ["Fusion", "Memory", "Mode", "SqliteStore"]
