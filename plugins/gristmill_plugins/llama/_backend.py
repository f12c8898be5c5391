"""A native context as the scheduler wants it: adapters by name, sequences on a shelf.

It decides nothing. Invariant: it is used by the engine's one owner thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gristmill_plugins.llama import _native
from gristmill_plugins.llama._branch import Adapters
from gristmill_plugins.llama._shelf import PrefixShelf, n_common


class Backend(_native.NativeContext):
    """The context as the scheduler sees it: adapters by name."""

    def __init__(self, model: _native.NativeModel, params: _native.LoadParams, adapters: dict[str, Any]) -> None:
        super().__init__(model, params)
        self.can_split = model.can_split
        self._adapters = adapters

    def set_adapters(self, adapters: Adapters) -> None:
        """Apply these adapters, by name, to what is decoded from now on."""
        self.apply_adapters([(self._adapters[name], scale) for name, scale in adapters])


class ShelvedSequences:
    """The shelf as the scheduler sees it: sequences in and out of the context."""

    def __init__(self, context: Backend, shelf: PrefixShelf) -> None:
        self._context = context
        self._shelf = shelf

    def load(self, seq: int, tokens: Sequence[int], adapters: Adapters, *, beyond: int) -> int:
        """Fill a sequence with the longest prefix on disk; return how many of its tokens are these."""
        wanted = np.asarray(tokens, np.int32)
        found = self._shelf.find(wanted, str(adapters), beyond=beyond)
        if found is None or not self._context.restore(seq, found.cells):
            return 0
        return n_common(wanted, found.tokens)

    def keep(self, seq: int, tokens: Sequence[int], adapters: Adapters) -> None:
        """Put a sequence on disk."""
        self._shelf.put(np.asarray(tokens, np.int32), str(adapters), self._context.save(seq))
