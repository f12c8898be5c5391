"""The rows of an evaluation stay out of memory, and each is there when it is asked for."""

from __future__ import annotations

import datetime
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill import Kernel, UsageError
from gristmill.testing import FakePlugin
from gristmill_plugins.evaluation import _row_store
from gristmill_plugins.evaluation._evaluate import evaluate, read_task_rows
from gristmill_plugins.evaluation._row_store import Rows
from gristmill_plugins.evaluation._rows import Row
from gristmill_plugins.evaluation._runner import Effort
from gristmill_plugins.evaluation._task_file import Task

values = st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.binary(), st.dates(), st.lists(st.text()))
datas = st.lists(st.dictionaries(st.text(), values, max_size=4), max_size=8)


@given(datas, st.integers(-9, 9), st.integers(-9, 9))
def test_rows_are_those_of_a_list_numbered_by_their_place(data: list[dict[str, Any]], start: int, stop: int) -> None:
    rows = Rows(data)
    assert list(rows) == [Row(number, one) for number, one in enumerate(data, 1)]
    assert [row.data for row in rows[start:stop]] == data[start:stop]
    assert [row.number for row in rows[start:stop]] == list(range(1, len(data[start:stop]) + 1))
    for place in range(-len(data), len(data)):
        assert rows[place].data == data[place]


def test_rows_that_are_picked_twice_are_numbered_by_the_last_order() -> None:
    rows = Rows({"n": n} for n in range(9)).pick([8, 6, 4, 2]).pick([3, 0])
    assert list(rows) == [Row(1, {"n": 2}), Row(2, {"n": 8})]


def test_a_row_that_cannot_be_kept_is_told() -> None:
    deep: Any = []
    for _ in range(3000):
        deep = [deep]
    with pytest.raises(UsageError, match="row 2 is nested too deeply"):
        Rows([{"n": 1}, {"deep": deep}])


def test_a_full_temporary_folder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def seek(self, _: int) -> None:
            """Go nowhere."""

        def write(self, _: bytes) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.SpooledTemporaryFile", lambda **_: Full())
    with pytest.raises(UsageError, match=r"cannot be kept in .*: No space left on device\n.*TMPDIR"):
        Rows([{"n": 1}])


def test_rows_are_the_same_once_they_are_on_disk(monkeypatch: Any) -> None:
    monkeypatch.setattr(_row_store, "MEMORY_BYTES", 1)
    data = [{"n": n, "at": datetime.date(2020, 1, 1 + n)} for n in range(20)]
    rows = Rows(data)
    assert [row.data for row in rows[::-1]] == data[::-1]
    assert [row.data for row in rows] == data


def test_an_evaluation_holds_no_more_of_a_large_file_than_of_a_small_one(tmp_path: Path) -> None:
    path, n_rows, chars = tmp_path / "large.jsonl", 600, 100_000
    with path.open("w") as file:
        for n in range(n_rows):
            file.write(json.dumps({"n": n, "right": str(n % 2), "document": f"{n} " + "x" * chars}) + "\n")
    recipe = tmp_path / "r.yaml"
    recipe.write_text("version: 1\ninputs: {n: integer}\nmodels: {m: {use: fake}}\n"
                      "steps:\n  a: {prompt: '${inputs.n % 2}'}\n")  # fmt: skip
    task = Task(data=path, expect="right", metrics=["accuracy"], recipes={"r": str(recipe)})
    with Kernel(
        plugins={"fake": FakePlugin(answers=lambda asked, _: asked.messages[-1].content)}, cache=False
    ) as kernel:
        tracemalloc.start()
        try:
            found = evaluate(kernel, task, "r", read_task_rows(task), Effort(4, 1))
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert found.figures["accuracy"].value == 1.0
    assert found.rows[n_rows - 1].data["document"].startswith(f"{n_rows - 1} ")
    assert most < n_rows * chars / 2  # 60 MB of rows: at most the 16 MB that stay in memory, and what runs
