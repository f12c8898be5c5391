"""What every store refuses: vectors of two embedders together, and vectors that are none.

It keeps nothing. Invariant: the message names the collection, both embedders, and the command that mends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from gristmill._errors import UsageError
from gristmill._models import CollectionName, StoredRecord

if TYPE_CHECKING:
    import numpy as np


def same_embedder(collection: CollectionName, kept: str | None, given: str | None) -> None:
    """Refuse vectors, or a query, of another embedder than that which made the collection's vectors.

    Args:
        collection: where they are.
        kept: the fingerprint of its embedder; None when its records have no vectors.
        given: the fingerprint of the new one; None for records without vectors.

    Raises:
        UsageError: they differ.
    """
    if kept == given:
        return
    space = "" if collection.namespace == "default" else f" --namespace {collection.namespace}"
    command = f"gristmill memory re-embed {collection.name}{space} --embedder NAME"
    if kept is None:
        raise UsageError(f"the records of collection {collection.name!r} have no vectors",
                         hint=f"search it with mode lexical, or make them: {command}")  # fmt: skip
    theirs = f"{given!r} makes others" if given else "no embedder was given"
    raise UsageError(f"the vectors of collection {collection.name!r} are by {kept!r}, {theirs}",
                     hint=f"use the same embedder, or change them all: {command}")  # fmt: skip


def same_dim(collection: CollectionName, kept: int | None, given: int | None) -> None:
    """Refuse vectors of another length than the collection's.

    Raises:
        UsageError: they differ.
    """
    if kept != given:
        raise UsageError(f"collection {collection.name!r} has vectors of {kept} dimensions, these have {given}")


def unit_rows(vectors: Any, n: int) -> np.ndarray:
    """Return `(n, dim) float32` rows, as a store keeps them.

    Raises:
        UsageError: there are not n, or they hold what is no number.
    """
    import numpy as np

    rows = np.ascontiguousarray(vectors, dtype=np.float32)
    if rows.ndim != 2 or len(rows) != n or not np.isfinite(rows).all():
        raise UsageError(f"{n} vectors of finite numbers are wanted, these are {rows.shape}")
    return rows


class Batch(NamedTuple):
    """What a write keeps: each record with its vector, `(dim,) float32`, or with none."""

    kept: list[tuple[StoredRecord, Any]]
    dim: int | None


def batch_of(records: Sequence[StoredRecord], vectors: Any) -> Batch:
    """Return what an upsert of these keeps: of several records with one id, the last.

    Raises:
        UsageError: there is not one vector of finite numbers for each record.
    """
    last = {record.id: position for position, record in enumerate(records)}
    if vectors is None:
        return Batch([(records[n], None) for n in last.values()], None)
    rows = unit_rows(vectors, len(records))
    return Batch([(records[n], rows[n]) for n in last.values()], int(rows.shape[1]))
