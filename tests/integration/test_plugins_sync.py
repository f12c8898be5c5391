"""Tools of MCP servers and OpenAPI documents as plugins: a snapshot is checked, and calls go to the real server."""

from __future__ import annotations

import http.server
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from typer.testing import CliRunner, Result

from gristmill import FunctionError, Kernel, PluginError, RunError, UsageError
from gristmill._cli import _app
from gristmill._settings import load_settings
from gristmill_plugins.semantic_kernel._snapshot import identifier, tool_plugin

MCP = """
import sys
from mcp.server.fastmcp import FastMCP
from mcp.types import ToolAnnotations
server = FastMCP("mill", port=int(sys.argv[2]) if len(sys.argv) > 2 else 8000)
@server.tool(annotations=ToolAnnotations(readOnlyHint=True))
def grind(grain: str, times: int = 1) -> dict[str, str]:
    "Grind grain."
    open("called", "a").write("x")
    return {"flour": f"{grain} flour" * times}
@server.tool(name="stop-mill")
def stop() -> str:
    "Stop the mill."
    raise ValueError("the mill is stuck")
server.run(sys.argv[1])
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(folder: Path, **tables: dict[str, Any]) -> None:
    """Write gristmill.toml; JSON texts, numbers and lists are TOML too."""
    lines = []
    for table, entries in tables.items():
        lines.append(f"[plugin.semantic_kernel.{table.replace('__', '.')}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in entries.items() if not isinstance(value, dict)]
    (folder / "gristmill.toml").write_text("\n".join(lines) + "\n")


def sync() -> Result:
    return CliRunner().invoke(_app.app, ["plugins", "sync"])


def run(folder: Path, step: str, output: str = "${x}") -> Any:
    (folder / "r.yaml").write_text(f"version: 1\nsteps:\n  x: {step}\noutput: {output}\n")
    with Kernel() as kernel:
        return kernel.recipe(folder / "r.yaml").run().output


def failure(folder: Path, step: str) -> str:
    with pytest.raises(RunError) as caught:
        run(folder, step)
    (error,) = caught.value.failures.values()
    assert isinstance(error, FunctionError)
    return str(error)


@pytest.fixture
def mcp_server(folder: Path) -> Path:
    pytest.importorskip("mcp", reason="the extra gristmill[semantic-kernel] is not installed")
    (folder / "mill.py").write_text(MCP)
    return folder / "mill.py"


def test_the_tools_of_an_mcp_server_are_checked_without_it_and_called_on_it(folder: Path, mcp_server: Path) -> None:
    settings(folder, servers__mill={"command": sys.executable, "args": [str(mcp_server), "stdio"], "pure": ["grind"]})
    done = sync()
    assert done.output.splitlines() == ["mill: 2 tools", f"wrote {folder / 'gristmill.tools.json'}"], done.exception
    with Kernel(cache=False) as kernel:
        grind = kernel.registry.function("mill.grind")
        assert (grind.summary, grind.pure, grind.writes) == ("Grind grain.", True, False)
        assert [(p.name, str(p.type), p.required) for p in grind.parameters.values()] == [
            ("grain", "string", True), ("times", "integer or null", False)
        ]  # fmt: skip
        assert kernel.registry.function("mill.stop_mill").writes
        recipe = "version: 1\nsteps:\n  x: {use: mill.grind, with: {grian: rye}}\noutput: ${x}\n"
        (folder / "wrong.yaml").write_text(recipe)
        told = [diagnostic.message for diagnostic in kernel.check(folder / "wrong.yaml").errors]
        assert told == ["mill.grind needs 'grain'", "mill.grind has no argument 'grian'"]
    assert not (folder / "called").exists(), "checking started the server"
    for _ in range(2):  # pure: the second time from the cache
        assert run(folder, "{use: mill.grind, with: {grain: rye}}", "${x.flour}") == "rye flour"
    assert (folder / "called").read_text() == "x"
    assert "the mill is stuck" in failure(folder, "{use: mill.stop_mill}")


def test_an_mcp_server_over_http_is_used_the_same_way(folder: Path, mcp_server: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, str(mcp_server), "streamable-http", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder) as server:
        try:
            _wait_for(port, server)
            settings(folder, servers__mill={"url": f"http://127.0.0.1:{port}/mcp"})
            assert sync().output.splitlines()[0] == "mill: 2 tools"
            assert run(folder, "{use: mill.grind, with: {grain: rye, times: 2}}") == {"flour": "rye flour" * 2}
        finally:
            server.kill()
    assert failure(folder, "{use: mill.grind, with: {grain: rye}}").endswith("see its url in gristmill.toml")


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    pytest.fail("the server did not begin")


DOCUMENT = {
    "openapi": "3.1.0",
    "info": {"title": "The mill's ledger"},
    "servers": [{"url": "/v1"}],
    "paths": {
        "/sacks/{id}": {
            "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}],
            "get": {
                "operationId": "readSack",
                "summary": "Read a sack's entry.",
                "parameters": [{"$ref": "#/components/parameters/Unit"}],
                "responses": {"200": {"content": {"application/json": {"schema": {"type": "object"}}}}},
            },
            "put": {
                "operationId": "write-sack",
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Sack"}}},
                },
                "responses": {"204": {"description": "kept"}},
            },
        }
    },
    "components": {
        "parameters": {"Unit": {"name": "unit", "in": "query", "schema": {"type": "string", "enum": ["kg", "lb"]}}},
        "schemas": {"Sack": {"type": "object", "properties": {"weight": {"type": "number"}}}},
    },
}


class Ledger(http.server.BaseHTTPRequestHandler):
    """Answers as the document says."""

    seen: list[tuple[str, str, Any, str | None]] = []

    def do_GET(self) -> None:
        if self.path == "/openapi.json":
            return self._answer(200, DOCUMENT)
        parts = urlsplit(self.path)
        self.seen.append(("GET", parts.path, parse_qs(parts.query), self.headers.get("X-Key")))
        return (
            self._answer(200, {"weight": 25.5}) if "rye" in parts.path else self._answer(404, {"why": "no such sack"})
        )

    def do_PUT(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append(("PUT", self.path, body, self.headers.get("X-Key")))
        self._answer(204, None)

    def _answer(self, status: int, data: Any) -> None:
        content = b"" if data is None else json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        return None


@pytest.fixture
def ledger() -> Iterator[str]:
    Ledger.seen.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ledger)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_operations_of_an_openapi_document_are_functions(
    folder: Path, ledger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings(
        folder, apis__ledger={"document": f"{ledger}/openapi.json"}, apis__ledger__headers_env={"X-Key": "LEDGER_KEY"}
    )
    done = sync()
    assert done.output.splitlines()[0] == "ledger: 2 tools", done.exception
    read = "{use: ledger.readSack, with: {id: a rye/7, unit: kg}}"
    assert failure(folder, read) == "the environment variable LEDGER_KEY is not set\n  export LEDGER_KEY=..."
    monkeypatch.setenv("LEDGER_KEY", "k-1")
    assert run(folder, read, "${x.weight}") == 25.5
    run(folder, "{use: ledger.write_sack, with: {id: oat, body: {weight: 3}}}")
    assert Ledger.seen == [
        ("GET", "/v1/sacks/a%20rye%2F7", {"unit": ["kg"]}, "k-1"),
        ("PUT", "/v1/sacks/oat", {"weight": 3}, "k-1"),
    ]
    told = failure(folder, "{use: ledger.readSack, with: {id: oat}}")
    assert told == 'ledger.readSack (HTTP 404): {"why": "no such sack"}'
    with Kernel(cache=False) as kernel:
        spec = kernel.registry.function("ledger.readSack")
        assert (spec.writes, str(spec.parameters["unit"].type)) == (False, "'kg' or 'lb' or null")
        assert kernel.registry.plugin("ledger").summary == "The mill's ledger"


def test_a_document_may_be_a_file_and_the_server_another(folder: Path, ledger: str) -> None:
    (folder / "api.json").write_text(json.dumps(DOCUMENT))
    settings(folder, apis__ledger={"document": "api.json", "url": f"{ledger}/v1"})
    assert sync().exit_code == 0
    assert run(folder, "{use: ledger.readSack, with: {id: rye}}") == {"weight": 25.5}


@pytest.mark.parametrize(
    ("tables", "told"),
    [
        ({"servers__x": {"command": "no-such-program"}}, "MCP server 'x': .*no-such-program"),
        ({"servers__x": {"url": "http://127.0.0.1:1/mcp"}}, "MCP server 'x': .*\n  see its url in gristmill.toml"),
        ({"apis__x": {"document": "none.json"}}, "the OpenAPI document none.json cannot be read: "),
        ({"apis__x": {"document": "gristmill.toml"}}, "gristmill.toml (is no OpenAPI 3 document|cannot be read)"),
        ({"servers__x": {"command": "a"}, "apis__x": {"document": "b"}}, "'x' is a server and a document"),
        ({}, "gristmill.toml names no MCP server and no OpenAPI document"),
    ],
)
def test_what_cannot_be_reached_is_told_and_the_old_snapshot_is_kept(
    folder: Path, tables: dict[str, Any], told: str
) -> None:
    pytest.importorskip("mcp", reason="the extra gristmill[semantic-kernel] is not installed")
    settings(folder, **tables)
    old = '{"version": 1, "plugins": {}}'
    (folder / "gristmill.tools.json").write_text(old)
    done = sync()
    assert done.exit_code != 0
    with pytest.raises((UsageError, FunctionError), match=told):
        raise done.exception or AssertionError(done.output)
    assert (folder / "gristmill.tools.json").read_text() == old


def test_a_snapshot_that_is_none_is_told(folder: Path) -> None:
    settings(folder)
    (folder / "gristmill.tools.json").write_text("[]")
    with pytest.raises(UsageError, match=r"gristmill\.tools\.json is no snapshot of tools"):
        Kernel(settings=load_settings(folder), cache=False)
    (folder / "gristmill.tools.json").write_text('{"plugins": {"x": {"tools": [{"name": 3}]}}}')
    with (
        Kernel(settings=load_settings(folder), cache=False) as kernel,
        pytest.raises(PluginError, match="the snapshot of 'x' is damaged\n  write it anew: gristmill plugins sync"),
    ):
        kernel.registry.plugin("x")


def test_names_that_recipes_cannot_write_are_changed_and_never_collide() -> None:
    assert [identifier(name) for name in ("a-b", "2x", "get /a/{b}", "é")] == ["a_b", "_2x", "get__a__b", "tool"]

    async def send(*_: Any) -> Any:
        raise AssertionError

    with pytest.raises(PluginError, match="two tools of 'x' are both 'a_b' in a recipe"):
        tool_plugin("x", {"tools": [{"name": "a-b"}, {"name": "a.b"}]}, send)
