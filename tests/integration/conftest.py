"""What several of these tests start."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.integration.processes import Start, kill


@pytest.fixture
def start() -> Iterator[Start]:
    """Start Python with `code` and `arguments`; warnings are errors there, and nothing outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def run(code: str, *arguments: str, log: Path | None = None) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "error", "-c", code, *arguments]
        with ExitStack() as stack:
            stdout = stack.enter_context(log.open("w")) if log else subprocess.PIPE
            started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stdout, text=True))
        return started[-1]

    yield run
    for process in started:
        kill(process)
