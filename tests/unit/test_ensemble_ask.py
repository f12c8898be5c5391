"""Asking members: what each is asked, what it costs, what its failure costs the others, and when drawing stops."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill import Candidate, Choice, Completion, FunctionError, RunError, ScoreRequest, StepNoted, Usage, Vote
from gristmill_plugins.ensemble._ask_member import Reply, candidate_of
from gristmill_plugins.ensemble._ask_together import together
from gristmill_plugins.ensemble._ballots import hold_election, named
from gristmill_plugins.ensemble._votes_count import Counting, count_votes
from gristmill_plugins.ensemble._votes_draw import Draw, Drawing, EarlyStop
from gristmill_plugins.ensemble._votes_posterior import lead_is_real

if TYPE_CHECKING:
    from tests.unit.conftest import Bench

ASK = "steps:\n  a:\n    use: ensemble.ask\n    with:\n"


def test_members_are_asked_what_they_say_and_else_what_all_are_asked(bench: Bench) -> None:
    bench.plugin.answers = lambda request, _: request.messages[-1].content
    result = bench.run(
        ASK + "      prompt: Common\n      system: Be kind.\n      max_tokens: 9\n      members:\n"
        "        plain: {}\n        own: {prompt: Mine, system: Be terse., temperature: 0.5, max_tokens: 4}\n"
        "        shown: {examples: [{input: q, output: r}]}\n"
    )
    asked = result.output
    assert asked.answers == {"plain": "Common", "own": "Mine", "shown": "Common"}
    assert [candidate.source for candidate in asked.candidates] == ["plain", "own", "shown"]
    by_system = {request.messages[0].content: request for request in bench.asked}
    own = by_system["Be terse."].sampling
    assert (own.temperature, own.max_tokens) == (0.5, 4)
    shown = next(request for request in bench.asked if len(request.messages) == 4)
    assert [message.content for message in shown.messages] == ["Be kind.", "q", "r", "Common"]
    assert shown.sampling.max_tokens == 9


def test_usage_is_told_per_member(bench: Bench) -> None:
    result = bench.run(ASK + "      members: {a: {prompt: one}, b: {prompt: one two three}}\n")
    usage = result.output.usage
    assert (usage["a"].prompt_tokens, usage["b"].prompt_tokens) == (1, 3)
    assert usage["a"].calls == usage["b"].calls == 1
    assert result.usage.prompt_tokens == 4


def test_choices_are_scored_with_the_members_own_adapters(bench: Bench) -> None:
    bench.plugin.answers = "ham"
    head = "version: 1\nmodels: {main: {use: fake, adapters: {t: t.gguf}}}\n"
    path = bench.write(
        head
        + ASK
        + "      prompt: Which?\n      choices: [spam, ham]\n      members: {a: {}, b: {adapters: {t: 0.5}}}\n"
    )
    asked = bench.kernel.recipe(path).run().output
    assert [candidate.text for candidate in asked.candidates] == ["ham", "ham"]
    assert list(asked.candidates[0].probabilities) == ["spam", "ham"]
    scored = [request.adapters for request in bench.model.requests if isinstance(request, ScoreRequest)]
    assert sorted(scored, key=len) == [{}, {"t": 0.5}]


def test_a_member_may_be_a_recipe(bench: Bench) -> None:
    step = "t: {use: tools.count, with: {items: [], least: '${inputs.n}'}}"
    bench.write(f"version: 1\ninputs: {{n: integer}}\nsteps:\n  {step}\n", "inner.yaml")
    result = bench.run(ASK + "      members: {r: {recipe: inner.yaml, inputs: {n: 7}}, m: {prompt: Hello}}\n")
    assert result.output.answers == {"r": "7", "m": "fake answer"}
    assert result.output.usage["r"].calls == 0


FAILING = (
    "      members:\n        good: {prompt: Hello}\n        bad: {model: '${\"none\"}', prompt: Hello}\n"
    "        worse: {recipe: broken.yaml}\n"
)


def test_failures_are_reported_and_tolerated_down_to_min_answers(bench: Bench) -> None:
    bench.write("version: 1\nsteps:\n  t: {use: tools.fail}\n", "broken.yaml")
    result = bench.run(ASK + FAILING + "      min_answers: 1\n")
    asked = result.output
    assert asked.answers == {"good": "fake answer"}
    assert "'none' is no model of this recipe" in asked.failures["bad"]
    assert "it broke" in asked.failures["worse"]
    notes = [event.text for event in result.trace if isinstance(event, StepNoted)]
    assert any("member 'bad' failed and is left out" in note for note in notes)


def test_too_few_answers_are_an_error_that_names_every_failure(bench: Bench) -> None:
    bench.write("version: 1\nsteps:\n  t: {use: tools.fail}\n", "broken.yaml")
    for least in ("      min_answers: 2\n", ""):
        error = str(bench.fails(ASK + FAILING + least))
        assert f"1 of 3 members answered, and {2 if least else 3} must" in error
        assert "'bad': 'none' is no model" in error
        assert "'worse':" in error


def test_a_spent_budget_is_no_members_failure(bench: Bench) -> None:
    path = bench.write(
        "version: 1\nbudget: {calls: 1}\nmodels: {main: {use: fake}}\n" + ASK
        + "      min_answers: 1\n      members: {a: {prompt: x}, b: {prompt: y}}\n"
    )  # fmt: skip
    with pytest.raises(RunError, match="budget"):
        bench.kernel.recipe(path).run()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("      members: {}\n", "an ensemble needs members"),
        ("      members: {a: {}}\n", "member 'a' has no prompt"),
        ("      members: {a: {prompt: ' '}}\n", "member 'a' has an empty prompt"),
        (
            "      members: {a: {prompt: x}}\n      min_answers: 2\n",
            "min_answers is from 1 to the number of members, 1",
        ),
        ("      members: {a: {prompt: x}}\n      choices: [x]\n", "choices are at least two different texts"),
        ("      members: {a: {prompt: x}}\n      samples: 3\n", "member 'a' is greedy, and would say the same 3 times"),
        (
            "      members: {a: {recipe: quickstart}}\n      samples: 3\n",
            "member 'a' is a recipe, and would say the same 3 times",
        ),
    ],
)
def test_questions_that_make_no_sense_are_refused(bench: Bench, arguments: str, message: str) -> None:
    assert message in str(bench.fails(ASK + arguments))


def test_check_finds_a_members_misspelt_field(bench: Bench) -> None:
    (told,) = bench.told(ASK + "      members: {a: {promt: x}}\n")
    assert "members" in told


def test_check_finds_models_and_recipes_that_members_misspell(bench: Bench) -> None:
    told = bench.told(
        ASK + "      members:\n        a: {model: mian, prompt: x}\n        b: {recipe: quickstrat}\n"
        "        c: {model: main, prompt: x}\n"
    )
    assert len(told) == 2
    assert told[0].startswith("8:20: 'mian' is no model of this recipe | did you mean 'main'?")
    assert "9:21: no recipe is called 'quickstrat' | did you mean 'quickstart'?" in told[1]


@pytest.mark.parametrize(
    ("output", "candidate"),
    [
        ("text", Candidate(text="text")),
        (3.5, Candidate(text="3.5")),
        (True, Candidate(text="true")),
        ({"b": 1, "a": [2]}, Candidate(text='{"a": [2], "b": 1}')),
        ({"text": "t", "probabilities": {"t": 1.0}}, Candidate(text="t", probabilities={"t": 1.0})),
        (Choice(text="x", index=0, probabilities={"x": 1.0}), Candidate(text="x", probabilities={"x": 1.0})),
        (Vote(winner="x", tally={"x": 3.0, "y": 1.0}, agreement=0.75),
         Candidate(text="x", probabilities={"x": 0.75, "y": 0.25})),
        (Completion(text="c"), Candidate(text="c")),
    ],
)  # fmt: skip
def test_any_output_of_a_recipe_is_an_answer(output: Any, candidate: Candidate) -> None:
    assert candidate_of(output) == candidate


def test_values_without_a_text_are_answers_as_json() -> None:
    assert '"calls": 1' in candidate_of(Usage(calls=1)).text
    assert candidate_of({"said": Completion(text="c")}).text.startswith('{"said": {"cached": false')


@pytest.mark.parametrize(
    ("output", "message"),
    [(None, "its answer is null"), (["a", "b"], "its answer is a list of 2"),
     (Vote(winner=None, tally={}, agreement=0), "null")],
)  # fmt: skip
def test_nothing_and_lists_are_no_answers(output: Any, message: str) -> None:
    with pytest.raises(FunctionError, match=message):
        candidate_of(output)


# Drawing, and when it stops


def drawn(
    said: Mapping[str, Sequence[str]], early_stop: EarlyStop | None, weights: Mapping[str, float] | None = None
) -> tuple[Vote, list[int]]:
    """Draw from members that would say these texts; return the vote and the sizes of the batches."""
    own = weights or dict.fromkeys(said, 1.0)
    batches: list[int] = []

    async def ask(batch: Sequence[Draw]) -> dict[str, Reply]:
        batches.append(len(batch))
        names = dict.fromkeys(draw.member for draw in batch)
        return {
            name: Reply(
                member=name,
                candidates=tuple(Candidate(text=said[name][d.sample], source=name) for d in batch if d.member == name),
                usage=Usage(calls=1),
            )
            for name in names
        }

    def count(candidates: Sequence[Candidate]) -> Vote:
        return count_votes(hold_election(named(candidates), "text"), Counting(weights=own, ties="abstain"))

    n = len(next(iter(said.values())))
    return asyncio.run(Drawing(weights=own, samples=n, early_stop=early_stop).run(ask, count)), batches


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_stopping_when_certain_changes_no_winner_and_draws_no_sample_too_many(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from("pqr"), min_size=1, max_size=3, unique=True))
    n = data.draw(st.integers(1, 9))
    said = {name: data.draw(st.lists(st.sampled_from("xyz"), min_size=n, max_size=n)) for name in names}
    full, _ = drawn(said, None)
    stopped, _ = drawn(said, "certain")
    assert full.n_saved == 0
    assert stopped.n_asked + stopped.n_saved == full.n_asked == n * len(names)
    assert stopped.winner == full.winner
    order = [said[name][sample] for sample in range(n) for name in names]
    assert stopped.n_asked == first_certain(order)


def first_certain(order: Sequence[str]) -> int:
    """The number of votes after which no continuation, tried one by one in its worst case, changes the winner."""
    for n in range(len(order)):
        counts = [votes for _, votes in Counter(order[:n]).most_common(2)]
        lead = (counts[0] if counts else 0) - (counts[1] if len(counts) > 1 else 0)
        if lead > len(order) - n:
            return n
    return len(order)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from("xyz"), min_size=1, max_size=20), st.sampled_from([0.8, 0.95, 0.99]))
def test_stopping_at_a_posterior_stops_at_the_first_sample_that_reaches_it(order: list[str], enough: float) -> None:
    vote, _ = drawn({"m": order}, enough)

    def posterior(n: int) -> float:
        counts = [votes for _, votes in Counter(order[:n]).most_common(2)]
        return lead_is_real(counts[0], counts[1] if len(counts) > 1 else 0)

    wanted = next((n for n in range(1, len(order)) if posterior(n) >= enough), len(order))
    assert vote.n_asked == wanted


def test_agreement_saves_samples_in_few_batches() -> None:
    vote, batches = drawn({"m": ["x"] * 20}, 0.95)
    assert (vote.n_asked, vote.n_saved, batches) == (4, 16, [4])
    vote, batches = drawn({"m": ["x"] * 20}, "certain")
    assert (vote.n_asked, vote.n_saved, batches) == (11, 9, [11])
    assert drawn({"m": ["x"] * 20}, None)[1] == [20]


def test_heavy_members_settle_a_vote_sooner() -> None:
    vote, _ = drawn({"expert": ["x"], "a": ["y"], "b": ["y"]}, "certain", {"expert": 3.0, "a": 1.0, "b": 1.0})
    assert (vote.winner, vote.n_asked, vote.n_saved) == ("x", 1, 2)


def test_a_member_that_fails_is_not_asked_again() -> None:
    asked: list[str] = []

    async def ask(batch: Sequence[Draw]) -> dict[str, Reply]:
        asked.extend(draw.member for draw in batch)
        replies: dict[str, Reply] = {}
        for draw in batch:
            error = "no" if draw.member == "bad" else None
            before = replies[draw.member].candidates if draw.member in replies else ()
            own = () if error else (*before, Candidate(text=str(draw.sample), source=draw.member))
            replies[draw.member] = Reply(member=draw.member, candidates=own, error=error)
        return replies

    def count(candidates: Sequence[Candidate]) -> Vote:
        return count_votes(hold_election(named(candidates), "text"), Counting())

    drawing = Drawing(weights={"good": 1.0, "bad": 1.0}, samples=8, early_stop="certain", most_failures=1)
    vote = asyncio.run(drawing.run(ask, count))
    assert drawing.failures == {"bad": "no"}
    assert len(vote.votes) == 8
    assert math.isclose(sum(vote.tally.values()), 8)
    with pytest.raises(FunctionError, match="1 of 2 members answered, and 2 must: 'bad': no"):
        asyncio.run(Drawing(weights={"good": 1.0, "bad": 1.0}, samples=1).run(ask, count))


def test_a_vote_draws_its_own_samples_and_tells_the_saving(bench: Bench) -> None:
    bench.plugin.answers = lambda _, index: "The answer is 7." if index != 1 else "It is 8."
    result = bench.run(
        "steps:\n  v:\n    use: ensemble.vote\n    with:\n      {prompt: 3 + 4?, samples: 12, temperature: 0.7, "
        "normalize: number, early_stop: 0.9}\n"
    )
    vote = result.output
    assert (vote.winner, vote.value) == ("7", 7)
    assert vote.n_asked + vote.n_saved == 12
    assert vote.n_saved > 0
    assert vote.usage["answer"].calls == len(bench.asked)
    assert [index for request in bench.asked for index in request.sample_indices] == list(range(vote.n_asked))
    notes = [event.text for event in result.trace if isinstance(event, StepNoted)]
    assert f"settled after {vote.n_asked} of 12 samples" in notes


def test_members_weigh_what_they_say_of_themselves(bench: Bench) -> None:
    bench.plugin.answers = {"one": "x", "two": "y", "three": "y"}
    result = bench.run(
        "steps:\n  v:\n    use: ensemble.vote\n    with:\n      members:\n        a: {prompt: one, weight: 3}\n"
        "        b: {prompt: two}\n        c: {prompt: three}\n"
    )
    assert result.output.winner == "x"
    assert result.output.weights == {"a": 3.0, "b": 1.0, "c": 1.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("prompt: x, early_stop: 0.4", "early_stop is 'certain', or a probability above 0.5 and below 1; this is 0.4"),
        ("prompt: x, early_stop: certain, rule: borda", "early_stop works with the rule 'majority', not with 'borda'"),
        ("prompt: x, early_stop: certain, weigh_by: probability", "early_stop cannot weigh by probability"),
        ("members: {a: {prompt: x}}, weights: {b: 1}", "member 'a' has no weight; there are weights for ['b']"),
    ],
)
def test_polls_that_make_no_sense_are_refused(bench: Bench, arguments: str, message: str) -> None:
    assert message in str(bench.fails(f"steps:\n  v: {{use: ensemble.vote, with: {{{arguments}}}}}\n"))


async def test_when_one_fails_none_is_left_running() -> None:
    ended: list[str] = []
    forever = asyncio.Event()

    async def wait(name: str) -> str:
        try:
            await forever.wait()
        finally:
            ended.append(name)
        return name

    async def fail() -> str:
        raise FunctionError("no")

    with pytest.raises(FunctionError, match="no"):
        await together([wait("a"), fail(), wait("b")])
    assert sorted(ended) == ["a", "b"]


async def test_results_come_in_order() -> None:
    async def after(n: int) -> int:
        for _ in range(5 - n):
            await asyncio.sleep(0)
        return n

    assert await together(after(n) for n in range(5)) == [0, 1, 2, 3, 4]
