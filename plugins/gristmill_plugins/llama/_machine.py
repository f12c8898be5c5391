"""How many threads this process may keep busy. It decides nothing else about the machine."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path


def default_threads() -> int:
    """Return the number of physical cores this process may use, within a container's share of the processor.

    A second thread on a core slows llama.cpp down: its threads wait for one another by spinning.
    """
    allowed = _allowed_cores()
    n_threads = _count_physical(allowed) or max(1, len(allowed))
    share = _cpu_share()
    return n_threads if share is None else max(1, min(n_threads, math.ceil(share)))


def _allowed_cores() -> frozenset[int]:
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _count_physical(allowed: frozenset[int]) -> int:
    """Return how many physical cores the allowed logical ones make up; 0 where the system does not say."""
    cores = set()
    with contextlib.suppress(OSError):
        for number in allowed:
            siblings = Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list")
            cores.add(siblings.read_text(encoding="ascii").strip())
        return len(cores)
    return 0


def _cpu_share() -> float | None:
    """Return the container's limit in processors, or None where there is none."""
    with contextlib.suppress(OSError, ValueError):
        quota, _, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").partition(" ")
        return int(quota) / int(period)
    return None
