"""One Qdrant client, made when it is first used, and what its errors mean.

It knows no collection. Invariants: a local folder is used by one thread at a time; the key is in no message.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gristmill import PluginError, StoreError

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

INSTALL = 'pip install "gristmill[qdrant]"'


@dataclass(frozen=True, slots=True)
class Place:
    """A server, or a folder."""

    url: str | None
    path: str | None
    api_key_env: str | None = None
    timeout_s: int = 60

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return self.url or self.path or ""

    def key(self) -> str | None:
        """Return the key, from the environment only.

        Raises:
            StoreError: the variable is not set.
        """
        if self.api_key_env is None:
            return None
        if (key := os.environ.get(self.api_key_env)) is None:
            text = f"the environment variable {self.api_key_env} is not set, and {self.name} needs its key"
            raise StoreError(text, store=self.name, cause="io", hint=f"export {self.api_key_env}=...")
        return key


class Held:
    """A client that is opened when it is needed, and again after `close`."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._client: QdrantClient | None = None
        self._opening = threading.Lock()
        self._turn = threading.RLock() if place.path else None

    @contextmanager
    def use(self) -> Iterator[QdrantClient]:
        """Lend the client.

        Raises:
            StoreError: the server cannot be reached or refuses; the folder is another process's.
            PluginError: the client is not installed.
        """
        with self._turn or nullcontext(), explained(self.place):
            yield self._opened()

    def _opened(self) -> QdrantClient:
        with self._opening:
            if self._client is None:
                self._client = _client(self.place)
            return self._client

    def close(self) -> None:
        """Let go of the server or the folder; idempotent."""
        with self._turn or nullcontext(), self._opening:
            client, self._client = self._client, None
            if client is not None:
                client.close()


def _client(place: Place) -> QdrantClient:
    try:
        from qdrant_client import QdrantClient
    except ImportError as error:
        raise PluginError(f"Qdrant needs {error.name}", hint=INSTALL) from error
    if place.path is not None:
        return QdrantClient(path=place.path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a key without TLS: ours to decide, for a server on this machine
        return QdrantClient(
            url=place.url, api_key=place.key(), timeout=place.timeout_s, check_compatibility=False, trust_env=False
        )


@contextmanager
def explained(place: Place) -> Iterator[None]:
    """Turn errors of the client into a StoreError whose `cause` says which.

    Raises:
        StoreError: as said.
    """
    try:
        from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
    except ImportError as error:
        raise PluginError(f"Qdrant needs {error.name}", hint=INSTALL) from error
    try:
        yield
    except UnexpectedResponse as error:
        cause = {401: "read_only", 403: "read_only", 507: "full"}.get(error.status_code or 0, "io")
        hint = "is the key right, and may it write?" if cause == "read_only" else "look at the server's log"
        said = _short(error.content.decode("utf-8", "replace"))
        raise _failure(place, f"refused (HTTP {error.status_code}): {said}", cause, hint) from error
    except ResponseHandlingException as error:
        raise _failure(
            place, f"cannot be reached: {_short(str(error))}", "io", "start the server, or mend url"
        ) from error
    except RuntimeError as error:
        if "already accessed" not in str(error):
            raise
        hint = "a local folder is for one process: start a server, and give its url"
        raise _failure(place, "another process has it open", "locked", hint) from error
    except OSError as error:
        raise _failure(place, error.strerror or str(error), "io", "look at the folder and its permissions") from error


def _failure(place: Place, what: str, cause: str, hint: str) -> StoreError:
    return StoreError(f"memory at {place.name}: {what}", store=place.name, cause=cause, hint=hint)


def _short(text: Any) -> str:
    return " ".join(str(text).split())[:300]
