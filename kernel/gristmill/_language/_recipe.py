"""A checked recipe: what the executor runs, the graph draws and the lock pins.

It holds no YAML handling and no rules (see `_check`), and runs nothing. Invariant: a Recipe without errors among its
diagnostics is complete: every name resolves, every expression is parsed, and the steps form an acyclic graph.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from gristmill._errors import RecipeError
from gristmill._language._diagnostics import Diagnostic
from gristmill._language._expressions import Template
from gristmill._language._filters import EvaluationError
from gristmill._language._types import ANY, Type
from gristmill._language._yaml import Node, Scalar, YamlDocument
from gristmill._plugins import FunctionSpec, ProviderSpec

LANGUAGE_VERSION = 1

Names = Mapping[str, Any]
_NONE: frozenset[str] = frozenset()


class Data(Protocol):
    """A value in a recipe that may hold expressions."""

    @property
    def references(self) -> frozenset[str]:
        """The names that its expressions read."""
        ...

    def evaluate(self, names: Names) -> Any:
        """Return the value; raises RecipeError with the position of what failed."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal."""

    value: Any
    node: Node | None = field(default=None, compare=False)

    @property
    def references(self) -> frozenset[str]:
        return _NONE

    def evaluate(self, _: Names) -> Any:
        return self.value


@dataclass(frozen=True, slots=True)
class Expression:
    """A scalar with `${...}`; `as_text` where the language always makes text of it."""

    template: Template
    scalar: Scalar
    document: YamlDocument
    as_text: bool = False

    @property
    def references(self) -> frozenset[str]:
        return self.template.references

    def evaluate(self, names: Names) -> Any:
        try:
            return self.template.render(names) if self.as_text else self.template.evaluate(names)
        except EvaluationError as error:
            raise self.failed(error) from error

    def failed(self, error: EvaluationError) -> RecipeError:
        """Say where in the file an evaluation failed."""
        start = self.document.locate(self.scalar, error.offset)
        end = self.document.locate(self.scalar, error.end) if error.end else start + 1
        diagnostic = self.document.source.diagnostic(start, end, str(error), code="evaluation")
        where = f"{diagnostic.path}:{diagnostic.line}:{diagnostic.column}"
        return RecipeError(f"{where}: {error}", [diagnostic])


@dataclass(frozen=True, slots=True)
class ListData:
    items: tuple[Data, ...]
    references: frozenset[str]

    def evaluate(self, names: Names) -> list[Any]:
        return [item.evaluate(names) for item in self.items]


@dataclass(frozen=True, slots=True)
class MapData:
    entries: Mapping[str, Data]
    references: frozenset[str]

    def evaluate(self, names: Names) -> dict[str, Any]:
        return {key: value.evaluate(names) for key, value in self.entries.items()}


@dataclass(frozen=True, slots=True)
class Input:
    """One declared input. Without a default it must be given."""

    name: str
    type: Type
    required: bool
    default: Any = None
    description: str = ""


@dataclass(frozen=True, slots=True)
class ModelDeclaration:
    """A model under `models:`; `arguments` are the provider's, paths already absolute."""

    name: str
    provider: ProviderSpec
    arguments: Mapping[str, Any]

    @property
    def adapters(self) -> tuple[str, ...]:
        declared = self.arguments.get("adapters")
        return tuple(declared) if isinstance(declared, Mapping) else ()


@dataclass(frozen=True, slots=True)
class Retry:
    attempts: int = 1
    backoff_s: float = 0.0


