"""A checked recipe bound to a kernel, and the ways to run it: wait for it, await it, or listen to it.

All three are one coroutine on the kernel's loop. It prepares a run (the lock, the inputs, the trace, what an earlier
run finished) and leaves the steps to `_run`. Invariant: whatever becomes of a run, its result or its error carries
the events so far, and its files are closed.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gristmill._calls import CacheMode
from gristmill._errors import RunError
from gristmill._events import Event, RunResult
from gristmill._files import Files
from gristmill._language._recipe import ModelDeclaration, Recipe
from gristmill._language._types import Type
from gristmill._lock import Lock
from gristmill._models import Model
from gristmill._records import TraceWriter, find_run, prune, read_inputs, read_records
from gristmill._run import Run, RunOptions
from gristmill._work import bind_inputs

if TYPE_CHECKING:
    from gristmill._kernel import Kernel

Listener = Callable[[Event], None]
ModelSource = Callable[[ModelDeclaration], Model]


class RunnableRecipe:
    """A checked recipe bound to a kernel."""

    def __init__(self, kernel: Kernel, recipe: Recipe, overrides: Mapping[str, str] | None = None) -> None:
        self.kernel = kernel
        self.recipe = recipe
        self.overrides = dict(overrides or {})
        self._lock = Lock(recipe)

    @property
    def _runs(self) -> Path:
        """Where recorded runs are."""
        return self.kernel.settings.data_directory / "runs"

    def run(self, inputs: Mapping[str, Any] | None = None, /, **named: Any) -> RunResult:
        """Run and wait for the result. Inputs by name, or as one mapping.

        Raises:
            UsageError: an input is missing, unknown, or of the wrong type.
            RunError: a step failed or the budget was spent; its `result` has what finished.
        """
        return self.run_with({**(inputs or {}), **named})

    def run_with(
        self,
        inputs: Mapping[str, Any],
        *,
        on_event: Listener | None = None,
        cache_mode: CacheMode | None = None,
        trace: Path | None = None,
        record: bool = False,
        resume: str | None = None,
        model_of: ModelSource | None = None,
    ) -> RunResult:
        """Run with options.

        Args:
            inputs: a value for each input without a default.
            on_event: called with every event, on the kernel's thread; it must be quick.
            cache_mode: overrides what the steps say: auto, off or refresh.
            trace: a file for the events, as JSON Lines.
            record: keep the trace under the data folder, so that `resume` can name this run.
            resume: the id of a recorded run whose finished steps are used again where nothing they read changed.
            model_of: gives the models instead of the kernel (in tests); a lock is then not verified.
        """
        running = self._run(inputs, on_event, cache_mode, trace, record, resume, model_of)
        result: RunResult = self.kernel.wait(running)
        return result

    async def arun(self, inputs: Mapping[str, Any] | None = None, /, **named: Any) -> RunResult:
        """Run and await the result; cancelling the await stops the run and frees its models."""
        running = self._run({**(inputs or {}), **named})
        if self.kernel.on_loop():
            return await running
        result: RunResult = await asyncio.wrap_future(self.kernel.submit(running))
        return result

    async def stream(self, inputs: Mapping[str, Any] | None = None, /, **named: Any) -> AsyncGenerator[Event, None]:
        """Run and yield every event as it happens, tokens included; leaving the loop early stops the run.

        Raises:
            RunError: after the last event, if the run failed.
        """
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event | None] = asyncio.Queue()

        def listen(event: Event | None) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        future = self.kernel.submit(self._run({**(inputs or {}), **named}, listen))
        future.add_done_callback(lambda _: listen(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            await asyncio.wrap_future(future)
        finally:
            future.cancel()

    async def _run(
        self,
        inputs: Mapping[str, Any],
        on_event: Listener | None = None,
        cache_mode: CacheMode | None = None,
        trace: Path | None = None,
        record: bool = False,
        resume: str | None = None,
        model_of: ModelSource | None = None,
    ) -> RunResult:
        recipe, kernel = self.recipe, self.kernel
        if model_of is None:
            self._lock.verify(kernel.model_of)
        earlier = find_run(self._runs, resume) if resume else None
        values = bind_inputs(recipe, {**(read_inputs(earlier) if earlier else {}), **inputs})
        values, given = _absolute_paths(recipe, values, inputs)
        run_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        events: list[Event] = []
        writers = [TraceWriter(path) for path in (trace, self._runs / f"{run_id}.jsonl" if record else None) if path]
        listeners: list[Listener] = [events.append, *(writer.write for writer in writers)]
        if on_event is not None:
            listeners.append(on_event)
            kernel.listeners.add(on_event)

        def emit(event: Event) -> None:
            for listener in listeners:
                listener(event)

        options = RunOptions(
            run_id=run_id,
            files=Files(recipe.folder, given),
            emit=emit,
            cache_mode=cache_mode,
            wants_tokens=on_event is not None,
            keyed=record or earlier is not None,
            resume=read_records(earlier) if earlier else {},
        )
        try:
            result = await Run(kernel.services(model_of), recipe, values, options).execute()
            return _with_trace(result, events)
        except RunError as error:
            error.result = _with_trace(error.result, events)
            raise
        finally:
            if on_event is not None:
                kernel.listeners.discard(on_event)
            for writer in writers:
                writer.close()
            if record:
                prune(self._runs, kernel.settings.runs_kept)


def _with_trace(result: RunResult, events: list[Event]) -> RunResult:
    return replace(result, trace=tuple(events))


def _absolute_paths(
    recipe: Recipe, values: Mapping[str, Any], inputs: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Path]]:
    """Make path inputs absolute: given ones from the current folder, defaults from the recipe's. Return the given."""
    resolved, given = dict(values), list[Path]()
    for name, declared in recipe.inputs.items():
        paths = _paths(declared.type, values[name])
        if not paths:
            continue
        if name in inputs:
            given += [path.absolute() for path in paths]
        base = Path.cwd() if name in inputs else recipe.folder
        resolved[name] = rebase(declared.type, values[name], base)
    return resolved, given


def _paths(declared: Type, value: Any) -> list[Path]:
    if declared.kind == "path" and isinstance(value, Path):
        return [value]
    if declared.kind == "list" and declared.item and isinstance(value, list):
        return [path for item in value for path in _paths(declared.item, item)]
    return []


def rebase(declared: Type, value: Any, base: Path) -> Any:
    """Return an input's value with its relative paths taken from `base`."""
    if declared.kind == "path" and isinstance(value, Path):
        return base / value.expanduser()
    if declared.kind == "list" and declared.item and isinstance(value, list):
        return [rebase(declared.item, item, base) for item in value]
    return value
