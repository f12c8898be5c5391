"""The parts of the command line that need no process: reading inputs, showing progress, examining the machine."""

from __future__ import annotations

import importlib.metadata
import io
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gristmill import FunctionError, Kernel, UsageError, function
from gristmill._cli import _app, main
from gristmill._cli._doctor import examine
from gristmill._cli._extras import extra_of
from gristmill._cli._inputs import read_inputs, read_overrides
from gristmill._cli._live import LiveView, PlainView, View, make_view
from gristmill._events import (
    ModelLoading,
    StepCancelled,
    StepFailed,
    StepFinished,
    StepNoted,
    StepRetried,
    StepStarted,
    Token,
)
from gristmill._language._recipe import Recipe
from gristmill._values import Usage
from gristmill.testing import FakePlugin

RECIPE = """\
version: 1
inputs: {text: string, n: integer, flag: boolean, words: [string], file: path}
models: {main: {use: fake}}
steps: {a: {prompt: "${inputs.text}"}}
"""


@pytest.fixture
def kernel() -> Kernel:
    return Kernel(plugins={"fake": FakePlugin()}, cache=False)


@pytest.fixture
def recipe(kernel: Kernel, tmp_path: Path) -> Recipe:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    return kernel.check(path)


def test_inputs_are_read_by_their_declared_types(recipe: Recipe) -> None:
    pairs = ["text=12", "n=12", "flag=true", "words=[a, b]", "file=@odd name"]
    assert read_inputs(recipe, pairs, None) == {
        "text": "12",
        "n": 12,
        "flag": True,
        "words": ["a", "b"],
        "file": "@odd name",
    }