@dataclass(frozen=True, slots=True)
class OnError:
    mode: Literal["fail", "skip", "value"] = "fail"
    value: Data | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits on a whole run; None is no limit."""

    tokens: int | None = None
    calls: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Splice:
    """An expression among `messages` that gives a list of user and assistant turns."""

    data: Data


@dataclass(frozen=True, slots=True)
class Turn:
    role: Literal["system", "user", "assistant"]
    content: Data


@dataclass(frozen=True, slots=True)
class Generation:
    """What a `prompt` or `messages` step asks of its model."""

    model: str
    messages: tuple[Turn | Splice, ...]
    examples: Data | None
    """Few-shot pairs, put between the system message and the rest."""
    sampling: Mapping[str, Data]
    seed: Data
    samples: Data | None
    choices: Data | None
    json_schema: dict[str, Any] | None
    top_logprobs: Data | None
    calibrate: Data | None = None


@dataclass(frozen=True, slots=True)
class FunctionCall:
    function: FunctionSpec
    arguments: Mapping[str, Data]


@dataclass(frozen=True, slots=True)
class RecipeCall:
    recipe: Recipe
    arguments: Mapping[str, Data]


@dataclass(slots=True)
class Step:
    """One step. `work` is what it does; the rest is when, how often, and what if it fails."""

    name: str
    node: Scalar
    work: Generation | FunctionCall | RecipeCall | None = None
    type: Type = ANY
    references: frozenset[str] = _NONE
    """Steps whose values it reads."""
    needs: tuple[str, ...] = ()
    condition: Data | None = None
    condition_per_item: bool = False
    for_each: Data | None = None
    item_name: str = "item"
    concurrency: int | None = None
    until: Data | None = None
    most_turns: int = 1
    retry: Retry = Retry()
    timeout_s: float | None = None
    on_error: OnError = OnError()
    cache: Literal["auto", "off", "refresh"] = "auto"
    semantic: float | None = None
    """From which cosine on the answer to another prompt will do, under `cache: {semantic: ...}`."""
    adapters: Data | None = None
    named_recipes: dict[str, Recipe] = field(default_factory=dict)
    """Recipes that its function's arguments name: members, evaluators, an agent's tools."""
    named_functions: dict[str, FunctionSpec] = field(default_factory=dict)
    """Functions that they name."""
    digest: str = ""
    """SHA-256 of the step as written, comments and layout aside."""

    @property
    def waits_for(self) -> frozenset[str]:
        return self.references | frozenset(self.needs)


@dataclass(frozen=True, slots=True)
class Order:
    """The graph of a recipe's steps, as its runs need it."""

    n_before: Mapping[str, int]
    """How many steps each waits for."""
    followers: Mapping[str, Sequence[str]]
    first: tuple[str, ...]

    @classmethod
    def of(cls, steps: Mapping[str, Step]) -> Order:
        n_before = {name: len(step.waits_for) for name, step in steps.items()}
        followers: dict[str, list[str]] = {name: [] for name in steps}
        for name, step in steps.items():
            for before in step.waits_for:
                followers[before].append(name)
        return cls(n_before, followers, tuple(name for name, count in n_before.items() if count == 0))


@dataclass(slots=True)
class Recipe:
    """A recipe, checked. `diagnostics` may hold warnings; a recipe with errors is never handed out to run."""

    path: Path
    document: YamlDocument
    name: str = ""
    description: str = ""
    inputs: dict[str, Input] = field(default_factory=dict)
    models: dict[str, ModelDeclaration] = field(default_factory=dict)
    steps: dict[str, Step] = field(default_factory=dict)
    output: Data = Constant(None)
    output_type: Type = ANY
    budget: Budget = Budget()
    diagnostics: list[Diagnostic] = field(default_factory=list)
    digest: str = ""
    """SHA-256 of the file."""
    _order: Order | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def order(self) -> Order:
        """What waits for what; made once, when the recipe is first run."""
        if self._order is None:
            self._order = Order.of(self.steps)
        return self._order

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def errors(self) -> list[Diagnostic]:
        return [diagnostic for diagnostic in self.diagnostics if diagnostic.severity == "error"]

    def sub_recipes(self) -> dict[str, Recipe]:
        """Return the recipes its steps call, by step; those that a function may run, by "step.recipe"."""
        found: dict[str, Recipe] = {}
        for name, step in self.steps.items():
            if isinstance(step.work, RecipeCall):
                found[name] = step.work.recipe
            else:
                found |= {f"{name}.{called}": recipe for called, recipe in step.named_recipes.items()}
        return found


def digest_of(value: Any) -> str:
    """Return the SHA-256 of canonical JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
