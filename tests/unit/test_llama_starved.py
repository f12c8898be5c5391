"""A silent process that waits for the machine is told from one that hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gristmill_plugins.llama._machine import wants_processor

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="states of processes are Linux's")


@pytest.fixture
def child(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    """A process that says when it begins its work."""
    command = [sys.executable, "-c", f"print('begun', flush=True)\n{request.param}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def until(process: subprocess.Popen[bytes], *states: str) -> None:
    """Wait until a process is in a state."""
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] not in states:
        os.sched_yield()


@pytest.mark.parametrize("child", ["while True: pass"], indirect=True)
def test_who_computes_wants_the_processor_until_it_is_stopped(child: subprocess.Popen[bytes]) -> None:
    until(child, "R")
    assert wants_processor(child.pid)
    child.send_signal(signal.SIGSTOP)
    until(child, "T")
    assert not wants_processor(child.pid)


@pytest.mark.parametrize("child", ["input()"], indirect=True)
def test_who_waits_for_something_else_does_not(child: subprocess.Popen[bytes]) -> None:
    until(child, "S")
    assert not wants_processor(child.pid)


@pytest.mark.parametrize("child", ["pass"], indirect=True)
def test_who_is_gone_does_not(child: subprocess.Popen[bytes]) -> None:
    child.wait()
    assert not wants_processor(child.pid)
