"""Function calling for models that only write text: the choice of a tool is decoded under a JSON Schema.

The model is told the functions in the system message, and its answer is constrained to either one call or a text, so
that a call always parses. It calls nothing. Invariant: what a tool returned comes back as a user's turn, never as the
system's, whatever it says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gristmill import Message

_KEPT = frozenset(
    {"type", "enum", "const", "required", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
    | {"minItems", "maxItems", "minLength", "maxLength", "pattern"}
)
"""Keywords that constrained decoding knows; a parameter's other keywords are for the reader."""

Tool = Mapping[str, Any]


def answer_schema(tools: Sequence[Tool], *, required: bool) -> dict[str, Any]:
    """Return the schema of one answer: `{"function", "arguments"}`, or `{"answer"}` where no call is required."""
    options = [_call_schema(tool["function"]) for tool in tools]
    if not required:
        options.append(_closed({"answer": {"type": "string"}}, ["answer"]))
    return options[0] if len(options) == 1 else {"anyOf": options}


def _call_schema(function: Mapping[str, Any]) -> dict[str, Any]:
    parameters = function["parameters"]
    properties = {name: plain_schema(schema or {}) for name, schema in parameters["properties"].items()}
    arguments = _closed(properties, [name for name in parameters["required"] if name in properties])
    return _closed({"function": {"const": function["name"]}, "arguments": arguments}, ["function", "arguments"])


def _closed(properties: Mapping[str, Any], required: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }


def plain_schema(schema: Any) -> Any:
    """Return a schema without the keywords that decoding does not know; what they asked is checked at the call."""
    if not isinstance(schema, Mapping):
        return schema
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "properties":
            kept[key] = {name: plain_schema(part) for name, part in value.items()}
        elif key in ("anyOf", "oneOf"):
            kept[key] = [plain_schema(part) for part in value]
        elif key in ("items", "additionalProperties"):
            kept[key] = plain_schema(value)
        elif key in _KEPT:
            kept[key] = value
    return kept


def with_tools(messages: Sequence[Message], tools: Sequence[Tool], *, required: bool) -> list[Message]:
    """Return the messages with the functions described in the system message."""
    told = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    answer = "" if required else ' To answer instead, write {"answer": "..."}.'
    text = (
        "You can call functions. To call one, write "
        f'{{"function": "its name", "arguments": {{...}}}}.{answer} The functions:\n{told}'
    )
    head = [message for message in messages[:1] if message.role == "system"]
    system = Message(role="system", content=f"{head[0].content}\n\n{text}" if head else text)
    return [system, *messages[len(head) :]]


def call_text(name: str, arguments: Any, *, again: bool) -> str:
    """Return an earlier call as the model is shown it: as it wrote it where it may call `again`, else in words.

    Where it may not, a small model that sees the JSON writes it again instead of answering (SmolLM2-135M does).
    """
    if again:
        return json.dumps({"function": name, "arguments": arguments}, ensure_ascii=False)
    return f"I call {name} with {json.dumps(arguments, ensure_ascii=False)}."


def result_text(name: str, result: Any) -> str:
    """Return what the model is told of a call's result."""
    return f"{name} returned: {result}"
