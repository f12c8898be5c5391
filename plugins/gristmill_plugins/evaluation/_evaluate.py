"""Runs recipes on the rows of a task and scores what they answer.

Everything that a report, a comparison or a search says is computed from what is returned here; it prints nothing. An
answer and its scores are held for every row, the row itself is not: data of any size are read, whatever the memory.
Invariant: every recipe of a task meets the same rows in the same order, so that scores of one index belong together.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from statistics import fmean
from typing import TYPE_CHECKING, Any

from gristmill import UsageError
from gristmill_plugins.evaluation._cost import Cost, Spent
from gristmill_plugins.evaluation._identity import Identity, identify
from gristmill_plugins.evaluation._inputs import map_inputs
from gristmill_plugins.evaluation._leaning import Leaning, leaning
from gristmill_plugins.evaluation._metrics import Metric
from gristmill_plugins.evaluation._plain import jsonable
from gristmill_plugins.evaluation._row_store import Rows
from gristmill_plugins.evaluation._rows import DataFile, Row, look_at, need_column, read_rows, value_at
from gristmill_plugins.evaluation._runner import DEFAULT_EFFORT, Effort, Outcome, run_rows
from gristmill_plugins.evaluation._samples import Sample
from gristmill_plugins.evaluation._statistics import Interval, bootstrap_interval, mean_interval
from gristmill_plugins.evaluation._task_file import RecipeMetric, Task

if TYPE_CHECKING:
    from gristmill import Kernel, RunnableRecipe

Progress = Callable[[int, int, int], None]


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric's outcome. `scores` are the rows', in order: None for a set metric, or where a row has none."""

    metric: str
    value: float | None
    interval: Interval
    n: int
    lower_is_better: bool = False
    scores: tuple[float | None, ...] | None = None


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One recipe, measured. `samples` holds those of the first repeat."""

    name: str
    identity: Identity
    figures: dict[str, Figure]
    slices: dict[str, dict[str, dict[str, Figure]]]
    """Column, value, metric."""
    cost: Cost
    n_failed: int
    rows: Rows = field(repr=False)
    samples: tuple[Sample, ...] = field(repr=False)
    repeats: tuple[tuple[Sample, ...], ...] = field(repr=False)
    spread: dict[str, float] = field(default_factory=dict)
    """Standard deviation of each figure over repeats, where there are several."""
    leaning: Leaning | None = None
    """What the first repeat answered far more often than it is right."""


@dataclass(frozen=True, slots=True)
class TaskRows:
    """The rows of a task, read once."""

    file: DataFile
    rows: Rows


def read_task_rows(task: Task) -> TaskRows:
    """Read the rows that a task is about.

    Raises:
        UsageError: a row cannot be read, a column is missing, or no row is left.
    """
    file = look_at(task.data)
    rows = Rows(islice(_wanted(task), task.limit))
    if not rows:
        raise UsageError(f"{task.data}: no row is left to evaluate", hint="see `where` and `limit`")
    for column in task.slices:
        need_column(rows[0].data, column, "a slice asks for")
    return TaskRows(file, rows)


def _wanted(task: Task) -> Iterator[Mapping[str, Any]]:
    checked = False
    for row in _exploded(read_rows(task.data), task.explode):
        if row.error is not None:
            raise UsageError(row.error, hint="mend the data: an evaluation leaves no row out")
        for column in () if checked else task.where:
            need_column(row.data, column, "`where` asks for")
        checked = True
        if all(_value(row.data, column) == value for column, value in task.where.items()):
            yield row.data


def _value(data: Mapping[str, Any], column: str) -> Any:
    """Return a column's value, None where a row has none."""
    try:
        return value_at(data, column)
    except KeyError:
        return None


def _exploded(rows: Iterator[Row], column: str | None) -> Iterator[Row]:
    """Make one row of each item of a list: the first is the original, the others its perturbed forms."""
    for row in rows:
        if column is None or row.error is not None:
            yield row
            continue
        need_column(row.data, column, "`explode` asks for")
        pair, items = row.data.get("id", row.number), value_at(row.data, column)
        if not isinstance(items, list | tuple):
            raise UsageError(f"row {row.number}: `explode` makes rows of the items of a list, and {column!r} is "
                             f"{jsonable(items)!r:.60}")  # fmt: skip
        for place, item in enumerate(items):
            yield Row(row.number, {**row.data, column: item, "pair": pair, "perturbed": place > 0})


