"""Searches a recipe's declared choices on a part of the data, and measures what it found on the rest.

Successive halving (Jamieson and Talwalkar 2016, Non-stochastic Best Arm Identification): every setting is tried on a
few rows, the best third goes on to three times as many, until few are left. The rows it is confirmed on were seen by
no setting before. Invariant: no score of the part that was searched on is ever handed out, since the best of many
tries looks better there than it is.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import Field

from gristmill import UsageError
from gristmill_plugins.evaluation._compare import Difference, compare
from gristmill_plugins.evaluation._evaluate import (
    Evaluated,
    TaskRows,
    answer_rows,
    evaluate,
    read_task_rows,
    value_of,
)
from gristmill_plugins.evaluation._metrics import Metric
from gristmill_plugins.evaluation._records import prepare
from gristmill_plugins.evaluation._row_store import Rows
from gristmill_plugins.evaluation._runner import DEFAULT_EFFORT, Effort
from gristmill_plugins.evaluation._samples import Sample, column_value
from gristmill_plugins.evaluation._task_file import RecipeEntry, Task, check_file

if TYPE_CHECKING:
    from gristmill import Kernel

ETA = 3
LEAST_ROWS = 6
"""Fewer rows than this tell settings apart no better than a coin."""
AS_IT_IS, BEST = "as it is", "best"

Setting = dict[str, Any]
Told = Callable[[str], None]


class SearchFile(Task):
    """An evaluation file with `recipe` and `tune` instead of `recipes`: what to search, and how much it may cost."""

    evaluation: Literal[1] = 1
    optimize: Literal[1] = 1
    recipe: str
    tune: dict[str, list[Any]] = Field(min_length=1)
    """`step.key` or `models.name.key`, as with `--set`, to the values it may have."""
    budget: int = Field(default=600, ge=20)
    """Rows that may be run while searching, over all settings."""
    holdout: float = Field(default=0.5, gt=0, lt=1)
    """The share of the rows that the best is confirmed on."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found. `confirmed`: the recipe as it is and the best setting, on the rows held out."""

    setting: Setting
    confirmed: tuple[Evaluated, Evaluated]
    differences: tuple[Difference, ...]
    rounds: tuple[tuple[int, int], ...]
    """Of each round: how many settings, on how many rows."""
    rows_spent: int
    held_out: TaskRows


def read_search(path: Path) -> SearchFile:
    """Read a search's file.

    Raises:
        UsageError: it cannot be read, or says what means nothing.
    """
    search = check_file(path, SearchFile, paths=("data",))
    if "/" in search.recipe or search.recipe.endswith((".yaml", ".yml")):
        search = search.model_copy(update={"recipe": str(path.parent / search.recipe)})
    if search.fail_if:
        raise UsageError(f"{path}: 'fail_if' is for eval and compare", hint="compare the recipe with its best setting")
    for key, values in search.tune.items():
        if len(values) < 1:
            raise UsageError(f"{path}: tune.{key} has no values", hint="a list of two or more")
    return search


def optimize(kernel: Kernel, search: SearchFile, effort: Effort = DEFAULT_EFFORT, tell: Told = lambda _: None) -> Found:
    """Search, then measure the best setting and the recipe as it is on the rows held out.

    Raises:
        UsageError: the file does not fit the recipe or the data.
    """
    metric = search.plain_metrics()[0]
    prepare(kernel)
    data = read_task_rows(search)
    train, held_out = _split(data, search)
    settings = _settings(search)
    for setting in settings:  # every mistake shows before the first row runs
        _task(search, {AS_IT_IS: {}, BEST: setting}).load(kernel, BEST)
    plan = make_plan(len(settings), search.budget, len(train))
    chosen = [{}, *random.Random(search.seed).sample(settings[1:], plan[0][0] - 1)]
    tell(f"{len(settings):,} settings, {len(train):,} rows to search on, {len(held_out.rows):,} to confirm on")
    best, spent = _halve(kernel, search, chosen, train, plan, metric, effort, tell)
    task = _task(search, {AS_IT_IS: {}, BEST: best})
    first = evaluate(kernel, task, AS_IT_IS, held_out, effort)
    second = evaluate(kernel, task, BEST, held_out, effort)
    differences = compare([first, second], seed=search.seed) if best else []
    return Found(best, (first, second), tuple(differences), tuple(plan), spent, held_out)


