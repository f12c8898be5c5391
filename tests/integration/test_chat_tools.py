"""Tools over a server's own protocol: what is sent, what comes back in each dialect, and the talk around it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.integration.test_chat_faults import Server, answer, ask, reply, serving, stream

from gristmill import (
    CapabilityError,
    Completion,
    Delta,
    FunctionError,
    GenerateRequest,
    Kernel,
    Message,
    ModelError,
    RunError,
    ToolCall,
    ToolExchange,
    ToolSpec,
    function,
)
from gristmill.testing import FakePlugin
from gristmill_plugins.chat import ChatPlugin

WEATHER = ToolSpec(
    name="weather",
    description="Tell the weather.",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)


def calls(*given: dict[str, Any]) -> dict[str, Any]:
    """A whole answer that calls tools."""
    return answer("", reason="tool_calls", tool_calls=list(given))


def call(arguments: Any, name: str = "weather", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


def piece(*parts: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "finish_reason": reason, "delta": {"tool_calls": list(parts)}}]}


async def test_tools_are_offered_as_the_protocol_says_and_a_call_comes_back() -> None:
    async with serving(reply(calls(call('{"city": "Bonn"}', id="c1")))) as (server, model):
        (completion,) = await model.generate(ask(tools=(WEATHER,), tool_choice="required"))
    assert completion.tool_calls == (ToolCall(id="c1", name="weather", arguments={"city": "Bonn"}),)
    assert (completion.text, completion.finish_reason) == ("", "stop")
    assert Completion.model_validate_json(completion.model_dump_json()) == completion
    body = server.asked[0].body
    assert body["tools"] == [{"type": "function", "function": WEATHER.model_dump()}]
    assert body["tool_choice"] == "required"


async def test_what_came_of_calls_goes_back_in_turns_of_its_own() -> None:
    exchange = ToolExchange(
        text="Let me see.",
        calls=(
            ToolCall(id="c1", name="weather", arguments={"city": "Bonn"}),
            ToolCall(id="c2", name="weather", wrong="{x"),
        ),
        results=("rain", "the arguments are no JSON object"),
    )
    async with serving(reply(answer("It rains."))) as (server, model):
        (completion,) = await model.generate(ask(tools=(WEATHER,), exchanges=(exchange,)))
    assert (completion.text, completion.tool_calls) == ("It rains.", ())
    _, asked, first, second = server.asked[0].body["messages"]
    assert asked["role"] == "assistant"
    assert [c["function"]["arguments"] for c in asked["tool_calls"]] == ['{"city": "Bonn"}', "{x"]
    assert first == {"role": "tool", "tool_call_id": "c1", "content": "rain"}
    assert second["tool_call_id"] == "c2"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([call({"city": "Bonn"})], [ToolCall(id="call_0", name="weather", arguments={"city": "Bonn"})]),
        ([call("", id="a")], [ToolCall(id="a", name="weather")]),
        ([call("[1]", id="a")], [ToolCall(id="a", name="weather", wrong="[1]")]),
        ([call('{"city": ', id="a")], [ToolCall(id="a", name="weather", wrong='{"city":')]),
        ([call("[" * 100_000, id="a")], [ToolCall(id="a", name="weather", wrong="[" * 100_000)]),
        ([call("{}", "a", index=1), call("{}", "b", index=0)],
         [ToolCall(id="call_0", name="b"), ToolCall(id="call_1", name="a")]),
    ],
)  # fmt: skip
async def test_calls_are_read_in_every_form(given: list[dict[str, Any]], expected: list[ToolCall]) -> None:
    async with serving(reply(calls(*given))) as (_, model):
        (completion,) = await model.generate(ask(tools=(WEATHER,)))
    assert list(completion.tool_calls) == expected


async def test_a_call_is_put_together_from_the_pieces_of_a_stream() -> None:
    events = [
        piece({"index": 0, "id": "a", "function": {"name": "weather", "arguments": ""}}),
        piece({"index": 0, "function": {"arguments": '{"ci'}}),
        piece({"index": 1, "id": "b", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}),
        piece({"index": 0, "function": {"arguments": 'ty": "Bonn"}'}}),
        piece(reason="tool_calls"),
    ]
    deltas: list[Delta] = []
    async with serving(stream(*events, "[DONE]")) as (_, model):
        (completion,) = await model.generate(ask(tools=(WEATHER,)), deltas.append)
    assert [(c.id, c.arguments["city"]) for c in completion.tool_calls] == [("a", "Bonn"), ("b", "Ulm")]
    assert deltas == []


async def test_whole_calls_of_a_stream_without_numbers_stay_apart() -> None:
    events = [piece(call('{"city": "Bonn"}')), piece(call('{"city": "Ulm"}')), piece(reason="stop")]
    async with serving(stream(*events)) as (_, model):
        (completion,) = await model.generate(ask(tools=(WEATHER,)), lambda _: None)
    assert [c.arguments["city"] for c in completion.tool_calls] == ["Bonn", "Ulm"]


async def test_text_where_a_call_was_required_is_an_error() -> None:
    async with serving(reply(answer("Rain."))) as (_, model):
        with pytest.raises(ModelError, match=r"answered with text where a tool call was required: 'Rain.'"):
            await model.generate(ask(tools=(WEATHER,), tool_choice="required"))
    async with serving(reply(calls(call("{}")))) as (_, model):
        with pytest.raises(ModelError, match="answered with a tool call, and no tool was offered"):
            await model.generate(ask(tools=(WEATHER,), tool_choice="none"))


def test_requests_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="tools go with neither json_schema nor members"):
        ask(tools=(WEATHER,), json_schema={"type": "object"})
    with pytest.raises(ValueError, match="at least 1 item"):
        ToolExchange(calls=(), results=("a",))
    with pytest.raises(ValueError, match="2 results for 1 calls"):
        ToolExchange(calls=(ToolCall(id="a", name="b"),), results=("a", "b"))


class Tools:
    """What a model may call."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    @function
    def weather(self, city: str) -> str:
        """Tell the weather."""
        self.asked.append(city)
        if city == "Atlantis":
            raise FunctionError("there is no such city")
        return f"It rains in {city}."


