"""The techniques of `techniques.py` that are one step of the `reasoning` and `ensemble` plugins, as recipes.

They follow those of `_technique_recipes`, are measured on the same rows, and keep what they write short, so that a
question has a bounded price. Invariant: nothing here knows an answer but those of the rows that examples and fits come
from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from _technique_recipes import (
    CHOICE_KINDS,
    SHOTS,
    Recipe,
    Technique,
    asking,
    choosing,
    literal,
    recipe,
    shots,
)
from _technique_tasks import Row, Task

REASONED = ("options", "number")
CHAIN_TOKENS = 120
SAMPLES = 5
WORKED = (
    ("A box has 5 rows of 8 eggs. 12 eggs break. How many are left?",
     "The box has 5 * 8 = 40 eggs. 12 break, so 40 - 12 = 28 are left.", "28"),
    ("Ann has 17 books and buys 25 more. How many books does she have?", "She has 17 + 25 = 42 books.", "42"),
    ("Tom reads 9 pages a day. How many days do 63 pages take him?", "They take him 63 / 9 = 7 days.", "7"),
    ("A rope of 30 metres is cut. One piece has 12 metres. How long is the other?",
     "The other has 30 - 12 = 18 metres.", "18"),
)  # fmt: skip
"""For sums whose data have no worked solutions."""
SENTENCES = {
    "sentence_polarity": "This review is {}.",
    "sms_spam": "This message is {}.",
    "boolq": "The answer is {}.",
}
"""How the model answers the plain prompts when it writes freely."""
CALCULATIONS = (
    ("A box holds 12 eggs. How many eggs do 15 boxes hold?", "15 * 12", "180"),
    ("Tom had 950 dollars and spent 275. How much is left?", "950 - 275", "675"),
    ("Ann has 48 sweets for 6 children. How many does each get?", "48 / 6", "8"),
    ("5 bags of 8 apples and 7 single apples: how many apples?", "5 * 8 + 7", "47"),
)


def thought(task: Task, **more: Any) -> dict[str, Any]:
    """Return the arguments of a step that reasons about a row: the question, its options, the kind of answer."""
    given: dict[str, Any] = {"question": "${inputs.question}", **more}
    if task.kind == "number":
        return {**given, "kind": "number"}
    return {**given, "options": "${inputs.choices}", "kind": "letter"}


def one(use: str, arguments: Mapping[str, Any], output: str = "${answer.text}") -> Recipe:
    return recipe({"answer": {"use": use, "model": "main", "with": dict(arguments)}}, output)


def chain(task: Task, _: Sequence[Row]) -> Recipe:
    arguments = thought(task, finish="ask", max_tokens=CHAIN_TOKENS)
    return one("reasoning.chain_of_thought", arguments, "${answer[0].text}")


def worked(pool: Sequence[Row]) -> list[dict[str, str]]:
    """Return worked examples: of the data where they have any, otherwise four of our own."""
    found = [(row.inputs["question"], row.rationale, row.answer) for row in pool if row.rationale][:SHOTS]
    return [
        {"input": literal(question), "reasoning": literal(reasoning), "output": literal(answer)}
        for question, reasoning, answer in found or WORKED
    ]


def chain_few_shot(task: Task, pool: Sequence[Row]) -> Recipe:
    arguments = thought(task, examples=worked(pool), step_by_step=False, max_tokens=CHAIN_TOKENS)
    return one("reasoning.chain_of_thought", arguments, "${answer[0].text}")


def chains_vote(task: Task, pool: Sequence[Row]) -> Recipe:
    """Wang et al. 2022, after examples where the answer is a number, zero-shot where it is an option."""
    number = task.kind == "number"
    how = {"examples": worked(pool), "step_by_step": False} if number else {"finish": "ask"}
    arguments = thought(task, **how, samples=SAMPLES, temperature=0.7, max_tokens=CHAIN_TOKENS)
    chains = {"use": "reasoning.chain_of_thought", "model": "main", "with": arguments}
    vote = {"candidates": "${chains}", "normalize": "number" if number else "letter"}
    return recipe({"chains": chains, "answer": {"use": "ensemble.vote", "with": vote}}, "${answer.winner}")


def plan(task: Task, _: Sequence[Row]) -> Recipe:
    return one("reasoning.plan_and_solve", thought(task, max_tokens=CHAIN_TOKENS), "${answer[0].text}")


def least_to_most(_: Task, __: Sequence[Row]) -> Recipe:
    arguments = {"question": "${inputs.question}", "kind": "number", "max_parts": 3, "max_tokens": 60}
    return one("reasoning.least_to_most", arguments)


def refine(task: Task, _: Sequence[Row]) -> Recipe:
    return one("reasoning.self_refine", {"task": task.prompts[0], "max": 1, "max_tokens": 32})


def reflect(task: Task, _: Sequence[Row]) -> Recipe:
    kind = "number" if task.kind == "number" else "auto"
    return one("reasoning.reflect", {"question": task.prompts[0], "kind": kind, "trials": 2, "max_tokens": 80})


def tree(task: Task, _: Sequence[Row]) -> Recipe:
    """A small tree: two thoughts a state, two states kept, two levels."""
    small = {"breadth": 2, "depth": 2, "branches": 2, "max_tokens": 40, "answer_tokens": 40}
    return one("reasoning.tree_of_thought", thought(task, **small))


def react(_: Task, __: Sequence[Row]) -> Recipe:
    """An agent that must use a calculator once, after four examples."""
    number = "[0-9]{1,6}([.][0-9]{1,2})?"
    calculator = {
        "use": "reasoning.calculate",
        "as": "calculator",
        "schema": {"expression": {"type": "string", "pattern": f"{number}( [-+*/] {number}){{1,3}}"}},
    }
    examples = [
        {
            "question": question,
            "turns": [{"tool": "calculator", "arguments": {"expression": sum_}, "result": result}],
            "answer": result,
        }
        for question, sum_, result in CALCULATIONS
    ]
    arguments = {
        "question": "${inputs.question}", "tools": [calculator], "examples": examples, "thoughts": False,
        "required": ["calculator"], "max_turns": 2, "answer_length": 24,
    }  # fmt: skip
    return one("reasoning.react", arguments)


def unseen(task: Task, _: Sequence[Row]) -> Recipe:
    """The options are scored as answers, and not shown."""
    return recipe({"answer": choosing(task, task.prompts[2])})


def unseen_calibrated(task: Task, _: Sequence[Row]) -> Recipe:
    """And divided by how likely each is as an answer to nothing (Brown et al. 2020, section 2.4)."""
    return recipe({"answer": choosing(task, task.prompts[2], calibrate=True)})


def in_a_sentence(task: Task, pool: Sequence[Row], **more: Any) -> Recipe:
    """The labels are scored as the model would say them, not as bare words."""
    labels = sorted({row.answer for row in pool})
    sentences = [SENTENCES[task.name].format(label) for label in labels]
    return recipe({"answer": asking(task, choices=sentences, **more)})


def in_a_sentence_calibrated(task: Task, pool: Sequence[Row]) -> Recipe:
    return in_a_sentence(task, pool, calibrate=True)


def nearest(task: Task, pool: Sequence[Row]) -> Recipe:
    """Of the pool's rows those that are likest to the question are shown (Liu et al. 2022)."""
    known = [{"input": literal(row.inputs["question"]), "output": row.answer} for row in pool]
    select = {"query": "${inputs.question}", "examples": known, "n": SHOTS}
    shown = [
        {
            "input": task.prompts[0].replace("${inputs.question}", f"${{near[{n}].input}}"),
            "output": f"${{near[{n}].output}}",
        }
        for n in range(SHOTS)
    ]
    near = {"use": "reasoning.select_examples", "with": select}
    return recipe({"near": near, "answer": choosing(task, examples=shown)})


