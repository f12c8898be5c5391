"""What a command of the command line is made with, gristmill's own and those that plugin packages bring.

    [project.entry-points."gristmill.commands"]
    lint = "my_package.commands:app"          # a typer.Typer: with one command, that command; with several, a group

A module that such an entry point names is imported to print `gristmill --help`, so it imports typer and nothing heavy.
Here are the options that commands share, and how inputs and overrides are read; no command is defined here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from gristmill._kernel import Kernel
    from gristmill._runnable import RunnableRecipe

__all__ = [
    "JsonOption", "ModelOption", "PluginOption", "RecipeArgument", "SetOption",
    "plural", "print_table", "printable", "read_document", "read_inputs", "read_overrides",
]  # fmt: skip

RecipeArgument = Annotated[str, typer.Argument(help="A recipe's name (`gristmill list`) or path.", show_default=False)]
PluginOption = Annotated[
    list[str] | None, typer.Option("--plugin", metavar="FILE.py", help="Use a plugin that is not installed.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="STEP.KEY=VALUE", help="Change a key of a step; VALUE is YAML.")
]
ModelOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model", metavar="[NAME=]FILE", help="Use another model file; NAME= where there are several models."
    ),
]


def read_inputs(recipe: RunnableRecipe, pairs: Iterable[str], file: Path | None = None) -> dict[str, Any]:
    """Return the inputs given as NAME=VALUE and in a YAML or JSON file, by their declared types; pairs win.

    Raises:
        UsageError: a pair is malformed, a name unknown, or a file unreadable.
    """
    from gristmill._cli._inputs import read_inputs as read

    return read(recipe.recipe, list(pairs), file)


def read_document(path: Path) -> dict[str, Any]:
    """Return a YAML or JSON file that holds a mapping, read as recipes are: YAML 1.2, mistakes with line and column.

    Raises:
        UsageError: it cannot be read, is no YAML, or no mapping.
    """
    from gristmill._cli._inputs import read_document as read

    return read(path)


def read_overrides(
    kernel: Kernel, recipe: str, models: Iterable[str] | None, settings: Iterable[str] | None
) -> dict[str, str]:
    """Return what `--model` and `--set` ask for, as `Kernel.recipe(..., overrides=)` takes it.

    Raises:
        UsageError: one is malformed, or `--model FILE` where there is not one model.
    """
    from gristmill._cli._inputs import read_overrides as read

    return read(kernel, recipe, list(models or ()), list(settings or ()))


def plural(count: int, noun: str) -> str:
    """Return "1 recipe", "2 recipes"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def printable(text: str) -> str:
    """Return text with its control characters, but line feeds and tabs, as a mark: data must not drive the terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else "�" for char in text)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()) -> None:
    """Print columns as wide as their widest cell, those of index `right` to the right; the last as long as it is.

    A cell is one line, and no control character of it reaches the terminal.
    """
    table = [tuple(" ".join(printable(cell).split("\n")) for cell in row) for row in (headings, *rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(headings))]
    to_right = set(right)
    for row in table:
        cells = (
            f"{cell:>{width}}" if column in to_right else f"{cell:<{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        typer.echo("  ".join(cells).rstrip())
