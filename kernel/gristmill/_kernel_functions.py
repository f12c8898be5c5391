"""Objects with semantic-kernel's `@kernel_function` methods, read as the plugins they are.

It imports nothing of semantic-kernel: it reads what that decorator leaves on a function. What semantic-kernel takes,
it takes: a missing annotation is "any", and a missing docstring is the name. Invariant: such a function is cached only
if it is also marked `@gristmill.function(pure=True)`; a parameter that semantic-kernel itself would fill in is refused
by name unless it has a default, because here nobody fills it in.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from gristmill._errors import PluginError
from gristmill._plugins import function

_FILLED_IN = ("kernel", "service", "execution_settings", "arguments")


def as_plugin(name: str, source: Any) -> Any:
    """Return the plugin itself, or a stand-in that offers its `@kernel_function` methods as gristmill's functions.

    Raises:
        PluginError: a method needs what only semantic-kernel can give it.
    """
    if isinstance(source, type) and any(_is_foreign(_static(source, attribute)) for attribute in dir(source)):
        source = source()
    found = {attribute: _static(source, attribute) for attribute in dir(source)}
    if not any(_is_foreign(member) for member in found.values()):
        return source
    stand_in = _StandIn()
    stand_in.__doc__ = inspect.getdoc(source) or f"Functions of {name}."
    for attribute, member in found.items():
        if hasattr(member, "__gristmill__"):
            setattr(stand_in, attribute, getattr(source, attribute))
        elif _is_foreign(member):
            setattr(stand_in, attribute, _adapted(name, getattr(source, attribute)))
    return stand_in


class _StandIn:
    """Holds functions as attributes."""


def _static(source: Any, attribute: str) -> Any:
    """Return a member without running a property."""
    member = inspect.getattr_static(source, attribute, None)
    return getattr(member, "__func__", member)


def _is_foreign(member: Any) -> bool:
    return getattr(member, "__kernel_function__", None) is True


def _adapted(plugin: str, method: Any) -> Any:
    """Return a function with resolved annotations and a docstring that calls the method."""
    short: str = method.__kernel_function_name__
    parameters = []
    for parameter in inspect.signature(method, eval_str=True).parameters.values():
        if parameter.name in _FILLED_IN:
            if parameter.default is parameter.empty:
                raise PluginError(
                    f"{plugin}.{short}: semantic-kernel fills in {parameter.name!r}, and a recipe cannot",
                    hint="give the parameter a default, or take it out",
                )
            continue
        annotation = Any if parameter.annotation is parameter.empty else parameter.annotation
        parameters.append(parameter.replace(annotation=annotation))
    returns = inspect.signature(method, eval_str=True).return_annotation
    call = _caller(method)
    call.__name__ = call.__qualname__ = short
    call.__doc__ = (method.__kernel_function_description__ or "").strip() or f"{short}."
    if inspect.isasyncgenfunction(method) or inspect.isgeneratorfunction(method):
        returns = list[Any]
    returns = Any if returns is inspect.Signature.empty else returns
    call.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": returns}
    call.__signature__ = inspect.Signature(parameters, return_annotation=returns)  # type: ignore[attr-defined]
    return function(name=short)(call)


def _caller(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a plain function of the method's own kind; a stream becomes the list of its items."""
    if inspect.isasyncgenfunction(method):

        async def collect(**arguments: Any) -> Any:
            return [item async for item in method(**arguments)]

        return collect
    if inspect.iscoroutinefunction(method):

        async def await_it(**arguments: Any) -> Any:
            return await method(**arguments)

        return await_it
    if inspect.isgeneratorfunction(method):
        return lambda **arguments: list(method(**arguments))
    return lambda **arguments: method(**arguments)
