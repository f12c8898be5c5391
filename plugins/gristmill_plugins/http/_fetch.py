"""One page, fetched: each hop checked, connected to the address that was checked, bounded in time and size.

It knows no settings. Invariant: a name is resolved once for each hop, every address it has passes the guard, and the
connection goes to one of those addresses, with the name kept for the Host header and the certificate.
"""

from __future__ import annotations

import asyncio
import codecs
import re
import socket
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gristmill import FunctionError
from gristmill_plugins.http._guard import Address, AllowList, as_address

if TYPE_CHECKING:
    import httpx

MOST_HOPS = 5
_TEXT_TYPES = re.compile(
    r"text/.*|.*[/+](?:json|xml|yaml)|application/(?:x-)?(?:javascript|ecmascript|ndjson|x-?yaml|toml|sql|rtf|csv).*"
)
_META = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([a-zA-Z0-9_.:-]{1,40})", re.IGNORECASE)
# Text encodings to Python and not to the web; decoding idna takes quadratic time.
_NO_CHARSETS = frozenset({"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined", "mbcs", "oem"})
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a fetch may take and how large a page may be."""

    timeout_s: float
    most_bytes: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """A page as it came."""

    text: str
    status: int
    content_type: str
    url: str


async def fetch(url: str, allowed: AllowList, limits: Limits) -> Fetched:
    """Return a page, following redirects that the allow-list takes.

    Raises:
        FunctionError: the URL is refused, or the server is not reached, too slow, too large, or sends no text.
    """
    import httpx

    try:
        async with asyncio.timeout(limits.timeout_s):
            target = _parsed(url)
            # A proxy would resolve the name itself, and connect to where nobody checked.
            async with httpx.AsyncClient(
                trust_env=False, verify=httpx.create_ssl_context(), timeout=limits.timeout_s
            ) as client:
                for _ in range(MOST_HOPS + 1):
                    found = await _hop(client, target, allowed, limits)
                    if isinstance(found, Fetched):
                        return found
                    target = found
        raise FunctionError(f"{shown(url)} redirects more than {MOST_HOPS} times")
    except (TimeoutError, httpx.TimeoutException) as error:
        raise FunctionError(f"{shown(url)} took longer than {limits.timeout_s:g} s", hint="raise timeout_s") from error
    except httpx.RequestError as error:
        raise FunctionError(f"{shown(url)} cannot be fetched: {shown(str(error)) or type(error).__name__}") from error


def shown(text: str) -> str:
    """Return text for a message: printable, short, and without a password."""
    line = "".join(c if c.isprintable() else "?" for c in re.sub(r"//[^/@]*@", "//***@", text[:4000])[:201])
    return line if len(line) <= 200 else f"{line[:197]}..."


def _parsed(url: str) -> httpx.URL:
    """Return a URL, parsed once by the library that will use it."""
    import httpx

    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise FunctionError(f"{shown(url)!r} is no URL: {shown(str(error))}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise FunctionError(f"{shown(url)!r} is no http or https URL", hint="such as https://example.com/page")
    if parsed.userinfo:
        raise FunctionError("a URL with a user name or password is refused", hint="leave it out")
    return parsed


async def _hop(client: httpx.AsyncClient, url: httpx.URL, allowed: AllowList, limits: Limits) -> Fetched | httpx.URL:
    """Ask one server; return its page, or where it redirects to."""
    host = url.raw_host.decode("ascii").strip("[]").rstrip(".").lower()
    port = url.port or (443 if url.scheme == "https" else 80)
    allowed.check_host(host, port)
    addresses = await _addresses(host, port, allowed)
    client.cookies.clear()  # they would go to whoever else has the same address
    response = await _connected(client, url, host, addresses)
    try:
        if response.has_redirect_location:
            return _redirected(url, response)
        return await _page(url, response, limits)
    finally:
        await response.aclose()


async def _connected(client: httpx.AsyncClient, url: httpx.URL, host: str, addresses: list[Address]) -> httpx.Response:
    """Ask the first of the addresses that takes a connection."""
    import httpx

    *others, last = addresses
    for address in others:
        try:
            return await client.send(_request(client, url, host, address), stream=True)
        except httpx.ConnectError:
            continue
    return await client.send(_request(client, url, host, last), stream=True)


def _request(client: httpx.AsyncClient, url: httpx.URL, host: str, address: Address) -> httpx.Request:
    return client.build_request(
        "GET",
        url.copy_with(host=str(address)),
        headers={
            "Host": url.netloc.decode("ascii"),
            "User-Agent": "gristmill",
            "Accept": "text/*, application/json, application/xml;q=0.9, */*;q=0.1",
            "Accept-Encoding": "gzip, deflate",
        },
        extensions={"sni_hostname": host},
    )


def _redirected(url: httpx.URL, response: httpx.Response) -> httpx.URL:
    target = _parsed(str(url.join(response.headers["location"])))
    if url.scheme == "https" and target.scheme == "http":
        raise FunctionError(f"{shown(str(url))} redirects from https to {shown(str(target))}")
    return target


async def _addresses(host: str, port: int, allowed: AllowList) -> list[Address]:
    """Return every address of a host; one that is refused refuses the host."""
    address = as_address(host)
    if address is not None:
        found = [address]
    else:
        loop = asyncio.get_running_loop()
        try:
            rows = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise FunctionError(f"{host} is not known: {error}", hint="is its name right?") from error
        found = [known for row in rows if (known := as_address(str(row[4][0]).partition("%")[0])) is not None]
    for each in found:
        allowed.check_address(host, each)
    if not found:
        raise FunctionError(f"{host} has no address")
    # Not every machine has a way to IPv6 addresses.
    return sorted(found, key=lambda each: each.version)


async def _page(url: httpx.URL, response: httpx.Response, limits: Limits) -> Fetched:
    content_type = response.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind and not _TEXT_TYPES.fullmatch(kind):
        raise FunctionError(f"{shown(str(url))} is {shown(kind)!r} and not text")
    data = bytearray()
    async for chunk in _inflated(response, limits.most_bytes + 1):
        data += chunk
        if len(data) > limits.most_bytes:
            raise FunctionError(f"{shown(str(url))} has more than {limits.most_bytes:,} bytes", hint="raise most_bytes")
    text = decoded(bytes(data), content_type)
    return Fetched(text=text, status=response.status_code, content_type=shown(content_type), url=str(url))


async def _inflated(response: httpx.Response, most: int) -> AsyncIterator[bytes]:
    """Yield the body, decompressed never further than asked for: a small body can hold gigabytes."""
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding in ("identity", ""):
        async for chunk in response.aiter_raw():
            yield chunk
        return
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise FunctionError(f"the page is compressed with {shown(coding)!r}, which was not asked for")
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib, by its header
    try:
        async for chunk in response.aiter_raw():
            yield inflater.decompress(chunk, most)
    except zlib.error as error:
        raise FunctionError(f"the page is not compressed as it says: {error}") from error
    if not inflater.eof:
        raise FunctionError("the page was cut off")


def decoded(data: bytes, content_type: str) -> str:
    """Return the text of a page by the charset of its header, its byte order mark, its `<meta>`, or as UTF-8.

    Bytes that are no characters become U+FFFD, as in a browser. (https://encoding.spec.whatwg.org/#decode, but that
    a charset Python lacks is taken for UTF-8.)
    """
    for mark, charset in _MARKS.items():
        if data.startswith(mark):
            return data.decode(charset, "replace")
    match = re.search(r"charset\s*=\s*[\"']?([^\s\"';]+)", content_type, re.IGNORECASE)
    name = match[1] if match else ""
    if not name and (meta := _META.search(data[:1024])):
        name = meta[1].decode("ascii")
    try:
        charset = codecs.lookup(name or "utf-8").name
        if charset.replace("-", "_") in _NO_CHARSETS:
            charset = "utf-8"
        return data.decode(charset, "replace")
    except (LookupError, ValueError):  # unknown, or no charset: `hex`, `zlib`
        return data.decode("utf-8", "replace")
