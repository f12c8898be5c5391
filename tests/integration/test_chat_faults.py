"""The chat plugin against a server that misbehaves: typed errors in bounded time, then the next call works.

Longer than other modules because one scripted server plays every part.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from gristmill import (
    BusyError,
    CapabilityError,
    Delta,
    GenerateRequest,
    Message,
    Model,
    ModelError,
    Sampling,
    ScoreRequest,
)
from gristmill_plugins.chat import ChatPlugin
from gristmill_plugins.chat import _transport as transport

KEY = "sk-very-secret-0123456789"


@dataclass
class Asked:
    """One request as the server saw it."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


Behaviour = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    """Answers each request with the next behaviour; the last one is repeated."""

    behaviours: list[Behaviour]
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    dropped: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            first = b""
            while (asked := await _read(reader, first)) is not None:
                self.asked.append(asked)
                behave = self.behaviours[min(len(self.asked), len(self.behaviours)) - 1]
                task = asyncio.ensure_future(behave(writer))
                gone = asyncio.ensure_future(reader.read(1))
                done, _ = await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
                if gone in done and not task.done():
                    self.dropped.set()
                    task.cancel()
                    return
                await task
                if writer.is_closing():
                    gone.cancel()
                    return
                if not (first := await gone):  # else it is the next request's first byte
                    return
        except (ConnectionError, asyncio.CancelledError):  # the latter when the test's loop ends first
            self.dropped.set()
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader, begun: bytes) -> Asked | None:
    try:
        head = begun + await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode().split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}
    data = await reader.readexactly(int(headers.get("content-length", 0)))
    method, path, _ = first.split(" ")
    return Asked(method, path, headers, json.loads(data) if data else None)


