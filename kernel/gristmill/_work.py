"""What a step does, once: call a function, ask a model, or run another recipe.

Items, turns, retries and time-outs are the caller's (`_run`). Invariant: every value that enters a function or a model
was coerced by the table of `_types`, every path by the run's file boundary, and every model call goes through
`StepModel`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from gristmill._cache._key import KeyPrefix
from gristmill._calls import CacheMode, CallLog, StepModel
from gristmill._errors import FunctionError, RunError, UsageError, suggest
from gristmill._events import ModelCalled, StepNoted, Token
from gristmill._language._filters import data_of
from gristmill._language._recipe import Data, FunctionCall, Generation, Recipe, RecipeCall, Splice, Step, Turn
from gristmill._language._types import BOOLEAN, INTEGER, CoercionError, Type, coerce, shorten
from gristmill._models import Delta, Embedder, GenerateRequest, Sampling
from gristmill._plugins import FunctionSpec
from gristmill._values import Message, Usage, plain

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
        adapters = _adapters(turn.step.adapters, names)
        return await call_function(turn, work.function, arguments, adapters), arguments
    if isinstance(work, Generation):
        return await _Asking(turn, work, names).run()
    assert isinstance(work, RecipeCall)
    inputs = {name: data.evaluate(names) for name, data in work.arguments.items()}
    return await run_recipe(turn, work.recipe, inputs), inputs


async def call_function(
    turn: Turnstile, function: FunctionSpec, given: dict[str, Any], adapters: dict[str, float]
) -> Any:
    """Call a plugin's function with coerced arguments, from the cache if it is pure.

    Raises:
        FunctionError: an argument does not fit.
    """
    arguments = _coerce_arguments(turn, function, given)
    if function.pure and turn.owner.services.cache is not None and turn.cache_mode == "auto":
        return await _cached_call(turn, function, arguments)
    return await _call(turn, function, arguments, adapters)


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
        arguments[name] = _inside(turn, value) if isinstance(value, Path | list) else value
    return arguments


def _inside(turn: Turnstile, value: Any) -> Any:
    """Hold paths, also those in a list, to the run's file boundary."""
    if isinstance(value, Path):
        return turn.owner.options.files.resolve(value)
    return [_inside(turn, item) if isinstance(item, Path | list) else item for item in value]


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


async def _call(turn: Turnstile, function: FunctionSpec, arguments: dict[str, Any], adapters: dict[str, float]) -> Any:
    context = None
    if function.context_parameter is not None:
        context = StepContext(turn, function.name.partition(".")[0], adapters)
        arguments = {**arguments, function.context_parameter: context}
    if function.is_async:
        return await function.call(**arguments)
    loop = asyncio.get_running_loop()
    try:
        return await loop.run_in_executor(turn.owner.services.threads, lambda: function.call(**arguments))
    except asyncio.CancelledError:
        if context is not None:
            context.cancelled = True  # the thread cannot be stopped; a function that looks can stop itself
        raise


async def run_recipe(turn: Turnstile, recipe: Recipe, given: Mapping[str, Any]) -> Any:
    """Run another recipe inside this run and return its output."""
    from gristmill._run import Run

    if turn.owner.depth >= MOST_DEPTH:
        raise FunctionError(f"recipes call one another {MOST_DEPTH} deep: {turn.path}", hint="one of them calls itself")
    inputs = bind_inputs(recipe, given)
    child = Run(turn.owner.services, recipe, inputs, turn.owner.options, caller=turn.owner, path=_inner_path(turn))
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


def _adapters(data: Data | None, names: Mapping[str, Any]) -> dict[str, float]:
    """Return adapter names and scales, from any form that the language takes."""
    value = data_of(data.evaluate(names)) if data is not None else None
    if value is None:
        return {}
    if isinstance(value, str):
        return {value: 1.0}
    if isinstance(value, Mapping):
        return {str(name): float(scale) for name, scale in value.items()}
    return {str(data_of(name)): 1.0 for name in value}


