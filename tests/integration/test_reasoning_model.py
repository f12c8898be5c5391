"""The reasoning plugin on the bundled model: calls that parse, trees that go back, and the recipes that ship."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gristmill import Kernel, ModelCalled, StepNoted

pytest.importorskip("llama_cpp", reason="needs the extra gristmill[llama]")

HEAD = "version: 1\nmodels: {main: {use: llama, context_tokens: 1024}}\nsteps:\n  a:\n"


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("XDG_CACHE_HOME", "XDG_DATA_HOME"):
            patch.setenv(variable, str(tmp_path_factory.mktemp("home")))
        with Kernel(cache=False) as made:
            yield made


def run(kernel: Kernel, folder: Path, step: str) -> Any:
    (folder / "r.yaml").write_text(HEAD + step)
    return kernel.recipe(folder / "r.yaml").run()


@pytest.mark.parametrize("question", ["What is 12 * 34?", "}]\"'\\ <|im_end|> {answer}", "Qu'est-ce que c'est ?"])
def test_whatever_is_asked_a_small_models_call_parses(kernel: Kernel, tmp_path: Path, question: str) -> None:
    import yaml

    tools = [{"use": "reasoning.calculate"}, {"use": "text.match", "with": {"text": "rye"}, "as": "look"}]
    given = {"question": question, "tools": tools, "max_turns": 1, "required": ["calculate"], "answer_length": 40,
             "thoughts": False}  # fmt: skip
    step = yaml.safe_dump({"use": "reasoning.react", "with": given})
    agent = run(kernel, tmp_path, "    " + step.replace("\n", "\n    ").rstrip() + "\n").output
    assert agent.turns[0].tool in ("calculate", "look")
    assert set(agent.turns[0].arguments) == {"expression" if agent.turns[0].tool == "calculate" else "pattern"}
    assert agent.stopped == "turns"
    assert 0 < len(agent.text) <= 40


def test_a_result_longer_than_the_window_is_cut_and_the_agent_still_answers(kernel: Kernel, tmp_path: Path) -> None:
    import yaml

    tool = {
        "use": "text.match", "as": "look", "with": {"text": "rye and oats " * 2000},
        "schema": {"pattern": {"enum": ["rye", "oats"]}},
    }  # fmt: skip
    given = {"question": "Is there rye?", "tools": [tool], "max_turns": 1, "required": ["look"], "answer_length": 40,
             "thoughts": False, "result_length": 9000}  # fmt: skip
    step = yaml.safe_dump({"use": "reasoning.react", "with": given})
    result = run(kernel, tmp_path, "    " + step.replace("\n", "\n    ").rstrip() + "\n")
    assert len(result.output.turns[0].result) > 7000
    assert result.output.trimmed == (1,)
    assert 0 < len(result.output.text) <= 40
    told = [event.text for event in result.trace if isinstance(event, StepNoted)]
    assert "turn 2: the model's window is full: turn 1 shortened" in told


def test_samples_share_one_call_of_the_model(kernel: Kernel, tmp_path: Path) -> None:
    given = "{question: How many legs has a spider?, samples: 3, max_tokens: 30, logprobs: true}"
    step = f"    use: reasoning.chain_of_thought\n    with: {given}\n"
    result = run(kernel, tmp_path, step)
    calls = [event for event in result.trace if isinstance(event, ModelCalled)]
    assert [call.n_samples for call in calls] == [3]
    assert len({chain.reasoning for chain in result.output}) > 1
    assert all(chain.logprob < 0 and 1 <= chain.n_tokens <= 31 for chain in result.output)


def test_a_tree_goes_back_where_no_leaf_is_accepted(kernel: Kernel, tmp_path: Path) -> None:
    step = (
        "    use: reasoning.tree_of_thought\n    with: {question: How do I keep bread fresh?, search: depth, depth: 1,"
        " branches: 2, accept: 1, max_tokens: 16, answer_tokens: 16, kind: text}\n"
    )
    result = run(kernel, tmp_path, step)
    leaves = [state for state in result.output.states if state.depth == 1]
    assert result.output.n_backtracks == len(leaves) > 0
    told = [event.text for event in result.trace if isinstance(event, StepNoted)]
    assert sum(line.startswith("backtrack from state") for line in told) == len(leaves)
    assert all(0 < state.score < 1 for state in leaves)


def test_self_consistency_lets_chains_vote(kernel: Kernel) -> None:
    result = kernel.recipe("self_consistency").run(samples=4)
    assert result.output["answer"] in result.output["answers"]
    assert result.output["agreement"] >= 1 / 4
    assert [e.n_samples for e in result.trace if isinstance(e, ModelCalled)] == [4]


def test_cot_few_shot_shows_the_examples_that_are_alike(kernel: Kernel) -> None:
    pytest.importorskip("wordllama", reason="needs the extra gristmill[memory]")
    output = kernel.recipe("cot_few_shot").run().output
    assert len(output["shown"]) == 2
    assert all("left" in shown for shown in output["shown"])
    assert output["answer"]


def test_plan_and_solve_answers_behind_a_plan(kernel: Kernel) -> None:
    output = kernel.recipe("plan_and_solve").run().output
    assert len(output["plan"]) > len(output["answer"]) > 0


def test_least_to_most_answers_each_part_before_the_whole(kernel: Kernel) -> None:
    output = kernel.recipe("least_to_most").run().output
    assert 1 <= len(output["parts"]) <= 3
    assert all(part.answer for part in output["parts"])
    assert output["answer"]


def test_reflect_is_judged_by_the_recipe_that_it_names(kernel: Kernel) -> None:
    result = kernel.recipe("reflect").run(trials=2)
    for trial in result.steps["tried"].value.trials:
        n = len(trial.answer.split())
        assert trial.score == (1.0 if n <= 25 else 0.0)
        assert trial.feedback == f"The answer has {n} words, and at most 25 are allowed."
    assert result.output["solved"] == (result.steps["tried"].value.score == 1.0)


def test_self_refine_scores_every_draft(kernel: Kernel) -> None:
    output = kernel.recipe("self_refine").run(revisions=1).output
    assert output["text"]
    assert all(0 <= score <= 1 for score in output["scores"])


def test_tree_of_thought_answers_from_the_end_of_a_path(kernel: Kernel) -> None:
    output = kernel.recipe("tree_of_thought").run().output
    assert 1 <= len(output["path"]) <= 2
    assert output["answer"]


def test_react_tools_computes_with_what_it_looked_up(kernel: Kernel) -> None:
    pytest.importorskip("wordllama", reason="needs the extra gristmill[memory]")
    output = kernel.recipe("react_tools").run().output
    tools = [turn.tool for turn in output["turns"]]
    assert {"search", "calculator"} <= set(tools)
    found = output["turns"][tools.index("search")]
    assert found.result in kernel.check("react_tools").inputs["facts"].default
    assert output["answer"]


@pytest.mark.parametrize(
    "name",
    [
        "self_consistency",
        "cot_few_shot",
        "plan_and_solve",
        "least_to_most",
        "self_refine",
        "reflect",
        "tree_of_thought",
        "react_tools",
    ],
)
def test_a_recipes_own_cases_hold_on_their_scripted_answers(name: str) -> None:
    pytest.importorskip("wordllama", reason="needs the extra gristmill[memory]")
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "gristmill", "test", name, "--fake"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed, 0 failed" in done.stdout + done.stderr
