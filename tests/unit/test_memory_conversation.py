"""Conversations that outlive a run: what is shown, what is summarised, what is recalled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gristmill import Kernel, RunError
from gristmill.testing import FakeEmbedder, FakePlugin
from gristmill_plugins.memory import MemoryPlugin


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    with Kernel(
        plugins={"memory": MemoryPlugin(), "fake": FakePlugin("yes")}, memory=tmp_path / "memory", cache=False
    ) as made:
        made.registry._scanned = True  # these plugins and no installed ones
        made.memory._default = FakeEmbedder
        yield made


Run = Callable[..., Any]


@pytest.fixture
def call(kernel: Kernel, tmp_path: Path) -> Run:
    """Run one function of the plugin as a step."""

    def call(function: str, **arguments: Any) -> Any:
        given = {"conversation": "chat", **arguments}
        lines = "".join(f"      {name}: ${{inputs.a_{name}}}\n" for name in given)
        inputs = "".join(f"  a_{name}: any\n" for name in given)
        recipe = tmp_path / "r.yaml"
        steps = f"steps:\n  x:\n    use: memory.{function}\n    with:\n{lines}"
        recipe.write_text(f"version: 1\ninputs:\n{inputs}{steps}output: ${{x}}\n")
        return kernel.recipe(recipe).run({f"a_{name}": value for name, value in given.items()}).output

    return call


def talk(call: Run, *turns: tuple[str, str], **arguments: Any) -> list[str]:
    return [call("add_turn", user=user, assistant=assistant, **arguments) for user, assistant in turns]


def test_a_conversation_begins_with_nothing(call: Run) -> None:
    history = call("history", query="anything")
    assert (history.messages, history.summary, history.recalled, history.unsummarised) == ((), "", (), ())
    assert (history.until, history.n_turns) == ("", 0)


def test_the_newest_turns_are_shown_word_for_word_in_their_order(call: Run) -> None:
    talk(call, ("one", "1"), ("two", "2"), ("three", "3"))
    history = call("history", most_characters=56)
    shown = [(message.role, message.content) for message in history.messages]
    assert shown == [("user", "two"), ("assistant", "2"), ("user", "three"), ("assistant", "3")]
    assert history.unsummarised == ("User: one\nAssistant: 1",)
    assert history.n_turns == 3


def test_what_a_summary_covers_is_not_summarised_again(call: Run) -> None:
    ids = talk(call, ("one", "1"), ("two", "2"), ("three", "3"))
    first = call("history", most_characters=26)
    assert first.until == ids[1]
    call("summarise", text="One and two.", until=first.until)
    second = call("history", most_characters=26)
    assert (second.summary, second.unsummarised, second.until) == ("One and two.", (), ids[1])
    talk(call, ("four", "4"))
    third = call("history", most_characters=26)
    assert (third.summary, third.unsummarised) == ("One and two.", ("User: three\nAssistant: 3",))
    call("summarise", text="One to three.", until=third.until)
    call("summarise", text="late, and of less", until=first.until)
    assert call("history").summary == "One to three."


def test_older_turns_are_recalled_by_meaning_and_shown_ones_are_not(call: Run) -> None:
    talk(call, ("the door code", "4711"), ("the weather", "rain"), ("the door", "is green"))
    history = call("history", query="the door code", most_characters=34, top_k=1)
    assert [passage.text for passage in history.recalled] == ["User: the door code\nAssistant: 4711"]
    assert len(history.messages) == 2
    assert call("history", query="the door code", most_characters=10_000).recalled == ()
    assert call("history", query="the door code", most_characters=34, min_score=0.999).recalled == ()


def test_users_and_conversations_are_kept_apart(call: Run) -> None:
    talk(call, ("mine", "yes"), namespace="ada")
    assert call("history", namespace="bob").n_turns == 0
    assert call("history", conversation="other", namespace="ada").n_turns == 0
    assert call("history", namespace="ada").n_turns == 1


def test_half_a_turn_is_refused(call: Run) -> None:
    with pytest.raises(RunError, match="a turn is what the user said and what was answered; neither is empty"):
        call("add_turn", user="hello", assistant=" ")
