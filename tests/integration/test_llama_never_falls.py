"""Abuse of a running engine: each is a typed error that says what is wrong, or an answer, and the next call works."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from pydantic import ValidationError

from gristmill import GenerateRequest, Message, ModelError, Sampling, ScoreRequest
from gristmill_plugins.llama import LlamaPlugin
from gristmill_plugins.llama._client import LlamaModel

pytestmark = pytest.mark.asyncio(loop_scope="module")
NAN, INF = float("nan"), float("inf")
SHORT = Sampling(max_tokens=2)
LIMIT_S = 120.0


def ask(text: str = "Say hello.", **fields: Any) -> GenerateRequest:
    return GenerateRequest(messages=(Message(role="user", content=text),), **({"sampling": SHORT} | fields))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[LlamaModel]:
    made = LlamaPlugin().llama(context_tokens=512)
    assert isinstance(made, LlamaModel)
    yield made
    await made.close()


@pytest_asyncio.fixture(loop_scope="module")
async def model(shared: LlamaModel) -> AsyncIterator[LlamaModel]:
    """The engine, which must be the same process and answer after whatever a test did to it."""
    await shared.generate(ask())
    pid = shared.engine_pid
    yield shared
    assert len(await shared.generate(ask())) == 1
    assert shared.engine_pid == pid


BAD_SAMPLING: list[dict[str, Any]] = [
    {"temperature": NAN}, {"temperature": INF}, {"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": NAN},
    {"min_p": 2.0}, {"typical_p": 0.0}, {"repeat_penalty": 0.0}, {"presence_penalty": INF},
    {"frequency_penalty": NAN}, {"logit_bias": {0: NAN}}, {"beam_width": 0},
    {"max_tokens": 0}, {"max_tokens": -1}, {"max_tokens": 10**12}, {"stop": ("",)},
]  # fmt: skip


@pytest.mark.parametrize("values", BAD_SAMPLING, ids=str)
async def test_sampling_out_of_range_is_refused_even_where_nobody_validated_it(
    model: LlamaModel, values: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError):
        Sampling(**values)
    unchecked = SHORT.model_copy(update=values)
    with pytest.raises(ModelError) as caught:
        await asyncio.wait_for(model.generate(ask(sampling=unchecked)), LIMIT_S)
    assert caught.value.cause == "request"
    assert next(iter(values)) in str(caught.value)


@pytest.mark.parametrize("token", [-1, 49_152, 2**31, 2**63])
async def test_bias_on_a_token_that_is_not_there_is_refused(model: LlamaModel, token: int) -> None:
    with pytest.raises(ModelError, match=rf"logit_bias names token {token}, and .* has the tokens 0 to 49151"):
        await model.generate(ask(sampling=Sampling(max_tokens=2, logit_bias={token: 1.0})))


async def test_very_many_samples_are_answered(model: LlamaModel) -> None:
    sampling = Sampling(temperature=1.0, max_tokens=1)
    answers = await model.generate(ask(sampling=sampling, sample_indices=tuple(range(1000))))
    assert len(answers) == 1000


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "(a|b"},
        {"type": "string", "pattern": "\\p{Nonsense}"},
        {"$ref": "#/nowhere"},
        {"type": "strng"},
        {"type": "object", "properties": {"a": {"not": {}}}, "required": ["a"]},
    ],
    ids=str,
)
async def test_a_schema_that_no_grammar_can_say_is_refused(model: LlamaModel, schema: dict[str, Any]) -> None:
    with pytest.raises(ModelError) as caught:
        await asyncio.wait_for(model.generate(ask(json_schema=schema)), LIMIT_S)
    assert caught.value.cause == "request"


async def test_a_grammar_that_could_branch_without_end_is_decoded_in_time(model: LlamaModel) -> None:
    schema = {"type": "string", "pattern": "^(a|aa|aaa){1,20}$"}
    before = time.monotonic()
    (answer,) = await model.generate(ask(json_schema=schema, sampling=Sampling(max_tokens=12)))
    assert answer.text.startswith('"a')
    assert time.monotonic() - before < LIMIT_S


async def test_nothing_to_embed_and_nothing_to_choose_from_are_answered_with_nothing(model: LlamaModel) -> None:
    assert (await model.embed([])).shape[0] == 0
    request = ScoreRequest(messages=ask().messages, choices=())
    assert (await model.score(request)).logprobs == ()


async def test_a_choice_without_tokens_or_beyond_the_context_is_refused(model: LlamaModel) -> None:
    with pytest.raises(ModelError, match="the choice '' has no tokens"):
        await model.score(ScoreRequest(messages=ask().messages, choices=("a", "")))
    with pytest.raises(ModelError, match=r"the context of .* holds 512"):
        await model.score(ScoreRequest(messages=ask().messages, choices=("a", "word " * 600)))


async def test_text_that_is_half_a_character_is_refused_wherever_it_stands(model: LlamaModel) -> None:
    broken = "x \ud800 y"
    for call in (
        model.generate(ask(broken)),
        model.score(ScoreRequest(messages=ask().messages, choices=("a", broken))),
        model.embed([broken]),
        model.count_tokens(broken),
    ):
        with pytest.raises(ModelError, match="half of a character"):
            await call
