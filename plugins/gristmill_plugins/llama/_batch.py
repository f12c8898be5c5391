"""One decoding step's tokens, and what all steps so far came to.

It decides nothing. Invariant: rows are wanted, and listed in `outputs`, in the order of the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gristmill_plugins.llama._branch import Branch


@dataclass(slots=True)
class Counters:
    """What the scheduler has done so far, for tests, `doctor` and benchmarks."""

    steps: int = 0
    decoded: int = 0
    shared: int = 0
    preempted: int = 0
    largest_batch: int = 0
    guessed: int = 0
    """Tokens decoded on a guess; `decoded` has only those of them that were right."""
    guessed_right: int = 0


@dataclass(slots=True)
class Batch:
    """What is decoded in one step, laid out as the engine wants it."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    seqs: list[int] = field(default_factory=list)
    wants: list[bool] = field(default_factory=list)
    parts: list[tuple[Branch, int]] = field(default_factory=list)
    """Each branch with how many of its tokens are in."""
    outputs: list[tuple[Branch, int, int]] = field(default_factory=list)
    """For each wanted row, its branch, the index of its token, and the token."""
    guesses: dict[Branch, list[int]] = field(default_factory=dict)
    """What was decoded beyond a branch's own tokens."""

    def add(self, branch: Branch, size: int, guess: Sequence[int] = ()) -> None:
        """Take in the next `size` tokens of a branch and, after its last one, a guess at those that follow."""
        start, end = branch.n_past, branch.n_past + size + len(guess)
        tokens = [*branch.tokens[start : start + size], *guess]
        self.tokens += tokens
        self.positions += range(start, end)
        self.seqs += [branch.seq or 0] * len(tokens)
        self.wants += [at >= branch.wants_from for at in range(start, end)]
        self.outputs += [(branch, at, tokens[at - start]) for at in range(max(start, branch.wants_from), end)]
        self.parts.append((branch, size))
        if guess:
            self.guesses[branch] = list(guess)
