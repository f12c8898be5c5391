"""Semantic memory in Qdrant, a vector database: on a server, or for trying out in a local folder.

Importing this package imports no client and opens no connection. Invariant: declaring a store is cheap; a key is read
from the environment when the client is made, and is kept nowhere else.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from gristmill import UsageError, model_provider

if TYPE_CHECKING:
    from gristmill import VectorStore

__all__ = ["QdrantPlugin"]


class QdrantPlugin:
    """Keeps semantic memory in Qdrant."""

    @model_provider
    def qdrant(
        self,
        *,
        url: Annotated[str | None, Field(description="Where the server is, such as http://127.0.0.1:6333")] = None,
        path: Annotated[
            Path | None,
            Field(description="Instead: a folder for one process. The client keeps pickles there: only your own"),
        ] = None,
        api_key_env: Annotated[
            str | None, Field(description="The environment variable that holds the key; never the key itself")
        ] = None,
        prefix: Annotated[
            str, Field(pattern="^[a-z][a-z0-9_-]{0,40}$", description="How the names of its collections begin")
        ] = "gristmill",
        exact: Annotated[bool, Field(description="Look at every vector instead of using the server's index")] = False,
        timeout_s: Annotated[int, Field(ge=1, le=3600, description="For one request")] = 60,
    ) -> VectorStore:
        """A Qdrant server, or a local folder, as a store of semantic memory."""
        if (url is None) == (path is None):
            raise UsageError("qdrant takes `url`, or `path` for a local folder")
        from gristmill_plugins.qdrant._client import Place
        from gristmill_plugins.qdrant._store import QdrantStore

        return QdrantStore(
            Place(url, None if path is None else str(path), api_key_env, timeout_s), prefix=prefix, exact=exact
        )
