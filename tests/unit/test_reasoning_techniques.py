"""The reasoning techniques with a model whose answers are known: what is asked, and what is made of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gristmill import GenerateRequest, Kernel, RunError, RunResult, StepNoted
from gristmill.testing import FakeEmbedder, FakeModel, FakePlugin, check_plugin
from gristmill_plugins.reasoning import ReasoningPlugin

Answers = Callable[[GenerateRequest, int], str]
Ask = Callable[..., RunResult]


def last(request: GenerateRequest) -> str:
    return request.messages[-1].content


class Bench:
    """Runs one step of the reasoning plugin on a fake model."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fake = FakePlugin()

    def run(self, use: str, answers: Any, cache: Any = False, **arguments: Any) -> RunResult:
        import yaml

        self.fake.answers = answers
        path = self.folder / "r.yaml"
        steps = {"a": {"use": f"reasoning.{use}", "with": arguments}}
        path.write_text(
            yaml.safe_dump({"version": 1, "models": {"main": {"use": "fake"}}, "steps": steps}, sort_keys=False)
        )
        with Kernel(plugins={"fake": self.fake}, cache=cache) as kernel:
            return kernel.recipe(path).run()

    def fails(self, use: str, answers: Any, **arguments: Any) -> str:
        with pytest.raises(RunError) as caught:
            self.run(use, answers, **arguments)
        return str(caught.value.failures["a"])

    @property
    def model(self) -> FakeModel:
        return self.fake.models["fake"]

    @property
    def asked(self) -> list[GenerateRequest]:
        return [request for request in self.model.requests if isinstance(request, GenerateRequest)]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def notes(result: RunResult) -> list[str]:
    return [event.text for event in result.trace if isinstance(event, StepNoted)]


def test_the_plugin_keeps_the_contract() -> None:
    assert len(check_plugin("reasoning", ReasoningPlugin()).functions) == 11


# -- chains ------------------------------------------------------------------------------------------------------------


def test_samples_are_one_request_and_one_chain_each_in_order(bench: Bench) -> None:
    chains = bench.run(
        "chain_of_thought", lambda _, i: f"Step {i}. The answer is {i * 1000:,}.", question="How many?", samples=5
    ).output
    assert [chain.text for chain in chains] == ["0", "1000", "2000", "3000", "4000"]
    assert [request.sample_indices for request in bench.asked] == [(0, 1, 2, 3, 4)]
    assert bench.asked[0].sampling.temperature == 0.7
    assert chains[1].reasoning == "Step 1. The answer is 1,000."
    assert chains[1].value == 1000


def test_zero_shot_asks_for_steps_behind_the_question(bench: Bench) -> None:
    chain = bench.run("chain_of_thought", "It is 8.", question="How many legs?", context=["A spider.", "Legs."]).output
    assert last(bench.asked[0]) == "Use this text:\nA spider.\n\nLegs.\n\nHow many legs?\n\nLet's think step by step."
    assert bench.asked[0].sampling.temperature == 0
    assert chain[0].prompt == "chain_of_thought version 1"


@pytest.mark.parametrize("combined", [False, True])
def test_few_shot_shows_chains_as_earlier_turns_and_combines_with_steps(bench: Bench, combined: bool) -> None:
    examples = [{"input": "1+1?", "reasoning": "One and one.", "output": "2"}, {"input": "Capital?", "output": "Paris"}]
    bench.run("chain_of_thought", "It is 4.", question="2+2?", examples=examples, step_by_step=combined)
    trigger = "\n\nLet's think step by step." if combined else ""
    assert [(message.role, message.content) for message in bench.asked[0].messages] == [
        ("user", "1+1?" + trigger),
        ("assistant", "One and one. The answer is 2."),
        ("user", "Capital?" + trigger),
        ("assistant", "Paris"),
        ("user", "2+2?" + trigger),
    ]


def test_a_chain_without_an_answer_says_so_and_keeps_its_text(bench: Bench) -> None:
    chain = bench.run("chain_of_thought", "I cannot say.", question="How many?", kind="number").output[0]
    assert (chain.found, chain.text, chain.value) == (False, "I cannot say.", None)


