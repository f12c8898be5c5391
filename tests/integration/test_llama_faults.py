"""The llama plugin when things go wrong: cancelled calls, a killed engine, a stopped one, a parent that dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gristmill import BusyError, GenerateRequest, Message, ModelError, Sampling
from gristmill_plugins.llama import LlamaPlugin, _files
from gristmill_plugins.llama._client import LlamaModel

pytestmark = pytest.mark.asyncio(loop_scope="module")

# How long the two longest tests go on; CONTRIBUTING.md has the command that asks for more.
N_CALLS = int(os.environ.get("GRISTMILL_FAULT_CALLS", "12"))
N_LOADS = int(os.environ.get("GRISTMILL_FAULT_LOADS", "4"))
ENDLESS = Sampling(max_tokens=1000, logit_bias={0: -100, 2: -100})


def ask(text: str, **fields: Any) -> GenerateRequest:
    fields.setdefault("sampling", Sampling(max_tokens=8))
    return GenerateRequest(messages=(Message(role="user", content=text),), **fields)


def declare(**options: Any) -> LlamaModel:
    model = LlamaPlugin().llama(context_tokens=2048, **options)
    assert isinstance(model, LlamaModel)
    return model


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model() -> AsyncIterator[LlamaModel]:
    made = declare()
    yield made
    await made.close()


def count_children() -> int:
    """Count the processes that this one started and has not reaped."""
    parents = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            parents.append(int(path.read_text().rpartition(")")[2].split()[1]))
    return parents.count(os.getpid())


def is_running(pid: int) -> bool:
    """Whether a process still does anything; one that only waits to be reaped does not."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


async def begin(model: LlamaModel) -> asyncio.Task[Any]:
    """Start an answer and return once its first token is there."""
    started = asyncio.Event()
    task = asyncio.create_task(model.generate(ask("Tell a story", sampling=ENDLESS), lambda _: started.set()))
    await asyncio.wait_for(started.wait(), 30)
    return task


async def test_a_killed_engine_is_an_error_that_names_file_and_signal(model: LlamaModel) -> None:
    task = await begin(model)
    pid = model.engine_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    before = time.monotonic()
    with pytest.raises(ModelError, match=r"SmolLM2.*died \(SIGKILL\)") as caught:
        await task
    assert time.monotonic() - before < 60
    assert caught.value.cause == "died"
    assert (await model.generate(ask("Hello")))[0].text
    assert model.engine_pid != pid


async def test_a_native_abort_shows_the_last_words(model: LlamaModel) -> None:
    task = await begin(model)
    assert model.engine_pid is not None
    os.kill(model.engine_pid, signal.SIGABRT)
    with pytest.raises(ModelError, match="SIGABRT"):
        await task


