"""Calibrated choices are divided by what an empty question gives, cached one by one, and refused where none can be."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gristmill import Choice, Context, Kernel, Message, ModelRef, RunError, ScoreRequest, function
from gristmill._calls import content_free
from gristmill.testing import FakePlugin

HEAD = "version: 1\nmodels: {main: {use: fake}}\ninputs: {q: string}\n"
CHOOSE = "steps: {pick: {system: s, prompt: '${inputs.q}', choices: ['yes', 'no'], calibrate: true}}"


@pytest.fixture
def plugin() -> FakePlugin:
    """An answer's log-probability is -0.1; the other choice's is -3 for "yes" and -4 for "no"."""
    made = FakePlugin()
    made.answers = {"N/A": "yes", "is it?": "yes", "is it not?": "no"}
    return made


@pytest.fixture
def kernel(plugin: FakePlugin) -> Iterator[Kernel]:
    with Kernel(plugins={"fake": plugin}) as made:
        yield made


def choose(kernel: Kernel, folder: Path, question: str, steps: str = CHOOSE) -> Any:
    path = folder / "r.yaml"
    path.write_text(HEAD + steps, encoding="utf-8")
    return kernel.recipe(path).run(q=question)


def test_a_liking_that_an_empty_question_shows_too_cancels_out(kernel: Kernel, tmp_path: Path) -> None:
    choice = choose(kernel, tmp_path, "is it?").output
    assert isinstance(choice, Choice)
    assert choice.probabilities == pytest.approx({"yes": 0.5, "no": 0.5})


def test_probabilities_are_ratios_normalised_again(kernel: Kernel, tmp_path: Path) -> None:
    choice = choose(kernel, tmp_path, "is it not?").output
    yes, no = math.exp(-3.0 + 0.1), math.exp(-0.1 + 4.0)
    assert choice.text == "no"
    assert choice.index == 1
    assert choice.probabilities == pytest.approx({"yes": yes / (yes + no), "no": no / (yes + no)})


def test_only_the_last_user_message_is_replaced(kernel: Kernel, plugin: FakePlugin, tmp_path: Path) -> None:
    choose(kernel, tmp_path, "is it?")
    asked, empty = plugin.models["fake"].requests
    assert isinstance(asked, ScoreRequest)
    assert isinstance(empty, ScoreRequest)
    assert [message.content for message in empty.messages] == ["s", "N/A"]
    turns = tuple(Message(role=role, content=role) for role in ("user", "assistant", "user", "assistant"))
    assert [message.content for message in content_free(turns)] == ["user", "assistant", "N/A", "assistant"]


def test_the_empty_question_is_asked_once_for_all(kernel: Kernel, plugin: FakePlugin, tmp_path: Path) -> None:
    first = choose(kernel, tmp_path, "is it?")
    second = choose(kernel, tmp_path, "is it not?")
    again = choose(kernel, tmp_path, "is it?")
    assert len(plugin.models["fake"].requests) == 3
    assert (first.usage.calls, second.usage.calls, again.usage.calls) == (2, 1, 0)
    assert again.output.probabilities == first.output.probabilities
    assert (first.output.cached, second.output.cached, again.output.cached) == (False, False, True)


def test_calibrate_may_depend_on_the_run(kernel: Kernel, plugin: FakePlugin, tmp_path: Path) -> None:
    choose(kernel, tmp_path, "is it?", CHOOSE.replace("calibrate: true", "calibrate: '${inputs.q == \"x\"}'"))
    assert len(plugin.models["fake"].requests) == 1


def test_without_a_users_message_there_is_nothing_to_replace(
    kernel: Kernel, plugin: FakePlugin, tmp_path: Path
) -> None:
    plugin.answers = "yes"
    steps = "steps: {pick: {messages: [{role: system, content: '${inputs.q}'}], choices: [a, b], calibrate: true}}"
    with pytest.raises(RunError, match="calibrate puts 'N/A' in place of the user's last message, and there is none"):
        choose(kernel, tmp_path, "x", steps)


class Reader:
    """Shows what a choice's log-probability is, not normalised over the choices."""

    @function
    async def read(self, context: Context, *, model: ModelRef) -> list[float]:
        """Return the log-probabilities of two choices."""
        return await context.model(model).logprobs([Message(role="user", content="is it?")], ["yes", "no"])


def test_a_plugin_reads_log_probabilities_as_they_are_and_from_the_cache(plugin: FakePlugin, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("version: 1\nmodels: {main: {use: fake}}\nsteps: {x: {use: reader.read}}\n", encoding="utf-8")
    with Kernel(plugins={"fake": plugin, "reader": Reader()}) as kernel:
        assert [kernel.recipe(path).run().output for _ in range(2)] == [[-0.1, -4.0]] * 2
        assert len(plugin.models["fake"].requests) == 1
