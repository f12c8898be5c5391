"""`gristmill ensemble fit`, `gristmill ensemble show` and `gristmill feedback`, on models that tests bring."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gristmill import FunctionError, GristmillError, Kernel, UsageError
from gristmill_plugins.ensemble import _commands as commands

PLUGIN = '''
"""A model that is right where the prompt holds what it knows."""
import math
from gristmill import Model, Scores, model_provider
from gristmill.testing import FakeModel


class Knowing(FakeModel):
    def __init__(self, knows):
        super().__init__(name=knows)
        self.knows = knows

    async def score(self, request):
        text = request.messages[-1].content
        right = "yes" if "true" in text else "no"
        sure = 0.95 if self.knows in text else 0.55
        said = right if self.knows in text or "luck" in text else {"yes": "no", "no": "yes"}[right]
        shares = [sure if choice == said else 1 - sure for choice in request.choices]
        return Scores(logprobs=tuple(math.log(share) for share in shares), prompt_tokens=10 * len(self.knows))


@model_provider
def knowing(*, knows: str) -> Model:
    """A model that knows one subject."""
    return Knowing(knows)
'''
MODELS = "models: {cat: {use: knowing, knows: cat}, horse: {use: knowing, knows: horse}}\n"
HEAD = "version: 1\ninputs: {text: {type: string}}\n" + MODELS
STACK = HEAD + (
    "steps:\n"
    "  a: {model: cat, prompt: '${inputs.text}', choices: [yes, no]}\n"
    "  b: {model: horse, prompt: '${inputs.text}', choices: [yes, no]}\n"
    "  answer:\n    use: ensemble.stack\n    with: {candidates: {a: '${a}', b: '${b}'}, fitted: fitted.json}\n"
)
CASCADE = HEAD + (
    "steps:\n  answer:\n    use: ensemble.cascade\n    with:\n"
    "      choices: [yes, no]\n      prompt: ${inputs.text}\n      fitted: fitted.json\n"
    "      members: {cheap: {model: cat}, dear: {model: horse}}\n"
)
ROUTE = HEAD.replace("horse}}", "horse}, words: {use: words}}") + (
    "steps:\n  answer:\n    use: ensemble.route\n    with:\n"
    "      choices: [yes, no]\n      prompt: ${inputs.text}\n      fitted: fitted.json\n      embedder: words\n"
    "      members: {one: {model: cat}, two: {model: horse}}\n"
)
WORDS = '''
"""Bags of words."""
from gristmill import Embedder, model_provider
from gristmill.testing import FakeEmbedder


@model_provider
def words() -> Embedder:
    """Bags of words."""
    return FakeEmbedder()
'''

Call = Callable[..., Result]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run a command in a folder of its own, with the recipes, the plugins and forty labelled rows."""
    monkeypatch.chdir(tmp_path)
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    for name, text in (("stack", STACK), ("cascade", CASCADE), ("route", ROUTE)):
        (tmp_path / f"{name}.yaml").write_text(text)
    (tmp_path / "knowing.py").write_text(PLUGIN)
    (tmp_path / "words.py").write_text(WORDS)
    rows = [
        {"text": f"{animal} {truth} {n}{' luck' if n % 3 == 0 else ''}", "label": "yes" if truth == "true" else "no"}
        for n in range(10) for animal in ("cat", "horse") for truth in ("true", "false")
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def call(*words: str) -> Result:
        more = ["--plugin", "knowing.py", "--plugin", "words.py"] if words[0] == "fit" else []
        app = commands.feedback_app if words[0] == "feedback" else commands.app
        arguments = [*words[1:]] if words[0] == "feedback" else [*words, *more]
        return CliRunner().invoke(app, arguments, catch_exceptions=True)

    return call


def fitted(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, (result.output, result.exception)
    record: dict[str, Any] = json.loads(result.stdout)
    return record


def refused(result: Result, kind: type[GristmillError], pattern: str) -> None:
    assert isinstance(result.exception, kind), result.exception
    assert re.search(pattern, str(result.exception)), str(result.exception)


def fit(call: Call, recipe: str, *more: str) -> Result:
    words = ["fit", f"{recipe}.yaml", "answer", "--data", "rows.jsonl", "--out", "fitted.json", *more]
    return call(*words)


def run(name: str, text: str) -> Any:
    with Kernel(plugin_files=["knowing.py", "words.py"], cache=False) as kernel:
        return kernel.recipe(f"./{name}.yaml").run(text=text).output


@pytest.fixture(autouse=True)
def needs_sklearn() -> None:
    pytest.importorskip("sklearn", reason="fitting needs the extra gristmill[ensemble]")


def test_fit_makes_a_stack_that_the_recipe_then_uses(call: Call) -> None:
    record = fitted(fit(call, "stack", "--json"))
    assert record["kind"] == "ensemble.stack"
    assert record["evidence"]["n"] == 40
    assert record["evidence"]["members"] == {"a": 0.7, "b": 0.7}
    assert record["evidence"]["accuracy"] > 0.9
    answer = run("stack", "cat true 77")
    assert (answer.text, answer.fitted) == ("yes", True)


def test_fit_makes_a_cascade_for_a_target_and_tells_costs(call: Call) -> None:
    record = fitted(fit(call, "cascade", "--target-accuracy", "0.9", "--json"))
    assert record["members"] == ["cheap", "dear"]
    assert record["costs"] == {"cheap": 30, "dear": 50}
    assert record["evidence"]["accuracy"] >= 0.9
    assert run("cascade", "cat true 77").member == "cheap"
    assert run("cascade", "horse true 77").member == "dear"


def test_fit_makes_a_gate_by_whom_questions_are_routed(call: Call) -> None:
    record = fitted(fit(call, "route", "--json"))
    assert record["embedder"] == "fake-embedder"
    assert record["evidence"]["accuracy"] > 0.8
    assert list(run("route", "cat true 77").members) == ["one"]
    assert list(run("route", "horse true 77").members) == ["two"]


def test_fit_and_show_print_what_members_and_the_whole_were_worth(call: Call) -> None:
    printed = fit(call, "cascade").stdout
    assert printed.startswith("fitted.json: cascade, fitted on 40 rows, judged on 5 parts left out\n")
    assert re.search(r"^cheap +0\.700  answers \d+%, 30 tokens$", printed, re.M)
    assert re.search(r"^cascade +\d\.\d+  \d+ tokens a question$", printed, re.M)
    assert call("show", "fitted.json").stdout == printed
    assert json.loads(call("show", "fitted.json", "--json").stdout)["kind"] == "ensemble.cascade"


def test_fields_that_are_called_differently_are_mapped(call: Call, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    renamed = [{"said": row["text"], "truth": row["label"]} for row in rows]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, renamed)))
    record = fitted(fit(call, "stack", "--label", "truth", "--map", "text=said", "--limit", "30", "--json"))
    assert record["evidence"]["n"] == 30


