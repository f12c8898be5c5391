"""A lock pins all that a recipe depends on, wherever it is named, and a run that differs is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gristmill import Kernel, RecipeError, RecipeRef, RunnableRecipe, UsageError, function
from gristmill._lock import lock_path, make_lock, write_lock
from gristmill.testing import FakePlugin

HEAD = "version: 1\nmodels: {main: {use: fake}}\n"
SUB = "version: 1\ninputs: {q: string}\nmodels: {inner: {use: fake}}\nsteps: {s: {prompt: '${inputs.q}'}}\n"
CALL = "steps: {a: {recipe: ./sub.yaml, with: {q: hello}}}\n"


class Writer:
    """Writes recipes into one folder."""

    def __init__(self, kernel: Kernel, folder: Path) -> None:
        self.kernel = kernel
        self.folder = folder

    def __call__(self, text: str, name: str = "r.yaml") -> RunnableRecipe:
        (self.folder / name).write_text(text)
        return self.kernel.recipe(self.folder / name)

    def pins(self, text: str) -> dict[str, str]:
        found: dict[str, str] = make_lock(self(text).recipe, self.kernel.model_of)["pins"]
        return found


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Writer]:
    with Kernel(plugins={"fake": FakePlugin("yes")}, cache=False) as kernel:
        writer = Writer(kernel, tmp_path)
        writer(SUB, "sub.yaml")
        yield writer


def test_a_run_with_a_lock_refuses_what_differs(write: Writer) -> None:
    ready = write(HEAD + CALL)
    write_lock(ready.recipe, write.kernel.model_of)
    assert ready.run().output.text == "yes"
    write(SUB.replace("${inputs.q}", "${inputs.q}!"), "sub.yaml")
    with pytest.raises(UsageError, match=r"r\.lock\.json does not match what is here:\n  steps\.a\.recipe: locked "):
        write(HEAD + CALL).run()


@pytest.mark.parametrize("text", ["", "[]", '{"lock": 99}', "\x00"])
def test_a_lock_that_is_none_is_refused(write: Writer, text: str) -> None:
    ready = write(HEAD + CALL)
    lock_path(ready.recipe).write_text(text)
    for _ in range(2):
        with pytest.raises(UsageError, match=r"(no lock of version 1|the lock cannot be read)"):
            ready.run()


def test_a_lock_that_is_written_changed_or_deleted_later_counts_from_the_next_run(write: Writer) -> None:
    ready = write(HEAD + CALL)
    ready.run()
    path = write_lock(ready.recipe, write.kernel.model_of)
    ready.run()
    path.write_text('{"lock": 1, "pins": {}}')
    with pytest.raises(UsageError, match=r"steps\.a\.recipe: locked nothing, now "):
        ready.run()
    path.unlink()
    assert ready.run().output.text == "yes"


def test_recipes_and_models_are_pinned_where_members_name_them(write: Writer) -> None:
    deep = (
        "version: 1\ninputs: {q: string}\n"
        "steps: {s: {use: ensemble.ask, with: {members: {x: {recipe: ./sub.yaml, inputs: {q: hi}}}}}}\n"
    )
    write(deep, "deep.yaml")
    pins = write.pins(
        HEAD + "steps:\n  a:\n    use: ensemble.ask\n    with:\n      prompt: hello\n      members:\n"
        "        one: {model: main}\n        two: {recipe: ./sub.yaml}\n        three: {recipe: ./deep.yaml}\n"
    )
    sub = write.kernel.check(write.folder / "sub.yaml").digest
    assert pins["steps.a../sub.yaml.recipe"] == sub
    assert pins["steps.a../deep.yaml.recipe"] == write.kernel.check(write.folder / "deep.yaml").digest
    assert pins["steps.a../deep.yaml.steps.s../sub.yaml.recipe"] == sub


class Panel:
    """Names recipes in a list."""

    @function
    async def ask(self, judges: list[RecipeRef]) -> list[str]:
        """Return the names."""
        return judges


def test_recipes_in_a_list_are_checked_and_pinned(tmp_path: Path) -> None:
    with Kernel(plugins={"fake": FakePlugin(), "panel": Panel()}, cache=False) as kernel:
        write = Writer(kernel, tmp_path)
        write(SUB, "sub.yaml")
        pins = write.pins("version: 1\nsteps: {a: {use: panel.ask, with: {judges: [./sub.yaml]}}}\n")
        assert pins["steps.a../sub.yaml.recipe"] == kernel.check(tmp_path / "sub.yaml").digest
        with pytest.raises(RecipeError, match=r"there is no file './sup.yaml'"):
            write("version: 1\nsteps: {a: {use: panel.ask, with: {judges: [./sub.yaml, ./sup.yaml]}}}\n")


def test_functions_are_pinned_where_an_agents_tools_name_them(write: Writer) -> None:
    pins = write.pins(
        HEAD + "steps:\n  a: {use: reasoning.react, with: {question: hi, tools: [{use: reasoning.calculate}]}}\n"
    )
    assert pins["steps.a.reasoning.calculate.function"] == "reasoning.calculate version 1"