def reply(
    body: bytes | str | dict[str, Any] | None = None,
    *,
    status: int = 200,
    kind: str = "application/json",
    **headers: str,
) -> Behaviour:
    """Answer with a whole body."""
    content = body.encode() if isinstance(body, str) else body if isinstance(body, bytes) else json.dumps(body).encode()
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())

    async def behave(writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n{more}\r\n"
        writer.write(head.encode() + content)
        await writer.drain()

    return behave


def stream(*events: str | dict[str, Any], end: bool = True, pause_s: float = 0.0) -> Behaviour:
    """Answer with events and then close, cleanly if `end`, else in the middle of the body."""

    async def behave(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for event in events:
            data = f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n".encode()
            writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            await writer.drain()
            await asyncio.sleep(pause_s)
        writer.write(b"0\r\n\r\n" if end else b"")
        await writer.drain()
        writer.close()

    return behave


async def hang(_: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def drop(writer: asyncio.StreamWriter) -> None:
    writer.close()


async def endless_headers(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while not writer.is_closing():
        writer.write(b"X-More: " + b"x" * 1000 + b"\r\n")
        await writer.drain()
        await asyncio.sleep(0)


async def dripping_headers(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while not writer.is_closing():
        writer.write(b"X: y\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)


async def endless_body(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + b'{"choices": [')
    while not writer.is_closing():
        writer.write(b" " * 65536)
        await writer.drain()


def answer(text: str = "fine", *, reason: str | None = "stop", n: int = 1, **message: Any) -> dict[str, Any]:
    """A whole chat answer."""
    choices = [
        {"index": i, "finish_reason": reason, "message": {"role": "assistant", "content": text, **message}}
        for i in range(n)
    ]
    return {"choices": choices, "usage": {"prompt_tokens": 5, "completion_tokens": 7}}


def piece(text: str | None = None, *, reason: str | None = None, index: int = 0) -> dict[str, Any]:
    """One event of a stream."""
    return {"choices": [{"index": index, "finish_reason": reason, "delta": {} if text is None else {"content": text}}]}


@asynccontextmanager
async def serving(*behaviours: Behaviour, **options: Any) -> AsyncIterator[tuple[Server, Model]]:
    """A server, and a model that asks it."""
    server = Server(list(behaviours))
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
    model = ChatPlugin().chat(
        **{"base_url": server.url, "model": "m", "timeout_s": 5.0, "read_timeout_s": 2.0, "retries": 0, **options}
    )
    try:
        yield server, model
    finally:
        await model.close()
        listener.close()


def ask(text: str = "hello", **fields: Any) -> GenerateRequest:
    return GenerateRequest(messages=(Message(role="user", content=text),), **fields)


BROKEN: dict[str, tuple[Behaviour, dict[str, Any], str, str]] = {
    "refuses": (
        reply({"error": {"message": "no\x1b[31m such\n\nthing"}}, status=400),
        {}, "request", r"refused the request \(HTTP 400\): no \[31m such thing",
    ),
    "is ill": (reply({"detail": "out of memory"}, status=500), {}, "request", r"\(HTTP 500\): out of memory"),
    "says nothing": (reply(b"", status=418), {}, "request", r"\(HTTP 418\): it does not say why"),
    "says too much": (reply("x" * 100_000, status=400), {}, "request", r"\(HTTP 400\): x{297}\.\.\.$"),
    "is another service": (
        reply("<html>Welcome</html>", kind="text/html"), {}, "request", r"answered 'text/html' and not JSON: '<html>Wel"
    ),
    "sends no JSON": (reply('{"choices": ['), {}, "request", r"answered what is no JSON: '\{\"choices\": \['"),
    "sends other JSON": (reply({"hello": 1}), {}, "request", r"gave no chat answer: choices: Field required"),
    "sends a list": (reply("[1]"), {}, "request", r"gave no chat answer: the answer: Input should be"),
    "sends deep JSON": (reply("[" * 100_000), {}, "request", r"answered what is no JSON"),
    "sends an error with 200": (reply({"error": "quota"}), {}, "request", r"answered with an error: quota"),
    "has no choices": (reply({"choices": []}), {}, "request", r"gave an answer without choices"),
    "redirects": (
        reply(status=307, Location="http://elsewhere.example/v1"), {}, "request",
        r"redirects to 'http://elsewhere.example/v1', and a prompt and its key go nowhere else",
    ),
    "compresses": (reply(answer(), content_encoding="gzip"), {}, "request", r"compressed its answer"),
    "withholds": (reply(answer("", reason="content_filter")), {}, "request", r"withheld the answer"),
    "has the model refuse": (
        reply(answer("", refusal="I won't")), {}, "request", r"says that the model refused: I won't"
    ),
    "calls tools": (
        reply(answer("", reason="tool_calls", tool_calls=[{"id": "1"}])), {}, "request", r"answered with a tool call"
    ),
    "ends oddly": (
        reply(answer(reason="gone\nfishing")), {}, "request", r"ended the answer for the reason 'gone fishing'"
    ),
    "does not end": (reply(answer("abc", reason=None)), {}, "died", r"broke its answer off after 3 characters"),
    "hangs": (hang, {"read_timeout_s": 0.3}, "timeout", r"was silent for 0.3 s"),
    "drips headers": (dripping_headers, {"timeout_s": 0.5}, "timeout", r"did not finish its answer within 0.5 s"),
    "never ends its headers": (endless_headers, {}, "died", r"broke the connection off: "),
    "never ends its body": (endless_body, {}, "request", r"answered more than 1 MB"),
    "hangs up": (drop, {}, "died", r"broke the connection off: Server disconnected"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
async def test_a_server_that_misbehaves_is_a_typed_error_and_the_next_call_works(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    behaviour, options, cause, message = BROKEN[name]
    monkeypatch.setattr(transport, "MOST_BYTES", 2**20)
    async with serving(behaviour, reply(answer()), **options) as (server, model):
        started = time.monotonic()
        with pytest.raises(ModelError, match=message) as caught:
            await model.generate(ask())
        assert time.monotonic() - started < 60
        assert caught.value.cause == cause
        assert caught.value.model == "m"
        assert caught.value.message.startswith(server.url)
        assert caught.value.message.isprintable()
        assert len(caught.value.message) < 450
        assert (await model.generate(ask()))[0].text == "fine"


STREAMS: dict[str, tuple[Behaviour, dict[str, Any], str, str]] = {
    "is cut off": (stream(piece("abc"), end=False), {}, "died", r"broke the connection off: peer closed"),
    "ends early": (stream(piece("abc")), {}, "died", r"broke its answer off after 3 characters"),
    "ends inside an event": (stream('{"choices": [{"del'), {}, "request", r"answered what is no JSON: '\{\"choi"),
    "reports an error": (
        stream(piece("a"), {"error": {"message": "slot lost", "code": 500}}), {}, "died",
        r"broke its stream off with an error: slot lost",
    ),
    "goes silent": (
        stream(piece("a"), piece("b"), pause_s=3), {"read_timeout_s": 0.3}, "timeout", r"was silent for 0.3 s"
    ),
    "is no stream": (reply(answer()), {}, "request", r"was asked for a stream and answered 'application/json'"),
    "is another protocol": (stream({"text": "a"}), {}, "request", r"gave no chat answer: choices: Field required"),
}  # fmt: skip


@pytest.mark.parametrize("name", STREAMS)
async def test_a_stream_that_breaks_is_a_typed_error_and_is_not_asked_again(name: str) -> None:
    behaviour, options, cause, message = STREAMS[name]
    whole = stream(piece("fi"), piece("ne"), piece(reason="stop"), "[DONE]")
    async with serving(behaviour, whole, retries=2, **options) as (server, model):
        deltas: list[Delta] = []
        with pytest.raises(ModelError, match=message) as caught:
            await model.generate(ask(), deltas.append)
        assert caught.value.cause == cause
        assert len(server.asked) == 1
        deltas.clear()
        (completion,) = await model.generate(ask(), deltas.append)
        assert completion.text == "".join(delta.text for delta in deltas) == "fine"


async def test_a_stream_that_ends_inside_a_line_says_what_came() -> None:
    async def behave(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + b'data: {"choices": [')
        writer.close()

    async with serving(behave) as (_, model):
        with pytest.raises(ModelError, match=r"answered what is no JSON: '\{\"choices\": \['"):
            await model.generate(ask(), lambda _: None)


async def test_choices_that_nobody_asked_for_are_left_out() -> None:
    async with serving(reply(answer(n=3))) as (_, model):
        assert len(await model.generate(ask())) == 1


async def test_a_server_that_takes_no_connection_is_given_up_in_time() -> None:
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for waiting in (first, second):  # Linux drops what comes when the queue is full
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        model = ChatPlugin().chat(
            base_url=f"http://127.0.0.1:{full.getsockname()[1]}/v1", model="m", connect_timeout_s=0.3, retries=0
        )
        with pytest.raises(ModelError, match=r"took no connection within 0\.3 s") as caught:
            await model.generate(ask())
        assert caught.value.cause == "timeout"
        await model.close()


async def test_a_stream_that_breaks_before_any_text_is_asked_again() -> None:
    whole = stream(piece("fine"), piece(reason="stop"), {"choices": [], "usage": {"prompt_tokens": 3}}, "[DONE]")
    async with serving(stream(piece(None), end=False), whole, retries=1) as (server, model):
        deltas: list[Delta] = []
        (completion,) = await model.generate(ask(), deltas.append)
        assert (completion.text, completion.usage.prompt_tokens, len(server.asked)) == ("fine", 3, 2)


async def test_a_stream_carries_samples_pings_and_split_characters() -> None:
    async def behave(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n: ping\r\n\r\n")
        events = [piece("é", index=1), piece("a\nb"), piece(reason="stop", index=1), piece(reason="length")]
        for event in events:
            for byte in f"data: {json.dumps(event, ensure_ascii=False)}\r\n\r\n".encode():
                writer.write(bytes([byte]))
                await writer.drain()
        writer.close()

    async with serving(behave) as (server, model):
        deltas: list[Delta] = []
        request = ask(sampling=Sampling(temperature=1), sample_indices=(4, 5), seed=10)
        first, second = await model.generate(request, deltas.append)
        assert (first.text, first.finish_reason, second.text, second.finish_reason) == ("a\nb", "length", "é", "stop")
        assert [(delta.sample, delta.text) for delta in deltas] == [(5, "é"), (4, "a\nb")]
        assert (server.asked[0].body["n"], server.asked[0].body["seed"]) == (2, 14)


async def test_a_busy_server_is_asked_again_no_sooner_than_it_says() -> None:
    busy = reply({"error": {"message": "slow down"}}, status=429, retry_after="1")
    async with serving(busy, reply(answer()), retries=1) as (server, model):
        started = time.monotonic()
        assert (await model.generate(ask()))[0].text == "fine"
        assert time.monotonic() - started >= 1.0
        assert len(server.asked) == 2


async def test_a_server_that_stays_busy_is_a_busy_error_that_quotes_it() -> None:
    busy = reply({"error": {"message": "slow down"}}, status=503)
    async with serving(busy, busy, reply(answer()), retries=1) as (server, model):
        with pytest.raises(BusyError, match=r"is busy \(HTTP 503\): slow down") as caught:
            await model.generate(ask())
        assert caught.value.hint == "try again later, raise retries, or lower concurrency"
        assert len(server.asked) == 2
        assert (await model.generate(ask()))[0].text == "fine"


async def test_a_server_that_wants_more_patience_than_a_minute_gets_an_error_at_once() -> None:
    async with serving(reply(status=429, retry_after="3600"), retries=5) as (server, model):
        with pytest.raises(BusyError, match=r"HTTP 429, and asks to wait 3600 s"):
            await model.generate(ask())
        assert len(server.asked) == 1


@pytest.mark.parametrize("first", [reply("oh", status=500), reply("oh", status=502), drop])
async def test_a_server_that_recovers_is_not_noticed(first: Behaviour) -> None:
    async with serving(first, first, reply(answer()), retries=2) as (server, model):
        assert (await model.generate(ask()))[0].text == "fine"
        assert len(server.asked) == 3


async def test_a_refusal_is_not_repeated() -> None:
    async with serving(reply({"error": "bad"}, status=400), retries=5) as (server, model):
        with pytest.raises(ModelError, match="bad"):
            await model.generate(ask())
        assert len(server.asked) == 1


async def test_nothing_listening_is_said_with_the_address() -> None:
    async with serving(reply(answer())) as (server, model):
        pass
    started = time.monotonic()
    with pytest.raises(ModelError, match=r"cannot be reached: ") as caught:
        await model.generate(ask())
    assert caught.value.cause == "load"
    assert caught.value.hint == "start the server, or mend base_url"
    assert server.url in caught.value.message
    assert time.monotonic() - started < 60
    await model.close()


async def test_cancelling_closes_the_request_at_once_and_the_next_call_works() -> None:
    async with serving(stream(*[piece("a")] * 100, pause_s=0.1), reply(answer())) as (server, model):
        deltas: list[Delta] = []
        task = asyncio.create_task(model.generate(ask(), deltas.append))
        while not deltas:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.dropped.wait(), 60)
        assert (await model.generate(ask()))[0].text == "fine"


async def test_one_failed_sample_stops_the_others() -> None:
    refuse = reply({"error": "no more"}, status=403)
    async with serving(hang, refuse, dialect="llama_cpp") as (server, model):
        request = ask(sampling=Sampling(temperature=1), sample_indices=(0, 1))
        with pytest.raises(ModelError, match="no more"):
            await model.generate(request)
        await asyncio.wait_for(server.dropped.wait(), 60)


async def test_connections_are_kept_and_requests_under_way_are_limited() -> None:
    under_way, most = 0, 0
    inner = reply(answer())

    async def behave(writer: asyncio.StreamWriter) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.02)
        under_way -= 1
        await inner(writer)

    async with serving(behave, concurrency=3) as (server, model):
        await asyncio.gather(*(model.generate(ask(str(i))) for i in range(12)))
        assert most == 3
        assert len(server.asked) == 12
        assert server.connections == 3


async def test_a_server_that_gives_one_sample_of_many_is_asked_for_the_rest() -> None:
    async with serving(reply(answer("one"))) as (server, model):
        request = ask(sampling=Sampling(temperature=1), sample_indices=(0, 1, 2), seed=7)
        assert [c.text for c in await model.generate(request)] == ["one"] * 3
        assert [(a.body.get("n"), a.body["seed"]) for a in server.asked] == [(3, 7), (None, 8), (None, 9)]
        await model.generate(request)
        assert [a.body.get("n") for a in server.asked[3:]] == [None] * 3


async def test_a_server_that_refuses_n_is_asked_for_one_sample_at_a_time() -> None:
    refuse = reply({"error": "n must be 1"}, status=400)
    async with serving(refuse, reply(answer())) as (server, model):
        request = ask(sampling=Sampling(temperature=1), sample_indices=(0, 1))
        assert len(await model.generate(request)) == 2
        assert [a.body.get("n") for a in server.asked] == [2, None, None]


async def test_samples_in_one_answer_share_its_tokens() -> None:
    async with serving(reply(answer(n=2))) as (_, model):
        request = ask(sampling=Sampling(temperature=1), sample_indices=(0, 1))
        first, second = [completion.usage for completion in await model.generate(request)]
        assert (first.prompt_tokens, second.prompt_tokens) == (5, 0)
        assert first.completion_tokens + second.completion_tokens == 7
        assert (first.calls, second.calls) == (1, 0)


async def test_greedy_samples_are_asked_for_once() -> None:
    async with serving(reply(answer("same"))) as (server, model):
        first, second = await model.generate(ask(sample_indices=(0, 1)))
        assert first.text == second.text == "same"
        assert second.usage.completion_tokens == 0
        assert len(server.asked) == 1
        assert "n" not in server.asked[0].body
        assert "seed" not in server.asked[0].body


async def test_missing_log_probabilities_are_a_capability_error() -> None:
    async with serving(reply(answer())) as (_, model):
        with pytest.raises(CapabilityError, match="was asked for log-probabilities and gave none"):
            await model.generate(ask(top_logprobs=2))


async def test_the_key_is_sent_and_shows_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    echo = reply({"error": {"message": f"{'x' * 280} Incorrect API key {KEY}"}}, status=401)
    async with serving(echo, reply(f"no json {KEY}"), reply(answer()), api_key_env="MY_KEY") as (server, model):
        with pytest.raises(ModelError, match=r"\(HTTP 401\)") as refused:
            await model.generate(ask())
        with pytest.raises(ModelError, match=r"no json \*\*\*") as broken:
            await model.generate(ask())
        await model.generate(ask())
        assert {asked.headers["authorization"] for asked in server.asked} == {f"Bearer {KEY}"}
        assert refused.value.hint == "is the key in MY_KEY right?"
        shown = [str(refused.value), str(broken.value), repr(model), repr(vars(model)), model.fingerprint, model.name]
        assert not any("sk-very" in text for text in shown)


async def test_a_key_is_not_asked_for_before_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    async with serving(reply(answer()), api_key_env="MY_KEY") as (server, model):
        with pytest.raises(ModelError, match="the environment variable MY_KEY is not set, and m needs its key"):
            await model.generate(ask())
        monkeypatch.setenv("MY_KEY", "caf\u00e9")
        with pytest.raises(ModelError, match="MY_KEY holds characters that no key has"):
            await model.generate(ask())
        assert server.asked == []


async def test_a_local_prompt_goes_through_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with serving(reply(answer())) as (_, model):
        assert (await model.generate(ask()))[0].text == "fine"


@pytest.mark.parametrize(
    ("status", "hint"),
    [(401, "name the key's variable: api_key_env: NAME"), (404, "is base_url right? most end in /v1"), (400, None)],
)
async def test_a_refusal_comes_with_a_way_on(status: int, hint: str | None) -> None:
    async with serving(reply({"message": "no"}, status=status)) as (_, model):
        with pytest.raises(ModelError) as caught:
            await model.generate(ask())
        assert caught.value.hint == hint


async def test_a_closed_model_opens_again() -> None:
    async with serving(reply(answer())) as (server, model):
        await model.generate(ask())
        await model.close()
        await model.close()
        assert (await model.generate(ask()))[0].text == "fine"
        assert server.connections == 2


def rows(*vectors: list[float], first: int = 0) -> dict[str, Any]:
    return {"data": [{"index": first + i, "embedding": vector} for i, vector in enumerate(vectors)]}


async def test_embeddings_are_unit_rows_in_the_order_of_the_texts() -> None:
    np = pytest.importorskip("numpy")
    mixed = rows([3.0, 4.0], [0.0, 2.0])
    mixed["data"].reverse()
    async with serving(reply(mixed)) as (server, model):
        vectors = await model.embed(["a", "b"])
        assert vectors.dtype == np.float32
        assert vectors.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0.0, 1.0]]
        assert server.asked[0].path == "/v1/embeddings"
        assert server.asked[0].body == {"model": "m", "input": ["a", "b"], "encoding_format": "float"}
        assert (await model.embed([])).shape == (0, 0)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"data": "x"}, "with no list of rows"),
        (rows([1.0, 2.0]), "with 1 rows for 2 texts"),
        (rows([1.0], [1.0], first=1), "with 2 rows for 2 texts"),
        (rows([1.0], [1.0, 2.0]), "with rows of different lengths"),
        (rows([1.0], [0.0]), "with a row that is zero or not a number"),
    ],
)
async def test_embeddings_that_are_not_what_was_asked_are_refused(body: dict[str, Any], message: str) -> None:
    pytest.importorskip("numpy")
    async with serving(reply(body)) as (_, model):
        with pytest.raises(ModelError, match=message) as caught:
            await model.embed(["a", "b"])
        assert caught.value.hint == "is it an embedding model?"


async def test_many_texts_are_embedded_in_several_requests() -> None:
    pytest.importorskip("numpy")
    batches = [rows(*[[1.0, 0.0]] * 64), rows([0.0, 1.0])]
    async with serving(*map(reply, batches), concurrency=1) as (server, model):
        vectors = await model.embed([str(i) for i in range(65)])
        assert vectors.shape == (65, 2)
        assert vectors[64].tolist() == [0.0, 1.0]
        assert [len(asked.body["input"]) for asked in server.asked] == [64, 1]


class Script(dict[str, Any]):
    """What a server answers on each path: JSON, or a function of the request's body."""


@asynccontextmanager
async def scripted(script: Script, dialect: str) -> AsyncIterator[tuple[Server, Model]]:
    """A server with its own endpoints."""
    server: Server

    async def behave(writer: asyncio.StreamWriter) -> None:
        asked = server.asked[-1]
        found = script[asked.path]
        await reply(found(asked.body) if callable(found) else found)(writer)

    async with serving(behave, dialect=dialect, concurrency=1) as (made, model):
        server = made
        yield made, model


CHOOSE = ScoreRequest(messages=(Message(role="user", content="a or b?"),), choices=("a", "bc"))


def vllm_tokens(body: Any) -> dict[str, Any]:
    return {"tokens": [1, 2] if "messages" in body else [ord(c) for c in body["prompt"]], "count": 2}


def vllm_logprobs(body: Any) -> dict[str, Any]:
    rows = [None, *({str(t): {"logprob": -t / 100}, "5": {"logprob": -0.1}} for t in body["prompt"][1:])]
    return {"choices": [{"text": "x", "prompt_logprobs": rows}]}


async def test_vllm_scores_choices_by_the_log_probabilities_of_a_prompt() -> None:
    script = Script({"/tokenize": vllm_tokens, "/v1/completions": vllm_logprobs})
    async with scripted(script, "vllm") as (server, model):
        scores = await model.score(CHOOSE)
        assert scores.logprobs == pytest.approx((-0.97, -0.98 - 0.99))
        assert scores.prompt_tokens == 2
        assert server.asked[-1].body == {
            "model": "m", "prompt": [1, 2, 98, 99], "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 1,
        }  # fmt: skip
        assert await model.count_tokens("four") == 4
        begins = CHOOSE.model_copy(update={"choices": ("a", "ab")})
        with pytest.raises(CapabilityError, match="cannot score choices of which one begins another"):
            await model.score(begins)
        empty = CHOOSE.model_copy(update={"choices": ("a", "")})
        with pytest.raises(ModelError, match="the choice '' has no tokens"):
            await model.score(empty)


def llama_tokens(body: Any) -> dict[str, Any]:
    return {"tokens": [ord(c) for c in body["content"]]}


def llama_logprob(body: Any) -> dict[str, Any]:
    ((token, _),) = body["logit_bias"]
    return {"completion_probabilities": [{"id": token, "logprob": -token / 100}]}


async def test_llama_server_scores_each_shared_token_once() -> None:
    script = Script(
        {
            "/apply-template": {"prompt": "x"}, "/tokenize": llama_tokens, "/completion": llama_logprob,
            "/props": {"eos_token": "$"},
        }
    )  # fmt: skip
    async with scripted(script, "llama_cpp") as (server, model):
        scores = await model.score(CHOOSE.model_copy(update={"choices": ("ab", "ac")}))
        assert scores.logprobs == pytest.approx((-0.97 - 0.98, -0.97 - 0.99))
        assert sum(asked.path == "/completion" for asked in server.asked) == 3
        with_end = await model.score(CHOOSE.model_copy(update={"choices": ("a", "ab")}))
        assert with_end.logprobs == pytest.approx((-0.97 - 0.36, -0.97 - 0.98 - 0.36))


@pytest.mark.parametrize(
    ("dialect", "path", "answer"),
    [
        ("llama_cpp", "/apply-template", {"text": "x"}),
        ("llama_cpp", "/tokenize", {"tokens": ["x"]}),
        ("llama_cpp", "/tokenize", []),
        ("llama_cpp", "/completion", {"content": "x"}),
        ("llama_cpp", "/completion", {"completion_probabilities": [{"id": 0, "logprob": -1}]}),
        ("llama_cpp", "/props", {}),
        ("vllm", "/tokenize", {"count": 1}),
        ("vllm", "/v1/completions", {"choices": []}),
        ("vllm", "/v1/completions", {"choices": [{"prompt_logprobs": [None]}]}),
    ],
)
async def test_a_server_of_another_dialect_is_told_apart(dialect: str, path: str, answer: Any) -> None:
    good: dict[str, dict[str, Any]] = {
        "llama_cpp": {"/apply-template": {"prompt": "x"}, "/tokenize": llama_tokens, "/completion": llama_logprob},
        "vllm": {"/tokenize": vllm_tokens, "/v1/completions": vllm_logprobs},
    }
    async with scripted(Script({**good[dialect], path: answer}), dialect) as (_, model):
        request = CHOOSE.model_copy(update={"choices": ("a", "ab")}) if path == "/props" else CHOOSE
        with pytest.raises(ModelError, match=f"{path} did not answer as a server of the dialect {dialect}") as caught:
            await model.score(request)
        assert caught.value.hint == "declare the dialect that the server has"
