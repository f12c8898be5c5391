"""Votes: rules against their definitions, the properties they must have, ties, weights, and what is told of them."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from gristmill import Candidate, FunctionError, Vote
from gristmill_plugins.ensemble import EnsemblePlugin
from gristmill_plugins.ensemble._ballots import Ranking, hold_election, named, ranked_election
from gristmill_plugins.ensemble._votes_advice import VotedRow, condorcet_advice, majority_accuracy, weigh
from gristmill_plugins.ensemble._votes_count import Counting, Ties, accuracy_weights, count_votes
from gristmill_plugins.ensemble._votes_posterior import lead_is_real, regularized_beta
from gristmill_plugins.ensemble._votes_rules import RULES, Rule

if TYPE_CHECKING:
    from tests.unit.conftest import Bench

UNHURRIED = settings(deadline=None, max_examples=60)
OPTIONS = "abcd"
ALL_RULES: list[Rule] = ["majority", "borda", "instant_runoff", "schulze"]


@st.composite
def ballots(draw: st.DrawFn) -> list[tuple[Fraction, Ranking]]:
    """Weighted ballots over a to d: some with ties, some that leave options out."""
    made = []
    for _ in range(draw(st.integers(1, 7))):
        order = draw(st.permutations(OPTIONS))
        order = order[: draw(st.integers(1, 4))]
        cuts = [draw(st.booleans()) for _ in order]
        ranking: list[list[str]] = []
        for option, is_new in zip(order, cuts, strict=True):
            if is_new or not ranking:
                ranking.append([])
            ranking[-1].append(option)
        made.append((Fraction(draw(st.integers(1, 5))), tuple(tuple(group) for group in ranking)))
    return made


Ballots = Sequence[tuple[Fraction, Ranking]]


# The definitions, written as plainly as can be and without sharing anything with the code under test


def levels(ranking: Ranking) -> dict[str, int]:
    """Option to the number of its group; what is left out comes last."""
    return {option: next((n for n, group in enumerate(ranking) if option in group), 99) for option in OPTIONS}


def plurality_by_definition(votes: Ballots, options: str = OPTIONS) -> dict[str, Fraction]:
    score = dict.fromkeys(options, Fraction(0))
    for weight, ranking in votes:
        best = min(levels(ranking)[option] for option in options)
        first = [option for option in options if levels(ranking)[option] == best]
        if best < 99:
            for option in first:
                score[option] += weight / len(first)
    return score


def borda_by_definition(votes: Ballots) -> dict[str, Fraction]:
    """A point for each option that is below, half a point for each that is level."""
    score = dict.fromkeys(OPTIONS, Fraction(0))
    for weight, ranking in votes:
        level = levels(ranking)
        for a, b in itertools.permutations(OPTIONS, 2):
            score[a] += weight * (1 if level[a] < level[b] else Fraction(1, 2) if level[a] == level[b] else 0)
    return score


def runoff_by_definition(votes: Ballots, options: str = OPTIONS) -> set[str]:
    score = plurality_by_definition(votes, options)
    worst = min(score.values())
    rest = "".join(option for option in options if score[option] > worst)
    leaders = {option for option in options if score[option] == max(score.values())}
    if not rest or any(2 * value > sum(score.values()) for value in score.values()):
        return leaders
    return runoff_by_definition(votes, rest)


def schulze_by_definition(votes: Ballots) -> set[str]:
    """Strengths of the strongest of all simple paths, by trying every one."""
    wins = {
        (a, b): sum((w for w, r in votes if levels(r)[a] < levels(r)[b]), Fraction(0))
        for a, b in itertools.permutations(OPTIONS, 2)
    }
    link = {(a, b): wins[a, b] if wins[a, b] > wins[b, a] else Fraction(0) for a, b in wins}
    strongest = dict.fromkeys(wins, Fraction(0))
    for n in range(2, 5):
        for path in itertools.permutations(OPTIONS, n):
            strength = min(link[pair] for pair in itertools.pairwise(path))
            ends = path[0], path[-1]
            strongest[ends] = max(strongest[ends], strength)
    return {a for a in OPTIONS if all(strongest[a, b] >= strongest[b, a] for b in OPTIONS if b != a)}


def best(score: Mapping[str, Fraction]) -> set[str]:
    return {option for option, value in score.items() if value == max(score.values())}


@UNHURRIED
@given(ballots())
def test_each_rule_finds_the_winners_of_its_definition(votes: Ballots) -> None:
    assert RULES["majority"](votes, OPTIONS).winners == best(plurality_by_definition(votes))
    assert RULES["majority"](votes, OPTIONS).tally == plurality_by_definition(votes)
    assert RULES["borda"](votes, OPTIONS).winners == best(borda_by_definition(votes))
    assert RULES["borda"](votes, OPTIONS).tally == borda_by_definition(votes)
    assert RULES["instant_runoff"](votes, OPTIONS).winners == runoff_by_definition(votes)
    assert RULES["schulze"](votes, OPTIONS).winners == schulze_by_definition(votes)


@UNHURRIED
@given(ballots(), st.permutations(OPTIONS), st.randoms(use_true_random=False), st.sampled_from(ALL_RULES))
def test_rules_are_anonymous_and_neutral(votes: Ballots, renamed: list[str], chance: random.Random, rule: Rule) -> None:
    winners = RULES[rule](votes, OPTIONS).winners
    shuffled = list(votes)
    chance.shuffle(shuffled)
    assert RULES[rule](shuffled, OPTIONS[::-1]).winners == winners
    names = dict(zip(OPTIONS, renamed, strict=True))
    other = [(w, tuple(tuple(names[option] for option in group) for group in ranking)) for w, ranking in votes]
    assert RULES[rule](other, OPTIONS).winners == {names[option] for option in winners}


@UNHURRIED
@given(ballots(), st.data(), st.sampled_from(["majority", "borda", "schulze"]))
def test_more_support_never_harms_a_winner(votes: Ballots, data: st.DataObject, rule: Rule) -> None:
    """Monotonicity; instant runoff is known not to have it."""
    winner = data.draw(st.sampled_from(sorted(RULES[rule](votes, OPTIONS).winners)))
    which = data.draw(st.integers(0, len(votes) - 1))
    weight, ranking = votes[which]
    rest = tuple(kept for group in ranking if (kept := tuple(option for option in group if option != winner)))
    raised = [*votes]
    raised[which] = (weight, ((winner,), *rest))
    assert winner in RULES[rule](raised, OPTIONS).winners


def test_instant_runoff_can_punish_support() -> None:
    """The textbook case: it is what the definition says, and why the property above leaves it out."""

    def votes(*counts: tuple[int, str]) -> Ballots:
        return [(Fraction(n), tuple((option,) for option in order)) for n, order in counts]

    before = votes((39, "abc"), (35, "bca"), (26, "cab"))
    after = votes((49, "abc"), (25, "bca"), (26, "cab"))
    assert RULES["instant_runoff"](before, "abc").winners == {"a"}
    assert RULES["instant_runoff"](after, "abc").winners == {"c"}


@UNHURRIED
@given(ballots())
def test_an_option_that_beats_every_other_wins_by_schulze(votes: Ballots) -> None:
    def beats(a: str, b: str) -> bool:
        margin = sum((w if levels(r)[a] < levels(r)[b] else -w if levels(r)[b] < levels(r)[a] else Fraction(0)
                      for w, r in votes), Fraction(0))  # fmt: skip
        return margin > 0

    for option in OPTIONS:
        if all(beats(option, other) for other in OPTIONS if other != option):
            assert RULES["schulze"](votes, OPTIONS).winners == {option}


def test_schulzes_own_example_is_decided_as_in_the_paper() -> None:
    """Schulze 2011, section 3.1: 45 voters, five options; the winner is e, and it beats all four others."""
    counts = {"acbed": 5, "adecb": 5, "bedac": 8, "cabed": 3, "caebd": 7, "cbade": 2, "dceba": 7, "ebadc": 8}
    votes = [(Fraction(n), tuple((option,) for option in order)) for order, n in counts.items()]
    outcome = RULES["schulze"](votes, "abcde")
    assert outcome.winners == {"e"}
    assert [outcome.tally[option] for option in "eacbd"] == [4, 3, 2, 1, 0]


# From candidates to a Vote


def vote_of(texts: Sequence[str] | Mapping[str, str], normalize: Any = "text", **counting: Any) -> Vote:
    if isinstance(texts, Mapping):
        candidates = named({name: Candidate(text=text) for name, text in texts.items()})
    else:
        candidates = named([Candidate(text=text) for text in texts])
    return count_votes(hold_election(candidates, normalize), Counting(**counting))


@UNHURRIED
@given(
    st.dictionaries(st.text("mnop", min_size=1, max_size=3), st.sampled_from(["A", "a", "b.", "B", "c"]), min_size=1),
    st.randoms(use_true_random=False),
    st.sampled_from(["abstain", "random"]),
    st.data(),
)
def test_neither_the_order_nor_the_names_of_members_change_a_vote(
    texts: dict[str, str], chance: random.Random, ties: Ties, data: st.DataObject
) -> None:
    weights = {name: data.draw(st.floats(0.125, 4), label="weight") for name in texts}
    vote = vote_of(texts, ties=ties, weights=weights)
    order = list(texts)
    chance.shuffle(order)
    moved = vote_of({f"x{name}": texts[name] for name in order}, ties=ties,
                    weights={f"x{name}": weight for name, weight in weights.items()})  # fmt: skip
    assert (moved.winner, moved.tally, moved.tied) == (vote.winner, vote.tally, vote.tied)
    assert moved.votes == {f"x{name}": answer for name, answer in vote.votes.items()}


def test_a_vote_says_who_won_how_clearly_and_who_voted_for_what() -> None:
    vote = vote_of({"x": "Paris.", "y": "paris", "z": "Lyon", "w": "Paris"})
    assert vote.winner == "Paris"
    assert vote.tally == {"Paris": 3.0, "Lyon": 1.0}
    assert vote.votes == {"x": "Paris", "y": "Paris", "z": "Lyon", "w": "Paris"}
    assert vote.agreement == 0.75
    assert vote.entropy == pytest.approx(-0.75 * math.log2(0.75) - 0.25 * math.log2(0.25))
    assert vote.confidence == pytest.approx(1 - special.betainc(4, 2, 0.5))
    assert vote.weights == {"x": 1, "y": 1, "z": 1, "w": 1}
    assert not vote.tied


def test_unanimous_votes_have_no_entropy_and_more_of_them_are_surer() -> None:
    few, many = vote_of(["a"] * 2), vote_of(["a"] * 9)
    assert few.entropy == many.entropy == 0.0
    assert math.copysign(1, few.entropy) == 1
    assert few.agreement == many.agreement == 1.0
    assert 0.5 < few.confidence < many.confidence < 1


def test_weights_bind_to_the_members_name() -> None:
    texts = {"a": "no", "b": "no", "expert": "yes"}
    assert vote_of(texts).winner == "no"
    weights = {"expert": 3.0, "a": 1.0, "b": 1.0}
    assert vote_of(texts, weights=weights).winner == "yes"
    assert vote_of(dict(reversed(texts.items())), weights=weights).winner == "yes"


def test_samples_of_one_member_share_its_weight() -> None:
    candidates = named(
        [Candidate(text="x", source="a"), Candidate(text="x", source="a"), Candidate(text="y", source="b")]
    )
    assert list(candidates) == ["a", "a#2", "b"]
    vote = count_votes(hold_election(candidates, "text"), Counting(weights={"a": 1.0, "b": 3.0}))
    assert vote.winner == "y"
    assert vote.weights == {"a": 1.0, "a#2": 1.0, "b": 3.0}


@pytest.mark.parametrize(
    ("counting", "message"),
    [
        ({"weights": {"a": 1.0}}, r"'b' voted and has no weight; there are weights for 'a'"),
        ({"weights": {"a": -1.0, "b": 1.0}}, r"the weight of 'a' is -1.0: a weight is 0 or more"),
        ({"weights": {"a": 0.0, "b": 0.0}}, "every vote weighs nothing"),
        ({"accuracies": {"a": 1.5, "b": 0.5}}, "the accuracy of 'a' is 1.5: it is from 0 to 1"),
        ({"weigh_by": "probability"}, "'a' gave no log-probability"),
        ({"weigh_by": "confidence"}, "'a' gave no probability for its answer"),
    ],
)
def test_weights_that_mean_nothing_are_refused(counting: dict[str, Any], message: str) -> None:
    with pytest.raises(FunctionError, match=message):
        vote_of({"a": "x", "b": "y"}, **counting)


def test_ties_are_broken_as_asked_and_told() -> None:
    sure = Candidate(text="late", probabilities={"late": 0.9, "early": 0.1})
    unsure = Candidate(text="early", probabilities={"late": 0.4, "early": 0.6})
    election = hold_election(named({"x": unsure, "y": sure}), "text")

    def winner(ties: Ties, seed: int = 0) -> str | None:
        vote = count_votes(election, Counting(ties=ties, seed=seed))
        assert vote.tied == ("early", "late")
        return vote.winner

    assert winner("first") == "early"
    assert winner("confidence") == "late"
    assert winner("abstain") is None
    assert {winner("random", seed) for seed in range(20)} == {"early", "late"}
    assert winner("random", 7) == winner("random", 7)


def test_a_vote_without_a_winner_has_no_text_and_no_confidence() -> None:
    vote = vote_of(["a", "b"], ties="abstain")
    assert (vote.winner, vote.as_text(), vote.agreement, vote.confidence) == (None, None, 0.0, 0.0)
    assert vote_of([]).winner is None
    assert vote_of(["", " "]).abstained == ("1", "2")


def test_accuracies_become_log_odds_and_guessing_counts_nothing() -> None:
    weights = accuracy_weights({"good": 0.9, "coin": 0.5, "worse": 0.2, "sure": 1.0}, 2)
    assert weights["good"] == pytest.approx(math.log(9))
    assert weights["coin"] == weights["worse"] == 0.0
    assert weights["sure"] == pytest.approx(math.log(999))
    assert accuracy_weights({"third": 1 / 3}, 3)["third"] == pytest.approx(0.0, abs=1e-12)
    three = {"x": "yes", "y": "no", "z": "no"}
    assert vote_of(three, accuracies={"x": 0.95, "y": 0.6, "z": 0.6}).winner == "yes"


def test_log_probabilities_weigh_whole_texts_or_their_tokens() -> None:
    long = Candidate(text="long", logprob=math.log(0.5), n_tokens=4)
    short = Candidate(text="short", logprob=math.log(0.6), n_tokens=1)
    election = hold_election(named({"l": long, "s": short}), "text")
    assert count_votes(election, Counting(weigh_by="probability")).tally == pytest.approx({"short": 1, "long": 5 / 6})
    by_token = count_votes(election, Counting(weigh_by="mean_probability")).tally
    assert by_token == pytest.approx({"long": 0.5**0.25, "short": 0.6})


def test_texts_too_long_for_a_probability_are_still_weighed() -> None:
    election = hold_election(
        named([Candidate(text="x", logprob=-2000.0), Candidate(text="y", logprob=-2001.0)]), "text"
    )
    vote = count_votes(election, Counting(weigh_by="probability"))
    assert vote.tally == pytest.approx({"x": 1.0, "y": math.exp(-1)})


def test_probabilities_are_ballots_for_the_rules_that_rank() -> None:
    """The option that everybody likes second wins by Borda and Schulze, and cannot by majority."""
    candidates = named(
        {
            "x": Candidate(text="left", probabilities={"left": 0.6, "middle": 0.3, "right": 0.1}),
            "y": Candidate(text="right", probabilities={"right": 0.6, "middle": 0.3, "left": 0.1}),
            "z": Candidate(text="middle", probabilities={"middle": 0.6, "left": 0.2, "right": 0.2}),
        }
    )
    election = hold_election(candidates, "text", ranked=True)
    for rule in ("borda", "schulze"):
        assert count_votes(election, Counting(rule=rule)).winner == "middle"
    assert count_votes(hold_election(candidates, "text"), Counting(ties="abstain")).winner is None


def test_a_candidate_that_found_no_answer_abstains_and_its_probabilities_do_not_count() -> None:
    lost = Candidate(text="maybe 7", found=False, probabilities={"7": 0.9, "8": 0.1})
    for ranked in (False, True):
        election = hold_election(named([lost, Candidate(text="8")]), "number", ranked=ranked)
        assert (election.abstained, election.options) == (("1",), ("8",))


def test_rankings_are_counted_round_by_round() -> None:
    rankings = {"v1": ["a", "b"], "v2": ["a", "c"], "v3": ["b", "c"], "v4": ["b", "a"], "v5": ["c", "b"]}
    vote = count_votes(ranked_election(rankings), Counting(rule="instant_runoff"))
    assert vote.winner == "b"
    assert vote.rounds == ({"a": 2.0, "b": 2.0, "c": 1.0}, {"b": 3.0, "a": 2.0})
    assert vote.tally == {"b": 3.0, "a": 2.0, "c": 1.0}


def test_a_ranking_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(FunctionError, match="the ranking of 'v' has 'a' twice"):
        ranked_election({"v": ["a", "a"]})
    with pytest.raises(FunctionError, match="'v' ranks 'spma'"):
        ranked_election({"v": ["spma"]}, options=["spam", "ham"])


# How sure a lead is


@UNHURRIED
@given(st.floats(0, 1), st.floats(0.5, 60), st.floats(0.5, 60))
def test_the_beta_function_is_scipys(x: float, a: float, b: float) -> None:
    assert regularized_beta(x, a, b) == pytest.approx(float(special.betainc(a, b, x)), abs=1e-9)


def test_a_lead_is_as_sure_as_its_posterior() -> None:
    assert lead_is_real(3, 3) == pytest.approx(0.5)
    assert lead_is_real(1, 0) == pytest.approx(0.75)
    assert lead_is_real(4, 0) == pytest.approx(1 - 0.5**5)


# Whether voting pays


@UNHURRIED
@given(st.lists(st.floats(0, 1), min_size=1, max_size=7))
def test_the_majoritys_accuracy_is_the_sum_over_all_outcomes(accuracies: list[float]) -> None:
    total = 0.0
    for outcome in itertools.product((0, 1), repeat=len(accuracies)):
        chance = math.prod(p if right else 1 - p for p, right in zip(accuracies, outcome, strict=True))
        share = sum(outcome) / len(accuracies)
        total += chance * (1.0 if share > 0.5 else 0.5 if share == 0.5 else 0.0)
    assert majority_accuracy(accuracies) == pytest.approx(total, abs=1e-9)


def test_members_below_one_half_are_told_that_voting_hurts() -> None:
    advice = condorcet_advice({"a": 0.4, "b": 0.4, "c": 0.4}, ["a", "b", "c"])
    assert advice is not None
    assert "right in 40% on average, below one half" in advice
    assert "is right in 35%, the best of them alone in 40%" in advice
    assert condorcet_advice({"a": 0.6, "b": 0.6}, ["a", "b"]) is None
    assert condorcet_advice({"a": 0.3}, ["a"]) is None


def rows(*lines: str) -> list[VotedRow]:
    """Rows of "what a, b and c said, label"."""
    return [VotedRow(votes=dict(zip("abc", line, strict=False)), label=line[3]) for line in lines]


def test_weigh_measures_members_and_their_vote() -> None:
    found = weigh(rows("yyny", "ynny", "yyny", "nynn"))
    assert found.accuracies == {"a": pytest.approx(5 / 6), "b": pytest.approx(3 / 6), "c": pytest.approx(2 / 6)}
    assert (found.best, found.best_accuracy, found.n) == ("a", 1.0, 4)
    assert found.vote_accuracy == 0.75
    assert found.weighted_accuracy == 1.0
    assert found.any_accuracy == 1.0
    assert found.weights["a"] == pytest.approx(math.log(5))
    assert found.weights["b"] == found.weights["c"] == 0.0
    assert "do not vote, ask 'a' alone" in found.advice


def test_weigh_says_with_the_numbers_when_members_are_below_one_half() -> None:
    found = weigh(rows("nnyy", "nyny", "ynny", "nnny"))
    assert found.vote_accuracy == 0.0
    assert "the members are right in 33% on average, below one half (a 33%, b 33%, c 33%)" in found.advice
    assert "a majority is right in 0%, the best member, 'c', in 25%" in found.advice


def test_weigh_finds_where_voting_pays() -> None:
    found = weigh(rows("yyny", "ynyy", "nyyy", "yyyy"))
    assert found.vote_accuracy == 1.0
    assert found.advice.endswith("voting pays")


def test_a_tie_counts_as_its_share() -> None:
    assert weigh([VotedRow(votes={"a": "y", "b": "n"}, label="y")]).vote_accuracy == 0.5


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "there are no labelled rows"),
        ([VotedRow(votes={"a": "x"}, label="x"), VotedRow(votes={"b": "x"}, label="x")], r"row 2 has votes of \['b'\]"),
        ([VotedRow(votes={"a": "x"}, label=" ")], "row 1: the label ' ' holds no text"),
    ],
)
def test_rows_that_make_no_sense_are_refused(lines: list[VotedRow], message: str) -> None:
    with pytest.raises(FunctionError, match=message):
        weigh(lines)


# As steps of a recipe


def test_a_step_votes_over_what_other_steps_said(bench: Bench) -> None:
    result = bench.run(
        "steps:\n  x: {prompt: One}\n  y: {prompt: Two}\n"
        "  v: {use: ensemble.vote, with: {candidates: {x: '${x}', y: '${y}'}, weights: {x: 1, y: 2}}}\n"
        "output: ${v} ${v.agreement}\n"
    )
    assert result.output == "fake answer 1.0"


def test_nulls_are_dropped_and_lists_of_samples_vote(bench: Bench) -> None:
    result = bench.run(
        "steps:\n  skipped: {if: '${1 > 2}', prompt: One}\n  y: {prompt: Two}\n"
        "  v: {use: ensemble.vote, with: {candidates: ['${skipped}', '${y}', '12', '12.0'], normalize: number}}\n"
    )
    vote = result.steps["v"].value
    assert (vote.winner, vote.value, vote.abstained) == ("12", 12, ("1",))


def test_a_vote_takes_its_answers_from_one_place(bench: Bench) -> None:
    error = bench.fails("steps:\n  v: {use: ensemble.vote, with: {candidates: [a], prompt: Ask}}\n")
    assert "a vote takes candidates, or rankings, or members or a prompt; this has candidates and members" in str(error)
    error = bench.fails("steps:\n  v: {use: ensemble.vote, with: {candidates: [a], early_stop: certain}}\n")
    assert "samples, early_stop and min_answers are for votes that ask" in str(error)
    error = bench.fails("steps:\n  v: {use: ensemble.vote}\n")
    assert "this has none of these" in str(error)
    error = bench.fails(
        "steps:\n  v: {use: ensemble.vote, with: {candidates: [a], weights: {a: 1}, accuracies: {a: 1}}}\n"
    )
    assert "weights follow from accuracies" in str(error)


def test_low_accuracies_put_advice_into_the_vote(bench: Bench) -> None:
    result = bench.run(
        "steps:\n  v: {use: ensemble.vote, with: {candidates: {a: x, b: x, c: y}, "
        "accuracies: {a: 0.45, b: 0.3, c: 0.6}}}\n"
    )
    assert result.output.winner == "y"
    assert "right in 45% on average, below one half" in result.output.advice


def test_weigh_reads_a_file_and_names_a_bad_line(bench: Bench) -> None:
    data = bench.folder / "rows.jsonl"
    row = {"votes": {"a": "x\u2028", "b": "y"}, "label": "x"}
    data.write_text(json.dumps(row, ensure_ascii=False) + "\n\n" + json.dumps(row) + "\n")
    result = bench.run("steps:\n  w: {use: ensemble.weigh, with: {data: rows.jsonl}}\n")
    assert result.output.n == 2
    assert result.output.accuracies["a"] == 0.75
    data.write_text('{"votes": {"a": "x"}}\n')
    assert "rows.jsonl:1: label: Field required" in str(
        bench.fails("steps:\n  w: {use: ensemble.weigh, with: {data: rows.jsonl}}\n")
    )
    assert "No such file" in str(bench.fails("steps:\n  w: {use: ensemble.weigh, with: {data: none.jsonl}}\n"))


def test_answers_and_labels_of_other_steps_are_rows(bench: Bench) -> None:
    found = bench.run(
        "steps:\n  w: {use: ensemble.weigh, with: {answers: [{a: x, b: y}, {a: y, b: y}], labels: [x, x]}}\n"
    ).output
    assert (found.n, found.best, found.best_accuracy) == (2, "a", 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{}", "this takes `data`, or `answers` with their `labels`"),
        ("{answers: [{a: x}]}", "this takes `data`, or `answers` with their `labels`"),
        ("{answers: [{a: x}], labels: [x], data: rows.jsonl}", "this takes `data`, or `answers`"),
        ("{answers: [{a: x}], labels: [x, y]}", "there are 1 answers and 2 labels"),
    ],
)
def test_rows_come_from_one_place(bench: Bench, arguments: str, message: str) -> None:
    assert message in str(bench.fails(f"steps:\n  w: {{use: ensemble.weigh, with: {arguments}}}\n"))


def test_the_plugin_offers_its_functions_through_its_mixins(bench: Bench) -> None:
    offered = bench.kernel.registry.plugin("ensemble")
    assert isinstance(offered.plugin, EnsemblePlugin)
    assert {"ensemble.vote", "ensemble.ask", "ensemble.weigh"} <= set(offered.functions)
