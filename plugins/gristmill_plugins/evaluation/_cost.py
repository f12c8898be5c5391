"""What running a recipe on rows came to: tokens, calls, seconds, rows that the cache answered.

It adds up and measures nothing. Invariant: a `Spent` takes no more memory for many rows than for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gristmill import Usage


@dataclass(frozen=True, slots=True)
class Cost:
    """What running a recipe on all rows came to. Tokens are the model's; `seconds` is wall time, all rows together."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    calls: int
    seconds: float
    rows_cached: int
    """Rows in which every model call was answered from the cache."""
    n_rows: int

    @property
    def tokens_per_row(self) -> float:
        """Tokens of a row, those that the cache answered included: what it costs where nothing is cached."""
        return (self.prompt_tokens + self.completion_tokens + self.cached_tokens) / max(1, self.n_rows)

    @staticmethod
    def total(costs: Sequence[Cost]) -> Cost:
        """Add up several."""
        return Cost(*map(sum, zip(*map(astuple, costs), strict=True)))


@dataclass(slots=True)
class Spent:
    """The usage of rows, added up as they end."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    calls: int = 0
    rows_cached: int = 0

    def add(self, usage: Usage) -> None:
        """Add a row's."""
        self.prompt_tokens += usage.prompt_tokens
        self.completion_tokens += usage.completion_tokens
        self.cached_tokens += usage.cached_tokens
        self.calls += usage.calls
        self.rows_cached += usage.calls == 0 and usage.cached_tokens > 0

    def cost(self, *, seconds: float, n_rows: int) -> Cost:
        """Return it as the cost of so many rows that took so long together."""
        return Cost(self.prompt_tokens, self.completion_tokens, self.cached_tokens, self.calls, seconds,
                    self.rows_cached, n_rows)  # fmt: skip
