"""Any graph of steps, waiting, in threads or neither, runs in order and within the limit, and each state is told."""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill import Kernel, RunError, StepCancelled, StepFailed, StepFinished, StepStarted, Usage, function
from gristmill._events import Event
from gristmill._settings import load_settings

KINDS = ("at_once", "waits", "in_thread", "fails")
MOST = 3


class Work:
    """Functions of each kind, and how many of them were under way together."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.under_way = 0
        self.most = 0
        self.tasks: set[Any] = set()

    @contextmanager
    def during(self) -> Iterator[None]:
        with self.lock:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        try:
            yield
        finally:
            with self.lock:
                self.under_way -= 1

    @function
    async def at_once(self) -> int:
        """Wait for nothing."""
        self.tasks.add(asyncio.current_task())
        return 1

    @function
    async def waits(self) -> int:
        """Let others have a turn."""
        with self.during():
            for _ in range(3):
                await asyncio.sleep(0)
        return 1

    @function
    def in_thread(self) -> int:
        """Work in a thread."""
        with self.during():
            return 1

    @function
    async def fails(self) -> int:
        """Fail."""
        raise ValueError("it broke")

    @function
    def third(self) -> float:
        """Return a number with many digits."""
        return 1 / 3_000_000

    @function
    async def runs_out(self) -> int:
        """Fail as an iterator does that has nothing left."""
        return next(iter(()))

    @function
    def runs_out_in_thread(self) -> int:
        """Fail so, in a thread."""
        return next(iter(()))


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, tuple[str, list[str]]]:
    """Return steps: what each does, and which of those before it it needs."""
    found: dict[str, tuple[str, list[str]]] = {}
    for number in range(draw(st.integers(1, 12))):
        needs = draw(st.lists(st.sampled_from(sorted(found)), max_size=3, unique=True)) if found else []
        found[f"s{number}"] = (draw(st.sampled_from(KINDS)), needs)
    return found


def run(graph: dict[str, tuple[str, list[str]]], work: Work, folder: Path) -> tuple[Event, ...]:
    (folder / "gristmill.toml").write_text(f"[limits]\nsteps_at_once = {MOST}\n")
    lines = [f"  {name}: {{use: work.{kind}, needs: {json.dumps(needs)}}}\n" for name, (kind, needs) in graph.items()]
    (folder / "r.yaml").write_text("version: 1\nsteps:\n" + "".join(lines))
    with Kernel(plugins={"work": work}, cache=False, settings=load_settings(folder)) as kernel:
        try:
            return kernel.recipe(folder / "r.yaml").run().trace
        except RunError as error:
            return error.result.trace


@given(graphs())
@settings(max_examples=60, deadline=None)
def test_every_graph_runs_in_order_within_the_limit_and_each_state_is_told(
    graph: dict[str, tuple[str, list[str]]],
) -> None:
    work = Work()
    with tempfile.TemporaryDirectory() as folder:
        trace = run(graph, work, Path(folder))
    assert work.most <= MOST
    ended: dict[str, str] = {}
    for event in trace:
        if isinstance(event, StepStarted):
            assert all(ended.get(before) == "done" for before in graph[event.step][1])
        elif isinstance(event, StepFinished | StepFailed | StepCancelled):
            assert event.step not in ended
            ended[event.step] = "done" if isinstance(event, StepFinished) else type(event).__name__
    for name, (kind, needs) in graph.items():
        broken = any(ended[before] != "done" for before in needs)
        assert ended[name] == ("StepCancelled" if broken else "StepFailed" if kind == "fails" else "done")
    starts = Counter(event.step for event in trace if isinstance(event, StepStarted))
    assert starts == {name: 1 for name, how in ended.items() if how != "StepCancelled"}


def test_steps_that_wait_for_nothing_share_one_worker(tmp_path: Path) -> None:
    work = Work()
    run({f"s{number}": ("at_once", []) for number in range(50)}, work, tmp_path)
    assert len(work.tasks) == 1


def test_a_step_that_waits_holds_no_other_up(tmp_path: Path) -> None:
    work = Work()
    trace = run({"slow": ("waits", []), "a": ("at_once", []), "b": ("at_once", ["a"])}, work, tmp_path)
    assert [event.step for event in trace if isinstance(event, StepFinished)] == ["a", "b", "slow"]


@pytest.mark.parametrize("name", ["runs_out", "runs_out_in_thread"])
def test_a_function_that_ends_like_an_iterator_fails_and_does_not_hang(tmp_path: Path, name: str) -> None:
    trace = run({"s": (name, [])}, Work(), tmp_path)
    (failed,) = (event for event in trace if isinstance(event, StepFailed))
    assert isinstance(failed.error, RuntimeError)


def test_the_trace_keeps_every_digit_of_a_steps_value(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("version: 1\nsteps: {s: {use: work.third}}\noutput: ${s}\n")
    with Kernel(plugins={"work": Work()}, cache=False) as kernel:
        first = kernel.recipe(tmp_path / "r.yaml").run_with({}, record=True)
        again = kernel.recipe(tmp_path / "r.yaml").run_with({}, resume=first.run_id)
    assert again.steps["s"].status == "resumed"
    assert again.output == first.output == 1 / 3_000_000


@pytest.mark.parametrize(
    "event",
    [StepStarted(0.25, "s"), StepFinished(0.25, "s", "done", {"a": 1}, 2, Usage(), False, 0.5, "key")],
    ids=lambda event: type(event).__name__,
)
def test_a_record_that_is_written_out_has_every_field(event: Event) -> None:
    record = event.as_record()
    kind = "step_started" if isinstance(event, StepStarted) else "step_finished"
    assert record == {"event": kind} | {part.name: getattr(event, part.name) for part in fields(event)}