def test_chains_without_an_answer_are_counted_in_the_trace(bench: Bench) -> None:
    result = bench.run(
        "chain_of_thought", lambda _, i: ("It is 8.", "No idea.")[i % 2], question="?", kind="number", samples=5
    )
    assert "2 of 5 chains had no answer" in notes(result)


def test_a_chain_without_an_answer_abstains_from_a_vote(tmp_path: Path) -> None:
    """Two of five say the same words that hold no number; as texts they would beat each number."""
    said = ["No idea.", "It is 8.", "No idea.", "It is 9.", "It is 8."]
    path = tmp_path / "r.yaml"
    path.write_text(
        "version: 1\nmodels: {main: {use: fake}}\nsteps:\n"
        "  c: {use: reasoning.chain_of_thought, with: {question: '?', kind: number, samples: 5}}\n"
        "  v: {use: ensemble.vote, with: {candidates: '${c}'}}\n"
    )
    with Kernel(plugins={"fake": FakePlugin(answers=lambda _, i: said[i])}, cache=False) as kernel:
        vote = kernel.recipe(path).run().output
    assert (vote.winner, vote.tally, vote.abstained) == ("8", {"8": 2.0, "9": 1.0}, ("1", "3"))


def test_options_are_shown_and_their_letter_is_the_answer(bench: Bench) -> None:
    chain = bench.run("chain_of_thought", "So it is (B).", question="Which?", options=["rye", "oats"]).output[0]
    assert "Options: (A) rye (B) oats" in last(bench.asked[0])
    assert chain.text == "B"


def test_the_answer_can_be_asked_for_in_a_second_request(bench: Bench) -> None:
    def answers(request: GenerateRequest, index: int) -> str:
        return "4" if "arabic numerals" in last(request) else f"Chain {index} speaks of 77."

    chains = bench.run("chain_of_thought", answers, question="2+2?", kind="number", finish="ask", samples=2).output
    assert [chain.text for chain in chains] == ["4", "4"]
    asked = [request.messages[1].content for request in bench.asked[1:]]
    assert sorted(asked) == ["Chain 0 speaks of 77.", "Chain 1 speaks of 77."]


def test_letters_and_yes_and_no_are_asked_for_by_probability(bench: Bench) -> None:
    chain = bench.run("chain_of_thought", "B", question="Which?", options=["x", "y", "z"], finish="ask").output[0]
    assert chain.text == "B"
    assert set(chain.probabilities) == {"A", "B", "C"}
    assert max(chain.probabilities, key=chain.probabilities.get) == "B"
    chain = bench.run("chain_of_thought", "no", question="Is it?", kind="yes_no", finish="ask").output[0]
    assert (chain.text, chain.value) == ("no", False)


def test_plan_and_solve_asks_for_a_plan_and_then_for_the_answer(bench: Bench) -> None:
    chain = bench.run("plan_and_solve", ["Plan: add. It is 4.", "4"], question="2+2?", kind="number").output[0]
    assert "devise a plan" in last(bench.asked[0])
    assert "extract relevant variables" not in last(bench.asked[0])
    assert chain.text == "4"
    bench.run("plan_and_solve", "4", question="2+2?", in_detail=True, finish="extract")
    assert "extract relevant variables" in last(bench.asked[0])


def test_a_wrong_number_of_options_is_told_before_the_model_is_asked(bench: Bench) -> None:
    assert "options are 2 to 26 texts" in bench.fails("chain_of_thought", "x", question="Which?", options=["one"])
    assert bench.fake.models == {} or bench.asked == []


def test_a_question_that_looks_like_a_prompt_is_only_text(bench: Bench) -> None:
    bench.run("chain_of_thought", "x", question="What is {context} in {question}?")
    assert last(bench.asked[0]).startswith("What is {context} in {question}?")


# -- prompts -----------------------------------------------------------------------------------------------------------


