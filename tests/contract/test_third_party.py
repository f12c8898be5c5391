"""A plugin package that is not ours is installed, found, checked and run; bad ones fail alone and by name."""
# ruff: noqa: E501  (a table of cases reads best with a case on a line)

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

PACKAGE = Path(__file__).parent / "thirdparty"
RECIPE = """\
version: 1
inputs: {question: string}
models: {loud: {use: shout, mark: "?!"}}
steps:
  asked: {use: shout.ask, model: loud, with: {question: "${inputs.question}", then: shout.louder}}
  prompted: {prompt: "so ${asked}", model: loud, samples: 2, temperature: 1}
  best: {use: shout.loudest, with: {texts: "${prompted | map(attribute='text')}"}}
output: ${best.winner}
"""
PROGRAM = """\
import json, sys
from gristmill import Kernel
from gristmill._errors import GristmillError
with Kernel(cache=False) as kernel:
    {body}
"""


def install(folder: Path) -> None:
    """Install the package into a folder: with uv, which needs no network for it, or else by hand."""
    if uv := shutil.which("uv"):
        command = [uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", sys.executable, "--target"]
        if subprocess.run([*command, str(folder), str(PACKAGE)], capture_output=True, check=False).returncode == 0:
            return
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    shutil.copytree(PACKAGE / "src", folder, dirs_exist_ok=True)
    write_metadata(folder, project["name"], project["version"], project["entry-points"])


def write_metadata(folder: Path, name: str, version: str, groups: dict[str, dict[str, str]]) -> None:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    points = (
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in named.items())
        for group, named in groups.items()
    )
    (info / "entry_points.txt").write_text("\n".join(points))


def distribution(folder: Path, name: str, plugin: str, source: str) -> None:
    """Put a distribution with one module into a folder."""
    module = f"module_{name.replace('-', '_')}"
    write_metadata(folder, name, "0.1", {"gristmill.plugins": {plugin: f"{module}:Plugin"}})
    (folder / f"{module}.py").write_text(source)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    install(folder)
    return folder


def python(folder: Path, body: str, cwd: Path, *arguments: str) -> Any:
    """Run a few lines with a kernel in a fresh process that sees the folder; return the JSON they print."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    program = PROGRAM.format(body=body.replace("\n", "\n    "))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_is_found_by_its_entry_point_and_not_imported_by_listing(installed: Path, tmp_path: Path) -> None:
    body = "print(json.dumps([kernel.registry.names(), 'gristmill_shout' in sys.modules]))"
    names, imported = python(installed, body, tmp_path)
    assert "shout" in names
    assert "text" in names
    assert not imported


def test_its_recipe_checks_and_runs_with_its_own_model(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    body = (
        "result = kernel.recipe('./r.yaml').run(question='who goes there')\n"
        "notes = [event.text for event in result.trace if hasattr(event, 'text')]\n"
        "print(json.dumps([result.output, result.steps['asked'].value, notes]))"
    )
    assert python(installed, body, tmp_path) == ["SO WHO GOES THERE?!!?!", "WHO GOES THERE?!!", ["asked loud"]]


def test_mistakes_in_its_use_are_found_against_its_signatures(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        RECIPE.replace("shout.loudest", "shout.loudst").replace("then: shout.louder", "then: shout.lauder")
    )
    body = "print(json.dumps([[d.line, d.message, d.hint] for d in kernel.check('./r.yaml').errors]))"
    assert python(installed, body, tmp_path) == [
        [5, "'shout.lauder' is not a function of plugin 'shout'", "did you mean 'shout.louder'?"],
        [7, "'shout.loudst' is not a function of plugin 'shout'", "did you mean 'shout.loudest'?"],
    ]


def test_it_passes_the_contract_suite(installed: Path, tmp_path: Path) -> None:
    body = (
        "from gristmill.testing import check_plugin\nfrom gristmill_shout import ShoutPlugin\n"
        "print(json.dumps(sorted(check_plugin('shout', ShoutPlugin).functions)))"
    )
    assert python(installed, body, tmp_path) == ["shout.ask", "shout.louder", "shout.loudest"]


def gristmill(folder: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process that sees the folder."""
    return subprocess.run(
        [sys.executable, "-m", "gristmill", *arguments], cwd=cwd, env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_its_command_is_one_of_the_command_line(installed: Path, tmp_path: Path) -> None:
    assert gristmill(installed, tmp_path, "shout", "who goes there").stdout == "WHO GOES THERE! True\n"
    listed = gristmill(installed, tmp_path, "--help").stdout
    assert "shout     Say it louder, and name the plugins there are." in listed
    assert listed.index(" run ") < listed.index(" shout ")


def test_a_command_that_cannot_be_imported_or_is_offered_twice_fails_alone(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}_module.py").write_text(
            "import typer\napp = typer.Typer()\napp.command()(lambda: print(1))\n"
        )
        points = {"twice": f"{name}_module:app", f"{name}-alone": f"{name}_module:app"}
        write_metadata(tmp_path, name, "0.1", {"gristmill.commands": points})
    write_metadata(
        tmp_path, "three", "0.1", {"gristmill.commands": {"gone": "no_such_module:app", "run": "one_module:app"}}
    )
    twice = gristmill(tmp_path, tmp_path, "twice")
    assert twice.returncode != 0
    assert "the command 'twice' is offered twice: by one 0.1 and two 0.1" in twice.stderr
    gone = gristmill(tmp_path, tmp_path, "gone")
    assert gone.returncode != 0
    assert (
        "the command 'gone' (three 0.1) cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"
        in gone.stderr
    )
    assert gristmill(tmp_path, tmp_path, "one-alone").stdout == "1\n"
    assert "Run a recipe." in gristmill(tmp_path, tmp_path, "run", "--help").stdout, "an own command is not replaced"
    assert "gone" in gristmill(tmp_path, tmp_path, "--help").stdout


