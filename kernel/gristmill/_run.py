"""Runs a checked recipe: its steps as a graph, as parallel as their references allow.

A few workers take ready steps from one queue; a worker that finishes a step goes on with what that step made ready, so
a chain costs no task switches and a fan-out costs one task a worker. What a step does is in `_work`. Invariants: a step
starts when everything it waits for is done, skipped or handled; a failure cancels what depends on it and nothing else;
whatever ends a run (failure, budget, cancellation), finished steps keep their results and no task is left behind.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from gristmill._calls import CacheMode, CallLog, Spending
from gristmill._errors import BudgetError, FunctionError, RunError
from gristmill._events import (
    Event,
    RunFinished,
    RunResult,
    RunStarted,
    StepCancelled,
    StepFailed,
    StepFinished,
    StepNoted,
    StepResult,
    StepRetried,
    StepStarted,
)
from gristmill._files import Files
from gristmill._language._recipe import ModelDeclaration, Recipe, Step, digest_of
from gristmill._models import Model
from gristmill._records import StepRecord, restore
from gristmill._values import Usage, plain
from gristmill._work import Turnstile, do_work

if TYPE_CHECKING:
    from gristmill._cache import PromptCache
    from gristmill._memory import Memory
    from gristmill._registry import Registry
    from gristmill._semantic._index import SemanticIndex
    from gristmill._settings import Settings


@dataclass(frozen=True, slots=True)
class Services:
    """What a run uses of its kernel."""

    registry: Registry
    settings: Settings
    cache: PromptCache | None
    threads: ThreadPoolExecutor
    model: Callable[[ModelDeclaration], Model]
    recipe: Callable[[str], Recipe]
    memory: Callable[[ModelDeclaration | None], Memory]
    """The kernel's own, or that in a store which a recipe declares."""
    semantic: Callable[[], SemanticIndex | None] = lambda: None
    """Where prompts that mean the same are looked for; None without a prompt cache."""


@dataclass(slots=True)
class RunOptions:
    """How one run is to go; a called recipe shares its caller's."""

    run_id: str
    files: Files
    emit: Callable[[Event], None]
    cache_mode: CacheMode | None = None
    """Overrides every step's `cache`."""
    wants_tokens: bool = False
    keyed: bool = False
    """Compute each step's key, so that the run can be resumed."""
    resume: Mapping[str, StepRecord] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    def now(self) -> float:
        """Return seconds since the run began."""
        return time.perf_counter() - self.started


