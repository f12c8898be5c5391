"""Climbs the ladder of a task: runs each rung's recipe on the same rows, and says what it gained and cost.

A rung is climbed when it is shown to be better than the one that stands: the paired test at 0.05. It makes no claim for
several rungs at once but in the last table, whose p-values are adjusted together. Invariant: a rung that could not be
run is named with the reason, never left out silently.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gristmill import GristmillError, UsageError, suggest
from gristmill_plugins.evaluation._compare import Difference, compare
from gristmill_plugins.evaluation._evaluate import Evaluated, TaskRows, evaluate, read_task_rows
from gristmill_plugins.evaluation._print import shown, shown_p
from gristmill_plugins.evaluation._records import prepare
from gristmill_plugins.evaluation._rungs import RUNGS, LadderFile, lacks, rung_recipe
from gristmill_plugins.evaluation._runner import DEFAULT_EFFORT, Effort
from gristmill_plugins.evaluation._task_file import RecipeEntry, Task, check_file

if TYPE_CHECKING:
    from gristmill import Kernel

_SIGN = "# gristmill ladder wrote this, and writes it anew unless it was edited: "
Told = Callable[[str], None]
WatchRows = Callable[[str], Callable[[int, int, int], None]]


@dataclass(slots=True)
class Climb:
    """How far a task's ladder was climbed. `standing` is the rung to stop at."""

    evaluated: list[Evaluated] = field(default_factory=list)
    steps: list[Difference | None] = field(default_factory=list)
    """Each rung against the one that stood then; None for the first."""
    skipped: dict[str, str] = field(default_factory=dict)
    standing: Evaluated | None = None
    against_first: list[Difference] = field(default_factory=list)


def read_ladder(path: Path) -> LadderFile:
    """Read a task file.

    Raises:
        UsageError: it cannot be read, or says what means nothing.
    """
    task = check_file(path, LadderFile, paths=("data", "documents", "adapter"))
    file = task.model.get("model")
    if isinstance(file, str) and "/" in file and not file.startswith("hf:"):
        task = task.model_copy(update={"model": {**task.model, "model": str((path.parent / file).absolute())}})
    if task.fail_if:
        raise UsageError(f"{path}: 'fail_if' is for eval and compare", hint="a ladder says itself where to stop")
    if task.rungs is not None and not task.rungs:
        raise UsageError(f"{path}: 'rungs' is empty", hint=f"leave it out for all of {', '.join(RUNGS)}")
    for rung in task.rungs or ():
        if rung not in RUNGS:
            raise UsageError(f"{path}: there is no rung {rung!r}", hint=suggest(rung, RUNGS))
    if not task.metrics:
        raise UsageError(f"{path}: 'metrics' is missing", hint="the first one decides: metrics: [f1]")
    return task


def climb(
    kernel: Kernel, task: LadderFile, folder: Path, effort: Effort = DEFAULT_EFFORT, tell: Told = lambda _: None,
    watch: WatchRows = lambda _: lambda *_: None,
) -> tuple[Climb, TaskRows]:  # fmt: skip
    """Write each rung's recipe into a folder, run it, and tell what it gained and cost.

    Raises:
        UsageError: the task does not fit its data, or not one rung could be run.
    """
    data = read_task_rows(task)
    prepare(kernel)
    _make(folder)
    climbed = Climb()
    for rung in task.rungs or RUNGS:
        reason = lacks(task, rung)
        if reason is None:
            reason = _run(kernel, task, rung, folder, data, effort, climbed, watch(rung))
        if reason is not None:
            climbed.skipped[rung] = reason
            tell(f"{rung}: left out, {reason}")
        else:
            tell(describe(climbed))
    if climbed.standing is None:
        raise UsageError("no rung of the ladder could be run: " + "; ".join(climbed.skipped.values()))
    if len(climbed.evaluated) > 1:
        metric = task.plain_metrics()[0].name
        climbed.against_first = [d for d in compare(climbed.evaluated, seed=task.seed) if d.metric == metric]
    return climbed, data