def test_an_at_sign_reads_a_file_and_two_are_one(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("héllo")
    assert read_inputs(recipe, [f"text=@{tmp_path / 't.txt'}"], None) == {"text": "héllo"}
    assert read_inputs(recipe, ["text=@@name"], None) == {"text": "@name"}
    with pytest.raises(UsageError, match="write @@ for a text that begins with @"):
        read_inputs(recipe, [f"text=@{tmp_path / 'missing'}"], None)


def test_a_pair_wins_over_the_input_file(recipe: Recipe, tmp_path: Path) -> None:
    file = tmp_path / "in.yaml"
    file.write_text("n: 1\ntext: from the file\n")
    assert read_inputs(recipe, ["n=2"], file) == {"n": 2, "text": "from the file"}
    file.write_text("- no mapping\n")
    with pytest.raises(UsageError, match="is not a mapping of inputs"):
        read_inputs(recipe, [], file)


def test_a_value_that_is_no_yaml_is_explained(recipe: Recipe) -> None:
    with pytest.raises(UsageError, match="--input words:1:"):
        read_inputs(recipe, ["words=[a"], None)


def test_model_without_a_name_needs_exactly_one_model(kernel: Kernel, tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text("version: 1\nmodels: {one: {use: fake}, two: {use: fake}}\nsteps: {a: {prompt: x, model: one}}\n")
    with pytest.raises(UsageError, match="the recipe has 2 models"):
        read_overrides(kernel, str(path), ["./m.gguf"], None)
    assert read_overrides(kernel, str(path), ["two=./it's.gguf"], None) == {
        "models.two.model": "'" + str(Path("it's.gguf").absolute()).replace("'", "''") + "'"
    }
    with pytest.raises(UsageError, match=r"--set 'a' is not STEP\.KEY=VALUE"):
        read_overrides(kernel, str(path), None, ["a"])


def finished(step: str) -> StepFinished:
    usage = Usage(completion_tokens=10, elapsed_s=2.0)
    return StepFinished(2.0, step, "done", {}, None, usage, False, 2.0, None)


def test_piped_progress_is_one_line_for_each_thing_that_happens(capsys: pytest.CaptureFixture[str]) -> None:
    view = PlainView()
    assert view.listener is not None
    for event in (
        ModelLoading(0.0, "m", 0.1),
        ModelLoading(0.0, "m", 0.9),
        StepStarted(0.0, "a"),
        Token(0.0, "a", 0, None, "hi", 1),
        StepRetried(0.0, "a", 1, None, FunctionError("no luck")),
        StepNoted(0.0, "a", "a note"),
        finished("a"),
        StepFailed(0.0, "b", FunctionError("broken"), 1.0),
        StepCancelled(0.0, "c", "step 'b' failed"),
    ):
        view.listener(event)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "loading m",
        "a: attempt 1 failed: no luck",
        "a: a note",
        "a: done (2.00 s, 10 tokens, 5/s)",
        "b: failed: broken",
        "c: cancelled, step 'b' failed",
    ]


def test_the_live_view_keeps_the_texts_of_items_apart_and_control_characters_out(recipe: Recipe) -> None:
    from rich.console import Console

    view = LiveView(recipe)
    assert view.listener is not None
    for event in (
        StepStarted(0.0, "a"),
        Token(0.0, "a", 0, 0, "first\x1b[31m", 1),
        Token(0.0, "a", 0, 1, "second", 1),
        Token(0.0, "a", 0, 0, " goes on", 1),
        ModelLoading(0.0, "m", 0.5),
    ):
        view.listener(event)
    screen = Console(file=io.StringIO(), width=80, force_terminal=False)
    screen.print(view._render())
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "a[0]: first\N{REPLACEMENT CHARACTER}[31m goes on" in shown
    assert "a[1]: second" in shown
    assert "loading m 50%" in shown
    view.listener(finished("a"))
    assert view.texts == {}


def test_quiet_shows_nothing(recipe: Recipe) -> None:
    assert type(make_view(recipe, quiet=True)) is View


def test_doctor_names_a_broken_plugin_and_how_to_mend_it() -> None:
    class Broken:
        """Offers a function that cannot be read."""

        @function
        def untyped(self, x) -> int:  # type: ignore[no-untyped-def]
            """Return x."""
            return int(x)

    with Kernel(plugins={"broken": Broken()}, cache=False) as kernel:
        lines = {line.what: line for line in examine(kernel)}
    assert lines["plugin broken"].status == "bad"
    assert "parameter 'x' has no type" in lines["plugin broken"].detail
    assert lines["plugin text"].status == "ok"


def test_a_commands_own_file_is_read_as_recipes_are(tmp_path: Path) -> None:
    from gristmill.commands import read_document

    path = tmp_path / "task.yaml"
    path.write_text("a: no\nb: [1, 12:30]\n")
    assert read_document(path) == {"a": "no", "b": [1, "12:30"]}
    path.write_text("a: 1\na: 2\n")
    with pytest.raises(UsageError, match=r"task.yaml:2:1: .*'a'"):
        read_document(path)
    path.write_text("- 1\n")
    with pytest.raises(UsageError, match="holds no mapping"):
        read_document(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_document(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("module", "extra"),
    [("rouge_score.rouge_scorer", "evaluation"), ("sklearn.linear_model", "ensemble"), ("llama_cpp", "llama"),
     ("llama_index.core", "retrieval"), ("qdrant_client", "qdrant"), ("torch", "train"), ("ray", "ray"),
     ("json5", None)],
)  # fmt: skip
def test_a_missing_library_is_named_with_the_extra_that_brings_it(module: str, extra: str | None) -> None:
    assert extra_of(module) == extra


def test_a_command_that_misses_a_library_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lacking() -> None:
        raise ModuleNotFoundError("No module named 'rouge_score'", name="rouge_score")

    monkeypatch.setattr(_app, "app", lacking)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert 'rouge_score is not installed\n  pip install "gristmill[evaluation]"' in capsys.readouterr().err


def test_help_looks_up_installed_commands_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from gristmill._cli._app import app

    asked: list[str] = []
    find = importlib.metadata.entry_points

    def counted(*, group: str) -> Any:
        asked.append(group)
        return find(group=group)

    monkeypatch.setattr(importlib.metadata, "entry_points", counted)
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    assert "eval" in shown.output
    assert asked == ["gristmill.commands"]
