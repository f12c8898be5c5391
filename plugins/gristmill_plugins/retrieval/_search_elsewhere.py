"""Searching a user's own LlamaIndex retriever or vector store instead of an index of ours.

It keeps nothing. Invariant: the part runs in a thread of its own, since LlamaIndex's own stores block for as long as a
search takes.
"""

from __future__ import annotations

import asyncio
from typing import Any

from gristmill import Embedder, FunctionError, Passage
from gristmill_plugins.retrieval._llama_index_nodes import to_passage


async def search_elsewhere(part: Any, name: str, query: str, top_k: int, embedder: Embedder | None) -> list[Passage]:
    """Return the passages that a registered part finds, best first.

    Args:
        part: a LlamaIndex retriever; a vector store, if there is an embedder.
        name: what it is registered as.
        query: any text.
        top_k: how many a store is asked for; a retriever decides itself.
        embedder: makes the query's vector for a store.

    Raises:
        FunctionError: the part failed, or its store keeps no texts.
    """
    try:
        if embedder is None:
            found = await asyncio.to_thread(part.retrieve, query)
        else:
            vector = (await embedder.embed([query]))[0].tolist()
            found = await asyncio.to_thread(_ask_store, part, query, vector, top_k)
    except Exception as error:  # (a part of somebody else's raises anything)
        raise FunctionError(f"{name!r} failed: {type(error).__name__}: {error}") from error
    if any(not node.get_content() for node in found):
        raise FunctionError(f"{name!r} keeps no texts", hint="register a retriever over it, which does")
    return [to_passage(node, name) for node in found]


def _ask_store(store: Any, query: str, vector: list[float], top_k: int) -> list[Any]:
    from llama_index.core.schema import NodeWithScore
    from llama_index.core.vector_stores import VectorStoreQuery

    asked = VectorStoreQuery(query_embedding=vector, query_str=query, similarity_top_k=top_k)
    result = store.query(asked)
    if result.nodes is None:
        raise ValueError("it returns ids and no texts; register a retriever over it")
    scores = result.similarities or [None] * len(result.nodes)
    return [NodeWithScore(node=node, score=score) for node, score in zip(result.nodes, scores, strict=True)]
