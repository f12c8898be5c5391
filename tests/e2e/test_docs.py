"""The documentation is true: its recipes check, its plugin works, its commands are those CI runs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from gristmill import Kernel
from gristmill._settings import load_settings
from gristmill._tools._case_file import read_cases
from gristmill.testing import FakePlugin, check_plugin

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[tuple[str, str]]:
    """Return the fenced blocks of a language, with where they stand."""
    return [
        (f"{page.name} block {number}", re.sub(r"^ {3}(?=.)", "", text, flags=re.M) if text.startswith("   ") else text)
        for page in PAGES
        for number, text in enumerate(re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL), 1)
    ]


@pytest.mark.parametrize(("where", "text"), [b for b in blocks("yaml") if "version: 1" in b[1]])
def test_every_recipe_in_the_docs_checks_without_a_warning(where: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with Kernel(cache=False) as kernel:
        found = [diagnostic.render() for diagnostic in kernel.check(path).diagnostics]
    assert found == [], where


@pytest.mark.parametrize(("where", "text"), [b for b in blocks("yaml") if b[1].startswith("cases:")])
def test_every_case_file_in_the_docs_can_be_read(where: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.test.yaml"
    path.write_text(text)
    with Kernel(cache=False) as kernel:
        assert read_cases(path, kernel.check("quickstart")), where


@pytest.mark.parametrize(("where", "text"), blocks("toml"))
def test_every_settings_file_in_the_docs_is_accepted(where: str, text: str, tmp_path: Path) -> None:
    if "entry-points" in text:
        assert tomllib.loads(text), where
        return
    (tmp_path / "gristmill.toml").write_text(text)
    assert load_settings(tmp_path).files[0] == tmp_path / "gristmill.toml", where


def test_the_plugin_of_the_guide_works(tmp_path: Path) -> None:
    source = next(text for where, text in blocks("python") if "class WordsPlugin" in text)
    names: dict[str, object] = {"__name__": "words_of_the_guide"}
    exec(compile(source, "docs/plugins.md", "exec"), names)
    plugin = names["WordsPlugin"]
    assert set(check_plugin("words", plugin).functions) == {"words.count", "words.fits"}
    recipe = tmp_path / "words.yaml"
    recipe.write_text(
        "version: 1\nmodels: {main: {use: fake}}\nsteps:\n"
        "  n: {use: words.count, with: {text: a bb ccc, at_least: 2}}\n"
        "  fits: {use: words.fits, with: {text: a bb ccc, tokens: 2}}\n"
        "output: {n: '${n}', fits: '${fits}'}\n"
    )
    with Kernel(plugins={"words": plugin, "fake": FakePlugin()}, cache=False) as kernel:
        assert kernel.recipe(recipe).run().output == {"n": 2, "fits": False}


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_ci_runs_the_test_command_of_the_readme() -> None:
    command = "pip install uv && uv run --extra all pytest"
    assert command in (ROOT / "README.md").read_text()
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_every_public_error_is_on_the_errors_page() -> None:
    from gristmill import _errors

    page = (ROOT / "docs" / "errors.md").read_text()
    kinds = [kind for kind in vars(_errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert [kind.__name__ for kind in kinds if kind.__name__ not in page] == []
