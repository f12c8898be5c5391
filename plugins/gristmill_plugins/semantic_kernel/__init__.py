"""The only place that knows semantic-kernel and MCP: gristmill's face to them, and theirs to gristmill.

    kernel.semantic_kernel              the kernel as a `semantic_kernel.Kernel`
    gristmill mcp RECIPE...             recipes as tools of an MCP server
    use: semantic_kernel.call_tool      a tool of an MCP server, as a step
    use: semantic_kernel                a semantic-kernel collection as a store, under `models:` or [memory.store]

Importing this module, and `check`, import neither library: the first real use does. Invariant: nothing outside this
folder may import semantic_kernel or mcp, so that they can be replaced here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from gristmill import Context, PluginError, function, model_provider

if TYPE_CHECKING:
    from gristmill import Kernel, VectorStore

__all__ = ["SemanticKernelPlugin"]

EXTRA = "gristmill[semantic-kernel]"


class SemanticKernelPlugin:
    """Opens gristmill to semantic-kernel and to MCP."""

    plugin_api = 1

    def make_face(self, kernel: Kernel) -> Any:
        """Return the kernel as a `semantic_kernel.Kernel`.

        Raises:
            PluginError: semantic-kernel is not installed.
        """
        _need("semantic_kernel")
        from gristmill_plugins.semantic_kernel._face import GristmillKernel

        return GristmillKernel.of(kernel)

    def serve(self, kernel: Kernel, recipe_names: Sequence[str] = ()) -> None:
        """Serve recipes as MCP tools on standard input and output until the client leaves; none named means all.

        Raises:
            PluginError: the MCP library is not installed.
            UsageError, RecipeError: there is no such recipe, or it does not check; nothing was served.
        """
        _need("mcp")
        from gristmill_plugins.semantic_kernel._mcp import serve

        serve(kernel, recipe_names)

    async def sync(self, settings: Mapping[str, Any], path: Path) -> dict[str, int]:
        """Write the snapshot of what the servers and documents of the settings offer; return how many tools each has.

        Raises:
            PluginError: a server is named, and the MCP library is not installed.
            UsageError, FunctionError: nothing is named, or one of them cannot be reached.
        """
        if settings.get("servers"):
            _need("mcp")
        from gristmill_plugins.semantic_kernel._sync import sync

        return await sync(settings, path)

    def tool_plugin(self, name: str, record: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
        """Return the plugin that a snapshot describes; nothing is started or reached before a tool is called.

        Raises:
            PluginError: the snapshot is damaged.
        """
        from gristmill_plugins.semantic_kernel._snapshot import tool_plugin

        async def send(tool: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
            if record.get("kind") == "openapi":
                from gristmill_plugins.semantic_kernel._openapi import send

                declared = (settings.get("apis") or {}).get(name) or {}
                return await send(name, declared, str(record.get("server", "")), tool, given)
            _need("mcp")
            from gristmill_plugins.semantic_kernel._mcp import call_tool

            return await call_tool(settings.get("servers") or {}, name, tool["name"], given)

        return tool_plugin(name, record, send)

    @model_provider
    def semantic_kernel(
        self,
        *,
        connector: Annotated[
            str,
            Field(pattern="^[a-z][a-z0-9_]*$", description="A module of semantic_kernel.connectors, such as in_memory"),
        ],
        dimensions: Annotated[int, Field(ge=1, description="Of the embedder's vectors")] = 256,
        fields: Annotated[
            dict[str, str] | None, Field(description="The metadata: name to str, int, float or bool")
        ] = None,
    ) -> VectorStore:
        """Collections of a semantic-kernel connector as a store of semantic memory, searched by meaning only."""
        _need("semantic_kernel")
        from gristmill_plugins.semantic_kernel._store import SemanticKernelStore

        return SemanticKernelStore.of_connector(connector, dimensions, fields or {})

    def store_of(self, collections: Mapping[str, Any]) -> VectorStore:
        """Return semantic-kernel collections, by name, as a store: `Kernel(memory=...)` takes it.

        Raises:
            PluginError: semantic-kernel is not installed.
        """
        _need("semantic_kernel")
        from gristmill_plugins.semantic_kernel._store import SemanticKernelStore

        return SemanticKernelStore(collections)

    @function(writes=True)
    async def call_tool(
        self,
        server: Annotated[str, "The server's name in gristmill.toml, [plugin.semantic_kernel.servers.NAME]."],
        tool: Annotated[str, "The tool's name."],
        context: Context,
        *,
        arguments: Annotated[dict[str, Any] | None, "The tool's arguments."] = None,
    ) -> Any:
        """Call a tool of an MCP server that gristmill.toml names, and return what it answers."""
        _need("mcp")
        from gristmill_plugins.semantic_kernel._mcp import call_tool

        return await call_tool(context.settings.get("servers", {}), server, tool, arguments or {})


def _need(library: str) -> None:
    if importlib.util.find_spec(library) is None:
        raise PluginError(f"{library} is not installed", hint=f'pip install "{EXTRA}"')
