"""Compute each key once, however many tasks of one event loop ask for it at the same time.

It keeps no results: they live in the cache it is used with, or nowhere. Invariant: a key is in flight only while
the task that computes it runs, so a cancelled or failed computation never stands in the way of the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from gristmill._errors import UsageError


class Answer(NamedTuple):
    """A value, and whether it came from the cache or another task's computation rather than from this call's."""

    value: Any
    cached: bool


Lookup = Callable[[Sequence[str]], Mapping[str, Any]]
Compute = Callable[[Sequence[str]], Awaitable[Sequence[Any]]]
Store = Callable[[Mapping[str, Any]], Awaitable[None]]


class SingleFlight:
    """The computations that are running now."""

    def __init__(self) -> None:
        # The loop is part of the name: a future of one loop cannot be awaited in another.
        self._flights: dict[tuple[asyncio.AbstractEventLoop, str], asyncio.Future[Any]] = {}

    async def run(self, keys: Sequence[str], lookup: Lookup, compute: Compute, store: Store) -> dict[str, Answer]:
        """Return an answer for every key: looked up, computed here in one call and stored, or waited for.

        An error reaches everyone who waits for that computation. When the task that computes is cancelled, one
        of those who wait takes over.
        """
        loop = asyncio.get_running_loop()
        answers: dict[str, Answer] = {}
        missing = list(dict.fromkeys(keys))
        while missing:
            answers |= {key: Answer(value, cached=True) for key, value in lookup(missing).items()}
            missing = [key for key in missing if key not in answers]
            others = {key: self._flights[loop, key] for key in missing if (loop, key) in self._flights}
            # Ours are finished before we wait for others, so two batches that overlap cannot wait for each other.
            if own := [key for key in missing if key not in others]:
                values = await self._lead(own, compute, store)
                answers |= {key: Answer(value, cached=False) for key, value in zip(own, values, strict=True)}
            if others:
                await asyncio.wait(others.values())
                done = {key: flight for key, flight in others.items() if not flight.cancelled()}
                answers |= {key: Answer(flight.result(), cached=True) for key, flight in done.items()}
            missing = [key for key in missing if key not in answers]
        return answers

    async def _lead(self, keys: Sequence[str], compute: Compute, store: Store) -> Sequence[Any]:
        loop = asyncio.get_running_loop()
        flights = {key: loop.create_future() for key in keys}
        self._flights |= {(loop, key): flight for key, flight in flights.items()}
        try:
            values = await compute(keys)
            if len(values) != len(keys):
                raise UsageError(f"{len(keys)} values were to be computed and {len(values)} came back")
            await store(dict(zip(keys, values, strict=True)))
            for flight, value in zip(flights.values(), values, strict=True):
                flight.set_result(value)
            return values
        except Exception as error:
            for flight in flights.values():
                flight.set_exception(error)
                flight.exception()  # marks it as seen: nobody may be waiting
            raise
        finally:
            for key, flight in flights.items():
                del self._flights[loop, key]
                flight.cancel()  # changes nothing unless we were cancelled, and then those who wait take over
