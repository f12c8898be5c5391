"""The `memory` plugin: semantic memory as steps of a recipe.

It keeps nothing itself: the kernel's memory does, reached through the context. Invariant: a step sees the records of
the namespace that it names and no others.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from gristmill import (
    CollectionRef,
    Context,
    Embedder,
    FunctionError,
    Passage,
    Value,
    function,
)
from gristmill_plugins.memory._conversation import ConversationFunctions, EmbedderName, Namespace, StoreName, memory_of

Collection = Annotated[CollectionRef, "Any name; it is made when it is first used."]
Filter = Annotated[
    dict[str, Any] | None, "Metadata that must hold: a value, a list, or {min: ..., max: ...} for each key."
]
Share = Annotated[float, Field(ge=0, le=1, description="The share of meaning in hybrid, 0 to 1.")]


class Remembered(Value):
    """What was kept."""

    collection: str
    ids: tuple[str, ...]


class MemoryPlugin(ConversationFunctions):
    """Keeps texts across runs and finds them by meaning, by words, or by both."""

    @function(writes=True)
    async def remember(
        self,
        collection: Collection,
        text: Annotated[str | list[str], "What to keep: one text, or several, all or none."],
        context: Context,
        *,
        metadata: Annotated[dict[str, Any] | None, "Data by which `recall` can filter."] = None,
        id: Annotated[str | None, "For one text; a record of that id is replaced. By default from the text."] = None,
        expires_s: Annotated[float | None, "Seconds after which it is not found any more."] = None,
        namespace: Namespace = "default",
        embedder: EmbedderName = None,
        store: StoreName = None,
    ) -> Remembered:
        """Keep texts in a collection."""
        ids = await memory_of(context, store).aremember(
            collection, text, metadata=metadata, id=id, expires_s=expires_s, namespace=namespace,
            embedder=_embedder(context, embedder),
        )  # fmt: skip
        return Remembered(collection=collection, ids=tuple(ids))

    @function
    async def recall(
        self,
        collection: Collection,
        query: Annotated[str, "Any text."],
        context: Context,
        *,
        top_k: Annotated[int, Field(ge=1, le=10_000, description="How many passages at most.")] = 5,
        mode: Annotated[Literal["hybrid", "dense", "lexical"], "By both, by meaning, or by words."] = "hybrid",
        where: Filter = None,
        mmr: Annotated[float | None, "Below 1, results are less alike (maximal marginal relevance)."] = None,
        min_score: Annotated[float | None, "Leave out what scores less, on the scale of the mode."] = None,
        dense_weight: Share = 0.3,
        namespace: Namespace = "default",
        embedder: EmbedderName = None,
        store: StoreName = None,
    ) -> list[Passage]:
        """Return the passages that match best, best first; `source` is the record's id."""
        chosen = None if mode == "lexical" else _embedder(context, embedder)
        records = await memory_of(context, store).arecall(
            collection, query, top_k=top_k, mode=mode, where=where, mmr=mmr, min_score=min_score,
            dense_weight=dense_weight, namespace=namespace, embedder=chosen,
        )  # fmt: skip
        return [Passage(text=r.text, source=r.id, score=r.score or 0.0, metadata=r.metadata) for r in records]

    @function(writes=True)
    async def forget(
        self,
        collection: Collection,
        context: Context,
        *,
        ids: Annotated[list[str] | None, "The records to forget."] = None,
        all: Annotated[bool, "Forget the collection and everything in it."] = False,
        namespace: Namespace = "default",
        store: StoreName = None,
    ) -> int:
        """Forget records, and return how many there were."""
        if (ids is None) != all:
            raise FunctionError("memory.forget takes `ids`, or `all: true` for everything in the collection")
        return await memory_of(context, store).aforget(collection, ids, all=all, namespace=namespace)


def _embedder(context: Context, name: str | None) -> Embedder | None:
    return None if name is None else context.embedder(name)
