"""Prints what was measured: tables for a terminal. It computes nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import typer

from gristmill.commands import plural, print_table
from gristmill_plugins.evaluation._cost import Cost
from gristmill_plugins.evaluation._evaluate import Evaluated, Figure


def shown(figure: Figure) -> str:
    """Return "0.712 [0.659, 0.760]", or a dash where the figure does not exist."""
    if figure.value is None:
        return "-"
    known = figure.interval.low == figure.interval.low  # not a number is not itself
    return f"{figure.value:.3f} {figure.interval}" if known else f"{figure.value:.3f}"


def shown_p(p: float) -> str:
    """Return a p-value with four decimals, or "<0.0001": none is 0."""
    return f"{p:.4f}" if p >= 0.00005 else "<0.0001"


def print_evaluated(evaluated: Evaluated, n_rows: int) -> None:
    """Print a recipe's figures, its slices and what it cost."""
    typer.echo(f"{evaluated.name}: {plural(n_rows, 'row')}" + failures(evaluated))
    spread = evaluated.spread
    rows = [
        (name, shown(figure), f"{spread[name]:.3f}" if name in spread else "", str(figure.n))
        for name, figure in evaluated.figures.items()
    ]
    headings = ("metric", "value [95% interval]", "sd of repeats", "n")
    keep = (0, 1, 2, 3) if spread else (0, 1, 3)
    print_table([headings[i] for i in keep], [[row[i] for i in keep] for row in rows], right=[len(keep) - 1])
    for column, values in evaluated.slices.items():
        typer.echo("")
        table = [
            (value, *(shown(figure) for figure in figures.values()), str(max(f.n for f in figures.values())))
            for value, figures in values.items()
        ]
        print_table((column, *evaluated.figures, "n"), table, right=[len(evaluated.figures) + 1])
    print_leanings([evaluated])
    typer.echo("\n" + told_cost(evaluated.cost))


def print_leanings(evaluated: Sequence[Evaluated]) -> None:
    """Print what each recipe answers too often, after an empty line; nothing where none does."""
    found = [one for one in evaluated if one.leaning]
    if found:
        typer.echo("")
    for one in found:
        typer.echo(f"{one.name} leans: {one.leaning}")


def failures(evaluated: Evaluated) -> str:
    """Return ", 3 failed (they count as wrong)", or nothing."""
    return f", {evaluated.n_failed} failed (they count as wrong)" if evaluated.n_failed else ""


def told_cost(cost: Cost) -> str:
    """Return what a recipe cost on all rows, in one line."""
    fresh = cost.prompt_tokens + cost.completion_tokens
    parts = [
        f"{cost.seconds:.1f} s ({cost.n_rows / max(cost.seconds, 1e-9):.1f} rows/s)",
        plural(cost.calls, "model call"),
        f"{fresh:,} tokens ({cost.completion_tokens:,} written)",
    ]
    if cost.cached_tokens:
        parts.append(f"{cost.cached_tokens:,} tokens and {plural(cost.rows_cached, 'row')} from the cache")
    return ", ".join(parts)


def print_note(lines: Iterable[str]) -> None:
    """Print lines to standard error."""
    for line in lines:
        print(line, file=sys.stderr)


def print_lines(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> None:
    """Print a title and a table under it."""
    typer.echo(title)
    print_table(headings, rows, right=right)
