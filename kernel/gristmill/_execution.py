"""One step of a run: its condition, its items, its turns and its attempts.

What a step does once is in `_work`; when it may start, and what becomes of its result, is the run's (`_run`).
Invariant: every piece of work of a step has its own seed, derived from its item, turn and attempt.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Literal

from gristmill._asking import derive_seed
from gristmill._errors import BudgetError, FunctionError, one_line
from gristmill._events import StepNoted, StepRetried
from gristmill._language._recipe import Data, Step, digest_of
from gristmill._records import restore
from gristmill._spending import CallLog
from gristmill._values import plain
from gristmill._work import Turnstile, do_work

if TYPE_CHECKING:
    from gristmill._run import Run

Worked = tuple[Any, Mapping[str, Any]]
"""A value, and the inputs it was made of (for the trace)."""


class Execution:
    """One step of one run: its items, turns and attempts."""

    __slots__ = ("inputs", "key", "log", "owner", "path", "step")

    def __init__(self, run: Run, step: Step) -> None:
        self.owner = run
        self.step = step
        self.path = run.path + step.name
        self.log = CallLog()
        self.inputs: Mapping[str, Any] = {}
        self.key: str | None = None

    async def run(self) -> tuple[Any, Literal["done", "skipped", "handled", "resumed"]]:
        step, names = self.step, self.owner.names
        if self.owner.options.keyed:
            self.key = self._make_key()
            record = self.owner.options.resume.get(self.path)
            if record is not None and record.key == self.key:
                return restore(record.output, step.type), "resumed"
        if step.condition is not None and not step.condition_per_item and not self._holds(step.condition, names, "if"):
            return None, "skipped"
        if step.for_each is None:
            return await self._item(names, None)
        return await self._items(names), "done"

    def _make_key(self) -> str:
        step, recipe = self.step, self.owner.recipe
        read = {name: plain(self.owner.names[name]) for name in step.references if name in self.owner.names}
        models = {name: dict(model.arguments) for name, model in recipe.models.items()}
        called = {name: sub.digest for name, sub in recipe.sub_recipes().items()}
        return digest_of([step.digest, read, plain(self.owner.names["inputs"]), models, called])

    def _holds(self, condition: Any, names: Mapping[str, Any], what: str) -> bool:
        value = condition.evaluate(names)
        if isinstance(value, bool):
            return value
        raise FunctionError(f"`{what}` must be true or false, this is {value!r}", hint="compare it with something")

    async def _items(self, names: Mapping[str, Any]) -> list[Any]:
        """Map the step over a list: results in its order, at most `concurrency` at once."""
        assert self.step.for_each is not None
        items = self.step.for_each.evaluate(names)
        if not isinstance(items, list | tuple):
            raise FunctionError(f"for_each needs a list, this is {type(items).__name__}")
        results: list[Any] = [None] * len(items)
        inputs: list[Mapping[str, Any]] = [{}] * len(items)
        pending = deque(range(len(items)))

        async def work() -> None:
            while pending:
                index = pending.popleft()
                loop = {"index": index + 1, "index0": index, "length": len(items)}
                scope = {**names, self.step.item_name: items[index], "loop": loop}
                if self.step.condition_per_item and not self._holds(self.step.condition, scope, "if"):
                    continue
                results[index], _ = await self._item(scope, index, inputs)

        most = min(self.step.concurrency or self.owner.services.settings.steps_at_once, len(items))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(most):
                    group.create_task(work())
        except BaseExceptionGroup as group_error:
            raise _first(group_error) from None
        self.inputs = {"items": inputs}
        return results

    async def _item(
        self, names: Mapping[str, Any], item: int | None, inputs: list[Mapping[str, Any]] | None = None
    ) -> tuple[Any, Literal["done", "handled"]]:
        """Run the work for one item, with its retries; let `on_error` answer for a failure."""
        handling = self.step.on_error
        try:
            value, used = await self._attempts(names, item)
            if inputs is None or item is None:
                self.inputs = used
            else:
                inputs[item] = used
            return value, "done"
        except (BudgetError, asyncio.CancelledError):
            raise
        except Exception as error:
            if handling.mode == "fail":
                raise
            self.owner.emit(StepNoted(self.owner.options.now(), self.path, f"handled: {one_line(error)}"))
            return (handling.value.evaluate(names) if handling.value is not None else None), "handled"

    def _attempts(self, names: Mapping[str, Any], item: int | None) -> Coroutine[Any, Any, Worked]:
        """Return the work with all that the step asks for around it; what it does not ask for costs nothing."""
        return self._timed(names, item, 0) if self.step.retry.attempts == 1 else self._retried(names, item)

    async def _retried(self, names: Mapping[str, Any], item: int | None) -> Worked:
        retry = self.step.retry
        for attempt in range(retry.attempts):
            try:
                return await self._timed(names, item, attempt)
            except (BudgetError, asyncio.CancelledError):
                raise
            except Exception as error:
                if attempt + 1 == retry.attempts:
                    raise
                self.owner.emit(StepRetried(self.owner.options.now(), self.path, attempt + 1, item, error))
                await asyncio.sleep(retry.backoff_s * 2**attempt)
        raise AssertionError("a retry has at least one attempt")

    def _timed(self, names: Mapping[str, Any], item: int | None, attempt: int) -> Coroutine[Any, Any, Worked]:
        limit_s, work = self.step.timeout_s, self._turns(names, item, attempt)
        return work if limit_s is None else self._limited(work, limit_s)

    @staticmethod
    async def _limited(work: Coroutine[Any, Any, Worked], limit_s: float) -> Worked:
        try:
            async with asyncio.timeout(limit_s) as limit:
                return await work
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise FunctionError(f"it took longer than its timeout_s of {limit_s:g} s") from error

    def _turns(self, names: Mapping[str, Any], item: int | None, attempt: int) -> Coroutine[Any, Any, Worked]:
        if self.step.until is None:
            return do_work(self._turnstile(item, 0, attempt), names)
        return self._repeated(self.step.until, names, item, attempt)

    async def _repeated(self, until: Data, names: Mapping[str, Any], item: int | None, attempt: int) -> Worked:
        """Do the work again and again, until the condition holds."""
        step = self.step
        previous: Any = None
        for turn in range(step.most_turns):
            previous, used = await do_work(self._turnstile(item, turn, attempt), {**names, step.name: previous})
            if self._holds(until, {**names, step.name: previous}, "until"):
                return previous, used
        text = f"repeat reached its max of {step.most_turns}"
        self.owner.emit(StepNoted(self.owner.options.now(), self.path, text))
        return previous, used

    def _turnstile(self, item: int | None, turn: int, attempt: int) -> Turnstile:
        return Turnstile(self.owner, self.step, self.path, self.log, item, derive_seed(0, item or 0, turn, attempt))


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error of a group that tells most: a spent budget before the rest."""
    errors = [error for error in group.exceptions if not isinstance(error, asyncio.CancelledError)] or group.exceptions
    return next((error for error in errors if isinstance(error, BudgetError)), errors[0])
