"""Python processes that tests start (by the fixture `start`) and kill."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

Start = Callable[..., subprocess.Popen[str]]


def kill(process: subprocess.Popen[str]) -> None:
    """End a process at once, wherever it is."""
    with process:
        process.kill()
