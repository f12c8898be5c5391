"""Prefixes put aside in memory: out of the cache, and back by a copy when a request begins with them.

Attention walks over every used cell of the one cache, whoever's it is. Measured with SmolLM2 on one core: 3,000 cells
of others make a token 10 to 15% dearer, read or written. Putting 512 tokens aside takes 1 to 13 ms of the processor and
bringing them back 2 to 7; reading them takes 2,400.

It knows neither models nor schedulers; cells are bytes to it. Invariants: what comes back is what was put aside, for
the same tokens and adapters; all together stays under the limit, the longest unused going first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gristmill_plugins.llama._branch import Adapters
from gristmill_plugins.llama._shelf import Tokens, n_common

SLACK_TOKENS = 64
"""So few tokens beyond what is put aside already are not worth another copy: they are read again."""


class Cells(Protocol):
    """Sequences in and out of the cache."""

    def save(self, seq: int) -> bytes: ...

    def restore(self, seq: int, cells: bytes) -> bool: ...


@dataclass(frozen=True, slots=True, eq=False)
class _Stowed:
    tokens: Tokens
    adapters: Adapters
    cells: bytes


class Stow:
    """Sequences of one engine that wait outside its cache."""

    def __init__(self, cells: Cells, *, limit_bytes: int, slack_tokens: int = SLACK_TOKENS) -> None:
        self._cells = cells
        self._limit_bytes = limit_bytes
        self._slack_tokens = slack_tokens
        self._stowed: list[_Stowed] = []
        """The longest unused first."""

    def load(self, seq: int, tokens: Sequence[int], adapters: Adapters, *, beyond: int) -> int:
        """Fill an empty sequence if more than `beyond` of these tokens are here; return how many are."""
        best, length = self._find(np.asarray(tokens, np.int32), adapters)
        if best is None or length <= beyond or not self._cells.restore(seq, best.cells):
            return 0
        self._use(best)
        return length

    def keep(self, seq: int, tokens: Tokens, adapters: Adapters) -> None:
        """Put a sequence aside, unless nearly all of it is here already."""
        best, length = self._find(tokens, adapters)
        if tokens.size - length <= self._slack_tokens:
            if best is not None:
                self._use(best)
            return
        cells = self._cells.save(seq)
        if len(cells) > self._limit_bytes:
            return
        if best is not None and length == best.tokens.size:
            self._stowed.remove(best)  # the new one begins with it
        self._stowed.append(_Stowed(tokens, adapters, cells))
        while sum(len(stowed.cells) for stowed in self._stowed) > self._limit_bytes:
            del self._stowed[0]

    def _find(self, tokens: Tokens, adapters: Adapters) -> tuple[_Stowed | None, int]:
        """Return what has the longest common beginning, and its length."""
        best, length = None, 0
        for stowed in self._stowed:
            if stowed.adapters == adapters and (common := n_common(tokens, stowed.tokens)) > length:
                best, length = stowed, common
        return best, length

    def _use(self, stowed: _Stowed) -> None:
        self._stowed = [*(other for other in self._stowed if other is not stowed), stowed]


def n_distinct(rows: Iterable[Tokens]) -> int:
    """Return how many cells sequences take together when each beginning that several have is there once."""
    ordered = sorted(rows, key=lambda tokens: tokens.astype(">i4").tobytes())
    total = sum(tokens.size for tokens in ordered)
    return total - sum(n_common(left, right) for left, right in itertools.pairwise(ordered))
