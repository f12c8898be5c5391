"""A function ranks texts through its context: each pair is kept, counted and budgeted as other calls are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gristmill import (
    Context,
    Kernel,
    Model,
    ModelCalled,
    ModelRef,
    Relevance,
    RunError,
    function,
    model_provider,
)
from gristmill._residents import Residents
from gristmill.testing import FakeModel, RecordedModel


class Counting(FakeModel):
    """Remembers what it was asked to rank."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[str]] = []

    async def rank(self, query: str, texts: Sequence[str]) -> Relevance:
        self.asked.append(list(texts))
        return await super().rank(query, texts)


class Plain(Model):
    """A model that only writes."""

    capabilities = frozenset({"generate"})
    name = "plain"
    fingerprint = "plain"


class Models:
    """Makes the models, and ranks with them."""

    def __init__(self) -> None:
        self.made = Counting()

    @model_provider
    def counting(self, *, adapters: dict[str, str] | None = None) -> Model:
        """Counts what it ranks."""
        return self.made

    @model_provider
    def plain(self) -> Model:
        """Only writes."""
        return Plain()

    @function
    async def rank(self, query: str, texts: list[str], context: Context, *, model: ModelRef) -> list[float]:
        """Rank texts."""
        return await context.model(model).rank(query, texts)


HEAD = "version: 1\nmodels: {main: {use: m.counting, adapters: {tone: t.gguf}}}\ninputs: {texts: {type: list}}\n"
STEP = "steps:\n  x: {use: m.rank, with: {query: grey mill, texts: '${inputs.texts}'}}\n"
Run = Callable[..., Any]


@pytest.fixture
def models() -> Models:
    return Models()


@pytest.fixture
def run(models: Models, tmp_path: Path) -> Iterator[Run]:
    with Kernel(plugins={"m": models}) as kernel:

        def run(texts: Sequence[str], recipe: str = HEAD + STEP) -> Any:
            path = tmp_path / "r.yaml"
            path.write_text(recipe, encoding="utf-8")
            return kernel.recipe(path).run(texts=list(texts))

        yield run


def test_every_pair_is_kept_by_itself(run: Run, models: Models) -> None:
    first = run(["a mill", "rye", "a mill"])
    assert first.output == [0.5, 0.0, 0.5]
    assert (first.usage.calls, first.usage.prompt_tokens, first.usage.cached_tokens) == (1, 7, 0)
    second = run(["the grey mill", "rye"])
    assert second.output == [1.0, 0.0]
    assert (second.usage.calls, second.usage.prompt_tokens, second.usage.cached_tokens) == (1, 5, 3)
    third = run(["rye", "a mill"])
    assert (third.usage.calls, third.usage.prompt_tokens, third.usage.cached_tokens) == (0, 0, 7)
    assert models.made.asked == [["a mill", "rye"], ["the grey mill"]]


def test_refresh_asks_again_and_off_keeps_nothing(run: Run, models: Models) -> None:
    run(["rye"], HEAD + STEP.rstrip("}\n") + "}, cache: off}\n")
    run(["rye"])
    run(["rye"], HEAD + STEP.rstrip("}\n") + "}, cache: refresh}\n")
    run(["rye"])
    assert models.made.asked == [["rye"]] * 3


def test_no_texts_are_no_call(run: Run, models: Models) -> None:
    assert run([]).output == []
    assert models.made.asked == []


def test_a_call_is_traced_and_the_budget_counts_it(run: Run) -> None:
    result = run(["a mill", "rye"])
    (called,) = [event for event in result.trace if isinstance(event, ModelCalled)]
    assert (called.step, called.model, called.n_samples, called.n_cached) == ("x", "fake", 2, 0)
    steps = "steps:\n" + "".join(
        f"  {name}: {{needs: [{needs}], use: m.rank, with: {{query: '{name}', texts: '${{inputs.texts}}'}}}}\n"
        for name, needs in (("one", ""), ("two", "one"))
    )
    with pytest.raises(RunError, match="the budget of 2 tokens is spent"):
        run(["rye"], HEAD + "budget: {tokens: 2}\n" + steps + "output: ${one} ${two}\n")


def test_a_model_that_does_not_rank_says_what_it_can(run: Run) -> None:
    with pytest.raises(RunError, match="plain cannot rank texts: it can generate") as refused:
        run(["rye"], HEAD.replace("use: m.counting, adapters: {tone: t.gguf}", "use: m.plain") + STEP)
    (error,) = refused.value.failures.values()
    assert error.hint == "that is a reranker's work: a cross-encoder, declared under models:"  # type: ignore[attr-defined]


def test_adapters_are_refused_and_not_left_aside(run: Run) -> None:
    with pytest.raises(RunError, match="adapters have no part in ranking"):
        run(["rye"], HEAD + STEP.rstrip("}\n") + "}, adapters: tone}\n")


def test_a_score_for_every_count_of_tokens() -> None:
    with pytest.raises(ValueError, match="1 counts of tokens for 2 scores"):
        Relevance(scores=(0.1, 0.2), prompt_tokens=(3,))


async def test_what_was_ranked_is_replayed_without_a_model(tmp_path: Path) -> None:
    path = tmp_path / "answers.json"
    recording = RecordedModel(path, Counting())
    found = await recording.rank("grey mill", ["a mill"])
    recording.save()
    replaying = RecordedModel(path)
    assert await replaying.rank("grey mill", ["a mill"]) == found
    with pytest.raises(Exception, match="no answer was recorded for the prompt 'grey'"):
        await replaying.rank("grey", ["a mill"])


async def test_ranking_is_a_use_of_a_model_that_is_loaded() -> None:
    residents = Residents(max_loaded=1, idle_s=None)
    one, two = Counting(), Counting()
    for model in (one, two):
        model.holds_weights = True
        residents.watch(model)
    await one.rank("mill", ["rye"])
    await two.rank("mill", ["rye"])
    assert (one.closed, two.closed) == (True, False)
