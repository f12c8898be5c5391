"""What a scheduler schedules: branches, the jobs that own them, and the engine and shelf they run on.

It holds no behaviour but the canonical form of adapters. Invariant: see `Branch`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Adapters = tuple[tuple[str, float], ...]
"""Names and scales, sorted: branches with equal adapters share batches and cached prefixes."""


class Backend(Protocol):
    """The engine below: one cache of `n_ctx` cells in which `n_seq_max` sequences live."""

    n_ctx: int
    n_batch: int
    n_seq_max: int
    can_split: bool

    def decode(
        self, tokens: Sequence[int], positions: Sequence[int], seqs: Sequence[int], wants: Sequence[bool]
    ) -> int: ...

    def logits(self, n_rows: int) -> npt.NDArray[np.float32]: ...

    def copy(self, source: int, target: int, size: int) -> None: ...

    def truncate(self, seq: int, size: int) -> bool: ...

    def set_adapters(self, adapters: Adapters) -> None: ...


class Shelf(Protocol):
    """Where long prefixes outlive the process; `load` fills a sequence and says with how many tokens."""

    def load(self, seq: int, tokens: Sequence[int], adapters: Adapters, *, beyond: int) -> int: ...

    def keep(self, seq: int, tokens: Sequence[int], adapters: Adapters) -> None: ...


class Job(Protocol):
    """What owns branches and decides how they go on."""

    def consume(self, branch: Branch, at: int, logits: npt.NDArray[np.float32]) -> Iterable[Branch]:
        """Take the logits that follow `branch.tokens[at]`; return new branches to decode.

        To go on, the job appends to `branch.tokens`; to end, it sets `branch.closed`. The row is valid only
        during the call.
        """
        ...

    def fail(self, error: Exception) -> None:
        """Report that the job cannot be finished; its branches are gone."""
        ...


class Guesser(Protocol):
    """What guesses how a branch goes on, so that one step can verify several tokens; see `PromptLookup`."""

    def guess(self, tokens: Sequence[int], room: int) -> list[int]: ...

    def learn(self, length: int, n_guessed: int, n_right: int) -> None: ...


@dataclass(eq=False, slots=True)
class Branch:
    """One sequence of tokens that is being decoded for a job."""

    job: Job
    tokens: list[int]
    wants_from: int
    """Logits are wanted after `tokens[wants_from]` and every later token."""
    adapters: Adapters = ()
    keep: bool = True
    """Whether what was computed may serve later requests once this branch is closed."""
    n_past: int = 0
    seq: int | None = None
    closed: bool = False
    n_shared: int = 0
    """Tokens that were taken over from another sequence instead of computed, at the last admission."""
    mark: int | None = None
    """The job's own: which of its samples or choices this is."""
    streams: bool = True
    """Whether somebody waits for each of its tokens, so that the prompts of others are read a little at a time."""
    guesser: Guesser | None = None
    """Only for a job that appends to this branch the most likely token of each row, and nothing else."""

    @property
    def n_pending(self) -> int:
        """Tokens that are not in the cache yet."""
        return len(self.tokens) - self.n_past

    @property
    def is_wanted(self) -> bool:
        """Whether its job waits for a row; a branch that waits for its job needs no place meanwhile."""
        return self.wants_from < len(self.tokens)


def adapters_key(adapters: Mapping[str, float]) -> Adapters:
    """Return the canonical form of adapters with scales; a scale of 0 is no adapter."""
    return tuple(sorted((name, float(scale)) for name, scale in adapters.items() if scale != 0))
