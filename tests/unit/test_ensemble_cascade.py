"""Cascades, routes and stacks as steps of recipes: who is asked, what comes back, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gristmill import Kernel, Model, RunError, ScoreRequest, Scores, model_provider
from gristmill.testing import FakeEmbedder, FakeModel, FakePlugin
from gristmill_plugins.ensemble import EnsemblePlugin
from gristmill_plugins.ensemble._cascade import FittedCascade
from gristmill_plugins.ensemble._cascade_fit import Answered, fit_cascade
from gristmill_plugins.ensemble._gate_fit import GateRow, fit_gate
from gristmill_plugins.ensemble._learned_file import load, save

HEAD = "version: 1\nmodels: {main: {use: sure}}\n"


class Sure(FakeModel):
    """As sure of the first choice as the prompt says: "0.7" is a probability of 0.7."""

    async def score(self, request: ScoreRequest) -> Scores:
        import math

        self.requests.append(request)
        found = re.findall(r"\d\.\d+", request.messages[-1].content)
        share = float(found[-1]) if found else 0.5
        rest = (1 - share) / (len(request.choices) - 1)
        shares = [share, *[rest] * (len(request.choices) - 1)]
        return Scores(logprobs=tuple(math.log(value) for value in shares), prompt_tokens=10)


class SurePlugin:
    """Makes a model whose sureness the prompt says."""

    def __init__(self) -> None:
        self.model = Sure(name="sure")

    @model_provider(name="sure")
    def sure(self) -> Model:
        """A model whose sureness the prompt says."""
        return self.model


@pytest.fixture
def plugin() -> SurePlugin:
    return SurePlugin()


@pytest.fixture
def kernel(tmp_path: Path, plugin: SurePlugin) -> Iterator[Kernel]:
    texts: dict[str, Any] = {
        "three": lambda _, index: ["yes", "No.", "Yes"][index % 3],
        "thousand": lambda _, index: ["So it is 1,000.", "The answer is 1000", "Perhaps 7?", "who knows"][index % 4],
        "": "plain text",
    }
    plugins = {"ensemble": EnsemblePlugin(), "sure": plugin, "fake": FakePlugin(texts)}
    with Kernel(plugins=plugins, memory=tmp_path / "memory", cache=False) as made:
        made.registry._scanned = True  # these plugins and no installed ones
        made.memory._default = FakeEmbedder
        yield made


Run = Callable[..., Any]


@pytest.fixture
def run(kernel: Kernel, tmp_path: Path) -> Run:
    def run(text: str, head: str = HEAD, **inputs: Any) -> Any:
        path = tmp_path / "r.yaml"
        path.write_text(head + text)
        return kernel.recipe(path).run(inputs).output

    return run


def failure(run: Run, text: str, head: str = HEAD) -> str:
    with pytest.raises(RunError) as caught:
        run(text, head)
    return str(caught.value)


def cascade(members: str, more: str = "") -> str:
    return (
        "steps:\n  answer:\n    use: ensemble.cascade\n    with:\n"
        f"      choices: [yes, no]\n      members: {members}\n{more}"
    )


def test_a_sure_member_ends_the_cascade_and_the_next_costs_nothing(run: Run, plugin: SurePlugin) -> None:
    answer = run(cascade("{cheap: {prompt: '0.9'}, dear: {prompt: '0.6'}}"))
    assert (answer.member, answer.asked) == ("cheap", 1)
    assert answer.confidence == pytest.approx(0.9)
    assert len(plugin.model.requests) == 1
    assert list(answer.usage) == ["cheap"]
    assert answer.usage["cheap"].prompt_tokens == 10


def test_an_unsure_member_hands_on_and_the_last_one_is_always_taken(run: Run) -> None:
    answer = run(cascade("{cheap: {prompt: '0.6'}, dear: {prompt: '0.55'}}"))
    assert (answer.member, answer.asked) == ("dear", 2)
    assert [stage.confidence for stage in answer.stages] == pytest.approx([0.6, 0.55])
    assert [stage.threshold for stage in answer.stages] == [0.8, None]


def test_each_member_may_have_a_threshold_of_its_own(run: Run) -> None:
    members = "{a: {prompt: '0.6'}, b: {prompt: '0.7'}, c: {prompt: '0.9'}}"
    assert run(cascade(members, "      threshold: [0.65, 0.65]\n")).member == "b"
    assert run(cascade(members, "      threshold: [0.5, 0.65]\n")).member == "a"
    told = failure(run, cascade(members, "      threshold: [0.5]\n"))
    assert "3 members need 2 thresholds, these are 1" in told


def test_asking_all_changes_no_answer(run: Run) -> None:
    members = "{cheap: {prompt: '0.9'}, dear: {prompt: '0.6'}}"
    everybody = run(cascade(members, "      ask_all: true\n"))
    assert (everybody.member, everybody.asked) == ("cheap", 2)
    assert everybody.text == run(cascade(members)).text


def test_samples_that_agree_are_sure_and_those_that_do_not_are_not(run: Run) -> None:
    text = (
        "steps:\n  answer:\n    use: ensemble.cascade\n    with:\n      samples: 3\n      temperature: 0.7\n"
        "      threshold: 0.9\n      members: {three: {prompt: three}, plain: {prompt: plain}}\n"
    )
    answer = run(text, "version: 1\nmodels: {main: {use: fake}}\n")
    assert answer.stages[0].text == "yes"
    assert answer.stages[0].confidence == pytest.approx(2 / 3)
    assert (answer.text, answer.confidence) == ("plain text", 1.0)


def test_samples_agree_by_the_number_in_them_and_a_text_without_one_agrees_with_nobody(run: Run) -> None:
    text = (
        "steps:\n  answer:\n    use: ensemble.cascade\n    with:\n      samples: 4\n      temperature: 0.7\n"
        "      threshold: 0.5\n      normalize: number\n      members: {a: {prompt: thousand}, b: {prompt: plain}}\n"
    )
    answer = run(text, "version: 1\nmodels: {main: {use: fake}}\n")
    assert (answer.text, answer.confidence, answer.member) == ("1000", 0.5, "a")
    nothing = run(text.replace("prompt: thousand", "prompt: plain"), "version: 1\nmodels: {main: {use: fake}}\n")
    assert [stage.confidence for stage in nothing.stages] == [0.0, 0.0]


def test_an_answer_that_says_nothing_about_its_confidence_is_refused_with_the_way_out(run: Run) -> None:
    text = (
        "steps:\n  answer:\n    use: ensemble.cascade\n    with:\n"
        "      members: {one: {prompt: plain}, two: {prompt: plain}}\n"
    )
    told = failure(run, text, "version: 1\nmodels: {main: {use: fake}}\n")
    assert "member 'one' does not say how sure it is" in told
    assert "give `choices`, or `samples: 5` with a temperature" in told


def test_a_member_may_be_a_recipe_and_a_vote_in_it_says_how_sure_it_is(run: Run, tmp_path: Path) -> None:
    head = "version: 1\nmodels: {main: {use: fake}}\n"
    (tmp_path / "poll.yaml").write_text(
        head + "steps:\n  said: {prompt: three, samples: 3, temperature: 0.7}\n"
        "  vote:\n    use: ensemble.vote\n    with: {candidates: '${said}'}\n"
    )
    text = (
        "steps:\n  answer:\n    use: ensemble.cascade\n    with:\n      threshold: 0.6\n"
        "      members: {poll: {recipe: ./poll.yaml}, other: {prompt: plain}}\n"
    )
    answer = run(text, head)
    assert (answer.member, answer.text.lower()) == ("poll", "yes")
    assert answer.confidence == pytest.approx(2 / 3)
    assert answer.usage["poll"].completion_tokens > 0
    unsure = run(text.replace("0.6", "0.7"), head)
    assert (unsure.member, unsure.text, unsure.asked) == ("other", "plain text", 2)


def test_a_spent_budget_ends_a_cascade_between_its_members(run: Run) -> None:
    text = cascade("{cheap: {prompt: '0.6'}, dear: {prompt: '0.55'}}")
    assert "the budget of 1 calls is spent" in failure(run, "budget: {calls: 1}\n" + text)


def test_a_cascade_of_one_is_refused(run: Run) -> None:
    assert "two members or more, this has 1" in failure(run, cascade("{a: {prompt: '0.6'}}"))


def fitted_cascade(members: tuple[str, str]) -> FittedCascade:
    """The first member is right when it is at least 0.7 sure, the second always."""
    first, second = members
    rows = [{first: Answered(k >= 20, 0.5 + k / 100, 1.0), second: Answered(True, 0.6, 5.0)} for k in range(50)]
    return fit_cascade(rows, members)


def test_a_fitted_cascade_looks_at_calibrated_confidence(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="fitting needs the extra gristmill[ensemble]")
    save(tmp_path / "fitted.json", fitted_cascade(("cheap", "dear")))
    more = "      fitted: fitted.json\n"
    sure = run(cascade("{cheap: {prompt: '0.95'}, dear: {prompt: '0.6'}}", more))
    unsure = run(cascade("{cheap: {prompt: '0.55'}, dear: {prompt: '0.6'}}", more))
    assert (sure.member, unsure.member) == ("cheap", "dear")
    assert sure.stages[0].calibrated > 0.9
    assert unsure.stages[0].calibrated < 0.3
    told = failure(run, cascade("{dear: {prompt: '0.95'}, cheap: {prompt: '0.6'}}", more))
    assert "was fitted on cheap then dear, and not on dear then cheap" in told


ROUTE = """steps:
  answer:
    use: ensemble.route
    with:
      text: the sum of two and two
      choices: [yes, no]
      examples: {maths: [the sum of three and four], words: [a synonym of big]}
      members: {maths: {prompt: '0.9'}, words: {prompt: '0.2'}}
