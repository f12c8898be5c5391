"""Fitting a step of a recipe on labelled rows: running it on each, then fitting what its function can be fitted by.

The recipe is run as it is, but that the step has no fitted file and asks everybody; every answer comes through the
prompt cache, so that fitting again, with another target or penalty, asks no model. Invariant: a file is written only
when every row was run and the fit succeeded.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gristmill import FunctionError, GristmillError, Kernel, RunnableRecipe, RunResult, UsageError

from ._ballots_normalize import Normalize, normalizer
from ._cascade import Cascaded
from ._cascade_fit import Answered, Target, fit_cascade
from ._gate_fit import GateRow, fit_gate
from ._learned_file import Kept, save
from ._route import Routed
from ._stack import MetaModel, Stacked
from ._stack_fit import LabelledRow, fit_stack

ASK_ALL = {"ensemble.stack": False, "ensemble.cascade": True, "ensemble.route": True}
"""The functions whose steps can be fitted, and whether they must be told to ask everybody."""


@dataclass(frozen=True, slots=True)
class FitOptions:
    """How rows become inputs and labels, and what is fitted."""

    label: str = "label"
    fields: Mapping[str, str] = field(default_factory=dict)
    """Input of the recipe to field of the rows, where they are called differently."""
    limit: int | None = None
    normalize: Normalize = "text"
    meta: MetaModel = "logistic"
    target: Target = field(default_factory=Target)
    folds: int = 5
    seed: int = 0
    at_once: int = 8
    """Rows that are run together."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """One line of the data: the recipe's inputs, and what is right."""

    number: int
    inputs: Mapping[str, Any]
    label: str


def fit_step(
    kernel: Kernel,
    recipe: str | Path,
    step: str,
    data: Path,
    out: Path,
    options: FitOptions,
    *,
    overrides: Mapping[str, str] | None = None,
    told: Callable[[int, int], None] | None = None,
) -> Kept:
    """Run a recipe on labelled rows, fit one of its steps and write what was fitted.

    Args:
        kernel: runs the recipe.
        recipe: by name or path.
        step: uses ensemble.stack, ensemble.cascade or ensemble.route.
        data: JSON Lines; each row holds the recipe's inputs and a label.
        out: where the fitted file goes.
        options: see `FitOptions`.
        overrides: what `--set` and `--model` change.
        told: called after every row with how many are done, and of how many.

    Raises:
        UsageError: no such step, a step that cannot be fitted, or rows that cannot be read.
        FunctionError: a row failed, or nothing can be fitted on the rows.
    """
    function = _function_of(kernel, recipe, step, overrides)
    if function == "ensemble.stack" and options.normalize != "text":
        raise UsageError(
            f"a stack compares texts, and not as {options.normalize!r}", hint="read the answer in a step before it"
        )
    changes = {**(overrides or {}), f"{step}.with.fitted": "null"}
    if ASK_ALL[function]:
        changes[f"{step}.with.ask_all"] = "true"
    runnable = kernel.recipe(recipe, overrides=changes)
    rows = read_labelled(data, runnable, options)
    values = asyncio.run(_run_all(runnable, rows, step, data, options.at_once, told))
    fitted = _fit(function, rows, values, options)
    save(out, fitted)
    return fitted


def _function_of(kernel: Kernel, recipe: str | Path, step: str, overrides: Mapping[str, str] | None) -> str:
    steps = kernel.recipe(recipe, overrides=overrides).recipe.steps
    if step not in steps:
        raise UsageError(f"recipe {str(recipe)!r} has no step {step!r}", hint=f"it has: {', '.join(steps)}")
    function = getattr(getattr(steps[step].work, "function", None), "name", None)
    if function not in ASK_ALL:
        raise UsageError(f"step {step!r} cannot be fitted", hint=f"these can: {', '.join(ASK_ALL)}")
    if steps[step].for_each is not None:
        raise UsageError(f"step {step!r} has a for_each", hint="fit it in a recipe for one row, and use the file here")
    return str(function)


