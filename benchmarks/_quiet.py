"""Notice what else the machine does while something is measured.

Linux tells how busy the processors were and how much of that was ours: this process with all that it started. The rest
is a disturbance, as a share of all processors. It measures no benchmark and ends no process. Elsewhere it sees none.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
LIMIT = 0.05
"""Others may use so much of the processors in a round that counts: a twentieth."""


class Watch:
    """The share of the processors that others used since the last look."""

    def __init__(self) -> None:
        self._last = self._look()

    def others(self) -> float:
        """Return the share since the last call, from 0 to 1."""
        before, self._last = self._last, self._look()
        at, busy, ours = (now - then for now, then in zip(self._last, before, strict=True))
        return max(0.0, (busy - ours) / max(at * (os.cpu_count() or 1), 1e-9))

    def wait(self, most_s: float) -> None:
        """Wait until others rest, or for so long."""
        end = time.monotonic() + most_s
        while True:
            self._last = self._look()
            time.sleep(0.5)
            if self.others() <= LIMIT or time.monotonic() > end:
                return

    @staticmethod
    def _look() -> tuple[float, float, float]:
        """Return the time, how long processors were busy, and how long with us, in seconds."""
        if not Path("/proc/stat").exists():
            return time.monotonic(), 0.0, 0.0
        ticks = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        busy = sum(ticks) - ticks[3] - ticks[4]  # all but idle and waiting for disks
        return time.monotonic(), busy * TICK_S, family_s(os.getpid())


def family_s(root: int) -> float:
    """Return the processor seconds of a process, of what it started, and of what they have waited for."""
    used: dict[int, int] = {}
    children: dict[int, list[int]] = defaultdict(list)
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children[int(fields[1])].append(int(folder.name))
        used[int(folder.name)] = sum(map(int, fields[11:15]))  # user, system, and both of children that ended
    family, found = [root], 0
    while family:
        found += used.get(family[-1], 0)
        family += children.get(family.pop(), [])
    return found * TICK_S
