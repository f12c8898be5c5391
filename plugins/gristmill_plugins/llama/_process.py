"""The client's half of one engine process: start it, talk to it, notice that it died or hangs.

It knows nothing of prompts or models beyond the file's name, and it never starts a process again: the client
makes a new one. Invariants: every call ends, with a result or a typed error, however the process ends; a
process outlives neither its object's `close` nor this program.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

from gristmill import BusyError, GristmillError, ModelError
from gristmill_plugins.llama import _protocol
from gristmill_plugins.llama._machine import wants_processor

SILENCE_S = 30.0
"""A process with work says that it is alive every second; one that is silent for so long hangs, unless its main thread
could run: with 30 processes at work on two cores, healthy ones were silent for as long. Such a one has STEP_S."""
STEP_S = 300.0
"""A process that says so, but has been at one step for this long, is caught in native code. A step is at most one
batch; a model that reads 256 tokens more slowly than this is of no use."""
EXIT_S = 2.0
N_STDERR_LINES = 40

OnEvent = Callable[[dict[str, Any]], None]


@dataclass(slots=True)
class _Call:
    future: asyncio.Future[_protocol.Frame]
    on_event: OnEvent | None
    since: float = field(default_factory=time.monotonic)


class EngineProcess:
    """One engine process; belongs to the event loop in which it was made."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.loop = asyncio.get_running_loop()
        self.exit_code: int | None = None
        self.pid: int | None = None
        self._calls: dict[int, _Call] = {}
        self._ids = itertools.count(1)
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._stderr: deque[str] = deque(maxlen=N_STDERR_LINES)
        self._heard = time.monotonic()
        self._step_s = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = asyncio.Event()
        self._error: GristmillError | None = None
        self._closing = False
        self._watch = self.loop.create_task(self._watch_silence())
        # The thread that starts the process must live as long as it does: Linux tells a child that its
        # parent died when the thread that made it ends.
        self._thread = threading.Thread(target=self._run, name=f"engine {model}", daemon=True)
        self._thread.start()

    @property
    def usable(self) -> bool:
        """Whether calls may still be made."""
        return self._error is None and not self._closing and not self.loop.is_closed()

    async def call(self, message: dict[str, Any], on_event: OnEvent | None = None) -> _protocol.Frame:
        """Send a message and return its answer; being cancelled cancels the work.

        Raises:
            ModelError: the engine refused, died or hangs.
            BusyError: too many requests are waiting.
        """
        if self._error is not None:
            raise self._error
        request = next(self._ids)
        call = _Call(self.loop.create_future(), on_event)
        self._calls[request] = call
        self._outbox.put(_protocol.encode({"id": request, **message}))
        try:
            return await call.future
        except asyncio.CancelledError:
            self._outbox.put(_protocol.encode({"op": "cancel", "target": request}))
            raise
        finally:
            self._calls.pop(request, None)

    async def close(self) -> None:
        """End the process: politely, then by force; idempotent."""
        if not self._closing:
            self._closing = True
            # The pipe stays open: its end would end the process at once, in the middle of what it still writes.
            self._outbox.put(_protocol.encode({"op": "close"}))
        try:
            await asyncio.wait_for(self._ended.wait(), EXIT_S)
        except TimeoutError:
            self.kill()
            await self._ended.wait()
        finally:
            self._watch.cancel()

    def kill(self) -> None:
        """End the process at once, even a stopped one."""
        process = self._process
        if process is not None and process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        self._outbox.put(None)

    # In the loop

    async def _watch_silence(self) -> None:
        """Kill a process that has work and does not say that it is alive."""
        while not self._ended.is_set():
            await asyncio.sleep(0.5)
            if not self._calls:
                continue
            waited_s = time.monotonic() - max(self._heard, min(call.since for call in self._calls.values()))
            if waited_s > SILENCE_S and waited_s < STEP_S and self.pid is not None and wants_processor(self.pid):
                continue
            if waited_s > SILENCE_S or self._step_s > STEP_S:
                silent = f"gave no sign of life for {waited_s:.0f} seconds"
                caught = f"was at one step for {STEP_S:g} seconds"
                self._error = ModelError(
                    f"the engine of {self.model} {silent if waited_s > SILENCE_S else caught} and was ended",
                    model=self.model,
                    cause="timeout",
                    hint="the next call starts a new one",
                )
                self.kill()
                self._fail_calls()
                return

    def _dispatch(self, frame: _protocol.Frame) -> None:
        message = frame.message
        call = self._calls.get(message.get("id", 0))
        if call is None or call.future.done():
            return
        if message["event"] == "done":
            call.future.set_result(frame)
        elif message["event"] == "error":
            call.future.set_exception(self._as_error(message))
        elif call.on_event is not None:
            call.on_event(message)

    def _as_error(self, message: dict[str, Any]) -> GristmillError:
        if message["kind"] == "busy":
            return BusyError(message["text"], hint=message["hint"])
        return ModelError(message["text"], model=self.model, cause=message["cause"], hint=message["hint"])

    def _on_end(self) -> None:
        """The process is gone: every open call ends with the reason."""
        if self._error is None:
            self._error = ModelError(
                f"the engine of {self.model} died ({self._reason()})" + (f": {said}" if (said := self._said()) else ""),
                model=self.model,
                cause="died",
                hint="the next call starts a new one",
            )
        self._fail_calls()
        self._ended.set()

    def _fail_calls(self) -> None:
        for call in self._calls.values():
            if not call.future.done():
                call.future.set_exception(self._error or RuntimeError("the engine ended"))

    def _reason(self) -> str:
        code = self.exit_code
        if code is None:
            return "it could not be started"
        if code >= 0:
            return f"exit status {code}"
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
        return f"signal {-code}"

    def _said(self) -> str:
        """Return the last lines that native code wrote, in one."""
        return " / ".join(line for line in list(self._stderr)[-4:])

    # In threads

    def _run(self) -> None:
        """Start the process, pass on its frames, and reap it."""
        try:
            self._process = process = _spawn()
        except OSError as error:
            self._stderr.append(str(error))
            self._tell(self._on_end)
            return
        self.pid = process.pid
        helpers = [
            threading.Thread(target=self._drain_stderr, args=(process,), daemon=True),
            threading.Thread(target=self._write, args=(process,), daemon=True),
        ]
        for helper in helpers:
            helper.start()
        source = cast(BinaryIO, process.stdout)
        with contextlib.suppress(EOFError, ValueError, OSError):
            while (frame := _protocol.read(source)) is not None:
                self._heard = time.monotonic()
                self._step_s = frame.message.get("step_s", 0.0)
                if not self._tell(self._dispatch, frame):
                    break
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(EXIT_S)
        process.kill()
        self.exit_code = process.wait()
        self._outbox.put(None)
        for helper in helpers:
            helper.join(EXIT_S)
        source.close()
        self._tell(self._on_end)

    def _tell(self, callback: Callable[..., None], *args: Any) -> bool:
        """Run a callback in the loop; False where the loop is gone."""
        try:
            self.loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            return False
        return True

    def _drain_stderr(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        with process.stderr as stream:
            for line in stream:
                if text := line.decode("utf-8", "replace").strip():
                    self._stderr.append(text[:500])

    def _write(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(OSError, ValueError), process.stdin as stream:
            while (data := self._outbox.get()) is not None:
                stream.write(data)
                stream.flush()


def native_environment() -> dict[str, str]:
    """Return the environment of a child that runs llama.cpp."""
    # Threads that wait by spinning for long make llama.cpp many times slower as soon as anything else wants the
    # processor, another engine for one; threads that do not spin at all slow down a lone stream. Measured on 2 cores,
    # medians in milliseconds a token on a quiet machine and beside two busy loops, for libgomp's default of 300,000
    # rounds: 6.3 and 522; for 10,000: 6.6 and 360; 1,000: 6.6 and 52; 100: 10.1 and 19.
    environment = dict(os.environ)
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", "1000")
    environment["GGML_NO_BACKTRACE"] = "1"  # an abort would start a debugger and stall for minutes
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return environment


def _spawn() -> subprocess.Popen[bytes]:
    """Start the child. `-P` keeps the current folder, which may hold anything, off its import path."""
    environment = native_environment()
    command = [sys.executable, "-P", "-m", "gristmill_plugins.llama._engine", str(os.getpid())]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
