"""Adapters, members, sessions and beams: several predictions that meet inside one engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from tests.integration.random_adapter import write_adapter

from gristmill import (
    BusyError,
    CapabilityError,
    GenerateRequest,
    Member,
    Message,
    ModelError,
    Sampling,
    ScoreRequest,
)
from gristmill_plugins.llama import LlamaPlugin
from gristmill_plugins.llama._client import LlamaModel

pytestmark = pytest.mark.asyncio(loop_scope="module")


def says(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


def ask(text: str, **fields: Any) -> GenerateRequest:
    fields.setdefault("sampling", Sampling(max_tokens=6))
    return GenerateRequest(messages=says(text), **fields)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("tone", "taste")):
        write_adapter(folder / f"{name}.gguf", seed=seed, spread=0.6)
    return {"tone": str(folder / "tone.gguf"), "taste": {"path": str(folder / "taste.gguf"), "scale": 0.5}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model(adapters: dict[str, Any]) -> AsyncIterator[LlamaModel]:
    made = LlamaPlugin().llama(context_tokens=512, adapters=adapters, max_running=6)
    assert isinstance(made, LlamaModel)
    yield made
    await made.close()


async def score(model: LlamaModel, adapters: dict[str, float]) -> tuple[float, ...]:
    request = ScoreRequest(messages=says("Name a fruit."), choices=("Apple", "Stone", "Banana"), adapters=adapters)
    return (await model.score(request)).logprobs


async def test_adapters_change_answers_and_scales_blend_them(model: LlamaModel) -> None:
    base = await score(model, {})
    tone, half = await score(model, {"tone": 1.0}), await score(model, {"tone": 0.5})
    both = await score(model, {"tone": 1.0, "taste": 1.0})
    assert np.abs(np.subtract(base, tone)).max() > 0.3
    assert np.abs(np.subtract(tone, half)).max() > 0.05
    assert np.abs(np.subtract(tone, both)).max() > 0.05
    assert np.allclose(await score(model, {"tone": 0.0}), base, atol=0.3)
    assert np.allclose(await score(model, {}), base, atol=0.3)


async def test_adapters_of_concurrent_requests_do_not_mix(model: LlamaModel) -> None:
    kinds: list[dict[str, float]] = [{}, {"tone": 1.0}, {"taste": 2.0}, {"tone": 1.0, "taste": 1.0}]
    alone = [await score(model, kind) for kind in kinds]
    for _ in range(2):
        together = await asyncio.gather(*(score(model, kind) for kind in kinds))
        assert np.allclose(together, alone, atol=1.5)


async def test_pins_and_fingerprint_name_the_adapters(model: LlamaModel, adapters: dict[str, Any]) -> None:
    assert set(model.pins()) == {"model", "adapter:tone", "adapter:taste"}
    other = LlamaPlugin().llama(context_tokens=512, adapters={**adapters, "tone": adapters["taste"]["path"]})
    assert other.fingerprint != model.fingerprint


async def test_an_unknown_adapter_names_the_nearest(model: LlamaModel) -> None:
    with pytest.raises(ModelError, match="did you mean 'tone'"):
        await model.generate(ask("Hi", adapters={"tune": 1.0}))


async def test_equal_members_write_what_one_writes(model: LlamaModel) -> None:
    alone = await model.generate(ask("Name a fruit.", top_logprobs=1))
    member = Member(messages=says("Name a fruit."))
    for how in ("arithmetic", "geometric", "vote"):
        request = GenerateRequest(
            members=(member, member), combine=how, sampling=Sampling(max_tokens=2), top_logprobs=1
        )
        (completion,) = await model.generate(request)
        assert alone[0].text.startswith(completion.text)
        assert completion.usage.prompt_tokens == 2 * alone[0].usage.prompt_tokens


async def test_a_member_without_weight_has_no_say(model: LlamaModel) -> None:
    fruit, town = (Member(messages=says(text), weight=w) for text, w in (("Name a fruit.", 1), ("Name a town.", 0)))
    request = GenerateRequest(members=(fruit, town), combine="arithmetic", sampling=Sampling(max_tokens=2))
    alone = await model.generate(ask("Name a fruit."))
    assert alone[0].text.startswith((await model.generate(request))[0].text)


async def test_members_without_adapters_have_the_requests(model: LlamaModel) -> None:
    bare, own = Member(messages=says("Name a fruit.")), Member(messages=says("Name a fruit."), adapters={"tone": 1.0})

    async def logprobs(member: Member, adapters: dict[str, float]) -> list[float]:
        request = GenerateRequest(
            members=(member, member),
            combine="arithmetic",
            sampling=Sampling(max_tokens=2),
            top_logprobs=0,
            adapters=adapters,
        )
        return [token.logprob for token in (await model.generate(request))[0].logprobs or ()]

    toned = await logprobs(bare, {"tone": 1.0})
    assert toned == pytest.approx(await logprobs(own, {}), abs=0.1)
    assert toned != pytest.approx(await logprobs(bare, {}), abs=0.1)


async def test_members_with_adapters_draw_several_samples(model: LlamaModel) -> None:
    members = (
        Member(messages=says("Name a fruit."), adapters={"tone": 0.3}),
        Member(messages=says("What fruit do you like?"), weight=2.0),
    )
    request = GenerateRequest(
        members=members,
        combine="geometric",
        sampling=Sampling(temperature=1, max_tokens=5),
        sample_indices=(0, 1, 2),
    )
    completions = await model.generate(request)
    assert len(completions) == 3
    assert all(completion.text for completion in completions)


@pytest.mark.parametrize("weights", [(0.0, 0.0), (-1.0, 2.0)])
async def test_weights_that_mean_nothing_are_refused(model: LlamaModel, weights: tuple[float, float]) -> None:
    members = tuple(Member(messages=says("Hi"), weight=weight) for weight in weights)
    with pytest.raises(ModelError, match="must not be negative, nor all zero"):
        await model.generate(GenerateRequest(members=members, combine="arithmetic"))


async def test_a_session_steps_through_what_generate_writes(model: LlamaModel) -> None:
    (completion,) = await model.generate(ask("Name a fruit.", sampling=Sampling(max_tokens=3)))
    session = await model.open_session(ask("Name a fruit."))
    text = ""
    for _ in range(3):
        logprobs = await session.next_logprobs()
        assert np.exp(logprobs).sum() == pytest.approx(1, abs=1e-3)
        assert logprobs.dtype == np.float32
        assert int(logprobs.argmax()) not in session.ends
        text += await session.accept(int(logprobs.argmax()))
    assert text == completion.text
    assert session.ends
    assert session.prompt_tokens == completion.usage.prompt_tokens
    await session.close()
    await session.close()
    with pytest.raises(ModelError, match="the session is closed"):
        await session.next_logprobs()


async def test_sessions_and_requests_go_on_beside_one_another(model: LlamaModel) -> None:
    sessions = [await model.open_session(ask(f"Name thing {i}.")) for i in range(3)]
    answers = asyncio.gather(*(model.generate(ask(f"What is {i}?")) for i in range(3)))
    for _ in range(3):
        rows = await asyncio.gather(*(session.next_logprobs() for session in sessions))
        await asyncio.gather(*(s.accept(int(row.argmax())) for s, row in zip(sessions, rows, strict=True)))
    assert all(completion.text for (completion,) in await answers)
    for session in sessions:
        await session.close()


async def test_sessions_are_bounded_and_tokens_are_checked(model: LlamaModel) -> None:
    sessions = [await model.open_session(ask("Hi")) for _ in range(5)]
    with pytest.raises(BusyError, match="5 sessions are open already"):
        await model.open_session(ask("Hi"))
    with pytest.raises(ModelError, match="token 99999999"):
        await sessions[0].accept(99999999)
    assert (await model.generate(ask("Hi")))[0].text
    for session in sessions:
        await session.close()


async def test_beams_find_an_answer_at_least_as_likely_as_greedy(model: LlamaModel) -> None:
    request = ask("Name a fruit.", sampling=Sampling(max_tokens=5))
    (greedy,) = await model.generate(request)
    wide = request.model_copy(update={"sampling": Sampling(max_tokens=5, beam_width=4), "sample_indices": (0, 1)})
    first, second = await model.generate(wide)
    assert first.text == second.text
    scores = await model.score(ScoreRequest(messages=request.messages, choices=(greedy.text, first.text)))
    assert scores.logprobs[1] >= scores.logprobs[0] - 0.5


async def test_beams_stop_at_stop_strings_and_refuse_schemas(model: LlamaModel) -> None:
    sampling = Sampling(max_tokens=20, beam_width=3, stop=("e",))
    (completion,) = await model.generate(ask("Tell me about bread.", sampling=sampling))
    assert "e" not in completion.text
    with pytest.raises(CapabilityError, match="without schema"):
        await model.generate(ask("Hi", sampling=sampling, json_schema={"type": "string"}))


async def test_embeddings_are_unit_vectors_and_close_for_close_texts(model: LlamaModel) -> None:
    texts = ["The cat sits on the mat.", "A cat is sitting on a mat.", "Quarterly revenue fell by 3%."]
    vectors = await model.embed(texts)
    assert vectors.shape == (3, 576)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1], abs=1e-4)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    assert (await model.embed([])).shape == (0, 576)
    again = await model.embed(texts[:1])
    assert np.allclose(again[0], vectors[0], atol=1e-3)


async def test_texts_beyond_the_context_are_cut_and_it_is_said(
    model: LlamaModel, caplog: pytest.LogCaptureFixture
) -> None:
    vectors = await model.embed(["word " * 700])
    assert vectors.shape == (1, 576)
    assert "1 of 1 texts were too long" in caplog.text


async def test_an_empty_text_cannot_be_embedded(model: LlamaModel) -> None:
    with pytest.raises(ModelError, match="text 1 to embed is empty"):
        await model.embed(["something", ""])


async def test_embedding_and_writing_go_on_side_by_side(model: LlamaModel) -> None:
    vectors, (completion,) = await asyncio.gather(model.embed(["a b c"] * 4), model.generate(ask("Name a fruit.")))
    assert vectors.shape == (4, 576)
    assert completion.text
