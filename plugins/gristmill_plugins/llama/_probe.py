"""Remember which builds of llama.cpp crash on this machine with their fast kernels.

GCC 12 miscompiles llama.cpp's AMX kernels (its tile-configuration intrinsic declares 8 of 64 bytes), so that
on an AMX host the default build dies on any prompt of two tokens or more; a one-token smoke test passes. So the
first load of a kind decodes a real prompt, and where that kills the process the load is repeated without
the extra buffer types that lead to those kernels. It starts no process itself. Invariant: a record is written
only after a load has succeeded, so a file that crashes every kernel leaves none.
"""

from __future__ import annotations

import contextlib
import json
import platform
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gristmill_plugins.llama._store import cache_folder, write_atomically

CRASHES = frozenset(-signal.Signals[name] for name in ("SIGSEGV", "SIGILL", "SIGBUS") if hasattr(signal, name))


@dataclass(frozen=True, slots=True)
class Attempt:
    """How to try a load: with which kernels, and whether to decode a prompt before it counts."""

    use_extra_bufts: bool
    probe: bool


def first_attempt(known: bool | None) -> Attempt:
    """Return how to load first: `known` is whether the extra buffer types work, None where nobody tried."""
    return Attempt(use_extra_bufts=known is not False, probe=known is None)


def next_attempt(tried: Attempt, *, exit_code: int | None, probing: bool) -> Attempt | None:
    """Return how to try again after an attempt ended the process, or None where that is the end of it."""
    if probing and tried.use_extra_bufts and exit_code in CRASHES:
        return Attempt(use_extra_bufts=False, probe=True)
    return None


def build_key(version: str, library: Path, weight_types: Iterable[object]) -> str:
    """Name what decides whether the fast kernels work: the build, the processor, the weights' formats."""
    try:
        stamp = library.stat().st_mtime_ns
    except OSError:
        stamp = 0
    types = "+".join(sorted({str(kind) for kind in weight_types}))
    return f"{version}|{stamp}|{_cpu_name()}|{types}"


class ProbeRecords:
    """A small JSON file in the cache folder; one that cannot be read or written is no error."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or cache_folder() / "llama-kernels.json"

    def get(self, key: str) -> bool | None:
        """Return whether the extra buffer types work for this build, or None where nobody tried."""
        value = self._read().get(key)
        return value if isinstance(value, bool) else None

    def put(self, key: str, works: bool) -> None:
        """Remember an outcome; what another process wrote meanwhile may be lost, and is then probed again."""
        records = self._read() | {key: works}
        with contextlib.suppress(OSError):
            write_atomically(self._path, json.dumps(records, indent=1, sort_keys=True).encode())

    def any_broken(self) -> bool:
        """Tell whether any build was found to crash with the extra buffer types."""
        return False in self._read().values()

    def _read(self) -> dict[str, object]:
        try:
            records = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return records if isinstance(records, dict) else {}


def _cpu_name() -> str:
    """Return the processor's model, as far as the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
