"""Recipes are measured on the same rows, compared pair by pair, and what came out is kept."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from gristmill import GenerateRequest, Kernel, UsageError
from gristmill.testing import FakePlugin
from gristmill_plugins.evaluation._compare import Difference, compare, pareto
from gristmill_plugins.evaluation._condition import holds
from gristmill_plugins.evaluation._evaluate import Evaluated, evaluate, read_task_rows
from gristmill_plugins.evaluation._history import show_lines
from gristmill_plugins.evaluation._records import find_record, list_records, read_scores
from gristmill_plugins.evaluation._runner import Effort
from gristmill_plugins.evaluation._samples import Columns
from gristmill_plugins.evaluation._session import Given, Show, make_task, run_evaluation
from gristmill_plugins.evaluation._task_file import Task, read_task

RECIPE = """\
version: 1
name: %(name)s
inputs: {text: string}
models: {main: {use: fake, name: %(name)s}}
steps:
  answer: {prompt: "%(name)s ${inputs.text}", %(how)s}
output: ${answer}
"""
EFFORT = Effort(8, 1)


def answers(request: GenerateRequest, _: int) -> str:
    """`good` is right on every row, `poor` on every third, `stuck` says "odd" to all."""
    who, text = request.messages[-1].content.split(" ", 1)
    if who == "stuck":
        return "odd"
    n = int(re.findall(r"\d+", text)[0])
    right, wrong = ("even", "odd") if n % 2 == 0 else ("odd", "even")
    if who == "good":
        return right
    return right if n % 3 == 0 else wrong


class Lab:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kernel = Kernel(plugins={"fake": FakePlugin(answers=answers)}, cache=False)
        for name in ("good", "poor", "stuck"):
            self.write(f"{name}.yaml", RECIPE % {"name": name, "how": "choices: [even, odd]"})
        rows = [
            {"id": n, "text": f"is {n}", "label": "even" if n % 2 == 0 else "odd", "group": "xy"[n % 2]}
            for n in range(60)
        ]
        self.data = self.write("data.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def task(self, *names: str, **keys: Any) -> Task:
        recipes = {name: str(self.folder / f"{name}.yaml") for name in names or ("good",)}
        base: dict[str, Any] = {"data": self.data, "expect": "label", "metrics": ["accuracy"], "recipes": recipes}
        return Task(**(base | keys))

    def measure(self, task: Task) -> list[Evaluated]:
        rows = read_task_rows(task)
        return [evaluate(self.kernel, task, name, rows) for name in task.recipes]

    def command(self, *recipes: str, kind: str = "compare", show: Show = Show(quiet=True), **said: Any) -> int:  # noqa: B008
        options = {"expect": "label"} | said.pop("options", {})
        given = Given([str(self.folder / name) for name in recipes], said.pop("data", self.data), metrics="accuracy",
                      options=options)  # fmt: skip
        return run_evaluation(self.kernel, given, show, effort=EFFORT, fail_if=said.pop("fail_if", ()), kind=kind)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path)
    with lab.kernel:
        yield lab


class TestEvaluate:
    def test_figures_scores_slices_and_cost_are_those_of_the_rows(self, lab: Lab) -> None:
        task = lab.task(
            "poor", metrics=["accuracy", "ece", "equalised_odds_difference"], group="group", slices=["group"]
        )
        [poor] = lab.measure(task)
        accuracy = poor.figures["accuracy"]
        assert accuracy.value == pytest.approx(1 / 3)
        assert accuracy.scores == tuple(float(n % 3 == 0) for n in range(60))
        assert accuracy.interval.low < 1 / 3 < accuracy.interval.high
        assert {value: figures["accuracy"].n for value, figures in poor.slices["group"].items()} == {"x": 30, "y": 30}
        confidence = sum(sample.confidence or 0 for sample in poor.samples) / 60
        assert poor.figures["ece"].value == pytest.approx(confidence - 1 / 3, abs=0.02)  # too sure by as much
        assert poor.figures["equalised_odds_difference"].value is None  # each truth is in one group only
        assert poor.cost.calls == poor.cost.n_rows == 60
        assert poor.cost.tokens_per_row > 0
        assert poor.identity["models"]["main"]["name"] == "poor"

    def test_rows_that_share_a_long_text_run_side_by_side_and_are_told_in_their_order(self, lab: Lab) -> None:
        asked: list[str] = []

        def answer(request: GenerateRequest, _: int) -> str:
            asked.append(request.messages[-1].content)
            return request.messages[-1].content[-1]

        lab.write("shared.jsonl", "".join(
            json.dumps({"text": text, "n": n, "right": str(n)}) + "\n"
            for n, text in enumerate(["a long passage", "another one", "a long passage", "alone", "another one"])
        ))  # fmt: skip
        text = "version: 1\ninputs: {text: string, n: integer}\nmodels: {m: {use: fake}}\nsteps:\n"
        lab.write("r.yaml", text + "  a: {prompt: '${inputs.text} ${inputs.n}'}\n")
        task = Task(data=lab.folder / "shared.jsonl", expect="right", metrics=["accuracy"],
                    recipes={"r": str(lab.folder / "r.yaml")})  # fmt: skip
        with Kernel(plugins={"fake": FakePlugin(answers=answer)}, cache=False) as kernel:
            found = evaluate(kernel, task, "r", read_task_rows(task), Effort(1, 1))
        assert [line[-1] for line in asked] == ["0", "2", "1", "4", "3"]
        assert [sample.answer for sample in found.samples] == ["0", "1", "2", "3", "4"]
        assert found.figures["accuracy"].value == 1.0

    def test_a_row_that_fails_counts_as_wrong(self, lab: Lab) -> None:
        lab.write("odd.yaml", "version: 1\nname: odd\ninputs: {text: string}\nmodels: {main: {use: fake}}\nsteps:\n"
                  '  a: {prompt: "good ${inputs.text}", schema: {n: integer}, if: "${inputs.text != \'is 4\'}"}\n'
                  'output: even\n')  # fmt: skip
        [odd] = lab.measure(lab.task("odd", limit=6))
        assert odd.figures["accuracy"].value == pytest.approx(1 / 6)

    def test_rows_are_filtered_exploded_and_limited(self, lab: Lab) -> None:
        assert [row.data["id"] for row in read_task_rows(lab.task(where={"group": "y"}, limit=2)).rows] == [1, 3]
        lab.data = lab.write("data.jsonl", '{"id": "a", "texts": ["is 2", "is 4", "is 5"], "label": "even"}\n')
        task = lab.task(explode="texts", map={"text": "texts"}, metrics=["consistency", "attack_success_rate"])
        [good] = lab.measure(task)
        assert [sample.perturbed for sample in good.samples] == [False, True, True]
        assert good.figures["consistency"].value == pytest.approx(0.5)
        assert good.figures["attack_success_rate"].value == pytest.approx(0.5)

    def test_repeats_give_every_prompt_another_seed_and_each_row_its_mean(self, lab: Lab) -> None:
        lab.kernel.close()
        seeds: set[int] = set()

        def draw(request: GenerateRequest, _: int) -> str:
            seeds.add(request.seed)
            return "even" if request.seed else "odd"

        lab.kernel = Kernel(plugins={"fake": FakePlugin(answers=draw)}, cache=False)
        lab.write("draw.yaml", RECIPE % {"name": "draw", "how": "temperature: 1.0"})
        with lab.kernel:
            [drawn] = lab.measure(lab.task("draw", repeats=3, limit=4))
        assert len(seeds) == 3
        assert drawn.figures["accuracy"].scores == pytest.approx((2 / 3, 1 / 3, 2 / 3, 1 / 3))
        assert drawn.spread["accuracy"] == pytest.approx(0.0)
        assert drawn.cost.n_rows == 12

    def test_a_recipe_is_a_metric_and_gets_what_it_declares(self, lab: Lab) -> None:
        lab.write(
            "long.yaml",
            "version: 1\nname: long\ninputs: {answer: string, expected: [string], text: string}\n"
            "steps:\n  s: {use: evaluation.score, with: {answer: '${inputs.answer}', "
            "expected: '${inputs.expected}', metric: exact_match}}\noutput: {score: '${s}'}\n",
        )
        metric = {"name": "judged", "recipe": str(lab.folder / "long.yaml")}
        [poor] = lab.measure(lab.task("poor", metrics=["accuracy", metric]))
        assert poor.figures["judged"].scores == poor.figures["accuracy"].scores

    @pytest.mark.parametrize(
        ("keys", "told"),
        [
            ({"expect": None}, r"the metric 'accuracy' needs a column: --expect COLUMN"),
            ({"metrics": []}, r"no metric is asked for"),
            ({"metrics": ["context_recall"]}, r"'context_recall' needs passages: have the recipe put them out"),
            ({"slices": ["grp"]}, r"the data have no column 'grp', which a slice asks for\n  did you mean 'group'"),
            ({"where": {"group": "z"}}, r"no row is left to evaluate"),
            ({"expect": "lable"}, r"a row has no column 'lable'\n  did you mean 'label'"),
            ({"map": {"txt": "text"}}, r"recipe 'good' has no input 'txt'"),
        ],
    )
    def test_what_does_not_fit_is_told(self, lab: Lab, keys: dict[str, Any], told: str) -> None:
        with pytest.raises(UsageError, match=told):
            lab.measure(lab.task(**keys))

    def test_a_recipe_of_which_every_row_fails_is_an_error_and_no_score_of_0(self, lab: Lab) -> None:
        lab.write("bad.yaml", "version: 1\nname: bad\ninputs: {text: string}\nmodels: {main: {use: fake}}\nsteps:\n"
                  '  a: {prompt: "good ${inputs.text}", schema: {n: integer}}\n')  # fmt: skip
        with pytest.raises(UsageError, match="bad: every row failed; the first: recipe 'bad' failed: step 'a'"):
            lab.measure(lab.task("bad"))


@pytest.mark.parametrize(
    ("value", "is_perturbed"),
    [(True, True), ("True", True), ("1", True), (False, False), ("false", False), ("", False)],
)
def test_whether_a_row_is_perturbed_may_be_a_text_as_csv_has_it(value: Any, is_perturbed: bool) -> None:
    assert Columns(perturbed="p").of({"p": value})["perturbed"] is is_perturbed


def test_a_column_that_does_not_say_whether_a_row_is_perturbed_is_refused() -> None:
    with pytest.raises(UsageError, match="says whether a row is perturbed, this is 'anti'"):
        Columns(perturbed="stereotype").of({"stereotype": "anti"})


class TestCompare:
    def test_pairs_are_tested_row_by_row_and_wins_counted(self, lab: Lab) -> None:
        good_first = compare(lab.measure(lab.task("good", "poor")))
        [one] = good_first
        assert (one.wins, one.ties, one.losses) == (0, 20, 40)
        assert one.test == "McNemar, exact"
        assert one.p == pytest.approx(2 * 0.5**40)
        assert one.value == pytest.approx(-2 / 3)
        assert one.interval.high < 0
        assert one.better == "good"

    def test_a_recipe_does_not_differ_from_itself(self, lab: Lab) -> None:
        lab.write("twin.yaml", (lab.folder / "poor.yaml").read_text())
        task = lab.task("poor", "twin", metrics=["accuracy", "ece"])
        for one in compare(lab.measure(task)):
            assert one.value == 0
            assert one.better is None
            assert one.p == 1.0
            assert one.interval.low <= 0 <= one.interval.high

    def test_set_metrics_are_tested_by_swapping_rows(self, lab: Lab) -> None:
        [one] = compare(lab.measure(lab.task("good", "poor", metrics=["ece"])))
        assert one.test == "paired permutation"
        assert one.p < 0.01
        assert one.better == "good"
        assert one.value > 0  # more error, and less is better

    def test_many_comparisons_of_a_metric_are_adjusted_together(self, lab: Lab) -> None:
        evaluated = lab.measure(lab.task("good", "poor", "good"))
        three = compare([evaluated[0], evaluated[1], evaluated[1]])
        assert [one.p_holm for one in three] == pytest.approx([2 * three[0].p] * 2)
        assert len(compare([*evaluated, evaluated[0]], all_pairs=True)) == 3

    def test_the_front_holds_what_nothing_beats_at_the_same_cost(self, lab: Lab) -> None:
        dear = RECIPE % {"name": "poor", "how": "choices: [even, odd]"}
        lab.write("dear.yaml", dear.replace('"poor $', '"poor a long way to say $'))
        points = pareto(lab.measure(lab.task("good", "dear")), "accuracy")
        assert {point.name: point.front for point in points} == {"good": True, "dear": False}


class TestConditions:
    FIGURES: Mapping[str, Mapping[str, Any]] = {
        "A": {"acc": {"value": 0.8, "low": 0.7, "high": 0.9}, "seconds": 2.0},
        "B": {"acc": {"value": 0.7}, "n": None},
    }

    @pytest.mark.parametrize(
        ("condition", "true"),
        [
            ("B.acc < A.acc - 0.02", True),
            ("B.acc < A.acc - 0.2", False),
            ("A.acc.low >= 0.7 and not A.seconds > 3", True),
            ("0.5 < A.acc < 0.6 or A.seconds * 2 == 4", True),
            ("-A.acc / 2 != -0.4", False),
        ],
    )
    def test_comparisons_and_arithmetic_mean_what_they_say(self, condition: str, true: bool) -> None:
        assert holds(condition, self.FIGURES) is true

    @pytest.mark.parametrize(
        ("condition", "told"),
        [
            ("C.acc < 1", r"no recipe is called 'C'"),
            ("A.ac < 1", r"there is no 'A.ac'\n  did you mean 'acc'"),
            ("A.acc", r"is no comparison"),
            ("A.acc < ", r"invalid syntax"),
            ("__import__('os').system('true') == 0", r"means nothing here"),
            ("A.acc.__class__ == 1", r"there is no 'A.acc.__class__'"),
            ("9**9**9 > 1", r"means nothing here"),
            ("[1 for x in A] == 1", r"means nothing here"),
            ("(A.acc < 1) < 2", r"has no value here"),
            ("A.seconds and 1 < 2", r"is neither true nor false"),
            ("B.n > 1", r"'B.n' has no value here"),
            ("A.acc / 0 > 1", r"division by zero"),
            ("A.acc in A.acc", r"only < <= > >= == != compare"),
            ("'a' < 1", r"means nothing here"),
            ("1 < " * 200 + "2", r"at most 500 characters"),
        ],
    )
    def test_everything_else_is_refused(self, condition: str, told: str) -> None:
        with pytest.raises(UsageError, match=told):
            holds(condition, self.FIGURES)


class TestCommands:
    def test_compare_prints_a_table_with_the_verdict_and_examples(self, lab: Lab, capsys: Any) -> None:
        assert lab.command("good.yaml", "poor.yaml") == 0
        told = capsys.readouterr().out
        assert "good    1.000 [0.940, 1.000]" in told
        assert "poor - good  accuracy  -0.667" in told
        assert "0/20/40" in told
        assert "good is better" in told
        assert "where poor differs most:\n  row 2, expected odd" in told
        assert "no other is better at the same cost: good" in told

    def test_a_condition_that_holds_gives_exit_code_1_and_is_named(self, lab: Lab, capsys: Any) -> None:
        assert lab.command("good.yaml", "poor.yaml", fail_if=["B.accuracy < A.accuracy - 0.02"]) == 1
        assert "failed: B.accuracy < A.accuracy - 0.02" in capsys.readouterr().err
        assert lab.command("good.yaml", "poor.yaml", fail_if=["poor.accuracy > good.accuracy"]) == 0

    def test_a_mistake_in_a_condition_is_told_before_anything_runs(self, lab: Lab) -> None:
        with pytest.raises(UsageError, match=r"there is no 'A\.acuracy'"):
            lab.command("good.yaml", "poor.yaml", fail_if=["A.acuracy < 1"])
        assert list_records(lab.kernel.settings.data_directory) == []

    def test_json_is_the_record_that_is_kept_and_its_rows_hold_every_answer(self, lab: Lab, capsys: Any) -> None:
        lab.command("good.yaml", "poor.yaml", show=Show(as_json=True, quiet=True))
        printed = json.loads(capsys.readouterr().out)
        folder = lab.kernel.settings.data_directory
        kept = find_record(folder, "last")
        assert kept == printed
        assert kept["kind"] == "compare"
        assert kept["recipes"]["poor"]["metrics"]["accuracy"]["value"] == pytest.approx(1 / 3)
        assert kept["data"]["rows"] == 60
        assert "gristmill" in kept["versions"]
        rows = read_scores(folder, kept["id"])
        assert rows[1]["answers"] == {"good": "odd", "poor": "even"}
        assert rows[1]["scores"]["poor"] == {"accuracy": 0.0}
        with pytest.raises(UsageError, match="there is no record 'nothing'"):
            find_record(folder, "nothing")

    def test_the_report_is_one_file_without_a_network_and_shows_text_as_text(self, lab: Lab) -> None:
        rows = [{"id": n, "text": f"is {n} <script>alert(1)</script>", "label": "even"} for n in range(1, 9)]
        data = lab.write("bad.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        lab.command("good.yaml", "poor.yaml", data=data, show=Show(html=lab.folder / "r.html", quiet=True))
        text = (lab.folder / "r.html").read_text()
        tags = _Tags()
        tags.feed(text)
        assert {"svg", "table", "circle", "rect"} <= tags.seen
        assert not tags.seen & {"script", "img", "link", "iframe", "object"}
        assert not re.search(r"https?://|url\(|@import", text)
        assert "&lt;script&gt;alert(1)" in text
        assert "default-src 'none'" in text

    def test_one_recipe_is_evaluated_and_told_with_its_cost(self, lab: Lab, capsys: Any) -> None:
        assert lab.command("poor.yaml", kind="eval") == 0
        told = capsys.readouterr().out
        assert "poor: 60 rows" in told
        assert "accuracy  0.333 [0.227, 0.459]  60" in told
        assert "60 model calls" in told

    def test_what_a_recipe_says_too_often_is_told_wherever_it_is_shown(self, lab: Lab, capsys: Any) -> None:
        told = "stuck leans: 'odd' is the answer in 60 of 60 rows and right in 30"
        html = lab.folder / "r.html"
        lab.command("good.yaml", "stuck.yaml", show=Show(html=html, quiet=True))
        assert f"\n\n{told}\n" in capsys.readouterr().out
        assert escape(told) in html.read_text()
        kept = find_record(lab.kernel.settings.data_directory, "last")
        assert kept["recipes"]["good"]["leaning"] is None
        assert kept["recipes"]["stuck"]["leaning"] == {
            "answer": "odd", "column": None, "place": None, "given": 60, "right": 30, "n": 60,
        }  # fmt: skip
        assert f"  {told.removeprefix('stuck ')}" in show_lines(kept)
        lab.command("stuck.yaml", kind="eval")
        assert told in capsys.readouterr().out
        lab.command("poor.yaml", kind="eval")
        assert "leans" not in capsys.readouterr().out

    def test_a_comparison_needs_two_recipes(self, lab: Lab) -> None:
        with pytest.raises(UsageError, match="a comparison needs two recipes"):
            lab.command("poor.yaml")


class TestFiles:
    FILE = """\
