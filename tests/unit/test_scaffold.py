"""What `gristmill new` writes works as it is, and never writes over anything."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from gristmill import Kernel, UsageError
from gristmill._tools._cases import run_cases
from gristmill._tools._scaffold import new_plugin, new_recipe


def test_a_new_recipe_checks_clean_and_its_cases_pass(tmp_path: Path) -> None:
    path = tmp_path / "triage.yaml"
    assert new_recipe(path, "triage") == [path, tmp_path / "triage.test.yaml"]
    with Kernel(cache=False) as kernel:
        recipe = kernel.check(path)
        assert recipe.diagnostics == []
        assert recipe.name == "triage"
        assert recipe.models["main"].arguments["model"] == "smollm2"
        (result,) = run_cases(kernel, path, mode="fake")
    assert result.failures == ()


def test_a_new_recipe_names_its_schema_for_editors(tmp_path: Path) -> None:
    (path, _) = new_recipe(tmp_path / "triage.yaml", "triage")
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=gristmill.schema.json"


@pytest.mark.parametrize("name", ["off", "12", "null", "a-b_c"])
def test_a_name_that_yaml_reads_as_something_else_is_quoted(tmp_path: Path, name: str) -> None:
    (path, _) = new_recipe(tmp_path / "x.yaml", name)
    recipe = Kernel(cache=False).check(path)
    assert recipe.diagnostics == []
    assert recipe.name == name


@pytest.mark.parametrize(
    ("path", "name", "told"),
    [
        ("x.yaml", "My Recipe", "no recipe name"),
        ("x.yaml", "", "no recipe name"),
        ("x.txt", "x", "no file of a recipe"),
    ],
)
def test_a_recipe_that_could_not_be_found_again_is_refused(tmp_path: Path, path: str, name: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        new_recipe(tmp_path / path, name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["x.yaml", "x.test.yaml"])
def test_nothing_is_written_over(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="exists already"):
        new_recipe(tmp_path / "x.yaml", "x")
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text(encoding="utf-8") == "mine"


def test_a_place_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match="cannot be written"):
        new_recipe(tmp_path / "file" / "x.yaml", "x")


def test_the_tests_of_a_new_plugin_pass_once_it_is_installed(tmp_path: Path) -> None:
    files = new_plugin(tmp_path, "word_count")
    root = tmp_path / "gristmill-word-count"
    assert {str(path.relative_to(root)) for path in files} == {
        "pyproject.toml", "README.md", "src/gristmill_word_count/__init__.py", "src/gristmill_word_count/py.typed",
        "tests/test_word_count.py",
    }  # fmt: skip
    install(root)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=root, capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": str(root / "src")},
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert "5 passed" in run.stdout


def install(root: Path) -> None:
    """Do what an editable install does: put metadata beside the source. No build tool, no network."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    metadata = root / "src" / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n", encoding="utf-8"
    )
    groups = project["entry-points"].items()
    lines = [f"[{group}]\n" + "".join(f"{name} = {at}\n" for name, at in points.items()) for group, points in groups]
    (metadata / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")


@pytest.mark.parametrize("name", ["Words", "my-plugin", "1st", "", "a b", "../x"])
def test_a_plugin_name_that_recipes_cannot_write_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is no name for a plugin"):
        new_plugin(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_the_name_of_an_installed_plugin_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a plugin called 'text' is installed already"):
        new_plugin(tmp_path, "text")


def test_a_plugin_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "gristmill-words").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        new_plugin(tmp_path, "words")
    assert list((tmp_path / "gristmill-words").iterdir()) == []
