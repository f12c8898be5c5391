"""Several coroutines at once, whose first failure is the failure of all.

An asyncio.TaskGroup would wrap it in an ExceptionGroup. Invariant: when `all_of` returns or raises, nothing it started
is still running.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def all_of(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return the results in order; cancel the rest when one fails, or when the caller is cancelled."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
