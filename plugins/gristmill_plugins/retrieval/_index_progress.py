"""How far an indexing run is: passages a second, and the time that is left.

It writes a line into the run's trace now and then, and measures nothing else. Invariant: the share that is done is
counted in bytes of files, which are known before the first is read.
"""

from __future__ import annotations

import time
from collections.abc import Callable

EVERY_S = 2.0


class Progress:
    """Tells how an indexing run goes on; the first line comes after two seconds, so that a short run says nothing."""

    def __init__(
        self, note: Callable[[str], None], n_files: int, n_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._note = note
        self._clock = clock
        self._n_files = n_files
        self._n_bytes = n_bytes
        self._files = self._chunks = 0
        self._bytes_before = self._bytes_within = 0
        self._began = self._told = clock()

    def chunks_done(self, n: int, n_bytes: int) -> None:
        """Count `n` more chunks; `n_bytes` of the present file are done."""
        self._chunks += n
        self._bytes_within = n_bytes
        self._tell()

    def file_done(self, n_bytes: int) -> None:
        """Count a file of so many bytes."""
        self._files += 1
        self._bytes_before += n_bytes
        self._bytes_within = 0
        self._tell()

    def publishing(self) -> None:
        """Say that the last part begins, if anything was said before."""
        if self._told > self._began:
            self._note(f"indexing: publishing {self._chunks:,} passages")

    def _tell(self) -> None:
        now = self._clock()
        if now - self._told < EVERY_S:
            return
        self._told = now
        spent_s = now - self._began
        done = self._bytes_before + self._bytes_within
        left = f", about {_duration(spent_s * (self._n_bytes - done) / done)} left" if done else ""
        self._note(
            f"indexing: {self._files:,} of {self._n_files:,} files, {self._chunks:,} passages"
            f" ({self._chunks / spent_s:,.0f}/s){left}"
        )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