def members(task: Task, pool: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Return three ways to answer in words: the plain prompt, after examples, and another prompt."""
    asked = {"prompt": task.prompts[0]}
    return {"plain": asked, "shots": {**asked, "examples": shots(task, pool)}, "other": {"prompt": task.prompts[1]}}


def drafting(task: Task, pool: Sequence[Row], *names: str) -> dict[str, Any]:
    """Return a step that lets members draft answers."""
    every = members(task, pool)
    arguments = {
        "members": {name: every[name] for name in names or every},
        "system": task.system,
        "max_tokens": 80 if task.kind == "number" else 24,
    }
    return {"use": "ensemble.ask", "model": "main", "with": arguments}


def reading(use: str, candidates: str, **more: Any) -> dict[str, Any]:
    """Return a step in which the model reads drafts."""
    arguments = {"candidates": candidates, "question": "${inputs.question}", **more}
    return {"use": use, "model": "main", "with": arguments}


def judge(task: Task, pool: Sequence[Row]) -> Recipe:
    steps = {
        "drafts": drafting(task, pool, "plain", "shots"),
        "answer": reading("ensemble.judge", "${drafts.candidates}"),
    }
    return recipe(steps)


def rank(task: Task, pool: Sequence[Row]) -> Recipe:
    steps = {"drafts": drafting(task, pool), "answer": reading("ensemble.rank", "${drafts.candidates}")}
    return recipe(steps, "${answer.candidates[0].text}")


def fuse(task: Task, pool: Sequence[Row]) -> Recipe:
    steps = {
        "drafts": drafting(task, pool),
        "answer": reading("ensemble.fuse", "${drafts.candidates}", max_tokens=40),
    }
    return recipe(steps)


def prompts_together(task: Task, use: str) -> Recipe:
    asked = {f"prompt_{n}": {"prompt": prompt} for n, prompt in enumerate(task.prompts, start=1)}
    return one(use, {"members": asked, "system": task.system, "max_tokens": 24})


def average(task: Task, _: Sequence[Row]) -> Recipe:
    return prompts_together(task, "ensemble.average")


def vote_tokens(task: Task, _: Sequence[Row]) -> Recipe:
    return prompts_together(task, "ensemble.vote_tokens")


def route(task: Task, _: Sequence[Row]) -> Recipe:
    """One of five prompts for each question, by a gate that was fitted on the pool."""
    asked = {f"prompt_{n}": {"prompt": prompt} for n, prompt in enumerate(task.prompts, start=1)}
    arguments = {
        "members": asked, "system": task.system, "choices": "${inputs.choices}", "text": "${inputs.question}",
        "fitted": "fitted.json",
    }  # fmt: skip
    return one("ensemble.route", arguments)


def cascade_words(task: Task, pool: Sequence[Row]) -> Recipe:
    """Three samples of the plain prompt; where they disagree, worked examples are asked."""
    every = {
        "plain": {**asking(task), "max_tokens": 24},
        "worked": {
            **asking(task, task.prompts[1], examples=shots(task, pool, worked=True)),
            "max_tokens": CHAIN_TOKENS,
        },
    }
    arguments = {
        "members": every, "samples": 3, "temperature": 0.7, "normalize": "number", "threshold": 1.0
    }  # fmt: skip
    return one("ensemble.cascade", arguments)


STEP_TECHNIQUES = (
    Technique("choices, options not shown", unseen, ("options",)),
    Technique("choices, options not shown, calibrated", unseen_calibrated, ("options",)),
    Technique("choices in a sentence", in_a_sentence, ("label",)),
    Technique("choices in a sentence, calibrated", in_a_sentence_calibrated, ("label",)),
    Technique("nearest examples", nearest, ("label",)),
    Technique("route", route, CHOICE_KINDS, fit="answer"),
    Technique("react with a calculator", react, ("number",), generative=True),
    Technique("chain_of_thought", chain, REASONED, generative=True),
    Technique("chain_of_thought, few-shot", chain_few_shot, ("number",), generative=True),
    Technique("chain_of_thought, 5 samples, vote", chains_vote, REASONED, generative=True),
    Technique("plan_and_solve", plan, REASONED, generative=True),
    Technique("average", average, ("label", "options", "number"), generative=True),
    Technique("vote_tokens", vote_tokens, ("label", "options", "number"), generative=True),
    Technique("judge", judge, REASONED, generative=True),
    Technique("rank", rank, REASONED, generative=True),
    Technique("fuse", fuse, REASONED, generative=True),
    Technique("self_refine", refine, REASONED, generative=True),
    Technique("tree_of_thought", tree, REASONED, generative=True),
    Technique("least_to_most", least_to_most, ("number",), generative=True),
    Technique("reflect", reflect, REASONED, generative=True),
    Technique("cascade of samples", cascade_words, ("number",), generative=True),
)
"""The cheap first, so that a stopped run has measured them."""
