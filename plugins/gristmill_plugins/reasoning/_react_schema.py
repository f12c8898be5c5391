"""The JSON Schema of one turn of an agent: a thought, then a call of one tool or the answer.

Decoding is held to it, so that whatever the model, its turn parses. To that end every text and list gets a limit here.
It calls nothing. Invariant: `most_tokens` of a schema is enough for every value of it, a token for each byte, so that a
turn is never cut off by `max_tokens` (a full context aside).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gristmill import Tool

MOST_THOUGHT = 200
MOST_TEXT = 200
"""Characters of a text among a call's arguments that has no limit of its own."""
MOST_ITEMS = 8
_BYTES_OF_A_CHARACTER = 4
_BYTES_OF_A_NUMBER = 40


def turn_schema(tools: Sequence[Tool], *, thoughts: bool, answer_length: int | None) -> dict[str, Any]:
    """Return the schema of a turn: a call of one of the tools, or an answer if it may have a length."""
    thought = {"thought": {"type": "string", "minLength": 1, "maxLength": MOST_THOUGHT}} if thoughts else {}
    options = [_closed({**thought, "tool": {"const": tool.name}, "arguments": bounded(tool.schema)}) for tool in tools]
    if answer_length is not None:
        options.append(_closed({**thought, "answer": {"type": "string", "minLength": 1, "maxLength": answer_length}}))
    return options[0] if len(options) == 1 else {"anyOf": options}


def _closed(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def bounded(schema: Any) -> Any:
    """Return a schema whose texts and lists have limits, and whose objects have the declared fields only."""
    if not isinstance(schema, Mapping):
        return {"type": "string", "maxLength": MOST_TEXT}
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if key in ("properties", "$defs"):
            kept[key] = {name: bounded(part) for name, part in value.items()}
        elif key in ("anyOf", "oneOf", "prefixItems"):
            kept[key] = [bounded(part) for part in value]
        elif key == "items":
            kept[key] = bounded(value)
        elif key not in ("default", "description", "title", "examples"):
            kept[key] = value
    if not kept:
        return {"type": "string", "maxLength": MOST_TEXT}
    kinds = kept.get("type", ())
    if "string" in kinds and not kept.keys() & {"maxLength", "pattern", "format", "enum", "const"}:
        kept["maxLength"] = MOST_TEXT
    if "array" in kinds:
        kept.setdefault("items", {"type": "string", "maxLength": MOST_TEXT})
        kept.setdefault("maxItems", max(MOST_ITEMS, kept.get("minItems", 0)))
    if "object" in kinds or "properties" in kept:
        kept.setdefault("properties", {})
        kept["additionalProperties"] = False
    return kept


def most_tokens(schema: Any) -> int:
    """Return how many bytes a value of a bounded schema has at most, and so how many tokens."""
    if not isinstance(schema, Mapping):
        return MOST_TEXT * _BYTES_OF_A_CHARACTER
    options = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    if options:
        return max(most_tokens(option) for option in options)
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return 2 + max(len(json.dumps(value).encode()) for value in values)
    if "properties" in schema:
        return 4 + sum(len(json.dumps(n).encode()) + 6 + most_tokens(p) for n, p in schema["properties"].items())
    if "items" in schema:
        return 4 + int(schema.get("maxItems", MOST_ITEMS)) * (most_tokens(schema["items"]) + 3)
    if "string" in schema.get("type", ()):
        return 4 + int(schema.get("maxLength", 1000)) * _BYTES_OF_A_CHARACTER
    return _BYTES_OF_A_NUMBER


def describe(tools: Sequence[Tool]) -> str:
    """Return what the model is told of the tools: one line each, with its arguments and their meaning."""
    return "\n".join(f"- {tool.name}: {tool.summary} Arguments: {_told(tool.schema)}" for tool in tools)


def _told(schema: Mapping[str, Any]) -> str:
    told = {name: _kind(part) for name, part in schema["properties"].items()}
    return json.dumps(told, ensure_ascii=False)


def _kind(schema: Any) -> str:
    if not isinstance(schema, Mapping):
        return "text"
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    kind = schema.get("type", "text")
    kind = " or ".join(kind) if isinstance(kind, list) else kind
    return str(schema.get("description") or kind)
