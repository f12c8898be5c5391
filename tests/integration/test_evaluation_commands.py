"""The commands that measure, and the recipes that are metrics, with the bundled model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gristmill import Kernel

pytest.importorskip("llama_cpp", reason="these run the bundled model")

ROWS = [
    {"text": "I loved every minute of it.", "label": "positive"},
    {"text": "A boring, ugly mess.", "label": "negative"},
    {"text": "The cast is perfect and the ending moved me.", "label": "positive"},
    {"text": "I walked out after an hour.", "label": "negative"},
]
BLIND = """\
version: 1
name: blind
inputs: {text: string}
models: {main: {use: llama, model: smollm2, context_tokens: 2048}}
steps:
  sentiment: {prompt: "Positive or negative?", choices: [negative, positive]}
output: ${sentiment}
"""
LADDER = """\
ladder: 1
data: rows.jsonl
question: text
expect: label
metrics: [accuracy]
instruction: Decide whether the film review is positive or negative.
choices: [negative, positive]
rungs: [baseline, few_shot, retrieval]
examples:
  - {input: "The plot drags.", output: negative}
  - {input: "A warm, funny film.", output: positive}
"""
SEARCH = """\
optimize: 1
recipe: few_shot
data: many.jsonl
expect: label
metrics: [accuracy]
tune:
  sentiment.calibrate: [true]
budget: 24
"""


def gristmill(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gristmill", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS * 4))
    (tmp_path / "blind.yaml").write_text(BLIND)
    (tmp_path / "ladder.yaml").write_text(LADDER)
    (tmp_path / "search.yaml").write_text(SEARCH)
    return tmp_path


def test_eval_and_compare_measure_and_the_gate_decides_the_exit_code(folder: Path) -> None:
    common = ("rows.jsonl", "--expect", "label", "--metrics", "accuracy,brier")
    one = gristmill(folder, "eval", "few_shot", *common)
    assert one.returncode == 0, one.stderr
    assert "few_shot: 4 rows" in one.stdout
    assert "4 model calls" in one.stdout
    two = gristmill(folder, "compare", "few_shot", "./blind.yaml", *common, "--html", "r.html", "--json",
                    "--fail-if", "blind.accuracy < few_shot.accuracy")  # fmt: skip
    record = json.loads(two.stdout)
    figures = {name: recipe["metrics"]["accuracy"]["value"] for name, recipe in record["recipes"].items()}
    assert figures["blind"] == 0.5, "it sees no text, so it gives one label to all"
    assert two.returncode == (1 if figures["few_shot"] > 0.5 else 0), two.stderr
    assert record["recipes"]["few_shot"]["cost"]["calls"] == 0, "the second run comes from the cache"
    assert record["recipes"]["few_shot"]["cost"]["rows_cached"] == 4
    assert "<svg" in (folder / "r.html").read_text()
    listed = gristmill(folder, "runs", "list")
    assert listed.stdout.count("few_shot accuracy") == 2
    shown = gristmill(folder, "runs", "show", "last")
    assert "model main: smollm2" in shown.stdout
    told = gristmill(folder, "runs", "diff", record["id"], "last")
    assert "few_shot" in told.stdout


def test_ladder_and_optimize_run_from_their_files(folder: Path) -> None:
    climbed = gristmill(folder, "ladder", "ladder.yaml", "--best", "best.yaml")
    assert climbed.returncode == 0, climbed.stderr
    assert "baseline: accuracy" in climbed.stdout
    assert "retrieval: left out, the task file has no `documents`" in climbed.stdout
    assert "<- stop here" in climbed.stdout
    assert gristmill(folder, "check", "--strict", "best.yaml").returncode == 0
    searched = gristmill(folder, "optimize", "search.yaml")
    assert searched.returncode == 0, searched.stderr
    assert "on 8 rows that were held out:" in searched.stdout
    wrong = gristmill(folder, "optimize", "ladder.yaml")
    assert wrong.returncode == 2
    assert "'ladder' is no key of this file" in wrong.stderr


def test_the_recipes_that_are_metrics_tell_good_answers_from_bad_ones() -> None:
    legs, eight, trains = "How many legs does a spider have?", "A spider has eight legs.", "I like trains."
    passages = [{"text": "Folk metal band Skyclad also formed in Newcastle."}]
    with Kernel(cache=False) as kernel:
        relevant, faithful = kernel.recipe("answer_relevance"), kernel.recipe("faithfulness")
        assert _score(relevant.run(question=legs, answer=eight)) > _score(relevant.run(question=legs, answer=trains))
        true = faithful.run(answer="Skyclad formed in Newcastle.", passages=passages)
        false = faithful.run(answer="The queen opened a bank in 1875.", passages=passages)
        assert _score(true) > _score(false)
        judged = kernel.recipe("judge_answer").run(question=legs, answer="eight", expected=["eight", "8"])
        assert _score(judged) == 0.5  # an answer is no better than itself
        assert 0 < _score(kernel.recipe("judge_answer").run(question=legs, answer=trains, expected=["eight"])) < 1


def _score(result: object) -> float:
    return float(result.output["score"])  # type: ignore[attr-defined]