def _run(
    kernel: Kernel, task: LadderFile, rung: str, folder: Path, data: TaskRows, effort: Effort, climbed: Climb,
    progress: Callable[[int, int, int], None],
) -> str | None:  # fmt: skip
    """Run a rung and put it among the climbed; return why it could not be run, if so."""
    path = folder / f"{rung}.yaml"
    path.write_text(_signed(rung_recipe(task, rung)), encoding="utf-8")
    try:
        plain = as_task(kernel, task, rung, path)
        evaluated = evaluate(kernel, plain, rung, data, effort, progress)
    except GristmillError as error:
        return str(error).split("\n", 1)[0]
    climbed.evaluated.append(evaluated)
    if climbed.standing is None:
        climbed.standing = evaluated
        climbed.steps.append(None)
        return None
    step = compare([climbed.standing, evaluated], seed=task.seed)[0]
    climbed.steps.append(step)
    if step.better == rung:
        climbed.standing = evaluated
    return None


def as_task(kernel: Kernel, task: LadderFile, rung: str, path: Path) -> Task:
    """Return the evaluation of one rung: the task's own keys, and the inputs that its recipe takes."""
    declared = kernel.recipe(path).recipe.inputs
    fields: dict[str, Any] = {name: getattr(task, name) for name in Task.model_fields}
    constants = {"documents": str(Path(str(task.documents)).absolute())} if "documents" in declared else {}
    return Task(**(fields | {
        "recipes": {rung: RecipeEntry(recipe=str(path))}, "map": {"question": task.question}, "inputs": constants,
    }))  # fmt: skip


def describe(climbed: Climb) -> str:
    """Say what the last rung gained and cost."""
    last, step = climbed.evaluated[-1], climbed.steps[-1]
    figure = next(iter(last.figures.values()))
    told = f"{last.name}: {figure.metric} {shown(figure)}, {last.cost.tokens_per_row:,.0f} tokens/row"
    if step is None:
        return told
    gained = f"{step.value:+.3f} {step.interval} against {step.first}"
    verdict = "climbed" if step.better == last.name else "worse" if step.better else "no gain shown"
    return f"{told}; {gained}: {verdict}"


def table(climbed: Climb) -> list[tuple[str, ...]]:
    """Return the ladder's table: rung, figures, gain over the first, p, tokens of a row, seconds."""
    gains = {one.second: one for one in climbed.against_first}
    rows: list[tuple[str, ...]] = []
    for one in climbed.evaluated:
        gain = gains.get(one.name)
        mark = " <- stop here" if climbed.standing is one else ""
        rows.append((
            one.name, *(shown(figure) for figure in one.figures.values()),
            f"{gain.value:+.3f} {gain.interval}" if gain else "", shown_p(gain.p_holm) if gain else "",
            f"{one.cost.tokens_per_row:,.0f}", f"{one.cost.seconds:.1f}", mark.strip(),
        ))  # fmt: skip
    return rows


def keep_best(climbed: Climb, folder: Path, out: Path) -> None:
    """Copy the recipe of the rung to stop at."""
    assert climbed.standing is not None
    shutil.copyfile(folder / f"{climbed.standing.name}.yaml", out)


def check_places(folder: Path, best: Path | None) -> None:
    """Find out before anything runs whether a recipe that somebody edited, or another file, would be written over.

    Raises:
        UsageError: it would, or a place cannot be written.
    """
    if best is not None and not best.parent.is_dir():
        raise UsageError(f"{best}: there is no folder {best.parent}", hint="name a file in a folder that exists")
    for path in (*(folder / f"{rung}.yaml" for rung in RUNGS), *([best] if best else ())):
        if path.exists() and not _is_ours(path):
            raise UsageError(f"{path} is not as `gristmill ladder` wrote it, and would be written over",
                             hint="move it away, or name another place with --recipes and --best")  # fmt: skip


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: the recipes cannot be written there: {error.strerror}",
                         hint="name another folder with --recipes") from error  # fmt: skip


def _signed(recipe: str) -> str:
    """Return a recipe with a first line by which it is known again, as long as nobody has edited it."""
    return f"{_SIGN}{hashlib.sha256(recipe.encode()).hexdigest()[:16]}\n{recipe}"


def _is_ours(path: Path) -> bool:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return text.startswith(_SIGN) and text == _signed(text.partition("\n")[2])
