"""`gristmill cache audit`: the curve of true and false semantic hits, as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gristmill._semantic._audit import THRESHOLDS, Audit, audit, read_pairs

if TYPE_CHECKING:
    from gristmill._kernel import Kernel


def print_audit(kernel: Kernel, paths: Sequence[Path], thresholds: Sequence[float] | None, *, as_json: bool) -> None:
    """Measure and print."""
    from gristmill._memory._open import DEFAULT_EMBEDDER

    pairs = read_pairs(paths)
    found: Audit = kernel.wait(audit(pairs, kernel.embedder(DEFAULT_EMBEDDER), thresholds or THRESHOLDS))
    if as_json:
        typer.echo(json.dumps(asdict(found)))
        return
    typer.echo(f"{found.n_same} pairs that one answer serves, {found.n_different} that it does not")
    typer.echo("semantic   true hits   false hits   by cosine alone: true   false")
    for point in found.points:
        typer.echo(
            f"{point.threshold:>8.2f}   {_share(point.true_hits, found.n_same):>9}   {point.false_hits:>10}"
            f"   {_share(point.true_hits_by_cosine, found.n_same):>21}   {point.false_hits_by_cosine:>5}"
        )


def _share(n: int, of: int) -> str:
    return f"{n / of:.1%}" if of else "-"
