"""Threads that share a kernel get whole plugins and one model, whoever comes first."""

from __future__ import annotations

import importlib.metadata
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gristmill import Kernel, Model, model_provider
from gristmill._registry import Registry
from gristmill.testing import FakeModel

N_THREADS = 8


def test_who_comes_while_entry_points_are_read_waits_for_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    find, entered, may_go = importlib.metadata.entry_points, threading.Event(), threading.Event()

    def slow(**selected: Any) -> Any:
        entered.set()
        assert may_go.wait(60)
        return find(**selected)

    monkeypatch.setattr(importlib.metadata, "entry_points", slow)
    registry = Registry()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(registry.names)
        assert entered.wait(60)
        begun = threading.Event()

        def ask() -> list[str]:
            begun.set()
            return registry.names()

        second = pool.submit(ask)
        assert begun.wait(60)
        may_go.set()
        assert first.result(60) == second.result(60) != []


def test_a_plugin_file_is_imported_once_however_many_threads_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "counted.py").write_text(
        '"""Counts its imports."""\nimport sys\nfrom gristmill import function\n'
        "sys.counted_imports = getattr(sys, 'counted_imports', 0) + 1\n"
        '@function\ndef one() -> int:\n    """Return one."""\n    return 1\n'
    )
    registry = Registry(files=[tmp_path / "counted.py"])
    monkeypatch.setattr(sys, "counted_imports", 0, raising=False)
    together = threading.Barrier(N_THREADS)

    def ask(_: int) -> Any:
        together.wait(60)
        return registry.plugin("counted")

    with ThreadPoolExecutor(N_THREADS) as pool:
        found = list(pool.map(ask, range(N_THREADS)))
    assert all(one is found[0] for one in found)
    assert sys.counted_imports == 1  # type: ignore[attr-defined]


def test_recipes_that_threads_run_at_once_share_one_model(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "version: 1\ninputs: {n: integer}\nmodels: {m: {use: slow}}\nsteps: {a: {prompt: '${inputs.n}'}}\n"
    )
    made: list[FakeModel] = []

    class Slow:
        @model_provider
        def slow(self) -> Model:
            """A model that takes a while to make."""
            threading.Event().wait(0.05)
            made.append(FakeModel(lambda asked, _: asked.messages[-1].content))
            return made[-1]

    with Kernel(plugins={"slow": Slow()}, cache=False) as kernel:
        together = threading.Barrier(N_THREADS)

        def run(n: int) -> str:
            together.wait(60)
            return str(kernel.recipe(recipe).run(n=n).output.text)

        with ThreadPoolExecutor(N_THREADS) as pool:
            assert list(pool.map(run, range(N_THREADS))) == [str(n) for n in range(N_THREADS)]
    assert len(made) == 1
