"""The recipes that remember, and that use other programs' tools, on the real bundled model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gristmill import Kernel

pytest.importorskip("llama_cpp", reason="the recipes that ship run on the extra gristmill[llama]")
pytest.importorskip("wordllama", reason="they recall by meaning: the extra gristmill[memory]")


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    with Kernel(cache=False, memory=tmp_path / "memory") as made:
        yield made


def test_a_chat_remembers_an_earlier_run_and_summarises_what_no_longer_fits(kernel: Kernel) -> None:
    chat = kernel.recipe("chat_memory")
    chat.run(message="Remember that the door code is 4711.")
    assert "4711" in chat.run(message="What is the door code?").output
    assert kernel.recipe("chat_memory").run(message="Hello.", user="bob").steps["history"].value.n_turns == 0
    short = kernel.recipe(
        "chat_memory", overrides={"history.with.most_characters": "120", "history.with.min_score": "-1.0"}
    )
    result = short.run(message="Which code opens the door?")
    history = result.steps["history"].value
    assert history.n_turns == 2
    assert any("4711" in passage.text for passage in history.recalled)
    assert result.steps["keep_summary"].status == "done"
    assert kernel.memory.list("chat", where={"kind": "summary"})[0].text == result.steps["summary"].value.text


def test_examples_are_chosen_by_meaning(kernel: Kernel) -> None:
    result = kernel.recipe("few_shot_selected").run(text="My card was swallowed by the machine.")
    assert result.output["kind"] == "card"
    assert result.output["examples"][0] == "My card does not work at the cash machine."
    assert len(kernel.memory.list("tickets")) == 9


def test_a_recipe_uses_a_tool_of_an_mcp_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mcp", reason="the extra gristmill[semantic-kernel] is not installed")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gristmill.toml").write_text(
        f"[plugin.semantic_kernel.servers.mill]\ncommand = {sys.executable!r}\n"
        'args = ["-m", "gristmill", "mcp", "few_shot"]\n'
    )
    with Kernel(cache=False) as kernel:
        output = kernel.recipe("mcp_tools").run(text="I loved the music and the ending.").output
    assert output["sentiment"] == "positive"
    assert output["said"]
