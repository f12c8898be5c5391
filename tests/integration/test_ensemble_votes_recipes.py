"""The recipes of votes, judges and averages do on the real bundled model what their headers say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.random_adapter import write_adapter

from gristmill import Kernel

pytest.importorskip("llama_cpp", reason="the recipes that ship run on the extra gristmill[llama]")


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with Kernel(cache=False) as made:
        yield made


def test_vote_prompts_counts_five_prompts(kernel: Kernel) -> None:
    result = kernel.recipe("vote_prompts").run(text="Two hours I will never get back. Awful.")
    votes = result.output["votes"]
    assert set(votes) == {"plain", "review", "critic", "friend", "shown"}
    counts = {answer: list(votes.values()).count(answer) for answer in votes.values()}
    assert result.output["sentiment"] == max(counts, key=lambda answer: counts[answer])
    assert result.output["agreement"] == pytest.approx(max(counts.values()) / 5)
    assert all(usage.prompt_tokens for usage in result.steps["asked"].value.usage.values())


def test_weighted_vote_weighs_by_what_was_measured(kernel: Kernel) -> None:
    result = kernel.recipe("weighted_vote").run(text="Free prize! Call now")
    worth = result.steps["worth"].value
    assert worth.n == 8
    assert result.output["weights"] == pytest.approx(worth.weights)
    assert "on 8 rows a majority is right in" in result.output["advice"]
    tally = result.steps["vote"].value.tally
    assert result.output["answer"] == max(tally, key=lambda answer: tally[answer])


def test_ranked_vote_finds_a_topic_that_no_other_beats(kernel: Kernel) -> None:
    output = kernel.recipe("ranked_vote").run(headline="Striker signs record deal with Italian club").output
    assert output["topic"] in {"politics", "business", "sports", "science", "culture"}
    assert output["beats"][output["topic"]] == max(output["beats"].values())
    assert len(output["first_choices"]) == 4


def test_judge_gives_the_same_verdict_whichever_is_first(kernel: Kernel) -> None:
    question, good, bad = "How many legs does a spider have?", "A spider has eight legs.", "Spiders are arachnids."
    recipe = kernel.recipe("judge")
    one = recipe.run(question=question, first=good, second=bad).output
    other = recipe.run(question=question, first=bad, second=good).output
    assert one["probabilities"]["first"] == pytest.approx(other["probabilities"]["second"], abs=0.1)
    assert sum(one["probabilities"].values()) == pytest.approx(1)
    assert 0 < one["first_shown"] < 1


def test_blend_ranks_its_drafts_and_writes_one_answer(kernel: Kernel) -> None:
    result = kernel.recipe("blend").run(question="Why does bread rise?", drafts=1)
    assert set(result.output["order"]) == {"plain", "teacher"}
    scores = [result.output["scores"][name] for name in result.output["order"]]
    assert scores == sorted(scores, reverse=True)
    assert result.steps["answer"].value.sources == tuple(result.output["order"])
    assert result.output["answer"].strip()


def test_average_adapters_writes_with_all_of_them_in_one_batch(kernel: Kernel, tmp_path: Path) -> None:
    for seed, name in enumerate(("formal", "brief")):
        write_adapter(tmp_path / f"{name}.gguf", seed=seed, spread=0.35)
    overrides = {f"models.main.adapters.{name}": str(tmp_path / f"{name}.gguf") for name in ("formal", "brief")}
    recipe = kernel.recipe("average_adapters", overrides={**overrides, "text.with.max_tokens": "12"})
    result = recipe.run(prompt="Ask a colleague for the report.")
    written = result.steps["text"].value
    assert written.text.strip()
    assert written.weights == {"bare": 0.2, "formal": 0.4, "brief": 0.4}
    assert result.usage.calls == 1
    assert result.usage.prompt_tokens == sum(usage.prompt_tokens for usage in written.usage.values())
    assert len({usage.prompt_tokens for usage in written.usage.values()}) == 1