def check_task(kernel: Kernel, task: Task, data: TaskRows) -> None:
    """Find what would stop an evaluation later: a recipe, an input, a judge, a column that some row has not.

    Raises:
        UsageError: the task does not fit its recipes or its data.
        RecipeError: a recipe has mistakes.
    """
    for name in task.recipes:
        map_inputs(task.load(kernel, name), task.map, task.inputs, data.rows[0])
    for metric in task.recipe_metrics():
        kernel.recipe(metric.recipe)
    columns = task.columns
    for row in data.rows:
        try:
            columns.of(row.data)
        except UsageError as error:
            raise UsageError(f"{task.data}: row {row.number}: {error.message}", hint=error.hint) from error


def evaluate(
    kernel: Kernel, task: Task, name: str, data: TaskRows, effort: Effort = DEFAULT_EFFORT,
    progress: Progress = lambda *_: None,
) -> Evaluated:  # fmt: skip
    """Run one recipe of a task on its rows, as often as it says, and score the answers.

    Raises:
        UsageError: the task does not fit the recipe or the data.
        GristmillError: a model cannot be loaded.
    """
    metrics = task.plain_metrics()
    repeats, costs = [], []
    for repeat in range(task.repeats):
        loaded = task.load(kernel, name, _seeds(kernel, task, name, repeat))
        samples, cost = answer_rows(loaded, task, name, data.rows, effort, progress)
        repeats.append(samples)
        costs.append(cost)
    if all(sample.error for sample in repeats[0]):
        raise UsageError(f"{name}: every row failed; the first: {repeats[0][0].error}")
    _check_needs(metrics, repeats[0], name)
    recipe_scores = [_recipe_scores(kernel, metric, repeats, data.rows, effort) for metric in task.recipe_metrics()]
    everything = range(len(data.rows))
    return Evaluated(
        name,
        identify(task.load(kernel, name), task.entry(name).overrides()),
        _figures(metrics, recipe_scores, repeats, everything, task.seed),
        _slices(task, metrics, recipe_scores, repeats, data),
        Cost.total(costs),
        sum(sample.error is not None for samples in repeats for sample in samples),
        data.rows,
        repeats[0],
        tuple(repeats),
        _spread(metrics, repeats) if task.repeats > 1 else {},
        leaning(data.rows, repeats[0]),
    )


def _seeds(kernel: Kernel, task: Task, name: str, repeat: int) -> dict[str, str]:
    """Give every prompt step of a repeat a seed of its own; the first repeat is the recipe as it stands."""
    if repeat == 0:
        return {}
    steps = task.load(kernel, name).recipe.steps
    drawn = [step for step, entry in steps.items() if hasattr(entry.work, "seed")]
    return {f"{step}.seed": str(task.seed + 1_000_003 * repeat) for step in drawn}


def answer_rows(
    loaded: RunnableRecipe, task: Task, name: str, rows: Rows, effort: Effort = DEFAULT_EFFORT,
    progress: Progress = lambda *_: None,
) -> tuple[tuple[Sample, ...], Cost]:  # fmt: skip
    """Run a recipe on some rows of its task, and return the answers in the order of the rows, and what they cost.

    Raises:
        UsageError: the task does not fit the recipe or the data.
    """
    inputs = map_inputs(loaded, task.map, task.inputs, rows[0])
    columns, reading, n_rows = task.columns, task.reading(name), len(rows)
    columns.of(rows[0].data)  # a column that is not there is told before a model loads
    keeps_passages = task.recipe_metrics() or any("passages" in metric.needs for metric in task.plain_metrics())
    samples: list[Sample | None] = [None] * n_rows
    spent = Spent()
    counts = {"done": 0, "failed": 0}

    def take(outcome: Outcome) -> None:
        parts = columns.of(outcome.row.data)
        if outcome.result is None:
            parts |= {"answer": None, "error": str(outcome.error).split("\n", 1)[0]}
            counts["failed"] += 1
        else:
            parts |= reading.read(outcome.result)
            if not keeps_passages:
                parts.pop("passages", None)
            spent.add(outcome.result.usage)
        samples[outcome.row.number - 1] = Sample(**parts)
        counts["done"] += 1
        progress(counts["done"], counts["failed"], n_rows)

    started = time.perf_counter()
    run_rows(loaded, _neighbours(rows, inputs.columns.values()), inputs, effort, take)
    cost = spent.cost(seconds=time.perf_counter() - started, n_rows=n_rows)
    return tuple(sample for sample in samples if sample is not None), cost


