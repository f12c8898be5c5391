"""Fetch one file over HTTP, whole or not at all.

It goes on with a part that an earlier attempt left, follows redirects itself so that the token never leaves the host
it is meant for, and verifies before the file takes its place. It knows Hugging Face's headers and no other API.
Invariant: the target path holds a complete, verified file or does not exist.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from gristmill import ModelError
from gristmill_plugins.llama._store import write_atomically

if TYPE_CHECKING:
    import httpx

_MOST_REDIRECTS = 8
_MOST_ATTEMPTS = 20
"""How often a broken transfer is taken up again; each time some bytes must have come since the last."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class _Offer:
    """What the server says the file is. Two offers that are equal are the same bytes."""

    etag: str
    """Of the host that sends the bytes; If-Range takes it back there."""
    sha256: str | None
    size_bytes: int | None


class _Broken(Exception):
    """The transfer stopped before its end and may be taken up again."""


def fetch(
    url: str, target: Path, *, name: str, sha256: str | None, on_progress: Callable[[int, int | None], None]
) -> str:
    """Fetch `url` to `target` and return its SHA-256.

    Raises:
        ModelError: it cannot be had; what has come so far is kept and a later call goes on from there.
    """
    transfer = _Transfer(url, target, name, sha256, on_progress)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(transfer.part, "ab") as file, _alone(file, transfer):
            return transfer.run(file)
    except OSError as error:
        raise transfer.error(*_disk_words(error, target)) from error


