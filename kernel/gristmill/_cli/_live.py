"""Shows a run while it goes: a live table on a terminal, plain lines when piped, nothing when quiet.

It writes to standard error only. Events arrive on the kernel's thread; rich's Live is safe to update from there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from gristmill._events import (
    Event,
    ModelCalled,
    ModelLoading,
    StepCancelled,
    StepFailed,
    StepFinished,
    StepNoted,
    StepRetried,
    StepStarted,
    Token,
)
from gristmill._language._recipe import Recipe
from gristmill.commands import printable

TAIL_CHARS = 500
MOST_TEXTS = 6


def _within(path: str, step: str) -> bool:
    """Tell whether a path is a step's own or that of a part of it."""
    return path == step or path.startswith((f"{step}/", f"{step}["))


class View:
    """Shows nothing: the base, and what `--quiet` uses."""

    listener: Callable[[Event], None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def make_view(recipe: Recipe, *, quiet: bool) -> View:
    """Return the view that fits where standard error goes."""
    if quiet:
        return View()
    return LiveView(recipe) if sys.stderr.isatty() else PlainView()


def describe_end(event: StepFinished) -> str:
    """Return what a finished step came to: time, tokens, rate, cache."""
    parts = [f"{event.elapsed_s:.2f} s"]
    if event.usage.completion_tokens:
        rate = event.usage.completion_tokens / max(event.usage.elapsed_s, 1e-6)
        parts.append(f"{event.usage.completion_tokens} tokens, {rate:.0f}/s")
    if event.cached:
        parts.append("cached")
    return ", ".join(parts)


class PlainView(View):
    """One line for each thing that happens."""

    def __init__(self) -> None:
        self.listener = self._show
        self._loading: set[str] = set()

    def _show(self, event: Event) -> None:
        line = self._line(event)
        if line is not None:
            print(line, file=sys.stderr, flush=True)

    def _line(self, event: Event) -> str | None:
        if isinstance(event, StepFinished):
            return f"{event.step}: {event.status} ({describe_end(event)})"
        if isinstance(event, StepFailed):
            return f"{event.step}: failed: {event.error}"
        if isinstance(event, StepCancelled):
            return f"{event.step}: cancelled, {event.because}"
        if isinstance(event, StepRetried):
            return f"{event.step}: attempt {event.attempt} failed: {event.error}"
        if isinstance(event, StepNoted):
            return f"{event.step}: {event.text}"
        if isinstance(event, ModelLoading) and event.model not in self._loading:
            self._loading.add(event.model)
            return f"loading {event.model}"
        return None


class LiveView(View):
    """A table of steps with their state, and the text that is being written."""

    def __init__(self, recipe: Recipe) -> None:
        from rich.console import Console
        from rich.live import Live

        self.rows: dict[str, tuple[str, str]] = dict.fromkeys(recipe.steps, ("waiting", ""))
        self.texts: dict[tuple[str, int | None, int], str] = {}
        """What is being written, by step, item and sample: those of one step are written at once."""
        self.counts: dict[str, tuple[int, float]] = {}
        self.loading: tuple[str, float] | None = None
        self._live = Live(
            console=Console(stderr=True), refresh_per_second=10, get_renderable=self._render, transient=False
        )
        self.listener = self._take

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *details: Any) -> None:
        self.loading = None
        self.texts.clear()
        self._live.refresh()
        self._live.__exit__(*details)

    def _take(self, event: Event) -> None:
        if isinstance(event, Token):
            key = (event.step, event.item, event.sample)
            self.texts[key] = (self.texts.get(key, "") + event.text)[-TAIL_CHARS:]
            count, since = self.counts.get(event.step, (0, time.perf_counter()))
            self.counts[event.step] = (count + event.n_tokens, since)
        elif isinstance(event, ModelLoading):
            self.loading = (event.model, event.fraction) if event.fraction < 1 else None
        elif isinstance(event, StepStarted):
            self.rows[event.step] = ("running", "")
        elif isinstance(event, StepFinished):
            self.rows[event.step] = (event.status, describe_end(event))
            self.texts = {key: text for key, text in self.texts.items() if not _within(key[0], event.step)}
        elif isinstance(event, StepFailed):
            self.rows[event.step] = ("failed", str(event.error).split("\n", 1)[0])
        elif isinstance(event, StepCancelled):
            self.rows[event.step] = ("cancelled", event.because)
        elif isinstance(event, ModelCalled):
            self.loading = None

    def _render(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        marks = {"waiting": ("·", "dim"), "running": ("▶", "cyan"), "done": ("✔", "green"), "skipped": ("–", "dim"),
                 "handled": ("!", "yellow"), "resumed": ("↺", "green"), "failed": ("✘", "red"),
                 "cancelled": ("–", "red")}  # fmt: skip
        for name, (status, detail) in list(self.rows.items()):
            mark, style = marks[status]
            table.add_row(Text(mark, style), Text(name), Text(detail or self._rate(name), "dim"))
        parts: list[Any] = [table]
        if self.loading is not None:
            parts.append(Text(f"loading {self.loading[0]} {self.loading[1]:.0%}", "cyan"))
        return Group(*parts, *self._writing())

    def _writing(self) -> list[Any]:
        """Return the texts being written: one at length, or the end of each of several."""
        from rich.text import Text

        shown = list(self.texts.items())[-MOST_TEXTS:]
        lines = []
        for (step, item, sample), text in shown:
            label = step + ("" if item is None else f"[{item}]") + (f" #{sample}" if sample else "")
            tail = text if len(shown) == 1 else text[-TAIL_CHARS // 5 :].replace("\n", " ")
            lines.append(Text(f"{label}: {printable(tail)}", "italic"))
        return lines

    def _rate(self, name: str) -> str:
        count, since = self.counts.get(name, (0, 0.0))
        return f"{count} tokens, {count / max(time.perf_counter() - since, 1e-6):.0f}/s" if count else ""


@contextmanager
def download_progress(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """Yield a callback that shows bytes done of bytes in all."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
