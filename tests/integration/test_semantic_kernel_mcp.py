"""`gristmill mcp` serves recipes as tools: the official client lists and calls them over stdio."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp", reason='needs the extra: pip install "gristmill[semantic-kernel]"')

from mcp import ClientSession, StdioServerParameters, stdio_client
from mcp.types import TextContent

from gristmill import Kernel, RunError
from gristmill._settings import load_settings

PLUGIN = '''
"""Prints."""

import os
import subprocess
import sys

from gristmill import FunctionError, function


@function
def shout(text: str, times: int) -> str:
    """Return a text in capitals, and print on the way."""
    print("a plugin prints")
    os.write(1, b"a library writes\\n")
    subprocess.run([sys.executable, "-c", "print('a child prints')"], check=True)
    if times < 1:
        raise FunctionError(f"times is 1 or more, this is {times}")
    return text.upper() * times


@function
def count(text: str) -> dict[str, int]:
    """Return how often each character occurs."""
    return {character: text.count(character) for character in text}
'''
SHOUT = """\
version: 1
name: shout
description: Say it in capitals.
inputs:
  text: {type: string, description: What to say.}
  times: {type: integer, default: 2, description: How often.}
steps:
  loud: {use: noisy.shout, with: {text: "${inputs.text}", times: "${inputs.times}"}}
"""
COUNT = """\
version: 1
name: count
inputs: {text: string}
steps:
  counted: {use: noisy.count, with: {text: "${inputs.text}"}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "noisy.py").write_text(PLUGIN)
    (tmp_path / "shout.yaml").write_text(SHOUT)
    (tmp_path / "count.yaml").write_text(COUNT)
    return tmp_path


def command(folder: Path, *recipes: str) -> StdioServerParameters:
    arguments = ["-m", "gristmill", "mcp", *recipes, "--plugin", str(folder / "noisy.py")]
    home = {"XDG_CACHE_HOME": str(folder / "cache"), "XDG_DATA_HOME": str(folder / "data")}
    return StdioServerParameters(command=sys.executable, args=arguments, env={**os.environ, **home}, cwd=folder)


@asynccontextmanager
async def session_with(parameters: StdioServerParameters) -> AsyncIterator[ClientSession]:
    with open(os.devnull, "w") as nowhere:
        async with (
            stdio_client(parameters, errlog=nowhere) as (reading, writing),
            ClientSession(reading, writing) as session,
        ):
            await session.initialize()
            yield session


def text_of(result: Any) -> str:
    return "".join(part.text for part in result.content if isinstance(part, TextContent))


async def test_the_official_client_lists_calls_and_is_told_errors(folder: Path) -> None:
    async with session_with(command(folder, "./shout.yaml", "./count.yaml")) as session:
        tools = {tool.name: tool for tool in (await session.list_tools()).tools}
        assert sorted(tools) == ["count", "shout"]
        assert tools["shout"].description == "Say it in capitals."
        assert tools["shout"].inputSchema == {
            "type": "object",
            "properties": {
                "text": {"type": "string", "description": "What to say."},
                "times": {"type": "integer", "description": "How often.", "default": 2},
            },
            "required": ["text"],
            "additionalProperties": False,
        }
        said = await session.call_tool("shout", {"text": "ja"})  # what was printed on the way did not break a message
        assert (said.isError, text_of(said), said.structuredContent) == (False, "JAJA", {"result": "JAJA"})
        counted = await session.call_tool("count", {"text": "aba"})
        assert counted.structuredContent == {"a": 2, "b": 1}
        assert json.loads(text_of(counted)) == {"a": 2, "b": 1}
        for tool, arguments, expected in [
            ("shout", {"text": "ja", "times": 0}, "step 'loud': times is 1 or more, this is 0"),
            ("shout", {"text": "ja", "times": "two"}, "input 'times' of recipe 'shout': an integer is wanted"),
            ("shout", {}, "recipe 'shout' needs 'text'"),
            ("shout", {"text": "ja", "tmes": 1}, "did you mean 'times'?"),
            ("whisper", {}, "there is no tool 'whisper'"),
        ]:
            failed = await session.call_tool(tool, arguments)
            assert failed.isError
            assert expected in text_of(failed)
        again = await session.call_tool("shout", {"text": "control \x00\x1b", "times": 1})
        assert text_of(again) == "CONTROL \x00\x1b"