"""


def test_a_question_goes_to_the_member_whose_examples_are_likest(run: Run, plugin: SurePlugin) -> None:
    answer = run(ROUTE)
    assert answer.members == {"maths": 1.0}
    assert answer.text == "yes"
    assert answer.probabilities == pytest.approx({"yes": 0.9, "no": 0.1})
    assert answer.scores["maths"] > answer.scores["words"]
    assert len(plugin.model.requests) == 1


def test_the_best_two_are_weighed_by_how_well_they_suit(run: Run) -> None:
    answer = run(ROUTE + "      top_k: 2\n")
    share = answer.members["maths"]
    assert share > 0.9
    assert answer.probabilities["yes"] == pytest.approx(0.9 * share + 0.2 * (1 - share))
    assert set(answer.usage) == {"maths", "words"}


def test_asking_all_shows_every_answer_and_what_the_gate_saw(run: Run) -> None:
    answer = run(ROUTE + "      ask_all: true\n")
    assert answer.members == {"maths": 1.0}
    assert {name: one.text for name, one in answer.answers.items()} == {"maths": "yes", "words": "no"}
    assert len(answer.embedding) == 64
    assert answer.embedder == "fake-embedder"


def test_many_questions_are_assigned_together_and_then_asked(run: Run, plugin: SurePlugin) -> None:
    answers = run(
        "steps:\n"
        "  who:\n    use: ensemble.assign\n    with:\n"
        "      texts: [the sum of one, the sum of two, the sum of six, the sum of ten]\n"
        "      examples: {maths: [the sum of three and four], words: [a synonym of big]}\n      capacity: 1.0\n"
        "  answers:\n    for_each: ${who}\n    use: ensemble.route\n    with:\n"
        "      assignment: ${item}\n      choices: [yes, no]\n"
        "      members: {maths: {prompt: '0.9'}, words: {prompt: '0.2'}}\n"
    )
    assert sorted(next(iter(answer.members)) for answer in answers) == ["maths", "maths", "words", "words"]
    assert len(plugin.model.requests) == 4


def test_texts_that_differ_are_weighed_as_votes(run: Run) -> None:
    text = (
        "steps:\n  answer:\n    use: ensemble.route\n    with:\n      prompt: about sums\n      top_k: 2\n"
        "      examples: {one: [about sums], two: [something else]}\n"
        "      members: {one: {}, two: {prompt: three}}\n"
    )
    answer = run(text, "version: 1\nmodels: {main: {use: fake}}\n")
    assert answer.text == "plain text"
    assert set(answer.probabilities) == {"plain text", "yes"}
    assert sum(answer.probabilities.values()) == pytest.approx(1)


def test_a_fitted_gate_decides_and_refuses_another_embedder(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="fitting needs the extra gristmill[ensemble]")
    texts = ["the sum of two numbers", "a synonym of a word"] * 15
    vectors = FakeEmbedder().vectors(texts).tolist()
    rows = [GateRow(tuple(v), {"maths": n % 2 == 0, "words": n % 2 == 1}) for n, v in enumerate(vectors)]
    save(tmp_path / "gate.json", fit_gate(rows, embedder="fake-embedder"))
    fitted = re.sub(r"examples: .*", "fitted: gate.json", ROUTE)
    assert run(fitted).members == {"maths": 1.0}
    save(tmp_path / "gate.json", fit_gate(rows, embedder="another"))
    assert "fitted on embeddings of 'another', these are 'fake-embedder'" in failure(run, fitted)


def test_a_gate_without_anything_to_go_by_is_refused(run: Run) -> None:
    told = failure(run, re.sub(r"      examples: .*\n", "", ROUTE))
    assert "a gate needs examples of every member, or a fitted file" in told
    both = failure(run, ROUTE + "      fitted: gate.json\n")
    assert "give one of `examples` and `fitted`" in both
    odd = failure(run, ROUTE.replace("words: {prompt", "others: {prompt"))
    assert "the gate knows maths, words, and the members are maths, others" in odd
    decided = failure(run, ROUTE + "      assignment: {members: {maths: 1.0}, scores: {maths: 1.0, words: 0.0}}\n")
    assert "an assignment is already decided: leave out `examples` and `fitted`" in decided
    nothing = failure(run, ROUTE.replace("      text: the sum of two and two\n", ""))
    assert "the gate has nothing to look at" in nothing


STACK = """steps:
  a: {prompt: '0.9', choices: [yes, no]}
  b: {prompt: '0.2', choices: [yes, no]}
  answer:
    use: ensemble.stack
    with:
      candidates: {a: '${a}', b: '${b}'}