def _neighbours(rows: Rows, columns: Iterable[str]) -> Iterator[Row]:
    """Put rows with the same long text next to one another: an engine then reads what their prompts share once.

    The column that repeats most characters decides; groups stand where their first row stood. Texts are held as their
    hashes: two of one hash would stand together for nothing, and that is all.
    """
    looked_at = list(columns)
    first: dict[str, dict[int, int]] = {column: {} for column in looked_at}
    of_row: dict[str, array[int]] = {column: array("Q") for column in looked_at}
    repeated = dict.fromkeys(looked_at, 0)
    for place, row in enumerate(rows):
        for column in looked_at:
            text = row.data.get(column)
            earliest = first[column].setdefault(hash(text), place) if isinstance(text, str) else place
            of_row[column].append(earliest)
            repeated[column] += len(text) if isinstance(text, str) and earliest != place else 0
    best = max(looked_at, key=repeated.__getitem__, default=None)
    order = range(len(rows)) if best is None else sorted(range(len(rows)), key=of_row[best].__getitem__)
    return (rows[place] for place in order)


def _check_needs(metrics: Sequence[Metric], samples: Sequence[Sample], name: str) -> None:
    told = {
        "confidence": "a confidence: end the recipe with a Choice or a Vote, or say --confidence FIELD",
        "probabilities": "probabilities: end the recipe with a Choice, or say --probabilities FIELD",
        "passages": "passages: have the recipe put them out, or say --passages steps.NAME",
    }
    for metric in metrics:
        for need, what in told.items():
            if need in metric.needs and all(getattr(sample, need) is None for sample in samples):
                raise UsageError(f"the metric {metric.name!r} needs {what}", hint=f"{name} gave none for any row")


def _recipe_scores(
    kernel: Kernel, metric: RecipeMetric, repeats: Sequence[Sequence[Sample]], data: Rows, effort: Effort
) -> tuple[RecipeMetric, list[list[float | None]]]:
    """Score every answer with a recipe: the row's columns and `answer`, `expected`, `passages`, as it declares them."""
    judge = kernel.recipe(metric.recipe)
    wanted = set(judge.recipe.inputs)
    scores = []
    for samples in repeats:
        found: list[float | None] = [None] * len(samples)

        def take(outcome: Outcome, into: list[float | None] = found) -> None:
            if outcome.result is None:
                raise UsageError(f"the metric {metric.name!r} failed: {outcome.error}")
            into[outcome.row.number - 1] = _as_score(metric.name, outcome.result.output)

        answered = [place for place, sample in enumerate(samples) if sample.answer is not None]
        if answered:
            judged = (_judged(data[place], samples[place], wanted) for place in answered)
            first = _judged(data[answered[0]], samples[answered[0]], wanted)
            run_rows(judge, judged, map_inputs(judge, {}, {}, first), effort, take)
        worst = _worst(metric, found)
        scores.append([worst if sample.answer is None else score for score, sample in zip(found, samples, strict=True)])
    return metric, scores


def _worst(metric: RecipeMetric, found: Sequence[float | None]) -> float:
    """Return the score of a row that failed: the worst that any answer has, and no better than 0 (or 1 if less is)."""
    known = [score for score in found if score is not None]
    return max([1.0, *known]) if metric.lower_is_better else min([0.0, *known])


def _judged(row: Row, sample: Sample, wanted: set[str]) -> Row:
    known: dict[str, Any] = {**row.data, "answer": sample.answer, "expected": list(sample.expected)}
    if sample.passages is not None:
        known["passages"] = [dict(passage) for passage in sample.passages]
    return Row(row.number, {name: value for name, value in known.items() if name in wanted})


