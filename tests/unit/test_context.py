"""What a function can do through its context: count a part of its work apart, and ask with adapters of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gristmill import (
    BudgetError,
    Context,
    GenerateRequest,
    Kernel,
    Message,
    Model,
    ModelCalled,
    RunError,
    ScoreRequest,
    Session,
    Usage,
    function,
    model_provider,
)
from gristmill.testing import FakeModel, FakePlugin

HEAD = "version: 1\nmodels: {main: {use: fake, adapters: {tone: t.gguf, taste: u.gguf}}}\nsteps:\n"


class Parts:
    """Does its work in parts."""

    @function
    async def both(self, context: Context, times: int) -> dict[str, Usage]:
        """Ask a model in one part and run a recipe in another."""
        first, second = context.apart("first"), context.apart("second")
        for n in range(times):
            messages = (Message(role="user", content=f"question {n}"),)
            await first.model("main").generate(GenerateRequest(messages=messages))
        await second.run_recipe("inner.yaml", {})
        return {"first": first.usage, "second": second.usage, "all": context.usage}

    @function
    async def step_through(self, context: Context, n_tokens: int) -> Usage:
        """Accept some tokens."""
        messages = (Message(role="user", content="Count."),)
        session = await context.model("main").open_session(GenerateRequest(messages=messages))
        for token in range(n_tokens):
            await session.accept(token)
        await session.close()
        return context.usage

    @function
    async def choose(self, context: Context, adapters: dict[str, float] | None = None) -> str:
        """Choose with adapters."""
        messages = [Message(role="user", content="Which?")]
        return (await context.model("main", adapters=adapters).choose(messages, ["a", "b"])).text


@pytest.fixture
def fake() -> FakePlugin:
    return FakePlugin("three words here")


@pytest.fixture
def kernel(fake: FakePlugin) -> Iterator[Kernel]:
    with Kernel(plugins={"fake": fake, "parts": Parts()}, cache=False) as made:
        yield made


def test_a_part_counts_what_went_through_it_and_the_step_counts_all(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "inner.yaml").write_text(HEAD + "  said: {prompt: Speak.}\n")
    recipe = tmp_path / "outer.yaml"
    recipe.write_text(HEAD + "  parts: {use: parts.both, with: {times: 2}}\n")
    result = kernel.recipe(recipe).run()
    usage = result.steps["parts"].value
    assert (usage["first"].calls, usage["first"].prompt_tokens, usage["first"].completion_tokens) == (2, 4, 6)
    assert (usage["second"].calls, usage["second"].completion_tokens) == (1, 3)
    assert usage["all"].calls == result.steps["parts"].usage.calls == 3
    assert [event.step for event in result.trace if isinstance(event, ModelCalled)] == [
        "parts/first", "parts/first", "parts/second/said",
    ]  # fmt: skip


def test_a_models_adapters_are_the_steps_unless_others_are_named(
    kernel: Kernel, fake: FakePlugin, tmp_path: Path
) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        HEAD + "  own: {use: parts.choose, adapters: tone}\n"
        "  other: {use: parts.choose, adapters: tone, with: {adapters: {taste: 0.5}}, needs: [own]}\n"
        "  bare: {use: parts.choose, adapters: tone, with: {adapters: {}}, needs: [other]}\n"
        'output: ["${own}", "${other}", "${bare}"]\n'
    )
    kernel.recipe(recipe).run()
    asked = [request for request in fake.models["fake"].requests if isinstance(request, ScoreRequest)]
    assert [request.adapters for request in asked] == [{"tone": 1.0}, {"taste": 0.5}, {}]


class Counting(FakeModel):
    """A model whose sessions take any token; each prompt is five tokens long."""

    async def open_session(self, request: GenerateRequest) -> Session:
        return OpenSession()


class OpenSession:
    ends: frozenset[int] = frozenset()
    prompt_tokens = 5

    async def next_logprobs(self) -> Any:
        raise AssertionError("nobody asks")

    async def accept(self, token: int) -> str:
        return str(token)

    async def close(self) -> None:
        return


class CountingPlugin:
    """Makes the model."""

    @model_provider
    def counting(self) -> Model:
        """A model whose sessions take any token."""
        return Counting()


def stepped(tmp_path: Path, budget: str = "") -> Usage:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"version: 1\n{budget}models: {{main: {{use: counting}}}}\n"
        "steps:\n  s: {use: parts.step_through, with: {n_tokens: 4}}\n"
    )
    with Kernel(plugins={"counting": CountingPlugin(), "parts": Parts()}, cache=False) as kernel:
        result = kernel.recipe(recipe).run()
    assert result.usage.completion_tokens == result.output.completion_tokens
    usage: Usage = result.output
    return usage


def test_the_tokens_of_a_session_are_counted(tmp_path: Path) -> None:
    usage = stepped(tmp_path)
    assert (usage.calls, usage.prompt_tokens, usage.completion_tokens) == (1, 5, 4)


def test_a_session_ends_where_the_budget_does(tmp_path: Path) -> None:
    stepped(tmp_path, "budget: {tokens: 9}\n")
    with pytest.raises(RunError) as caught:
        stepped(tmp_path, "budget: {tokens: 8}\n")
    (error,) = caught.value.failures.values()
    assert isinstance(error, BudgetError)
    assert "tokens" in str(error)
