"""The threads in which a run's `def` functions work, so that one that blocks holds nobody up.

`ThreadPoolExecutor` would do; a call through it costs 30 µs in a fan-out where this costs 4 (2 cores, Python 3.11),
since each of its answers wakes the event loop apart, and here one waking takes all answers that are ready. It times
nothing and stops no function. Invariant: a call under way has a thread of its own as long as there are no more than
`most`; beyond that, calls wait in their order.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

Answer = tuple[Any, BaseException | None]
Call = tuple[Callable[[], Any], "asyncio.Future[Answer]"]


class Threads:
    """At most so many threads, started when calls need them, which answer to one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int, *, finish_within_s: float) -> None:
        self._loop = loop
        self._most = most
        self._finish_within_s = finish_within_s
        self._threads: list[threading.Thread] = []
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._answers: deque[tuple[asyncio.Future[Answer], Answer]] = deque()
        self._n_open = 0
        """Calls whose answers the loop has not taken yet; read and written on the loop alone."""
        self._is_waking = False
        self._is_closed = False

    async def run(self, work: Callable[[], Any]) -> Any:
        """Return what `work` returns in a thread; cancelled, it ends by itself, or never begins."""
        answer: asyncio.Future[Answer] = self._loop.create_future()
        self._n_open += 1
        if self._n_open > len(self._threads) < self._most:
            self._start()
        self._calls.put((work, answer))
        value, error = await answer  # not `set_exception`, which takes no StopIteration
        if error is not None:
            raise error
        return value

    def _start(self) -> None:
        if not self._threads:
            atexit.register(self.close)
        name = f"gristmill-step_{len(self._threads)}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)  # `close` is what waits for it
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            work, answer = call
            if self._is_closed:
                return
            found: Answer = (None, None)
            if not answer.cancelled():
                try:
                    found = work(), None
                except BaseException as error:  # noqa: BLE001  (raised again where it is awaited)
                    found = None, error
            self._answers.append((answer, found))
            del call, work, answer, found  # an idle thread holds nothing alive
            if not self._is_waking:
                self._is_waking = True
                with suppress(RuntimeError):  # the loop is closed, nobody awaits
                    self._loop.call_soon_threadsafe(self._take_answers)

    def _take_answers(self) -> None:
        self._is_waking = False  # first: an answer that comes from now on wakes the loop again
        while self._answers:
            answer, found = self._answers.popleft()
            self._n_open -= 1
            if not answer.done():
                answer.set_result(found)

    def close(self) -> None:
        """Let no further call begin, and wait for those under way, but not for ever; idempotent."""
        self._is_closed = True
        atexit.unregister(self.close)
        for _ in self._threads:
            self._calls.put(None)
        end = time.monotonic() + self._finish_within_s
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
