"""Threads for functions that block: one for each call, up to the limit, and none left in the end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gristmill._threads import Threads


def within(most: int, body: Callable[[Threads], Awaitable[Any]], finish_within_s: float = 60) -> Any:
    """Run `body` on a loop with threads that are closed afterwards."""

    async def main() -> Any:
        threads = Threads(asyncio.get_running_loop(), most, finish_within_s=finish_within_s)
        try:
            return await body(threads)
        finally:
            threads.close()

    return asyncio.run(main())


def test_calls_that_block_overlap_up_to_the_limit() -> None:
    meeting = threading.Barrier(4)

    async def body(threads: Threads) -> Any:
        return await asyncio.gather(*(threads.run(lambda: meeting.wait(60)) for _ in range(4)))

    assert sorted(within(4, body)) == [0, 1, 2, 3]


def test_calls_beyond_the_limit_wait_in_their_order() -> None:
    done: list[int] = []

    async def body(threads: Threads) -> None:
        await asyncio.gather(*(threads.run(partial(done.append, n)) for n in range(50)))

    within(1, body)
    assert done == list(range(50))


def test_one_that_blocks_holds_no_other_up() -> None:
    gate = threading.Event()

    async def body(threads: Threads) -> str:
        blocked = asyncio.ensure_future(threads.run(lambda: gate.wait(60)))
        for _ in range(20):
            await threads.run(lambda: None)
        assert not blocked.done()
        gate.set()
        await blocked
        return "ended"

    assert within(2, body) == "ended"


@pytest.mark.parametrize("error", [ValueError("it broke"), SystemExit(3)])
def test_what_a_call_raises_is_raised_where_it_is_awaited(error: BaseException) -> None:
    def fail() -> None:
        raise error

    async def body(threads: Threads) -> None:
        with pytest.raises(type(error)):
            await threads.run(fail)
        assert await threads.run(lambda: 7) == 7

    within(1, body)


def test_a_call_that_was_cancelled_before_it_began_never_begins() -> None:
    gate, begun = threading.Event(), threading.Event()

    async def body(threads: Threads) -> None:
        first = asyncio.ensure_future(threads.run(lambda: gate.wait(60)))
        second = asyncio.ensure_future(threads.run(begun.set))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.sleep(0)
        gate.set()
        await first
        await threads.run(lambda: None)

    within(1, body)
    assert not begun.is_set()


def test_closing_begins_nothing_more_and_leaves_no_thread() -> None:
    gate, begun, later = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        gate.wait(60)

    async def body(threads: Threads) -> None:
        calls = [asyncio.ensure_future(threads.run(one)) for one in (work, later.set)]
        await asyncio.to_thread(begun.wait, 60)
        threads.close()  # does not wait: none of these has a moment left
        gate.set()
        for call in calls:
            call.cancel()

    within(1, body, finish_within_s=0)
    for thread in threading.enumerate():
        if thread.name.startswith("gristmill-step"):
            thread.join(60)
            assert not thread.is_alive()
    assert not later.is_set()


def test_closing_waits_for_what_is_under_way() -> None:
    begun, ended = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        ended.wait(0.05)
        ended.set()

    async def body(threads: Threads) -> None:
        call = asyncio.ensure_future(threads.run(work))
        await asyncio.to_thread(begun.wait, 60)
        threads.close()
        assert ended.is_set()
        call.cancel()

    within(1, body)


def test_closing_does_not_wait_for_ever() -> None:
    gate, begun = threading.Event(), threading.Event()

    def stuck() -> None:
        begun.set()
        gate.wait(60)

    async def body(threads: Threads) -> None:
        call = asyncio.ensure_future(threads.run(stuck))
        await asyncio.to_thread(begun.wait, 60)
        threads.close()
        call.cancel()

    within(1, body, finish_within_s=0.01)
    assert not gate.is_set()
    gate.set()


def test_a_process_whose_kernel_was_never_closed_ends(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("version: 1\nsteps: {s: {use: quick.one}}\noutput: ${s}\n")
    program = (
        "import sys\nfrom gristmill import Kernel, function\n"
        "class Quick:\n    '''Quick.'''\n\n    @function\n"
        "    def one(self) -> int:\n        '''One.'''\n        return 1\n"
        "kernel = Kernel(plugins={'quick': Quick()}, cache=False)\nprint(kernel.recipe(sys.argv[1]).run().output)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "r.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