def test_steps_and_rows_that_cannot_be_fitted_are_refused_with_their_place(call: Call, tmp_path: Path) -> None:
    words = ["--data", "rows.jsonl", "--out", "f.json"]
    refused(call("fit", "stack.yaml", "nothing", *words), UsageError, "has no step 'nothing'\n.*it has: a, b, answer")
    refused(
        call("fit", "stack.yaml", "a", *words), UsageError, "step 'a' cannot be fitted\n.*these can: ensemble.stack"
    )
    refused(fit(call, "stack", "--label", "truth"), UsageError, r"rows\.jsonl:1: there is no 'truth'\n.*--label FIELD")
    refused(fit(call, "stack", "--map", "text=said"), UsageError, r"rows\.jsonl:1: there is no 'said'")
    refused(fit(call, "stack", "--map", "other=said"), UsageError, "the recipe has no input 'other'\n.*it has: text")
    refused(fit(call, "stack", "--map", "other"), UsageError, "--map 'other' is not INPUT=FIELD")
    refused(fit(call, "stack", "--normalize", "number"), UsageError, "a stack compares texts, and not as 'number'")
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": "yes"}\n{"text\n')
    refused(fit(call, "stack"), UsageError, r"rows\.jsonl:2: no JSON")
    (tmp_path / "rows.jsonl").write_text("[1]\n")
    refused(fit(call, "stack"), UsageError, r"rows\.jsonl:1: a row is a JSON object")
    (tmp_path / "rows.jsonl").unlink()
    refused(fit(call, "stack"), UsageError, r"rows\.jsonl cannot be read")
    assert not (tmp_path / "fitted.json").exists()