RECIPE = """version: 1
inputs: {question: {type: string, default: What is the weather?}}
models: {main: {use: chat, base_url: "URL", model: m, retries: 0}}
steps:
  talk:
    use: chat.call_tools
    model: main
    with:
      question: ${inputs.question}
      max_turns: 3
      tools: [{use: weather.weather}]
output: {text: "${talk.text}", turns: "${talk.turns}", results: "${talk.calls | map(attribute='result') | list}"}
"""


async def run(server: Server, tmp_path: Path, *, cache: bool = False) -> tuple[Any, Tools]:
    tools = Tools()
    (tmp_path / "r.yaml").write_text(RECIPE.replace("URL", server.url))
    kernel = Kernel(plugins={"chat": ChatPlugin(), "weather": tools}, cache=cache)
    kernel.registry._scanned = True  # these plugins and no installed ones
    with kernel:
        return (await kernel.recipe(tmp_path / "r.yaml").arun()).output, tools


async def test_a_recipe_lets_a_model_call_tools_until_it_answers(tmp_path: Path) -> None:
    said = [
        calls(call('{"city": "Bonn"}', id="1"), call('{"city": "Atlantis"}', id="2")),
        calls(call("{}", "wether", id="3"), call('{"town": "Ulm"}', id="4"), call("oh", id="5")),
        answer("Rain."),
    ]
    async with serving(*map(reply, said)) as (server, _):
        output, tools = await run(server, tmp_path)
    assert (output["text"], output["turns"], tools.asked) == ("Rain.", 3, ["Bonn", "Atlantis"])
    told = [
        "It rains in Bonn.",
        "there is no such city",
        "there is no tool 'wether': did you mean 'weather'?",
        "tool 'weather' has no argument 'town'\n  there is: city",
        "the arguments are no JSON object",
    ]
    assert output["results"] == told
    turns = server.asked[2].body["messages"]
    assert [turn["role"] for turn in turns] == [
        "user",
        "assistant",
        "tool",
        "tool",
        "assistant",
        "tool",
        "tool",
        "tool",
    ]
    assert [turn["content"] for turn in turns if turn["role"] == "tool"] == told


async def test_a_talk_with_tools_comes_from_the_cache_again(tmp_path: Path) -> None:
    said = [calls(call('{"city": "Bonn"}', id="1")), answer("Rain.")]
    async with serving(*map(reply, said)) as (server, _):
        first, _ = await run(server, tmp_path, cache=True)
        again, tools = await run(server, tmp_path, cache=True)
    assert first == again
    assert (len(server.asked), tools.asked) == (2, ["Bonn"])


async def test_a_model_that_never_stops_calling_is_stopped(tmp_path: Path) -> None:
    async with serving(reply(calls(call('{"city": "Bonn"}', id="1")))) as (server, _):
        with pytest.raises(RunError) as caught:
            await run(server, tmp_path)
    (error,) = caught.value.failures.values()
    assert str(error) == "the model still called 'weather' in turn 3\n  raise max_turns, or offer fewer tools"


async def test_a_model_without_the_capability_says_so(tmp_path: Path) -> None:
    recipe = RECIPE.replace('{use: chat, base_url: "URL", model: m, retries: 0}', "{use: fake}")
    (tmp_path / "r.yaml").write_text(recipe)
    kernel = Kernel(plugins={"chat": ChatPlugin(), "weather": Tools(), "fake": FakePlugin()}, cache=False)
    kernel.registry._scanned = True
    with kernel, pytest.raises(RunError) as caught:
        await kernel.recipe(tmp_path / "r.yaml").arun()
    (error,) = caught.value.failures.values()
    assert isinstance(error, CapabilityError)
    assert str(error) == "fake cannot be offered tools\n  reasoning.react works with any"


def test_a_request_with_tools_is_printed_and_read_back() -> None:
    request = GenerateRequest(messages=(Message(role="user", content="x"),), tools=(WEATHER,), tool_choice="none")
    assert GenerateRequest.model_validate_json(request.model_dump_json()) == request
    assert json.loads(request.model_dump_json())["tools"][0]["name"] == "weather"