def test_standard_output_holds_the_protocol_only(folder: Path) -> None:
    messages: list[dict[str, Any]] = [
        {"id": 1, "method": "initialize", "params": {
            "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/call", "params": {"name": "shout", "arguments": {"text": "ja"}}},
    ]  # fmt: skip
    parameters = command(folder, "./shout.yaml")
    with subprocess.Popen(
        [parameters.command, *parameters.args], cwd=folder, env=parameters.env, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        for message in messages:
            process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        process.stdin.flush()
        answers = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.stdin.close()
        assert process.stdout.read() == ""
        printed = process.stderr.read()
    assert [answer["id"] for answer in answers] == [1, 2]
    assert process.returncode == 0
    for line in ("a plugin prints", "a library writes", "a child prints"):
        assert line in printed


def test_an_interrupt_ends_the_server_at_once(folder: Path) -> None:
    parameters = command(folder, "./shout.yaml")
    with subprocess.Popen(
        [parameters.command, *parameters.args], cwd=folder, env=parameters.env, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}) + "\n")
        process.stdin.flush()
        assert process.stdout.readline()  # it serves
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == -signal.SIGINT


def test_a_recipe_that_does_not_check_ends_before_anything_is_served(folder: Path) -> None:
    (folder / "shout.yaml").write_text(SHOUT.replace("noisy.shout", "noisy.shut"))
    parameters = command(folder, "./shout.yaml")
    done = subprocess.run(
        [parameters.command, *parameters.args], cwd=folder, env=parameters.env, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean 'noisy.shout'?" in done.stderr


# -- tools of other servers, as steps ----------------------------------------------------------------------------------

CALLS = """\
version: 1
inputs: {text: string}
steps:
  said:
    use: semantic_kernel.call_tool
    with: {server: mill, tool: TOOL, arguments: {text: "${inputs.text}"}}
output: ${said}
"""


def kernel_with_server(folder: Path, monkeypatch: pytest.MonkeyPatch, **declared: Any) -> Kernel:
    parameters = command(folder, "./shout.yaml")
    lines = {"command": parameters.command, "args": parameters.args, **declared}
    toml = "\n".join(f"{key} = {json.dumps(value)}" for key, value in lines.items())
    (folder / "gristmill.toml").write_text(f"[plugin.semantic_kernel.servers.mill]\n{toml}\n")
    monkeypatch.chdir(folder)
    return Kernel(cache=False, settings=load_settings(folder))


def test_a_step_calls_a_tool_of_a_server_that_the_settings_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "calls.yaml").write_text(CALLS.replace("TOOL", "shout"))
    with kernel_with_server(folder, monkeypatch) as kernel:
        assert kernel.recipe("./calls.yaml").run(text="ja").output == {"result": "JAJA"}


def test_a_tools_error_is_the_steps_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "calls.yaml").write_text(CALLS.replace("TOOL", "whisper"))
    with kernel_with_server(folder, monkeypatch) as kernel, pytest.raises(RunError) as caught:
        kernel.recipe("./calls.yaml").run(text="ja")
    assert "MCP server 'mill', tool 'whisper': there is no tool 'whisper'" in str(caught.value)


@pytest.mark.parametrize("server", ["mill", "other"])
def test_a_server_that_is_not_there_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    (folder / "calls.yaml").write_text(CALLS.replace("TOOL", "shout").replace("mill", server))
    with (
        kernel_with_server(folder, monkeypatch, command="/no/such/program") as kernel,
        pytest.raises(RunError) as caught,
    ):
        kernel.recipe("./calls.yaml").run(text="ja")
    expected = "MCP server 'mill'" if server == "mill" else "gristmill.toml names no MCP server 'other'"
    assert expected in str(caught.value)