class Run:
    """One run of one recipe. `path` is the calling step's, for a recipe that a step called."""

    def __init__(
        self,
        services: Services,
        recipe: Recipe,
        inputs: Mapping[str, Any],
        options: RunOptions,
        *,
        caller: Run | None = None,
        path: str = "",
    ) -> None:
        self.services = services
        self.recipe = recipe
        self.options = options
        self.path = path
        self.spending: Spending = Spending(recipe.budget, caller.spending if caller else None)
        self.depth: int = caller.depth + 1 if caller else 0
        self.names: dict[str, Any] = {"inputs": dict(inputs)}
        self.results: dict[str, StepResult] = {}
        self.failures: dict[str, BaseException] = {}
        self._waiting = {name: len(step.waits_for) for name, step in recipe.steps.items()}
        self._followers: dict[str, list[str]] = {name: [] for name in recipe.steps}
        for name, step in recipe.steps.items():
            for before in step.waits_for:
                self._followers[before].append(name)
        self._ready = deque(name for name, count in self._waiting.items() if count == 0)
        self._workers: set[asyncio.Task[None]] = set()
        self._active: set[str] = set()
        self._idle: asyncio.Future[None] | None = None

    async def execute(self) -> RunResult:
        """Run to the end.

        Raises:
            RunError: a step failed or the budget was spent; it carries what had finished.
        """
        started = time.perf_counter()
        self._emit(
            RunStarted(self.options.now(), self.options.run_id, self.path + self.recipe.name, self.names["inputs"])
        )
        seconds = self.recipe.budget.seconds
        try:
            async with asyncio.timeout(seconds) as limit:
                await self._drive()
        except TimeoutError:
            if not limit.expired():
                raise
            await self._stop("the budget is spent")
            self.failures["budget"] = BudgetError("seconds", time.perf_counter() - started, seconds or 0)
        except BaseException:
            await self._stop("the run was cancelled")
            self._emit(RunFinished(self.options.now(), "cancelled", None, self._usage()))
            raise
        return self._finish(time.perf_counter() - started)

    def _finish(self, elapsed_s: float) -> RunResult:
        output = None
        if not self.failures:
            try:
                output = self.recipe.output.evaluate(self.names)
            except Exception as error:  # noqa: BLE001  (told like a step's failure, with all that finished)
                self.failures["output"] = error
        usage = self._usage().model_copy(update={"elapsed_s": elapsed_s})
        steps = {name: self.results[name] for name in self.recipe.steps if name in self.results}
        result = RunResult(self.options.run_id, self.recipe.name, output, steps, usage, elapsed_s)
        self._emit(RunFinished(self.options.now(), "failed" if self.failures else "done", output, usage))
        if self.failures:
            told = [f"step {self.path}{name!r}: {_one_line(error)}" for name, error in self.failures.items()]
            head = f"recipe {self.recipe.name!r} failed"
            raise RunError(f"{head}: {told[0]}" if len(told) == 1 else "\n  ".join([f"{head}:", *told]),
                           failures=dict(self.failures), result=result)  # fmt: skip
        return result

    def _usage(self) -> Usage:
        return Usage.total(result.usage for result in self.results.values())

    def _emit(self, event: Event) -> None:
        self.options.emit(event)

    async def _drive(self) -> None:
        """Start workers and wait until nothing is ready and nobody works."""
        if not self._ready:
            return
        self._idle = asyncio.get_running_loop().create_future()
        self._hire()
        await self._idle

    def _hire(self, at_hand: int = 0) -> None:
        """Start workers for what is ready, beyond the one at hand."""
        most = self.services.settings.steps_at_once
        for _ in range(min(len(self._ready) - at_hand, most - len(self._workers))):
            task = asyncio.get_running_loop().create_task(self._work())
            self._workers.add(task)
            task.add_done_callback(self._leave)

    def _leave(self, task: asyncio.Task[None]) -> None:
        self._workers.discard(task)
        if self._idle is None or self._idle.done():
            return
        if not task.cancelled() and (error := task.exception()):
            self._idle.set_exception(error)
        elif not self._workers:
            self._idle.set_result(None)

    async def _work(self) -> None:
        while self._ready:
            name = self._ready.popleft()
            await self._step(self.recipe.steps[name])
            if len(self._ready) > 1:
                self._hire(at_hand=1)

    async def _stop(self, because: str) -> None:
        """Cancel all work under way and wait until it has ended."""
        workers = list(self._workers)
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        for name in self.recipe.steps:
            if name not in self.results:
                self._cancel(name, because)

    def _cancel(self, name: str, because: str) -> None:
        self.results[name] = StepResult(None, "cancelled")
        self._emit(StepCancelled(self.options.now(), self.path + name, because))

    async def _step(self, step: Step) -> None:
        """Run one step, whatever becomes of it, and make its followers ready."""
        started = time.perf_counter()
        execution = _Execution(self, step)
        self._emit(StepStarted(self.options.now(), execution.path))
        try:
            value, status = await execution.run()
        except BudgetError as error:
            self._fail(step, error, time.perf_counter() - started)
            self._ready.clear()
            for task in self._workers - {asyncio.current_task()}:
                task.cancel()
            for name in self.recipe.steps:
                if name not in self.results and name not in self._active:
                    self._cancel(name, "the budget is spent")
            return
        except asyncio.CancelledError:
            self._cancel(step.name, "the run was stopped")
            raise
        except Exception as error:  # noqa: BLE001  (a plugin may fail in any way; its traceback is kept)
            self._fail(step, error, time.perf_counter() - started)
            return
        finally:
            self._active.discard(step.name)
        elapsed_s = time.perf_counter() - started
        log = execution.log
        usage = log.usage.model_copy(update={"elapsed_s": elapsed_s}) if log.n_answers else Usage(elapsed_s=elapsed_s)
        self.names[step.name] = value
        self.results[step.name] = StepResult(value, status, usage, log.all_cached, elapsed_s)
        self._emit(
            StepFinished(
                self.options.now(),
                execution.path,
                status,
                execution.inputs,
                value,
                usage,
                log.all_cached,
                elapsed_s,
                execution.key,
            )
        )
        for follower in self._followers[step.name]:
            self._waiting[follower] -= 1
            if self._waiting[follower] == 0 and follower not in self.results:
                self._ready.append(follower)

    def _fail(self, step: Step, error: BaseException, elapsed_s: float) -> None:
        self.failures[step.name] = error
        self.results[step.name] = StepResult(None, "failed", error=error, elapsed_s=elapsed_s)
        self._emit(StepFailed(self.options.now(), self.path + step.name, error, elapsed_s))
        pending = list(self._followers[step.name])
        while pending:
            name = pending.pop()
            if name not in self.results:
                self._cancel(name, f"step {step.name!r} failed")
                pending += self._followers[name]


