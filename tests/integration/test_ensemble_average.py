"""Members of the real model write together: in one batch of its engine, and stepped through sessions of two engines."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gristmill import GenerateRequest, Kernel, Member, Message, RunResult, Sampling
from gristmill_plugins.ensemble._average import combine_rows
from gristmill_plugins.llama import LlamaPlugin
from gristmill_plugins.llama._files import resolve

CAPITAL, TOWN = "What is the capital of France?", "Tell me the capital of France."
"""Together, weighed 1 to 2, and the second alone, no token of the answer is within 0.5 nats of the next best: rounding
decides nothing."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with another copy of the model: to gristmill a model of its own, with the same vocabulary."""
    made = tmp_path_factory.mktemp("members")
    shutil.copy(resolve("smollm2"), made / "twin.gguf")
    return made


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with Kernel(cache=False) as made:
        yield made


HEAD = """version: 1
models:
  one: {use: llama, model: smollm2, context_tokens: 512, reproducible: true}
  two: {use: llama, model: ./twin.gguf, context_tokens: 512, reproducible: true}
steps:
"""


def run(kernel: Kernel, folder: Path, steps: str) -> RunResult:
    path = folder / "r.yaml"
    path.write_text(HEAD + steps)
    return kernel.recipe(path).run()


def test_one_member_writes_its_own_greedy_text(kernel: Kernel, folder: Path) -> None:
    rest = f"prompt: {TOWN}, max_tokens: 8}}}}"
    both = "{a: {model: one}, b: {model: two}}"
    steps = run(
        kernel,
        folder,
        f"  alone: {{model: one, prompt: {TOWN}, max_tokens: 8}}\n"
        # One after the other: in a batch with others, rounding differs.
        f"  batch: {{needs: [alone], use: ensemble.average, model: one, with: {{members: {{a: {{}}}}, {rest}\n"
        "  words: {needs: [batch], use: ensemble.vote_tokens, model: one, "
        f"with: {{members: {{a: {{}}}}, unit: word, {rest}\n"
        f"  twins: {{needs: [words], use: ensemble.average, with: {{members: {both}, {rest}\n",
    ).steps
    alone = steps["alone"].value
    assert steps["batch"].value.text == alone.text
    assert steps["words"].value.text == alone.text
    assert steps["twins"].value.text == alone.text
    assert steps["batch"].value.n_tokens == alone.usage.completion_tokens
    assert steps["batch"].value.usage["a"].prompt_tokens == alone.usage.prompt_tokens
    assert steps["twins"].value.usage["b"].prompt_tokens == alone.usage.prompt_tokens


@pytest.mark.parametrize("how", ["arithmetic", "geometric"])
async def test_two_members_say_the_mean_of_their_softmax_at_every_step(how: Any) -> None:
    """Each step's log-probability is that of the mean of what the members, stepped alone through that text, predict."""
    model = LlamaPlugin().llama(context_tokens=512, reproducible=True)
    prompts = [(Message(role="user", content=text),) for text in (CAPITAL, TOWN)]
    request = GenerateRequest(
        members=tuple(Member(messages=messages, weight=w) for messages, w in zip(prompts, (1.0, 2.0), strict=True)),
        combine=how,
        sampling=Sampling(max_tokens=8),
        top_logprobs=1,
    )
    (together,) = await model.generate(request)
    assert together.logprobs is not None
    sessions = [await model.open_session(GenerateRequest(messages=messages)) for messages in prompts]
    text = ""
    for step in together.logprobs:
        rows = [await session.next_logprobs() for session in sessions]
        mean = combine_rows(rows, [1.0, 2.0], how)
        token = int(mean.argmax())
        assert step.logprob == pytest.approx(float(mean[token]), abs=0.15)
        softmax = np.exp(np.stack(rows).astype(float))
        if how == "arithmetic":
            assert np.exp(step.logprob) == pytest.approx(softmax[:, token] @ [1 / 3, 2 / 3], abs=0.05)
        text += await sessions[0].accept(token)
        await sessions[1].accept(token)
    assert text == together.text
    for session in sessions:
        await session.close()
    await model.close()


def test_several_engines_write_what_one_batch_writes(kernel: Kernel, folder: Path) -> None:
    members = "a: {{{0}prompt: {2}}}, b: {{{1}prompt: {3}, weight: 2}}"
    steps = run(
        kernel, folder,
        f"  batch: {{use: ensemble.average, model: one, with: {{members: {{{members.format('', '', CAPITAL, TOWN)}}}, "
        "max_tokens: 8}}\n"
        "  engines: {use: ensemble.average, with: {members: "
        f"{{{members.format('model: one, ', 'model: two, ', CAPITAL, TOWN)}}}, max_tokens: 8}}}}\n",
    ).steps  # fmt: skip
    assert steps["batch"].value.text == steps["engines"].value.text
    batch, engines = steps["batch"].value.usage, steps["engines"].value.usage
    assert {name: usage.prompt_tokens for name, usage in batch.items()} == {
        name: usage.prompt_tokens for name, usage in engines.items()
    }


def test_a_vote_on_tokens_and_words_writes_an_answer(kernel: Kernel, folder: Path) -> None:
    members = f"members: {{a: {{prompt: {CAPITAL}}}, b: {{prompt: {TOWN}}}, c: {{prompt: Where does France govern?}}}}"
    steps = run(
        kernel, folder,
        f"  token: {{use: ensemble.vote_tokens, model: one, with: {{{members}, max_tokens: 10}}}}\n"
        f"  word: {{use: ensemble.vote_tokens, model: one, with: {{{members}, unit: word, max_tokens: 10}}}}\n",
    ).steps  # fmt: skip
    for step in ("token", "word"):
        assert steps[step].value.text.strip()
        assert steps[step].value.n_tokens <= 10
    assert 1 / 3 <= steps["word"].value.agreement <= 1
