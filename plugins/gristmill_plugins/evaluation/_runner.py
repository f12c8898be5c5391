"""Runs a recipe on many rows: as many at once as fill an engine's batch, no more in memory than that.

Rows are pulled when a worker is free, so a file of any length is read at the pace of the model. A row that fails is
tried again, then handed on as a failure; a model that cannot be loaded stops everything, since no row could succeed.
It neither reads files nor keeps results. Invariant: each row pulled leads to exactly one outcome, or to none at all if
the run was stopped.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gristmill import GristmillError, ModelError, PluginError, RunError, UsageError
from gristmill_plugins.evaluation._inputs import InputMap, RowError
from gristmill_plugins.evaluation._rows import Row

if TYPE_CHECKING:
    from gristmill import RunnableRecipe, RunResult
    from gristmill_plugins.evaluation._cluster import Cluster

CONCURRENCY = 40
"""Rows under way together by default: the 32 sequences that the llama engine decodes together, and 8 that wait for a
place, so that none stays empty while Python takes care of the next row."""


AHEAD = 4
"""In order, so many times `concurrency` rows may be under way or wait for a slower one before them."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one row ended: `result` or `error`. `attempts` counts the runs that were begun for it."""

    row: Row
    inputs: dict[str, Any]
    result: RunResult | None
    error: BaseException | None
    attempts: int


class RowFailure(GristmillError):
    """What was told of an error, where the error itself is in another process. `kind` is the name of its class."""

    def __init__(self, message: str, *, kind: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        return _failure, (self.message, self.kind, self.hint)


def _failure(message: str, kind: str, hint: str | None) -> RowFailure:
    return RowFailure(message, kind=kind, hint=hint)


def told(error: BaseException) -> RowFailure:
    """Return what is told of a row's error: the failed step's own words where it was one."""
    if isinstance(error, RowFailure):
        return error
    message = error.message if isinstance(error, GristmillError) else str(error)
    if isinstance(error, RunError) and len(error.failures) == 1:
        step, cause = next(iter(error.failures.items()))
        message = f"step {step!r}: {cause}"
    return RowFailure(message, kind=type(error).__name__, hint=getattr(error, "hint", None))


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard to try: rows at once, runs for each row, the pause before the second, which doubles; and where."""

    concurrency: int = CONCURRENCY
    attempts: int = 2
    backoff_s: float = 0.5
    cluster: Cluster | None = None
    """None: in this process."""


DEFAULT_EFFORT = Effort()


def run_rows(
    recipe: RunnableRecipe, rows: Iterable[Row], inputs: InputMap, effort: Effort, take: Callable[[Outcome], None],
    *, in_order: bool = False,
) -> None:  # fmt: skip
    """Run the recipe on every row and hand each outcome to `take`, as they end or in the order of the rows.

    Raises:
        ModelError: a model cannot be loaded. PluginError: a plugin is broken.
    """
    if effort.cluster is not None:
        from gristmill_plugins.evaluation._cluster import run_rows_on_cluster

        run_rows_on_cluster(recipe, iter(rows), inputs, effort, effort.cluster, take, in_order=in_order)
        return
    queue = _InOrder(take, effort) if in_order else None
    recipe.kernel.wait(_run_all(recipe, iter(rows), inputs, effort, take, queue))


async def _run_all(
    recipe: RunnableRecipe, rows: Iterator[Row], inputs: InputMap, effort: Effort,
    take: Callable[[Outcome], None], queue: _InOrder | None,
) -> None:  # fmt: skip
    async def work() -> None:
        for row in rows:  # one iterator for all workers
            take(await run_row(recipe, row, inputs, effort))

    async def work_in_order(queue: _InOrder) -> None:
        while (row := await queue.pull(rows)) is not None:
            queue.give(await run_row(recipe, row, inputs, effort))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(effort.concurrency):
                group.create_task(work() if queue is None else work_in_order(queue))
    except BaseExceptionGroup as errors:
        raise _first(errors) from None


class _InOrder:
    """Hands outcomes on in the order of their rows, and holds back rows that would be too far ahead."""

    def __init__(self, take: Callable[[Outcome], None], effort: Effort) -> None:
        self._take = take
        self._most = AHEAD * effort.concurrency
        self._order: deque[int] = deque()
        """Numbers of the rows that were pulled and not handed on, in order."""
        self._ended: dict[int, Outcome] = {}
        self._room = asyncio.Event()

    async def pull(self, rows: Iterator[Row]) -> Row | None:
        while len(self._order) >= self._most:
            self._room.clear()
            await self._room.wait()
        row = next(rows, None)
        if row is not None:
            self._order.append(row.number)
        return row

    def give(self, outcome: Outcome) -> None:
        self._ended[outcome.row.number] = outcome
        while self._order and self._order[0] in self._ended:
            self._take(self._ended.pop(self._order.popleft()))
        self._room.set()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


async def run_row(
    recipe: RunnableRecipe, row: Row, inputs: InputMap, effort: Effort,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Outcome:  # fmt: skip
    """Run the recipe on one row, again where it fails. Await it on the kernel's own loop."""
    try:
        given = inputs.inputs(row)
    except RowError as error:
        return Outcome(row, {}, None, error, 0)
    for attempt in range(1, effort.attempts + 1):
        try:
            return Outcome(row, given, await recipe.arun(given), None, attempt)
        except UsageError as error:  # the row's inputs do not fit; they will not fit a second time
            return Outcome(row, given, None, error, attempt)
        except GristmillError as error:
            if (fatal := _fatal(error)) is not None:
                raise fatal from error
            if attempt == effort.attempts:
                return Outcome(row, given, None, error, attempt)
        await sleep(effort.backoff_s * 2 ** (attempt - 1))
    raise AssertionError("a row is tried at least once")


def _fatal(error: GristmillError) -> GristmillError | None:
    """Return what no other row can escape: a model that cannot be had, a plugin that is broken."""
    causes = error.failures.values() if isinstance(error, RunError) else (error,)
    for cause in causes:
        if isinstance(cause, PluginError) or (isinstance(cause, ModelError) and cause.cause in ("file", "load")):
            return cause
    return None
