"""The chat plugin without a server: declarations, what a request says in each dialect, and what it refuses to ask."""

from __future__ import annotations

import email.utils
import subprocess
import sys
import time
from typing import Any

import pytest

from gristmill import CapabilityError, GenerateRequest, Member, Message, Model, ModelError, Sampling, ScoreRequest
from gristmill.testing import check_plugin
from gristmill_plugins.chat import ChatPlugin
from gristmill_plugins.chat._events import EventParser
from gristmill_plugins.chat._failures import pause_s, printable, retry_after_s, server_message
from gristmill_plugins.chat._options import ChatOptions, Dialect
from gristmill_plugins.chat._wire import Ask, asks, body, check

URL = "http://127.0.0.1:1/v1"
DIALECTS: list[Dialect] = ["openai", "llama_cpp", "vllm"]
HELLO = (Message(role="user", content="hello"),)


def chat(**options: Any) -> Model:
    return ChatPlugin().chat(**{"base_url": URL, "model": "m", **options})


def sent(sampling: Sampling, dialect: Dialect = "openai", **fields: Any) -> dict[str, Any]:
    """The body of a request's first chat request."""
    options = ChatOptions(URL, "m", dialect, extra_body=fields.pop("extra_body", {}))
    request = GenerateRequest(messages=HELLO, sampling=sampling, **fields)
    check(request, options)
    return body(request, asks(request, together=True)[0], options, stream=False)


def test_the_plugin_passes_the_contract_and_imports_neither_httpx_nor_numpy() -> None:
    assert set(check_plugin("chat", ChatPlugin()).providers) == {"chat"}
    code = (
        "import sys, gristmill_plugins.chat as c; m = c.ChatPlugin().chat(base_url='http://a/v1', model='m');"
        "m.fingerprint; sys.exit(bool({'httpx', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("127.0.0.1:8080/v1", "does not begin with http:// or https://"),
        ("file:///etc/passwd", "does not begin with http:// or https://"),
        ("http://", "names no host"),
        ("http://host:0/v1", "names no host"),
        ("http://host:99999/v1", "is no URL: Port out of range"),
        ("http://[::1/v1", "is no URL: "),
        ("http://me:secret@host/v1", r"'http://\*\*\*@host/v1' holds a user name or password"),
        ("http://host/v1?key=a", "ends in a query or fragment"),
        ("http://host/v1/chat/completions", "names an endpoint: end it before /chat/completions"),
        ("http://host/v 1", "holds a character that no URL has"),
    ],
)
def test_a_base_url_that_cannot_work_is_refused_when_declared(url: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        chat(base_url=url)
    assert caught.value.cause == "load"
    assert caught.value.hint == "such as http://127.0.0.1:8080/v1"
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": " "}, "model is empty"),
        ({"api_key_env": "sk-abc"}, "api_key_env is not the name of an environment variable"),
        ({"extra_body": {"messages": [], "n": 2}}, "extra_body may not set messages, n"),
        ({"extra_body": {"a": float("nan")}}, "extra_body is no JSON: "),
        ({"extra_body": {"a": object()}}, "extra_body is no JSON: "),
    ],
)
def test_a_declaration_that_cannot_work_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        chat(**options)
    assert "sk-abc" not in str(caught.value)


def test_the_fingerprint_tells_what_changes_the_answer_from_what_does_not() -> None:
    same = chat().fingerprint
    assert chat(base_url=f"{URL}/").fingerprint == same
    assert chat(timeout_s=1.0, retries=9, concurrency=1, api_key_env="KEY", context_tokens=99).fingerprint == same
    changed: list[dict[str, Any]] = [
        {"model": "other"},
        {"base_url": "http://127.0.0.1:2/v1"},
        {"dialect": "vllm"},
        {"revision": "2026-11"},
        {"extra_body": {"a": 1}},
    ]
    assert len({same, *(chat(**options).fingerprint for options in changed)}) == 6


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("[::1]", True),
        ("localhost", True),
        ("a.localhost", True),
        ("10.0.0.1", False),
        ("a", False),
    ],
)
def test_a_server_on_this_machine_is_known_as_such(host: str, local: bool) -> None:
    assert ChatOptions(f"http://{host}:80/v1", "m").is_local is local