"""


def test_a_stack_takes_the_choices_of_other_steps(run: Run) -> None:
    answer = run(STACK)
    assert (answer.text, answer.fitted) == ("yes", False)
    assert {name: one.text for name, one in answer.answers.items()} == {"a": "yes", "b": "no"}


@pytest.fixture
def bound(run: Run, tmp_path: Path) -> Path:
    """A stack of the members a and b that was fitted on the fake model."""
    pytest.importorskip("sklearn", reason="fitting needs the extra gristmill[ensemble]")
    from gristmill import Candidate
    from gristmill_plugins.ensemble._stack_fit import LabelledRow, fit_stack

    models = run(STACK).models
    even = {"yes": 0.6, "no": 0.4}
    rows = [
        LabelledRow({name: Candidate(text="yes", probabilities=even) for name in "ab"}, ["yes", "no"][n % 2])
        for n in range(20)
    ]
    save(tmp_path / "stack.json", fit_stack(rows, models=models))
    return tmp_path / "stack.json"


FITTED = STACK + "      fitted: stack.json\n"


def test_a_stack_is_bound_to_the_model_that_answered_when_it_was_fitted(run: Run, bound: Path) -> None:
    from gristmill_plugins.ensemble._stack import FittedStack

    kept = load(bound, FittedStack)
    assert sorted(kept.models) == ["a", "b"]
    assert run(FITTED).fitted
    save(bound, kept.model_copy(update={"models": {**kept.models, "b": "0" * 64}}))
    told = failure(run, FITTED)
    assert f"the stack was fitted on other models: 'b' was 000000000000, and is {kept.models['b'][:12]}" in told
    assert "gristmill ensemble fit RECIPE STEP" in told


TWO = "version: 1\nmodels: {main: {use: sure}, other: {use: fake}}\n"


@pytest.mark.usefixtures("bound")
def test_of_several_models_the_step_says_which_answered(run: Run) -> None:
    text = FITTED.replace("choices", "model: main, choices")
    told = failure(run, text, TWO)
    assert "fitted on the models of 'a', 'b', and this step does not say which these are" in told
    assert "write `models: {a: NAME}` beside `candidates`, or `model: NAME` for all" in told
    assert run(text + "    model: main\n", TWO).fitted
    swapped = failure(run, text + "      models: {b: other}\n    model: main\n", TWO)
    assert "the stack was fitted on other models: 'b' was" in swapped
    assert "models: no member is called 'c'" in failure(run, text + "      models: {c: other}\n", TWO)


def test_a_stack_fitted_without_a_text_is_refused_with_one(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="fitting needs the extra gristmill[ensemble]")
    from gristmill import Candidate
    from gristmill_plugins.ensemble._stack_fit import LabelledRow, fit_stack

    def row(n: int) -> LabelledRow:
        right = ["yes", "no"][n % 2]
        liar = {"yes": 0.2, "no": 0.8} if right == "yes" else {"yes": 0.8, "no": 0.2}
        even = {"yes": 0.6, "no": 0.4}
        return LabelledRow(
            {"a": Candidate(text="yes", probabilities=even), "b": Candidate(text="x", probabilities=liar)}, right
        )

    save(tmp_path / "stack.json", fit_stack([row(n) for n in range(20)]))
    answer = run(STACK + "      fitted: stack.json\n")
    assert (answer.text, answer.fitted) == ("yes", True)  # b says no, and is known to be wrong
    assert answer.confidence > 0.6
    told = failure(run, STACK + "      fitted: stack.json\n      text: some words\n")
    assert "was fitted on embeddings of None, these are 'fake-embedder'" in told
