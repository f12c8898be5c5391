"""Requests to one server: few at a time, over kept connections, bounded in time and size, tried again where it helps.

It knows nothing of chat: bodies go out as JSON, answers come back as JSON or as the events of a stream. Invariants: a
request that fails or is cancelled gives its connection and its place back; nothing is asked twice once a part of the
answer was handed on; the key goes to the declared server only, and into no error.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from gristmill import BusyError, GristmillError, ModelError
from gristmill_plugins.chat._events import EventParser
from gristmill_plugins.chat._failures import (
    BUSY,
    ILL,
    MOST_PAUSE_S,
    MOST_QUOTED,
    Refused,
    message_in,
    pause_s,
    printable,
    retry_after_s,
    server_message,
)
from gristmill_plugins.chat._options import ChatOptions

if TYPE_CHECKING:
    import httpx

MOST_BYTES = 32 * 1024 * 1024
MOST_ERROR_BYTES = 65536
T = TypeVar("T")


class _Failed(Exception):
    """A try that failed: the error for the caller, and whether another try may do better."""

    def __init__(self, error: GristmillError, *, again: bool = False, asked_s: float | None = None) -> None:
        super().__init__(error)
        self.error = error
        self.again = again
        self.asked_s = asked_s


@dataclass(frozen=True, slots=True)
class _Request:
    """What is sent, the key aside."""

    method: str
    url: str
    body: Any

    @property
    def content(self) -> bytes | None:
        return None if self.body is None else json.dumps(self.body, ensure_ascii=False).encode()


class Transport:
    """The connections to one server. They are opened by the first request and bound to its event loop."""

    def __init__(self, options: ChatOptions) -> None:
        self._options = options
        self._client: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._places = asyncio.Semaphore(options.concurrency)

    async def json(self, url: str, body: Any, *, method: str = "POST") -> Any:
        """Send JSON and return the JSON that is answered.

        Raises:
            ModelError: the server cannot be reached, refuses, or answers something else.
            BusyError: it is too busy, even after `retries`.
        """

        async def read(response: httpx.Response) -> Any:
            answer = self._parse(await self._whole(response))
            if isinstance(answer, dict) and answer.get("error"):
                raise self._error(f"answered with an error: {self._quote(message_in(answer) or '')}", "request")
            return answer

        return await self._tried(_Request(method, url, body), read, repeatable=lambda: True)

    async def events(
        self, url: str, body: Any, on_event: Callable[[Any], None], *, handed_on: Callable[[], bool]
    ) -> None:
        """Send JSON and call `on_event` with each event of the stream, until the server ends it.

        Once `handed_on` is true a failure is final: another try would hand on the beginning once more.

        Raises:
            ModelError: as `json` does.
            BusyError: as `json` does.
        """

        async def read(response: httpx.Response) -> None:
            self._check_type(response, "text/event-stream")
            parser, size = EventParser(), 0
            async for chunk in response.aiter_raw():
                size = self._counted(size, chunk)
                for data in parser.feed(chunk):
                    self._hand_on(data, on_event)
            for data in parser.end():
                self._hand_on(data, on_event)

        await self._tried(_Request("POST", url, body), read, repeatable=lambda: not handed_on())

    async def close(self) -> None:
        """Close the connections; a later request opens new ones."""
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.aclose()

    # One request

    async def _tried(
        self, request: _Request, read: Callable[[httpx.Response], Awaitable[T]], *, repeatable: Callable[[], bool]
    ) -> T:
        key = self._options.key()
        client = self._opened()
        async with self._places:
            for attempt in itertools.count():
                try:
                    return await self._once(client, request, key=key, read=read)
                except _Failed as failed:
                    wait_s = pause_s(attempt, failed.asked_s)
                    is_last = attempt >= self._options.retries or wait_s > MOST_PAUSE_S
                    if is_last or not failed.again or not repeatable():
                        raise failed.error from failed.__cause__
                await asyncio.sleep(wait_s)
        raise AssertionError("unreachable")

    async def _once(
        self,
        client: httpx.AsyncClient,
        request: _Request,
        *,
        key: str | None,
        read: Callable[[httpx.Response], Awaitable[T]],
    ) -> T:
        import httpx

        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            async with (
                asyncio.timeout(self._options.timeout_s),
                client.stream(request.method, request.url, content=request.content, headers=headers) as response,
            ):
                await self._check_status(response)
                return await read(response)
        except GristmillError as error:
            raise _Failed(error) from error.__cause__
        except TimeoutError as error:
            seconds = f"{self._options.timeout_s:g} s"
            failure = self._error(f"did not finish its answer within {seconds}", "timeout", "raise timeout_s")
            raise _Failed(failure) from error
        except httpx.TimeoutException as error:
            raise _Failed(self._late(error), again=isinstance(error, httpx.ConnectTimeout)) from error
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise _Failed(self._broken(error), again=isinstance(error, httpx.RequestError)) from error

    def _opened(self) -> httpx.AsyncClient:
        """Return the client of the running loop, made if need be."""
        import httpx

        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            options = self._options
            self._loop = loop
            self._places = asyncio.Semaphore(options.concurrency)
            self._client = httpx.AsyncClient(
                timeout=httpx.Timeout(
                    options.read_timeout_s or options.timeout_s, connect=options.connect_timeout_s, pool=None
                ),
                limits=httpx.Limits(max_connections=options.concurrency, keepalive_expiry=30.0),
                # A compressed answer could be a bomb, and a proxy would take a local prompt off the machine.
                headers={
                    "Content-Type": "application/json",
                    "Accept-Encoding": "identity",
                    "User-Agent": "gristmill",
                },
                trust_env=not options.is_local,
                follow_redirects=False,
            )
        return self._client

    # Answers

    async def _check_status(self, response: httpx.Response) -> None:
        status = response.status_code
        if response.has_redirect_location:
            place = self._quote(response.headers["location"])
            raise self._error(
                f"redirects to {place!r}, and a prompt and its key go nowhere else", "request",
                "set base_url to where the server really is",
            )  # fmt: skip
        if response.headers.get("content-encoding", "identity") not in ("identity", ""):
            raise self._error("compressed its answer although it was asked not to", "request")
        if status == 200:
            return
        said = self._quote(server_message(await self._beginning(response)))
        asked_s = retry_after_s(response.headers.get("retry-after"))
        if status in BUSY:
            wait = "" if asked_s is None else f", and asks to wait {asked_s:.0f} s"
            busy = BusyError(f"{self._options.base_url} is busy (HTTP {status}{wait}): {said}", hint=_BUSY_HINT)
            raise _Failed(busy, again=True, asked_s=asked_s)
        refused = Refused(
            f"{self._options.base_url} refused the request (HTTP {status}): {said or 'it does not say why'}",
            model=self._options.model,
            status=status,
            hint=self._status_hint(status),
        )
        raise _Failed(refused, again=status in ILL, asked_s=asked_s)

    def _status_hint(self, status: int) -> str | None:
        variable = self._options.api_key_env
        if status in (401, 403):
            return f"is the key in {variable} right?" if variable else "name the key's variable: api_key_env: NAME"
        return "is base_url right? most end in /v1" if status in (404, 405) else None

    async def _beginning(self, response: httpx.Response) -> bytes:
        """Return the first part of an error's body, which may be endless."""
        parts, size = [], 0
        async for chunk in response.aiter_raw():
            parts.append(chunk)
            size += len(chunk)
            if size >= MOST_ERROR_BYTES:
                break
        return b"".join(parts)

    async def _whole(self, response: httpx.Response) -> bytes:
        if (kind := response.headers.get("content-type", "")) and "json" not in kind.lower():
            body = self._quote((await self._beginning(response)).decode("utf-8", "replace"), 100)
            raise self._error(f"answered {self._quote(kind, 60)!r} and not JSON: {body!r}", "request", _URL_HINT)
        parts, size = [], 0
        async for chunk in response.aiter_raw():
            size = self._counted(size, chunk)
            parts.append(chunk)
        return b"".join(parts)

    def _counted(self, size: int, chunk: bytes) -> int:
        size += len(chunk)
        if size > MOST_BYTES:
            raise self._error(f"answered more than {MOST_BYTES // 2**20} MB", "request")
        return size

    def _check_type(self, response: httpx.Response, wanted: str) -> None:
        kind = response.headers.get("content-type", "")
        if wanted not in kind.lower():
            raise self._error(f"was asked for a stream and answered {self._quote(kind, 60)!r}", "request", _URL_HINT)

    def _parse(self, data: bytes) -> Any:
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            shown = self._quote(data[:MOST_ERROR_BYTES].decode("utf-8", "replace"), 100)
            raise self._error(f"answered what is no JSON: {shown!r}", "request") from error

    def _hand_on(self, data: bytes, on_event: Callable[[Any], None]) -> None:
        if data.strip() == b"[DONE]":
            return
        event = self._parse(data)
        if isinstance(event, dict) and event.get("error"):
            said = self._quote(message_in(event) or "")
            raise self._error(f"broke its stream off with an error: {said}", "died")
        on_event(event)

    # Errors

    def _error(self, text: str, cause: str, hint: str | None = None) -> ModelError:
        return ModelError(f"{self._options.base_url} {text}", model=self._options.model, cause=cause, hint=hint)

    def _late(self, error: httpx.TimeoutException) -> ModelError:
        import httpx

        options = self._options
        if isinstance(error, httpx.ConnectTimeout):
            return self._error(f"took no connection within {options.connect_timeout_s:g} s", "timeout")
        seconds = options.read_timeout_s or options.timeout_s
        return self._error(f"was silent for {seconds:g} s", "timeout", "raise read_timeout_s, or ask for less")

    def _broken(self, error: httpx.RequestError | httpx.InvalidURL) -> ModelError:
        import httpx

        why = printable(str(error) or type(error).__name__, 120)
        if isinstance(error, httpx.ConnectError | httpx.InvalidURL):
            return self._error(f"cannot be reached: {why}", "load", "start the server, or mend base_url")
        return self._error(f"broke the connection off: {why}", "died")

    def _quote(self, text: str, most: int = MOST_QUOTED) -> str:
        """Return a server's text for a message, without the key: a server may quote what it was sent."""
        key = self._options.key()
        return printable(text.replace(key, "***") if key else text, most)


_BUSY_HINT = "try again later, raise retries, or lower concurrency"
_URL_HINT = "is base_url right? most end in /v1"
