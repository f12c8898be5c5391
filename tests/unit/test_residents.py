"""The models of a kernel stay within the limits on what is loaded, and none is closed while it is used."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gristmill import GenerateRequest, Message, Session
from gristmill._residents import Residents
from gristmill.testing import FakeModel

REQUEST = GenerateRequest(messages=(Message(role="user", content="x"),))


class OpenSession:
    """A session that does nothing."""

    ends = frozenset({2})
    prompt_tokens = 1

    async def next_logprobs(self) -> Any:
        return None

    async def accept(self, token: int) -> str:
        return str(token)

    async def close(self) -> None:
        return


class Local(FakeModel):
    """A model with weights; `events` has its name for each load, and `-name` for each close."""

    holds_weights = True

    def __init__(self, name: str, events: list[str], *, delay_s: float = 0.0) -> None:
        super().__init__(name=name, delay_s=delay_s)
        self.events = events
        self.loaded = False

    async def generate(self, request: GenerateRequest, on_delta: Any = None) -> Any:
        if not self.loaded:
            self.events.append(self.name)
        self.loaded = True
        return await super().generate(request, on_delta)

    async def open_session(self, request: GenerateRequest) -> Session:
        await self.generate(request)
        return OpenSession()

    async def close(self) -> None:
        self.loaded = False
        self.events.append(f"-{self.name}")


@pytest.fixture
def events() -> list[str]:
    return []


def watched(events: list[str], names: str, *, delay_s: float = 0.0, **limits: Any) -> list[Local]:
    residents = Residents(**{"max_loaded": None, "idle_s": None, **limits})
    models = [Local(name, events, delay_s=delay_s) for name in names]
    for model in models:
        residents.watch(model)
    return models


async def test_the_least_recently_used_makes_room(events: list[str]) -> None:
    a, b, c = watched(events, "abc", max_loaded=2)
    for model in (a, b, a, c, b):
        await model.generate(REQUEST)
    assert events == ["a", "b", "-b", "c", "-a", "b"]


async def test_a_model_with_a_call_under_way_is_not_closed(events: list[str]) -> None:
    a, b = watched(events, "ab", max_loaded=1, delay_s=0.05)
    await asyncio.gather(a.generate(REQUEST), b.generate(REQUEST))
    assert events == ["a", "b"]
    await b.generate(REQUEST)
    assert events == ["a", "b", "-a"]


async def test_an_open_session_keeps_its_model(events: list[str]) -> None:
    a, b = watched(events, "ab", max_loaded=1)
    session = await a.open_session(REQUEST)
    await b.generate(REQUEST)
    assert await session.accept(3) == "3"
    assert events == ["a", "b"]
    await session.close()
    await session.close()
    await b.generate(REQUEST)
    assert events == ["a", "b", "-a"]


async def test_an_idle_model_is_closed_and_a_used_one_is_not(events: list[str]) -> None:
    a, b = watched(events, "ab", idle_s=0.6)
    await a.generate(REQUEST)
    for _ in range(10):
        await asyncio.sleep(0.1)
        await b.generate(REQUEST)
    assert events == ["a", "b", "-a"]
    await asyncio.sleep(1.2)
    assert events == ["a", "b", "-a", "-b"]
    await a.generate(REQUEST)
    assert events[-1] == "a"


async def test_a_call_that_fails_or_is_cancelled_keeps_no_model(events: list[str]) -> None:
    a, b = watched(events, "ab", max_loaded=1, delay_s=30.0)
    call = asyncio.create_task(a.generate(REQUEST))
    await asyncio.sleep(0.01)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    b.delay_s = 0.0
    await b.generate(REQUEST)
    assert events == ["a", "-a", "b"]


async def test_without_limits_or_weights_a_model_is_left_alone(events: list[str]) -> None:
    (model,) = watched(events, "a")
    remote = FakeModel()
    Residents(max_loaded=1, idle_s=1.0).watch(remote)
    assert "generate" not in vars(model)
    assert "generate" not in vars(remote)