def test_a_row_that_fails_names_its_line_and_leaves_no_file(call: Call, tmp_path: Path) -> None:
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    lines[4] = json.dumps({"text": "", "label": "yes"})
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    refused(fit(call, "cascade"), FunctionError, r"rows\.jsonl:5: ")
    assert not (tmp_path / "fitted.json").exists()


def test_show_refuses_what_nobody_fitted(call: Call, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"kind": "shopping list"}')
    refused(call("show", "x.json"), FunctionError, "holds 'shopping list', which nobody fitted")
    refused(call("show", "none.json"), FunctionError, r"there is no none\.json")


LEARN = (
    HEAD + "steps:\n  answer:\n    use: ensemble.learn\n    with:\n"
    "      policy: policy.json\n      prompt: ${inputs.text}\n      choices: [yes, no]\n"
    "      members: {cheap: {model: cat}, dear: {model: horse}}\n"
)


def recorded(tmp_path: Path, text: str = LEARN) -> str:
    (tmp_path / "learn.yaml").write_text(text)
    with Kernel(plugin_files=["knowing.py"], cache=False) as kernel:
        return kernel.recipe("./learn.yaml").run_with({"text": "cat true"}, record=True).run_id


def test_feedback_for_a_recorded_run_reaches_its_learner(call: Call, tmp_path: Path) -> None:
    run_id = recorded(tmp_path)
    told = json.loads(call("feedback", run_id, "--reward", "0.8", "--json").stdout)
    assert [one["n"] for one in told] == [1]
    assert list(told[0]["mean_rewards"].values()) == [0.8]
    again = call("feedback", "last", "--reward", "-0.5").stdout
    assert re.match(r"(cheap|dear): -0\.5; 1 reward so far\nmember +chosen +mean reward\n", again)


def test_a_for_each_of_learners_is_told_as_a_whole(call: Call, tmp_path: Path) -> None:
    text = LEARN.replace("  answer:\n", "  answer:\n    for_each: [1, 2, 3]\n").replace("${inputs.text}", "${item} cat")
    told = json.loads(call("feedback", recorded(tmp_path, text), "--reward", "1", "--json").stdout)
    assert len(told) == 3


def test_feedback_for_no_such_run_or_one_without_a_learner_is_refused(call: Call, tmp_path: Path) -> None:
    refused(call("feedback", "last", "--reward", "1"), UsageError, "there is no record of a run 'last' in .*runs")
    run_id = recorded(tmp_path)
    refused(call("feedback", run_id[:-1], "--reward", "1"), UsageError, f"did you mean {run_id}")
    refused(call("feedback", run_id, "--reward", "1", "--step", "b"), UsageError, "step 'b' of run .* asked no learner")
    plain = recorded(tmp_path, HEAD + "steps:\n  answer: {model: cat, prompt: hello}\n")
    refused(call("feedback", plain, "--reward", "1"), UsageError, f"run {plain} asked no learner")
    assert call("feedback", "last", "--reward", "1").exit_code == 0  # the latest that asked one
    assert call("feedback", run_id, "--reward", "7").exit_code == 2


def test_a_damaged_record_is_read_as_far_as_it_goes(call: Call, tmp_path: Path) -> None:
    run_id = recorded(tmp_path)
    record = next((tmp_path / "xdg_data_home").rglob(f"{run_id}.jsonl"))
    record.write_text(record.read_text() + '{"event": "step_fin')
    assert call("feedback", run_id, "--reward", "1").exit_code == 0
