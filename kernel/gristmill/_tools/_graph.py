"""Draws a checked recipe: as rows for a terminal, as Mermaid, as SVG.

What there is to draw comes from `_picture`, the layout of the SVG from `_graph_svg`. Invariant: no text of a recipe
becomes markup, a control sequence of the terminal, or a new line.
"""

from __future__ import annotations

import re

from gristmill._language._recipe import Recipe
from gristmill._tools._graph_svg import svg_of
from gristmill._tools._picture import Picture, cells, clean, picture_of

MOST_LANES = 24
"""A terminal shows no more edges side by side; a wider recipe is listed with what each step reads."""

_SYMBOLS = {"input": "○", "output": "◆"}
_CORNERS = {  # (goes on below, comes from the left, goes to the right)
    (True, False, True): "├", (True, True, False): "┤", (True, True, True): "┼",
    (False, False, True): "╰", (False, True, False): "╯", (False, True, True): "┴",
}  # fmt: skip


def draw_text(recipe: Recipe) -> str:
    """Return the recipe as rows for a terminal, with its edges as rails on the left."""
    picture = picture_of(recipe)
    title = clean(f"{recipe.name}: {recipe.description}" if recipe.description else recipe.name, 300)
    rails, wide = _rails(picture)
    boxes = list(picture.boxes.values())
    names = max(len(box.title) for box in boxes)
    details = max(cells(box.detail) for box in boxes)
    lines = [title, ""]
    for box, (rail, gap) in zip(boxes, rails, strict=True):
        pad = " " * (details - cells(box.detail))
        sources = picture.sources(box.key)
        after = ", ".join(source for source, order_only in sources.items() if order_only)
        marks = "".join(f"  [{mark}]" for mark in (*box.marks, *([f"after {after}"] if after else [])))
        reads = f"  <- {', '.join(sources)}" if wide and sources else ""
        lines.append(f"{rail}  {box.title:{names}}  {box.detail}{pad}{marks}{reads}".rstrip())
        lines += [gap.rstrip()] if gap is not None else []
    return "\n".join(lines)


def _rails(picture: Picture) -> tuple[list[tuple[str, str | None]], bool]:
    """Return what stands before each box, and a line below where two boxes would seem joined; and "too wide"."""
    pending: dict[str, dict[str, bool]] = {key: {} for key in picture.boxes}
    for (source, target), order_only in picture.edges.items():
        pending[source][target] = order_only
    lanes: list[str | None] = []
    rows: list[tuple[str, str | None]] = []
    for key, box in picture.boxes.items():
        joins = {lanes.index(source): order_only for source, order_only in picture.sources(key).items()}
        for source in picture.sources(key):
            del pending[source][key]
        ends = {i for i in joins if not pending[lanes[i] or ""]}
        free = [i for i, lane in enumerate(lanes) if lane is None]
        column = min(ends) if ends else free[0] if free else len(lanes)
        lanes += [None] * (column + 1 - len(lanes))
        row = _row(lanes, column, joins, ends, pending)
        row[2 * column] = _SYMBOLS.get(box.kind, "●")
        for i in ends:
            lanes[i] = None
        lanes[column] = key if pending[key] else None
        below = None if pending[key] or box.kind == "output" else "".join(_row(lanes, -1, {}, set(), pending))
        rows.append(("".join(row), below))
    width = max(len(row) for row, _ in rows)
    if len(lanes) > MOST_LANES:
        return [(_SYMBOLS.get(box.kind, "●"), None) for box in picture.boxes.values()], True
    return [(f"{row:{width}}", below) for row, below in rows], False


def _row(
    lanes: list[str | None], column: int, joins: dict[int, bool], ends: set[int], pending: dict[str, dict[str, bool]]
) -> list[str]:
    """Return one row's characters: two for each lane, the second being the gap to the next."""
    low, high = min([*joins, column]), max([*joins, column])
    row: list[str] = []
    for i, lane in enumerate(lanes):
        if i in joins and i != column:
            row.append(_CORNERS[i not in ends, i > low, i < high])
        elif lane is not None:
            row.append("┆" if pending[lane] and all(pending[lane].values()) else "│")
        else:
            row.append(_across(joins, column, i - 0.5, i + 0.5))
        row.append(_across(joins, column, i + 0.5, i + 0.5))
    return row[:-1]


def _across(joins: dict[int, bool], column: int, left: float, right: float) -> str:
    """Return the line that runs from the joined lanes to the column, between two places."""
    over = [order for i, order in joins.items() if min(i, column) <= left and right <= max(i, column)]
    return " " if not over else "╌" if all(over) else "─"


# -- Mermaid -----------------------------------------------------------------------------------------------------------

_SHAPES = {"input": ("([", "])"), "output": ("([", "])"), "recipe": ("[[", "]]")}


def draw_mermaid(recipe: Recipe) -> str:
    """Return the recipe as a Mermaid flowchart."""
    picture = picture_of(recipe)
    ids = {key: f"n{i}" for i, key in enumerate(picture.boxes)}
    lines = ["flowchart TD"]
    for key, box in picture.boxes.items():
        opening, closing = _SHAPES.get(box.kind, ("[", "]"))
        texts = [f"<b>{mermaid_text(box.title)}</b>", *map(mermaid_text, (box.detail, *box.marks))]
        label = "<br/>".join(text for text in texts if text)
        lines.append(f'    {ids[key]}{opening}"{label}"{closing}')
    for (source, target), order_only in picture.edges.items():
        lines.append(f"    {ids[source]} {'-.->' if order_only else '-->'} {ids[target]}")
    optional = ",".join(ids[key] for key, box in picture.boxes.items() if box.optional)
    if optional:
        lines += ["    classDef optional stroke-dasharray: 5 3", f"    class {optional} optional"]
    return "\n".join(lines)


def mermaid_text(text: str) -> str:
    """Return text for a quoted Mermaid label: all that could mean something there becomes an entity code."""
    return re.sub(r"[^\w .,/]", lambda match: f"#{ord(match.group())};", text)


def draw_svg(recipe: Recipe) -> str:
    """Return the recipe as a self-contained SVG document."""
    return svg_of(picture_of(recipe), title=clean(recipe.name), description=clean(recipe.description, 300))