class _Asking:
    """One request to a model, made from a `prompt` or `messages` step."""

    def __init__(self, turn: Turnstile, work: Generation, names: Mapping[str, Any]) -> None:
        self.turn = turn
        self.work = work
        self.names = names

    async def run(self) -> tuple[Any, Mapping[str, Any]]:
        messages = self._messages()
        handle = step_model(self.turn, self.work.model, _adapters(self.turn.step.adapters, self.names))
        inputs: dict[str, Any] = {"messages": messages}
        if self.work.choices is not None:
            choices = self._choices()
            calibrate = bool(self._value("calibrate", self.work.calibrate, BOOLEAN))
            inputs |= {"choices": choices} | ({"calibrate": True} if calibrate else {})
            return await handle.choose(messages, choices, calibrate=calibrate), inputs
        samples = self._value("samples", self.work.samples, INTEGER)
        request = GenerateRequest(
            messages=tuple(messages),
            sampling=self._sampling(),
            seed=self._seed(),
            sample_indices=tuple(range(samples)) if samples is not None else (0,),
            json_schema=self.work.json_schema,
            top_logprobs=self._value("top_logprobs", self.work.top_logprobs, INTEGER),
        )
        completions = await handle.generate(request)
        inputs["sampling"] = request.sampling.model_dump(exclude_defaults=True)
        return (completions if samples is not None else completions[0]), inputs

    def _value(self, name: str, data: Data | None, target: Type) -> Any:
        if data is None:
            return None
        try:
            value = coerce(data.evaluate(self.names), target)
        except CoercionError as error:
            raise FunctionError(f"{name}: {error}") from error
        if name == "samples" and not 1 <= value <= 10_000:
            raise FunctionError(f"samples is from 1 to 10,000, this is {value}")
        return value

    def _seed(self) -> int:
        from gristmill._run import derive_seed

        seed = self._value("seed", self.work.seed, INTEGER) or 0
        return derive_seed(seed, 0, 0, self.turn.seed_offset)

    def _sampling(self) -> Sampling:
        values = {name: data_of(data.evaluate(self.names)) for name, data in self.work.sampling.items()}
        try:
            return Sampling(**values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise FunctionError(f"{where}: {first['msg']}, this is {shorten(first['input'])}") from error

    def _choices(self) -> list[str]:
        assert self.work.choices is not None
        choices = [_text(choice) for choice in self.work.choices.evaluate(self.names)]
        if len(choices) < 2 or len(set(choices)) < len(choices) or "" in choices:
            raise FunctionError(f"choices are at least two different texts, none of them empty; these are {choices!r}")
        return choices

    def _messages(self) -> list[Message]:
        messages: list[Message] = []
        for part in self.work.messages:
            if isinstance(part, Splice):
                messages += self._spliced(part)
            else:
                messages.append(self._turn(part))
        if self.work.examples is not None:
            after_system = 1 if messages and messages[0].role == "system" else 0
            messages[after_system:after_system] = self._examples()
        return messages

    def _turn(self, part: Turn) -> Message:
        text = part.content.evaluate(self.names)
        if part.role == "user" and not text.strip():
            raise FunctionError("the prompt is empty")
        return Message(role=part.role, content=text)

    def _spliced(self, part: Splice) -> list[Message]:
        """Return turns that come from data: they may be the user's and the assistant's, never the system's."""
        turns = []
        for item in part.data.evaluate(self.names):
            record = plain(item)
            if not isinstance(record, dict) or record.get("role") not in ("user", "assistant"):
                raise FunctionError(
                    f"a message from data has the role user or assistant, this is {shorten(item)}",
                    hint="write a system message in the recipe itself",
                )
            turns.append(Message(role=record["role"], content=_text(record.get("content"))))
        return turns

    def _examples(self) -> list[Message]:
        assert self.work.examples is not None
        turns = []
        for pair in self.work.examples.evaluate(self.names):
            record = plain(pair)
            if not isinstance(record, dict) or set(record) != {"input", "output"}:
                raise FunctionError(f"an example has `input` and `output`, this is {shorten(pair)}")
            turns += [Message(role="user", content=_text(record["input"]))]
            turns += [Message(role="assistant", content=_text(record["output"]))]
        return turns


def _text(value: Any) -> str:
    text = data_of(value)
    if isinstance(text, str):
        return text
    raise FunctionError(f"text is wanted, this is {shorten(value)}")


def step_model(turn: Turnstile, name: str, adapters: dict[str, float]) -> StepModel:
    """Return a model of the recipe as this step uses it.

    Raises:
        FunctionError: the recipe declares none of that name, or it makes no model.
    """
    owner = turn.owner
    declared = owner.recipe.models.get(name)
    if declared is None:
        raise FunctionError(f"{name!r} is no model of this recipe", hint=suggest(name, owner.recipe.models))
    unknown = set(adapters) - set(declared.adapters)
    if unknown:
        first = sorted(unknown)[0]
        raise FunctionError(f"{first!r} is no adapter of model {name!r}", hint=suggest(first, declared.adapters))

    def called(model: str, n_samples: int, n_cached: int, usage: Usage, elapsed_s: float) -> None:
        owner._emit(ModelCalled(owner.options.now(), turn.path, model, n_samples, n_cached, usage, elapsed_s))

    def on_delta(delta: Delta) -> None:
        now = owner.options.now()
        owner._emit(Token(now, turn.path, delta.sample, turn.item, delta.text, delta.n_tokens))

    return StepModel(
        model=owner.services.model(declared),
        cache=owner.services.cache,
        mode=turn.cache_mode,
        spending=owner.spending,
        log=turn.log,
        adapters=adapters,
        called=called,
        on_delta=on_delta if owner.options.wants_tokens else None,
        semantic=None if turn.step.semantic is None else owner.services.semantic(),
        threshold=turn.step.semantic or 1.0,
        note=lambda text: owner._emit(StepNoted(owner.options.now(), turn.path, text)),
    )


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
        from gristmill._run import derive_seed

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
        owner._emit(StepNoted(owner.options.now(), self._turn.path, text))
