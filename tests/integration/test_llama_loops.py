"""One model in several event loops, one after the other."""

from __future__ import annotations

import asyncio

from gristmill import GenerateRequest, Message, Sampling
from gristmill_plugins.llama import LlamaPlugin


def test_a_model_outlives_the_event_loop_it_was_used_in() -> None:
    model = LlamaPlugin().llama(context_tokens=256)
    request = GenerateRequest(messages=(Message(role="user", content="Hello"),), sampling=Sampling(max_tokens=8))

    async def use(last: bool) -> str:
        (completion,) = await model.generate(request)
        if last:
            await model.close()
        return completion.text

    assert asyncio.run(use(False)) == asyncio.run(use(True))
