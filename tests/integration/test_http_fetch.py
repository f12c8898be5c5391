"""The http plugin against servers on loopback: what it brings back, and what it refuses to reach."""

from __future__ import annotations

import asyncio
import gzip
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gristmill import FunctionError, Kernel
from gristmill._settings import load_settings
from gristmill_plugins.http._fetch import Fetched, Limits, fetch
from gristmill_plugins.http._guard import AllowList

LIMITS = Limits(timeout_s=2.0, most_bytes=10_000)
Behaviour = Callable[[asyncio.StreamWriter], Awaitable[None]]


def reply(body: bytes = b"hello", *, status: int = 200, kind: str = "text/plain", **headers: str) -> Behaviour:
    async def behave(writer: asyncio.StreamWriter) -> None:
        more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        kind_line = f"Content-Type: {kind}\r\n" if kind else ""
        writer.write(f"HTTP/1.1 {status} X\r\n{kind_line}Content-Length: {len(body)}\r\n{more}\r\n".encode() + body)
        await writer.drain()

    return behave


async def hang(_: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def endless(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"x" * 4096)
        await writer.drain()


async def cut_off(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\nshort")
    await writer.drain()


class Site:
    """Answers by path; `heads` holds what was asked."""

    def __init__(self, pages: dict[str, Behaviour]) -> None:
        self.pages = pages
        self.heads: list[str] = []
        self.port = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            await self.pages[head.split(" ")[1]](writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def get(self, path: str = "/", *, host: str = "127.0.0.1", hosts: list[str] | None = None) -> Fetched:
        """Fetch a page of this site, with this site allowed."""
        allowed = AllowList.from_settings({"hosts": hosts or [f"127.0.0.1:{self.port}"]})
        return await fetch(f"http://{host}:{self.port}{path}", allowed, LIMITS)


@asynccontextmanager
async def serving(
    pages: dict[str, Behaviour] | Behaviour, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Site]:
    site = Site(pages if isinstance(pages, dict) else {"/": pages})
    listener = await asyncio.start_server(site.handle, host, 0, ssl=tls)
    site.port = listener.sockets[0].getsockname()[1]
    try:
        yield site
    finally:
        listener.close()


def names_lead(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """Make every name lead to these addresses, the next one each time; return the names that were asked for."""
    asked: list[str] = []

    def resolve(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        address = addresses[min(len(asked), len(addresses)) - 1]
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return asked


async def test_a_page_comes_with_its_status_type_and_address() -> None:
    async with serving(reply("grüß".encode("latin-1"), kind="text/html; charset=latin-1")) as site:
        page = await site.get()
        assert page.text == "grüß"
        assert (page.status, page.content_type) == (200, "text/html; charset=latin-1")
        assert page.url == f"http://127.0.0.1:{site.port}/"
        assert f"Host: 127.0.0.1:{site.port}" in site.heads[0]


async def test_the_name_is_kept_for_the_server_and_resolved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = names_lead(monkeypatch, "127.0.0.1", "10.0.0.1")
    async with serving(reply()) as site:
        page = await site.get(host="wiki.example", hosts=[f"wiki.example:{site.port}", "127.0.0.1"])
        assert page.url == f"http://wiki.example:{site.port}/"
        assert f"Host: wiki.example:{site.port}" in site.heads[0]
        assert asked == ["wiki.example"]


async def test_a_public_name_that_leads_to_this_machine_reaches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    names_lead(monkeypatch, "127.0.0.1")
    async with serving(reply()) as site:
        with pytest.raises(FunctionError, match=r"public.example leads to 127.0.0.1, which is not a public address"):
            await site.get(host="public.example", hosts=[f"public.example:{site.port}"])
        assert site.heads == []


async def test_a_host_that_is_not_allowed_is_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = names_lead(monkeypatch, "127.0.0.1")
    with pytest.raises(FunctionError, match=r"other\.example is not allowed"):
        await fetch("http://other.example/", AllowList.from_settings({"hosts": ["a.example"]}), LIMITS)
    assert asked == []


async def test_each_redirect_is_checked_like_the_first_url(monkeypatch: pytest.MonkeyPatch) -> None:
    names_lead(monkeypatch, "127.0.0.1")
    pages = {
        "/start": reply(status=302, Location="/next", Set_Cookie="a=b"),
        "/next": reply(status=308, Location="page?x=1"),
        "/page?x=1": reply(b"there"),
        "/out": reply(status=302, Location="http://evil.example/"),
        "/inside": reply(status=302, Location="http://169.254.169.254/latest"),
        "/file": reply(status=302, Location="file:///etc/passwd"),
        "/round": reply(status=302, Location="/round"),
        "/odd": reply(status=302, Location="http://[::1"),
    }
    async with serving(pages) as site:
        page = await site.get("/start")
        assert (page.text, page.url) == ("there", f"http://127.0.0.1:{site.port}/page?x=1")
        assert not any("cookie" in head.lower() for head in site.heads)
        for path, message in {
            "/out": "evil.example is not allowed",
            "/inside": "169.254.169.254 is not allowed",
            "/file": "'file:.*/etc/passwd' is no http or https URL",
            "/round": "redirects more than 5 times",
            "/odd": "cannot be fetched: Invalid URL in location header",
        }.items():
            with pytest.raises(FunctionError, match=message):
                await site.get(path)


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (hang, "took longer than 2 s"),
        (endless, "has more than 10,000 bytes"),
        (reply(b"x" * 10_001), "has more than 10,000 bytes"),
        (reply(gzip.compress(b"x" * 50_000_000), content_encoding="gzip"), "has more than 10,000 bytes"),
        (reply(gzip.compress(b"hello")[:-4], content_encoding="gzip"), "the page was cut off"),
        (reply(b"hello", content_encoding="gzip"), "the page is not compressed as it says"),
        (reply(b"hello", content_encoding="br"), "the page is compressed with 'br', which was not asked for"),
        (reply(b"%PDF", kind="application/pdf"), "is 'application/pdf' and not text"),
        (reply(b"\x89PNG", kind="image/png"), "is 'image/png' and not text"),
        (cut_off, "cannot be fetched: peer closed connection"),
    ],
)
async def test_what_cannot_be_a_page_is_refused_in_bounded_time(page: Behaviour, message: str) -> None:
    async with serving({"/": page, "/good": reply()}) as site:
        started = time.monotonic()
        with pytest.raises(FunctionError, match=message):
            await site.get()
        assert time.monotonic() - started < 60
        assert (await site.get("/good")).text == "hello"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_compressed_page_is_read(coding: str) -> None:
    import zlib

    data = gzip.compress(b"hello") if coding == "gzip" else zlib.compress(b"hello")
    async with serving(reply(data, content_encoding=coding)) as site:
        assert (await site.get()).text == "hello"


@pytest.mark.parametrize("kind", ["", "application/json", "application/ld+json", "image/svg+xml", "Text/CSV"])
async def test_types_that_are_text_are_read(kind: str) -> None:
    async with serving(reply(b"1", kind=kind)) as site:
        assert (await site.get()).text == "1"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://example.com/", "is no http or https URL"),
        ("/etc/passwd", "is no http or https URL"),
        ("http://", "is no http or https URL"),
        ("http://user:secret@example.com/", "a URL with a user name or password is refused"),
        ("http://exa mple.com:x/", "is no URL"),
        ("http://user:secret@example.com:x/", r"'http://\*\*\*@example.com:x/' is no URL"),
        ("http://127.0.0.1:1/", r"cannot be fetched: "),
        ("http://no-such-host.invalid/", "no-such-host.invalid is not known"),
    ],
)
async def test_a_url_that_cannot_be_fetched_is_said(url: str, message: str) -> None:
    hosts = ["example.com", "127.0.0.1:*", "no-such-host.invalid"]
    with pytest.raises(FunctionError, match=message) as caught:
        await fetch(url, AllowList.from_settings({"hosts": hosts}), LIMITS)
    assert "secret" not in str(caught.value)


async def test_localhost_is_asked_at_whichever_address_answers() -> None:
    async with serving(reply(), host="127.0.0.1") as site:
        assert (await site.get(host="localhost", hosts=["localhost:*"])).text == "hello"


async def test_the_address_that_refuses_is_followed_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(reply()) as site:
        rows = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, site.port)) for address in ("127.0.0.2", "127.0.0.1")
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: rows)
        assert (await site.get(host="localhost", hosts=["localhost:*"])).text == "hello"


