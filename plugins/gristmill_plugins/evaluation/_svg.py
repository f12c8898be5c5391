"""Draws small pictures as SVG text: bars of reliability, quality against cost, differences with their intervals.

Every picture is one self-contained `<svg>` with its numbers as titles, readable in light and dark, without scripts or
fonts from elsewhere. It computes nothing but places. Invariant: text from data is escaped, whatever it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from gristmill_plugins.evaluation._compare import Point
from gristmill_plugins.evaluation._set_metrics import Bin

WIDTH, HEIGHT = 560, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 16, 44


def _svg(body: Sequence[str], label: str, height: int = HEIGHT) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label, quote=True)}" class="picture">'
    return "\n".join([head, *body, "</svg>"])


def _text(x: float, y: float, text: str, *, anchor: str = "middle", kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


class _Frame:
    """Maps data to places, and draws axes."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self.x0, self.x1 = x if x[0] < x[1] else (x[0] - 1, x[1] + 1)
        self.y0, self.y1 = y if y[0] < y[1] else (y[0] - 0.05, y[1] + 0.05)

    def x(self, value: float) -> float:
        return LEFT + (value - self.x0) / (self.x1 - self.x0) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.y0) / (self.y1 - self.y0) * (HEIGHT - TOP - BOTTOM)

    def axes(self, x_label: str, y_label: str) -> list[str]:
        body = []
        for step in range(5):
            x = self.x0 + step * (self.x1 - self.x0) / 4
            y = self.y0 + step * (self.y1 - self.y0) / 4
            body.append(_line(LEFT, self.y(y), WIDTH - RIGHT, self.y(y), "grid"))
            body.append(_text(LEFT - 6, self.y(y) + 4, f"{y:.2f}", anchor="end", kind="tick"))
            body.append(_text(self.x(x), HEIGHT - BOTTOM + 16, f"{x:,.4g}", kind="tick"))
        body.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_label, kind="label"))
        middle = (TOP + HEIGHT - BOTTOM) / 2
        body.append(f'<text transform="translate(14 {middle:.0f}) rotate(-90)" text-anchor="middle" class="label">'
                    f"{escape(y_label)}</text>")  # fmt: skip
        return body


def reliability_picture(bars: Sequence[Bin]) -> str:
    """Draw accuracy against confidence: on the diagonal, a confidence means what it says."""
    frame = _Frame((0, 1), (0, 1))
    body = frame.axes("confidence", "accuracy")
    most = max((bar.n for bar in bars), default=1)
    for bar in bars:
        x, width = frame.x(bar.low) + 1, frame.x(bar.high) - frame.x(bar.low) - 2
        y = frame.y(bar.accuracy)
        title = f"{bar.n} answers, confidence {bar.confidence:.2f}, accuracy {bar.accuracy:.2f}"
        body.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{frame.y(0) - y:.1f}" class="bar" '
            f'opacity="{0.35 + 0.65 * bar.n / most:.2f}"><title>{title}</title></rect>'
        )
        body.append(_text(x + width / 2, min(y - 4, frame.y(0) - 4), str(bar.n), kind="tick"))
    body.append(_line(frame.x(0), frame.y(0), frame.x(1), frame.y(1), "diagonal"))
    return _svg(body, "Reliability: accuracy of the answers of each confidence")


def front_picture(points: Sequence[Point], metric: str) -> str:
    """Draw a metric against tokens of a row, with the Pareto front as a line."""
    costs, values = [point.cost for point in points], [point.value for point in points]
    room_x, room_y = (max(costs) - min(costs)) * 0.15 or 1, (max(values) - min(values)) * 0.2 or 0.05
    frame = _Frame((max(0, min(costs) - room_x), max(costs) + room_x), (min(values) - room_y, max(values) + room_y))
    body = frame.axes("tokens of a row", metric)
    front = sorted((point for point in points if point.front), key=lambda point: point.cost)
    path = " ".join(f"{frame.x(point.cost):.1f},{frame.y(point.value):.1f}" for point in front)
    body.append(f'<polyline points="{path}" class="front"/>')
    for point in points:
        x, y = frame.x(point.cost), frame.y(point.value)
        kind = "dot on" if point.front else "dot"
        title = f"{point.name}: {metric} {point.value:.3f}, {point.cost:,.0f} tokens"
        body.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" class="{kind}"><title>{escape(title)}</title></circle>')
        body.append(_text(x, y - 10, point.name, kind="name"))
    return _svg(body, f"{metric} against cost")


def differences_picture(rows: Sequence[dict[str, Any]]) -> str:
    """Draw each difference as a point in its interval; what crosses the line at 0 may be chance."""
    ends = [0.0, *(row["interval"][end] for row in rows for end in ("low", "high") if row["interval"][end] is not None)]
    frame = _Frame((min(ends) - 0.01, max(ends) + 0.01), (0, 1))
    height = 40 + 44 * len(rows)
    body = [_line(frame.x(0), 8, frame.x(0), height - 28, "zero"), _text(frame.x(0), height - 12, "0", kind="tick")]
    for end in (frame.x0, frame.x1):
        body.append(_text(frame.x(end), height - 12, f"{end:+.2f}", kind="tick"))
    for place, row in enumerate(rows):
        y, interval = 36 + 44 * place, row["interval"]
        name = f"{row['second']} - {row['first']}, {row['metric']}: {row['value']:+.3f}"
        body.append(_text(LEFT, y - 12, name, anchor="start", kind="name"))
        if interval["low"] is not None and interval["high"] is not None:
            body.append(_line(frame.x(interval["low"]), y, frame.x(interval["high"]), y, "whisker"))
        kind = "dot on" if row["better"] else "dot"
        body.append(f'<circle cx="{frame.x(row["value"]):.1f}" cy="{y}" r="5" class="{kind}"/>')
    return _svg(body, "Differences with their intervals", height)