def test_a_part_of_a_prompt_is_replaced_and_the_result_says_so(bench: Bench) -> None:
    chain = bench.run("chain_of_thought", "x", question="Why?", prompts={"step_by_step": "Think hard."}).output[0]
    assert last(bench.asked[0]) == "Why?\n\nThink hard."
    assert chain.prompt == "chain_of_thought version 1, step_by_step replaced"


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({"steps": "x"}, "the prompt of chain_of_thought has no part 'steps'"),
        ({"ask": "Q: {query}"}, "part 'ask' of chain_of_thought knows no {query}\n  its names: {question}"),
        ({"ask": "Answer me."}, "part 'ask' of chain_of_thought has lost {question}"),
    ],
)
def test_a_replaced_part_must_keep_the_names_of_the_original(
    bench: Bench, prompts: dict[str, str], message: str
) -> None:
    assert message in bench.fails("chain_of_thought", "x", question="Why?", prompts=prompts)


@pytest.mark.parametrize(
    ("name", "paper"),
    [
        ("chain_of_thought", "Kojima et al. 2022"),
        ("chain_of_thought", "Wei et al. 2022"),
        ("plan_and_solve", "Wang et al. 2023"),
        ("least_to_most", "Zhou et al. 2022"),
        ("self_refine", "Madaan et al. 2023"),
        ("reflect", "Shinn et al. 2023"),
        ("tree_of_thought", "Yao et al. 2023"),
        ("react", "Yao et al. 2022"),
    ],
)
def test_every_prompt_has_a_version_and_its_paper(bench: Bench, name: str, paper: str) -> None:
    prompt = bench.run("prompt", "x", technique=name).output
    assert paper in prompt.source
    assert prompt.version >= 1
    assert prompt.parts


def test_an_unknown_prompt_is_told_with_the_nearest(bench: Bench) -> None:
    assert "did you mean 'self_refine'?" in bench.fails("prompt", "x", technique="self_refin")


# -- least to most -----------------------------------------------------------------------------------------------------


def test_least_to_most_asks_each_part_with_the_earlier_ones_in_sight(bench: Bench) -> None:
    answers = [
        '{"parts": ["How many wheels has a bicycle?", "How many bicycles are there?"]}', "2 wheels.", "3 bicycles.",
        "So the answer is 6.",
    ]  # fmt: skip
    solution = bench.run("least_to_most", answers, question="How many wheels?", context="Three bicycles.").output
    assert (solution.text, solution.found) == ("6", True)
    assert [(part.question, part.answer) for part in solution.parts] == [
        ("How many wheels has a bicycle?", "2 wheels."),
        ("How many bicycles are there?", "3 bicycles."),
    ]
    said = [message.content for message in bench.asked[3].messages]
    assert said[1::2] == ["2 wheels.", "3 bicycles."]
    assert said[0].startswith("Use this text:\nThree bicycles.")
    assert said[-1] == "Now answer the whole question: How many wheels?"
    assert (bench.asked[0].json_schema or {})["properties"]["parts"]["maxItems"] == 4


# -- refine ------------------------------------------------------------------------------------------------------------


def refiner(good: str, *texts: str) -> Answers:
    """Write each text in turn when asked to draft or revise, and find only those good that hold `good`."""
    left = list(texts)

    def answers(request: GenerateRequest, _: int) -> str:
        asked = last(request)
        if "Say yes or no" in asked:
            return "yes" if good in asked.split("Answer:")[1] else "no"
        return "It needs a bell." if "What is wrong" in asked else left.pop(0)

    return answers


def test_self_refine_revises_until_the_judge_is_content(bench: Bench) -> None:
    refined = bench.run("self_refine", refiner("bell", "a cat", "a cat with a bell", "x"), task="Draw a cat.").output
    assert (refined.text, refined.stopped) == ("a cat with a bell", "until")
    assert [draft.text for draft in refined.drafts] == ["a cat", "a cat with a bell"]
    assert [draft.critique for draft in refined.drafts] == ["It needs a bell.", ""]
    assert "Feedback: It needs a bell." in next(last(r) for r in bench.asked if "Feedback" in last(r))


def test_self_refine_stops_at_max_and_keeps_the_best_or_the_last(bench: Bench) -> None:
    texts = ("one", "two", "three")
    refined = bench.run("self_refine", refiner("never", *texts), task="Count.", max=2).output
    assert (refined.stopped, len(refined.drafts), refined.text) == ("max", 3, "one")
    refined = bench.run("self_refine", refiner("never", *texts), task="Count.", max=2, keep="last").output
    assert refined.text == "three"


