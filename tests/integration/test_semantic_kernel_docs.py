"""The code in docs/interoperability.md runs as it stands, and prints what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gristmill import Kernel

pytest.importorskip("semantic_kernel", reason='needs the extra: pip install "gristmill[semantic-kernel]"')
pytest.importorskip("llama_cpp", reason="the page uses the bundled model")

PAGE = (Path(__file__).parents[2] / "docs" / "interoperability.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.DOTALL)
RECIPES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "capital.yaml").write_text(RECIPES[0], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))  # an MCP client hands no XDG folders on
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    return tmp_path


@pytest.mark.parametrize(("code", "printed"), EXAMPLES, ids=["face", "agent", "memory", "store", "clock", "client"])
def test_an_example_prints_what_the_page_says(folder: Path, code: str, printed: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == printed, done.stderr


def test_the_step_that_calls_a_tool_of_another_server_works(folder: Path) -> None:
    settings = re.search(r"```toml\n(\[plugin.*?)```", PAGE, re.DOTALL)
    assert settings is not None
    (folder / "gristmill.toml").write_text(settings[1])
    (folder / "asks.yaml").write_text(RECIPES[1])
    with Kernel(cache=False) as kernel:
        output = kernel.recipe("./asks.yaml").run().output
    assert list(output) == ["result"]
    assert "Peru" in output["result"]