evaluation: 1
name: parity
data: data.jsonl
expect: label
metrics: [accuracy, {name: judged, recipe: judge.yaml}]
slices: [group]
recipes:
  fine: ./good.yaml
  other: {recipe: poor.yaml, set: {answer.calibrate: true}}
"""

    def test_paths_in_an_evaluation_file_are_taken_from_its_folder(self, lab: Lab) -> None:
        task = read_task(lab.write("e.yaml", self.FILE))
        assert task.data == lab.data
        assert task.entry("fine").recipe == str(lab.folder / "good.yaml")
        assert task.entry("other").overrides() == {"answer.calibrate": "true"}
        assert task.recipe_metrics()[0].recipe == str(lab.folder / "judge.yaml")

    def test_options_change_what_a_file_says(self, lab: Lab) -> None:
        file = lab.write("e.yaml", self.FILE)
        task = make_task(lab.kernel, Given([str(file)], None, metrics="f1", options={"limit": 5, "expect": None}))
        assert (task.metrics, task.limit, task.expect) == (["f1"], 5, "label")
        with pytest.raises(UsageError, match="--model and --set change one recipe"):
            make_task(lab.kernel, Given([str(file)], None, set=["answer.temperature=1"]))

    def test_every_mistake_of_a_file_is_told(self, lab: Lab) -> None:
        file = lab.write("e.yaml", "evaluation: 1\nmetrcs: [f1]\nlimit: none\nrepeats: 0\n")
        with pytest.raises(UsageError) as caught:
            read_task(file)
        told = str(caught.value)
        assert "'metrcs' is no key of this file: did you mean 'metrics'?" in told
        assert "limit: Input should be a valid integer" in told
        assert "repeats: Input should be greater than or equal to 1" in told
        assert "'data' is missing" in told

    def test_settings_and_names_come_from_the_command_line(self, lab: Lab) -> None:
        recipes = [str(lab.folder / "good.yaml")] * 2
        task = make_task(lab.kernel, Given(recipes, lab.data, metrics="f1", set=["answer.calibrate=true"]))
        assert list(task.recipes) == ["good", "good-2"]
        assert task.entry("good-2").overrides() == {"answer.calibrate": "true"}
        named = make_task(lab.kernel, Given([f"mine={recipes[0]}", recipes[0]], lab.data, metrics="f1"))
        assert list(named.recipes) == ["mine", "good"]


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.add(tag)


def test_a_difference_that_is_no_number_is_null_in_json() -> None:
    from gristmill_plugins.evaluation._plain import jsonable
    from gristmill_plugins.evaluation._statistics import Interval

    one = Difference("ece", "a", "b", 0.1, Interval(math.nan, math.nan), "t", 1.0, 1.0, 0, 0, 0, True)
    assert jsonable(one.as_json())["interval"] == {"low": None, "high": None}
