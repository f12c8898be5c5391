"""Guessing ahead on the bundled model: fewer steps for the same text where an answer copies."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest

from gristmill import GenerateRequest, Message, Sampling
from gristmill_plugins.llama import LlamaPlugin
from gristmill_plugins.llama._client import LlamaModel

TEXT = (
    "The old mill by the river has ground wheat since 1784. Its wheel is made of oak, nine feet across, and it turns "
    "twice a minute when the water is high. On market days the miller sells flour in brown paper bags."
)
COPIES = [f"Repeat this text exactly, word for word:\n\n{TEXT}", f"Correct this text and write it all again: {TEXT}"]


async def ask(prompt: str, lookup: Literal["auto", "on", "off"], **options: Any) -> tuple[list[str], dict[str, int]]:
    """Return two answers to one prompt, asked one after the other, and what the engine did."""
    model = LlamaPlugin().llama(context_tokens=512, prompt_lookup=lookup, **options)
    assert isinstance(model, LlamaModel)
    try:
        request = GenerateRequest(messages=(Message(role="user", content=prompt),), sampling=Sampling(max_tokens=64))
        answers = [await model.generate(request) for _ in range(2)]
        return [answer[0].text for answer in answers], await model.counters()
    finally:
        await model.close()


@pytest.mark.parametrize("prompt", COPIES)
async def test_a_copy_takes_far_fewer_steps_for_the_same_text(prompt: str) -> None:
    plain, without = await ask(prompt, "off")
    guessed, counters = await ask(prompt, "auto")
    assert guessed == plain
    assert without["guessed"] == 0
    assert without["steps"] - counters["steps"] == pytest.approx(counters["guessed_right"], abs=1)
    assert counters["steps"] < 0.7 * without["steps"]


async def test_the_reproducible_mode_never_guesses() -> None:
    _, counters = await ask(COPIES[0], "on", reproducible=True)
    assert counters["guessed"] == 0


async def test_requests_that_run_together_guess_only_when_told_to() -> None:
    guessed = {}
    for lookup in ("auto", "on"):
        model = LlamaPlugin().llama(context_tokens=512, prompt_lookup=lookup)
        assert isinstance(model, LlamaModel)
        messages = [(Message(role="user", content=f"{i}. {COPIES[0]}"),) for i in range(4)]
        sampling = Sampling(max_tokens=24, stop=("\n\n\n",))
        await asyncio.gather(*(model.generate(GenerateRequest(messages=m, sampling=sampling)) for m in messages))
        guessed[lookup] = (await model.counters())["guessed"]
        await model.close()
    assert guessed["auto"] < guessed["on"]
