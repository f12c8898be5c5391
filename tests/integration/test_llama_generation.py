"""The llama plugin on the bundled model: prompts, sampling, streaming, schemas, scores."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gristmill import (
    CapabilityError,
    Completion,
    Delta,
    GenerateRequest,
    Kernel,
    Message,
    ModelError,
    PromptCache,
    Sampling,
    ScoreRequest,
)
from gristmill_plugins.llama import LlamaPlugin
from gristmill_plugins.llama._client import LlamaModel

pytestmark = pytest.mark.asyncio(loop_scope="module")

SYSTEM = Message(role="system", content="You are a helpful assistant.")


def ask(text: str, **fields: Any) -> GenerateRequest:
    fields.setdefault("sampling", Sampling(max_tokens=12))
    return GenerateRequest(messages=(SYSTEM, Message(role="user", content=text)), **fields)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model() -> AsyncIterator[LlamaModel]:
    made = LlamaPlugin().llama(context_tokens=2048)
    assert isinstance(made, LlamaModel)
    yield made
    await made.close()


async def test_declaring_a_model_starts_no_engine() -> None:
    declared = LlamaPlugin().llama()
    assert isinstance(declared, LlamaModel)
    assert len(declared.fingerprint) == 64
    assert set(declared.pins()) == {"model"}
    assert declared.context_tokens == 8192
    assert declared.engine_pid is None


async def test_a_model_answers_with_any_batch_size_cache_type_and_split() -> None:
    made = LlamaPlugin().llama(
        context_tokens=512, cache_tokens=512, batch_tokens=32, cache_type="q8_0", flash_attention="on", split=[1.0]
    )
    assert isinstance(made, LlamaModel)
    try:
        (answer,) = await made.generate(ask("Name a grain. " * 20, sampling=Sampling(max_tokens=4)))
    finally:
        await made.close()
    assert answer.text
    assert answer.usage.prompt_tokens > 2 * 32, "longer than a batch"


async def test_loading_is_reported_from_nothing_to_all() -> None:
    loaded: list[float] = []
    fresh = LlamaPlugin().llama(context_tokens=256)
    fresh.on_loading = loaded.append
    await fresh.count_tokens("hello")
    await fresh.close()
    assert loaded[0] == 0.0
    assert loaded[-1] == 1.0
    assert loaded == sorted(loaded)


async def test_greedy_samples_are_computed_once_and_are_alike(model: LlamaModel) -> None:
    before = await model.counters()
    first, second = await model.generate(ask("Say hello.", sample_indices=(0, 1)))
    after = await model.counters()
    assert first.text == second.text != ""
    assert second.usage.completion_tokens == 0
    assert after["decoded"] - before["decoded"] <= first.usage.prompt_tokens + first.usage.completion_tokens + 1
    assert first.usage.prompt_tokens > 0
    assert second.usage.prompt_tokens == 0


async def test_a_sample_depends_on_its_index_and_not_on_what_is_asked_beside_it(model: LlamaModel) -> None:
    """One token each: later ones see rounding that differs with the size of the batch."""
    sampling = Sampling(temperature=0.9, top_k=10, max_tokens=1)
    together = await model.generate(ask("Name an animal.", sampling=sampling, sample_indices=tuple(range(8))))
    later = await model.generate(ask("Name an animal.", sampling=sampling, sample_indices=(5, 2)))
    shifted = await model.generate(ask("Name an animal.", sampling=sampling, seed=4, sample_indices=(1,)))
    assert len({completion.text for completion in together}) > 1
    assert [completion.text for completion in later] == [together[5].text, together[2].text]
    assert shifted[0].text == together[5].text


async def test_samples_share_one_reading_of_the_prompt(model: LlamaModel) -> None:
    prompt = "List the words. " * 40
    before = await model.counters()
    completions = await model.generate(
        ask(prompt, sampling=Sampling(temperature=1.0, max_tokens=4), sample_indices=tuple(range(6)))
    )
    after = await model.counters()
    assert after["decoded"] - before["decoded"] <= completions[0].usage.prompt_tokens + 6 * 4
    assert after["largest_batch"] >= 6


async def test_a_second_request_reads_only_what_is_new(model: LlamaModel) -> None:
    shared = "Here are the rules of the game. " * 30
    await model.generate(ask(shared + "Question one?"))
    before = await model.counters()
    second = await model.generate(ask(shared + "What about two?"))
    after = await model.counters()
    assert after["decoded"] - before["decoded"] < 40 < second[0].usage.prompt_tokens


async def test_concurrent_requests_with_one_prefix_read_it_once(model: LlamaModel) -> None:
    shared = "The museum opens at nine and closes at five. " * 20
    before = await model.counters()
    answers = await asyncio.gather(*(model.generate(ask(f"{shared} Question {i}?")) for i in range(4)))
    after = await model.counters()
    n_prompt = answers[0][0].usage.prompt_tokens
    assert after["decoded"] - before["decoded"] < n_prompt + 4 * (12 + 20)


@pytest.mark.parametrize("stop", ["e", " the", "on"])
async def test_stopping_strings_are_cut_off_and_never_streamed(model: LlamaModel, stop: str) -> None:
    request = ask("Tell me about the sea.", sampling=Sampling(max_tokens=60, stop=(stop,)))
    items = [item async for item in model.stream(request)]
    completion = items[-1]
    assert isinstance(completion, Completion)
    assert completion.text == "".join(item.text for item in items if isinstance(item, Delta))
    assert completion.finish_reason == "stop"
    assert stop not in completion.text


async def test_max_tokens_ends_an_answer_with_length(model: LlamaModel) -> None:
    (completion,) = await model.generate(ask("Write a long story.", sampling=Sampling(max_tokens=5)))
    assert completion.finish_reason == "length"
    assert completion.usage.completion_tokens == 5


async def test_the_context_ends_an_answer_with_length() -> None:
    small = LlamaPlugin().llama(context_tokens=64, cache_tokens=256)
    try:
        (completion,) = await small.generate(
            ask("Write a long story.", sampling=Sampling(max_tokens=500, logit_bias={0: -100, 2: -100}))
        )
        assert completion.finish_reason == "length"
        assert completion.usage.prompt_tokens + completion.usage.completion_tokens == 64
        with pytest.raises(ModelError, match=r"the prompt takes \d+ tokens.* holds 64") as caught:
            await small.generate(ask("word " * 100))
        assert caught.value.cause == "request"
    finally:
        await small.close()


RECIPE = """\
version: 1
models: {main: {use: llama, context_tokens: 64, cache_tokens: 256}}
steps: {story: {prompt: Write a long story., max_tokens: %d}}
"""


@pytest.mark.parametrize(("max_tokens", "cached"), [(5, True), (500, False)])
async def test_an_answer_cut_by_max_tokens_is_kept_and_one_cut_by_the_context_is_not(
    tmp_path: Path, max_tokens: int, cached: bool
) -> None:
    (tmp_path / "story.yaml").write_text(RECIPE % max_tokens)
    with Kernel(cache=PromptCache(tmp_path / "cache")) as kernel:
        recipe = kernel.recipe(tmp_path / "story.yaml")
        first, second = await recipe.arun({}), await recipe.arun({})
    assert first.output.finish_reason == second.output.finish_reason == "length"
    assert (first.output.cached, second.output.cached) == (False, cached)


async def test_more_samples_than_the_cache_holds_are_decoded_in_turns() -> None:
    small = LlamaPlugin().llama(context_tokens=256, cache_tokens=256)
    assert isinstance(small, LlamaModel)
    sampling = Sampling(temperature=1.0, max_tokens=32, logit_bias={0: -100, 2: -100})
    try:
        completions = await small.generate(ask("Tell a tale.", sampling=sampling, sample_indices=tuple(range(8))))
        counters = await small.counters()
    finally:
        await small.close()
    assert [completion.usage.completion_tokens for completion in completions] == [32] * 8
    assert counters["preempted"] > 0


async def test_logit_bias_forbids_and_forces_tokens(model: LlamaModel) -> None:
    (usual,) = await model.generate(ask("Say hello.", top_logprobs=1, sampling=Sampling(max_tokens=1)))
    (forced,) = await model.generate(ask("Say hello.", sampling=Sampling(max_tokens=1, logit_bias={260: 500.0})))
    assert forced.text != usual.text
    with pytest.raises(ModelError, match="logit_bias names token 999999"):
        await model.generate(ask("Say hello.", sampling=Sampling(max_tokens=1, logit_bias={999999: 1.0})))


async def test_log_probabilities_are_the_models_own(model: LlamaModel) -> None:
    (completion,) = await model.generate(ask("Say hello.", top_logprobs=3, sampling=Sampling(max_tokens=3)))
    assert completion.logprobs is not None
    assert "".join(entry.token for entry in completion.logprobs) == completion.text
    for entry in completion.logprobs:
        assert entry.logprob == max(entry.top.values()) <= 0
        assert len(entry.top) == 3


async def test_choices_are_scored_as_wholes(model: LlamaModel) -> None:
    messages = (SYSTEM, Message(role="user", content="Is water wet? Answer yes or no."))
    scores = await model.score(ScoreRequest(messages=messages, choices=("Yes", "xylophone quartet", "Yes, it is")))
    assert scores.logprobs[0] > scores.logprobs[1]
    assert all(score < 0 for score in scores.logprobs)
    alone = await model.score(ScoreRequest(messages=messages, choices=("xylophone quartet",)))
    assert alone.logprobs[0] < 0
    assert scores.prompt_tokens == alone.prompt_tokens


async def test_a_choice_scores_what_generation_gives_its_tokens(model: LlamaModel) -> None:
    request = ask("Name a colour.", top_logprobs=0, sampling=Sampling(max_tokens=3))
    (completion,) = await model.generate(request)
    assert completion.logprobs is not None
    scores = await model.score(ScoreRequest(messages=request.messages, choices=(completion.text,)))
    assert scores.logprobs[0] == pytest.approx(sum(entry.logprob for entry in completion.logprobs), abs=0.7)


async def test_a_schema_makes_every_answer_parse(model: LlamaModel) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    sampling = Sampling(temperature=1.0, max_tokens=80)
    completions = await model.generate(
        ask("Describe Ann, aged 7.", sampling=sampling, json_schema=schema, sample_indices=(0, 1, 2, 3))
    )
    for completion in completions:
        if completion.finish_reason == "stop":
            assert set(completion.value) == {"name", "age"}
            assert json.loads(completion.text) == completion.value
    assert any(completion.value for completion in completions)
    (cut,) = await model.generate(ask("Describe Ann.", json_schema=schema, sampling=Sampling(max_tokens=3)))
    assert (cut.finish_reason, cut.value) == ("length", None)


@pytest.mark.parametrize("text", ["half \ud800 a character", "\udfff"])
async def test_half_characters_are_refused(model: LlamaModel, text: str) -> None:
    with pytest.raises(ModelError, match="half of a character") as caught:
        await model.generate(ask(text))
    assert caught.value.cause == "request"


async def test_an_empty_prompt_is_refused(model: LlamaModel) -> None:
    for messages in ((), (Message(role="user", content=""),)):
        with pytest.raises(ModelError, match="the prompt is empty"):
            await model.generate(GenerateRequest(messages=messages))


async def test_adapters_and_members_that_are_not_there_are_refused(model: LlamaModel) -> None:
    with pytest.raises(ModelError, match="'tone' is not an adapter of smollm2"):
        await model.generate(ask("Hello", adapters={"tone": 1.0}))


async def test_what_it_cannot_do_is_a_capability_error(model: LlamaModel) -> None:
    if "beam" not in model.capabilities:
        with pytest.raises(CapabilityError):
            await model.generate(ask("Hello", sampling=Sampling(beam_width=2)))


@pytest.mark.parametrize("text", ["\x00\x1b\x0b\ufffe", "   ", "\U0001f9ff" * 20, "a" * 300])
async def test_odd_text_is_read_as_text(model: LlamaModel, text: str) -> None:
    (completion,) = await model.generate(ask(text, sampling=Sampling(max_tokens=2)))
    assert completion.usage.prompt_tokens >= 20


async def test_penalties_and_filters_keep_an_answer_going(model: LlamaModel) -> None:
    for options in (
        {"top_k": 5},
        {"top_p": 0.5},
        {"min_p": 0.2},
        {"typical_p": 0.4},
        {"repeat_penalty": 1.3, "presence_penalty": 1.0, "frequency_penalty": 1.0},
    ):
        (completion,) = await model.generate(
            ask("Tell me about bread.", sampling=Sampling(temperature=0.8, max_tokens=4, **options))
        )
        assert completion.usage.completion_tokens <= 4
