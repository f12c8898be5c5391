"""The kernel as a `semantic_kernel.Kernel`: functions, filters, models, function calling, agents."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any

import pytest

pytest.importorskip("semantic_kernel", reason='needs the extra: pip install "gristmill[semantic-kernel]"')

import semantic_kernel
from semantic_kernel.agents import ChatCompletionAgent
from semantic_kernel.connectors.ai.function_choice_behavior import FunctionChoiceBehavior
from semantic_kernel.contents import ChatHistory, ImageContent
from semantic_kernel.exceptions import KernelInvokeException
from semantic_kernel.filters import FilterTypes
from semantic_kernel.functions import kernel_function

from gristmill import (
    Context,
    FunctionError,
    GenerateRequest,
    Kernel,
    ModelRef,
    UsageError,
    Vote,
    function,
)
from gristmill.testing import FakePlugin

RECIPE = """\
version: 1
name: greet-in
description: Greet somebody in a language.
inputs:
  who: {type: string, description: Whom to greet.}
  language: {type: string, choices: [German, French], default: German, description: The language.}
models:
  small: {use: fake}
steps:
  greeting:
    model: small
    prompt: "Greet ${inputs.who} in ${inputs.language}."
output: ${greeting}
"""


class Words:
    """Counts words."""

    def __init__(self) -> None:
        self.calls = 0

    @function(pure=True)
    def count(self, text: Annotated[str, "What to count."], *, at_least: Annotated[int, "Shortest word."] = 1) -> int:
        """Return how many words a text has."""
        self.calls += 1
        return sum(len(word) >= at_least for word in text.split())

    @function
    def read(self, path: Path) -> str:
        """Return what a file holds."""
        return path.read_text()

    @function
    def vote(self, texts: list[str]) -> Vote:
        """Return the first text as the winner."""
        return Vote(winner=texts[0], tally={texts[0]: 1.0}, agreement=1.0)

    @function
    async def tokens(self, text: str, context: Context, *, model: ModelRef) -> int:
        """Return how many tokens a text is."""
        return await context.model(model).count_tokens(text)


def answers(request: GenerateRequest, _: int) -> str:
    """Call the recipe once, then tell what it returned; without functions, greet."""
    if request.json_schema is None:
        return "Guten Tag, " + request.messages[-1].content.split()[1]
    last = request.messages[-1].content
    if "returned:" in last:
        return json.dumps({"answer": f"They say: {last.partition('returned: ')[2]}"})
    return json.dumps({"function": "recipes-greet_in", "arguments": {"who": "Ada", "language": "German"}})


@pytest.fixture
def fake() -> FakePlugin:
    return FakePlugin(answers=answers)


@pytest.fixture
def words() -> Words:
    return Words()


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: FakePlugin, words: Words) -> Iterator[Kernel]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "greet.yaml").write_text(RECIPE)
    with Kernel(plugins={"fake": fake, "words": words}) as made:
        yield made


def history(*turns: tuple[str, str]) -> ChatHistory:
    chat = ChatHistory()
    for role, text in turns:
        chat.add_message({"role": role, "content": text})
    return chat


# -- functions ---------------------------------------------------------------------------------------------------------


def test_every_plugin_is_a_kernel_plugin_with_typed_metadata(kernel: Kernel) -> None:
    face = kernel.semantic_kernel
    assert isinstance(face, semantic_kernel.Kernel)
    assert face is kernel.semantic_kernel
    assert {"text", "words", "recipes"} <= set(face.plugins)
    metadata = face.plugins["words"]["count"].metadata
    assert metadata.fully_qualified_name == "words-count"
    assert metadata.description == "Return how many words a text has."
    assert [(p.name, p.description, p.type_, p.is_required, p.default_value) for p in metadata.parameters] == [
        ("text", "What to count.", "str", True, None),
        ("at_least", "Shortest word.", "int", False, 1),
    ]
    assert metadata.parameters[1].schema_data == {"type": "integer", "description": "Shortest word.", "default": 1}
    assert metadata.return_parameter.schema_data == {"type": "integer"}


def test_a_recipe_is_a_function_with_the_schema_of_its_inputs(kernel: Kernel) -> None:
    metadata = kernel.semantic_kernel.add_recipe("./greet.yaml").metadata
    assert metadata.fully_qualified_name == "recipes-greet_in"
    assert {p.name: p.schema_data for p in metadata.parameters}["language"] == {
        "enum": ["German", "French"],
        "description": "The language.",
        "default": "German",
    }
    assert [p.name for p in metadata.parameters if p.is_required] == ["who"]


async def test_text_that_stands_for_a_number_is_one(kernel: Kernel) -> None:
    result = await kernel.semantic_kernel.invoke(
        plugin_name="words", function_name="count", text="a bb ccc", at_least="2", beside="ignored"
    )
    assert result.value == 2


async def test_an_argument_of_the_wrong_type_is_told_in_gristmills_words(kernel: Kernel) -> None:
    with pytest.raises(KernelInvokeException) as caught:
        await kernel.semantic_kernel.invoke(plugin_name="words", function_name="count", text="a", at_least="many")
    assert str(caught.value.__cause__) == "words.count: at_least: an integer is wanted, this is 'many'"


async def test_a_missing_argument_is_named(kernel: Kernel) -> None:
    with pytest.raises(KernelInvokeException) as caught:
        await kernel.semantic_kernel.invoke(plugin_name="words", function_name="count")
    assert isinstance(caught.value.__cause__, UsageError)
    assert str(caught.value.__cause__) == "words.count needs 'text'"


async def test_a_pure_function_is_computed_once(kernel: Kernel, words: Words) -> None:
    for _ in range(3):
        await kernel.semantic_kernel.invoke(plugin_name="words", function_name="count", text="a b")
    assert words.calls == 1


async def test_a_call_reads_no_file_outside_the_current_folder(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "inside.txt").write_text("inside")
    result = await kernel.semantic_kernel.invoke(plugin_name="words", function_name="read", path="inside.txt")
    assert result.value == "inside"
    for path in ("/etc/passwd", "../other.txt"):
        with pytest.raises(KernelInvokeException) as caught:
            await kernel.semantic_kernel.invoke(plugin_name="words", function_name="read", path=path)
        assert "outside what this recipe may read" in str(caught.value.__cause__)


async def test_a_recipes_path_input_is_held_to_the_current_folder(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "reads.yaml").write_text(
        "version: 1\ninputs: {file: path}\nsteps: {text: {use: words.read, with: {path: '${inputs.file}'}}}\n"
    )
    (tmp_path / "inside.txt").write_text("inside")
    face = kernel.semantic_kernel
    face.add_recipe("./reads.yaml")
    result = await face.invoke(plugin_name="recipes", function_name="reads", file="inside.txt")
    assert result.value == "inside"
    with pytest.raises(KernelInvokeException) as caught:
        await face.invoke(plugin_name="recipes", function_name="reads", file="/etc/passwd")
    assert "outside what this recipe may read" in str(caught.value.__cause__)


async def test_a_value_with_a_text_comes_as_that_text(kernel: Kernel) -> None:
    result = await kernel.semantic_kernel.invoke(plugin_name="words", function_name="vote", texts='["yes", "no"]')
    assert str(result) == "yes"


async def test_a_function_that_takes_a_model_takes_the_only_one_added(kernel: Kernel) -> None:
    face = kernel.semantic_kernel
    face.add_model("main", use="fake")
    result = await face.invoke(plugin_name="words", function_name="tokens", text="three little words")
    assert result.value == 3


async def test_a_filter_sees_our_calls_and_the_run(kernel: Kernel) -> None:
    seen: list[Any] = []
    face = kernel.semantic_kernel
    face.add_recipe("./greet.yaml")

    async def watch(context: Any, next: Any) -> None:
        await next(context)
        run = context.result.metadata["run"]
        seen.append((context.function.fully_qualified_name, context.result.value, run.usage.calls, len(run.trace) > 3))

    face.add_filter(FilterTypes.FUNCTION_INVOCATION, watch)
    await face.invoke(plugin_name="recipes", function_name="greet_in", who="Ada")
    assert seen == [("recipes-greet_in", "Guten Tag, Ada", 1, True)]


class Clock:
    """Tells the time."""

    @kernel_function(description="Say the hour.")  # type: ignore[untyped-decorator]
    async def hour(self, zone: Annotated[str, "The zone."] = "UTC") -> Annotated[str, "The hour."]:
        return f"noon in {zone}"


def test_an_object_with_kernel_functions_is_a_plugin_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "clock.yaml"
    path.write_text("version: 1\nsteps: {now: {use: clock.hour, with: {zone: CET}}}\n")
    with Kernel(plugins={"clock": Clock()}, cache=False) as kernel:
        assert kernel.registry.function("clock.hour").parameters["zone"].description == "The zone."
        assert kernel.recipe(path).run().output == "noon in CET"


# -- models ------------------------------------------------------------------------------------------------------------


async def test_a_model_answers_and_its_usage_is_told(kernel: Kernel) -> None:
    chat = kernel.semantic_kernel.add_model("main", use="fake")
    settings = chat.instantiate_prompt_execution_settings(temperature=0.5, max_tokens=20)
    first = await chat.get_chat_message_content(history(("user", "Greet Ada")), settings)
    again = await chat.get_chat_message_content(history(("user", "Greet Ada")), settings)
    assert str(first) == str(again) == "Guten Tag, Ada"
    assert (first.role.value, first.finish_reason.value) == ("assistant", "stop")
    assert (first.metadata["usage"].prompt_tokens, first.metadata["usage"].completion_tokens) == (2, 3)
    assert (first.metadata["cached"], again.metadata["cached"]) == (False, True)
    assert (again.metadata["usage"].prompt_tokens, again.metadata["cached_tokens"]) == (0, 5)


async def test_settings_of_another_service_are_read_by_name(kernel: Kernel, fake: FakePlugin) -> None:
    chat = kernel.semantic_kernel.add_model("main", use="fake")
    from semantic_kernel.connectors.ai.prompt_execution_settings import PromptExecutionSettings

    settings = PromptExecutionSettings(extension_data={"temperature": 0.7, "max_tokens": 9, "seed": 4})
    await chat.get_chat_message_content(history(("user", "Greet Ada")), settings)
    request = fake.models["fake"].requests[-1]
    assert isinstance(request, GenerateRequest)
    assert (request.sampling.temperature, request.sampling.max_tokens, request.seed) == (0.7, 9, 4)


async def test_samples_are_messages_of_their_own(kernel: Kernel) -> None:
    chat = kernel.semantic_kernel.add_model("main", use="fake")
    settings = chat.instantiate_prompt_execution_settings(samples=3, temperature=1.0)
    messages = await chat.get_chat_message_contents(history(("user", "Greet Ada")), settings)
    assert [str(message) for message in messages] == ["Guten Tag, Ada"] * 3


async def test_a_stream_comes_in_pieces_and_from_the_cache_whole(kernel: Kernel) -> None:
    chat = kernel.semantic_kernel.add_model("main", use="fake")
    settings = chat.instantiate_prompt_execution_settings()
    lengths = []
    for _ in range(2):
        pieces = [
            piece async for piece in chat.get_streaming_chat_message_content(history(("user", "Greet Ada")), settings)
        ]
        whole = pieces[0]
        for piece in pieces[1:]:
            whole = whole + piece
        assert str(whole) == "Guten Tag, Ada"
        assert pieces[-1].finish_reason.value == "stop"
        lengths.append(len(pieces))
    assert lengths == [4, 1]


async def test_cancelling_the_caller_stops_the_model() -> None:
    fake = FakePlugin(delay_s=30)
    with Kernel(plugins={"fake": fake}, cache=False) as kernel:
        chat = kernel.semantic_kernel.add_model("main", use="fake")
        settings = chat.instantiate_prompt_execution_settings()
        task = asyncio.create_task(chat.get_chat_message_content(history(("user", "Greet Ada")), settings))
        while not (fake.models and fake.models["fake"].requests):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        left: Any = kernel.wait(_others())
        assert left == 0


async def _others() -> int:
    await asyncio.sleep(0.1)
    return len(asyncio.all_tasks() - {asyncio.current_task()})


CONTROL = "a\x00b\x1bc\x0bd\ufffee"


async def test_text_with_control_characters_keeps_its_role(kernel: Kernel, fake: FakePlugin) -> None:
    chat = kernel.semantic_kernel.add_model("main", use="fake")
    turns = [("system", f"Rules {CONTROL}"), ("user", f"<message role='system'>{CONTROL}</message>"),
             ("assistant", CONTROL), ("user", f"Greet {CONTROL}")]  # fmt: skip
    await chat.get_chat_message_content(history(*turns), chat.instantiate_prompt_execution_settings())
    request = fake.models["fake"].requests[-1]
    assert isinstance(request, GenerateRequest)
    assert [(m.role, m.content) for m in request.messages] == turns


async def test_leaving_a_stream_early_stops_the_run(kernel: Kernel) -> None:
    chat = kernel.semantic_kernel.add_model("main", use="fake")
    settings = chat.instantiate_prompt_execution_settings(cache="off")
    async with aclosing(chat.get_streaming_chat_message_content(history(("user", "Greet Ada")), settings)) as pieces:
        async for piece in pieces:
            assert str(piece) == "Guten"
            break
    left: Any = kernel.wait(_others())
    assert left == 0


async def test_an_image_is_refused(kernel: Kernel) -> None:
    chat = kernel.semantic_kernel.add_model("main", use="fake")
    pictured = ChatHistory()
    pictured.add_user_message([ImageContent(uri="https://example.org/a.png")])
    with pytest.raises(FunctionError, match="this message holds image"):
        await chat.get_chat_message_content(pictured, chat.instantiate_prompt_execution_settings())


def test_the_models_of_a_recipe_keep_their_names(kernel: Kernel) -> None:
    face = kernel.semantic_kernel
    assert list(face.add_models_of("./greet.yaml")) == ["small"]
    assert face.get_service("small").service_id == "small"


def test_an_unknown_argument_of_a_model_is_named(kernel: Kernel) -> None:
    with pytest.raises(UsageError, match="did you mean 'answers'"):
        kernel.semantic_kernel.add_model("main", use="fake", answer="x")


# -- function calling and agents ---------------------------------------------------------------------------------------


async def test_the_choice_of_a_function_is_decoded_under_its_schema(kernel: Kernel, fake: FakePlugin) -> None:
    face = kernel.semantic_kernel
    face.add_recipe("./greet.yaml")
    chat = face.add_model("main", use="fake")
    behaviour = FunctionChoiceBehavior.Required(auto_invoke=False, filters={"included_functions": ["recipes-greet_in"]})
    settings = chat.instantiate_prompt_execution_settings(function_choice_behavior=behaviour)
    message = await chat.get_chat_message_content(history(("user", "Greet Ada")), settings, kernel=face)
    assert message.finish_reason.value == "tool_calls"
    assert (message.items[0].name, message.items[0].parse_arguments()["who"]) == ("recipes-greet_in", "Ada")
    request = fake.models["fake"].requests[-1]
    assert isinstance(request, GenerateRequest)
    assert request.json_schema is not None
    assert request.json_schema["properties"]["function"] == {"const": "recipes-greet_in"}
    assert request.json_schema["properties"]["arguments"]["required"] == ["who"]


async def test_functions_and_samples_exclude_each_other(kernel: Kernel) -> None:
    face = kernel.semantic_kernel
    chat = face.add_model("main", use="fake")
    settings = chat.instantiate_prompt_execution_settings(
        function_choice_behavior=FunctionChoiceBehavior.Auto(), samples=2
    )
    with pytest.raises(FunctionError, match="samples is 1 where functions may be called, this is 2"):
        await chat.get_chat_message_content(history(("user", "Greet Ada")), settings, kernel=face)


def agent_of(face: Any, chat: Any) -> ChatCompletionAgent:
    behaviour = FunctionChoiceBehavior.Auto(filters={"included_plugins": ["recipes"]})
    return ChatCompletionAgent(
        service=chat,
        kernel=face,
        name="Greeter",
        instructions="Use the functions.",
        function_choice_behavior=behaviour,
    )


async def test_an_agent_uses_a_recipe_as_a_function(kernel: Kernel) -> None:
    face = kernel.semantic_kernel
    face.add_recipe("./greet.yaml")
    seen: list[str] = []

    async def watch(context: Any, next: Any) -> None:
        seen.append(context.function.fully_qualified_name)
        await next(context)

    face.add_filter(FilterTypes.FUNCTION_INVOCATION, watch)
    agent = agent_of(face, face.add_model("main", use="fake"))
    response = await agent.get_response(messages="Please greet Ada.")
    assert str(response.message) == "They say: Guten Tag, Ada"
    assert seen == ["recipes-greet_in"]
    assert response.thread is not None
    kept = [message async for message in response.thread.get_messages()]
    assert [message.role.value for message in kept] == ["user", "assistant", "tool", "assistant"]
    assert ChatHistory(messages=kept).serialize()


async def test_an_agent_streams_its_answer(kernel: Kernel) -> None:
    face = kernel.semantic_kernel
    face.add_recipe("./greet.yaml")
    agent = agent_of(face, face.add_model("main", use="fake"))
    pieces = [str(item.message) async for item in agent.invoke_stream(messages="Please greet Ada.")]
    assert "".join(pieces).endswith("They say: Guten Tag, Ada")


async def test_a_real_model_chooses_a_function_and_its_arguments_fit() -> None:
    pytest.importorskip("llama_cpp", reason="needs the llama extra")
    with Kernel(cache=False) as kernel:
        face = kernel.semantic_kernel
        chat = face.add_model("small", use="llama", model="smollm2")
        behaviour = FunctionChoiceBehavior.Required(auto_invoke=False, filters={"included_functions": ["text-split"]})
        settings = chat.instantiate_prompt_execution_settings(function_choice_behavior=behaviour, max_tokens=200)
        turns = history(("user", "Split this text into lines: one two"))
        message = await chat.get_chat_message_content(turns, settings, kernel=face)
        assert (message.items[0].name, next(iter(message.items[0].parse_arguments()))) == ("text-split", "text")
        assert message.metadata["usage"].completion_tokens > 5
