"""Says on standard error how far a long piece of work is: its rate, and the time left.

A terminal gets one line that is written over; anything else gets a line now and then. It writes nothing else.
"""

from __future__ import annotations

import sys
import time
from typing import Self

ON_TERMINAL_S = 0.2
ELSEWHERE_S = 15.0
LEAST_S = 0.5
"""A rate of less time than this is noise."""


class Progress:
    """Call `update` as often as you like; it writes when a line is due."""

    def __init__(self, noun: str, *, quiet: bool = False) -> None:
        self._noun = noun
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._every_s = ON_TERMINAL_S if self._terminal else ELSEWHERE_S
        self._started: float | None = None
        self._first = self._last = 0
        self._told = time.monotonic()
        self._shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown and self._terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def update(self, done: int, failed: int, total: int) -> None:
        """Say that so many of about `total` are done, `failed` of them without success."""
        now = time.monotonic()
        if self._started is None or done <= self._last:  # the first, or another recipe's first
            self._started, self._first = now, done - 1
        self._last = done
        if self._quiet or now - self._told < self._every_s:
            return
        self._told = now
        line = self.line(done, failed, total, now - self._started)
        sys.stderr.write(f"\r\x1b[K{line}" if self._terminal else line + "\n")
        sys.stderr.flush()
        self._shown = True

    def line(self, done: int, failed: int, total: int, elapsed_s: float) -> str:
        """Return what is shown: "1,200 of 5,000 rows, 3 failed, 85.3 rows/s, 0:44 left"."""
        rate = (done - self._first) / max(elapsed_s, 1e-9)
        parts = [f"{done:,} of {max(total, done):,} {self._noun}"]
        if failed:
            parts.append(f"{failed:,} failed")
        if elapsed_s >= LEAST_S:
            parts.append(f"{rate:,.1f} {self._noun}/s")
        if total > done and elapsed_s >= LEAST_S:
            left_s = round((total - done) / max(rate, 1e-9))
            parts.append(f"{left_s // 3600}:{left_s // 60 % 60:02}:{left_s % 60:02} left")
        return ", ".join(parts)
