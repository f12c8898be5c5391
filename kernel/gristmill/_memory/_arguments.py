"""What callers of semantic memory give, checked before anything is read or written.

Each function returns what it was given, or a copy that nobody else can change, or raises a UsageError that says what is
allowed. It knows no store.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from gristmill._errors import UsageError, suggest
from gristmill._memory._rank import Fusion
from gristmill._models import CollectionName

if TYPE_CHECKING:
    import numpy as np

Mode = Literal["hybrid", "dense", "lexical"]
MOST_NAME = 200


def check_recall(top_k: int, mode: str, mmr: float | None, fusion: str, dense_weight: float) -> None:
    if top_k < 1:
        raise UsageError(f"top_k is a whole number from 1, this is {top_k!r}")
    for word, given, known in (("mode", mode, get_args(Mode)), ("fusion", fusion, get_args(Fusion))):
        if given not in known:
            raise UsageError(f"{given!r} is no {word}", hint=suggest(str(given), known))
    for word, number in (("mmr", mmr), ("dense_weight", dense_weight)):
        if number is not None and not 0 <= number <= 1:
            raise UsageError(f"{word} is a number from 0 to 1, this is {number!r}")


def collection_name(namespace: str, collection: str) -> CollectionName:
    return CollectionName(plain_name(namespace, "namespace"), plain_name(collection, "collection"))


def plain_name(name: str, what: str) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= MOST_NAME or not name.isprintable() or name != name.strip():
        raise UsageError(f"the name of a {what} is 1 to {MOST_NAME} printable characters, this is {name!r}")
    return name


def checked_text(text: Any) -> str:
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"a record's text is one that is not empty, this is {text!r}")
    return _encodable(text, "a record's text")


def _encodable(text: str, what: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{what} holds half a character at {error.start}: {text[error.start]!r}") from error
    return text


def checked_id(given: str | None, text: str) -> str:
    if given is None:
        return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]
    if not isinstance(given, str) or not given.strip() or len(given) > MOST_NAME or "\x00" in given:
        raise UsageError(f"an id is a text of 1 to {MOST_NAME} characters without NUL, this is {given!r}")
    return _encodable(given, "an id")


def checked_metadata(given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    try:
        text = json.dumps(given, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"metadata is JSON data: {error}", hint="texts, finite numbers, booleans, null, lists"
        ) from error
    _encodable(text, "metadata")
    return cast(dict[str, Any], json.loads(text))  # a copy, with tuples as lists


def one_for_each(given: Any, n: int, what: str, one: type) -> list[Any]:
    if given is None or isinstance(given, one):
        if one is str and given is not None and n != 1:
            raise UsageError(f"one id for {n} texts", hint="give a list, or leave it out")
        return [given] * n
    values = [*given]
    if len(values) != n:
        raise UsageError(f"{len(values)} of {what} for {n} texts", hint="give one for each text")
    return values


def checked_vectors(vectors: Any, n: int) -> np.ndarray:
    import numpy as np

    rows = np.ascontiguousarray(vectors, dtype=np.float32)
    if rows.ndim != 2 or len(rows) != n:
        raise UsageError(f"the embedder made {rows.shape} for {n} texts", hint="it returns (n, dim) float32")
    return rows
