"""The commands `gristmill runs list`, `show` and `diff`: what was measured.

They read records and print; importing this module imports typer alone.
"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from gristmill.commands import JsonOption

runs_app = typer.Typer(rich_markup_mode=None, help="Look at what was measured.", no_args_is_help=True)
RecordArgument = Annotated[str, typer.Argument(metavar="ID", help="A record's id, its beginning, or `last`.")]


@runs_app.command("list")
def runs_list(as_json: JsonOption = False) -> None:
    """List what was measured, the newest last."""
    from gristmill import Kernel
    from gristmill.commands import print_table
    from gristmill_plugins.evaluation._history import list_rows
    from gristmill_plugins.evaluation._records import list_records

    with Kernel(cache=False) as kernel:
        records = list_records(kernel.settings.data_directory)
    if as_json:
        typer.echo(json.dumps([{key: r[key] for key in ("id", "kind", "at", "data")} for r in records]))
    else:
        print_table(("id", "kind", "data (rows)", "figures"), list_rows(records))


@runs_app.command("show")
def runs_show(record: RecordArgument, as_json: JsonOption = False) -> None:
    """Show one record: figures, digests, versions."""
    from gristmill import Kernel
    from gristmill_plugins.evaluation._history import show_lines
    from gristmill_plugins.evaluation._records import find_record

    with Kernel(cache=False) as kernel:
        found = find_record(kernel.settings.data_directory, record)
    typer.echo(json.dumps(found, ensure_ascii=False) if as_json else "\n".join(show_lines(found)))


@runs_app.command("diff")
def runs_diff(first: RecordArgument, second: RecordArgument) -> None:
    """Say what two records differ in: versions, recipes, models, data, and figures row by row."""
    from gristmill import Kernel
    from gristmill_plugins.evaluation._history import diff_lines
    from gristmill_plugins.evaluation._records import find_record

    with Kernel(cache=False) as kernel:
        folder = kernel.settings.data_directory
        lines = diff_lines(folder, find_record(folder, first), find_record(folder, second))
    typer.echo("\n".join(lines))