class _Transfer:
    def __init__(
        self, url: str, target: Path, name: str, sha256: str | None, on_progress: Callable[[int, int | None], None]
    ) -> None:
        self.url, self.target, self.name, self.sha256 = url, target, name, sha256
        self.on_progress = on_progress
        self.part = target.with_name(target.name + ".part")
        self.note = target.with_name(target.name + ".part.json")

    def error(self, reason: str, hint: str | None = None) -> ModelError:
        return ModelError(f"{self.name}: {reason}", model=self.name, cause="file", hint=hint)

    def run(self, file: BinaryIO) -> str:
        import httpx

        limits = httpx.Timeout(30.0, connect=10.0)
        with httpx.Client(timeout=limits, follow_redirects=False) as client:
            for attempt in range(_MOST_ATTEMPTS):
                before = file.seek(0, os.SEEK_END)
                try:
                    offer = self._attempt(client, file)
                    return self._finish(file, offer)
                except (_Broken, httpx.TransportError) as error:
                    file.flush()
                    if file.seek(0, os.SEEK_END) <= before or attempt == _MOST_ATTEMPTS - 1:
                        raise self._network_error(error, file.tell()) from error
        raise AssertionError("the last attempt returns or raises")

    def _network_error(self, error: Exception, have: int) -> ModelError:
        import httpx

        hint = f"{have:,} bytes are kept; the same command goes on from there" if have else "check the connection"
        if isinstance(error, httpx.TimeoutException):
            return self.error("the server did not answer in time", hint)
        return self.error(f"the connection failed: {str(error) or type(error).__name__}", hint)

    def _attempt(self, client: httpx.Client, file: BinaryIO) -> _Offer:
        known, have = self._known_offer(), file.seek(0, os.SEEK_END)
        headers = {"Accept-Encoding": "identity"}
        if known and have:
            headers |= {"Range": f"bytes={have}-", "If-Range": known.etag}
        with self._open(client, headers) as (response, offer):
            if response.status_code == 416 and known and known.size_bytes == have:
                return known
            goes_on = response.status_code == 206 and known is not None and _same(known, offer)
            if goes_on and _range_start(response) == have:
                offer = known or offer
            elif response.status_code in (206, 416):
                file.truncate(0)  # another file by now: begin anew
                self.note.unlink(missing_ok=True)
                raise _Broken("the file changed on the server")
            else:
                file.truncate(0)
                have = 0
            self._check_offer(offer, have)
            self._write_note(offer)
            self._receive(response, file, have, offer)
        return offer

    def _receive(self, response: httpx.Response, file: BinaryIO, have: int, offer: _Offer) -> None:
        file.seek(0, os.SEEK_END)
        for chunk in response.iter_bytes():  # of any size: a fixed one would hold back, and lose, what came last
            if have == 0 and chunk[:4] != b"GGUF"[: len(chunk)]:
                raise self._not_a_model(file, chunk)
            file.write(chunk)
            have += len(chunk)
            self.on_progress(have, offer.size_bytes)
        file.flush()
        if offer.size_bytes is not None and have < offer.size_bytes:
            raise _Broken(f"it ended after {have:,} of {offer.size_bytes:,} bytes")

    def _not_a_model(self, file: BinaryIO, start: bytes) -> ModelError:
        self._forget(file)
        kind = "a web page" if start.lstrip()[:1] == b"<" else f"something that begins with {start[:8]!r}"
        return self.error(
            f"the server sent {kind} instead of a GGUF file", "check the name, and HF_ENDPOINT if it is set"
        )

    def _check_offer(self, offer: _Offer, have: int) -> None:
        if self.sha256 and offer.sha256 and offer.sha256 != self.sha256:
            raise self.error(
                f"the server's file has the SHA-256 {offer.sha256}, and {self.sha256} is pinned",
                "pin the revision it was in, with @REVISION, or the new digest",
            )
        missing = (offer.size_bytes or 0) - have
        free = shutil.disk_usage(self.target.parent).free
        if missing > free:
            raise self.error(
                f"{missing:,} bytes are to come and {free:,} are free in {self.target.parent}",
                "make room, or set XDG_DATA_HOME to a larger disk",
            )

    def _finish(self, file: BinaryIO, offer: _Offer) -> str:
        file.flush()
        os.fsync(file.fileno())
        with open(self.part, "rb") as part:
            found = hashlib.file_digest(part, "sha256").hexdigest()
        wanted = self.sha256 or offer.sha256
        if wanted and found != wanted:
            self._forget(file)
            raise self.error(
                f"what arrived has the SHA-256 {found}, and {wanted} was expected",
                "it was damaged on the way, or is another file; it has been thrown away: try again",
            )
        os.replace(self.part, self.target)
        self.note.unlink(missing_ok=True)
        return found

    def _forget(self, file: BinaryIO) -> None:
        file.truncate(0)
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def _known_offer(self) -> _Offer | None:
        try:
            offer = _Offer(**json.loads(self.note.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None
        return offer if offer.etag.startswith('"') else None  # If-Range takes strong validators only

    def _write_note(self, offer: _Offer) -> None:
        write_atomically(self.note, json.dumps(asdict(offer)).encode())

    @contextlib.contextmanager
    def _open(self, client: httpx.Client, headers: dict[str, str]) -> Iterator[tuple[httpx.Response, _Offer]]:
        """Send the request, following redirects; what Hugging Face's own host says about the file is kept."""
        import httpx

        url, sha256, size = httpx.URL(self.url), None, None
        home = (url.scheme, url.host, url.port)
        token = os.environ.get("HF_TOKEN", "").strip()
        for _ in range(_MOST_REDIRECTS):
            own = (url.scheme, url.host, url.port) == home and (url.scheme == "https" or url.host in _LOOPBACK)
            sent = {**headers, "Authorization": f"Bearer {token}"} if token and own else headers
            with client.stream("GET", url, headers=sent) as response:
                sha256 = sha256 or _hex_digest(response.headers.get("x-linked-etag", ""))
                size = size if size is not None else _integer(response.headers.get("x-linked-size"))
                if not response.has_redirect_location:
                    self._check_status(response)
                    yield response, _offer(response, sha256, size)
                    return
                url = self._next(url, response.headers["location"])
        raise self.error(f"the server redirects more than {_MOST_REDIRECTS} times", "check HF_ENDPOINT if it is set")

    def _next(self, url: httpx.URL, location: str) -> httpx.URL:
        following = url.join(location)
        if following.scheme != "https" and (url.scheme == "https" or following.scheme != "http"):
            raise self.error(f"the server redirects to {following.scheme}, without encryption", "try another endpoint")
        return following

    def _check_status(self, response: httpx.Response) -> None:
        status = response.status_code
        if status in (200, 206, 416):
            return
        words = {
            401: ("the server wants a token, or there is no such repository", "set HF_TOKEN, and check the name"),
            403: (
                "this token may not have the file",
                "accept the model's licence on its page, with HF_TOKEN's account",
            ),
            404: ("the server has no such file", "check owner, repository, file and @REVISION"),
            429: ("the server wants fewer requests", "wait some minutes; a token in HF_TOKEN raises the limit"),
        }
        reason, hint = words.get(status, (f"the server failed with status {status}", "try again later"))
        raise self.error(f"{reason} ({response.url.host}, status {status})" if status in words else reason, hint)


def _offer(response: httpx.Response, sha256: str | None, size: int | None) -> _Offer:
    etag = response.headers.get("etag", "")
    if response.status_code == 206:
        total = _integer(response.headers.get("content-range", "").rpartition("/")[2])
    else:
        total = _integer(response.headers.get("content-length"))
    return _Offer(etag, sha256 or _hex_digest(etag), total if total is not None else size)


def _same(known: _Offer, offer: _Offer) -> bool:
    return (known.etag, known.sha256) == (offer.etag, offer.sha256)


def _range_start(response: httpx.Response) -> int | None:
    return _integer(response.headers.get("content-range", "").removeprefix("bytes ").partition("-")[0])


def _hex_digest(etag: str) -> str | None:
    text = etag.removeprefix("W/").strip('"').lower()
    return text if len(text) == 64 and not set(text) - set("0123456789abcdef") else None


def _integer(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None


@contextlib.contextmanager
def _alone(file: BinaryIO, transfer: _Transfer) -> Iterator[None]:
    """Keep a second process from writing the same part; the lock goes with the process."""
    try:
        import fcntl
    except ImportError:  # Windows refuses to replace an open file, which has the same effect
        yield
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise transfer.error("another process is fetching it", "wait for that one") from error
    yield


def _disk_words(error: OSError, target: Path) -> tuple[str, str]:
    if error.errno == errno.ENOSPC:
        return f"the disk with {target.parent} is full", "make room and run the same command: it goes on"
    return f"{target.parent} cannot be written: {error.strerror}", "set XDG_DATA_HOME to a folder that can"
