"""The command line's entry: runs a command, shows errors as a user should see them, and sets the exit code.

0 done; 1 a run failed; 2 wrong use or an invalid recipe; 130 interrupted (typer's). An error that gristmill did not
foresee keeps its traceback: it is a bug.
"""

from __future__ import annotations

import sys

from gristmill._errors import GristmillError


def main() -> None:
    """Run the command that `sys.argv` names."""
    from gristmill._cli._app import app

    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:  # a model may write anything; a terminal of another encoding must not crash
            reconfigure(errors="backslashreplace")
    try:
        app()
    except GristmillError as error:
        from gristmill.commands import printable

        told = printable(str(error))
        print(f"gristmill: error: {told}" if told.count("\n") < 3 else told, file=sys.stderr)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        from gristmill._cli._extras import extra_of

        if (extra := extra_of(error.name or "")) is None:
            raise
        print(f'gristmill: error: {error.name} is not installed\n  pip install "gristmill[{extra}]"', file=sys.stderr)
        sys.exit(2)
