"""What happens during a run, as values: events, the results of steps, and the result of the run.

It holds no logic of running. Invariant: the trace of a run is its events in the order they happened; each has a JSON
form, and together they say every input, output, time, token and cache hit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from gristmill._values import Usage, plain


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events. `at_s` is seconds since the run began."""

    at_s: float

    def as_record(self) -> dict[str, Any]:
        """Return the event's name and its fields, values as they are."""
        name, parts = _FORMS[type(self)]
        record: dict[str, Any] = {"event": name}
        for part in parts:
            value = getattr(self, part)
            record[part] = round(value, 6) if part in _TIMES else value
        return record

    def as_json(self) -> dict[str, Any]:
        """Return the event's name and its fields, as JSON data."""
        return {name: jsonable(value) for name, value in self.as_record().items()}


def jsonable(value: Any) -> Any:
    """Return the JSON form of any value; what has none is shown by its type (a trace is never the reason to fail)."""
    if value is None or isinstance(value, _SCALARS):
        return value
    if isinstance(value, BaseException):
        return {"type": type(value).__name__, "message": str(value)}
    try:
        return plain(value)
    except (TypeError, ValueError):
        return f"<{type(value).__name__}>"


@dataclass(frozen=True, slots=True)
class RunStarted(Event):
    run_id: str
    recipe: str
    inputs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StepStarted(Event):
    """`step` is "outer/inner" inside a recipe that a step called."""

    step: str

    def as_record(self) -> dict[str, Any]:  # written out, here and in StepFinished: a third of a trace's time
        return {"event": "step_started", "at_s": round(self.at_s, 6), "step": self.step}


@dataclass(frozen=True, slots=True)
class Token(Event):
    """Text as a model writes it. `item` is the index in a `for_each`."""

    step: str
    sample: int
    item: int | None
    text: str
    n_tokens: int


@dataclass(frozen=True, slots=True)
class ModelLoading(Event):
    """A model's weights are being loaded; `fraction` is from 0 to 1."""

    model: str
    fraction: float


@dataclass(frozen=True, slots=True)
class ModelCalled(Event):
    """One call that a step made of a model: how many answers came from the cache, and what it cost."""

    step: str
    model: str
    n_samples: int
    n_cached: int
    usage: Usage
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class StepRetried(Event):
    step: str
    attempt: int
    item: int | None
    error: BaseException


@dataclass(frozen=True, slots=True)
class StepNoted(Event):
    """A line a plugin wrote, or one the executor did: a `repeat` that reached its `max`."""

    step: str
    text: str


@dataclass(frozen=True, slots=True)
class StepFinished(Event):
    """`status`: done; skipped (its `if` was false); handled (it failed and `on_error` answered); resumed."""

    step: str
    status: Literal["done", "skipped", "handled", "resumed"]
    inputs: Mapping[str, Any]
    output: Any
    usage: Usage
    cached: bool
    elapsed_s: float
    key: str | None
    """Digest of the step and all it read, when the run is recorded: what `--from-run` compares."""

    def as_record(self) -> dict[str, Any]:
        return {
            "event": "step_finished",
            "at_s": round(self.at_s, 6),
            "step": self.step,
            "status": self.status,
            "inputs": self.inputs,
            "output": self.output,
            "usage": self.usage,
            "cached": self.cached,
            "elapsed_s": round(self.elapsed_s, 6),
            "key": self.key,
        }


@dataclass(frozen=True, slots=True)
class StepFailed(Event):
    step: str
    error: BaseException
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class StepCancelled(Event):
    """It never ran, or was stopped: `because` names the step that failed, or says that the run was stopped."""

    step: str
    because: str


@dataclass(frozen=True, slots=True)
class RunFinished(Event):
    status: Literal["done", "failed", "cancelled"]
    output: Any
    usage: Usage


_SCALARS = (str, int, float, bool)
_TIMES = ("at_s", "elapsed_s")
_FORMS: dict[type[Event], tuple[str, tuple[str, ...]]] = {
    cls: (re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower(), tuple(part.name for part in fields(cls)))
    for cls in (RunStarted, StepStarted, Token, ModelLoading, ModelCalled, StepRetried, StepNoted, StepFinished,
                StepFailed, StepCancelled, RunFinished)
}  # fmt: skip

StepStatus = Literal["done", "skipped", "handled", "resumed", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class StepResult:
    """How one step ended. `cached`: every model call it made was answered from the cache."""

    value: Any
    status: StepStatus
    usage: Usage = field(default_factory=Usage)
    cached: bool = False
    elapsed_s: float = 0.0
    error: BaseException | None = None

    def as_json(self) -> dict[str, Any]:
        record = {
            "value": jsonable(self.value),
            "status": self.status,
            "cached": self.cached,
            "elapsed_s": round(self.elapsed_s, 6),
            "usage": self.usage.model_dump(mode="json"),
        }
        return record | ({"error": jsonable(self.error)} if self.error is not None else {})


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished run, or what there is of one that failed."""

    run_id: str
    recipe: str
    output: Any
    steps: Mapping[str, StepResult]
    usage: Usage
    elapsed_s: float
    trace: tuple[Event, ...] = field(default=(), repr=False)

    def as_json(self) -> dict[str, Any]:
        """Return what `run --json` prints."""
        return {
            "output": jsonable(self.output),
            "steps": {name: step.as_json() for name, step in self.steps.items()},
            "usage": self.usage.model_dump(mode="json"),
            "elapsed_s": round(self.elapsed_s, 6),
            "run_id": self.run_id,
            "recipe": self.recipe,
        }
