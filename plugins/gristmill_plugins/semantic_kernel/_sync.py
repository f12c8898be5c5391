"""`gristmill plugins sync`: ask every server and document that gristmill.toml names what it offers, and keep it.

It calls no tool. Invariant: the snapshot is written whole or not at all, and names nothing that was not reached.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gristmill import UsageError
from gristmill_plugins.semantic_kernel._openapi import read_document, tools_of

VERSION = 1
FILE_NAME = "gristmill.tools.json"


async def sync(settings: Mapping[str, Any], path: Path) -> dict[str, int]:
    """Write the snapshot; return each plugin's name and how many tools it has.

    Raises:
        UsageError: nothing is named, or one of them cannot be reached; the old snapshot is then kept.
    """
    servers, documents = settings.get("servers") or {}, settings.get("apis") or {}
    if not servers and not documents:
        raise UsageError(
            "gristmill.toml names no MCP server and no OpenAPI document",
            hint='[plugin.semantic_kernel.servers.NAME] command = "..."',
        )
    if both := sorted(set(servers) & set(documents)):
        raise UsageError(f"{both[0]!r} is a server and a document: give one of them another name")
    plugins: dict[str, Any] = {}
    for name, declared in servers.items():
        plugins[name] = {"kind": "mcp", "tools": await _tools_of_server(servers, name, declared)}
    for name, declared in documents.items():
        document, server = read_document(str(declared.get("document", "")), path.parent)
        summary = str((document.get("info") or {}).get("title") or name)
        tools = [_marked(tool, declared) for tool in tools_of(document)]
        plugins[name] = {"kind": "openapi", "summary": summary, "server": server, "tools": tools}
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    text = json.dumps({"version": VERSION, "plugins": plugins}, indent=2, ensure_ascii=False, sort_keys=True)
    partial.write_text(text + "\n", encoding="utf-8")
    os.replace(partial, path)
    return {name: len(record["tools"]) for name, record in plugins.items()}


async def _tools_of_server(servers: Mapping[str, Any], name: str, declared: Any) -> list[dict[str, Any]]:
    from gristmill_plugins.semantic_kernel._mcp import list_tools

    return [_marked(tool, declared) for tool in await list_tools(servers, name)]


def _marked(tool: dict[str, Any], declared: Any) -> dict[str, Any]:
    """Say of a tool whether gristmill.toml calls it pure: then its results are cached."""
    pure = declared.get("pure", ()) if isinstance(declared, Mapping) else ()
    return {**tool, "pure": True, "writes": False} if tool["name"] in pure else tool
