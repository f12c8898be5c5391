"""Tool calls as servers write them: whole, or in pieces of a stream, in several dialects.

OpenAI, llama-server and vLLM number the pieces of a stream and send arguments as JSON text in any cuts; Ollama sends
each call whole, some servers without numbers or ids. Invariant: a call is never lost or joined with another; arguments
that are no JSON object are kept as they came, for the model to be told.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from gristmill import ToolCall


class _Function(BaseModel):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class CallPart(BaseModel):
    """A call, or a piece of one."""

    index: int | None = None
    id: str | None = None
    function: _Function = _Function()


@dataclass(slots=True)
class _Call:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class CallParts:
    """The calls of one sample as far as they have come."""

    _calls: dict[int, _Call] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, parts: Sequence[CallPart]) -> None:
        """Take calls or pieces; a piece without a number is a call of its own."""
        for part in parts:
            place = part.index if part.index is not None else max(self._calls, default=-1) + 1
            call = self._calls.setdefault(place, _Call())
            call.id = part.id or call.id
            call.name = part.function.name or call.name
            given = part.function.arguments
            if given is not None:
                call.arguments.append(given if isinstance(given, str) else json.dumps(given))

    def whole(self) -> tuple[ToolCall, ...]:
        """Return the calls in their order; one that came without an id gets one."""
        return tuple(_whole(n, call) for n, (_, call) in enumerate(sorted(self._calls.items())))


def _whole(n: int, call: _Call) -> ToolCall:
    text = "".join(call.arguments).strip()
    try:
        arguments = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        return ToolCall(id=call.id or f"call_{n}", name=call.name, wrong=text)
    return ToolCall(id=call.id or f"call_{n}", name=call.name, arguments=arguments)