def _as_score(name: str, output: Any) -> float | None:
    value = output.get("score") if isinstance(output, dict) else output
    if value is None:
        return None
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return float(value)
    raise UsageError(f"the metric {name!r} must put out a number, or {{score: number}}; this is {output!r:.80}")


def _figures(
    metrics: Sequence[Metric],
    recipe_scores: Sequence[tuple[RecipeMetric, list[list[float | None]]]],
    repeats: Sequence[Sequence[Sample]],
    rows: Sequence[int],
    seed: int,
) -> dict[str, Figure]:
    figures = {}
    for metric in metrics:
        if metric.row is not None:
            score = metric.row
            scores = [_mean_of([score(samples[i]) for samples in repeats]) for i in rows]
            figures[metric.name] = _row_figure(metric.name, scores, metric.lower_is_better, seed)
        else:
            figures[metric.name] = _set_figure(metric, repeats, rows, seed)
    for judge, all_scores in recipe_scores:
        scores = [_mean_of([found[i] for found in all_scores]) for i in rows]
        figures[judge.name] = _row_figure(judge.name, scores, judge.lower_is_better, seed)
    return figures


def _mean_of(scores: Sequence[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return fmean(known) if known else None


def _row_figure(name: str, scores: Sequence[float | None], lower_is_better: bool, seed: int) -> Figure:
    known = [score for score in scores if score is not None]
    value = fmean(known) if known else None
    return Figure(name, value, mean_interval(known, seed=seed), len(known), lower_is_better, tuple(scores))


def _set_figure(metric: Metric, repeats: Sequence[Sequence[Sample]], rows: Sequence[int], seed: int) -> Figure:
    def of(indices: Sequence[int]) -> float | None:
        return figure_of(metric, repeats, [rows[i] for i in indices])

    drawn_from = clusters(metric, [repeats[0][i] for i in rows])
    interval = bootstrap_interval(of, len(rows), clusters=drawn_from, seed=seed, resamples=metric.resamples)
    possible = Interval(max(metric.least, interval.low), min(metric.most, interval.high))
    return Figure(metric.name, of(range(len(rows))), possible, len(rows), metric.lower_is_better)


def value_of(metric: Metric, samples: Sequence[Sample]) -> float | None:
    """Return a metric's value of some answers."""
    if metric.row is None:
        return figure_of(metric, [samples], range(len(samples)))
    return _mean_of([metric.row(sample) for sample in samples])


def clusters(metric: Metric, samples: Sequence[Sample]) -> list[list[int]] | None:
    """Return which rows are drawn together: those of one pair, for a metric of pairs."""
    if "pair" not in metric.needs:
        return None
    members: dict[str | None, list[int]] = {}
    for index, sample in enumerate(samples):
        members.setdefault(sample.pair, []).append(index)
    return list(members.values())


def figure_of(metric: Metric, repeats: Sequence[Sequence[Sample]], rows: Sequence[int]) -> float | None:
    """Return a set metric's figure of some rows, the mean over repeats."""
    assert metric.figure is not None
    return _mean_of([metric.figure([samples[i] for i in rows]) for samples in repeats])


def _slices(
    task: Task, metrics: Sequence[Metric], recipe_scores: Any, repeats: Sequence[Sequence[Sample]], data: TaskRows
) -> dict[str, dict[str, dict[str, Figure]]]:
    found: dict[str, dict[str, dict[str, Figure]]] = {}
    for column in task.slices:
        members: dict[str, list[int]] = {}
        for index, row in enumerate(data.rows):
            members.setdefault(str(_value(row.data, column)), []).append(index)
        found[column] = {
            value: _figures(metrics, recipe_scores, repeats, rows, task.seed) for value, rows in sorted(members.items())
        }
    return found


def _spread(metrics: Sequence[Metric], repeats: Sequence[Sequence[Sample]]) -> dict[str, float]:
    from statistics import stdev

    spread = {}
    for metric in metrics:
        values = [value for samples in repeats if (value := value_of(metric, samples)) is not None]
        if len(values) > 1:
            spread[metric.name] = stdev(values)
    return spread
