"""Semantic memory in PostgreSQL with pgvector, for several machines.

Importing this package imports no driver and opens no connection. Invariant: declaring a store is cheap; a password is
read from the environment when a connection is opened, and is kept nowhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from gristmill import model_provider

if TYPE_CHECKING:
    from gristmill import VectorStore

__all__ = ["PostgresPlugin"]


class PostgresPlugin:
    """Keeps semantic memory in PostgreSQL with pgvector."""

    @model_provider
    def postgres(
        self,
        *,
        url: Annotated[str, Field(description="Where the database is, such as postgresql://me@host/memory")],
        password_env: Annotated[
            str | None, Field(description="The environment variable that holds the password; never the password itself")
        ] = None,
        schema: Annotated[
            str, Field(pattern="^[a-z_][a-z0-9_]{0,40}$", description="The schema of gristmill's tables")
        ] = "gristmill",
        hnsw_from: Annotated[
            int | None,
            Field(ge=1, description="Search collections of so many records by an approximate index; null: exactly"),
        ] = None,
        connections: Annotated[int, Field(ge=1, le=100, description="Connections open together")] = 4,
        connect_timeout_s: Annotated[int, Field(ge=2, le=600, description="For opening a connection")] = 10,
    ) -> VectorStore:
        """A PostgreSQL database with the extension pgvector, as a store of semantic memory."""
        from gristmill_plugins.postgres._pool import Place
        from gristmill_plugins.postgres._store import PostgresStore

        place = Place(url, password_env, schema, connections, connect_timeout_s)
        return PostgresStore(place, hnsw_from=hnsw_from)
