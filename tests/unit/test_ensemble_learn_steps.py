"""The learned functions as steps of recipes: who is asked, what is told, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gristmill import FunctionError, Kernel, RunError
from gristmill.testing import FakeEmbedder, FakePlugin, check_plugin
from gristmill_plugins.ensemble import EnsemblePlugin
from gristmill_plugins.ensemble._learn import Policy, decide, entropy_share, give_feedback, read_policy
from gristmill_plugins.ensemble._learned_file import load, save

HEAD = "version: 1\nmodels: {main: {use: fake}}\n"
LEARN = """steps:
  answer:
    use: ensemble.learn
    with:
      policy: policy.json
      prompt: any question
      members:
        good: {prompt: good prompt}
        bad: {prompt: bad prompt}
"""


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    answers = {"good": "right", "bad": "wrong", "": "other"}
    plugins = {"ensemble": EnsemblePlugin(), "fake": FakePlugin(answers)}
    with Kernel(plugins=plugins, memory=tmp_path / "memory", cache=False) as made:
        made.registry._scanned = True  # these plugins and no installed ones
        made.memory._default = FakeEmbedder
        yield made


Run = Callable[..., Any]


@pytest.fixture
def run(kernel: Kernel, tmp_path: Path) -> Run:
    def run(text: str, **inputs: Any) -> Any:
        path = tmp_path / "r.yaml"
        path.write_text(HEAD + text)
        return kernel.recipe(path).run(inputs)

    return run


def failure(run: Run, text: str, **inputs: Any) -> str:
    with pytest.raises(RunError) as caught:
        run(text, **inputs)
    return str(caught.value)


def test_the_plugin_keeps_the_contract() -> None:
    functions = check_plugin("ensemble", EnsemblePlugin()).functions
    assert {"ensemble.learn", "ensemble.feedback", "ensemble.route", "ensemble.assign"} <= set(functions)
    assert functions["ensemble.feedback"].writes


def test_a_learner_asks_one_member_and_tells_what_it_cost(run: Run) -> None:
    answer = run(LEARN).output
    assert answer.text == {"good": "right", "bad": "wrong"}[answer.member]
    assert answer.policy == {"good": 0.5, "bad": 0.5}
    assert list(answer.usage) == [answer.member]
    assert answer.usage[answer.member].calls == 1


def test_the_same_state_and_question_give_the_same_decision(run: Run) -> None:
    assert run(LEARN).output.decision == run(LEARN).output.decision


def test_feedback_in_a_recipe_makes_a_learner_prefer_the_member_it_pays(run: Run, tmp_path: Path) -> None:
    recipe = (
        "inputs: {n: {type: integer}}\n"
        + LEARN
        + "      seed: ${inputs.n}\n"
        + "  told:\n    use: ensemble.feedback\n"
        + "    with:\n      decision: ${answer.decision}\n"
        + '      reward: ${1.0 if answer.text == "right" else 0.0}\n'
    )
    for n in range(40):
        told = run(recipe, n=n).output
    assert told.policy["good"] > 0.8
    assert told.mean_rewards["good"] == 1
    assert told.n == 40
    surely = run(LEARN + "      explore: false\n").output
    assert (surely.member, surely.explored) == ("good", False)
    policy = load(tmp_path / "policy.json", Policy)
    assert policy.n_feedback == len(policy.replay) == 40


def test_exploration_still_asks_the_other_member_now_and_then(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    for n in range(30):
        decision, _ = decide(path, ["a", "b"], seed=n)
        give_feedback(decision, 1.0 if decision.member == "a" else 0.0)
    drawn = [decide(path, ["a", "b"], seed=1000 + n)[0].member for n in range(200)]
    assert 100 < drawn.count("a") < 200
    assert {decide(path, ["a", "b"], seed=n, explore=False)[0].member for n in range(20)} == {"a"}


def test_one_good_answer_does_not_settle_whom_to_ask(tmp_path: Path) -> None:
    decision, _ = decide(tmp_path / "p.json", ["a", "b"], seed=1)
    told = give_feedback(decision, 1.0)
    assert 0.5 < told.policy[decision.member] < 0.75
    shares = [entropy_share(0.4, n, 2) for n in (0, 5, 20, 200)]
    assert shares[0] == 1
    assert shares == sorted(shares, reverse=True)
    assert shares[3] == pytest.approx(0.4, abs=0.01)


def test_reordering_members_changes_no_decision(tmp_path: Path) -> None:
    one = [decide(tmp_path / "p.json", ["a", "b", "c"], seed=n)[0] for n in range(10)]
    other = [decide(tmp_path / "p.json", ["c", "a", "b"], seed=n)[0] for n in range(10)]
    assert one == other


def test_feedback_given_twice_replaces_what_was_said_before(tmp_path: Path) -> None:
    decision, _ = decide(tmp_path / "p.json", ["a", "b"], seed=1)
    give_feedback(decision, 0.0)
    told = give_feedback(decision, 1.0)
    assert (told.n, told.mean_rewards) == (1, {decision.member: 1.0})


def test_a_new_member_joins_with_no_weight_and_an_old_ones_rewards_stay(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    for n in range(20):
        decision, _ = decide(path, ["a", "b"], seed=n)
        give_feedback(decision, 1.0 if decision.member == "a" else 0.0)
    before = read_policy(path)
    decision, shares = decide(path, ["a", "b", "c"], seed=99)
    assert shares["a"] > shares["c"] > 0
    give_feedback(decision, 0.5)
    after = read_policy(path)
    assert before is not None
    assert after is not None
    assert set(after.actor) == {"a", "b", "c"}
    assert after.replay[:20] == before.replay


def test_a_learner_with_a_text_tells_questions_apart(run: Run) -> None:
    asked = run(LEARN + "      text: two plus two\n").output
    assert len(asked.decision.features) == 64
    assert asked.decision.embedder == "fake-embedder"
    give_feedback(asked.decision, 1.0)
    assert "learned on embeddings of 'fake-embedder', these are None" in failure(run, LEARN)


def test_a_reward_outside_its_range_is_refused(tmp_path: Path) -> None:
    decision, _ = decide(tmp_path / "p.json", ["a", "b"])
    for reward in (1.5, float("nan")):
        with pytest.raises(FunctionError, match="a reward is from -1 to 1, this is"):
            give_feedback(decision, reward)
    assert not (tmp_path / "p.json").exists()


def test_a_policy_that_was_edited_is_refused(run: Run, tmp_path: Path) -> None:
    decision, _ = decide(tmp_path / "policy.json", ["good", "bad"])
    give_feedback(decision, 1.0)
    record = json.loads((tmp_path / "policy.json").read_text())
    record["content"]["log_temperature"] = 3.0
    (tmp_path / "policy.json").write_text(json.dumps(record))
    told = failure(run, LEARN)
    assert "was changed after it was written: its digest does not match" in told
    assert "put a copy back, or delete it to learn anew" in told


def test_a_policy_whose_weights_do_not_fit_its_members_is_refused(tmp_path: Path) -> None:
    decision, _ = decide(tmp_path / "p.json", ["a", "b"])
    give_feedback(decision, 1.0)
    policy = load(tmp_path / "p.json", Policy)
    save(tmp_path / "p.json", policy.model_copy(update={"n_features": 3}))
    with pytest.raises(FunctionError, match="each member has 4 weights"):
        read_policy(tmp_path / "p.json")


def test_feedback_reaches_no_file_outside_the_recipes_folder(run: Run) -> None:
    decision, _ = decide(Path("/etc/policy.json"), ["a", "b"])
    text = (
        "inputs: {d: {type: any}}\nsteps:\n  told:\n    use: ensemble.feedback\n"
        "    with: {decision: '${inputs.d}', reward: 1.0}\n"
    )
    assert "is outside what this recipe may read" in failure(run, text, d=decision.model_dump())


PAY = """
import sys
from pathlib import Path
from gristmill_plugins.ensemble._learn import decide, give_feedback

for n in range(int(sys.argv[2]), int(sys.argv[2]) + 5):
    give_feedback(decide(Path(sys.argv[1]), ["a", "b"], seed=n)[0], 0.5)
"""


def test_processes_that_give_feedback_together_lose_none(tmp_path: Path) -> None:
    path = str(tmp_path / "p.json")
    workers = [subprocess.Popen([sys.executable, "-c", PAY, path, str(100 * n)]) for n in range(3)]
    assert [worker.wait(120) for worker in workers] == [0, 0, 0]
    policy = read_policy(tmp_path / "p.json")
    assert policy is not None
    assert policy.n_feedback == 15
