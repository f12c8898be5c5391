"""Every error gristmill raises on purpose.

    GristmillError
    ├── UsageError        a call that cannot mean anything: unknown recipe, missing input, bad option   exit 2
    ├── RecipeError       a recipe that does not check; carries every diagnostic                        exit 2
    ├── PluginError       a plugin that is missing, broken, or collides with another                    exit 2
    ├── ModelError        a model or adapter file that cannot be used, or an engine that died           exit 1
    ├── CapabilityError   a model was asked for something it declares it cannot do                      exit 1
    ├── BusyError         a bounded queue is full; try again later                                      exit 1
    ├── BudgetError       a run spent its tokens, calls or seconds                                      exit 1
    ├── StoreError        semantic memory that cannot be read or written                                exit 1
    ├── FunctionError     a plugin's function refused its arguments or could not do its work            exit 1
    └── RunError          a run failed: which steps, why, and everything that had finished              exit 1

An error carries what a caller can act on as fields; its text says what failed, where, the value, and
the next thing to do. Errors that gristmill did not foresee are left alone: they are bugs and keep their
traceback.
"""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gristmill._events import RunResult
    from gristmill._language._diagnostics import Diagnostic


class GristmillError(Exception):
    """Base of all errors gristmill raises on purpose; `exit_code` is what the command line ends with."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class UsageError(GristmillError):
    """A call that cannot mean anything; nothing was run."""

    exit_code = 2


class RecipeError(GristmillError):
    """A recipe that does not check. `diagnostics` holds all its mistakes, in the order of the file."""

    exit_code = 2

    def __init__(self, message: str, diagnostics: Sequence[Diagnostic] = (), *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.diagnostics = tuple(diagnostics)


class PluginError(GristmillError):
    """A plugin that is missing, cannot be imported, breaks a rule of the plugin API, or collides."""

    exit_code = 2


class ModelError(GristmillError):
    """A model or adapter that cannot be used, or an engine that died. The next call may work.

    `model` names the file or declaration; `cause` is one of "file", "load", "died", "timeout", "request".
    """

    def __init__(self, message: str, *, model: str, cause: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.model = model
        self.cause = cause


class CapabilityError(GristmillError):
    """A model was asked for something it does not declare in its `capabilities`."""


class BusyError(GristmillError):
    """A bounded queue is full. Nothing was started; the same call may work later."""


class BudgetError(GristmillError):
    """A run spent its budget. `spent` and `limit` are in the unit of `resource`: tokens, calls or seconds."""

    def __init__(self, resource: str, spent: float, limit: float) -> None:
        super().__init__(f"the budget of {limit:g} {resource} is spent ({spent:g} used)")
        self.resource = resource
        self.spent = spent
        self.limit = limit


class StoreError(GristmillError):
    """Semantic memory that cannot be read or written; nothing of the call was kept.

    `store` names the file or server; `cause` is one of "full", "read_only", "locked", "damaged", "version", "io".
    """

    def __init__(self, message: str, *, store: str, cause: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.store = store
        self.cause = cause


class FunctionError(GristmillError):
    """A plugin's function could not do its work; plugins raise it with a message for the recipe's author."""


class RunError(GristmillError):
    """A run failed. `failures` maps each failed step to its error; `result` holds all that had finished."""

    def __init__(self, message: str, *, failures: dict[str, BaseException], result: RunResult) -> None:
        super().__init__(message)
        self.failures = failures
        self.result = result


_MOST_COMPARED = 300


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate that `name` was most likely meant to be, or None."""
    names = set(candidates)
    if len(names) > _MOST_COMPARED:  # each comparison takes about 10 µs
        alike = [c for c in names if c[:1] == name[:1] and abs(len(c) - len(name)) <= 2]
        names = set(heapq.nsmallest(_MOST_COMPARED, alike))
    lowered = {candidate.lower(): candidate for candidate in sorted(names)}
    close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    return lowered[close[0]] if close else None


def suggest(name: str, candidates: Iterable[str], *, most: int = 12) -> str:
    """Say what `name` was probably meant to be, or else what there is: the tail of a "no such name" message."""
    names = set(candidates)
    if match := nearest(name, names):
        return f"did you mean {match!r}?"
    if not names:
        return "there are none"
    shown = ", ".join(heapq.nsmallest(most, names))
    return f"there is: {shown}" + (f", and {len(names) - most} more" if len(names) > most else "")


def one_line(error: BaseException) -> str:
    """Return an error's text, with its type in front where it is none of ours."""
    text = str(error) or type(error).__name__
    foreign = type(error).__module__.split(".")[0] != "gristmill"
    return f"{type(error).__name__}: {text}" if foreign else text