def _one_line(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    foreign = type(error).__module__.split(".")[0] != "gristmill"
    return f"{type(error).__name__}: {text}" if foreign else text


class _Execution:
    """One step of one run: its items, turns and attempts."""

    def __init__(self, run: Run, step: Step) -> None:
        self.owner = run
        self.step = step
        self.path = run.path + step.name
        self.log = CallLog()
        self.inputs: Mapping[str, Any] = {}
        self.key: str | None = None
        run._active.add(step.name)

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
            self.owner._emit(StepNoted(self.owner.options.now(), self.path, f"handled: {_one_line(error)}"))
            return (handling.value.evaluate(names) if handling.value is not None else None), "handled"

    async def _attempts(self, names: Mapping[str, Any], item: int | None) -> tuple[Any, Mapping[str, Any]]:
        retry = self.step.retry
        for attempt in range(retry.attempts):
            try:
                return await self._timed(names, item, attempt)
            except (BudgetError, asyncio.CancelledError):
                raise
            except Exception as error:
                if attempt + 1 == retry.attempts:
                    raise
                self.owner._emit(StepRetried(self.owner.options.now(), self.path, attempt + 1, item, error))
                await asyncio.sleep(retry.backoff_s * 2**attempt)
        raise AssertionError("a retry has at least one attempt")

    async def _timed(self, names: Mapping[str, Any], item: int | None, attempt: int) -> tuple[Any, Mapping[str, Any]]:
        limit_s = self.step.timeout_s
        if limit_s is None:
            return await self._turns(names, item, attempt)
        try:
            async with asyncio.timeout(limit_s) as limit:
                return await self._turns(names, item, attempt)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise FunctionError(f"it took longer than its timeout_s of {limit_s:g} s") from error

    async def _turns(self, names: Mapping[str, Any], item: int | None, attempt: int) -> tuple[Any, Mapping[str, Any]]:
        """Do the work once, or `repeat` it until its condition holds."""
        step = self.step
        if step.until is None:
            return await do_work(self._turnstile(item, 0, attempt), names)
        previous: Any = None
        for turn in range(step.most_turns):
            previous, used = await do_work(self._turnstile(item, turn, attempt), {**names, step.name: previous})
            if self._holds(step.until, {**names, step.name: previous}, "until"):
                return previous, used
        text = f"repeat reached its max of {step.most_turns}"
        self.owner._emit(StepNoted(self.owner.options.now(), self.path, text))
        return previous, used

    def _turnstile(self, item: int | None, turn: int, attempt: int) -> Turnstile:
        return Turnstile(self.owner, self.step, self.path, self.log, item, derive_seed(0, item or 0, turn, attempt))


def derive_seed(seed: int, item: int, turn: int, attempt: int) -> int:
    """Return the seed of one piece of work: the step's own for the first, and unlike for every other."""
    if not (item or turn or attempt):
        return seed
    digest = hashlib.sha256(f"{seed}/{item}/{turn}/{attempt}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error of a group that tells most: a spent budget before the rest."""
    errors = [error for error in group.exceptions if not isinstance(error, asyncio.CancelledError)] or group.exceptions
    return next((error for error in errors if isinstance(error, BudgetError)), errors[0])
