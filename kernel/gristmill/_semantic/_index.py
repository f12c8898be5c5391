"""Earlier prompts, found again by meaning, so that the prompt cache can be asked for their answers.

It keeps no answer: those are in the prompt cache under their exact keys, and what that has dropped is a miss here.
Prompts lie in a store of their own beside it, one collection for each set of requests that differ in nothing but the
last message. Invariants: a prompt is found only for a request that is otherwise equal, model, system prompt, sampling,
seed and schema included; and only if `may_share` lets it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gristmill._cache._key import KeyPrefix
from gristmill._memory._store import SqliteStore
from gristmill._models import CollectionName, Embedder, GenerateRequest, StoredRecord, StoreQuery
from gristmill._semantic._likeness import may_share

if TYPE_CHECKING:
    import numpy as np

VERSION = 1
"""Raise it when prompts are compared in another way."""
NAMESPACE = "prompts"
CANDIDATES = 20
KEEP_S = 30 * 86400.0
MOST_CHARACTERS = 8000
"""Of a prompt: an embedding of a longer one says little of any of its sentences."""


class Alike(NamedTuple):
    """An earlier prompt that means the same."""

    text: str
    score: float
    """Cosine."""


class SemanticIndex:
    """The earlier prompts of one cache folder.

    Args:
        directory: the prompt cache's.
        embedder: returns the embedder, when one is first needed.
    """

    def __init__(self, directory: Path, embedder: Callable[[], Embedder]) -> None:
        self.store = SqliteStore(directory / "semantic")
        self._embedder = embedder

    async def find(self, place: str, text: str, threshold: float) -> list[Alike]:
        """Return the earlier prompts of `place` that mean the same, nearest first."""
        found = await self.store.search(
            CollectionName(NAMESPACE, place), StoreQuery(CANDIDATES, await self._vector(text), self._fingerprint)
        )
        alike = [Alike(hit.record.text, hit.dense) for hit in found if hit.dense is not None]
        return [one for one in alike if one.score >= threshold and may_share(text, one.text)]

    async def keep(self, place: str, text: str) -> None:
        """Remember that the prompt cache has an answer to `text`."""
        now = time.time()
        record = StoredRecord(id=KeyPrefix({"text": text}).key({})[:32], text=text, created=now, expires=now + KEEP_S)
        vector = await self._vector(text)
        await self.store.upsert(CollectionName(NAMESPACE, place), [record], vector[None], self._fingerprint)

    def place(self, shared: dict[str, Any]) -> str:
        """Return the collection of all requests that are as `shared` says."""
        return KeyPrefix({"version": VERSION, "embedder": self._fingerprint, "shared": shared}).key({})

    @staticmethod
    def varied(request: GenerateRequest) -> str | None:
        """Return what may differ in a request: the last message, if it is the user's and means something by itself."""
        last = request.messages[-1] if request.messages else None
        if last is None or last.role != "user" or not last.content.strip() or request.members or request.exchanges:
            return None
        return last.content if len(last.content) <= MOST_CHARACTERS else None

    @staticmethod
    def with_last(request: GenerateRequest, text: str) -> GenerateRequest:
        """Return the request with another last message."""
        last = request.messages[-1].model_copy(update={"content": text})
        return request.model_copy(update={"messages": (*request.messages[:-1], last)})

    @property
    def _fingerprint(self) -> str:
        return self._embedder().fingerprint

    async def _vector(self, text: str) -> np.ndarray:
        vectors = await self._embedder().embed([text])
        vector: np.ndarray = vectors[0]
        return vector


def clear(directory: Path) -> None:
    """Forget every earlier prompt."""
    for ending in ("", "-wal", "-shm"):
        path = SqliteStore(directory / "semantic").path
        path.with_name(path.name + ending).unlink(missing_ok=True)