def test_greedy_decoding_says_so_and_sends_no_seed() -> None:
    assert sent(Sampling(), seed=3) == {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 512,
        "temperature": 0.0,
    }


def test_sampling_is_said_in_the_servers_words() -> None:
    sampling = Sampling(
        temperature=0.5,
        top_p=0.9,
        presence_penalty=1,
        frequency_penalty=-1,
        logit_bias={5: 2.0},
        max_tokens=9,
        stop=("x",),
    )
    assert sent(sampling, seed=2**31 + 4, top_logprobs=3).items() >= {
        "temperature": 0.5, "top_p": 0.9, "presence_penalty": 1.0, "frequency_penalty": -1.0, "logit_bias": {"5": 2.0},
        "max_tokens": 9, "stop": ["x"], "seed": 4, "logprobs": True, "top_logprobs": 3,
    }.items()  # fmt: skip


def test_a_servers_own_defaults_are_turned_off_where_they_can_be() -> None:
    assert sent(Sampling(), "llama_cpp").items() >= {
        "top_p": 1.0, "top_k": 0, "min_p": 0.0, "typical_p": 1.0, "repeat_penalty": 1.0, "presence_penalty": 0.0,
    }.items()  # fmt: skip
    assert sent(Sampling(), "vllm").items() >= {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}.items()
    assert sent(Sampling(top_k=4, repeat_penalty=1.1), "vllm").items() >= {
        "top_k": 4, "repetition_penalty": 1.1,
    }.items()  # fmt: skip


@pytest.mark.parametrize(
    ("dialect", "sampling"),
    [
        *(("openai", {key: 0.5}) for key in ("min_p", "typical_p", "repeat_penalty")),
        ("openai", {"top_k": 4}),
        ("vllm", {"typical_p": 0.5}),
        *((dialect, {"beam_width": 2}) for dialect in DIALECTS),
    ],
)
def test_sampling_that_a_dialect_lacks_is_a_capability_error_that_names_it(
    dialect: Dialect, sampling: dict[str, Any]
) -> None:
    (key,) = sampling
    with pytest.raises(CapabilityError, match=rf"m \(chat, dialect {dialect}\) has no {key}, and {key}=") as caught:
        sent(Sampling(**sampling), dialect)
    assert caught.value.hint is not None
    assert "llama plugin" in caught.value.hint


async def test_what_no_chat_server_has_is_a_capability_error_before_anything_is_sent() -> None:
    model = chat()
    member = Member(messages=HELLO)
    for request, message in (
        (GenerateRequest(messages=HELLO, adapters={"spam": 1.0}), "has no adapters"),
        (GenerateRequest(messages=(), members=(member,)), "has no members"),
        (GenerateRequest(messages=HELLO, top_logprobs=21), "gives at most 20 top_logprobs, 21 were asked for"),
    ):
        with pytest.raises(CapabilityError, match=message):
            await model.generate(request)
    with pytest.raises(CapabilityError, match="m cannot score choices") as score:
        await model.score(ScoreRequest(messages=HELLO, choices=("a", "b")))
    assert score.value.hint is not None
    assert "dialect: llama_cpp or vllm" in score.value.hint
    with pytest.raises(CapabilityError, match="m cannot count tokens"):
        await model.count_tokens("a")
    with pytest.raises(CapabilityError, match="m does not know the length of its context"):
        _ = model.context_tokens
    with pytest.raises(CapabilityError, match="m has no adapters"):
        await chat(dialect="vllm").score(ScoreRequest(messages=HELLO, choices=("a",), adapters={"x": 1.0}))
    assert model.capabilities == {"generate", "schema", "logprobs", "embed", "tools"}
    assert chat(dialect="llama_cpp").capabilities - model.capabilities == {"score"}
    assert chat(context_tokens=99).context_tokens == 99


async def test_half_characters_and_empty_prompts_are_refused_before_anything_is_sent() -> None:
    broken = Message(role="user", content="a\ud800b")
    for call in (
        chat().generate(GenerateRequest(messages=(broken,))),
        chat(dialect="vllm").score(ScoreRequest(messages=(broken,), choices=("a",))),
        chat(dialect="vllm").count_tokens("a\ud800b"),
        chat().embed(["a\ud800b"]),
    ):
        with pytest.raises(ModelError, match=r"the text holds '\\ud800' at position 1, half of a character"):
            await call
    with pytest.raises(ModelError, match="the prompt is empty"):
        await chat().generate(GenerateRequest(messages=()))
    assert await chat().generate(GenerateRequest(messages=HELLO, sample_indices=())) == []
    assert (await chat(dialect="vllm").score(ScoreRequest(messages=HELLO, choices=()))).logprobs == ()


