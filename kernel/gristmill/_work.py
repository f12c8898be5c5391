"""What a step does, once: call a function, ask a model (`_asking`), or run another recipe.

Items, turns, retries and time-outs are the caller's (`_execution`). Invariant: every value that enters a function or a
model was coerced by the table of `_types`, every path by the run's file boundary, and every model call goes through
`StepModel`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gristmill._asking import Asking, adapters_of, derive_seed, step_model
from gristmill._cache._key import KeyPrefix
from gristmill._calls import CacheMode, StepModel
from gristmill._errors import FunctionError, RunError, UsageError, suggest
from gristmill._events import StepNoted
from gristmill._language._recipe import FunctionCall, Generation, Recipe, RecipeCall, Step
from gristmill._language._types import CoercionError, coerce
from gristmill._models import Embedder
from gristmill._plugins import FunctionSpec
from gristmill._spending import CallLog
from gristmill._values import Usage, plain

if TYPE_CHECKING:
    from gristmill._context import Tool
    from gristmill._memory import Memory
    from gristmill._run import Run


MOST_DEPTH = 16
"""How deep recipes may call one another: `check` sees rings, but not those that go through a plugin."""


@dataclass(slots=True)
class Turnstile:
    """One turn of one item of one step: where it stands, and what it may use."""

    owner: Run
    step: Step
    path: str
    log: CallLog
    item: int | None
    seed_offset: int
    """0 for the first item, turn and attempt; otherwise what its seed is derived from."""

    @property
    def cache_mode(self) -> CacheMode:
        return self.owner.options.cache_mode or self.step.cache


async def do_work(turn: Turnstile, names: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """Return the value of one turn, and the inputs it had (for the trace)."""
    work = turn.step.work
    if isinstance(work, FunctionCall):
        arguments = {name: data.evaluate(names) for name, data in work.arguments.items()}
        adapters = adapters_of(turn.step.adapters, names)
        return await call_function(turn, work.function, arguments, adapters), arguments
    if isinstance(work, Generation):
        return await Asking(turn, work, names).run()
    assert isinstance(work, RecipeCall)
    inputs = {name: data.evaluate(names) for name, data in work.arguments.items()}
    return await run_recipe(turn, work.recipe, inputs), inputs


def call_function(
    turn: Turnstile, function: FunctionSpec, given: dict[str, Any], adapters: dict[str, float]
) -> Coroutine[Any, Any, Any]:
    """Return the call of a plugin's function with coerced arguments, from the cache if it is pure, to be awaited.

    Raises:
        FunctionError: an argument does not fit.
    """
    arguments = _coerce_arguments(turn, function, given)
    if function.pure and turn.owner.services.cache is not None and turn.cache_mode == "auto":
        return _cached_call(turn, function, arguments)
    return _call(turn, function, arguments, adapters)


def _coerce_arguments(turn: Turnstile, function: FunctionSpec, given: dict[str, Any]) -> dict[str, Any]:
    arguments = {}
    for name, value in given.items():
        parameter = function.parameters.get(name)
        if parameter is None:
            raise FunctionError(f"{function.name} has no argument {name!r}", hint=suggest(name, function.parameters))
        try:
            value = parameter.accept(value)
        except CoercionError as error:
            raise FunctionError(f"{function.name}: {name}: {error}") from error
        arguments[name] = _inside(turn, value) if isinstance(value, _MAY_HOLD_PATHS) else value
    return arguments


_MAY_HOLD_PATHS = (Path, list)


def _inside(turn: Turnstile, value: Any) -> Any:
    """Hold paths, also those in a list, to the run's file boundary."""
    if isinstance(value, Path):
        return turn.owner.options.files.resolve(value)
    return [_inside(turn, item) if isinstance(item, _MAY_HOLD_PATHS) else item for item in value]


async def _cached_call(turn: Turnstile, function: FunctionSpec, arguments: dict[str, Any]) -> Any:
    cache = turn.owner.services.cache
    assert cache is not None
    material = {name: _content(value) for name, value in arguments.items()}
    key = KeyPrefix({"function": function.name, "version": function.version, "arguments": material}).key({})
    made: list[Any] = []

    async def compute() -> Any:
        made.append(await _call(turn, function, arguments, {}))
        return {"value": plain(made[0])}

    answer = await cache.get_or_compute(key, compute)
    return made[0] if made else coerce(answer[0]["value"], function.returns)


