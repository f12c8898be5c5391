"""What this machine has to give a model: threads and memory. It reads numbers and decides nothing.

Invariant: a number that the system does not tell is None, or the most careful guess.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BYTES_OF = {"f32": 4.0, "f16": 2.0, "q8_0": 34 / 32}
"""Bytes of a number in the cache, by its type."""


def default_threads() -> int:
    """Return the number of physical cores this process may use, within a container's share of the processor.

    A second thread on a core slows llama.cpp down: its threads wait for one another by spinning.
    """
    allowed = _allowed_cores()
    n_threads = _count_physical(allowed) or max(1, len(allowed))
    share = _cpu_share()
    return n_threads if share is None else max(1, min(n_threads, math.ceil(share)))


def wants_processor(pid: int) -> bool:
    """Tell whether the main thread of a process runs, could run, or waits for a disk.

    False where the system does not say, and of a process that sleeps, was stopped or is gone.
    """
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("R", "D")
    return False


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


def free_bytes() -> int | None:
    """Return how much memory could be given to a new process without swapping; None where nobody says."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return min(int(line.split()[1]) << 10, _container_free_bytes())
    return None


def _container_free_bytes() -> int:
    """Return what is left of the container's limit, or a very large number where there is none."""
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        return max(0, limit - int((group / "memory.current").read_text(encoding="ascii")))
    return 1 << 62


def cache_bytes(metadata: Mapping[str, Any], architecture: str, n_tokens: int, cache_type: str = "f16") -> int:
    """Estimate the size of a key-value cache; 0 where the file does not say enough."""

    def number(key: str) -> int:
        value = metadata.get(f"{architecture}.{key}", 0)
        values = value if isinstance(value, list | tuple) else (value,)
        return max((item for item in values if isinstance(item, int)), default=0)

    n_heads = number("attention.head_count") or 1
    n_kv_heads = number("attention.head_count_kv") or n_heads
    width = number("embedding_length") // n_heads
    per_head = (number("attention.key_length") or width) + (number("attention.value_length") or width)
    return number("block_count") * n_kv_heads * per_head * int(32 * BYTES_OF[cache_type]) * n_tokens // 32
