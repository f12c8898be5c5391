"""The engine process's end of the two pipes to its client.

It knows nothing of models. Invariants: only frames are written to the pipe that carries them, whatever native
code prints; the process ends when its input does, or with its parent, even while native code runs.
"""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import sys
import threading
import time
from typing import Any, BinaryIO

from gristmill_plugins.llama import _protocol

HEARTBEAT_S = 1.0
PR_SET_PDEATHSIG = 1


class Wire:
    """The two pipes to the client, and the threads that keep them moving."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source = source
        self._sink = sink
        self._lock = threading.Lock()
        self.inbox: queue.SimpleQueue[_protocol.Frame] = queue.SimpleQueue()
        self.working = threading.Event()
        self.step_began: float | None = None
        """When the owner thread began what it does now; None while it loads, which may take as long as it takes."""

    def start(self) -> None:
        """Begin to read requests and to say, while there is work, that the process is alive."""
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def send(self, message: dict[str, Any], blob: bytes = b"") -> None:
        """Write one frame."""
        data = _protocol.encode(message, blob)
        with self._lock:
            self._sink.write(data)
            self._sink.flush()

    def _read(self) -> None:
        """Queue requests; the end of input ends the process at once, whatever native code is doing."""
        try:
            while (frame := _protocol.read(self._source)) is not None:
                self.inbox.put(frame)
        finally:
            os._exit(0)

    def _beat(self) -> None:
        while True:
            self.working.wait()
            began = self.step_began
            self.send({"event": "alive", "step_s": 0.0 if began is None else time.monotonic() - began})
            time.sleep(HEARTBEAT_S)


def take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Return the pipes of standard input and output, and let prints of native code go to standard error."""
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    source = os.fdopen(os.dup(0), "rb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return source, sink


def die_with_parent(parent: int) -> None:
    """Ask Linux to end this process with its parent; elsewhere the end of input does it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)
