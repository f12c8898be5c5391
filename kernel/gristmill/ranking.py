"""How gristmill searches, for plugins that keep an index of their own: words, vectors, fusion, diversity.

    from gristmill.ranking import Matrix, diversify, fuse, match_expression

These are the parts that semantic memory itself is made of, so that what a plugin finds is ordered in the same way. It
opens no file. Importing it does not import numpy; using `Matrix` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gristmill._memory._rank import Fusion, diversify, fuse
from gristmill._memory._words import match_expression

if TYPE_CHECKING:
    from gristmill._memory._matrix import Matrix as Matrix

__all__ = ["Fusion", "Matrix", "diversify", "fuse", "match_expression"]


def __getattr__(name: str) -> Any:
    if name == "Matrix":
        from gristmill._memory._matrix import Matrix

        return Matrix
    raise AttributeError(f"module 'gristmill.ranking' has no attribute {name!r}")
