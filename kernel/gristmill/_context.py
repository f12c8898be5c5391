"""What a plugin's function is handed besides its arguments.

A function that declares a parameter of type `Context` receives one; it is no part of `with`. Through it a plugin
reaches models, other functions and recipes by the names in the recipe, so plugins never import one another. It keeps
no state of its own. Invariant: whatever is called through a context goes through the same checks, cache, budget,
trace and cancellation as a step.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gristmill._models import GenerateRequest, Session
from gristmill._values import Choice, Completion, Message, Usage

if TYPE_CHECKING:
    from gristmill._memory import Memory
    from gristmill._models import Embedder, Model


@dataclass(frozen=True, slots=True)
class Tool:
    """A function or a recipe that an agent's model may call."""

    name: str
    """What the model calls it: its `as`, or its short name."""
    summary: str
    schema: Mapping[str, Any]
    """JSON Schema of the arguments that the model sets, as one object; decoding can be held to it."""
    call: Callable[[Mapping[str, Any]], Awaitable[Any]]
    """Call it with the arguments that the model set; what the recipe bound is added.

    Raises:
        FunctionError: an argument is not in the schema, or does not fit.
    """


class ModelHandle(Protocol):
    """A model as a step sees it: cached, counted against the budget, traced."""

    @property
    def model(self) -> Model:
        """The model itself, for its `capabilities`, `context_tokens` and `vocabulary_digest`."""
        ...

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        """Return one completion for each sample index, from the cache where it holds them."""
        ...

    async def choose(self, messages: Sequence[Message], choices: Sequence[str], *, calibrate: bool = False) -> Choice:
        """Return the choice with the highest log-probability, and every probability.

        With `calibrate`, each is divided by its probability for the content-free prompt "N/A" first.
        """
        ...

    async def logprobs(self, messages: Sequence[Message], choices: Sequence[str]) -> list[float]:
        """Return the natural log-probability of each whole choice, so that answers to different messages compare."""
        ...

    async def rank(self, query: str, texts: Sequence[str]) -> list[float]:
        """Return how relevant each text is to the query, higher is more; for a model with the capability "rank"."""
        ...

    async def count_tokens(self, text: str) -> int:
        """Return how many tokens `text` is to this model."""
        ...

    async def open_session(self, request: GenerateRequest) -> Session:
        """Step one sequence under the caller's control; its tokens count against the budget, nothing is cached."""
        ...


class Context(Protocol):
    """The run, as seen from inside one function."""

    @property
    def step(self) -> str:
        """The step's name, for messages."""
        ...

    @property
    def seed(self) -> int:
        """A seed derived from the step, item, turn and attempt: the same in every run."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """The plugin's own table in `gristmill.toml`."""
        ...

    @property
    def cancelled(self) -> bool:
        """True once the step was cancelled or timed out; a `def` that runs long should look."""
        ...

    @property
    def usage(self) -> Usage:
        """What has gone through this context so far: calls of models, functions and recipes."""
        ...

    def apart(self, name: str) -> Context:
        """Return this context for one part of the work: its `usage` is that part's, its events are `step/name`'s.

        What goes through it counts for the step all the same.
        """
        ...

    def model(self, name: str, *, adapters: Mapping[str, float] | None = None) -> ModelHandle:
        """Return the model of that name in the recipe; with `adapters`, those instead of the step's."""
        ...

    def embedder(self, name: str) -> Embedder:
        """Return the embedder of that name in the recipe."""
        ...

    @property
    def memory(self) -> Memory:
        """The kernel's semantic memory; await its `aremember`, `arecall` and the rest."""
        ...

    def memory_in(self, store: str) -> Memory:
        """Return semantic memory in the store of that name in the recipe."""
        ...

    def path(self, path: str | Path) -> Path:
        """Return an absolute path that the run may read: under the recipe's folder, or given as an input."""
        ...

    async def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        """Run another plugin's function by name, with its arguments checked."""
        ...

    async def run_recipe(self, recipe: str, inputs: Mapping[str, Any]) -> Any:
        """Run another recipe by name and return its output; it shares this run's budget and files."""
        ...

    def tools(self, listed: Sequence[Mapping[str, Any]]) -> list[Tool]:
        """Return what a parameter of type ToolList lists, ready to call.

        Raises:
            FunctionError: it breaks a rule that `check` would have told, had the list stood in a recipe.
        """
        ...

    def note(self, text: str) -> None:
        """Put a line into the trace and the live view."""
        ...