def test_self_refine_begins_with_a_given_draft_and_stops_when_nothing_changes(bench: Bench) -> None:
    refined = bench.run("self_refine", refiner("never", "same"), task="Write.", draft="same").output
    assert (refined.stopped, len(refined.drafts)) == ("unchanged", 1)


# -- reflect -----------------------------------------------------------------------------------------------------------


def test_reflect_tries_again_with_what_it_noted(bench: Bench) -> None:
    def answers(request: GenerateRequest, _: int) -> str:
        asked = last(request)
        if "Is this answer correct" in asked:
            return "yes" if "Answer: 4" in asked else "no"
        if "what went wrong" in asked:
            return "I added one too many."
        return "The answer is 4." if "I added one too many." in asked else "The answer is 5."

    reflected = bench.run("reflect", answers, question="2+2?").output
    assert (reflected.text, reflected.solved) == ("4", True)
    assert [trial.answer for trial in reflected.trials] == ["5", "4"]
    assert reflected.trials[0].reflection == "I added one too many."
    assert reflected.trials[1].reflection == ""


def test_reflect_returns_the_best_trial_when_none_solves_it(bench: Bench) -> None:
    reflected = bench.run("reflect", "The answer is no.", question="2+2?", trials=2).output
    assert len(reflected.trials) == 2
    assert reflected.score == reflected.trials[0].score
    bad = bench.run("reflect", {"Is this": "no", "what went": "Hm.", "2+2": "5"}, question="2+2?", trials=2).output
    assert (bad.solved, bad.text) == (False, "5")


def test_reflect_is_judged_by_a_recipe_and_told_its_feedback(bench: Bench) -> None:
    (bench.folder / "judge.yaml").write_text(
        "version: 1\nname: judge\ninputs: {question: string, answer: string}\nmodels: {m: {use: fake}}\n"
        "steps: {s: {if: '${inputs.answer == \"x\"}', prompt: x}}\n"
        "output: {score: '${1 if inputs.answer == \"4\" else 0}', feedback: Count again.}\n"
    )
    answers = ["The answer is 5.", "I miscounted.", "The answer is 4."]
    reflected = bench.run("reflect", answers, question="2+2?", evaluator="./judge.yaml").output
    assert [trial.score for trial in reflected.trials] == [0, 1]
    assert "It failed. Count again." in last(bench.asked[1])


def test_an_evaluator_that_returns_no_score_is_told(bench: Bench) -> None:
    (bench.folder / "judge.yaml").write_text(
        "version: 1\nname: judge\ninputs: {question: string, answer: string}\nmodels: {m: {use: fake}}\n"
        "steps: {s: {prompt: x}}\noutput: ${inputs.answer}\n"
    )
    message = bench.fails("reflect", "The answer is 5.", question="2+2?", evaluator="./judge.yaml")
    assert "the evaluator './judge.yaml' returned '5' as the score" in message


def test_reflect_with_tools_makes_each_trial_an_agent(bench: Bench) -> None:
    def answers(request: GenerateRequest, _: int) -> str:
        asked = last(request)
        if "Is this answer correct" in asked:
            return "yes" if "Answer: 12" in asked else "no"
        if "what went wrong" in asked:
            assert "calculate" in asked
            return "Multiply."
        if asked.startswith("Observation: "):
            return json.dumps({"thought": "t", "answer": asked.removeprefix("Observation: ")})
        expression = "3*4" if "Multiply." in asked else "3+4"
        return json.dumps({"thought": "t", "tool": "calculate", "arguments": {"expression": expression}})

    tools = [{"use": "reasoning.calculate"}]
    reflected = bench.run("reflect", answers, question="3 times 4?", tools=tools).output
    assert [trial.answer for trial in reflected.trials] == ["7", "12"]
    assert reflected.solved


# -- tree of thought ---------------------------------------------------------------------------------------------------


def thinker(tree: dict[str, list[str]], worth: dict[str, str]) -> Answers:
    """Propose the children of the last step, and judge each step by its own word."""

    def answers(request: GenerateRequest, index: int) -> str:
        asked = last(request)
        if "Say sure, likely" in asked:
            step = asked.split("Steps so far:\n")[1].split("\n\n")[0].splitlines()[-1].partition(". ")[2]
            return worth.get(step, "impossible")
        if "Write the next step" in asked:
            so_far = asked.partition("Steps so far:\n")[2].split("\n\n")[0].splitlines()
            children = tree.get(so_far[-1].partition(". ")[2] if so_far else "", ["nothing"])
            return children[index % len(children)]
        return f"The answer is {asked.split('Steps:')[1].count('good')}."

    return answers


