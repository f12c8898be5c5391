"""Answers to a prompt that means the same: never to one that asks something else, and the result says so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from gristmill import Kernel, SemanticHit, StepNoted, UsageError
from gristmill._cli import _app
from gristmill._semantic._audit import read_pairs
from gristmill._semantic._likeness import may_share
from gristmill.testing import FakeEmbedder, FakePlugin
from gristmill_plugins.memory import MemoryPlugin

TRAPS = [
    # negations
    ("Is it safe to mix bleach and ammonia?", "Is it not safe to mix bleach and ammonia?"),
    ("Can I take ibuprofen with alcohol?", "Can't I take ibuprofen with alcohol?"),
    ("List countries that are in the EU.", "List countries that are not in the EU."),
    ("Which birds can fly?", "Which birds cannot fly?"),
    ("Write a story with a dragon.", "Write a story without a dragon."),
    ("Name a city that has never hosted the games.", "Name a city that has hosted the games."),
    ("How do I make sure the job runs?", "How do I make sure the job never runs?"),
    ("Do you have any rooms?", "Do you have no rooms?"),
    ("They didnt pay. Why?", "They did pay. Why?"),
    # numbers
    ("What is 17 + 25?", "What is 17 + 26?"),
    ("What is 17 + 25?", "What is 17 - 25?"),
    ("What is 2 to the power of 3?", "What is 3 to the power of 2?"),
    ("Name three rivers.", "Name four rivers."),
    ("Convert 5.0 km to miles.", "Convert 50 km to miles."),
    ("Who won in 1998?", "Who won in 2002?"),
    ("Is 10% enough?", "Is 10 enough?"),
    ("Give me half of it.", "Give me a third of it."),
    # names
    ("Where was Marie Curie born?", "Where was Pierre Curie born?"),
    ("Paris is the capital of which country?", "Rome is the capital of which country?"),
    ("Who leads IBM?", "Who leads Intel?"),
    ("Daniel wants to know the price.", "Connor wants to know the price."),
    ("What does `a += b` do?", "What does `a -= b` do?"),
    ("Read https://a.example/x and sum it up.", "Read https://b.example/x and sum it up."),
    ('Translate "good morning" into French.', 'Translate "good night" into French.'),
    ("What is NaCl?", "What is NaF?"),
    # swapped
    ("Does Alice owe Bob money?", "Does Bob owe Alice money?"),
    ("Is the north pole colder than the south pole?", "Is the south pole colder than the north pole?"),
    ("Can a dog bite a man?", "Can a man bite a dog?"),
    ("Translate from German to French.", "Translate from French to German."),
    ("Is gold heavier than silver?", "Is silver heavier than gold?"),
    ("Should I learn java before python?", "Should I learn python before java?"),
    ("if it rains we stay", "we stay, it rains if"),
    # one word that turns it round
    ("How do I enable the firewall?", "How do I disable the firewall?"),
    ("What are the advantages of solar power?", "What are the disadvantages of solar power?"),
    ("What should I do before surgery?", "What should I do after surgery?"),
    ("What is the highest mountain?", "What is the lowest mountain?"),
    ("Who is the president?", "Who was the president?"),
    ("How do I increase my blood pressure?", "How do I decrease my blood pressure?"),
    ("Is the number odd?", "Is the number even?"),
    ("Books about him", "Books about her"),
    ("When did it start?", "Why did it start?"),
    ("Cats and dogs in one house", "Cats or dogs in one house"),
    ("What is the boiling point of ethanol?", "What is the boiling point of methanol?"),
    ("Shawn is an asexual Mormon.", "Shawn is a pansexual Mormon."),
    ("Translate hello into spanish", "Translate hello into italian"),
    ("What causes diabetes?", "What cures diabetes?"),
    ("What is the treatment of asthma?", "What is the prevalence of asthma?"),
]
ALIKE = [
    ("What is the capital of France?", "what is the capital of France"),
    ("What is the capital of France?", "Please, what's the capital of France?"),
    ("It does not work.", "It doesn't work."),
    ("Name two rivers.", "Name 2 rivers."),
    ("How many legs has a spider?", "How many legs does a spider have?"),
    ("Summarise the report briefly.", "Summarise the reports briefly"),
    (
        "You can use a BERT model and its corresponding tokenizer.",
        "You can employ a BERT model and its related tokenizer.",
    ),
]


@pytest.mark.parametrize(("one", "other"), TRAPS)
def test_no_trap_shares_an_answer_whatever_its_vectors_say(one: str, other: str) -> None:
    assert not may_share(one, other)
    assert not may_share(other, one)


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_what_asks_the_same_may_share(one: str, other: str) -> None:
    assert may_share(one, other)


@given(st.text(), st.text())
def test_sharing_is_symmetric_and_every_text_shares_with_itself(one: str, other: str) -> None:
    assert may_share(one, one)
    assert may_share(one, other) == may_share(other, one)


class Everywhere(FakeEmbedder):
    """Sees no difference between any two texts: what the words say decides alone."""

    def vectors(self, texts: Any) -> Any:
        import numpy as np

        return np.ones((len(texts), 4), np.float32) / 2


Run = Callable[..., Any]


@pytest.fixture
def plugin() -> FakePlugin:
    return FakePlugin(answers=lambda request, index: f"{request.messages[-1].content} #{index}")


@pytest.fixture
def kernel(plugin: FakePlugin, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    with Kernel(plugins={"fake": plugin, "memory": MemoryPlugin()}) as made:
        made.registry._scanned = True  # these plugins and no installed ones
        monkeypatch.setattr(made, "embedder", lambda _: Everywhere())
        yield made


@pytest.fixture
def ask(kernel: Kernel, tmp_path: Path) -> Run:
    def ask(question: str, more: str = "", cache: str = "{semantic: 0.9}", **options: Any) -> Any:
        path = tmp_path / "r.yaml"
        path.write_text(
            "version: 1\ninputs: {q: string}\nmodels: {m: {use: fake}}\n"
            f"steps:\n  a: {{prompt: '${{inputs.q}}', cache: {cache}{more}}}\noutput: ${{a}}\n"
        )
        return kernel.recipe(path).run_with({"q": question}, **options)

    return ask


def test_a_prompt_that_means_the_same_gets_the_earlier_answer_and_says_so(ask: Run, plugin: FakePlugin) -> None:
    first = ask("What is the capital of France?")
    again = ask("please: what is the capital of France")
    assert first.output.semantic is None
    assert again.output.text == "What is the capital of France? #0"
    assert again.output.semantic == SemanticHit(prompt="What is the capital of France?", score=1.0)
    assert (again.output.cached, again.usage.calls, len(plugin.models["fake"].requests)) == (True, 0, 1)
    notes = [event.text for event in again.trace if isinstance(event, StepNoted)]
    assert notes == ["semantic hit, cosine 1.000: What is the capital of France?"]
    assert ask("What is the capital of France?").output.semantic is None, "an exact hit is no semantic one"


def test_no_trap_is_answered_by_its_twin(ask: Run) -> None:
    for one, other in TRAPS[:12]:
        ask(one)
        result = ask(other)
        assert (result.output.semantic, result.output.text) == (None, f"{other} #0")


@pytest.mark.parametrize(
    "more", [", system: Be short", ", temperature: 0.5", ", seed: 4, temperature: 0.1", ", max_tokens: 9",
             ", schema: {a: string}", ", examples: [{input: a, output: b}]"],
)  # fmt: skip
def test_anything_else_that_differs_is_another_request(ask: Run, plugin: FakePlugin, more: str) -> None:
    ask("What is it?")
    if "schema" in more:
        plugin.models["fake"].answers = '{"a": "b"}'
    assert ask("what is it", more).output.semantic is None


def test_it_is_off_unless_a_step_asks_for_it(ask: Run, kernel: Kernel) -> None:
    for cache in ("auto", "refresh"):
        ask("What is it?", cache=cache)
        assert ask("what is it", cache=cache).output.semantic is None
    assert kernel.cache is not None
    assert not (kernel.cache.directory / "semantic").exists()


def test_samples_are_shared_all_or_none(ask: Run) -> None:
    ask("What is it?", ", samples: 2, temperature: 1.0")
    again = ask("what is it", ", samples: 2, temperature: 1.0")
    assert [one.text for one in again.output] == ["What is it? #0", "What is it? #1"]
    assert all(one.semantic for one in again.output)
    more = ask("what is it", ", samples: 3, temperature: 1.0")
    assert [one.semantic for one in more.output] == [None] * 3


def test_an_answer_that_the_cache_has_dropped_is_no_hit(ask: Run, kernel: Kernel) -> None:
    ask("What is it?")
    assert kernel.cache is not None
    kernel.cache.clear()
    assert ask("what is it").output.text == "what is it #0"


def test_a_refresh_asks_the_model(ask: Run) -> None:
    ask("What is it?")
    assert ask("what is it", cache_mode="refresh").output.semantic is None


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ("{prompt: x, cache: {semantic: 2}}", "semantic is a cosine from 0.5 to 1, this is 2"),
        ("{prompt: x, cache: {semantic: true}}", "semantic is a cosine from 0.5 to 1, this is True"),
        ("{prompt: x, cache: {}}", "semantic is a cosine from 0.5 to 1, this is None"),
        ("{prompt: x, choices: [a, b], cache: {semantic: 0.9}}", "only a prompt without `choices` can be answered"),
        ("{prompt: x, cache: {semantics: 0.9}}", "'semantics' is not a key of `cache`"),
    ],
)
def test_a_declaration_that_means_nothing_is_told(kernel: Kernel, tmp_path: Path, step: str, told: str) -> None:
    (tmp_path / "r.yaml").write_text(f"version: 1\nmodels: {{m: {{use: fake}}}}\nsteps:\n  a: {step}\n")
    assert told in " ".join(diagnostic.message for diagnostic in kernel.check(tmp_path / "r.yaml").errors)


def test_the_audit_counts_true_and_false_hits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Kernel, "embedder", lambda *_: Everywhere())
    rows = [{"text_a": a, "text_b": b, "label": 1} for a, b in ALIKE] + [
        {"texts": [*pair], "label": 0} for pair in TRAPS
    ]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("\n".join(map(json.dumps, rows)) + "\n")
    done = CliRunner().invoke(_app.cache_app, ["audit", str(pairs), "--threshold", "0.9"])
    assert done.output.splitlines() == [
        f"{len(ALIKE)} pairs that one answer serves, {len(TRAPS)} that it does not",
        "semantic   true hits   false hits   by cosine alone: true   false",
        f"    0.90      100.0%            0                  100.0%      {len(TRAPS)}",
    ]
    told = CliRunner().invoke(_app.cache_app, ["audit", str(pairs), "--json"])
    assert told.exception is None, (told.output, told.exception)
    found = json.loads(told.stdout)
    assert [point["false_hits"] for point in found["points"]] == [0] * 8


@pytest.mark.parametrize("line", ["{", '{"text_a": "a", "label": 1}', '{"texts": ["a", 3], "label": 0}', "[1]",
                                  '{"text_a": "a", "text_b": "b", "label": 2}'])  # fmt: skip
def test_a_line_that_is_no_pair_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "p.jsonl").write_text(f"\n{line}\n")
    with pytest.raises(UsageError, match=r"p.jsonl:2: no labelled pair: "):
        read_pairs([tmp_path / "p.jsonl"])
