"""Gristmill's functions and recipes as semantic-kernel functions.

Arguments are not parsed by semantic-kernel's rules but by gristmill's; only text that stands for a number, a list or
an object, as templates and models give it, is read as JSON first. Invariant: a call goes through semantic-kernel's
filters and then through the same executor as a step.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field
from semantic_kernel.filters.functions.function_invocation_context import FunctionInvocationContext
from semantic_kernel.functions import FunctionResult, KernelFunction, KernelFunctionMetadata, KernelParameterMetadata

from gristmill import Value
from gristmill.interop import Offer

_PYTHON_NAMES = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "array": "list",
    "object": "dict",
}


class OfferedFunction(KernelFunction):
    """A function of a gristmill plugin, or a recipe."""

    offer: Any = Field(exclude=True)

    @classmethod
    def of(cls, offer: Offer, plugin: str, name: str) -> OfferedFunction:
        """Return the offer as `plugin-name`."""
        required = offer.schema["required"]
        parameters = [_parameter(key, schema, key in required) for key, schema in offer.schema["properties"].items()]
        returns = KernelParameterMetadata(
            name="return", type=_python_name(offer.returns), is_required=True, schema_data=dict(offer.returns)
        )
        metadata = KernelFunctionMetadata(
            name=safe_name(name),
            plugin_name=safe_name(plugin),
            description=offer.summary,
            parameters=parameters,
            return_parameter=returns,
            is_prompt=False,
            is_asynchronous=True,
        )
        return cls(metadata=metadata, offer=offer)

    async def _invoke_internal(self, context: FunctionInvocationContext) -> None:
        properties = self.offer.schema["properties"]
        given = {name: context.arguments[name] for name in properties if name in context.arguments}
        result = await self.offer.run({name: _read(value, properties[name]) for name, value in given.items()})
        context.result = FunctionResult(
            function=self.metadata,
            value=_shown(result.output),
            metadata={"arguments": context.arguments, "used_arguments": given, "run": result},
        )

    async def _invoke_internal_stream(self, context: FunctionInvocationContext) -> None:
        """Give the whole result at once: what streams is a model, and this is a function."""
        await self._invoke_internal(context)


def safe_name(name: str) -> str:
    """Return a name that semantic-kernel takes: letters, digits and underscores."""
    return re.sub(r"[^0-9A-Za-z_]", "_", name)


def _parameter(name: str, schema: Mapping[str, Any], required: bool) -> KernelParameterMetadata:
    return KernelParameterMetadata(
        name=name,
        description=schema.get("description"),
        default_value=schema.get("default"),
        type=_python_name(schema),
        is_required=required,
        schema_data=dict(schema),
    )


def _python_name(schema: Mapping[str, Any]) -> str:
    kind = "string" if "enum" in schema else schema.get("type")
    return _PYTHON_NAMES.get(kind, "object") if isinstance(kind, str) else "object"


def _read(value: Any, schema: Mapping[str, Any]) -> Any:
    """Read text as JSON where the parameter takes no text; what is no JSON is left to gristmill's own message."""
    if not isinstance(value, str) or _takes_text(schema):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _takes_text(schema: Mapping[str, Any]) -> bool:
    if not schema.keys() & {"type", "enum", "anyOf"}:
        return True
    kinds = schema.get("type", ())
    options = schema.get("anyOf", ())
    return "enum" in schema or "string" in kinds or any(_takes_text(option) for option in options)


def _shown(value: Any) -> Any:
    """Return a value in which semantic-kernel finds text: what stands for a text is that text, a model its fields."""
    if isinstance(value, Value) and (text := value.as_text()) is not None:
        return text
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, list | tuple):
        return [_shown(item) for item in value]
    return {key: _shown(item) for key, item in value.items()} if isinstance(value, dict) else value
