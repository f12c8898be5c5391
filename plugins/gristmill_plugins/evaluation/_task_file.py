"""What is to be measured: data, columns, metrics, recipes; from a YAML file or from options.

It reads and checks, and runs nothing. Every mistake of a file is told at once, by the path of its key. Invariant:
paths in a file are taken from the file's folder, those of options from the current one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gristmill import UsageError, suggest
from gristmill_plugins.evaluation._metrics import Metric, find_metrics
from gristmill_plugins.evaluation._samples import Columns, Reading

if TYPE_CHECKING:
    from gristmill import Kernel, RunnableRecipe


T = TypeVar("T", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RecipeMetric(_Strict):
    """A metric that is a recipe; of the row's columns, `answer`, `expected` and `passages` it gets what it declares."""

    name: str
    recipe: str
    lower_is_better: bool = False


class RecipeEntry(_Strict):
    """One recipe of a task: its name or path, and what of it to change."""

    recipe: str
    set: dict[str, Any] = Field(default_factory=dict)
    model: dict[str, str] = Field(default_factory=dict)
    answer: str | None = None
    confidence: str | None = None
    probabilities: str | None = None
    passages: str | None = None

    def overrides(self) -> dict[str, str]:
        """Return what `Kernel.recipe(..., overrides=)` takes; JSON is YAML."""
        changed = {key: json.dumps(value, ensure_ascii=False) for key, value in self.set.items()}
        return changed | {f"models.{name}.model": json.dumps(file) for name, file in self.model.items()}


class Task(_Strict):
    """What `gristmill eval` and `compare` measure."""

    evaluation: Literal[1] = 1
    name: str = ""
    data: Path
    limit: int | None = Field(default=None, ge=1)
    where: dict[str, Any] = Field(default_factory=dict)
    explode: str | None = None
    map: dict[str, str] = Field(default_factory=dict)
    inputs: dict[str, Any] = Field(default_factory=dict)
    expect: str | None = None
    relevant: str | None = None
    group: str | None = None
    pair: str | None = None
    perturbed: str | None = None
    answer: str | None = None
    confidence: str | None = None
    probabilities: str | None = None
    passages: str | None = None
    metrics: list[str | RecipeMetric] = Field(default_factory=list)
    slices: list[str] = Field(default_factory=list)
    repeats: int = Field(default=1, ge=1, le=100)
    seed: int = 0
    recipes: dict[str, str | RecipeEntry] = Field(default_factory=dict)
    fail_if: list[str] = Field(default_factory=list)

    @property
    def columns(self) -> Columns:
        """Which columns hold what the metrics need; an exploded one brings its pairs with it."""
        exploded = {"pair": "pair", "perturbed": "perturbed"} if self.explode else {}
        given = {name: getattr(self, name) for name in ("expect", "relevant", "group", "pair", "perturbed")}
        return Columns(**(given | {name: given[name] or column for name, column in exploded.items()}))

    def entry(self, name: str) -> RecipeEntry:
        """Return a recipe of the task; what it does not say itself is the task's."""
        entry = self.recipes[name]
        return RecipeEntry(recipe=entry) if isinstance(entry, str) else entry

    def reading(self, name: str) -> Reading:
        """Return where a recipe's answers stand."""
        entry = self.entry(name)
        fields = ("answer", "confidence", "probabilities", "passages")
        return Reading(**{field: getattr(entry, field) or getattr(self, field) for field in fields})

    def load(self, kernel: Kernel, name: str, more: Mapping[str, str] | None = None) -> RunnableRecipe:
        """Return a recipe of the task, ready to run, with `more` overrides on top of its own."""
        entry = self.entry(name)
        return kernel.recipe(entry.recipe, overrides={**entry.overrides(), **(more or {})})

    def plain_metrics(self) -> list[Metric]:
        """Return the metrics that are no recipes, checked against the columns that are given.

        Raises:
            UsageError: a metric is unknown, there is none at all, or one needs a column that is not named.
        """
        found = find_metrics(name for name in self.metrics if isinstance(name, str))
        if not self.metrics:
            raise UsageError("no metric is asked for", hint="such as --metrics accuracy")
        for metric in found:
            for need, option in (("expected", "expect"), ("group", "group"), ("pair", "pair")):
                if need in metric.needs and getattr(self.columns, option) is None:
                    raise UsageError(f"the metric {metric.name!r} needs a column: --{option} COLUMN")
        return found

    def recipe_metrics(self) -> list[RecipeMetric]:
        """Return the metrics that are recipes."""
        return [metric for metric in self.metrics if isinstance(metric, RecipeMetric)]


def read_task(path: Path) -> Task:
    """Read an evaluation file.

    Raises:
        UsageError: it cannot be read, or says what means nothing; with every mistake.
    """
    return check_file(path, Task, paths=("data",))


def check_file(path: Path, model: type[T], *, paths: tuple[str, ...]) -> T:
    """Read a YAML file as a model; `paths` are its keys that hold paths, which become relative to the file.

    Raises:
        UsageError: with every mistake.
    """
    from gristmill.commands import read_document

    values = read_document(path)
    for key in paths:
        if isinstance(values.get(key), str):
            values[key] = str(path.parent / Path(values[key]).expanduser())
    if isinstance(values.get("recipes"), dict):
        values["recipes"] = {name: _beside(path.parent, entry) for name, entry in values["recipes"].items()}
    if isinstance(values.get("metrics"), list):
        values["metrics"] = [_beside(path.parent, m) if isinstance(m, dict) else m for m in values["metrics"]]
    return check_values(str(path), values, model)


def _beside(folder: Path, entry: Any) -> Any:
    if isinstance(entry, dict):
        return {**entry, "recipe": _beside(folder, entry["recipe"])} if isinstance(entry.get("recipe"), str) else entry
    if isinstance(entry, str) and ("/" in entry or entry.endswith((".yaml", ".yml"))):
        return str(folder / Path(entry).expanduser())
    return entry


def check_values(where: str, values: Mapping[str, Any], model: type[T]) -> T:
    """Return values as a model.

    Raises:
        UsageError: with every mistake, one a line.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        told = [f"{where}: {_told(part, model)}" for part in error.errors()]
        raise UsageError("\n".join(dict.fromkeys(told))) from error


def _told(part: Any, model: type[BaseModel]) -> str:
    place = ".".join(str(step) for step in part["loc"] if step not in ("str", "RecipeEntry", "RecipeMetric"))
    if part["type"] == "extra_forbidden":
        hint = suggest(str(part["loc"][-1]), model.model_fields) if len(part["loc"]) == 1 else "it means nothing here"
        return f"{place!r} is no key of this file: {hint}"
    if part["type"] == "missing":
        return f"{place!r} is missing"
    return f"{place}: {part['msg']}, this is {part['input']!r:.60}"
