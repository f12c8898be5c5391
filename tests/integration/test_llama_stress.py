"""Everything at once, in a cache too small for it, with calls cancelled at random: all that remains is answered."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

from gristmill import GenerateRequest, Member, Message, Sampling, ScoreRequest
from gristmill_plugins.llama import LlamaPlugin
from gristmill_plugins.llama._client import LlamaModel

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}


class Clients:
    """Callers of one model, each with its own kind of request."""

    def __init__(self, model: LlamaModel) -> None:
        self.model = model
        self.kinds: list[Callable[[random.Random], Awaitable[Any]]] = [
            self.greedy,
            self.samples,
            self.constrained,
            self.scores,
            self.vectors,
            self.session,
            self.beams,
            self.members,
        ]
        self.n_answered = self.n_cancelled = 0

    def messages(self, rng: random.Random) -> tuple[Message, ...]:
        return (Message(role="user", content="The mill grinds. " * rng.randint(0, 6) + f"Say {rng.randint(0, 9)}"),)

    async def greedy(self, rng: random.Random) -> None:
        await self.model.generate(self.request(rng, Sampling(max_tokens=rng.randint(1, 12))))

    async def samples(self, rng: random.Random) -> None:
        sampling = Sampling(temperature=1, top_p=0.9, max_tokens=6)
        await self.model.generate(self.request(rng, sampling, sample_indices=tuple(range(rng.randint(1, 7)))))

    async def constrained(self, rng: random.Random) -> None:
        sampling = Sampling(temperature=1, max_tokens=30)
        for completion in await self.model.generate(self.request(rng, sampling, json_schema=SCHEMA)):
            assert completion.finish_reason == "length" or set(completion.value) == {"a", "b"}

    async def scores(self, rng: random.Random) -> None:
        request = ScoreRequest(messages=self.messages(rng), choices=("yes", "no", "perhaps not today"))
        assert len((await self.model.score(request)).logprobs) == 3

    async def vectors(self, rng: random.Random) -> None:
        assert (await self.model.embed(["a text " * rng.randint(1, 9)])).shape[0] == 1

    async def session(self, rng: random.Random) -> None:
        session = await self.model.open_session(self.request(rng, Sampling()))
        try:
            for _ in range(4):
                await session.accept(int((await session.next_logprobs()).argmax()))
        finally:
            await session.close()

    async def beams(self, rng: random.Random) -> None:
        await self.model.generate(self.request(rng, Sampling(beam_width=4, max_tokens=4)))

    async def members(self, rng: random.Random) -> None:
        members = (Member(messages=self.messages(rng)), Member(messages=self.messages(rng), weight=2.0))
        request = GenerateRequest(
            members=members,
            combine="geometric",
            sampling=Sampling(temperature=1, max_tokens=4),
            sample_indices=(0, 1),
        )
        await self.model.generate(request)

    def request(self, rng: random.Random, sampling: Sampling, **fields: Any) -> GenerateRequest:
        return GenerateRequest(messages=self.messages(rng), sampling=sampling, **fields)

    async def run(self, seed: int) -> None:
        rng = random.Random(seed)
        for kind in rng.sample(self.kinds, len(self.kinds)):
            call = asyncio.ensure_future(kind(rng))
            if rng.random() < 0.25:
                await asyncio.sleep(rng.random() * 0.2)
                call.cancel()
                await asyncio.wait([call])
                self.n_cancelled += 1
            else:
                await call
                self.n_answered += 1


async def test_every_kind_of_request_at_once_is_answered_by_one_engine() -> None:
    model = LlamaPlugin().llama(context_tokens=256, cache_tokens=384, max_running=5)
    assert isinstance(model, LlamaModel)
    clients = Clients(model)
    try:
        await model.count_tokens("load")
        pid = model.engine_pid
        await asyncio.wait_for(asyncio.gather(*(clients.run(seed) for seed in range(5))), 120)
        assert clients.n_answered + clients.n_cancelled == 40
        assert clients.n_answered > 20
        assert model.engine_pid == pid
    finally:
        await model.close()
