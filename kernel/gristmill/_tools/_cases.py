"""Runs the test cases of a recipe: on its models, on fakes, or on recorded answers.

What a file of cases may hold and how values are judged is in `_case_file`. It changes nothing of the kernel: models are
replaced for its own runs only. Invariant: "fake" and "replay" ask no model and read no cache.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gristmill._errors import GristmillError, UsageError
from gristmill._kernel import Kernel
from gristmill._language._diagnostics import shorten_path
from gristmill._language._recipe import ModelDeclaration, Recipe
from gristmill._lock import Lock
from gristmill._models import Model
from gristmill._runnable import ModelSource, RunnableRecipe
from gristmill._tools._case_file import Case, named_recipe, read_cases
from gristmill._work import bind_inputs
from gristmill.testing import FakeEmbedder, FakeModel, RecordedModel

Mode = Literal["real", "fake", "record", "replay"]
SUFFIX = ".test.yaml"


@dataclass(frozen=True, slots=True)
class CaseResult:
    """How one case went. Each failure says where it is expected, what, and what came instead."""

    name: str
    passed: bool
    failures: tuple[str, ...]
    elapsed_s: float


def run_cases(
    kernel: Kernel, recipe: str | Path, cases_path: Path | None = None, mode: Mode = "real"
) -> list[CaseResult]:
    """Run every case and return how each went, in the order of the file.

    Args:
        kernel: finds the recipe and runs it.
        recipe: a name or path; or the cases file itself, when it stands beside the recipe or names it.
        cases_path: the file of cases; by default `NAME.test.yaml` beside the recipe.
        mode: "real" asks the recipe's models; "fake" a FakeModel with each case's `answers`; "record" asks the models
            and writes `NAME.answers.json` beside the cases; "replay" answers from that file and loads no model.

    Raises:
        UsageError: there is no such recipe, no file of cases, or no recording.
        RecipeError: the recipe or the file of cases does not check; `diagnostics` has all the mistakes.
    """
    recipe, path = _locate(kernel, recipe, cases_path)
    runnable = kernel.recipe(recipe)
    cases = read_cases(path, runnable.recipe)
    recording = _Recording(kernel, runnable.recipe, path, mode) if mode in ("record", "replay") else None
    results = [_run_case(runnable, case, mode, recording) for case in cases]
    if recording is not None and mode == "record":
        recording.save()
    return results


def _locate(kernel: Kernel, recipe: str | Path, cases_path: Path | None) -> tuple[str | Path, Path]:
    """Return the recipe and the file of cases, from either."""
    if cases_path is None and str(recipe).endswith(SUFFIX):
        cases_path = Path(recipe)
        beside = cases_path.with_name(cases_path.name.removesuffix(SUFFIX) + ".yaml")
        recipe = named_recipe(cases_path) or beside
    found = kernel.library.find(recipe)
    path = cases_path or found.with_name(found.stem + SUFFIX)
    if not path.is_file():
        hint = "write cases there, or name another file: --cases FILE"
        raise UsageError(f"recipe {str(recipe)!r} has no cases: there is no {shorten_path(path)}", hint=hint)
    return found, path


def _run_case(runnable: RunnableRecipe, case: Case, mode: Mode, recording: _Recording | None) -> CaseResult:
    started = time.perf_counter()
    failures: list[str] = []
    if mode == "fake" and case.answers is None:
        failures.append("the case has no `answers` for a fake model to give")
    else:
        source = _fake_models(case) if mode == "fake" else recording.model_of if recording else None
        try:
            failures += _judged(runnable, case, source)
        except GristmillError as error:
            failures.append(str(error))
    return CaseResult(case.name, not failures, tuple(failures), time.perf_counter() - started)


def _judged(runnable: RunnableRecipe, case: Case, source: ModelSource | None) -> list[str]:
    """Run a case and return what did not hold.

    Raises:
        GristmillError: the run failed.
    """
    result = runnable.run_with(case.inputs, cache_mode="off" if source else None, model_of=source)
    steps = {name: step.value for name, step in result.steps.items()}
    names = {"output": result.output, "steps": steps, "inputs": bind_inputs(runnable.recipe, case.inputs)}
    failures = []
    for expected in case.expectations:
        value = result.output if expected.step is None else steps[expected.step]
        if failure := expected.judge(value, names):
            failures.append(f"{expected.where}: {failure}")
    return failures


def _fake_models(case: Case) -> ModelSource:
    """Return a source of one FakeModel, so that all models of a recipe take turns at a list of answers."""
    assert case.answers is not None
    model, embedder = FakeModel(case.answers), FakeEmbedder()

    def model_of(declaration: ModelDeclaration) -> Any:
        if declaration.provider.makes == "model":
            return model
        return (
            embedder if declaration.provider.makes == "embedder" else declaration.provider.call(**declaration.arguments)
        )

    return model_of


class _Recording:
    """The answers of a recipe's models in one file, by model; a called recipe's model is "step/name"."""

    def __init__(self, kernel: Kernel, recipe: Recipe, cases_path: Path, mode: Mode) -> None:
        self.path = cases_path.with_name(cases_path.name.removesuffix(SUFFIX) + ".answers.json")
        self.kernel = kernel
        self.recording = mode == "record"
        self.labels = _labels(recipe, "")
        self.models: dict[str, RecordedModel] = {}
        if self.recording:
            Lock(recipe).verify(kernel.model_of)
        self.answers: dict[str, Any] = {} if self.recording else self._load()

    def _load(self) -> dict[str, Any]:
        try:
            answers = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UsageError(f"there is no recording {shorten_path(self.path)}", hint="make it: --record") from error
        except (OSError, ValueError) as error:
            raise UsageError(f"{shorten_path(self.path)}: the recording cannot be read: {error}") from error
        if not isinstance(answers, dict) or not all(isinstance(part, dict) for part in answers.values()):
            raise UsageError(f"{shorten_path(self.path)}: this is no recording", hint="make it anew: --record")
        return answers

    def model_of(self, declaration: ModelDeclaration) -> Model:
        """Return a model that records or replays; embedders and stores are the real ones."""
        if declaration.provider.makes != "model":
            return self.kernel.model_of(declaration)
        label = self.labels.get(id(declaration), declaration.name)
        if label not in self.models:
            inner = self.kernel.model_of(declaration) if self.recording else None
            model = self.models[label] = RecordedModel(self.path / label, inner)
            model.recorded = self.answers.setdefault(label, {})
        return self.models[label]

    def save(self) -> None:
        partial = self.path.with_name(self.path.name + ".part")
        partial.write_text(
            json.dumps(self.answers, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        partial.replace(self.path)


def _labels(recipe: Recipe, prefix: str) -> dict[int, str]:
    labels: dict[int, str] = {}
    for name, called in recipe.sub_recipes().items():
        labels |= _labels(called, f"{prefix}{name}/")
    return labels | {id(model): prefix + name for name, model in recipe.models.items()}
