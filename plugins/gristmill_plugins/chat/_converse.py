"""A conversation in which the model calls tools over its server's own protocol, until it answers.

`reasoning.react` does the same with any model, by constrained decoding; this leaves the form of a call to the server,
as models trained for it expect. Invariants: only tools that the recipe lists are called; a tool that fails, and
arguments that do not fit, are told to the model; the number of turns is bounded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gristmill import (
    BudgetError,
    Completion,
    Context,
    FunctionError,
    GenerateRequest,
    Message,
    Sampling,
    Tool,
    ToolCall,
    ToolExchange,
    ToolSpec,
    Value,
    suggest,
)


class Called(Value):
    """A call that was made, and what the model was told of it."""

    tool: str
    arguments: dict[str, Any] = {}
    result: str
    failed: bool = False


class Conversation(Value):
    """What the model answered, and the calls it made on the way."""

    text_field = "text"

    text: str
    calls: tuple[Called, ...] = ()
    turns: int
    """How often the model was asked."""


async def converse(
    run: Context,
    model: str,
    messages: Sequence[Message],
    listed: Sequence[Mapping[str, Any]],
    *,
    sampling: Sampling,
    max_turns: int,
    result_length: int,
) -> Conversation:
    """Return the answer.

    Raises:
        FunctionError: the model was still calling after `max_turns`, or no tool is listed.
    """
    tools = {tool.name: tool for tool in run.tools(listed)}
    if not tools:
        raise FunctionError("chat.call_tools needs at least one tool", hint="ask with a prompt instead")
    request = GenerateRequest(
        messages=tuple(messages),
        sampling=sampling,
        seed=run.seed,
        tools=tuple(ToolSpec(name=t.name, description=t.summary, parameters=dict(t.schema)) for t in tools.values()),
    )
    handle = run.model(model)
    calls: list[Called] = []
    for turn in range(1, max_turns + 1):
        (completion,) = await handle.generate(request)
        if not completion.tool_calls:
            return Conversation(text=completion.text, calls=tuple(calls), turns=turn)
        made = [await _call(run, tools, call, result_length) for call in completion.tool_calls]
        calls += made
        request = request.model_copy(update={"exchanges": (*request.exchanges, _exchange(completion, made))})
    raise FunctionError(
        f"the model still called {calls[-1].tool!r} in turn {max_turns}", hint="raise max_turns, or offer fewer tools"
    )


def _exchange(completion: Completion, made: Sequence[Called]) -> ToolExchange:
    results = tuple(called.result for called in made)
    return ToolExchange(text=completion.text, calls=completion.tool_calls, results=results)


async def _call(run: Context, tools: Mapping[str, Tool], call: ToolCall, result_length: int) -> Called:
    tool = tools.get(call.name)
    failed = True
    if tool is None:
        result = f"there is no tool {call.name!r}: {suggest(call.name, tools)}"
    elif call.wrong is not None:
        result = "the arguments are no JSON object"
    else:
        try:
            result, failed = _as_text(await tool.call(call.arguments)), False
        except BudgetError:
            raise  # the run's budget ends the run, not the call
        except Exception as error:  # noqa: BLE001  (a tool may fail in any way; the model is told, and the call says so)
            result = str(error) or type(error).__name__
    result = result if len(result) <= result_length else f"{result[:result_length]} [cut]"
    run.note(f"{call.name}({json.dumps(call.arguments)}): {result}")
    return Called(tool=call.name, arguments=call.arguments, result=result, failed=failed)


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    text = value.as_text() if isinstance(value, Value) else None
    return text if text is not None else json.dumps(_plain(value), ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Value):
        return value.model_dump(mode="json")
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value
