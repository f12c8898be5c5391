"""One method, called two ways: `recall` waits for its result, `arecall` is awaited.

Each is written once, as a coroutine, and both faces have its signature. It runs nothing by itself. Invariant: the
coroutine runs on the kernel's loop whichever way it was called, since embedders live there.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Runner(Protocol):
    """What runs coroutines: the kernel."""

    def on_loop(self) -> bool:
        """Tell whether the caller is on the loop already."""
        ...

    def submit(self, coroutine: Any) -> Future[Any]:
        """Start a coroutine on the loop."""
        ...

    def wait(self, coroutine: Any) -> Any:
        """Run a coroutine on the loop and return its result."""
        ...


class HasRunner(Protocol):
    """An object whose methods run through a runner."""

    @property
    def runner(self) -> Runner:
        """What they run through."""
        ...


S = TypeVar("S", bound=HasRunner)
Method = Callable[Concatenate[S, P], Coroutine[Any, Any, R]]


def waiting(method: Method[S, P, R]) -> Callable[Concatenate[S, P], R]:
    """Return the face of `method` that waits."""

    @functools.wraps(method)
    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        result: R = self.runner.wait(method(self, *args, **kwargs))
        return result

    return call


def awaited(method: Method[S, P, R]) -> Method[S, P, R]:
    """Return the face of `method` that is awaited, from the kernel's loop or from any other."""

    @functools.wraps(method)
    async def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        coroutine = method(self, *args, **kwargs)
        if self.runner.on_loop():
            return await coroutine
        result: R = await asyncio.wrap_future(self.runner.submit(coroutine))
        return result

    return call
