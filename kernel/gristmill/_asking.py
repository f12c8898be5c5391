"""What a `prompt` or `messages` step asks of its model, and the model as a step has it.

It fills the messages, examples and sampling in and makes one request of them; caching and counting are in `_calls`.
Invariant: text from data never becomes a system message, and rendered text is never read again as a template.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from gristmill._calls import StepModel
from gristmill._errors import FunctionError, suggest
from gristmill._events import ModelCalled, StepNoted, Token
from gristmill._language._filters import data_of
from gristmill._language._recipe import Data, Generation, Splice, Turn
from gristmill._language._types import BOOLEAN, INTEGER, CoercionError, Type, coerce, shorten
from gristmill._models import Delta, GenerateRequest, Sampling
from gristmill._values import Message, Usage, plain

if TYPE_CHECKING:
    from gristmill._work import Turnstile


def adapters_of(data: Data | None, names: Mapping[str, Any]) -> dict[str, float]:
    """Return adapter names and scales, from any form that the language takes."""
    value = data_of(data.evaluate(names)) if data is not None else None
    if value is None:
        return {}
    if isinstance(value, str):
        return {value: 1.0}
    if isinstance(value, Mapping):
        return {str(name): float(scale) for name, scale in value.items()}
    return {str(data_of(name)): 1.0 for name in value}


class Asking:
    """One request to a model, made from a `prompt` or `messages` step."""

    def __init__(self, turn: Turnstile, work: Generation, names: Mapping[str, Any]) -> None:
        self.turn = turn
        self.work = work
        self.names = names

    async def run(self) -> tuple[Any, Mapping[str, Any]]:
        messages = self._messages()
        handle = step_model(self.turn, self.work.model, adapters_of(self.turn.step.adapters, self.names))
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
        owner.emit(ModelCalled(owner.options.now(), turn.path, model, n_samples, n_cached, usage, elapsed_s))

    def on_delta(delta: Delta) -> None:
        now = owner.options.now()
        owner.emit(Token(now, turn.path, delta.sample, turn.item, delta.text, delta.n_tokens))

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
        note=lambda text: owner.emit(StepNoted(owner.options.now(), turn.path, text)),
    )


def derive_seed(seed: int, item: int, turn: int, attempt: int) -> int:
    """Return the seed of one piece of work: the step's own for the first, and unlike for every other."""
    if not (item or turn or attempt):
        return seed
    digest = hashlib.sha256(f"{seed}/{item}/{turn}/{attempt}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
