"""llama-server itself, which xllamacpp runs in a process of its own, for tests that ask it or compare with it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
BEGIN = """\
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.hostnames, params.port = sys.argv[1], ["127.0.0.1"], 0
"""
END = """
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@contextmanager
def llama_server(weights: Path, settings: str, *arguments: str) -> Iterator[str]:
    """Yield the address of a server of some weights; it ends with the block, and the test is skipped without one.

    `settings` are lines of Python that fill in `params`; they find `arguments` from `sys.argv[2]` on.
    """
    sys.path.append(str(BENCHMARKS))
    try:
        from _peers import environment

        python = environment("xllamacpp", ["xllamacpp==2026.10.11549"])
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"xllamacpp's environment cannot be made: {error}")
    finally:
        sys.path.pop()
    command = [str(python), "-c", BEGIN + settings + END, str(weights), *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            if not address:
                pytest.skip(f"xllamacpp's server does not start here: exit code {process.wait()}")
            yield address
        finally:
            process.kill()
