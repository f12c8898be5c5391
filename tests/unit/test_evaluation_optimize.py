"""A search finds the better setting, confirms it on rows it never saw, and says nothing of the others."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gristmill import GenerateRequest, Kernel, UsageError
from gristmill.testing import FakePlugin
from gristmill_plugins.evaluation._history import diff_lines, list_rows, show_lines
from gristmill_plugins.evaluation._optimize import as_options, make_plan, optimize, read_search
from gristmill_plugins.evaluation._records import find_record, list_records
from gristmill_plugins.evaluation._runner import Effort
from gristmill_plugins.evaluation._session import Given, Show, run_evaluation

RECIPE = """\
version: 1
name: count
inputs: {text: string}
models: {main: {use: fake}}
steps:
  answer: {system: "guess", prompt: "${inputs.text}", choices: [even, odd]}
output: ${answer}
"""
FILE = """\
optimize: 1
recipe: ./count.yaml
data: data.jsonl
expect: label
metrics: [accuracy]
tune:
  answer.system: [guess, think, "do it wrong"]
  answer.calibrate: [false, true]
budget: 200
"""


class Lab:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: dict[str, set[str]] = {}
        self.kernel = Kernel(plugins={"fake": FakePlugin(answers=self.answer)}, cache=False)
        (folder / "count.yaml").write_text(RECIPE)
        rows = [{"text": f"is {n}", "label": ("even", "odd")[n % 2]} for n in range(80)]
        (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def answer(self, request: GenerateRequest, _: int) -> str:
        how, text = request.messages[0].content, request.messages[-1].content
        self.asked.setdefault(how, set()).add(text)
        if text == "N/A":
            return "even"
        n = int(re.findall(r"\d+", text)[0])
        right = ("even", "odd")[n % 2]
        good = {"guess": n % 4 < 3, "think": True, "do it wrong": False}[how]
        return right if good else ("odd", "even")[n % 2]

    def write(self, text: str) -> Path:
        path = self.folder / "search.yaml"
        path.write_text(text)
        return path


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


class TestSearch:
    def test_the_better_setting_is_found_and_confirmed_on_rows_no_setting_saw_before(self, lab: Lab) -> None:
        told: list[str] = []
        with lab.kernel:
            found = optimize(lab.kernel, read_search(lab.write(FILE)), tell=told.append)
        assert found.setting["answer.system"] == "think"
        as_it_is, best = found.confirmed
        assert best.figures["accuracy"].value == 1.0
        assert as_it_is.figures["accuracy"].value == pytest.approx(0.75, abs=0.15)
        assert found.differences[0].second == "best"
        held = {str(row.data["text"]) for row in found.held_out.rows}
        assert len(held) == 40
        assert not held & lab.asked["do it wrong"]  # what lost early met training rows only
        assert found.rows_spent <= 200
        assert not any("0." in line for line in told), "no score of the training part is told"

    def test_a_recipe_that_is_best_as_it_is_stays_so(self, lab: Lab) -> None:
        text = FILE.replace('[guess, think, "do it wrong"]', '["do it wrong"]').replace("[false, true]", "[false]")
        with lab.kernel:
            found = optimize(lab.kernel, read_search(lab.write(text)))
        assert found.setting == {}
        assert found.differences == ()

    def test_every_setting_is_checked_before_a_row_runs(self, lab: Lab) -> None:
        with lab.kernel, pytest.raises(Exception, match="sytem"):
            optimize(lab.kernel, read_search(lab.write(FILE.replace("answer.system", "answer.sytem"))))
        assert lab.asked == {}

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (("tune:\n", "tunes:\n"), "'tunes' is no key of this file: did you mean 'tune'"),
            (("budget: 200", "budget: 200\nlimit: 8"), "8 rows are too few to search on one part"),
            (("[false, true]", "[]"), "tune.answer.calibrate has no values"),
            (("metrics: [accuracy]", "metrics: []"), "no metric is asked for"),
        ],
    )
    def test_what_cannot_be_searched_is_told(self, lab: Lab, change: tuple[str, str], told: str) -> None:
        with lab.kernel, pytest.raises(UsageError, match=told):
            optimize(lab.kernel, read_search(lab.write(FILE.replace(*change))))

    @pytest.mark.parametrize(
        ("n_settings", "budget", "n_rows"), [(2, 40, 100), (9, 200, 40), (27, 600, 500), (500, 300, 80)]
    )
    def test_a_plan_keeps_to_its_budget_and_gives_the_last_the_most_rows(
        self, n_settings: int, budget: int, n_rows: int
    ) -> None:
        plan = make_plan(n_settings, budget, n_rows)
        spent, before = 0, 0
        for alive, rows in plan:
            spent += alive * (rows - before)
            before = rows
        assert spent <= budget
        assert [alive for alive, _ in plan] == sorted((alive for alive, _ in plan), reverse=True)
        assert 6 <= plan[-1][1] <= n_rows
        with pytest.raises(UsageError, match="too little to tell two settings apart"):
            make_plan(3, 5, 100)

    def test_a_setting_is_told_as_options(self) -> None:
        told = list(as_options({"a.temperature": 0.7, "a.system": "say it", "m.model": "x"}))
        assert told == ["--set a.temperature=0.7", "--set 'a.system=\"say it\"'", "--set m.model=x"]


class TestHistory:
    def records(self, lab: Lab, *systems: str) -> tuple[Path, list[dict[str, Any]]]:
        with lab.kernel:
            for system in systems:
                given = Given([str(lab.folder / "count.yaml")], lab.folder / "data.jsonl", metrics="accuracy",
                              set=[f"answer.system={system}"], options={"expect": "label"})  # fmt: skip
                run_evaluation(lab.kernel, given, Show(quiet=True), effort=Effort(8, 1), fail_if=[], kind="eval")
        folder = lab.kernel.settings.data_directory
        return folder, list_records(folder)

    def test_records_are_listed_shown_and_told_apart_row_by_row(self, lab: Lab) -> None:
        folder, records = self.records(lab, "guess", "think")
        by_value = sorted(records, key=lambda r: r["recipes"]["count"]["metrics"]["accuracy"]["value"])
        assert [row[2:] for row in list_rows(by_value)] == [
            ("data.jsonl (80)", "count accuracy 0.750"), ("data.jsonl (80)", "count accuracy 1.000"),
        ]  # fmt: skip
        shown = "\n".join(show_lines(by_value[1]))
        assert "accuracy: 1.000 [0.954, 1.000], n=80" in shown
        assert 'changed: answer.system="think"' in shown
        assert by_value[1]["recipes"]["count"]["identity"]["recipe"]["sha256"] in shown
        told = "\n".join(diff_lines(folder, by_value[0], by_value[1]))
        assert "the override of 'answer.system' changed" in told
        assert "accuracy: 0.750 -> 1.000, row by row +0.250 [" in told
        assert "p=0.0001" in told

    def test_records_of_different_data_are_not_compared_row_by_row(self, lab: Lab) -> None:
        folder, [first] = self.records(lab, "guess")
        second = json.loads(json.dumps(first)) | {"id": "other"}
        second["data"]["sha256"] = "0" * 64
        second["versions"]["gristmill"] = "9.9"
        told = "\n".join(diff_lines(folder, first, second))
        assert "the data differ: figures are compared as they are" in told
        assert "gristmill: " in told
        assert "row by row +" not in told

    def test_a_record_is_found_by_the_beginning_of_its_id(self, lab: Lab) -> None:
        folder, records = self.records(lab, "guess", "think")
        assert find_record(folder, records[0]["id"]) == records[0]
        with pytest.raises(UsageError, match=r"2 records begin with '20'\n  give more of the id"):
            find_record(folder, "20")
