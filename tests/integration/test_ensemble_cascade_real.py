"""Cascades, routes, stacks and learners on the real bundled model, and the recipes that show them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gristmill import Kernel
from gristmill_plugins.ensemble._learn import give_feedback

pytest.importorskip("llama_cpp", reason="the real model needs the extra gristmill[llama]")

PRAISE = "A warm, funny film with a perfect cast. I loved every minute."


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        with Kernel(cache=False, memory=tmp_path_factory.mktemp("memory")) as made:
            yield made


def test_the_cascade_recipe_asks_the_second_way_only_where_the_first_is_unsure(kernel: Kernel) -> None:
    recipe = kernel.recipe("cascade")
    easy = recipe.run(text=PRAISE, threshold=0.5)
    hard = recipe.run(text=PRAISE, threshold=1.0)
    assert easy.output["asked"] == 1
    assert easy.output["answered_by"] == "bare"
    assert hard.output["asked"] == 2
    assert hard.output["answered_by"] == "examples"
    assert hard.output["sentiment"] == "positive"
    assert set(hard.steps["answer"].value.usage) == {"bare", "examples"}
    assert easy.usage.prompt_tokens < hard.usage.prompt_tokens


def test_the_mixture_recipe_sends_each_question_to_the_expert_it_suits(kernel: Kernel) -> None:
    pytest.importorskip("wordllama", reason="the gate needs the extra gristmill[memory]")
    output = kernel.recipe("mixture").run(questions=["How much is 8 plus 9?", "Name a synonym of angry."]).output
    assert [list(experts) for experts in output["experts"]] == [["numbers"], ["words"]]
    assert all(output["answers"])


def test_the_mixture_recipe_keeps_to_the_experts_capacity(kernel: Kernel) -> None:
    pytest.importorskip("wordllama", reason="the gate needs the extra gristmill[memory]")
    questions = ["How much is 8 plus 9?", "How much is 3 times 3?", "How much is 10 minus 4?"]
    gate = kernel.recipe("mixture").run(questions=questions, capacity=1.0).steps["gate"].value
    assert sorted(next(iter(one.members)) for one in gate) == ["facts", "numbers", "words"]


def test_the_stack_recipe_weighs_three_ways_to_ask(kernel: Kernel) -> None:
    advert = "WINNER!! You have won a FREE prize worth 900 pounds. Call 09061701461 now to claim."
    result = kernel.recipe("stack").run(text=advert)
    assert result.output["class"] == "spam"
    assert result.output["probability"] > 0.5
    assert set(result.steps["answer"].value.answers) == {"advert", "bare", "shots"}
    assert result.steps["answer"].value.fitted


LEARN = """version: 1
inputs: {question: {type: string}}
models: {main: {use: llama, model: smollm2, context_tokens: 2048}}
steps:
  answer:
    use: ensemble.learn
    with:
      policy: policy.json
      prompt: ${inputs.question}
      choices: ["yes", "no"]
      members: {bare: {}, careful: {system: Think carefully before you answer.}}
"""


def test_a_learner_asks_one_real_member_and_learns_from_what_it_is_told(kernel: Kernel, tmp_path: Path) -> None:
    path = tmp_path / "learn.yaml"
    path.write_text(LEARN)
    answer = kernel.recipe(path).run(question="Is water wet?").output
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    assert answer.usage[answer.member].calls == 1
    told = give_feedback(answer.decision, 1.0)
    assert told.policy[answer.member] > 0.5
    assert kernel.recipe(path).run(question="Is water wet?").output.policy == pytest.approx(told.policy)
