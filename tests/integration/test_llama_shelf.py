"""A long prompt that one engine has read is not read again by the next."""

from __future__ import annotations

from pathlib import Path

import pytest

from gristmill import Completion, GenerateRequest, Message, Sampling
from gristmill_plugins.llama import LlamaPlugin
from gristmill_plugins.llama._client import LlamaModel
from gristmill_plugins.llama._scheduler import AT_HAND_TOKENS

RULES = "The mill grinds wheat on Monday, rye on Tuesday and barley on Wednesday. " * 16


async def answer(question: str) -> tuple[Completion, dict[str, int]]:
    """Ask a fresh engine."""
    model = LlamaPlugin().llama(context_tokens=1024, prefix_disk_mb=200)
    assert isinstance(model, LlamaModel)
    messages = (Message(role="system", content=RULES), Message(role="user", content=question))
    try:
        (completion,) = await model.generate(
            GenerateRequest(messages=messages, sampling=Sampling(max_tokens=6), top_logprobs=0)
        )
        return completion, await model.counters()
    finally:
        await model.close()


async def test_the_second_process_reads_only_the_question(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, cold = await answer("When is rye ground?")
    other, warm = await answer("When is barley ground?")
    again, same = await answer("When is rye ground?")
    n_prompt = first.usage.prompt_tokens
    assert cold["decoded"] >= n_prompt > 260
    assert warm["decoded"] < 50
    assert same["decoded"] < 50
    assert other.text
    assert first.logprobs is not None
    assert again.logprobs is not None
    assert again.logprobs[0].logprob == pytest.approx(first.logprobs[0].logprob, abs=0.5)
    for path in (tmp_path / "gristmill" / "prefixes").glob("*.kv"):
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    _, damaged = await answer("When is rye ground?")
    assert damaged["decoded"] >= n_prompt


async def test_a_prompt_put_aside_in_memory_comes_back_without_being_read_again() -> None:
    model = LlamaPlugin().llama(context_tokens=2048)
    assert isinstance(model, LlamaModel)
    one, two = (
        GenerateRequest(
            messages=(Message(role="user", content=" ".join(f"{word} number {i}." for i in range(130))),),
            sampling=Sampling(max_tokens=2),
            top_logprobs=0,
        )
        for word in ("River", "Mill")
    )
    try:
        (first,) = await model.generate(one)
        assert first.usage.prompt_tokens > AT_HAND_TOKENS // 2, "both together are more than stays in the cache"
        await model.generate(two)
        before = await model.counters()
        (again,) = await model.generate(one)
        after = await model.counters()
        assert after["shared"] - before["shared"] == first.usage.prompt_tokens - 1
        assert first.logprobs is not None
        assert again.logprobs is not None
        assert again.logprobs[0].logprob == pytest.approx(first.logprobs[0].logprob, abs=0.5)
    finally:
        await model.close()
