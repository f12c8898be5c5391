"""What users get wrong is told before anything runs, in words, and nothing that is theirs is written over or lost."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gristmill import GenerateRequest, Kernel, UsageError
from gristmill.testing import FakePlugin
from gristmill_plugins.evaluation._compare import compare
from gristmill_plugins.evaluation._evaluate import evaluate, read_task_rows
from gristmill_plugins.evaluation._history import diff_lines
from gristmill_plugins.evaluation._ladder import check_places, climb, keep_best, read_ladder
from gristmill_plugins.evaluation._optimize import as_options, read_search
from gristmill_plugins.evaluation._records import find_record, list_records
from gristmill_plugins.evaluation._rows import read_rows
from gristmill_plugins.evaluation._runner import Effort
from gristmill_plugins.evaluation._samples import column_value
from gristmill_plugins.evaluation._session import Given, Show, run_evaluation
from gristmill_plugins.evaluation._task_file import Task

ECHO = """\
version: 1
inputs: {text: string}
models: {main: {use: fake}}
steps:
  a: {prompt: "${inputs.text}"}
output: ${a}
"""
CHOICE = ECHO.replace('"${inputs.text}"}', '"${inputs.text}", choices: [right, wrong]}')
FAILS = CHOICE.replace("choices:", "schema: {n: integer}, if: \"${'FAIL' in inputs.text}\"}\n  b: {prompt: x, choices:")
FAILS = FAILS.replace("${a}", "${b}")
EFFORT = Effort(4, 1)


class Room:
    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, list[str]()
        self.kernel = Kernel(plugins={"fake": FakePlugin(answers=self.answer)}, cache=False)
        self.write("echo.yaml", ECHO)
        self.write("choice.yaml", CHOICE)
        self.write("fails.yaml", FAILS)
        self.data = self.rows({"text": f"t{n}", "label": f"t{n}"} for n in range(12))

    def answer(self, request: GenerateRequest, _: int) -> str:
        self.asked.append(request.messages[-1].content)
        return "wrong" if "FAIL" in self.asked[-1] else self.asked[-1]

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def rows(self, rows: Any, name: str = "d.jsonl") -> Path:
        return self.write(name, "".join(json.dumps(row) + "\n" for row in rows))

    def run(self, *recipes: str, show: Show = Show(quiet=True), fail_if: Any = (), **options: Any) -> int:  # noqa: B008
        metrics = options.pop("metrics", "accuracy")
        said = {name: options.pop(name) for name in ("inputs", "set", "model", "slices") if name in options}
        paths = [name if "=" in name else f"{self.folder}/{name}" for name in recipes]
        data = options.pop("data", self.data)
        given = Given(paths, data, metrics=metrics, options={"expect": "label"} | options, **said)
        kind = "compare" if len(recipes) > 1 else "eval"
        return run_evaluation(self.kernel, given, show, effort=EFFORT, fail_if=fail_if, kind=kind)

    def task(self, **keys: Any) -> Task:
        base: dict[str, Any] = {"data": self.data, "expect": "label", "metrics": ["accuracy"],
                                "recipes": {"echo": f"{self.folder}/echo.yaml"}}  # fmt: skip
        return Task(**(base | keys))


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    room = Room(tmp_path)
    with room.kernel:
        yield room


class TestBeforeAnythingRuns:
    def test_every_recipe_is_loaded_and_fits_the_data(self, room: Room) -> None:
        room.write("other.yaml", ECHO.replace("text", "question"))
        with pytest.raises(UsageError, match="'question'"):
            room.run("echo.yaml", "other.yaml")
        with pytest.raises(UsageError, match=r"nosuch\.yaml"):
            room.run("echo.yaml", "nosuch.yaml")
        with pytest.raises(UsageError, match="nosuchjudge"):
            room.run("echo.yaml", metrics=f"j={room.folder}/nosuchjudge.yaml")
        assert room.asked == []

    def test_a_row_without_the_expected_column_is_named(self, room: Room) -> None:
        data = room.rows([{"text": "a", "label": "a"}, {"text": "b"}])
        with pytest.raises(UsageError, match=r"d\.jsonl: row 2: a row has no column 'label'"):
            room.run("echo.yaml", data=data)
        assert room.asked == []

    @pytest.mark.parametrize(
        ("name", "told"), [("d.jsonl", r"a report ends in \.html"), ("no/r.html", "a folder that exists")]
    )
    def test_a_report_writes_over_no_other_file(self, room: Room, name: str, told: str) -> None:
        before = room.data.read_text()
        with pytest.raises(UsageError, match=told):
            room.run("echo.yaml", show=Show(html=room.folder / name, quiet=True))
        assert room.data.read_text() == before
        assert room.asked == []

    def test_a_folder_for_records_that_cannot_be_made_is_told(
        self, room: Room, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_DATA_HOME", str(room.write("file", "")))
        with Kernel(plugins={"fake": FakePlugin()}, cache=False) as kernel:
            room.kernel = kernel
            with pytest.raises(UsageError, match="no record can be kept there: Not a directory\n  set XDG_DATA_HOME"):
                room.run("echo.yaml")

    def test_an_evaluation_file_that_is_not_there_is_told(self, room: Room) -> None:
        with pytest.raises(UsageError, match=r"nosuch\.yaml does not exist"):
            room.run("nosuch.yaml", data=None)

    def test_named_recipes_take_inputs_and_settings(self, room: Room, capsys: Any) -> None:
        named = [f"x={room.folder}/echo.yaml", f"y={room.folder}/choice.yaml"]
        assert room.run(*named, inputs=["text=t1"], set=["a.system=s"]) == 0
        assert "y - x" in capsys.readouterr().out

    def test_recipes_of_one_name_are_all_measured(self, room: Room, capsys: Any) -> None:
        room.run(f"echo-3={room.folder}/echo.yaml", "echo.yaml", "echo.yaml")
        told = capsys.readouterr().out
        assert "echo - echo-3 " in told
        assert "echo-3-3 - echo-3 " in told


class TestConditions:
    def test_one_that_has_no_answer_fails_and_what_was_measured_is_told_and_kept(self, room: Room, capsys: Any) -> None:
        data = room.rows({"text": "x", "label": "y"} for _ in range(6))
        for condition, why in (("B.accuracy / A.accuracy < 1.05", "division by zero"),
                               ("A.injection_success_rate.high > 0.1", "has no value here")):  # fmt: skip
            recipes = ("echo.yaml", "choice.yaml")
            assert room.run(*recipes, data=data, metrics="accuracy,injection_success_rate", fail_if=[condition]) == 1
            out, err = capsys.readouterr()
            assert "accuracy" in out
            assert f"failed: {condition} (" in err
            assert why in err
        assert len(list_records(room.kernel.settings.data_directory)) == 2

    def test_one_that_divides_by_a_made_up_figure_is_not_refused(self, room: Room) -> None:
        assert room.run("echo.yaml", fail_if=["1 / (A.accuracy - 0.5) > 5", "A.tokens / (A.failed + 1) < 0"]) == 0

    def test_a_name_with_a_dash_is_told_how_to_be_written(self, room: Room) -> None:
        with pytest.raises(UsageError, match=r"'one' means nothing here\n.*A, B, \.\.\. are the recipes"):
            room.run("echo.yaml", fail_if=["one-line.accuracy < 1"])

    def test_files_that_know_no_gate_refuse_one(self, room: Room) -> None:
        body = "data: d.jsonl\nmetrics: [accuracy]\nexpect: label\nfail_if: ['A.accuracy < 2']\n"
        with pytest.raises(UsageError, match="'fail_if' is for eval and compare"):
            read_ladder(room.write("l.yaml", body + "question: text\n"))
        with pytest.raises(UsageError, match="'fail_if' is for eval and compare"):
            read_search(room.write("o.yaml", body + "recipe: ./echo.yaml\ntune: {a.system: [x, y]}\n"))
        with pytest.raises(UsageError, match="'rungs' is empty"):
            read_ladder(
                room.write(
                    "l.yaml", body.replace("fail_if", "rungs").replace("'A.accuracy < 2'", "") + "question: text\n"
                )
            )


class TestRows:
    def read(self, path: Path) -> list[Any]:
        return [row.error or dict(row.data) for row in read_rows(path)]

    @pytest.mark.parametrize("ending", ["csv", "tsv"])
    def test_a_quotation_mark_that_is_not_closed_swallows_nothing(self, room: Room, ending: str) -> None:
        tab = "\t" if ending == "tsv" else ","
        path = room.write(f"q.{ending}", f'id{tab}text\n1{tab}aa\n2{tab}"bb\n3{tab}cc\n')
        with pytest.raises(
            UsageError, match=r"q\.\w+:3: the row that begins here is no CSV: unexpected end of data\n.*doubled"
        ):
            self.read(path)
        with pytest.raises(UsageError, match=r"q\.\w+:2: the row that begins here is no CSV"):
            self.read(room.write(f"q.{ending}", f'id{tab}text\n1{tab}"Great" film\n'))
        whole = room.write(f"q.{ending}", f'id{tab}text\n1{tab}"5"" pipe,\nnext line"\n')
        assert self.read(whole) == [{"id": "1", "text": '5" pipe,\nnext line'}]

    def test_a_row_that_is_not_utf_8_is_an_error_of_its_own(self, room: Room) -> None:
        path = room.folder / "l.csv"
        path.write_bytes("id,text\n1,ä\n".encode() + b"2,caf\xe9\n3,c\n")
        assert self.read(path) == [{"id": "1", "text": "ä"}, "l.csv:3: it is not UTF-8", {"id": "3", "text": "c"}]

    def test_parquet_with_two_columns_of_one_name_or_decimals(self, room: Room) -> None:
        from decimal import Decimal

        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        from gristmill_plugins.evaluation._plain import jsonable

        path = room.folder / "d.parquet"
        parquet.write_table(pyarrow.table([[1], [2]], names=["a", "a"]), path)
        with pytest.raises(UsageError, match="two columns are called 'a'"):
            self.read(path)
        values = [Decimal("2"), Decimal("1.5"), Decimal("NaN"), Decimal("Infinity")]
        assert [jsonable(value) for value in values] == [2, 1.5, None, None]

    def test_what_explode_cannot_take_apart_is_told(self, room: Room) -> None:
        for value in ("abc", None, 3, {"a": 1}):
            data = room.rows([{"text": value, "label": "x"}])
            with pytest.raises(UsageError, match="row 1: `explode` makes rows of the items of a list, and 'text' is"):
                read_task_rows(room.task(data=data, explode="text"))

    def test_dotted_columns_reach_inside_everywhere(self, room: Room, capsys: Any) -> None:
        data = room.rows({"text": f"t{n}", "label": f"t{n}", "meta": {"part": "ab"[n % 2]}} for n in range(12))
        assert len(read_task_rows(room.task(data=data, where={"meta.part": "a"})).rows) == 6
        room.run("echo.yaml", data=data, slices=["meta.part"])
        told = capsys.readouterr().out
        assert "\na " in told
        assert "\nb " in told

    def test_a_place_below_0_marks_no_answer(self) -> None:
        row = {"choices": ["a", "b"], "answer_index": -1}
        with pytest.raises(UsageError, match="holds no such item"):
            column_value(row, "choices[answer_index]")
        assert column_value(row | {"answer_index": 1}, "choices[answer_index]") == "b"

    def test_no_control_character_of_the_data_reaches_the_terminal(self, room: Room, capsys: Any) -> None:
        data = room.rows({"text": "t", "label": "t", "group": "\x1b[31mRED\nFAKE LINE"} for _ in range(3))
        room.run("echo.yaml", data=data, slices=["group"])
        told = capsys.readouterr().out
        assert "\x1b" not in told
        assert "\nFAKE LINE" not in told


class TestFailedRows:
    """A recipe gains nothing by failing."""

    def figures(self, room: Room, *metrics: Any, n_failed: int, **task: Any) -> dict[str, Any]:
        data = room.rows({"text": ("FAIL" if n < n_failed else "right") + str(n), "label": "right"} for n in range(12))
        room.write(
            "judge.yaml",
            "version: 1\ninputs: {answer: string}\noutput: 1.0\nsteps: {s: {use: text.join, with: {items: [a]}}}\n",
        )
        found = []
        for name in ("choice", "fails"):
            made = room.task(data=data, metrics=list(metrics), recipes={name: f"{room.folder}/{name}.yaml"}, **task)
            found.append(evaluate(room.kernel, made, name, read_task_rows(made), EFFORT))
        wrong, failed = found
        assert failed.n_failed == n_failed
        return {name: (wrong.figures[name].value, failed.figures[name].value) for name in wrong.figures}

    def test_by_confidence_it_is_a_wrong_answer_given_for_certain(self, room: Room) -> None:
        names = ("selective_accuracy", "accuracy_coverage_auc", "brier", "ece")
        found = self.figures(room, *names, n_failed=6)
        assert all(found[name][1] <= found[name][0] for name in names[:2])
        assert all(found[name][1] >= found[name][0] for name in names[2:])

    def test_by_a_judge_of_faults_it_is_as_bad_as_any_answer(self, room: Room) -> None:
        judge = {"name": "faults", "recipe": f"{room.folder}/judge.yaml", "lower_is_better": True}
        assert self.figures(room, judge, n_failed=10)["faults"] == (1.0, 1.0)
        del judge["lower_is_better"]
        assert self.figures(room, judge, n_failed=9)["faults"] == (1.0, 0.25)

    def test_two_that_failed_are_not_consistent(self, room: Room) -> None:
        data = room.rows({"text": ["FAIL a", "FAIL b"], "label": "right"} for _ in range(3))
        task = room.task(data=data, metrics=["consistency"], explode="text", recipes={"f": f"{room.folder}/fails.yaml"})
        data.write_text(data.read_text() + json.dumps({"text": ["right", "right"], "label": "right"}) + "\n")
        assert evaluate(room.kernel, task, "f", read_task_rows(task), EFFORT).figures["consistency"].value == 0.25


def test_a_figure_without_a_value_has_no_spread_over_repeats(room: Room) -> None:
    assert room.run("echo.yaml", metrics="accuracy,injection_success_rate", repeats=2) == 0


def test_the_order_of_repeats_changes_no_p_value(room: Room) -> None:
    chance = random.Random(3)
    plugin = FakePlugin(answers=lambda *_: chance.choice(["right", "wrong"]))
    data = room.rows({"text": "x", "label": "right"} for _ in range(20))
    with Kernel(plugins={"fake": plugin}, cache=False) as kernel:
        recipes = dict.fromkeys("ab", f"{room.folder}/choice.yaml")
        task = room.task(data=data, metrics=["ece"], repeats=2, recipes=recipes)
        first, second = (evaluate(kernel, task, name, read_task_rows(task), EFFORT) for name in "ab")
    turned = replace(second, repeats=second.repeats[::-1], samples=second.repeats[1])
    assert second.repeats[0] != second.repeats[1]
    [found], [again] = compare([first, second]), compare([first, turned])
    assert (found.value, found.p) == (again.value, again.p)


class TestRecords:
    def test_rows_of_one_file_that_were_chosen_otherwise_are_not_paired(self, room: Room) -> None:
        room.rows(({"text": f"t{n}", "label": "t1", "split": "ab"[n % 2]} for n in range(20)), "s.jsonl")
        for split in "ab":
            text = f"data: s.jsonl\nexpect: label\nmetrics: [accuracy]\nwhere: {{split: {split}}}\n"
            text += "recipes: {e: ./echo.yaml}\n"
            room.run(room.write(f"{split}.yaml", text).name, data=None, metrics=None)
        folder = room.kernel.settings.data_directory
        first, second = list_records(folder)
        told = "\n".join(diff_lines(folder, first, second))
        assert "the rows differ, of the same data" in told
        assert "row by row +" not in told

    def test_a_line_separator_in_an_answer_ends_no_line(self, room: Room) -> None:
        data = room.rows({"text": f"t{n}\u2028x\x85", "label": "t1"} for n in range(4))
        for _ in range(2):
            room.run("echo.yaml", data=data)
        folder = room.kernel.settings.data_directory
        told = "\n".join(diff_lines(folder, *list_records(folder)))
        assert "row by row +0.000" in told

    def test_the_last_is_the_newest_within_a_second_too_and_a_strange_file_is_none(self, room: Room) -> None:
        folder = room.kernel.settings.data_directory
        for n in range(4):
            room.run("echo.yaml", limit=n + 1)
            assert find_record(folder, "last")["data"]["rows"] == n + 1
        (folder / "evaluations" / "20990101-000000-abc.json").write_text('{"id": "x", "kind": "eval"}')
        assert len(list_records(folder)) == 4


class TestLadderFiles:
    @pytest.fixture
    def hill(self, room: Room) -> Path:
        text = (
            "data: d.jsonl\nmetrics: [accuracy]\nexpect: label\nquestion: text\nmodel: {use: fake}\nrungs: [baseline]\n"
        )
        return room.write("hill.yaml", text)

    def test_a_rung_that_was_edited_is_not_written_over(self, room: Room, hill: Path) -> None:
        folder, best = room.folder / "rungs", room.folder / "best.yaml"
        for _ in range(2):
            check_places(folder, best)
            climbed, _ = climb(room.kernel, read_ladder(hill), folder, EFFORT)
            keep_best(climbed, folder, best)
        rung = folder / "baseline.yaml"
        rung.write_text(rung.read_text() + "# mine\n")
        with pytest.raises(UsageError, match=r"baseline\.yaml is not as `gristmill ladder` wrote it"):
            check_places(folder, best)

    def test_no_other_file_is_taken_for_the_best_recipe(self, room: Room, hill: Path) -> None:
        with pytest.raises(UsageError, match=r"hill\.yaml is not as `gristmill ladder` wrote it"):
            check_places(room.folder / "rungs", hill)
        with pytest.raises(UsageError, match="there is no folder"):
            check_places(room.folder / "rungs", room.folder / "no" / "b.yaml")
        with pytest.raises(UsageError, match="the recipes cannot be written there"):
            climb(room.kernel, read_ladder(hill), room.data / "x", EFFORT)


def test_a_setting_is_printed_so_that_it_is_read_back_as_it_was() -> None:
    assert list(as_options({"a.x": "true", "b.y": "warm", "c.z": 3})) == [
        "--set 'a.x=\"true\"'", "--set b.y=warm", "--set c.z=3",
    ]  # fmt: skip
