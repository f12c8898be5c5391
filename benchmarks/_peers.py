"""Peers of gristmill, each in a virtual environment of its own, measured side by side.

`environment` makes the environment under `benchmarks/.peers` (which git ignores) with uv; `Worker` keeps a script
running in it and asks it for one block of measurements after another, so that several peers take turns within
one run while the others sleep. Only the standard library is imported here: scripts import this module in every
environment. It measures nothing itself.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def environment(name: str, requirements: Sequence[str]) -> Path:
    """Return the Python of the environment `name`, made anew when its requirements have changed."""
    folder = HERE / ".peers" / name
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    stamp = folder / "requirements.json"
    wanted = json.dumps(list(requirements))
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"making the environment of {name}: {' '.join(requirements)}", file=sys.stderr)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    subprocess.run(["uv", "venv", "--quiet", "--clear", "--python", version, str(folder)], check=True)
    subprocess.run(["uv", "pip", "install", "--quiet", "--python", str(python), *requirements], check=True)
    stamp.write_text(wanted)
    return python


def versions(python: Path) -> dict[str, str]:
    """Return the version of every package in an environment."""
    command = ["uv", "pip", "list", "--quiet", "--format", "json", "--python", str(python)]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {package["name"]: package["version"] for package in json.loads(listed)}


class Worker:
    """A script that runs in an environment and answers `call`; a context manager, so that nothing outlives a run."""

    def __init__(self, python: Path, script: Path, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [str(python), str(script), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def call(self, what: str, **parameters: Any) -> Any:
        """Run the function `what` of the worker and return its result."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([what, parameters]), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait()} in {what!r}; see above")
        return json.loads(answer)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process, suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()


def serve(functions: Mapping[str, Callable[..., Any]]) -> None:
    """Be a worker: answer calls until the other side ends. What the functions print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        what, parameters = json.loads(line)
        print(json.dumps(functions[what](**parameters)), file=answers, flush=True)


def clock(work: Sequence[Callable[[], Any]]) -> list[int]:
    """Return how long each piece of work took, in nanoseconds."""
    now = time.perf_counter_ns
    taken = []
    for piece in work:
        start = now()
        piece()
        taken.append(now() - start)
    return taken


def summary(taken_ns: Sequence[int]) -> dict[str, float]:
    """Return median and quartiles in microseconds."""
    low, median, high = statistics.quantiles(taken_ns, n=4)
    return {"median_us": median / 1000, "q1_us": low / 1000, "q3_us": high / 1000, "n": len(taken_ns)}


def load() -> float:
    """Return how many processes were running or waiting to, on average over the last minute."""
    return round(os.getloadavg()[0], 2)
