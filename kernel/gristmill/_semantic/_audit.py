"""How often semantic answers would be right and wrong, measured on labelled pairs of prompts.

It asks no model. A pair is `{"text_a": ..., "text_b": ..., "label": 1}`: 1 where one answer serves both, 0 where it
does not; `{"texts": [one, other, ...], "label": ...}` pairs the first with each other. Invariant: what counts as a hit
is decided by the code that decides it in a run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gristmill._errors import UsageError
from gristmill._semantic._likeness import may_share

if TYPE_CHECKING:
    from gristmill._models import Embedder

THRESHOLDS = (0.8, 0.85, 0.9, 0.92, 0.95, 0.97, 0.98, 0.99)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two prompts, and whether one answer serves both."""

    one: str
    other: str
    same: bool


@dataclass(frozen=True, slots=True)
class Point:
    """What a threshold comes to: hits by the cosine alone, and with what must match exactly."""

    threshold: float
    true_hits: int
    false_hits: int
    true_hits_by_cosine: int
    false_hits_by_cosine: int


@dataclass(frozen=True, slots=True)
class Audit:
    """The curve over thresholds."""

    n_same: int
    n_different: int
    points: tuple[Point, ...]


def read_pairs(paths: Iterable[Path]) -> list[Pair]:
    """Return the pairs of JSON Lines files; texts that are equal are no pair.

    Raises:
        UsageError: a file cannot be read, or a line is no pair; the message has its number.
    """
    return [pair for path in paths for pair in _read(path) if pair.one != pair.other]


def _read(path: Path) -> Iterator[Pair]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    for n, line in enumerate(lines, start=1):
        if line.strip():
            yield from _pairs(path, n, line)


def _pairs(path: Path, n: int, line: str) -> Iterator[Pair]:
    try:
        row: Any = json.loads(line)
        texts = row["texts"] if "texts" in row else [row["text_a"], row["text_b"]]
        same = {0: False, 1: True}[row["label"]]
        first, *others = texts
    except (ValueError, KeyError, TypeError) as error:
        hint = 'a line is {"text_a": "...", "text_b": "...", "label": 0 or 1}'
        raise UsageError(f"{path}:{n}: no labelled pair: {type(error).__name__}: {error}", hint=hint) from error
    for other in others:
        if not isinstance(first, str) or not isinstance(other, str):
            raise UsageError(f"{path}:{n}: no labelled pair: its texts are no texts")
        yield Pair(first, other, same)


async def audit(pairs: Sequence[Pair], embedder: Embedder, thresholds: Sequence[float] = THRESHOLDS) -> Audit:
    """Return how many pairs hit at each threshold."""
    import numpy as np

    if not pairs:
        raise UsageError("there is no pair to audit")
    ones = await embedder.embed([pair.one for pair in pairs])
    others = await embedder.embed([pair.other for pair in pairs])
    cosines = np.einsum("ij,ij->i", ones, others)
    same = np.array([pair.same for pair in pairs])
    fitting = np.array([may_share(pair.one, pair.other) for pair in pairs])
    points = []
    for threshold in sorted(thresholds):
        near = cosines >= threshold
        counts = (near & fitting & same, near & fitting & ~same, near & same, near & ~same)
        points.append(Point(threshold, *(int(count.sum()) for count in counts)))
    return Audit(int(same.sum()), int((~same).sum()), tuple(points))
