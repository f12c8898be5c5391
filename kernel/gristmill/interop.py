"""What another framework's face needs of a kernel: typed offers to call, and models to ask, each as one short run.

    from gristmill.interop import declare, function_offers, recipe_offer

A function called through an Offer, and a model asked through `asking`, are recipes of one step built in Python: their
arguments are coerced, pure functions and answers are cached, files are bounded, and everything is traced, because it is
the same executor. It knows no other framework. Invariant: a caller reaches no file outside the current folder, neither
by an argument nor by an input, because what calls may be a model.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gristmill._errors import GristmillError, RunError, UsageError, suggest
from gristmill._files import Files
from gristmill._language._recipe import Constant, FunctionCall, Generation, ModelDeclaration, Recipe, Step, Turn
from gristmill._language._type_schema import of_type, parameter_schema
from gristmill._language._types import CoercionError, coerce
from gristmill._language._yaml import Scalar, parse_yaml
from gristmill._plugins import FunctionSpec

if TYPE_CHECKING:
    from gristmill._calls import CacheMode
    from gristmill._events import RunResult
    from gristmill._kernel import Kernel
    from gristmill._models import GenerateRequest
    from gristmill._runnable import RunnableRecipe

__all__ = ["Offer", "asking", "calling", "declare", "function_offers", "recipe_offer"]

STEP = "call"
"""The name of the one step, in traces and messages."""

Models = Mapping[str, ModelDeclaration]


@dataclass(frozen=True, slots=True)
class Offer:
    """One function or recipe, with all that a caller of another framework must know."""

    name: str
    """`plugin.function`, or a recipe's name."""
    summary: str
    schema: Mapping[str, Any]
    """JSON Schema of the arguments, as one object."""
    returns: Mapping[str, Any]
    """JSON Schema of the value, as far as its type says."""
    run: Callable[[Mapping[str, Any]], Awaitable[RunResult]]
    """Run it from any event loop; cancelling the await stops the work.

    Raises:
        UsageError: an argument is missing, unknown or of the wrong type.
        GristmillError: the function failed; RunError: the recipe did.
    """


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The value of the one step."""

    @property
    def references(self) -> frozenset[str]:
        return frozenset({STEP})

    def evaluate(self, names: Mapping[str, Any]) -> Any:
        return names[STEP]


def declare(kernel: Kernel, name: str, use: str, arguments: Mapping[str, Any] | None = None) -> ModelDeclaration:
    """Return what `models: {name: {use: ..., ...}}` of a recipe would be. Loads nothing.

    Raises:
        PluginError: there is no such provider.
        UsageError: an argument is unknown, missing or of the wrong type.
    """
    from gristmill._memory._open import accept_arguments

    spec = kernel.registry.provider(use)
    return ModelDeclaration(name, spec, accept_arguments(spec, dict(arguments or {})))


def function_offers(kernel: Kernel, models: Models) -> Iterator[Offer]:
    """Yield every function of every plugin that can be loaded; `models` are those its ModelRefs may name."""
    specs = [row.spec for row in kernel.registry.status() if row.spec is not None]
    names = [name for spec in specs for name in spec.functions]
    for spec in specs:
        for function in spec.functions.values():
            yield _function_offer(kernel, function, models, names)


def _function_offer(kernel: Kernel, function: FunctionSpec, models: Models, names: list[str]) -> Offer:
    parameters = function.parameters.values()
    required = [p.name for p in parameters if p.required and not (p.name == "model" and p.ref == "model")]

    async def run(arguments: Mapping[str, Any]) -> RunResult:
        try:
            return await calling(kernel, function.name, arguments, models).arun()
        except RunError as error:
            cause = error.failures.get(STEP)
            raise (cause if isinstance(cause, GristmillError) else error) from error

    schema = {p.name: parameter_schema(p, names, expressions=False) for p in parameters}
    return Offer(function.name, function.summary, _object(schema, required), of_type(function.returns), run)


def recipe_offer(kernel: Kernel, recipe: str | Path) -> Offer:
    """Return a recipe, by name or path, as an offer; its inputs are the arguments.

    Raises:
        UsageError: there is no such recipe.
        RecipeError: it does not check.
    """
    from gristmill._values import plain

    runnable = kernel.recipe(recipe)
    checked = runnable.recipe
    schema = {}
    for declared in checked.inputs.values():
        part = of_type(declared.type) | ({"description": declared.description} if declared.description else {})
        schema[declared.name] = part if declared.required else part | {"default": plain(declared.default)}

    async def run(arguments: Mapping[str, Any]) -> RunResult:
        return await runnable.arun(_held(checked, arguments))

    required = [declared.name for declared in checked.inputs.values() if declared.required]
    return Offer(checked.name, checked.description, _object(schema, required), of_type(checked.output_type), run)


def _object(properties: Mapping[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "required": required, "additionalProperties": False}


def _held(recipe: Recipe, given: Mapping[str, Any]) -> dict[str, Any]:
    """Hold the paths among the inputs to the current folder: a path given as an input may be read by the run."""
    files = Files(Path.cwd())

    def hold(value: Any) -> Any:
        if isinstance(value, list):
            return [hold(item) for item in value]
        return files.resolve(value) if isinstance(value, Path) else value

    held = dict(given)
    for name, value in given.items():
        declared = recipe.inputs.get(name)
        if declared is None:
            continue  # the run names it, and what there is
        try:
            held[name] = hold(coerce(value, declared.type))
        except CoercionError as error:
            raise UsageError(f"input {name!r} of recipe {recipe.name!r}: {error}") from error
    return held


def calling(kernel: Kernel, function: str, arguments: Mapping[str, Any], models: Models) -> RunnableRecipe:
    """Return one call of a plugin's function, ready to run; a missing `model` is the only one there is.

    Raises:
        PluginError: there is no such function.
        UsageError: an argument is missing or unknown.
    """
    spec = kernel.registry.function(function)
    given = dict(arguments)
    for name, parameter in spec.parameters.items():
        if name == "model" and parameter.ref == "model" and parameter.required and len(models) == 1:
            given.setdefault(name, next(iter(models)))
    if unknown := [name for name in given if name not in spec.parameters]:
        raise UsageError(f"{function} has no argument {unknown[0]!r}", hint=suggest(unknown[0], spec.parameters))
    if missing := [name for name, p in spec.parameters.items() if p.required and name not in given]:
        raise UsageError(f"{function} needs {' and '.join(map(repr, missing))}")
    work = FunctionCall(spec, {name: Constant(value) for name, value in given.items()})
    return _one_step(kernel, function, Step(STEP, _node(), work), models)


def asking(
    kernel: Kernel, model: ModelDeclaration, request: GenerateRequest, *, cache: CacheMode = "auto"
) -> RunnableRecipe:
    """Return one request to a model, ready to run; its output is a list of Completions, one for each sample.

    Messages go to the model as they are: no template, and no control character changes a role.
    """
    sampling = {name: Constant(getattr(request.sampling, name)) for name in request.sampling.model_fields_set}
    work = Generation(
        model=model.name,
        messages=tuple(Turn(message.role, Constant(message.content)) for message in request.messages),
        examples=None,
        sampling=sampling,
        seed=Constant(request.seed),
        samples=Constant(len(request.sample_indices)),
        choices=None,
        json_schema=request.json_schema,
        top_logprobs=None if request.top_logprobs is None else Constant(request.top_logprobs),
    )
    step = Step(STEP, _node(), work, cache=cache)
    if request.adapters:
        step.adapters = Constant(dict(request.adapters))
    return _one_step(kernel, model.name, step, {model.name: model})


def _node() -> Scalar:
    node = parse_yaml(STEP, STEP.encode()).root
    assert isinstance(node, Scalar)
    return node


def _one_step(kernel: Kernel, name: str, step: Step, models: Models) -> RunnableRecipe:
    from gristmill._runnable import RunnableRecipe

    recipe = Recipe(
        path=Path.cwd() / name,  # its folder is what the run may read
        document=parse_yaml(name, STEP.encode()),
        name=name,
        models=dict(models),
        steps={STEP: step},
        output=_Outcome(),
    )
    return RunnableRecipe(kernel, recipe)