TREE = {"": ["wrong start", "good start"], "wrong start": ["dead end", "other end"], "good start": ["good end"]}


def test_a_search_in_depth_backtracks_from_the_branch_that_looked_best(bench: Bench) -> None:
    worth = {"wrong start": "sure", "good start": "likely", "good end": "sure"}
    result = bench.run(
        "tree_of_thought", thinker(TREE, worth), question="How?", search="depth", depth=2, branches=2, prune=0.3
    )
    tree = result.output
    assert tree.path == ("good start", "good end")
    assert tree.text == "2"
    assert tree.n_backtracks == 1
    by_thought = {state.thought: state for state in tree.states}
    assert by_thought["wrong start"].score > by_thought["good start"].score
    assert by_thought["dead end"].status == by_thought["other end"].status == "pruned"
    assert by_thought["good end"].status == "answer"
    assert by_thought["good end"].parent == by_thought["good start"].id
    told = notes(result)
    back = told.index(f"backtrack from state {by_thought['wrong start'].id} to 0")
    assert any(line.startswith(f"prune state {by_thought['dead end'].id}") for line in told[:back])
    assert any("good end" in line for line in told[back:])


def test_a_search_in_breadth_keeps_the_best_of_each_level(bench: Bench) -> None:
    worth = {"wrong start": "impossible", "good start": "sure", "good end": "likely"}
    answers = thinker(TREE, worth)
    tree = bench.run("tree_of_thought", answers, question="How?", depth=2, branches=2, breadth=1).output
    assert tree.path == ("good start", "good end")
    assert {state.thought: state.status for state in tree.states} == {
        "": "expanded", "wrong start": "pruned", "good start": "expanded", "good end": "answer",
    }  # fmt: skip
    assert [request.sample_indices for request in bench.asked if "next step" in last(request)] == [(0, 1), (0, 1)]


def test_states_are_voted_on_against_each_other(bench: Bench) -> None:
    def answers(request: GenerateRequest, index: int) -> str:
        if "Say its number" in last(request):
            return "2"
        return thinker(TREE, {})(request, index)

    tree = bench.run("tree_of_thought", answers, question="How?", depth=1, branches=2, breadth=1, score="vote").output
    assert tree.path == ("good start",)
    assert sum(state.score for state in tree.states) == pytest.approx(1)


def test_a_tree_stays_within_its_states_and_says_what_it_left_out(bench: Bench) -> None:
    worth = dict.fromkeys(["wrong start", "good start"], "sure")
    result = bench.run("tree_of_thought", thinker(TREE, worth), question="How?", branches=2, max_states=1)
    assert len(result.output.states) == 2
    assert "1 thoughts are left out: max_states is 1" in notes(result)


def test_a_tree_whose_states_are_all_pruned_still_answers(bench: Bench) -> None:
    for search in ("breadth", "depth"):
        tree = bench.run(
            "tree_of_thought", thinker(TREE, {}), question="How?", branches=2, prune=0.9, search=search
        ).output
        assert tree.text == "0"
        assert "answer" in [state.status for state in tree.states]


def test_a_vote_in_depth_is_refused(bench: Bench) -> None:
    message = bench.fails("tree_of_thought", "x", question="How?", search="depth", score="vote")
    assert "a vote compares the states of a level, and depth has no levels" in message


def test_too_many_states_for_one_vote_are_refused(bench: Bench) -> None:
    message = bench.fails(
        "tree_of_thought", lambda _, i: f"step {i}", question="How?", branches=30, score="vote", depth=1
    )
    assert "a vote takes 26 states at once, these are 30" in message


# -- examples ----------------------------------------------------------------------------------------------------------

POOL = [
    {"input": "how many apples are there", "output": "3"},
    {"input": "what is the capital of France", "output": "Paris", "reasoning": "France's capital."},
    {"input": "how many apples and pears are there", "output": "5"},
    {"input": "who wrote Faust", "output": "Goethe"},
]


