"""Passages as LlamaIndex nodes, and nodes as passages.

It calls nothing. Invariant: a passage that becomes a node and comes back is equal, but for a score that a reranker
changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gristmill import Passage
from gristmill_plugins.retrieval._readers import whole

if TYPE_CHECKING:
    from llama_index.core.schema import NodeWithScore

_SOURCE = "source"
_PLACES = ("source", "file_path", "file_name", "url")


def to_node(passage: Passage) -> NodeWithScore:
    """Return a passage as a node with its score; what a model is shown of the node is its text alone."""
    from llama_index.core.schema import NodeWithScore, TextNode

    metadata = {**passage.metadata, _SOURCE: passage.source}
    hidden = list(metadata)
    node = TextNode(
        text=passage.text, metadata=metadata, excluded_embed_metadata_keys=hidden, excluded_llm_metadata_keys=hidden
    )
    return NodeWithScore(node=node, score=passage.score)


def to_passage(found: Any, found_by: str | None = None) -> Passage:
    """Return a node with score, or a bare node, as a passage; without a score it has 0.

    Its source is the first of `source`, `file_path`, `file_name` and `url` in its metadata, or else its id, with
    `page_label` as the page.
    """
    node = getattr(found, "node", found)
    metadata = _plain(node.metadata)
    named = next((str(metadata[key]) for key in _PLACES if metadata.get(key)), str(node.node_id))
    if _SOURCE not in metadata and metadata.get("page_label"):
        named += f"#page={metadata['page_label']}"
    metadata.pop(_SOURCE, None)
    if found_by is not None:
        metadata |= {"id": metadata.get("id", str(node.node_id)), "found_by": [found_by]}
    score = getattr(found, "score", None)
    return Passage(text=whole(node.get_content()), source=named, score=float(score or 0.0), metadata=metadata)


def _plain(metadata: Any) -> dict[str, Any]:
    """Return what of a node's metadata is JSON."""
    return {
        str(key): value
        for key, value in dict(metadata).items()
        if value is None or isinstance(value, str | int | float | bool | list | dict)
    }
