"""What calls of models came to: against the budgets of a run, and in a step's usage.

It does not call anything. Invariant: what is counted here is counted for everything above it as well.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from gristmill._errors import BudgetError
from gristmill._language._recipe import Budget
from gristmill._values import Usage


@dataclass(slots=True)
class Spending:
    """What a run has used of its budget; a called recipe's spending counts for its callers too."""

    budget: Budget
    parent: Spending | None = None
    tokens: int = 0
    calls: int = 0
    started: float = field(default_factory=time.monotonic)

    def check(self) -> None:
        """Refuse the next call when a budget is spent.

        Raises:
            BudgetError: which resource, how much of it was used, and the limit.
        """
        budget = self.budget
        if budget.tokens is not None and self.tokens >= budget.tokens:
            raise BudgetError("tokens", self.tokens, budget.tokens)
        if budget.calls is not None and self.calls >= budget.calls:
            raise BudgetError("calls", self.calls, budget.calls)
        if self.parent is not None:
            self.parent.check()

    def check_tokens(self) -> None:
        """Refuse the next token of a call that is under way.

        Raises:
            BudgetError: the tokens, here or above, are used up.
        """
        spending: Spending | None = self
        while spending is not None:
            if spending.budget.tokens is not None and spending.tokens >= spending.budget.tokens:
                raise BudgetError("tokens", spending.tokens, spending.budget.tokens)
            spending = spending.parent

    def start_call(self) -> None:
        """Count one call, before it starts, so that calls under way together cannot pass the limit."""
        self.check()
        spending: Spending | None = self
        while spending is not None:
            spending.calls += 1
            spending = spending.parent

    def add_tokens(self, n_tokens: int) -> None:
        spending: Spending | None = self
        while spending is not None:
            spending.tokens += n_tokens
            spending = spending.parent


_NOTHING = Usage()


@dataclass(slots=True)
class CallLog:
    """What the calls of one step came to; a log within another counts for both."""

    parent: CallLog | None = None
    usage: Usage = _NOTHING
    n_answers: int = 0
    n_cached: int = 0

    def add(self, usage: Usage, n_answers: int, n_cached: int) -> None:
        log: CallLog | None = self
        while log is not None:
            log.usage = log.usage + usage
            log.n_answers += n_answers
            log.n_cached += n_cached
            log = log.parent

    @property
    def all_cached(self) -> bool:
        return self.n_answers > 0 and self.n_cached == self.n_answers
