"""Votes that ask the real bundled model: samples are drawn, weighed and stopped, and a rerun is free."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from gristmill import Kernel

HEAD = "version: 1\nmodels: {main: {use: llama, model: smollm2, context_tokens: 512}}\nsteps:\n"


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        with Kernel() as made:
            yield made


def test_a_settled_vote_draws_no_more_and_a_rerun_asks_nobody(kernel: Kernel, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        HEAD + "  v:\n    use: ensemble.vote\n    with: {prompt: 'Is fire hot or cold? Answer with one word.', "
        "samples: 12, temperature: 0.3, max_tokens: 20, options: [hot, cold], ties: first, early_stop: certain}\n"
    )
    vote = kernel.recipe(path).run().output
    assert vote.n_asked + vote.n_saved == 12
    assert vote.usage["answer"].completion_tokens > 0
    again = kernel.recipe(path).run()
    assert again.output.tally == vote.tally
    assert again.output.usage["answer"].calls <= vote.usage["answer"].calls


def test_answers_are_weighed_by_their_probability(kernel: Kernel, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        HEAD + "  own: {prompt: What is the capital of France?, temperature: 0.7, max_tokens: 40, top_logprobs: 0}\n"
        "  v:\n    use: ensemble.vote\n    with: {weigh_by: mean_probability, prompt: What is the capital of France?, "
        "temperature: 0.7, max_tokens: 40}\n"
    )
    steps = kernel.recipe(path).run().steps
    own, vote = steps["own"].value, steps["v"].value
    mean = math.fsum(token.logprob for token in own.logprobs) / len(own.logprobs)
    assert vote.weights["answer"] == pytest.approx(math.exp(mean))
    assert 0 < vote.weights["answer"] < 1


def test_a_recipe_is_a_member_beside_a_prompt(kernel: Kernel, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        HEAD + "  v:\n    use: ensemble.choose\n    with:\n      choices: [positive, negative]\n      members:\n"
        "        prompt: {prompt: 'Is this review positive or negative? A warm, funny film.'}\n"
        "        again: {recipe: inner.yaml, inputs: {text: 'A warm, funny film.'}}\n"
    )
    (tmp_path / "inner.yaml").write_text(
        "version: 1\ninputs: {text: string}\n" + HEAD.removeprefix("version: 1\n")
        + "  c: {prompt: 'Review: ${inputs.text} Sentiment:', choices: [positive, negative]}\n"
    )  # fmt: skip
    result = kernel.recipe(path).run()
    chosen = result.output
    assert set(chosen.members) == {"prompt", "again"}
    mean = sum(row["positive"] for row in chosen.members.values()) / 2
    assert chosen.probabilities["positive"] == pytest.approx(mean)
    assert all(usage.prompt_tokens > 0 for usage in chosen.usage.values())
    assert sum(usage.prompt_tokens for usage in chosen.usage.values()) == result.usage.prompt_tokens