@pytest.fixture
def select(tmp_path: Path) -> Callable[..., list[str]]:
    from gristmill import Embedder, model_provider

    class Words:
        @model_provider
        def words(self) -> Embedder:
            """An embedder of words."""
            return FakeEmbedder()

    def run(**arguments: Any) -> list[str]:
        import yaml

        steps = {"a": {"use": "reasoning.select_examples", "with": arguments}}
        models = {"e": {"use": "words"}}
        (tmp_path / "r.yaml").write_text(yaml.safe_dump({"version": 1, "models": models, "steps": steps}))
        with Kernel(plugins={"words": Words()}, cache=False) as kernel:
            return [example.input for example in kernel.recipe(tmp_path / "r.yaml").run().output]

    return run


def test_the_nearest_examples_are_taken_and_the_nearest_stands_last(select: Callable[..., list[str]]) -> None:
    chosen = select(query="how many apples are here", examples=POOL, n=2, embedder="e")
    assert chosen == ["how many apples and pears are there", "how many apples are there"]


def test_diversity_prefers_an_example_unlike_those_taken(select: Callable[..., list[str]]) -> None:
    query = "how many apples are here"
    chosen = select(query=query, examples=POOL, n=2, by="diversity", relevance=0.1, embedder="e")
    assert chosen[-1] == "how many apples are there"
    assert "how many apples and pears are there" not in chosen


def test_fixed_takes_the_first_and_the_question_itself_never(select: Callable[..., list[str]]) -> None:
    assert select(query="x", examples=POOL, n=2, by="fixed") == [POOL[0]["input"], POOL[1]["input"]]
    assert select(query="who wrote Faust", examples=[POOL[3], POOL[3], POOL[0]], n=3, by="fixed") == [POOL[0]["input"]]
    assert select(query="x", examples=[], n=3) == []


def test_examples_come_from_a_collection_of_memory(tmp_path: Path) -> None:
    from gristmill import Embedder, model_provider

    class Words:
        @model_provider
        def words(self) -> Embedder:
            """An embedder of words."""
            return FakeEmbedder()

    (tmp_path / "r.yaml").write_text(
        "version: 1\nmodels: {e: {use: words}}\nsteps:\n"
        "  a: {use: memory.remember, with: {collection: shots, embedder: e, text: how many apples are there, "
        "metadata: {output: 3, reasoning: I counted.}}}\n"
        "  b: {use: memory.remember, with: {collection: shots, embedder: e, text: who wrote Faust, "
        "metadata: {output: Goethe}}}\n"
        "  c: {use: reasoning.select_examples, with: {collection: shots, embedder: e, query: how many pears are there,"
        " n: 1}}\n"
        "output: ${c}\n"
    )
    (tmp_path / "bad.yaml").write_text(
        "version: 1\nmodels: {e: {use: words}}\nsteps:\n"
        "  d: {use: memory.remember, with: {collection: bad, embedder: e, text: no example}}\n"
        "  e: {use: reasoning.select_examples, with: {collection: bad, embedder: e, query: x}}\n"
    )
    with Kernel(plugins={"words": Words()}, cache=False) as kernel:
        result = kernel.recipe(tmp_path / "r.yaml").run()
        with pytest.raises(RunError, match="has no `output` in its metadata, so it is no example"):
            kernel.recipe(tmp_path / "bad.yaml").run()
    assert result.output[0].model_dump() == {
        "input": "how many apples are there", "output": "3", "reasoning": "I counted.",
    }  # fmt: skip


def test_a_pool_is_either_a_list_or_a_collection(bench: Bench) -> None:
    message = bench.fails("select_examples", "x", query="y")
    assert "reasoning.select_examples takes either `examples` or `collection`" in message


def test_a_chain_that_was_cut_off_before_its_answer_has_none(bench: Bench) -> None:
    long = {"one": "There are 3 bags and then some more", "two": "The answer is 3. And then some more"}
    chain = bench.run("chain_of_thought", long, question="one?", kind="number", max_tokens=5).output[0]
    assert (chain.found, chain.finish_reason) == (False, "length")
    assert bench.run("chain_of_thought", long, question="two?", kind="number", max_tokens=5).output[0].text == "3"
