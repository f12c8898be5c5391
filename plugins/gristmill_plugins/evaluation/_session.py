"""Carries `gristmill eval` and `compare` out: builds the task, measures each recipe, tells, keeps the record.

It computes no figure. Invariant: what is printed, what `--json` says, what the HTML report shows and what is kept are
the same figures.
"""

from __future__ import annotations

import json
import string
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from gristmill import UsageError
from gristmill.commands import printable
from gristmill_plugins.evaluation._compare import Difference, compare, examples, pareto
from gristmill_plugins.evaluation._condition import UndecidableError, holds
from gristmill_plugins.evaluation._evaluate import Evaluated, TaskRows, check_task, evaluate, read_task_rows
from gristmill_plugins.evaluation._inputs import parse_pairs
from gristmill_plugins.evaluation._plain import jsonable
from gristmill_plugins.evaluation._print import (
    failures,
    print_evaluated,
    print_leanings,
    print_lines,
    print_note,
    shown,
    shown_p,
    told_cost,
)
from gristmill_plugins.evaluation._progress import Progress
from gristmill_plugins.evaluation._records import keep, make_record, prepare, row_lines
from gristmill_plugins.evaluation._runner import Effort
from gristmill_plugins.evaluation._task_file import Task, check_values, read_task

if TYPE_CHECKING:
    from gristmill import Kernel

TASK_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Given:
    """What a command line says. `options` are keys of an evaluation file; None says nothing."""

    recipes: Sequence[str]
    data: Path | None
    map: Sequence[str] | None = None
    inputs: Sequence[str] | None = None
    metrics: str | None = None
    slices: Sequence[str] | None = None
    model: Sequence[str] | None = None
    set: Sequence[str] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Show:
    """How to tell: as JSON, as an HTML file too, without progress."""

    as_json: bool = False
    html: Path | None = None
    quiet: bool = False


def make_task(kernel: Kernel, given: Given) -> Task:
    """Return the task that options describe, or an evaluation file, whose keys options then change.

    Raises:
        UsageError: a file or an option says what means nothing.
    """
    said = {name: value for name, value in given.options.items() if value is not None}
    if given.metrics is not None:
        said["metrics"] = [_metric(text.strip()) for text in given.metrics.split(",") if text.strip()]
    if given.slices:
        said["slices"] = list(given.slices)
    if given.map:
        said["map"] = parse_pairs("--map", given.map)
    if given.inputs:
        said["inputs"] = _inputs(kernel, given)
    file = _evaluation_file(given)
    if file is not None:
        if given.model or given.set:
            raise UsageError("--model and --set change one recipe", hint=f"write it into {file}, under `recipes:`")
        base = read_task(file)
        if not base.recipes:
            raise UsageError(f"{file}: 'recipes' is missing")
        return base.model_copy(update=check_values("options", base.model_dump() | said, Task).__dict__)
    if given.data is None:
        if given.recipes[0].endswith(TASK_SUFFIXES) and not Path(given.recipes[0]).exists():
            raise UsageError(f"{given.recipes[0]} does not exist", hint="an evaluation file, or a recipe and its data")
        raise UsageError("no data are given", hint="gristmill eval RECIPE DATA.jsonl, or an evaluation file")
    names = _names(given.recipes)
    changed = _changes(kernel, given)
    entries = {name: {"recipe": recipe, "set": changed} for name, recipe in names.items()}
    return check_values("options", said | {"data": given.data, "recipes": entries}, Task)


def _metric(text: str) -> Any:
    """Return a metric: a name, or `NAME=RECIPE`."""
    name, equals, recipe = text.partition("=")
    return {"name": name, "recipe": recipe} if equals else text


def _evaluation_file(given: Given) -> Path | None:
    if len(given.recipes) != 1 or given.data is not None:
        return None
    path = Path(given.recipes[0])
    return path if path.suffix in TASK_SUFFIXES and path.is_file() else None


def _inputs(kernel: Kernel, given: Given) -> dict[str, Any]:
    from gristmill.commands import read_inputs

    return read_inputs(kernel.recipe(_first_recipe(given)), given.inputs or ())


