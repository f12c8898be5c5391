"""Finds the commands that plugin packages bring, through the entry points `gristmill.commands`.

A command's module is imported when it is named, or to be listed by `--help`. One that cannot be imported says so when
it is run and spoils no other. Invariant: a name of gristmill's own is never looked up among the entry points, and two
distributions that offer one name are both refused.
"""

from __future__ import annotations

import importlib.metadata
from functools import cached_property
from typing import TYPE_CHECKING, Any

import typer
import typer.core
import typer.main

from gristmill._errors import PluginError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "gristmill.commands"


class CommandGroup(typer.core.TyperGroup):
    """gristmill's own commands, then those that are installed."""

    @cached_property
    def _offered(self) -> dict[str, list[EntryPoint]]:
        """Looked up once: every distribution there is must be opened for it."""
        return _offered()

    def list_commands(self, ctx: Any) -> list[str]:
        """Return every name: gristmill's own in the order of definition, then the others by name."""
        own = super().list_commands(ctx)
        return own + sorted(set(self._offered) - set(own))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, imported if an entry point brings it; None if there is none of that name."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        points = self._offered.get(cmd_name)
        return None if points is None else _load(cmd_name, points)


def _offered() -> dict[str, list[EntryPoint]]:
    offered: dict[str, list[EntryPoint]] = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        known = offered.setdefault(point.name, [])
        if all((point.value, _owner(point)) != (other.value, _owner(other)) for other in known):
            known.append(point)  # an environment may be on sys.path twice
    return offered


def _owner(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown distribution"


def _load(name: str, points: list[EntryPoint]) -> Any:
    if len(points) > 1:
        owners = " and ".join(_owner(point) for point in points)
        return _broken(name, PluginError(f"the command {name!r} is offered twice: by {owners}", hint="uninstall one"))
    try:
        command = typer.main.get_command(points[0].load())
    except Exception as error:  # noqa: BLE001  (a package may fail at import in any way, and must fail alone)
        why = f"the command {name!r} ({_owner(points[0])}) cannot be imported: {type(error).__name__}: {error}"
        return _broken(name, PluginError(why, hint="mend or uninstall it; other commands still work"))
    command.name = name
    return command


def _broken(name: str, error: PluginError) -> Any:
    def fail() -> None:
        raise error

    app = typer.Typer(rich_markup_mode=None)
    app.command(name, help=f"Broken: {error.message}.")(fail)
    return typer.main.get_command(app)
