"""Makes an agent's tools callable: what the recipe bound, and what the model set, become one call.

Which tools there may be, and what a model may set, is `_language._tool_list`'s. Invariant: a call goes through the
context, as a step would: checked, cached, budgeted and traced; and no argument outside a tool's schema reaches it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gristmill._context import Context, Tool
from gristmill._errors import FunctionError, suggest
from gristmill._language._recipe import Recipe
from gristmill._language._tool_list import TOOL_KEYS, ToolTarget, tool_schema

if TYPE_CHECKING:
    from gristmill._run import Services


def make_tools(context: Context, listed: Sequence[Mapping[str, Any]], services: Services, recipe: Recipe) -> list[Tool]:
    """Return the tools of a list, in its order.

    Raises:
        FunctionError: an item is no tool, or two have one name.
        PluginError, UsageError: there is no such function or recipe.
    """
    tools: dict[str, Tool] = {}
    for item in listed:
        tool = _make_tool(context, item, services, recipe)
        if tool.name in tools:
            raise FunctionError(f"two tools are called {tool.name!r}", hint="give one another name with `as`")
        tools[tool.name] = tool
    return list(tools.values())


def _make_tool(context: Context, item: Mapping[str, Any], services: Services, recipe: Recipe) -> Tool:
    if unknown := [key for key in item if key not in TOOL_KEYS]:
        raise FunctionError(f"{unknown[0]!r} is not a key of a tool", hint=suggest(str(unknown[0]), TOOL_KEYS))
    use, named, bound = item.get("use"), item.get("recipe"), dict(item.get("with") or {})
    if (use is None) == (named is None):
        raise FunctionError("a tool has either `use` or `recipe`")
    if use is not None:
        target = ToolTarget.of_function(services.registry.function(str(use)))
        model = target.parameters.get("model")
        names = [declared.name for declared in recipe.models.values() if declared.provider.makes == "model"]
        if model is not None and model.ref == "model" and len(names) == 1:
            bound.setdefault("model", names[0])
    else:
        target = ToolTarget.of_recipe(services.recipe(_located(context, str(named))))
    schema, found = tool_schema(target, bound, item.get("schema"))
    if found:
        raise FunctionError(f"tool {target.name!r}: {found[0].message}", hint=found[0].hint or None)
    name = str(item.get("as") or target.short_name)
    send = _call_function(context, target.name) if use is not None else _call_recipe(context, str(named))
    return Tool(name, str(item.get("description") or target.summary), schema, _bind(name, schema, bound, send))


def _located(context: Context, name: str) -> str:
    return str(context.path(name)) if "/" in name or name.endswith((".yaml", ".yml")) else name


_Send = Callable[[Mapping[str, Any]], Awaitable[Any]]


def _call_function(context: Context, name: str) -> _Send:
    return lambda arguments: context.call(name, arguments)


def _call_recipe(context: Context, name: str) -> _Send:
    return lambda arguments: context.run_recipe(name, arguments)


def _bind(name: str, schema: Mapping[str, Any], bound: Mapping[str, Any], send: _Send) -> _Send:
    async def call(arguments: Mapping[str, Any]) -> Any:
        if strange := [key for key in arguments if key not in schema["properties"]]:
            hint = suggest(strange[0], schema["properties"])
            raise FunctionError(f"tool {name!r} has no argument {strange[0]!r}", hint=hint)
        if missing := [key for key in schema["required"] if key not in arguments]:
            raise FunctionError(f"tool {name!r} needs {missing[0]!r}")
        return await send({**arguments, **bound})

    return call
