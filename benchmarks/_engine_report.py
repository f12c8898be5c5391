"""Rows of numbers that contenders reached, and how they are shown.

It measures nothing. Invariant: every value that was measured is kept, beside the median that is shown.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

OURS = "gristmill"


@dataclass
class Row:
    """One line of the table: what every contender reached, and what was aimed at."""

    name: str
    unit: str
    aims: Mapping[str, float] = field(default_factory=dict)
    """Contender to how many times its rate ours should be, or how many times sooner we should be done."""
    reference: str = OURS
    found: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, contender: str, value: float) -> None:
        self.found.setdefault(contender, []).append(value)

    def shrink(self, sizes: Mapping[str, int]) -> None:
        """Drop the values that came after there were so many of each contender."""
        self.found = {name: values[: sizes[name]] for name, values in self.found.items() if sizes.get(name)}

    def median(self, contender: str) -> float:
        return statistics.median(self.found[contender])

    def compares(self, contender: str) -> bool:
        """Whether a comparison with ours says anything."""
        return (
            self.reference in self.found
            and contender != self.reference
            and (contender in self.aims or self.reference == OURS)
        )

    def times(self, contender: str) -> float:
        """Return how many times as fast as a contender ours is."""
        ours, theirs = self.median(self.reference), self.median(contender)
        return theirs / ours if self.unit in ("s", "ms") else ours / theirs

    def as_json(self) -> dict[str, Any]:
        medians = {contender: self.median(contender) for contender in self.found}
        return {
            "name": self.name, "unit": self.unit, "aims": dict(self.aims), "median": medians,
            "times": {contender: self.times(contender) for contender in self.found if self.compares(contender)},
            "values": self.found,
            "notes": self.notes,
        }  # fmt: skip


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown: for each contender, the median, the spread, and ours as a multiple."""
    lines = ["| work | contender | median | lowest to highest | gristmill is | aim |", "|---|---|---:|---:|---:|---:|"]
    for row in rows:
        for number, (name, values) in enumerate(row.found.items()):
            aim = f"{row.aims[name]:g} x" if name in row.aims else ""
            times = f"{row.times(name):.2f} x" if row.compares(name) else ""
            spread = f"{_shown(min(values))} to {_shown(max(values))}"
            work = f"{row.name}, {row.unit}" if number == 0 else ""
            lines.append(f"| {work} | {name} | {_shown(row.median(name))} | {spread} | {times} | {aim} |")
    notes = [f"- {row.name}: {note}" for row in rows for note in row.notes]
    return "\n".join([*lines, "", *notes])


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def machine() -> dict[str, Any]:
    """Describe what the numbers were made on."""
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "llama-cpp-python": version("llama-cpp-python"),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text(errors="replace").splitlines() if Path(path).exists() else []
