"""The http plugin's allow-list: what it takes, what it refuses, and how it says what to write."""

from __future__ import annotations

import ipaddress
import subprocess
import sys
from typing import Any

import pytest

from gristmill import FunctionError
from gristmill.testing import check_plugin
from gristmill_plugins.http import HttpPlugin, Page
from gristmill_plugins.http._fetch import decoded
from gristmill_plugins.http._guard import AllowList


def allow(*hosts: str) -> AllowList:
    return AllowList.from_settings({"hosts": list(hosts)})


@pytest.mark.parametrize(
    ("entry", "host", "port"),
    [
        ("example.com", "example.com", 80),
        ("Example.COM.", "example.com", 443),
        ("*.example.com", "a.b.example.com", 443),
        ("example.com:8000", "example.com", 8000),
        ("example.com:*", "example.com", 1),
        ("10.0.0.0/8", "10.1.2.3", 80),
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("[::1]:8080", "::1", 8080),
        ("fd00::/8", "fd00::1", 80),
    ],
)
def test_an_entry_takes_its_host(entry: str, host: str, port: int) -> None:
    allow(entry).check_host(host, port)


@pytest.mark.parametrize(
    ("entry", "host"),
    [
        ("example.com", "www.example.com"),
        ("*.example.com", "example.com"),
        ("*.example.com", "badexample.com"),
        ("example.com", "example.com.evil.net"),
        ("10.0.0.0/8", "11.0.0.1"),
        ("10.0.0.0/8", "10.evil.net"),
        ("127.0.0.1", "127.1"),
        ("127.0.0.1", "2130706433"),
        ("127.0.0.1", "localhost"),
    ],
)
def test_an_entry_takes_no_other_host(entry: str, host: str) -> None:
    with pytest.raises(FunctionError, match=f"{host} is not allowed: only "):
        allow(entry).check_host(host, 80)


def test_nothing_is_allowed_until_it_is_named_and_the_error_says_how() -> None:
    with pytest.raises(FunctionError, match=r"no host is, until gristmill\.toml names it") as caught:
        AllowList.from_settings({}).check_host("example.com", 443)
    assert caught.value.hint == 'allow it in gristmill.toml: [plugin.http] hosts = ["example.com"]'
    with pytest.raises(FunctionError) as other:
        AllowList.from_settings({}).check_host("::1", 8080)
    assert other.value.hint == 'allow it in gristmill.toml: [plugin.http] hosts = ["[::1]:8080"]'


def test_another_port_than_the_webs_is_named_too() -> None:
    with pytest.raises(FunctionError, match=r"port 22 of example\.com is not allowed") as caught:
        allow("example.com").check_host("example.com", 22)
    assert caught.value.hint is not None
    assert '"example.com:22"' in caught.value.hint


@pytest.mark.parametrize("entry", ["", "http://example.com", "a b", "example.com:0", "example.com:99999", "*", "a.*.b"])
def test_an_entry_that_is_no_host_is_refused(entry: str) -> None:
    with pytest.raises(FunctionError, match=r"in plugin\.http\.hosts is no host"):
        allow(entry)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"host": ["a"]}, "plugin.http.host means nothing"),
        ({"hosts": "example.com"}, "plugin.http.hosts is a list of hosts, this is 'example.com'"),
        ({"hosts": [1]}, r"plugin.http.hosts is a list of hosts, this is \[1\]"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(FunctionError, match=message):
        AllowList.from_settings(settings)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1",
        "255.255.255.255", "240.0.0.1", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:127.0.0.1",
        "2002:7f00:1::", "64:ff9b::7f00:1", "2001:0:7f00:1::1",
    ],
)  # fmt: skip
def test_an_allowed_name_that_leads_to_an_address_that_is_not_public_is_refused(address: str) -> None:
    with pytest.raises(FunctionError, match="which is not a public address") as caught:
        allow("example.com").check_address("example.com", ipaddress.ip_address(address))
    assert caught.value.hint is not None
    assert f'hosts = ["{ipaddress.ip_address(address)}"]' in caught.value.hint


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822", "::ffff:93.184.216.34"]
)
def test_a_public_address_is_taken(address: str) -> None:
    allow("example.com").check_address("example.com", ipaddress.ip_address(address))


def test_an_address_that_is_not_public_is_taken_where_it_is_named() -> None:
    allow("wiki.corp", "10.0.0.0/8").check_address("wiki.corp", ipaddress.ip_address("10.1.1.1"))
    allow("localhost").check_address("localhost", ipaddress.ip_address("127.0.0.1"))
    with pytest.raises(FunctionError, match="not a public address"):
        allow("localhost").check_address("localhost", ipaddress.ip_address("10.1.1.1"))
    with pytest.raises(FunctionError, match="not a public address"):
        allow("localhost", "example.com").check_address("example.com", ipaddress.ip_address("127.0.0.1"))


@pytest.mark.parametrize(
    ("data", "content_type", "text"),
    [
        ("é".encode(), "text/plain", "é"),
        ("é".encode("latin-1"), "text/html; charset=ISO-8859-1", "é"),
        ("é".encode("latin-1"), "text/html; charset='latin1'; x=y", "é"),
        (b"\xef\xbb\xbf\xc3\xa9", "text/plain; charset=latin-1", "é"),
        ("é".encode("utf-16"), "text/plain", "é"),
        (b"<html><meta charset=windows-1252>\x80", "text/html", "<html><meta charset=windows-1252>€"),
        (b"\xff\xfa", "text/plain", "\ufffd\ufffd"),
        (b"abc", "text/plain; charset=hex", "abc"),
        (b"abc", "text/plain; charset=no-such", "abc"),
        (b"xn--a", "text/plain; charset=idna", "xn--a"),
        (rb"\x41", "text/plain; charset=unicode-escape", r"\x41"),
    ],
)
def test_a_page_is_decoded_by_what_it_says(data: bytes, content_type: str, text: str) -> None:
    assert decoded(data, content_type) == text


def test_a_page_reads_as_its_text_in_a_prompt() -> None:
    assert Page(text="hello", status=200, url="http://a").as_text() == "hello"


def test_the_http_plugin_passes_the_contract_and_imports_no_client() -> None:
    function = check_plugin("http", HttpPlugin()).functions["http.get"]
    assert not function.pure
    code = "import sys, gristmill_plugins.http; sys.exit('httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
