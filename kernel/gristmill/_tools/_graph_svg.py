"""The layered picture of a recipe as SVG: longest-path layers, few crossings, straight edges, nothing overlapping.

It knows boxes and edges, not recipes. Sugiyama's method: an edge over several layers runs through waypoints that hold a
place in each; layers are ordered by barycentres; places come from least squares that keep order and distance (pool
adjacent violators). Invariant: boxes never overlap and no edge runs through one; every text is escaped, cleaned and
inside a box; the document needs no font, script, style sheet or file but itself.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from gristmill._tools._picture import OUTPUT, Box, Picture, cells

GAP_X, GAP_Y, MARGIN = 28.0, 44.0, 16.0
TITLE_CELL, DETAIL_CELL, MARK_CELL = 9.9, 7.4, 6.9
"""Pixels a character takes at most in the fonts below (14, 12 and 11 pixels), measured in Chromium with DejaVu."""
MOST_MARKS_WIDTH = 250.0
SWEEPS = 12

_STYLE = """
.gm-box{fill:#ffffff;stroke:#c4ccd6}.gm-name{fill:#1f2328;font:600 14px system-ui,sans-serif}
.gm-detail{fill:#59636e;font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
.gm-mark{fill:#eaeef2}.gm-mark-text{fill:#424a53;font:11px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.gm-optional{stroke:#818b98;stroke-dasharray:5 3}
.gm-edge{fill:none;stroke:#818b98;stroke-width:1.5}.gm-order{stroke-dasharray:4 4}
.gm-tip{fill:#818b98}.gm-prompt{fill:#8250df}.gm-function{fill:#1f883d}.gm-recipe{fill:#bc4c00}
.gm-input{fill:#ddf4ff;stroke:#54aeff}.gm-output{fill:#dafbe1;stroke:#4ac26b}
@media (prefers-color-scheme:dark){
.gm-box{fill:#161b22;stroke:#3d444d}.gm-optional{stroke:#818b98}.gm-name{fill:#f0f6fc}.gm-detail{fill:#9198a1}
.gm-mark{fill:#2a313c}.gm-mark-text{fill:#d1d7e0}.gm-prompt{fill:#ab7df8}.gm-function{fill:#3fb950}
.gm-recipe{fill:#db6d28}.gm-input{fill:#0c2d4d;stroke:#316dca}.gm-output{fill:#0f3320;stroke:#2b6a3f}}
"""


@dataclass(slots=True)
class Place:
    """A box, or (without one) a waypoint of a long edge. `x` is its centre."""

    layer: int
    box: Box | None = None
    width: float = 2.0
    height: float = 0.0
    x: float = 0.0
    above: list[Place] = field(default_factory=list)
    below: list[Place] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Layout:
    places: Mapping[str, Place]
    layers: Sequence[Sequence[Place]]
    segments: Mapping[tuple[int, int], tuple[Place, Place, bool]]
    """Keyed by the ids of both ends; True is order only."""


def svg_of(picture: Picture, *, title: str, description: str) -> str:
    """Return the picture as one SVG document."""
    layout = lay_out(picture)
    tops: list[float] = [MARGIN]
    for layer in layout.layers:
        tops.append(tops[-1] + max((place.height for place in layer), default=0.0) + GAP_Y)
    left = min(place.x - place.width / 2 for layer in layout.layers for place in layer) - MARGIN
    for place in {id(p): p for layer in layout.layers for p in layer}.values():
        place.x -= left
    width = max(place.x + place.width / 2 for layer in layout.layers for place in layer) + MARGIN
    height = tops[-1] - GAP_Y + MARGIN
    body = [*_edges(layout, tops), *(_drawn(p, tops[p.layer]) for p in layout.places.values())]
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img">',
        f"<title>{escape(title)}</title>", f"<desc>{escape(description)}</desc>", f"<style>{_STYLE}</style>",
        '<defs><marker id="gm-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path class="gm-tip" d="M0 0L8 4L0 8Z"/></marker></defs>',
        *body, "</svg>",
    ])  # fmt: skip


def lay_out(picture: Picture) -> Layout:
    """Return a place for every box, with the edges cut into segments from one layer to the next."""
    ranks = _ranks(picture)
    places = {key: Place(ranks[key], box, *_size(box)) for key, box in picture.boxes.items()}
    layers: list[list[Place]] = [[] for _ in range(max(ranks.values()) + 1)]
    for place in places.values():
        layers[place.layer].append(place)
    segments: dict[tuple[int, int], tuple[Place, Place, bool]] = {}
    waypoints: dict[tuple[str, bool, int], Place] = {}  # shared by the edges of one box, so that they run together
    for (source, target), order_only in picture.edges.items():
        last = places[source]
        for rank in range(last.layer + 1, places[target].layer):
            point = waypoints.get((source, order_only, rank))
            if point is None:
                point = waypoints[source, order_only, rank] = Place(rank)
                layers[rank].append(point)
            _join(last, point, order_only, segments)
            last = point
        _join(last, places[target], order_only, segments)
    layers = _ordered(layers)
    _set_x(layers)
    return Layout(places, layers, segments)


def _join(
    upper: Place, lower: Place, order_only: bool, segments: dict[tuple[int, int], tuple[Place, Place, bool]]
) -> None:
    if (id(upper), id(lower)) not in segments:
        segments[id(upper), id(lower)] = (upper, lower, order_only)
        upper.below.append(lower)
        lower.above.append(upper)


def _ranks(picture: Picture) -> dict[str, int]:
    """Return each box's layer: steps as high as they can stand, inputs just above their first reader."""
    ranks = dict.fromkeys(picture.boxes, 0)
    for key, box in picture.boxes.items():
        if box.kind != "input":
            ranks[key] = max((ranks[source] + 1 for source in picture.sources(key)), default=0)
    ranks[OUTPUT] = max(ranks.values()) + (0 if ranks[OUTPUT] == max(ranks.values()) else 1)
    for key, box in picture.boxes.items():
        if box.kind == "input":
            ranks[key] = min((ranks[t] - 1 for s, t in picture.edges if s == key), default=0)
    return ranks


def _ordered(layers: list[list[Place]]) -> list[list[Place]]:
    """Return the layers ordered by barycentres, down and up in turn; the order with the fewest crossings is kept."""
    best, fewest = [list(layer) for layer in layers], _crossings(layers)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for layer in layers if down else reversed(layers):
            _sort_layer(layer, layers, down)
        crossings = _crossings(layers)
        if crossings < fewest:
            best, fewest = [list(layer) for layer in layers], crossings
    return best


def _sort_layer(layer: list[Place], layers: list[list[Place]], down: bool) -> None:
    if not layer:
        return
    beside = layer[0].layer + (-1 if down else 1)
    if not 0 <= beside < len(layers):
        return
    at = {id(place): i for i, place in enumerate(layers[beside])}
    own = {id(place): float(i) for i, place in enumerate(layer)}

    def barycentre(place: Place) -> float:
        near = place.above if down else place.below
        return sum(at[id(other)] for other in near) / len(near) if near else own[id(place)]

    layer.sort(key=barycentre)


def _crossings(layers: Sequence[Sequence[Place]]) -> int:
    total = 0
    for upper, lower in itertools.pairwise(layers):
        at = {id(place): i for i, place in enumerate(lower)}
        seen: list[int] = []
        for place in upper:
            ends = sorted(at[id(other)] for other in place.below)
            total += sum(len(seen) - bisect.bisect_right(seen, end) for end in ends)
            for end in ends:
                bisect.insort(seen, end)
    return total


def _set_x(layers: Sequence[Sequence[Place]]) -> None:
    for layer in layers:
        _settle(layer, [0.0] * len(layer))
    for sweep in range(SWEEPS):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            _settle(layer, [_wanted_x(place, sweep) for place in layer])


def _wanted_x(place: Place, sweep: int) -> float:
    near = place.above + place.below if sweep >= SWEEPS - 2 else place.above if sweep % 2 == 0 else place.below
    return sum(other.x for other in near) / len(near) if near else place.x


def _settle(layer: Sequence[Place], wanted: Iterable[float]) -> None:
    """Place a layer as near to what is wanted as order and distance allow: isotonic regression, waypoints stiffer."""
    offsets = [0.0]
    for left, right in itertools.pairwise(layer):
        offsets.append(offsets[-1] + (left.width + right.width) / 2 + GAP_X)
    blocks: list[tuple[float, float, int]] = []  # mean, weight, how many places
    for place, x, offset in zip(layer, wanted, offsets, strict=False):
        mean, weight, count = x - offset, 1.0 if place.box else 3.0, 1
        while blocks and blocks[-1][0] >= mean:
            other, other_weight, other_count = blocks.pop()
            mean = (mean * weight + other * other_weight) / (weight + other_weight)
            weight, count = weight + other_weight, count + other_count
        blocks.append((mean, weight, count))
    means = [mean for mean, _, count in blocks for _ in range(count)]
    for place, mean, offset in zip(layer, means, offsets, strict=False):
        place.x = mean + offset


# -- drawing -----------------------------------------------------------------------------------------------------------


def _mark_rows(box: Box) -> list[list[tuple[str, float]]]:
    """Return the marks with their widths, wrapped."""
    rows: list[list[tuple[str, float]]] = []
    room = 0.0
    for mark in box.marks:
        width = cells(mark) * MARK_CELL + 12
        if not rows or room < width:
            rows.append([])
            room = MOST_MARKS_WIDTH
        rows[-1].append((mark, width))
        room -= width + 6
    return rows


def _size(box: Box) -> tuple[float, float]:
    rows = [sum(width + 6 for _, width in row) - 6 for row in _mark_rows(box)]
    text = max(cells(box.title) * TITLE_CELL, cells(box.detail) * DETAIL_CELL, *rows, 60.0)
    return text + 28, 50.0 + 23 * len(rows)


def _drawn(place: Place, top: float) -> str:
    box = place.box
    assert box is not None
    x, y, width, height = place.x - place.width / 2, top, place.width, place.height
    end = box.kind in ("input", "output")
    shape = f"gm-box gm-{box.kind}" if end else "gm-box gm-optional" if box.optional else "gm-box"
    parts = [f'<rect class="{shape}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
             f'rx="{16 if end else 8}"/>']  # fmt: skip
    if not end:
        parts.append(f'<rect class="gm-{box.kind}" x="{x + 7:.1f}" y="{y + 10:.1f}" width="4" '
                     f'height="{height - 20:.1f}" rx="2"/>')  # fmt: skip
    inner = x + (14 if end else 18)
    parts.append(f'<text class="gm-name" x="{inner:.1f}" y="{y + 21:.1f}">{escape(box.title)}</text>')
    parts.append(f'<text class="gm-detail" x="{inner:.1f}" y="{y + 39:.1f}">{escape(box.detail)}</text>')
    for i, row in enumerate(_mark_rows(box)):
        at = inner
        for mark, wide in row:
            parts.append(f'<rect class="gm-mark" x="{at:.1f}" y="{y + 47 + 23 * i:.1f}" width="{wide:.1f}" '
                         f'height="18" rx="9"/>')  # fmt: skip
            parts.append(f'<text class="gm-mark-text" x="{at + 6:.1f}" y="{y + 60 + 23 * i:.1f}">{escape(mark)}</text>')
            at += wide + 6
    return "\n".join(parts)


def _edges(layout: Layout, tops: Sequence[float]) -> list[str]:
    """Return the segments as curves between layers; they run straight down through a layer, beside its boxes."""
    drawn = []
    for upper, lower, order_only in layout.segments.values():
        start, leave = tops[upper.layer] + upper.height, tops[upper.layer + 1] - GAP_Y
        x1, x2, end = upper.x, _port(lower, upper), tops[lower.layer]
        middle = (leave + end) / 2
        path = f"M{x1:.1f} {start:.1f}V{leave:.1f}C{x1:.1f} {middle:.1f} {x2:.1f} {middle:.1f} {x2:.1f} {end:.1f}"
        tip = ' marker-end="url(#gm-tip)"' if lower.box else ""
        drawn.append(f'<path class="gm-edge{" gm-order" if order_only else ""}" d="{path}"{tip}/>')
    return drawn


def _port(place: Place, source: Place) -> float:
    """Return where an edge enters: side by side, in the order of where they come from."""
    if place.box is None or len(place.above) == 1:
        return place.x
    apart = min(18.0, (place.width - 40) / (len(place.above) - 1))
    index = sorted(place.above, key=lambda other: other.x).index(source)
    return place.x + (index - (len(place.above) - 1) / 2) * apart