def _content(value: Any) -> Any:
    """Return what a pure function's argument is to the cache: a path is the bytes of its file."""
    if isinstance(value, Path):
        import hashlib

        if not value.is_file():
            return {"path": str(value)}
        with value.open("rb") as file:
            return {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    return [_content(item) for item in value] if isinstance(value, list) else plain(value)


def _call(
    turn: Turnstile, function: FunctionSpec, arguments: dict[str, Any], adapters: dict[str, float]
) -> Coroutine[Any, Any, Any]:
    context = None
    if function.context_parameter is not None:
        context = StepContext(turn, function.name.partition(".")[0], adapters)
        arguments = {**arguments, function.context_parameter: context}
    if function.is_async:
        called: Coroutine[Any, Any, Any] = function.call(**arguments)
        return called
    return _call_in_thread(turn, partial(function.call, **arguments), context)


async def _call_in_thread(turn: Turnstile, work: partial[Any], context: StepContext | None) -> Any:
    try:
        return await turn.owner.services.threads.run(work)
    except asyncio.CancelledError:
        if context is not None:
            context.cancelled = True  # the thread cannot be stopped; a function that looks can stop itself
        raise


async def run_recipe(turn: Turnstile, recipe: Recipe, given: Mapping[str, Any]) -> Any:
    """Run another recipe inside this run and return its output."""
    if turn.owner.depth >= MOST_DEPTH:
        raise FunctionError(f"recipes call one another {MOST_DEPTH} deep: {turn.path}", hint="one of them calls itself")
    inputs = bind_inputs(recipe, given)
    child = turn.owner.inner(recipe, inputs, _inner_path(turn))
    try:
        result = await child.execute()
    except RunError as error:
        _add_usage(turn.log, error.result.usage, child)
        turn.owner.spending.check()  # a budget of ours that is spent stops us, not just the recipe we called
        raise
    _add_usage(turn.log, result.usage, child)
    return result.output


def _inner_path(turn: Turnstile) -> str:
    return f"{turn.path}/" if turn.item is None else f"{turn.path}[{turn.item}]/"


def _add_usage(log: CallLog, usage: Usage, child: Run) -> None:
    asked = [step for step in child.results.values() if step.usage.calls or step.usage.cached_tokens]
    log.add(usage, len(asked), sum(step.cached for step in asked))


def bind_inputs(recipe: Recipe, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a value for every input of a recipe, coerced; defaults fill in.

    Raises:
        UsageError: one is unknown, missing, or of the wrong type.
    """
    unknown = [name for name in given if name not in recipe.inputs]
    if unknown:
        hint = suggest(unknown[0], recipe.inputs) if recipe.inputs else "it takes none"
        raise UsageError(f"recipe {recipe.name!r} has no input {unknown[0]!r}", hint=hint)
    missing = [name for name, declared in recipe.inputs.items() if declared.required and name not in given]
    if missing:
        declared = recipe.inputs[missing[0]]
        hint = f"give it: --input {missing[0]}=... ({declared.description or declared.type})"
        raise UsageError(f"recipe {recipe.name!r} needs {' and '.join(map(repr, missing))}", hint=hint)
    values = {}
    for name, declared in recipe.inputs.items():
        try:
            values[name] = coerce(given[name], declared.type) if name in given else declared.default
        except CoercionError as error:
            raise UsageError(f"input {name!r} of recipe {recipe.name!r}: {error}") from error
    return values


class StepContext:
    """The `Context` that a function is handed."""

    def __init__(self, turn: Turnstile, plugin: str, adapters: dict[str, float]) -> None:
        self._turn = turn
        self._plugin = plugin
        self._adapters = adapters
        self.cancelled = False

    @property
    def step(self) -> str:
        return self._turn.path

    @property
    def seed(self) -> int:
        return derive_seed(0, 0, 0, self._turn.seed_offset)

    @property
    def settings(self) -> Mapping[str, Any]:
        return self._turn.owner.services.settings.plugin_tables.get(self._plugin, {})

    @property
    def usage(self) -> Usage:
        return self._turn.log.usage

    def apart(self, name: str) -> StepContext:
        turn = self._turn
        own = replace(turn, path=_inner_path(turn) + name, log=CallLog(parent=turn.log), item=None)
        return StepContext(own, self._plugin, self._adapters)

    def model(self, name: str, *, adapters: Mapping[str, float] | None = None) -> StepModel:
        return step_model(self._turn, name, self._adapters if adapters is None else dict(adapters))

    def embedder(self, name: str) -> Embedder:
        declared = self._turn.owner.recipe.models.get(name)
        if declared is None:
            raise FunctionError(f"{name!r} is no embedder of this recipe", hint="declare it under models:")
        return self._turn.owner.services.model(declared)

    @property
    def memory(self) -> Memory:
        return self._turn.owner.services.memory(None)

    def memory_in(self, store: str) -> Memory:
        declared = self._turn.owner.recipe.models.get(store)
        if declared is None or declared.provider.makes != "store":
            hint = f"declare it under models: {{{store}: {{use: postgres, url: ...}}}}"
            raise FunctionError(f"{store!r} is no store of this recipe", hint=hint)
        return self._turn.owner.services.memory(declared)

    def path(self, path: str | Path) -> Path:
        return self._turn.owner.options.files.resolve(path)

    async def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        spec = self._turn.owner.services.registry.function(function)
        return await call_function(self._turn, spec, dict(arguments), self._adapters)

    async def run_recipe(self, recipe: str, inputs: Mapping[str, Any]) -> Any:
        if "/" in recipe or recipe.endswith((".yaml", ".yml")):
            recipe = str(self.path(recipe))
        return await run_recipe(self._turn, self._turn.owner.services.recipe(recipe), inputs)

    def tools(self, listed: Sequence[Mapping[str, Any]]) -> list[Tool]:
        from gristmill._agent import make_tools

        return make_tools(self, listed, self._turn.owner.services, self._turn.owner.recipe)

    def note(self, text: str) -> None:
        owner = self._turn.owner
        owner.emit(StepNoted(owner.options.now(), self._turn.path, text))
