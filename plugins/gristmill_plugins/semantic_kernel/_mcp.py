"""Recipes as tools of an MCP server, and tools of other servers as steps.

The transport is stdio and the library the official one. Invariant: while it serves, standard output carries the
protocol only; whatever a plugin or a library prints goes to standard error.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from importlib.metadata import version
from typing import Any

import anyio
from httpx import HTTPError
from mcp import ClientSession, McpError, StdioServerParameters, stdio_client, types
from mcp.client.streamable_http import streamable_http_client
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

from gristmill import FunctionError, Kernel, UsageError
from gristmill.interop import Offer, recipe_offer


def serve(kernel: Kernel, recipe_names: Sequence[str]) -> None:
    """Serve the recipes until the client closes standard input; the program's main thread, and its last work."""
    offers = _offers(kernel, recipe_names)
    # A thread waits for the next line and cannot be interrupted: Ctrl-C ends the process, as the client's SIGTERM does.
    # Engines notice within two seconds, and what the cache and the stores acknowledged is on disk.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with _protocol_only() as stdout:
        anyio.run(_serve, offers, anyio.wrap_file(stdout))


def _offers(kernel: Kernel, recipe_names: Sequence[str]) -> dict[str, Offer]:
    offers: dict[str, Offer] = {}
    for name in recipe_names or kernel.library.files():
        offer = recipe_offer(kernel, name)
        if offer.name in offers:
            raise UsageError(f"two recipes are called {offer.name!r}", hint="give one of them another `name:`")
        offers[offer.name] = offer
    return offers


@contextmanager
def _protocol_only() -> Iterator[io.TextIOWrapper]:
    """Yield the real standard output, and let everything else that writes there write to standard error."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "wb") as kept:
        os.dup2(2, 1)
        try:
            yield io.TextIOWrapper(kept, encoding="utf-8", errors="backslashreplace")
        finally:
            sys.stdout.flush()
            os.dup2(kept.fileno(), 1)


async def _serve(offers: Mapping[str, Offer], stdout: Any) -> None:
    server = make_server(offers)
    async with stdio_server(stdout=stdout) as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


def make_server(offers: Mapping[str, Offer]) -> Any:
    """Return an MCP server that has each offer as a tool, for any transport."""
    server: Any = Server("gristmill", version=version("gristmill"))

    @server.list_tools()
    async def list_tools() -> list[types.Tool]:
        return [
            types.Tool(name=name, description=offer.summary, inputSchema=dict(offer.schema))
            for name, offer in offers.items()
        ]

    @server.call_tool(validate_input=False)
    async def call(name: str, arguments: dict[str, Any]) -> Any:
        if name not in offers:
            raise UsageError(f"there is no tool {name!r}", hint=f"there is: {', '.join(sorted(offers))}")
        output = (await offers[name].run(arguments)).as_json()["output"]
        text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False, indent=2)
        structured = output if isinstance(output, dict) else {"result": output}
        return [types.TextContent(type="text", text=text)], structured

    return server


async def call_tool(servers: Mapping[str, Any], server: str, tool: str, arguments: Mapping[str, Any]) -> Any:
    """Start a server that the settings name, call one of its tools, and return the structured answer, or its text.

    Raises:
        FunctionError: there is no such server or tool, or the tool reported an error.
    """
    async with _session(servers, server) as session:
        result = await session.call_tool(tool, dict(arguments))
    text = "\n".join(part.text for part in result.content if isinstance(part, types.TextContent))
    if result.isError:
        raise FunctionError(f"MCP server {server!r}, tool {tool!r}: {text}")
    return text if result.structuredContent is None else result.structuredContent


async def list_tools(servers: Mapping[str, Any], server: str) -> list[dict[str, Any]]:
    """Start or reach a server, and return what it offers, as records of a snapshot.

    Raises:
        FunctionError: there is no such server, or it cannot be reached.
    """
    tools: list[types.Tool] = []
    async with _session(servers, server) as session:
        page = await session.list_tools()
        tools += page.tools
        while page.nextCursor:
            page = await session.list_tools(page.nextCursor)
            tools += page.tools
    return [
        {
            "name": tool.name,
            "description": tool.description or tool.name,
            "parameters": tool.inputSchema,
            "returns": tool.outputSchema or {},
            "writes": not (tool.annotations is not None and tool.annotations.readOnlyHint),
        }
        for tool in tools
    ]


@asynccontextmanager
async def _session(servers: Mapping[str, Any], server: str) -> AsyncIterator[ClientSession]:
    """Talk to a server: one that is started for it, or one that is reached over HTTP.

    Raises:
        FunctionError: there is no such server, or it cannot be reached.
    """
    declared = servers.get(server) if isinstance(servers, Mapping) else None
    url = declared.get("url") if isinstance(declared, Mapping) else None
    try:
        async with AsyncExitStack() as stack:
            if isinstance(url, str):
                reading, writing, _ = await stack.enter_async_context(streamable_http_client(url))
            else:
                reading, writing = await stack.enter_async_context(stdio_client(_parameters(servers, server)))
            session = await stack.enter_async_context(ClientSession(reading, writing))
            await session.initialize()
            yield session
    except (OSError, McpError, HTTPError, BaseExceptionGroup) as error:
        first = _first(error)
        if isinstance(first, FunctionError):
            raise first from error
        if not isinstance(first, OSError | McpError | HTTPError):
            raise
        hint = "see its url in gristmill.toml" if url else "see its command in gristmill.toml"
        raise FunctionError(f"MCP server {server!r}: {first}", hint=hint) from error


def _first(error: BaseException) -> BaseException:
    """Return what a task group wraps: the library runs its transport in one."""
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def _parameters(servers: Mapping[str, Any], server: str) -> StdioServerParameters:
    declared = servers.get(server) if isinstance(servers, Mapping) else None
    if not isinstance(declared, Mapping) or not isinstance(declared.get("command"), str):
        known = ", ".join(sorted(servers)) or "there is none"
        raise FunctionError(
            f"gristmill.toml names no MCP server {server!r} with a command ({known})",
            hint=f'[plugin.semantic_kernel.servers.{server}] command = "...", args = [...]',
        )
    return StdioServerParameters(
        command=declared["command"], args=list(declared.get("args", ())), env=declared.get("env")
    )