def _split(data: TaskRows, search: SearchFile) -> tuple[Rows, TaskRows]:
    """Part the rows by chance; perturbed forms of one row stay together."""
    pairs: dict[str, list[int]] = {}
    column = search.columns.pair
    for place, row in enumerate(data.rows):
        pairs.setdefault(str(column_value(row.data, column)) if column else str(place), []).append(place)
    order = list(pairs.values())
    random.Random(search.seed).shuffle(order)
    n_held = max(1, round(len(order) * search.holdout))
    held = data.rows.pick(place for group in order[:n_held] for place in group)
    train = data.rows.pick(place for group in order[n_held:] for place in group)
    if len(train) < LEAST_ROWS or len(held) < LEAST_ROWS:
        raise UsageError(f"{search.data}: {len(data.rows)} rows are too few to search on one part and confirm on "
                         "another", hint=f"each part has {LEAST_ROWS} rows or more")  # fmt: skip
    return train, TaskRows(data.file, held)


def _settings(search: SearchFile) -> list[Setting]:
    """Return every combination, the recipe as it is first."""
    keys = list(search.tune)
    n = math.prod(len(values) for values in search.tune.values())
    if n > 100_000:
        raise UsageError(f"tune has {n:,} combinations", hint="100,000 at most: leave values out")
    return [{}, *(dict(zip(keys, values, strict=True)) for values in itertools.product(*search.tune.values()))]


def make_plan(n_settings: int, budget: int, n_rows: int) -> list[tuple[int, int]]:
    """Return how many settings run on how many rows in each round, within the budget of rows.

    A setting that goes on runs on the new rows only. Fewer settings take part where the budget gives each too few rows.
    """
    for n in range(n_settings, 1, -1):
        rounds = max(1, math.floor(math.log(n, ETA) + 1e-9))
        alive = [max(2, math.ceil(n / ETA**turn)) for turn in range(rounds)]
        for rows in range(n_rows, LEAST_ROWS - 1, -1):
            upto = [max(LEAST_ROWS, rows // ETA ** (rounds - 1 - turn)) for turn in range(rounds)]
            new = [upto[0], *(b - a for a, b in itertools.pairwise(upto))]
            if sum(a * r for a, r in zip(alive, new, strict=True)) <= budget:
                return list(zip(alive, upto, strict=True))
    raise UsageError(f"a budget of {budget} rows is too little to tell two settings apart", hint="raise `budget`")


def _halve(
    kernel: Kernel, search: SearchFile, settings: Sequence[Setting], train: Rows,
    plan: Sequence[tuple[int, int]], metric: Metric, effort: Effort, tell: Told,
) -> tuple[Setting, int]:  # fmt: skip
    seen: dict[int, list[Sample]] = {place: [] for place in range(len(settings))}
    alive, spent = list(seen), 0
    for turn, (n_alive, upto) in enumerate(plan):
        alive = alive[:n_alive]
        for place in alive:
            new = train[len(seen[place]) : upto]
            if new:
                task = _task(search, {AS_IT_IS: {}, BEST: settings[place]})
                samples, _ = answer_rows(task.load(kernel, BEST), task, BEST, new, effort)
                seen[place] += samples
                spent += len(new)
        sign = -1 if metric.lower_is_better else 1
        values = {place: value_of(metric, seen[place]) for place in alive}
        # of equals the earlier one: the recipe as it is stands first
        alive.sort(key=lambda place: (-sign * _number(values[place], sign), place))
        tell(f"round {turn + 1} of {len(plan)}: {len(values)} settings on {upto} rows each")
    return settings[alive[0]], spent


def _number(value: float | None, sign: int) -> float:
    return -math.inf * sign if value is None else value


def _task(search: SearchFile, settings: dict[str, Setting]) -> Task:
    fields = {name: getattr(search, name) for name in Task.model_fields}
    entries = {name: RecipeEntry(recipe=search.recipe, set=setting) for name, setting in settings.items()}
    return Task(**(fields | {"recipes": entries}))


def as_options(setting: Setting) -> Iterator[str]:
    """Yield a setting as options of `gristmill run`."""
    for key, value in setting.items():
        plain = isinstance(value, str) and value.isalpha() and yaml.safe_load(value) == value
        text = value if plain else json.dumps(value, ensure_ascii=False)
        yield f"--set {shlex.quote(f'{key}={text}')}"