def _first_recipe(given: Given) -> str:
    """Return the recipe by whose declarations inputs and models are read."""
    file = _evaluation_file(given)
    if file is None:
        return next(iter(_names(given.recipes).values()))
    task = read_task(file)
    return task.entry(next(iter(task.recipes))).recipe


def _changes(kernel: Kernel, given: Given) -> dict[str, Any]:
    """Return `--set` and `--model` as values; they hold for every recipe."""
    from gristmill.commands import read_overrides

    texts = read_overrides(kernel, _first_recipe(given), given.model, given.set)
    return {key: _yaml(text) for key, text in texts.items()}


def _yaml(text: str) -> Any:
    import yaml

    return yaml.safe_load(text) if len(text) < 100_000 else text


def _names(recipes: Sequence[str]) -> dict[str, str]:
    """Name each recipe: `NAME=RECIPE` as it says, else by its file, else by that and its place."""
    named: dict[str, str] = {}
    for place, text in enumerate(recipes, 1):
        name, equals, recipe = text.partition("=")
        if not equals or "/" in name:
            name, recipe = Path(text).stem, text
        while name in named:
            name = f"{name}-{place}"
        named[name] = recipe
    return named


def run_evaluation(
    kernel: Kernel, given: Given, show: Show, *, effort: Effort, fail_if: Sequence[str], kind: str,
    all_pairs: bool = False,
) -> int:  # fmt: skip
    """Measure the recipes, tell, and return the exit code: 1 where a `--fail-if` holds."""
    task = make_task(kernel, given)
    if kind == "compare" and len(task.recipes) < 2:
        raise UsageError("a comparison needs two recipes", hint="gristmill compare A.yaml B.yaml DATA.jsonl")
    task.plain_metrics()
    conditions = [*task.fail_if, *fail_if]
    if show.html is not None:
        from gristmill_plugins.evaluation._report import check_report

        check_report(show.html)
    prepare(kernel)
    data = read_task_rows(task)
    _check_conditions(conditions, task)
    check_task(kernel, task, data)
    evaluated = []
    for name in task.recipes:
        with Progress(f"rows of {name}", quiet=show.quiet or show.as_json) as progress:
            evaluated.append(evaluate(kernel, task, name, data, effort, progress.update))
    differences = compare(evaluated, all_pairs=all_pairs, seed=task.seed) if len(evaluated) > 1 else []
    more = picture_parts(evaluated, differences)
    figures = condition_figures(evaluated)
    failed = [told for condition in conditions if (told := _failure(condition, figures))]
    record = jsonable(make_record(kind, task, data, evaluated, **more, failed_conditions=failed))
    _tell(show, record, evaluated, differences, data)
    place = keep(kernel, record, row_lines(data, evaluated))
    if show.html is not None:
        from gristmill_plugins.evaluation._report import write_report

        write_report(show.html, record, evaluated)
        print_note([f"wrote {show.html}"])
    print_note([f"failed: {condition}" for condition in failed])
    if not show.quiet:
        print_note([f"kept as {place.stem}"])
    return 1 if failed else 0


