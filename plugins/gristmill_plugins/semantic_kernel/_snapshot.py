"""Tools that are not local code (of MCP servers, of OpenAPI documents) as a plugin that can be checked.

A snapshot of their signatures, written by `gristmill plugins sync`, is all that `check` reads: it starts no server and
opens no connection. Invariants: what a snapshot holds is data and never code; a call goes to the server that
gristmill.toml names now, under the name that the server gave the tool.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Literal

from gristmill import PluginError, function

Send = Callable[[Mapping[str, Any], Mapping[str, Any]], Awaitable[Any]]
"""Makes a call, given the snapshot's record of the tool and the arguments by the tool's own names."""
_TYPES: Mapping[str, Any] = {
    "string": str, "integer": int, "number": float, "boolean": bool, "array": list[Any], "object": dict[str, Any],
}  # fmt: skip
_MOST_CHOICES = 100


class Tools:
    """Holds functions as attributes."""


def tool_plugin(name: str, record: Mapping[str, Any], send: Send) -> Tools:
    """Return a plugin that offers the tools of a snapshot.

    Raises:
        PluginError: the snapshot is none, or two of its tools have one name here.
    """
    made = Tools()
    made.__doc__ = f"{record.get('summary') or f'Tools of {name}.'}"
    for tool in record.get("tools", ()):
        if not isinstance(tool, Mapping) or not isinstance(tool.get("name"), str):
            raise PluginError(f"the snapshot of {name!r} is damaged", hint="write it anew: gristmill plugins sync")
        short = identifier(tool["name"])
        if hasattr(made, short):
            raise PluginError(f"two tools of {name!r} are both {short!r} in a recipe")
        setattr(made, short, _as_function(short, tool, send))
    return made


def identifier(name: str) -> str:
    """Return a name as recipes can write it."""
    plain = re.sub(r"\W", "_", name, flags=re.ASCII).strip("_") or "tool"
    return f"_{plain}" if plain[0].isdigit() else plain


def _as_function(short: str, tool: Mapping[str, Any], send: Send) -> Any:
    schema = tool.get("parameters") or {}
    properties: Mapping[str, Any] = schema.get("properties") or {}
    required = set(schema.get("required") or ())
    names = {identifier(name): name for name in properties}
    parameters = [
        _parameter(here, properties[theirs], required=theirs in required)
        for here, theirs in sorted(names.items(), key=lambda pair: pair[1] not in required)
    ]

    async def call(**arguments: Any) -> Any:
        given = {names[here]: value for here, value in arguments.items() if value is not None}
        return await send(tool, given)

    returns = _annotation(tool.get("returns") or {})
    call.__name__ = call.__qualname__ = short
    call.__doc__ = " ".join(str(tool.get("description") or short).split())[:300]
    call.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": returns}
    call.__signature__ = inspect.Signature(parameters, return_annotation=returns)  # type: ignore[attr-defined]
    return function(name=short, pure=bool(tool.get("pure")), writes=bool(tool.get("writes", True)))(call)


def _parameter(name: str, schema: Mapping[str, Any], *, required: bool) -> inspect.Parameter:
    kind = _annotation(schema)
    default: Any = inspect.Parameter.empty
    if not required:
        kind, default = kind | None if kind is not Any else Any, None
    told = str(schema.get("description") or "")
    annotation = Annotated[kind, told] if told else kind
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _annotation(schema: Any) -> Any:
    """Return the type of a JSON Schema, as far as recipes have types; the server checks the rest."""
    if not isinstance(schema, Mapping):
        return Any
    choices = schema.get("enum")
    if isinstance(choices, list) and 0 < len(choices) <= _MOST_CHOICES and all(isinstance(c, str) for c in choices):
        return Literal[tuple(choices)]
    kind = schema.get("type")
    if isinstance(kind, list):
        others = [one for one in kind if one != "null"]
        inner = _annotation({**schema, "type": others[0]}) if len(others) == 1 else Any
        return inner | None if len(others) < len(kind) and inner is not Any else inner
    if kind == "array":
        item = _annotation(schema.get("items"))
        return list[item]  # type: ignore[valid-type]
    return _TYPES.get(kind, Any) if isinstance(kind, str) else Any
