"""A command of the command line, brought by this package."""

from __future__ import annotations

from typing import Annotated

import typer

from gristmill import Kernel
from gristmill.commands import PluginOption

app = typer.Typer()


@app.command()
def shout(text: Annotated[str, typer.Argument(help="What to shout.")], plugin: PluginOption = None) -> None:
    """Say it louder, and name the plugins there are."""
    with Kernel(plugin_files=plugin or (), cache=False) as kernel:
        typer.echo(f"{text.upper()}! {'shout' in kernel.registry.names()}")
