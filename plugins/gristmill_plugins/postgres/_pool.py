"""Connections to one database: opened when needed, used again, and what their errors mean.

It knows no table. Invariants: a connection is used by one thread at a time; one that a server closed is replaced; the
password is in no message.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gristmill import PluginError, StoreError, UsageError
from gristmill_plugins.postgres._schema import bring_up_to_date

if TYPE_CHECKING:
    from psycopg import Connection

INSTALL = 'pip install "gristmill[postgres]"'
_CAUSES = {
    "53100": ("full", "make room on the server, then try again"),
    "25006": ("read_only", "connect to a server that takes writes"),
    "42501": ("read_only", "give the role the rights: CREATE on the database, and on the extension vector"),
    "55P03": ("locked", "try again"),
    "40P01": ("locked", "try again"),
    "0A000": ("io", "install pgvector on the server: CREATE EXTENSION vector must work"),
    "58P01": ("io", "install pgvector on the server: CREATE EXTENSION vector must work"),
}


@dataclass(frozen=True)
class Place:
    """Where the database is, and how it may be used."""

    url: str
    password_env: str | None = None
    schema: str = "gristmill"
    connections: int = 4
    connect_timeout_s: int = 10

    @cached_property
    def parts(self) -> dict[str, Any]:
        """The parts of the URL.

        Raises:
            UsageError: it is none, or holds a password.
            PluginError: the driver is not installed.
        """
        try:
            import psycopg
            from pgvector.psycopg import register_vector  # noqa: F401  (says now that it is missing)
        except ImportError as error:
            raise PluginError(f"PostgreSQL needs {error.name}", hint=INSTALL) from error
        try:
            parts = dict(psycopg.conninfo.conninfo_to_dict(self.url))
        except psycopg.ProgrammingError as error:
            raise UsageError(f"url is no address of a database: {str(error).strip()}", hint=_EXAMPLE) from error
        if parts.get("password"):
            raise UsageError("url holds a password", hint="leave it out, and name its variable: password_env: NAME")
        return parts

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return f"{self.parts.get('host', 'localhost')}/{self.parts.get('dbname', '')}"

    def password(self) -> str | None:
        """Return the password, from the environment only.

        Raises:
            StoreError: the variable is not set.
        """
        if self.password_env is None:
            return None
        if (password := os.environ.get(self.password_env)) is None:
            text = f"the environment variable {self.password_env} is not set, and {self.name} needs its password"
            raise StoreError(text, store=self.name, cause="io", hint=f"export {self.password_env}=...")
        return password


_EXAMPLE = "such as postgresql://me@host:5432/memory"


class Pool:
    """Up to `place.connections` connections; more threads wait for their turn."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._idle: list[Connection[Any]] = []
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(place.connections)
        self._ready = False

    @contextmanager
    def connection(self) -> Iterator[Connection[Any]]:
        """Lend a connection, outside any transaction.

        Raises:
            StoreError: the server cannot be reached, or refuses.
        """
        with self._places, explained(self.place):
            lent = self._take()
            try:
                yield lent
            finally:
                self._give_back(lent)

    def _take(self) -> Connection[Any]:
        while True:
            with self._lock:
                if not self._idle:
                    break
                connection = self._idle.pop()
            if _alive(connection):
                return connection
        return self._open()

    def _open(self) -> Connection[Any]:
        import psycopg
        from pgvector.psycopg import register_vector

        place = self.place
        password = {} if (given := place.password()) is None else {"password": given}
        connection: Connection[Any] = psycopg.connect(
            **{**place.parts, "connect_timeout": place.connect_timeout_s, **password}, autocommit=True
        )
        try:
            if not self._ready:
                bring_up_to_date(connection, place.schema, place.name)
                self._ready = True
            register_vector(connection)
            connection.execute("SET jit = off")  # compiling a search takes longer than any of them runs
        except BaseException:
            connection.close()
            raise
        return connection

    def _give_back(self, connection: Connection[Any]) -> None:
        import psycopg

        if connection.closed or connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            connection.close()
            return
        with self._lock:
            self._idle.append(connection)

    def close(self) -> None:
        """Close the connections that nobody uses; the next use opens others."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


def _alive(connection: Connection[Any]) -> bool:
    """Whether the server still holds a connection: a round trip, 0.1 ms on one machine."""
    import psycopg

    try:
        connection.execute("SELECT 1")
    except psycopg.Error:
        connection.close()
        return False
    return True


@contextmanager
def explained(place: Place) -> Iterator[None]:
    """Turn errors of the driver into a StoreError whose `cause` says which.

    Raises:
        StoreError: as said.
    """
    import psycopg

    try:
        yield
    except psycopg.Error as error:
        cause, hint = _CAUSES.get(error.sqlstate or "", ("io", "look at the server, and at url"))
        what = (error.diag.message_primary or str(error)).strip().replace("\n", "; ")
        raise StoreError(f"memory at {place.name}: {what}", store=place.name, cause=cause, hint=hint) from error
