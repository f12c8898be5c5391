"""A batch writes one record for each row, whatever happens to rows, files and the process before it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gristmill import FunctionError, Kernel, ModelError, UsageError, function
from gristmill.testing import FakePlugin
from gristmill_plugins.evaluation._batch import BatchOptions, BatchSummary, run_batch
from gristmill_plugins.evaluation._history import diff_lines, list_rows, show_lines
from gristmill_plugins.evaluation._plain import jsonable
from gristmill_plugins.evaluation._progress import Progress
from gristmill_plugins.evaluation._records import batch_record, find_record, keep, list_records
from gristmill_plugins.evaluation._runner import Effort

RECIPE = """\
version: 1
name: shout
inputs: {text: string, mark: {type: string, default: "!"}}
steps:
  loud: {use: work.shout, with: {text: "${inputs.text}", mark: "${inputs.mark}"}}
output: ${loud}
"""
QUICK = Effort(concurrency=4, attempts=2, backoff_s=0.0)


class Work:
    """A function that a test can make fail, hold up, and count."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fails_on: dict[str, int] = {}
        self.running = self.most = 0
        self.gates: dict[str, asyncio.Event] = {}

    @function
    async def shout(self, text: str, mark: str) -> str:
        """Return the text in capitals."""
        self.calls.append(text)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await (self.gates[text].wait() if text in self.gates else asyncio.sleep(0))
            if self.fails_on.get(text, 0) > 0:
                self.fails_on[text] -= 1
                raise FunctionError(f"{text} is too loud")
        finally:
            self.running -= 1
            for gate in self.gates.values():
                gate.set()
        return text.upper() + mark

    @function
    async def count(self) -> int:
        """Return a number that no input has a part in."""
        return 1


def counts(done: BatchSummary) -> tuple[int, int, int]:
    """Return rows, rows before, rows that failed."""
    return done.n_rows, done.n_before, done.n_failed