def test_a_schema_is_strict_only_where_openai_takes_it_so() -> None:
    closed: dict[str, Any] = {
        "type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False,
    }  # fmt: skip
    for schema, strict in (
        (closed, True),
        ({**closed, "required": []}, False),
        ({**closed, "additionalProperties": True}, False),
        ({**closed, "properties": {"a": {"type": "array", "items": {"type": "object"}}}}, False),
        ({"anyOf": [closed, {"type": "object"}]}, False),
        ({"anyOf": [closed, {"type": "null"}]}, True),
    ):
        sent_schema = sent(Sampling(), json_schema=schema)["response_format"]
        assert sent_schema["type"] == "json_schema"
        assert sent_schema["json_schema"] == {"name": "answer", "schema": schema, "strict": strict}


def test_extra_body_adds_and_takes_away() -> None:
    made = sent(Sampling(), extra_body={"max_tokens": None, "max_completion_tokens": 5, "reasoning_effort": "low"})
    assert "max_tokens" not in made
    assert (made["max_completion_tokens"], made["reasoning_effort"]) == (5, "low")


def test_samples_go_together_as_neighbours_and_keep_their_seeds() -> None:
    request = GenerateRequest(
        messages=HELLO, sampling=Sampling(temperature=1), seed=10, sample_indices=(*range(18), 30, 31)
    )
    together = asks(request, together=True)
    assert [(len(ask.samples), ask.seed) for ask in together] == [(16, 10), (2, 26), (2, 40)]
    assert [ask.seed for ask in asks(request, together=False)] == [10 + i for i in request.sample_indices]
    assert list(together[1].singly({16})) == [Ask(((17,),), 27)]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_events_are_the_same_in_any_pieces(end: str) -> None:
    text = f": ping{end}{end}event: x{end}data: é1{end}data:2{end}{end}{end}id: 7{end}data: 3{end}{end}data: cut"
    data = text.encode()
    for size in (1, 2, 3, 7, len(data)):
        parser = EventParser()
        chunks = [data[i : i + size] for i in range(0, len(data), size)]
        events = [event for chunk in chunks for event in parser.feed(chunk)]
        assert events == ["é1\n2".encode(), b"3"]
        assert list(parser.end()) == [b"cut"]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"error": {"message": "a", "type": "b"}}, "a"),
        ({"error": "a"}, "a"),
        ({"detail": [{"loc": ["x"]}]}, '[{"loc": ["x"]}]'),
        ({"message": "a", "object": "error"}, "a"),
        ({"else": 1}, '{"else": 1}'),
    ],
)
def test_a_servers_message_is_found_in_every_usual_form(said: Any, message: str) -> None:
    import json

    assert server_message(json.dumps(said).encode()) == message


def test_a_servers_text_becomes_one_short_printable_line() -> None:
    assert printable("a\x1b[2J\n\tb\u202ec\x00") == "a [2J b c"
    assert len(printable("x" * 10_000_000)) == 300
    assert server_message(b"\xff oh") == "\ufffd oh"


def test_retry_after_is_read_in_both_its_forms() -> None:
    assert retry_after_s("7") == 7.0
    assert retry_after_s(None) is None
    assert retry_after_s("soon") is None
    later = retry_after_s(email.utils.formatdate(time.time() + 30, usegmt=True))
    assert later is not None
    assert 25 < later <= 30
    assert retry_after_s(email.utils.formatdate(0, usegmt=True)) == 0.0


def test_pauses_grow_with_full_jitter_and_never_undercut_what_was_asked() -> None:
    for attempt, most in ((0, 0.5), (1, 1.0), (3, 4.0), (20, 30.0)):
        pauses = [pause_s(attempt, None) for _ in range(200)]
        assert 0 <= min(pauses) < most / 4
        assert most / 2 < max(pauses) <= most
    assert all(3 <= pause_s(2, 3.0) <= 3.2 for _ in range(100))
