"""A record as a point of Qdrant and back, and filters as Qdrant takes them.

It sends nothing. Invariants: a filter means what it means to the kernel's own store (`gristmill.stores`); keys and
values of metadata are compared as data. Words are a sparse vector: BM25 without its inverse document frequency, which
the server adds (`Modifier.IDF`); the length of a text counts against `USUAL_WORDS`, since no client knows the mean.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gristmill import StoredRecord, StoreError
from gristmill.stores import Condition, conditions_of, facts_of

if TYPE_CHECKING:
    import numpy as np
    from qdrant_client import models

DENSE, WORDS = "dense", "words"
NUMBER, TEXT = 2, 3
"""Kinds of facts; see `gristmill.stores.fact_of`."""
FOREVER = 1e18
"""The expiry of a record that has none, in seconds since the epoch: a range can then be asked of every record."""
USUAL_WORDS = 100
"""A paragraph; the mean of SQuAD's is 124 words."""
K1, B = 1.2, 0.75
_SPACE = uuid.UUID("6b1e0c0e-5f0c-4d0e-9b58-1d0b6c1a7c51")


def point_id(id_: str) -> str:
    """Return the id of a point: Qdrant takes numbers and UUIDs only."""
    return str(uuid.uuid5(_SPACE, id_))


def point(record: StoredRecord, number: int, vector: np.ndarray | None, words: Sequence[str]) -> models.PointStruct:
    """Return a record as a point; `number` says where it stands in the order of writing."""
    from qdrant_client import models

    facts = facts_of(record.metadata)
    vectors: dict[str, Any] = {WORDS: sparse(words)} | ({} if vector is None else {DENSE: vector.tolist()})
    payload = {
        "id": record.id,
        "text": record.text,
        "metadata": json.dumps(record.metadata),
        "created": record.created,
        "expires": FOREVER if record.expires is None else record.expires,
        "number": number,
        "facts": sorted(fact_key(*fact) for fact in facts),
        "numbers": [{"key": key, "value": float(value)} for key, kind, value in facts if kind == NUMBER],
        "texts": sorted({key for key, kind, _ in facts if kind == TEXT}),
    }
    return models.PointStruct(id=point_id(record.id), vector=vectors, payload=payload)


def sparse(words: Sequence[str]) -> models.SparseVector:
    """Return a text's words with their weights."""
    from qdrant_client import models

    length = 1 - B + B * len(words) / USUAL_WORDS
    weights: dict[int, float] = {}
    for word, n in Counter(words).items():
        weights[index_of(word)] = n * (K1 + 1) / (n + K1 * length)
    return models.SparseVector(indices=list(weights), values=list(weights.values()))


def index_of(word: str) -> int:
    """Return a word's dimension: 32 bits of its hash, so that two words meet once in billions of pairs."""
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "big")


def record(payload: Mapping[str, Any], place: str) -> StoredRecord:
    """Return the record of a point.

    Raises:
        StoreError: the point is none of ours.
    """
    try:
        expires = None if payload["expires"] >= FOREVER else payload["expires"]
        return StoredRecord(
            id=payload["id"], text=payload["text"], metadata=json.loads(payload["metadata"]),
            created=payload["created"], expires=expires,
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        text = f"a record of memory at {place} is damaged: {type(error).__name__}: {error}"
        raise StoreError(text, store=place, cause="damaged") from error


def fact_key(key: str, kind: int, value: Any) -> str:
    """Return a text that two facts share only if they are equal: 1 and 1.0 are, 1 and "1" are not."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps([key, kind, value], separators=(",", ":"))


TextsOf = Callable[[str], set[str]]
"""Returns the texts that records have under a key: the facts' own form."""


def selection(where: Mapping[str, Any], now: float, texts_of: TextsOf) -> models.Filter:
    """Return the filter for records that `where` allows and that have not expired.

    Raises:
        UsageError: a filter that means nothing.
    """
    from qdrant_client import models

    alive = models.FieldCondition(key="expires", range=models.Range(gt=now))
    return models.Filter(must=[alive, *(_condition(condition, texts_of) for condition in conditions_of(where))])


def _condition(condition: Condition, texts_of: TextsOf) -> Any:
    from qdrant_client import models

    if condition.is_range and condition.kind == NUMBER:
        ends = {"gte": condition.low, "lte": condition.high}
        inside = models.Range(**{name: float(end[1]) for name, end in ends.items() if end is not None})
        of_key = models.FieldCondition(key="key", match=models.MatchValue(value=condition.key))
        fits = models.FieldCondition(key="value", range=inside)
        return models.NestedCondition(nested=models.Nested(key="numbers", filter=models.Filter(must=[of_key, fits])))
    if condition.is_range:  # Qdrant has no ranges of text: those that are there are looked through
        low, high = (None if end is None else end[1] for end in (condition.low, condition.high))
        texts = texts_of(condition.key)
        fitting = [text for text in texts if (low is None or low <= text) and (high is None or text <= high)]
        wanted = [fact_key(condition.key, TEXT, text) for text in fitting]
    else:
        wanted = [fact_key(condition.key, kind, value) for kind, value in condition.values]
    return models.FieldCondition(key="facts", match=models.MatchAny(any=wanted))