GOOD = '''
from gristmill import function
class Plugin:
    """Good."""
    @function
    def speak(self) -> str:
        """Say something."""
        return "good"
'''
ERROR = (
    "try: kernel.registry.plugin(sys.argv[1])\nexcept GristmillError as error: told = str(error)\n"
    "print(json.dumps([told, kernel.registry.function('good.speak').call()]))"
)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import no_such_module", "plugin 'bad' (bad-dist 0.1) cannot be imported: ModuleNotFoundError: No module named 'no_such_module'\n  mend or uninstall it; recipes that do not name it still work"),
        ("raise RuntimeError('at import')", "plugin 'bad' (bad-dist 0.1) cannot be imported: RuntimeError: at import\n  mend or uninstall it; recipes that do not name it still work"),
        ("Other = 1", "plugin 'bad' (bad-dist 0.1) cannot be imported: AttributeError: module 'module_bad_dist' has no attribute 'Plugin'\n  mend or uninstall it; recipes that do not name it still work"),
        ("class Plugin:\n    plugin_api = 99", "plugin 'bad' (bad-dist 0.1) is built for plugin API 99; this gristmill has 1\n  install the release of the plugin, or of gristmill, that matches"),
        ("class Plugin: pass", "plugin 'bad' (bad-dist 0.1) offers nothing\n  mark its methods with @gristmill.function or @gristmill.model_provider"),
        (GOOD.replace("-> str", ""), "bad.speak (bad-dist 0.1): the return type is missing\n  recipes are checked against it: annotate it"),
        (GOOD.replace('"""Say something."""', ""), "bad.speak (bad-dist 0.1): the one-line docstring is missing\n  it is the user's help"),
        (GOOD.replace("(self)", "(self, x)"), "bad.speak (bad-dist 0.1): parameter 'x' has no type\n  recipes are checked against it: annotate it"),
        (GOOD.replace("(self)", "(self, *x: str)"), "bad.speak (bad-dist 0.1): parameter 'x' cannot be named in a recipe\n  no *args, no **kwargs, no positional-only"),
        (GOOD.replace("(self)", "(self, x: 'Nowhere')"), "bad.speak (bad-dist 0.1): its annotations cannot be read: name 'Nowhere' is not defined"),
    ],
)  # fmt: skip
def test_a_bad_plugin_fails_alone_and_says_whose_it_is(tmp_path: Path, source: str, told: str) -> None:
    distribution(tmp_path, "bad-dist", "bad", source)
    distribution(tmp_path, "good-dist", "good", GOOD)
    assert python(tmp_path, ERROR, tmp_path, "bad") == [told, "good"]


@pytest.mark.parametrize("name", ["twice", "text"])
def test_a_name_that_two_distributions_take_is_refused_naming_both(tmp_path: Path, name: str) -> None:
    distribution(tmp_path, "good-dist", "good", GOOD)
    distribution(tmp_path, "first-dist", name, GOOD)
    if name == "twice":
        distribution(tmp_path, "second-dist", name, GOOD)
    told, good = python(tmp_path, ERROR, tmp_path, name)
    assert told.startswith(f"the plugin name {name!r} is taken twice: by ")
    assert "first-dist 0.1" in told
    assert ("second-dist 0.1" if name == "twice" else "gristmill ") in told
    assert told.endswith("uninstall one of them")
    assert good == "good"


def test_a_recipe_that_names_a_broken_plugin_is_a_diagnostic(tmp_path: Path) -> None:
    distribution(tmp_path, "bad-dist", "bad", "raise RuntimeError('at import')")
    (tmp_path / "r.yaml").write_text("version: 1\nsteps: {a: {use: bad.speak}}\n")
    body = "print(json.dumps([d.message for d in kernel.check('./r.yaml').errors]))"
    assert python(tmp_path, body, tmp_path) == [
        "plugin 'bad' (bad-dist 0.1) cannot be imported: RuntimeError: at import"
    ]
