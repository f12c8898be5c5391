"""The loss of a training run over its steps, kept as JSONL and drawn as SVG.

It draws with text alone. Invariant: a line that was written is whole, or is dropped when it is read again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, MARGIN = 640, 320, 44


class Curve:
    """Rows {step, loss, ...} (one a step) and {step, held_out, ...} (one an evaluation), in the order of the run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: list[dict[str, Any]] = []

    def resume(self, step: int) -> None:
        """Read what an earlier run wrote, and drop what came after `step`."""
        kept = []
        for line in self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else ():
            try:
                row = json.loads(line)
            except ValueError:  # the line that a kill cut off
                break
            if row["step"] <= step:
                kept.append(row)
        self.rows = kept
        temporary = self._path.with_suffix(".part")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        os.replace(temporary, self._path)

    def add(self, **row: Any) -> None:
        """Append one row to the file."""
        self.rows.append(row)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def draw(self, path: Path, title: str) -> None:
        """Write the curve as SVG: each step's loss in grey, its running mean, and the held-out loss."""
        path.write_text(svg(self.rows, title), encoding="utf-8")


def svg(rows: list[dict[str, Any]], title: str) -> str:
    """Return the drawing; loss in nats a token over steps."""
    trained = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    held = [(row["step"], row["held_out"]) for row in rows if "held_out" in row]
    points = trained + held or [(0, 0.0)]
    last = max(step for step, _ in points) or 1
    top = max(loss for _, loss in points) or 1.0

    def place(step: float, loss: float) -> str:
        x = MARGIN + (WIDTH - 2 * MARGIN) * step / last
        return f"{x:.1f},{HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * loss / top:.1f}"

    def line(path: list[tuple[int, float]], colour: str, width: float) -> str:
        way = " ".join(place(*point) for point in path)
        return f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="{width}"/>'

    mean, smooth = trained[0][1] if trained else 0.0, []
    for step, loss in trained:
        mean += 0.1 * (loss - mean)
        smooth.append((step, mean))
    safe = title.replace("&", "&amp;").replace("<", "&lt;")
    corners = f"{place(0, top)} {place(0, 0)} {place(last, 0)}"
    dots = "".join(
        f'<circle cx="{at.split(",")[0]}" cy="{at.split(",")[1]}" r="3" fill="#c2410c"/>'
        for at in (place(*point) for point in held)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
        f'<text x="{MARGIN}" y="20" font-size="14">{safe}</text>'
        f'<polyline points="{corners}" fill="none" stroke="#888"/>'
        f'<text x="4" y="{MARGIN + 4}">{top:.2f}</text><text x="4" y="{HEIGHT - MARGIN}">0</text>'
        f'<text x="{WIDTH - MARGIN - 20}" y="{HEIGHT - MARGIN + 18}">step {last}</text>'
        f"{line(trained, '#cbd5e1', 1)}{line(smooth, '#1d4ed8', 2)}{line(held, '#c2410c', 1.5)}{dots}"
        f'<text x="{WIDTH - 210}" y="20" fill="#1d4ed8">loss</text>'
        f'<text x="{WIDTH - 170}" y="20" fill="#c2410c">held out, nats a token</text></svg>\n'
    )
