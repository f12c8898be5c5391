"""Embeddings over `/embeddings`.

Invariant: `(n, dim) float32` with rows of length 1, in the order of the texts, or a ModelError that says what came.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from gristmill import ModelError
from gristmill_plugins.chat._options import ChatOptions
from gristmill_plugins.chat._tasks import all_of
from gristmill_plugins.chat._transport import Transport

if TYPE_CHECKING:
    import numpy as np

BATCH = 64
"""Texts of one request: servers limit them, the strictest known to us at 96."""


class _Row(BaseModel):
    index: int
    embedding: list[float]


class _Rows(BaseModel):
    data: list[_Row]


async def embed(transport: Transport, options: ChatOptions, texts: Sequence[str]) -> np.ndarray:
    """Return `(len(texts), dim) float32`, rows L2-normalised.

    Raises:
        ModelError: the server gave other rows than were asked for.
    """
    import numpy as np

    url = f"{options.base_url}/embeddings"
    batches = [list(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
    bodies = [{"model": options.model, "input": batch, "encoding_format": "float"} for batch in batches]
    answers = await all_of(transport.json(url, body) for body in bodies)
    rows = [row for batch, answer in zip(batches, answers, strict=True) for row in _rows(answer, len(batch), options)]
    if len({len(row) for row in rows}) > 1:
        raise _strange(options, "rows of different lengths")
    vectors = np.asarray(rows, dtype=np.float32).reshape(len(rows), -1 if rows else 0)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or not norms.all():
        raise _strange(options, "a row that is zero or not a number")
    unit: np.ndarray = (vectors / norms).astype(np.float32)
    return unit


def _rows(answer: Any, n_texts: int, options: ChatOptions) -> list[list[float]]:
    """Return one batch's rows in the order of its texts."""
    try:
        rows = _Rows.model_validate(answer).data
    except ValidationError as error:
        raise _strange(options, "no list of rows") from error
    if sorted(row.index for row in rows) != list(range(n_texts)):
        raise _strange(options, f"{len(rows)} rows for {n_texts} texts")
    return [row.embedding for row in sorted(rows, key=lambda row: row.index)]


def _strange(options: ChatOptions, what: str) -> ModelError:
    return ModelError(
        f"{options.base_url} answered a request for embeddings with {what}",
        model=options.model,
        cause="request",
        hint="is it an embedding model?",
    )
