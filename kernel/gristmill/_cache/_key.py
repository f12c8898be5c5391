"""Keys of the prompt cache: the SHA-256 of canonical JSON.

It does not know what belongs in a key; whoever calls it does. Invariant: two keys are equal only if their
material is equal as JSON, and were made in the same parts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from gristmill._errors import UsageError

_CANONICAL = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, check_circular=False
).encode


def cache_key(material: Mapping[str, Any]) -> str:
    """Return the SHA-256, in hex, of the canonical JSON of everything that can change an answer.

    Objects are equal whatever their order; 1, 1.0 and true differ, and so do a character and its two surrogates.

    Raises:
        UsageError: `material` is not JSON data, or holds NaN or an infinity.
    """
    return hashlib.sha256(_canonical(material)).hexdigest()


class KeyPrefix:
    """The part of a key that many requests share, hashed once.

    `KeyPrefix(model).extend(request).key({"sample": 3})`: n samples of one request hash its prompt once. A key
    of a prefix is another than `cache_key` of the same material in one piece.
    """

    __slots__ = ("_hash",)

    def __init__(self, material: Mapping[str, Any]) -> None:
        self._hash = hashlib.sha256(_canonical(material))

    def extend(self, material: Mapping[str, Any]) -> KeyPrefix:
        """Return a longer prefix; this one stays as it is."""
        longer = KeyPrefix.__new__(KeyPrefix)
        longer._hash = self._extended(material)
        return longer

    def key(self, material: Mapping[str, Any]) -> str:
        """Return the key of the prefix with `material` at its end.

        Raises:
            UsageError: as for `cache_key`.
        """
        return str(self._extended(material).hexdigest())

    def _extended(self, material: Mapping[str, Any]) -> Any:
        longer = self._hash.copy()
        longer.update(_canonical(material))  # an object ends where it ends, so parts cannot run together
        return longer


def _canonical(material: Mapping[str, Any]) -> bytes:
    try:
        return _CANONICAL(material).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"a cache key cannot be made: {error}",
            hint="its material is dicts with text keys, lists, strings, finite numbers, booleans and None",
        ) from error
