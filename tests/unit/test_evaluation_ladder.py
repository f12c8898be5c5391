"""The ladder tries technique after technique on one task, and climbs only what is shown to be better."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gristmill import GenerateRequest, Kernel, UsageError
from gristmill.testing import FakePlugin
from gristmill_plugins.evaluation._ladder import as_task, climb, keep_best, read_ladder, table
from gristmill_plugins.evaluation._rungs import RUNGS, Example, LadderFile, lacks, rung_recipe

TASK = """\
ladder: 1
name: parity
data: data.jsonl
question: text
expect: label
metrics: [accuracy]
instruction: Say even or odd.
model: {use: fake}
choices: [even, odd]
rungs: [baseline, few_shot, chain_of_thought, retrieval, adapter]
examples:
  - {input: is 2, output: even}
  - {input: is 3, output: odd}
"""


def answer(request: GenerateRequest, _: int) -> str:
    """Alone it is always `even`; shown examples it is right; after thinking it is wrong."""
    asked = [message for message in request.messages if message.role == "user"]
    n = int(re.findall(r"\d+", asked[-1].content if len(asked) != 2 else asked[0].content)[0])
    right, wrong = ("even", "odd") if n % 2 == 0 else ("odd", "even")
    if asked[-1].content == "So the answer is:":
        return wrong
    return right if len(asked) > 2 else "even"


class Hill:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kernel = Kernel(plugins={"fake": FakePlugin(answers=answer)}, cache=False)
        rows = [{"text": f"is {n}", "label": ("even", "odd")[n % 2]} for n in range(40)]
        (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def task(self, text: str = TASK) -> LadderFile:
        path = self.folder / "task.yaml"
        path.write_text(text)
        return read_ladder(path)


@pytest.fixture
def hill(tmp_path: Path) -> Iterator[Hill]:
    hill = Hill(tmp_path)
    with hill.kernel:
        yield hill


def test_a_rung_is_climbed_when_it_is_shown_to_be_better_and_the_others_are_told(hill: Hill) -> None:
    told: list[str] = []
    climbed, data = climb(hill.kernel, hill.task(), hill.folder / "rungs", tell=told.append)
    assert len(data.rows) == 40
    assert [one.name for one in climbed.evaluated] == ["baseline", "few_shot", "chain_of_thought"]
    assert climbed.standing is climbed.evaluated[1]
    assert told[0].startswith("baseline: accuracy 0.500 [")
    assert "+0.500 [" in told[1]
    assert told[1].endswith("against baseline: climbed")
    assert told[2].endswith("against few_shot: worse")
    assert told[3:] == [
        "retrieval: left out, the task file has no `documents`",
        "adapter: left out, the task file has no `adapter`",
    ]
    rows = table(climbed)
    assert [row[-1] for row in rows] == ["", "<- stop here", ""]
    keep_best(climbed, hill.folder / "rungs", hill.folder / "best.yaml")
    best = hill.kernel.recipe(hill.folder / "best.yaml")
    assert best.run(question="is 7").output.text == "odd"


def test_a_rung_that_cannot_run_is_named_with_the_reason(hill: Hill) -> None:
    text = TASK.replace("model: {use: fake}", "model: {use: fake, nmae: x}")
    with pytest.raises(UsageError, match=r"no rung of the ladder could be run: .*nmae"):
        climb(hill.kernel, hill.task(text), hill.folder / "rungs")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("baseline, few", "base, few"), r"there is no rung 'base'\n  did you mean 'baseline'\?"),
        (("metrics: [accuracy]\n", ""), r"'metrics' is missing\n  the first one decides"),
        (("question: text\n", ""), r"'question' is missing"),
        (("kind", "kind"), None),
        (("choices: [even, odd]", "kind: numbr"), r"kind: Input should be"),
    ],
)
def test_mistakes_in_a_task_file_are_told(hill: Hill, change: tuple[str, str], told: str | None) -> None:
    if told is None:
        assert hill.task(TASK.replace(*change)).kind == "auto"
        return
    with pytest.raises(UsageError, match=told):
        hill.task(TASK.replace(*change))


def every_kind(folder: Path) -> dict[str, LadderFile]:
    base: dict[str, Any] = {"data": folder / "data.jsonl", "question": "text", "expect": "label", "metrics": ["f1"],
                            "documents": folder, "adapter": folder / "task.gguf"}  # fmt: skip
    worked = [Example(input="1 + 1?", output="2", reasoning="One and one is two.")]
    return {
        "questions": LadderFile(**base, examples=worked),
        "choices": LadderFile(**base, examples=worked, choices=["yes", "no"]),
        "numbers": LadderFile(**(base | {"documents": None}), kind="number"),
    }


@pytest.mark.parametrize("kind", ["questions", "choices", "numbers"])
@pytest.mark.parametrize("rung", list(RUNGS))
def test_the_recipe_of_every_rung_checks_without_a_mistake(hill: Hill, kind: str, rung: str) -> None:
    task = every_kind(hill.folder)[kind]
    if lacks(task, rung) is not None:
        assert (kind, rung) in {("choices", "checked")} | {("numbers", r) for r in RUNGS}
        return
    path = hill.folder / f"{rung}.yaml"
    path.write_text(rung_recipe(task, rung))
    assert [diagnostic.render() for diagnostic in hill.kernel.check(path).diagnostics] == []
    plain = as_task(hill.kernel, task, rung, path)
    assert plain.map == {"question": "text"}
    assert ("documents" in plain.inputs) == ("documents" in hill.kernel.check(path).inputs)
