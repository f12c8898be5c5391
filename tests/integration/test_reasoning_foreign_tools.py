"""An agent whose tools are not gristmill's own: a tool of an MCP server, and a function of semantic-kernel."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("semantic_kernel", reason='needs the extra: pip install "gristmill[semantic-kernel]"')
pytest.importorskip("mcp", reason='needs the extra: pip install "gristmill[semantic-kernel]"')

from semantic_kernel.functions import kernel_function
from typer.testing import CliRunner

from gristmill import GenerateRequest, Kernel
from gristmill._cli import _app
from gristmill._settings import load_settings
from gristmill.testing import FakePlugin

SERVER = """
from mcp.server.fastmcp import FastMCP

server = FastMCP("mill")


@server.tool()
def price(item: str) -> str:
    "Tell a price."
    return {"rye": "3 dollars", "oats": "4 dollars"}[item]


server.run()
"""
RECIPE = """\
version: 1
models: {main: {use: fake}}
steps:
  agent:
    use: reasoning.react
    with:
      question: What is rye?
      tools:
        - PRICE
        - {use: shop.discount}
output: ${agent.turns}
"""
SYNCED = "{use: mill.price}"
UNSYNCED = """use: semantic_kernel.call_tool
          with: {server: mill, tool: price}
          as: price
          description: Tells prices.
          schema:
            type: object
            properties: {arguments: {type: object, properties: {item: {type: string}}, required: [item]}}
            required: [arguments]"""


class Shop:
    """A shop, written for semantic-kernel."""

    @kernel_function(description="Return a price less a tenth.")  # type: ignore[untyped-decorator]
    def discount(self, price: str) -> str:
        return f"{price} less a tenth"


def answers(request: GenerateRequest, _: int) -> str:
    asked = request.messages[-1].content
    if "less a tenth" in asked:
        return json.dumps({"thought": "t", "answer": asked.removeprefix("Observation: ")})
    if "3 dollars" in asked:
        return json.dumps({"thought": "t", "tool": "discount", "arguments": {"price": "3 dollars"}})
    nested = '"arguments"' in request.messages[0].content.split("- price: ")[1].splitlines()[0]
    arguments = {"arguments": {"item": "rye"}} if nested else {"item": "rye"}
    return json.dumps({"thought": "t", "tool": "price", "arguments": arguments})


@pytest.mark.parametrize("price", [SYNCED, UNSYNCED], ids=["synced", "by name"])
def test_tools_of_an_mcp_server_and_of_semantic_kernel_are_called_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, price: str
) -> None:
    (tmp_path / "server.py").write_text(SERVER)
    (tmp_path / "r.yaml").write_text(RECIPE.replace("PRICE", price))
    declared = f"command = {json.dumps(sys.executable)}\nargs = [{json.dumps(str(tmp_path / 'server.py'))}]\n"
    (tmp_path / "gristmill.toml").write_text(f"[plugin.semantic_kernel.servers.mill]\n{declared}")
    monkeypatch.chdir(tmp_path)
    if price is SYNCED:
        done = CliRunner().invoke(_app.app, ["plugins", "sync"])
        assert done.exit_code == 0, done.output
    plugins = {"fake": FakePlugin(answers=answers), "shop": Shop()}
    with Kernel(plugins=plugins, cache=False, settings=load_settings(tmp_path)) as kernel:
        turns = kernel.recipe("./r.yaml").run().output
    assert [(turn.tool, turn.failed) for turn in turns] == [("price", False), ("discount", False), (None, False)]
    assert "3 dollars" in turns[0].result
    assert turns[1].result == "3 dollars less a tenth"