async def test_a_name_without_an_address_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])
    with pytest.raises(FunctionError, match=r"empty\.example has no address"):
        await fetch("http://empty.example/", AllowList.from_settings({"hosts": ["empty.example"]}), LIMITS)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for the name localhost, and its key, in one folder."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(tmp_path / "key.pem"),
         "-out", str(tmp_path / "certificate.pem")],
        capture_output=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    return tmp_path / "certificate.pem"


async def test_certificates_are_checked_against_the_name_though_the_address_is_dialled(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, certificate.with_name("key.pem"))
    allowed = AllowList.from_settings({"hosts": ["localhost:*", "127.0.0.1:*"]})
    pages = {"/": reply(), "/down": reply(status=302, Location="http://localhost:1/")}
    async with serving(pages, tls) as site:
        with pytest.raises(FunctionError, match="certificate verify failed"):
            await fetch(f"https://localhost:{site.port}/", allowed, LIMITS)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert (await fetch(f"https://localhost:{site.port}/", allowed, LIMITS)).text == "hello"
        with pytest.raises(FunctionError, match="certificate verify failed"):
            await fetch(f"https://127.0.0.1:{site.port}/", allowed, LIMITS)
        with pytest.raises(FunctionError, match="redirects from https to http://localhost:1/"):
            await fetch(f"https://localhost:{site.port}/down", allowed, LIMITS)


async def test_a_recipe_fetches_what_the_settings_allow(tmp_path: Path) -> None:
    async with serving({"/": reply(b"three mills"), "/gone": reply(b"sorry", status=404)}) as site:
        (tmp_path / "gristmill.toml").write_text(f'[plugin.http]\nhosts = ["127.0.0.1:{site.port}"]\n')
        recipe = tmp_path / "r.yaml"
        recipe.write_text(
            "version: 1\ninputs: {url: string}\nsteps:\n"
            "  page: {use: http.get, with: {url: '${inputs.url}'}}\n"
            "  kept: {use: http.get, with: {url: '${inputs.url}', accept_errors: true}}\n"
            "output: ${kept.status} ${page}\n"
        )
        url = f"http://127.0.0.1:{site.port}"
        settings = load_settings(tmp_path)
        with Kernel(cache=False, settings=settings) as kernel:
            assert (await kernel.recipe(recipe).arun(url=url)).output == "200 three mills"
            with pytest.raises(Exception, match=r"/gone answered with the status 404"):
                await kernel.recipe(recipe).arun(url=f"{url}/gone")
        (tmp_path / "gristmill.toml").unlink()
        with (
            Kernel(cache=False, settings=load_settings(tmp_path)) as kernel,
            pytest.raises(Exception, match=r"no host is, until gristmill\.toml names it"),
        ):
            await kernel.recipe(recipe).arun(url=url)
