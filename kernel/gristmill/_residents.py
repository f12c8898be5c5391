"""Which models stay loaded: `[limits] max_loaded` and `idle_s` of `gristmill.toml`.

It knows of a model only that it can be closed and loads again at its next call. Invariants: a model with a call under
way, or an open session, is never closed here, so for that long more may be loaded than `max_loaded`; without limits a
model is not touched. All of it happens on the kernel's loop.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy as np

    from gristmill._models import Model, Session

T = TypeVar("T")
_CALLS = ("generate", "score", "embed", "rank", "count_tokens")


class Residents:
    """Closes the models that are not needed: the least recently used above a number, and those idle for long."""

    def __init__(self, *, max_loaded: int | None, idle_s: float | None) -> None:
        self._max_loaded = max_loaded
        self._idle_s = idle_s
        self._loaded: dict[Model, int] = {}
        """The models that may be loaded, least recently used first, each with the number of its last use."""
        self._n_uses = 0
        self._busy: Counter[Model] = Counter()
        self._closing: set[asyncio.Task[None]] = set()

    def watch(self, model: Model) -> None:
        """Count the calls of a model from now on, if there are limits and it holds weights."""
        if not model.holds_weights or (self._max_loaded is None and self._idle_s is None):
            return
        # On the object itself: whoever calls the model, a step, semantic memory or a plugin, is counted.
        for name in _CALLS:
            setattr(model, name, self._counted(model, getattr(model, name)))
        open_session = model.open_session

        async def open_counted(*args: Any, **named: Any) -> Session:
            await self._begin(model)
            try:
                session = await open_session(*args, **named)
            except BaseException:
                self._end(model)
                raise
            return _CountedSession(session, lambda: self._end(model))

        setattr(model, "open_session", open_counted)  # noqa: B010  (mypy refuses to assign to a method)

    def _counted(self, model: Model, call: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
        async def counted(*args: Any, **named: Any) -> T:
            await self._begin(model)
            try:
                return await call(*args, **named)
            finally:
                self._end(model)

        return counted

    async def _begin(self, model: Model) -> None:
        """Note a call and make room for its model."""
        self._busy[model] += 1
        self._touch(model)
        try:
            while self._max_loaded is not None and len(self._loaded) > self._max_loaded:
                victim = next((other for other in self._loaded if not self._busy[other]), None)
                if victim is None:
                    break
                del self._loaded[victim]
                await victim.close()
        except BaseException:
            self._end(model)
            raise

    def _end(self, model: Model) -> None:
        self._busy[model] -= 1
        use = self._touch(model)
        if self._idle_s is not None and not self._busy[model]:
            asyncio.get_running_loop().call_later(self._idle_s, self._expire, model, use)

    def _touch(self, model: Model) -> int:
        self._n_uses += 1
        self._loaded.pop(model, None)
        self._loaded[model] = self._n_uses
        return self._n_uses

    def _expire(self, model: Model, use: int) -> None:
        """Close a model that was not used since."""
        if self._loaded.get(model) == use and not self._busy[model]:
            del self._loaded[model]
            task = asyncio.get_running_loop().create_task(model.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


class _CountedSession:
    """A session whose model counts as busy until it is closed."""

    def __init__(self, inner: Session, end: Callable[[], None]) -> None:
        self._inner = inner
        self._end: Callable[[], None] | None = end

    @property
    def ends(self) -> frozenset[int]:
        return self._inner.ends

    @property
    def prompt_tokens(self) -> int:
        return self._inner.prompt_tokens

    async def next_logprobs(self) -> np.ndarray:
        return await self._inner.next_logprobs()

    async def accept(self, token: int) -> str:
        return await self._inner.accept(token)

    async def close(self) -> None:
        end, self._end = self._end, None
        try:
            await self._inner.close()
        finally:
            if end is not None:
                end()