def _failure(condition: str, figures: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return a condition that holds, or that has no answer: a gate that cannot be looked at lets nothing through."""
    try:
        return condition if holds(condition, figures) else None
    except UndecidableError as error:
        return f"{condition} ({error.message.rpartition(': ')[2]})"


def picture_parts(evaluated: Sequence[Evaluated], differences: Sequence[Difference]) -> dict[str, Any]:
    """Return the parts of a record that hold several recipes against one another, by the first metric."""
    main = next(iter(evaluated[0].figures))
    return {
        "differences": [one.as_json() for one in differences],
        "front": [{"recipe": p.name, "tokens_per_row": p.cost, "value": p.value, "front": p.front}
                  for p in pareto(evaluated, main)],
        "examples": {other.name: examples(evaluated[0], other, main) for other in evaluated[1:]},
    }  # fmt: skip


def _check_conditions(conditions: Sequence[str], task: Task) -> None:
    """Find mistakes in conditions before anything runs, with made-up figures of the right names."""
    metrics = [metric if isinstance(metric, str) else metric.name for metric in task.metrics]
    number = {"value": 0.5, "low": 0.4, "high": 0.6}
    known: dict[str, Any] = {**dict.fromkeys(metrics, number), "tokens": 1.0, "seconds": 1.0, "calls": 1, "failed": 0}
    for condition in conditions:
        with suppress(UndecidableError):  # of figures that are made up
            holds(condition, _with_letters(dict.fromkeys(task.recipes, known)))


def condition_figures(evaluated: Sequence[Evaluated]) -> dict[str, dict[str, Any]]:
    """Return what a condition may read, by recipe: metrics with `low` and `high`, tokens of a row, seconds, calls."""
    figures: dict[str, dict[str, Any]] = {}
    for one in evaluated:
        metrics = {
            name: {"value": figure.value, "low": figure.interval.low, "high": figure.interval.high}
            for name, figure in one.figures.items()
        }
        cost = {"tokens": one.cost.tokens_per_row, "seconds": one.cost.seconds, "calls": one.cost.calls}
        figures[one.name] = {**metrics, **cost, "failed": one.n_failed}
    return _with_letters(figures)


def _with_letters(figures: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Let A, B, C stand for the recipes in their order, unless one is called so."""
    return {**dict(zip(string.ascii_uppercase, figures.values(), strict=False)), **figures}


def _tell(
    show: Show, record: dict[str, Any], evaluated: Sequence[Evaluated], differences: Sequence[Difference],
    data: TaskRows,
) -> None:  # fmt: skip
    if show.as_json:
        json.dump(record, sys.stdout, ensure_ascii=False, default=str)
        sys.stdout.write("\n")
        return
    if len(evaluated) == 1:
        print_evaluated(evaluated[0], len(data.rows))
        return
    metrics = list(evaluated[0].figures)
    rows = [
        (one.name + failures(one), *(shown(one.figures[metric]) for metric in metrics),
         f"{one.cost.tokens_per_row:,.0f}", f"{one.cost.seconds:.1f}")
        for one in evaluated
    ]  # fmt: skip
    headings = ("recipe", *metrics, "tokens/row", "seconds")
    print_lines(f"{len(data.rows):,} rows", headings, rows, right=(len(metrics) + 1, len(metrics) + 2))
    print_differences(differences)
    print_leanings(evaluated)
    for one in evaluated:
        for column, values in one.slices.items():
            table = [(value, *(shown(figures[m]) for m in metrics)) for value, figures in values.items()]
            print_lines(f"\n{one.name} by {column}", (column, *metrics), table)
    _print_front(record)
    _print_examples(record["examples"])
    typer.echo("")
    for one in evaluated:
        typer.echo(f"{one.name}: {told_cost(one.cost)}")


def print_differences(differences: Sequence[Difference]) -> None:
    """Print each difference with its interval, test and verdict."""
    rows = []
    for one in differences:
        won = f"{one.wins}/{one.ties}/{one.losses}" if one.wins + one.ties + one.losses else "-"
        verdict = "no difference shown" if one.better is None else f"{one.better} is better"
        difference = f"{one.value:+.3f} {one.interval}"
        rows.append((f"{one.second} - {one.first}", one.metric, difference, won, shown_p(one.p_holm), verdict))
    headings = ("difference", "metric", "value [95% interval]", "win/tie/loss", "p (Holm)", "verdict")
    print_lines("", headings, rows)


def _print_front(record: Mapping[str, Any]) -> None:
    front = [point["recipe"] for point in record["front"] if point["front"]]
    typer.echo(f"\nno other is better at the same cost: {', '.join(front)}")


def _print_examples(found: Mapping[str, Sequence[Mapping[str, Any]]], most: int = 3) -> None:
    for other, rows in found.items():
        if rows:
            typer.echo(f"\nwhere {other} differs most:")
        for row in rows[:most]:
            expected = " | ".join(row["expected"])
            typer.echo(f"  row {row['row']}, expected {_short(expected)}")
            for name, answer in row["answers"].items():
                typer.echo(f"    {name} ({row['scores'][name]:.2f}): {_short(answer)}")


def _short(text: str | None, width: int = 100) -> str:
    if text is None:
        return "(failed)"
    line = " ".join(printable(text).split())
    return line if len(line) <= width else line[: width - 1] + "…"
