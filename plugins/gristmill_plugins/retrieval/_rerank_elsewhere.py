"""Passages in the order of a user's own LlamaIndex reranker, such as a cross-encoder, by its registered name.

It ranks nothing itself. Invariant: what comes back are the passages that went in, found by their place and not by what
the reranker made of them; it may leave some out, and a passage that it made up is an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from gristmill import FunctionError, Passage
from gristmill_plugins.retrieval._llama_index_nodes import to_node

PLACE = "gristmill_place"


async def rerank_elsewhere(part: Any, name: str, question: str, passages: Sequence[Passage]) -> list[Passage]:
    """Return the passages that a registered reranker keeps, best first, with its scores.

    Raises:
        FunctionError: the reranker failed, or returned what it was not given.
    """
    if not passages:
        return []
    try:
        found = await asyncio.to_thread(_ask, part, question, passages)
    except Exception as error:  # (a part of somebody else's raises anything)
        raise FunctionError(f"{name!r} failed: {type(error).__name__}: {error}") from error
    ranked = []
    for place, score in found:
        if not isinstance(place, int) or not 0 <= place < len(passages):
            raise FunctionError(f"{name!r} returned a passage that it was not given", hint="a reranker only orders")
        own = passages[place]
        metadata = own.metadata | {"search_score": own.score}
        ranked.append(own.model_copy(update={"score": own.score if score is None else score, "metadata": metadata}))
    return ranked


def _ask(part: Any, question: str, passages: Sequence[Passage]) -> list[tuple[Any, float | None]]:
    nodes = []
    for place, passage in enumerate(passages):
        scored = to_node(passage)
        scored.node.metadata[PLACE] = place
        scored.node.excluded_embed_metadata_keys = [*scored.node.excluded_embed_metadata_keys, PLACE]
        scored.node.excluded_llm_metadata_keys = [*scored.node.excluded_llm_metadata_keys, PLACE]
        nodes.append(scored)
    found = part.postprocess_nodes(nodes, query_str=question)
    return [(one.node.metadata.get(PLACE), None if one.score is None else float(one.score)) for one in found]