def read_labelled(data: Path, runnable: RunnableRecipe, options: FitOptions) -> list[Labelled]:
    """Return the rows of a JSON Lines file, as inputs and labels.

    Raises:
        UsageError: naming the line that is no row, or lacks the label or an input.
    """
    try:
        lines = data.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{data} cannot be read: {error}") from error
    rows: list[Labelled] = []
    for number, line in enumerate(lines, start=1):
        if line.strip() and (options.limit is None or len(rows) < options.limit):
            rows.append(_labelled(f"{data}:{number}", number, line, runnable, options))
    return rows


def _labelled(where: str, number: int, line: str, runnable: RunnableRecipe, options: FitOptions) -> Labelled:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{where}: no JSON: {error}") from error
    if not isinstance(record, dict):
        raise UsageError(f"{where}: a row is a JSON object")
    if options.label not in record:
        raise UsageError(f"{where}: there is no {options.label!r}", hint="say which field has the label: --label FIELD")
    declared = runnable.recipe.inputs
    if unknown := sorted(set(options.fields) - set(declared)):
        raise UsageError(f"the recipe has no input {unknown[0]!r}", hint=f"it has: {', '.join(declared)}")
    inputs = {}
    for name, one in declared.items():
        source = options.fields.get(name, name)
        if source in record:
            inputs[name] = record[source]
        elif one.required or name in options.fields:
            raise UsageError(f"{where}: there is no {source!r}", hint=f"say where it is: --map {name}=FIELD")
    return Labelled(number, inputs, str(record[options.label]))


async def _run_all(
    runnable: RunnableRecipe,
    rows: Sequence[Labelled],
    step: str,
    data: Path,
    at_once: int,
    told: Callable[[int, int], None] | None,
) -> list[Any]:
    limit = asyncio.Semaphore(at_once)
    done = 0

    async def one(row: Labelled) -> Any:
        nonlocal done
        async with limit:
            try:
                result: RunResult = await runnable.arun(row.inputs)
            except GristmillError as error:
                raise FunctionError(f"{data}:{row.number}: {error}") from error
        done += 1
        if told is not None:
            told(done, len(rows))
        return result.steps[step].value

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(row)) for row in rows]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def _fit(function: str, rows: Sequence[Labelled], values: Sequence[Any], options: FitOptions) -> Kept:
    for row, value in zip(rows, values, strict=True):
        if not isinstance(value, Stacked | Cascaded | Routed):
            raise FunctionError(f"row {row.number} has no answers: the step was skipped")
    if function == "ensemble.stack":
        return _fit_stack(rows, values, options)
    right = _judge(options.normalize)
    if function == "ensemble.cascade":
        members = [stage.member for stage in values[0].stages]
        table = [
            {
                stage.member: Answered(right(stage.text, row.label), stage.confidence, _tokens(stage.usage))
                for stage in value.stages
            }
            for row, value in zip(rows, values, strict=True)
        ]
        return fit_cascade(table, members, target=options.target, folds=options.folds, seed=options.seed)
    gated = [
        GateRow(value.embedding, {name: right(one.text, row.label) for name, one in value.answers.items()})
        for row, value in zip(rows, values, strict=True)
    ]
    return fit_gate(gated, embedder=values[0].embedder, folds=options.folds, seed=options.seed)


def _fit_stack(rows: Sequence[Labelled], values: Sequence[Stacked], options: FitOptions) -> Kept:
    labelled = [LabelledRow(value.answers, row.label, value.embedding) for row, value in zip(rows, values, strict=True)]
    embedder, models = (values[0].embedder, values[0].models) if values else (None, {})
    return fit_stack(
        labelled, meta=options.meta, folds=options.folds, seed=options.seed, embedder=embedder, models=models
    )


def _judge(kind: Normalize) -> Callable[[str, str], bool]:
    """Return what tells whether an answer is the label, both read as `kind`."""
    read = normalizer(kind)

    def right(text: str, label: str) -> bool:
        said, wanted = read(text), read(label)
        return said is not None and wanted is not None and said.key == wanted.key

    return right


def _tokens(usage: Any) -> float:
    """Return what an answer costs without a cache, in tokens."""
    return float(usage.prompt_tokens + usage.completion_tokens + usage.cached_tokens)