async def test_a_stopped_engine_is_ended_and_replaced(model: LlamaModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gristmill_plugins.llama._process.SILENCE_S", 3.0)
    task = await begin(model)
    pid = model.engine_pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(ModelError, match="no sign of life") as caught:
        await asyncio.wait_for(task, 60)
    assert caught.value.cause == "timeout"
    monkeypatch.undo()  # on a busy machine a healthy engine may be silent for three seconds
    assert (await model.generate(ask("Hello")))[0].text
    assert not is_running(pid)


async def test_a_cancelled_call_frees_the_engine_at_once(model: LlamaModel) -> None:
    reference = await model.generate(ask("Hello"))
    for _ in range(3):
        task = await begin(model)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    before = await model.counters()
    assert await model.generate(ask("Hello")) is not None
    after = await model.counters()
    assert after["steps"] - before["steps"] <= reference[0].usage.completion_tokens + 3


async def test_random_cancels_leave_every_other_answer_as_it_was() -> None:
    """Numbers differ a little between batches of one token and of more, so this asks for the reproducible mode."""
    model = declare(reproducible=True)
    questions = [f"What comes after {i}?" for i in range(5)]
    short = Sampling(max_tokens=4)
    try:
        expected = [(await model.generate(ask(text, sampling=short)))[0].text for text in questions]

        async def client(seed: int) -> None:
            rng = random.Random(seed)
            for _ in range(N_CALLS):
                which = rng.randrange(len(questions))
                call = asyncio.create_task(model.generate(ask(questions[which], sampling=short)))
                if rng.random() < 0.4:
                    await asyncio.sleep(rng.random() * 0.1)
                    call.cancel()
                    await asyncio.wait([call])
                else:
                    assert (await call)[0].text == expected[which]

        await asyncio.gather(*(client(seed) for seed in range(4)))
    finally:
        await model.close()


async def test_a_full_queue_is_busy_and_then_works_again() -> None:
    model = declare(max_running=1, max_waiting=1)
    try:
        first = await begin(model)
        second = asyncio.create_task(model.generate(ask("Wait")))
        await asyncio.sleep(0.2)
        with pytest.raises(BusyError, match="1 requests are waiting already"):
            await model.generate(ask("One too many"))
        first.cancel()
        assert (await second)[0].text
    finally:
        await model.close()


async def test_closing_ends_the_process_and_a_later_call_loads_again(model: LlamaModel) -> None:
    await model.generate(ask("Hello"))
    pid = model.engine_pid
    await model.close()
    await model.close()
    assert pid is not None
    assert not is_running(pid)
    assert (await model.generate(ask("Hello")))[0].text


async def test_closing_during_a_call_ends_the_call(model: LlamaModel) -> None:
    task = await begin(model)
    await model.close()
    with pytest.raises(ModelError):
        await asyncio.wait_for(task, 60)


async def test_a_file_truncated_while_it_is_mapped_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    shutil.copy(_files.resolve("smollm2", sha256=None), path)
    model = declare(model=str(path), threads=1)
    try:
        task = await begin(model)
        os.truncate(path, 4096)
        with pytest.raises(ModelError, match=r"model\.gguf died \(SIGBUS\)") as caught:
            await task
        assert caught.value.cause == "died"
        with pytest.raises(ModelError) as caught:
            await model.generate(ask("Hello"))
        assert caught.value.cause == "file"
    finally:
        await model.close()


async def test_a_prompt_of_ten_megabytes_is_refused_at_once(model: LlamaModel) -> None:
    before = time.monotonic()
    with pytest.raises(ModelError, match=r"at least .* tokens"):
        await model.generate(ask("a" * 10_000_000))
    assert time.monotonic() - before < 60


async def test_a_context_larger_than_memory_is_refused_before_it_is_asked_for() -> None:
    with pytest.raises(ModelError, match=r"needs [\d.]+ GB for a cache of 100000000 tokens") as caught:
        await LlamaPlugin().llama(context_tokens=100_000_000).generate(ask("Hello"))
    assert caught.value.cause == "load"


@pytest.mark.skipif(sys.platform != "linux", reason="counts in /proc")
async def test_loading_again_and_again_leaks_nothing() -> None:
    counts = []
    for _ in range(N_LOADS):
        model = declare()
        await model.count_tokens("hello")
        await model.close()
        await asyncio.sleep(0.1)
        counts.append((len(os.listdir("/proc/self/fd")), threading.active_count(), count_children()))
    assert all(last <= first for first, last in zip(counts[0], counts[-1], strict=True)), (counts[0], counts[-1])


async def test_a_file_that_is_replaced_is_loaded_again(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    source = _files.resolve("smollm2", sha256=None)
    shutil.copy(source, path)
    model = declare(model=str(path))
    try:
        await model.generate(ask("Hello"))
        first, pid = model.fingerprint, model.engine_pid
        shutil.copy(source, tmp_path / "new.gguf")
        os.replace(tmp_path / "new.gguf", path)
        await model.generate(ask("Hello"))
        assert model.fingerprint == first
        assert model.engine_pid != pid
    finally:
        await model.close()


HOST = """
import asyncio, sys
from gristmill import GenerateRequest, Message, Sampling
from gristmill_plugins.llama import LlamaPlugin

async def main():
    model = LlamaPlugin().llama(context_tokens=2048)
    request = GenerateRequest(
        messages=(Message(role="user", content="Tell a story"),),
        sampling=Sampling(max_tokens=1000, logit_bias={0: -100, 2: -100}),
    )
    def tell(delta):
        print(model.engine_pid, flush=True)
    await model.generate(request, tell)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
async def test_an_engine_is_gone_two_seconds_after_its_parent_was_killed() -> None:
    host = subprocess.Popen([sys.executable, "-c", HOST], stdout=subprocess.PIPE)
    assert host.stdout is not None
    with host.stdout:
        pid = int(host.stdout.readline())
        host.kill()
        host.wait()
    deadline = time.monotonic() + 2
    while is_running(pid) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    assert not is_running(pid)


async def test_an_engine_caught_in_native_code_is_ended_though_it_says_it_lives(
    model: LlamaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gristmill_plugins.llama._process.STEP_S", -1.0)
    with pytest.raises(ModelError, match="was at one step for -1 seconds and was ended") as caught:
        await asyncio.wait_for(model.generate(ask("Tell a story", sampling=ENDLESS)), 60)
    assert caught.value.cause == "timeout"
    monkeypatch.undo()
    assert (await model.generate(ask("Hello")))[0].text
