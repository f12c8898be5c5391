"""Runs a checked recipe: its steps as a graph, as parallel as their references allow.

A few workers take ready steps from one queue; a worker that finishes a step goes on with what is ready, and others are
hired only while it waits for something. So a chain costs no task switches, and neither does a fan-out of steps that
wait for nothing. What a step does is in `_execution` and `_work`. Invariants: a step starts when everything it waits
for is done, skipped or handled; a failure cancels what depends on it and nothing else; whatever ends a run (failure,
budget, cancellation), finished steps keep their results and no task is left behind.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gristmill._calls import CacheMode
from gristmill._errors import BudgetError, RunError, one_line
from gristmill._events import (
    Event,
    RunFinished,
    RunResult,
    RunStarted,
    StepCancelled,
    StepFailed,
    StepFinished,
    StepResult,
    StepStarted,
)
from gristmill._execution import Execution
from gristmill._files import Files
from gristmill._language._recipe import ModelDeclaration, Recipe, Step
from gristmill._models import Model
from gristmill._records import StepRecord
from gristmill._spending import Spending
from gristmill._threads import Threads
from gristmill._values import Usage

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
    threads: Threads
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
        self.emit = options.emit
        self._waiting = dict(recipe.order.n_before)
        self._followers = recipe.order.followers
        self._ready = deque(recipe.order.first)
        self._workers: set[asyncio.Task[None]] = set()
        self._active: set[str] = set()
        self._idle: asyncio.Future[None] | None = None
        self._hiring = False

    def inner(self, recipe: Recipe, inputs: Mapping[str, Any], path: str) -> Run:
        """Return a run of a recipe that a step of this one calls."""
        return Run(self.services, recipe, inputs, self.options, caller=self, path=path)

    async def execute(self) -> RunResult:
        """Run to the end.

        Raises:
            RunError: a step failed or the budget was spent; it carries what had finished.
        """
        started = time.perf_counter()
        self.emit(
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
            self.emit(RunFinished(self.options.now(), "cancelled", None, self._usage()))
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
        self.emit(RunFinished(self.options.now(), "failed" if self.failures else "done", output, usage))
        if self.failures:
            told = [f"step {self.path}{name!r}: {one_line(error)}" for name, error in self.failures.items()]
            head = f"recipe {self.recipe.name!r} failed"
            raise RunError(f"{head}: {told[0]}" if len(told) == 1 else "\n  ".join([f"{head}:", *told]),
                           failures=dict(self.failures), result=result)  # fmt: skip
        return result

    def _usage(self) -> Usage:
        return Usage.total(result.usage for result in self.results.values())

    async def _drive(self) -> None:
        """Start a worker, and wait until nothing is ready and nobody works."""
        if not self._ready:
            return
        self._idle = asyncio.get_running_loop().create_future()
        self._hire()
        await self._idle

    def _hire(self) -> None:
        task = asyncio.get_running_loop().create_task(self._work())
        self._workers.add(task)
        task.add_done_callback(self._leave)

    def _hire_more(self) -> None:
        """Start workers for what is ready; the loop comes to it when those at work wait for something."""
        self._hiring = False
        for _ in range(min(len(self._ready), self.services.settings.steps_at_once - len(self._workers))):
            self._hire()

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
            if self._ready and not self._hiring:
                self._hiring = True
                asyncio.get_running_loop().call_soon(self._hire_more)
            await self._step(self.recipe.steps[name])

    async def _stop(self, because: str) -> None:
        """Cancel all work under way and wait until it has ended."""
        self._ready.clear()
        workers = list(self._workers)
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        for name in self.recipe.steps:
            if name not in self.results:
                self._cancel(name, because)

    def _cancel(self, name: str, because: str) -> None:
        self.results[name] = StepResult(None, "cancelled")
        self.emit(StepCancelled(self.options.now(), self.path + name, because))

    async def _step(self, step: Step) -> None:
        """Run one step, whatever becomes of it, and make its followers ready."""
        started = time.perf_counter()
        execution = Execution(self, step)
        self._active.add(step.name)
        self.emit(StepStarted(self.options.now(), execution.path))
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
        self.emit(
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
        self.emit(StepFailed(self.options.now(), self.path + step.name, error, elapsed_s))
        pending = list(self._followers[step.name])
        while pending:
            name = pending.pop()
            if name not in self.results:
                self._cancel(name, f"step {step.name!r} failed")
                pending += self._followers[name]