class Desk:
    """A folder with a recipe, a kernel, and a short way to run a batch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = Work()
        self.kernel = Kernel(plugins={"work": self.work, "fake": FakePlugin()}, cache=False)
        self.recipe = self.write("shout.yaml", RECIPE)
        self.out = folder / "out.jsonl"

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def rows(self, *texts: str, name: str = "in.jsonl") -> Path:
        return self.write(name, "".join(json.dumps({"id": f"r{n}", "text": t}) + "\n" for n, t in enumerate(texts)))

    def batch(self, data: Path, **options: Any) -> BatchSummary:
        loaded = self.kernel.recipe(self.recipe, overrides=options.get("overrides"))
        given: dict[str, Any] = {"columns": {}, "constants": {}, "overrides": {}, "effort": QUICK} | options
        return run_batch(loaded, data, self.out, BatchOptions(**given))

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.read_text().splitlines()]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    with desk.kernel:
        yield desk


class TestRecords:
    def test_every_row_gets_one_record_with_its_id_input_output_and_attempts(self, desk: Desk) -> None:
        done = desk.batch(desk.rows("a", "b"))
        assert counts(done) == (2, 0, 0)
        assert sorted(desk.records(), key=lambda r: r["row"]) == [
            {"row": 1, "id": "r0", "input": {"text": "a"}, "output": "A!", "attempts": 1},
            {"row": 2, "id": "r1", "input": {"text": "b"}, "output": "B!", "attempts": 1},
        ]

    def test_a_row_that_fails_is_tried_again_and_then_recorded_beside_the_others(self, desk: Desk) -> None:
        desk.work.fails_on = {"once": 1, "always": 99}
        done = desk.batch(desk.rows("fine", "once", "always"))
        by_id = {record["id"]: record for record in desk.records()}
        assert done.n_failed == 1
        assert by_id["r1"]["output"] == "ONCE!"
        assert by_id["r1"]["attempts"] == 2
        assert by_id["r2"]["error"] == {"type": "RunError", "message": "step 'loud': always is too loud"}
        assert by_id["r2"]["attempts"] == 2
        assert "output" not in by_id["r2"]

    def test_rows_with_equal_ids_keep_a_record_each(self, desk: Desk) -> None:
        data = desk.write("in.jsonl", '{"id": "same", "text": "a"}\n' * 3)
        desk.batch(data)
        assert [record["id"] for record in desk.records()] == ["same"] * 3
        assert desk.batch(data).n_before == 3
        assert len(desk.work.calls) == 3

    def test_lines_that_cannot_be_read_are_failures_of_their_own_rows(self, desk: Desk) -> None:
        data = desk.write("in.jsonl", '{"text": "a"}\n{oops\n\n[1]\n{"x": 1}\n{"text": 5}\n{"text": "to')
        assert desk.batch(data).n_failed == 4
        told = {record["row"]: record.get("error", {}).get("message") for record in desk.records()}
        assert told[1] is told[5] is None
        assert "in.jsonl:2: no JSON" in told[2]
        assert told[3] == "in.jsonl:4: a row is an object, this is [1]"
        assert told[4] == "the row has no column 'text' for the input 'text'"
        assert "the last line, which may not be whole" in told[6]

    def test_a_number_column_is_text_where_the_input_is_text(self, desk: Desk) -> None:
        desk.batch(desk.write("in.jsonl", '{"text": 5}\n'))
        assert desk.records()[0]["output"] == "5!"

    def test_inputs_come_from_mapped_columns_nested_ones_too_and_constants(self, desk: Desk) -> None:
        data = desk.write("in.jsonl", '{"id": 7, "inner": {"premise": "a"}}\n')
        desk.batch(data, columns={"text": "inner.premise"}, constants={"mark": "?"})
        assert desk.records() == [
            {"row": 1, "id": 7, "input": {"mark": "?", "text": "a"}, "output": "A?", "attempts": 1}
        ]

    def test_csv_and_parquet_rows_become_the_declared_types(self, desk: Desk) -> None:
        pq = pytest.importorskip("pyarrow.parquet")
        pa = pytest.importorskip("pyarrow")
        desk.write("in.csv", 'text,mark\n"a, b",1\n"two\nlines",2\nshort\n')
        desk.batch(desk.folder / "in.csv", in_order=True)
        assert [record.get("output") for record in desk.records()] == ["A, B1", "TWO\nLINES2", None]
        assert desk.records()[2]["error"]["message"] == "in.csv:5: 1 cells under 2 headings"
        desk.out = desk.folder / "other.jsonl"
        pq.write_table(pa.table({"text": ["a", "b"], "n": [1, 2]}), desk.folder / "in.parquet")
        desk.batch(desk.folder / "in.parquet", in_order=True)
        assert [record["output"] for record in desk.records()] == ["A!", "B!"]

    def test_at_most_so_many_rows_are_under_way(self, desk: Desk) -> None:
        desk.batch(desk.rows(*map(str, range(50))))
        assert 1 < desk.work.most <= QUICK.concurrency

    def test_in_order_the_records_wait_for_a_slow_row_and_not_the_other_way_round(self, desk: Desk) -> None:
        desk.work.gates = {"0": asyncio.Event()}
        desk.batch(desk.rows(*map(str, range(60))), in_order=True)
        assert [record["row"] for record in desk.records()] == list(range(1, 61))

    def test_a_limit_takes_the_first_rows_and_a_later_run_the_rest(self, desk: Desk) -> None:
        data = desk.rows("a", "b", "c")
        assert desk.batch(data, limit=2).n_rows == 2
        assert counts(desk.batch(data)) == (3, 2, 0)
        assert sorted(desk.work.calls) == ["a", "b", "c"]


class TestGoingOn:
    def test_rows_that_have_a_record_do_not_run_again(self, desk: Desk) -> None:
        data = desk.rows("a", "b", "c", "d")
        desk.batch(data, in_order=True)
        whole = desk.out.read_bytes()
        lines = whole.splitlines(keepends=True)
        desk.out.write_bytes(lines[0] + lines[2] + lines[1][:9])
        desk.work.calls.clear()
        assert counts(desk.batch(data, in_order=True)) == (4, 2, 0)
        assert sorted(desk.work.calls) == ["b", "d"]
        assert sorted(desk.out.read_bytes().splitlines(keepends=True)) == sorted(lines)

    def test_failed_rows_run_again_only_when_asked(self, desk: Desk) -> None:
        desk.work.fails_on = {"b": 2}
        data = desk.rows("a", "b")
        assert desk.batch(data).n_failed == 1
        assert desk.batch(data).n_failed == 1
        assert counts(desk.batch(data, retry_failed=True)) == (2, 1, 0)
        assert sorted(record["output"] for record in desk.records()) == ["A!", "B!"]
        with pytest.raises(UsageError, match="--retry-failed excludes --in-order"):
            desk.batch(data, retry_failed=True, in_order=True)

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ("recipe", "the recipe 'shout' was edited or is another one"),
            ("data", "the data were edited or are another file"),
            ("map", "the column for the input 'text' changed"),
            ("constant", "the input 'mark' changed"),
            ("override", "the override of 'loud.timeout_s' changed"),
        ],
    )
    def test_what_changed_is_refused_and_named(self, desk: Desk, change: str, told: str) -> None:
        data = desk.rows("a")
        desk.batch(data)
        before = desk.out.read_bytes()
        options: dict[str, Any] = {}
        if change == "recipe":
            desk.recipe.write_text(RECIPE + "# edited\n")
        elif change == "data":
            data.write_text(data.read_text().replace('"a"', '"b"'))
        elif change == "map":
            options = {"columns": {"text": "id"}}
        elif change == "constant":
            options = {"constants": {"mark": "?"}}
        else:
            options = {"overrides": {"loud.timeout_s": "5"}}
        with pytest.raises(UsageError, match="holds records of another batch") as caught:
            desk.batch(data, **options)
        assert told in str(caught.value)
        assert "undo the change and run the same command to go on" in str(caught.value)
        assert desk.out.read_bytes() == before

    def test_a_file_plugin_or_order_that_changed_is_refused_and_named(self, desk: Desk) -> None:
        data, file, plugin = desk.rows("a"), desk.write("f.txt", "one"), desk.write("p.py", "x = 1\n")
        same: dict[str, Any] = {"constants": {"mark": file}, "id_column": "id"}
        desk.recipe.write_text(RECIPE.replace("mark: {type: string", "mark: {type: path"))
        desk.kernel.plugin_files = (plugin,)
        desk.batch(data, **same)
        assert counts(desk.batch(data, **same)) == (1, 1, 0)
        for told, options in (
            ("the option '--id' changed", same | {"id_column": "text"}),
            ("the records so far are in no order, and '--in-order' is asked for", same | {"in_order": True}),
        ):
            with pytest.raises(UsageError, match=told):
                desk.batch(data, **options)
        file.write_text("two")
        plugin.write_text("x = 2\n")
        with pytest.raises(UsageError, match=r"the input 'mark' changed\n  the plugin '.*p.py' changed"):
            desk.batch(data, **same)

    def test_another_model_is_refused_by_its_name(self, desk: Desk) -> None:
        text = "version: 1\nname: r\ninputs: {text: string}\nmodels: {main: {use: fake, name: %s}}\nsteps:\n"
        text += "  a: {prompt: '${inputs.text}'}\n"
        desk.recipe.write_text(text % "one")
        data = desk.rows("a")
        desk.batch(data)
        assert desk.records()[0]["output"] == "fake answer"
        with pytest.raises(UsageError, match="the model 'main' changed"):
            desk.batch(data, overrides={"models.main.name": "two"})

    def test_a_file_that_no_batch_wrote_is_left_alone(self, desk: Desk) -> None:
        desk.out.write_text("mine\n")
        with pytest.raises(UsageError, match=r"out.jsonl exists, and no batch wrote it\n  give another --out"):
            desk.batch(desk.rows("a"))
        assert desk.out.read_text() == "mine\n"

    def test_a_batch_killed_before_its_first_record_may_begin_with_anything(self, desk: Desk) -> None:
        desk.batch(desk.rows("a"))
        desk.out.write_bytes(b"")
        desk.recipe.write_text(RECIPE.replace('"!"', '"."'))
        desk.batch(desk.rows("b"))
        assert desk.records()[0]["output"] == "B."

    @pytest.mark.parametrize(
        ("damage", "told"),
        [
            (lambda lines: [lines[0], b"oops\n", lines[1]], "out.jsonl:2: this line is no record of a batch"),
            (lambda lines: [lines[0], lines[0]], "out.jsonl:2: a second record of row 1"),
        ],
    )
    def test_damage_in_the_middle_is_told_and_nothing_is_thrown_away(self, desk: Desk, damage: Any, told: str) -> None:
        data = desk.rows("a", "b")
        desk.batch(data, in_order=True)
        damaged = b"".join(damage(desk.out.read_bytes().splitlines(keepends=True)))
        desk.out.write_bytes(damaged)
        with pytest.raises(UsageError) as caught:
            desk.batch(data)
        assert told in str(caught.value)
        assert desk.out.read_bytes() == damaged

    def test_two_batches_never_write_one_file(self, desk: Desk) -> None:
        from gristmill_plugins.evaluation._ledger import Ledger

        identity = {"recipe": {"sha256": "x", "name": "x", "path": "x"}}
        with Ledger(desk.out, identity), pytest.raises(UsageError, match="another batch is writing this file"):
            Ledger(desk.out, identity)

    def test_data_that_change_while_they_are_read_are_told(self, desk: Desk) -> None:
        data = desk.rows("a", "b")

        def edit(*_: int) -> None:
            data.write_text(data.read_text().replace('"b"', '"c"'))

        options = BatchOptions({}, {}, {}, QUICK)
        with pytest.raises(UsageError, match=r"in.jsonl changed while the batch read it"):
            run_batch(desk.kernel.recipe(desk.recipe), data, desk.out, options, edit)


class TestMistakes:
    def test_a_missing_column_is_told_before_anything_runs(self, desk: Desk) -> None:
        data = desk.write("in.jsonl", '{"txet": "a"}\n')
        with pytest.raises(UsageError, match=r"no column 'text', which the input 'text' takes") as caught:
            desk.batch(data)
        assert "did you mean 'txet'?" in str(caught.value)
        assert not desk.out.exists()

    def test_an_unknown_input_is_told(self, desk: Desk) -> None:
        with pytest.raises(UsageError, match=r"recipe 'shout' has no input 'txt'\n  did you mean 'text'\?"):
            desk.batch(desk.rows("a"), columns={"txt": "text"})

    def test_an_ending_without_a_reader_is_told(self, desk: Desk) -> None:
        with pytest.raises(UsageError, match=r"no reader is for '.xlsx'\n  data are read from .jsonl"):
            desk.batch(desk.write("in.xlsx", ""))

    def test_the_output_cannot_be_the_data(self, desk: Desk) -> None:
        desk.out = desk.rows("a")
        with pytest.raises(UsageError, match="the output needs a file of its own"):
            desk.batch(desk.out)

    def test_an_output_that_is_no_file_is_refused(self, desk: Desk) -> None:
        data = desk.rows("a")
        for place in (Path(), desk.folder, Path("/dev/null")):
            desk.out = place
            with pytest.raises(UsageError, match="is no file that records could be written to"):
                desk.batch(data)

    def test_a_column_of_ids_that_is_not_there_is_told(self, desk: Desk) -> None:
        with pytest.raises(UsageError, match=r"no column 'idd', which --id names\n  did you mean 'id'\?"):
            desk.batch(desk.rows("a"), id_column="idd")

    def test_a_row_that_is_nested_too_deeply_is_a_failure_of_its_own(self, desk: Desk) -> None:
        desk.recipe.write_text("version: 1\ninputs: {text: any}\nsteps: {s: {use: work.count}}\noutput: ${s}\n")
        deep = '{"text": ' + "[" * 700 + "]" * 700 + "}\n"
        assert counts(desk.batch(desk.write("in.jsonl", deep + '{"text": 1}\n'))) == (2, 0, 1)
        assert desk.records()[0]["error"]["message"].endswith("is nested too deeply to be written")

    def test_the_file_behind_a_link_is_written_and_the_link_stays(self, desk: Desk) -> None:
        target, data = desk.out, desk.rows("a", "b")
        desk.out = desk.folder / "link.jsonl"
        desk.out.symlink_to(target)
        desk.work.fails_on = {"b": 2}
        desk.batch(data)
        desk.batch(data, retry_failed=True)
        assert desk.out.is_symlink()
        assert sorted(json.loads(line)["output"] for line in target.read_text().splitlines()) == ["A!", "B!"]

    def test_a_csv_file_with_two_columns_of_one_name_is_refused(self, desk: Desk) -> None:
        with pytest.raises(UsageError, match="two columns are called 'text'"):
            desk.batch(desk.write("in.csv", "text,text\na,b\n"))

    def test_a_model_that_cannot_be_loaded_stops_the_batch_and_no_row_is_recorded(self, desk: Desk) -> None:
        def refuse(*_: Any) -> str:
            raise ModelError("no such file", model="m.gguf", cause="file")

        plugin = FakePlugin(answers=refuse)
        with Kernel(plugins={"fake": plugin}, cache=False) as kernel:
            text = "version: 1\nname: r\ninputs: {text: string}\nmodels: {main: {use: fake}}\nsteps:\n"
            recipe = desk.write("r.yaml", text + "  a: {prompt: '${inputs.text}'}\n")
            options = BatchOptions({}, {}, {}, QUICK)
            with pytest.raises(ModelError, match="no such file"):
                run_batch(kernel.recipe(recipe), desk.rows("a", "b"), desk.out, options)
        assert desk.out.read_bytes() == b""


class TestRuns:
    def keep(self, desk: Desk, data: Path, **options: Any) -> dict[str, Any]:
        record: dict[str, Any] = jsonable(batch_record(data, desk.out, desk.batch(data, **options)))
        keep(desk.kernel, record)
        return record

    def test_a_batch_is_a_record_that_is_listed_and_shown(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_DATA_HOME", str(desk.folder / "data"))
        with Kernel(plugins={"work": desk.work, "fake": FakePlugin()}, cache=False) as desk.kernel:
            desk.work.fails_on = {"b": 99}
            kept = self.keep(desk, desk.rows("a", "b"))
            folder = desk.kernel.settings.data_directory
        assert find_record(folder, "last") == kept
        assert list_rows(list_records(folder)) == [(kept["id"], "batch", "in.jsonl (2)", "shout 1 failed")]
        shown = show_lines(kept)
        assert f"out: {desk.out}, 2 rows, 0 of them before" in shown
        assert "failed rows: 1" in shown
        assert any("shout.yaml, SHA-256 " in line for line in shown)

    def test_two_batches_differ_in_what_was_changed_between_them(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_DATA_HOME", str(desk.folder / "data"))
        with Kernel(plugins={"work": desk.work, "fake": FakePlugin()}, cache=False) as desk.kernel:
            first = self.keep(desk, desk.rows("a"))
            desk.out = desk.folder / "other.jsonl"
            second = self.keep(desk, desk.rows("a", "b"), columns={"text": "id"})
            told = "\n".join(diff_lines(desk.kernel.settings.data_directory, first, second))
        assert "the data differ" in told
        assert "the column for the input 'text' changed" in told
        assert "the data were edited or are another file" in told
        assert "failed rows: 0 -> 0" in told

    def test_the_cost_of_a_batch_is_that_of_the_rows_that_ran_this_time(self, desk: Desk) -> None:
        text = "version: 1\nname: r\ninputs: {text: string}\nmodels: {main: {use: fake}}\nsteps:\n"
        desk.recipe = desk.write("r.yaml", text + "  a: {prompt: '${inputs.text}'}\n")
        data = desk.rows("a", "b", "c")
        first, second = desk.batch(data, limit=2), desk.batch(data)
        assert (first.cost.n_rows, first.cost.calls) == (2, 2)
        assert (second.cost.n_rows, second.cost.calls) == (1, 1)
        assert first.cost.tokens_per_row > 0


def test_progress_says_how_far_how_fast_and_how_long() -> None:
    progress = Progress("rows")
    assert progress.line(1_200, 3, 5_000, 12.0) == "1,200 of 5,000 rows, 3 failed, 100.0 rows/s, 0:00:38 left"
    assert progress.line(5_000, 0, 5_000, 50.0) == "5,000 of 5,000 rows, 100.0 rows/s"
