"""The techniques of `techniques.py`, each as the recipe that a user would write for a task.

A recipe takes `question` and `choices` and gives a text. Invariant: nothing here knows an answer but those of the rows
that examples and fits come from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from _technique_tasks import Row, Task

Recipe = dict[str, Any]
SHOTS = 4
THINK = "Let's think step by step."  # Kojima et al. 2022
THEREFORE = "Therefore, the answer is"
CHOICE_KINDS = ("label", "options")
ALL_KINDS = ("label", "options", "number")


@dataclass(frozen=True, slots=True)
class Technique:
    """How to answer. `build` makes the recipe from a task and its pool."""

    name: str
    build: Callable[[Task, Sequence[Row]], Recipe]
    kinds: tuple[str, ...]
    generative: bool = False
    """It writes text, which takes long: fewer rows are asked."""
    fit: str | None = None
    """The step that is fitted on the pool first."""
    fit_options: tuple[str, ...] = ()


def recipe(steps: Mapping[str, Any], output: str = "${answer.text}") -> Recipe:
    return {
        "version": 1,
        "inputs": {"question": {"type": "string"}, "choices": {"type": ["string"], "default": []}},
        "models": {"main": {"use": "llama", "model": "smollm2", "context_tokens": 4096}},
        "steps": dict(steps),
        "output": output,
    }


def asking(task: Task, prompt: str | None = None, **more: Any) -> dict[str, Any]:
    """Return a step that asks with the task's system message and, by default, its plain prompt."""
    return {"system": task.system, "prompt": prompt or task.prompts[0], **more}


def written(prompt: str, row: Row) -> str:
    """Return a prompt with a row's question and choices in it, for examples."""
    listed = "".join(f"{n}. {choice}\n" for n, choice in enumerate(row.inputs["choices"], start=1))
    text = prompt.replace("${inputs.question}", row.inputs["question"])
    text = text.replace("${inputs.choices | join('; ')}", "; ".join(row.inputs["choices"]))
    head, loop, tail = text.partition("{% for")
    return head + listed + tail.partition("{% endfor %}")[2].lstrip("\n") if loop else text


def literal(text: str) -> str:
    """Return a text of data that no expression of the recipe language is read in."""
    return text.replace("${", "$${").replace("{%", "{ %")


def shots(task: Task, pool: Sequence[Row], *, worked: bool = False) -> list[dict[str, str]]:
    """Return examples, as evenly over the labels as can be; `worked` ones show how the answer is come by."""
    chosen: list[Row] = []
    labels = sorted({row.answer for row in pool}) if task.kind == "label" else [""]
    for n in range(SHOTS):
        label = labels[n % len(labels)]
        chosen.append(next(r for r in pool if r not in chosen and (not label or r.answer == label)))
    prompt = task.prompts[1] if worked else task.prompts[0]
    return [
        {
            "input": literal(written(prompt, row)),
            "output": literal(f"{row.rationale}\nThe answer is {row.answer}." if worked else row.answer),
        }
        for row in chosen
    ]


def choosing(task: Task, prompt: str | None = None, **more: Any) -> dict[str, Any]:
    return asking(task, prompt, choices="${inputs.choices}", **more)


def plain(task: Task, _: Sequence[Row]) -> Recipe:
    return recipe({"answer": asking(task, max_tokens=24)})


def choices(task: Task, _: Sequence[Row]) -> Recipe:
    return recipe({"answer": choosing(task)})


def calibrated(task: Task, _: Sequence[Row]) -> Recipe:
    return recipe({"answer": choosing(task, calibrate=True)})


def few_shot(task: Task, pool: Sequence[Row]) -> Recipe:
    if task.kind == "number":
        return recipe({"answer": asking(task, examples=shots(task, pool), max_tokens=24)})
    return recipe({"answer": choosing(task, examples=shots(task, pool))})


def few_shot_calibrated(task: Task, pool: Sequence[Row]) -> Recipe:
    return recipe({"answer": choosing(task, examples=shots(task, pool), calibrate=True)})


def step_by_step(task: Task, _: Sequence[Row]) -> Recipe:
    """Zero-shot chain of thought: reason first, then take the answer out of it."""
    asked = f"{task.prompts[0].rpartition(chr(10))[0] or task.prompts[0]}\n{THINK}"
    thought = asking(task, asked, max_tokens=160)
    turns = [
        {"role": "system", "content": task.system},
        {"role": "user", "content": asked},
        {"role": "assistant", "content": "${thought.text}"},
        {"role": "user", "content": THEREFORE},
    ]
    ending = {"max_tokens": 16} if task.kind == "number" else {"choices": "${inputs.choices}"}
    return recipe({"thought": thought, "answer": {"messages": turns, **ending}})


def worked_examples(task: Task, pool: Sequence[Row]) -> Recipe:
    """Few-shot chain of thought (Wei et al. 2022): the examples show their working."""
    return recipe({"answer": asking(task, task.prompts[1], examples=shots(task, pool, worked=True), max_tokens=160)})


def self_consistency(task: Task, pool: Sequence[Row]) -> Recipe:
    """Wang et al. 2022: five chains of thought, drawn, vote on the number."""
    chains = asking(task, task.prompts[1], max_tokens=160, samples=5, temperature=0.7)
    if any(row.rationale for row in pool):
        chains["examples"] = shots(task, pool, worked=True)
    vote = {"use": "ensemble.vote", "with": {"candidates": "${chains}", "normalize": "number"}}
    return recipe({"chains": chains, "answer": vote}, "${answer.winner}")


def _members(task: Task) -> dict[str, dict[str, str]]:
    return {f"prompt_{n}": {"prompt": prompt} for n, prompt in enumerate(task.prompts, start=1)}


def vote(task: Task, _: Sequence[Row]) -> Recipe:
    """Five prompts, one vote each."""
    steps = {f"p{n}": choosing(task, prompt) for n, prompt in enumerate(task.prompts)}
    candidates = {name: f"${{{name}}}" for name in steps}
    answer = {"use": "ensemble.vote", "with": {"candidates": candidates, "ties": "confidence"}}
    return recipe({**steps, "answer": answer}, "${answer.winner}")


def choose(task: Task, _: Sequence[Row], *, calibrate: bool = False) -> Recipe:
    """Five prompts, the mean of their probabilities."""
    arguments: dict[str, Any] = {"members": _members(task), "system": task.system, "choices": "${inputs.choices}"}
    if calibrate:
        arguments["calibrate"] = True
    return recipe({"answer": {"use": "ensemble.choose", "model": "main", "with": arguments}})


def choose_calibrated(task: Task, pool: Sequence[Row]) -> Recipe:
    return choose(task, pool, calibrate=True)


def stack(task: Task, pool: Sequence[Row]) -> Recipe:
    """Five prompts and the examples, weighed by a meta-model that was fitted on the pool."""
    steps = {f"p{n}": choosing(task, prompt) for n, prompt in enumerate(task.prompts)}
    steps["shots"] = choosing(task, examples=shots(task, pool))
    steps["answer"] = {
        "use": "ensemble.stack",
        "with": {"candidates": {name: f"${{{name}}}" for name in steps}, "fitted": "fitted.json"},
    }
    return recipe(steps)


def cascade(task: Task, pool: Sequence[Row]) -> Recipe:
    """The plain prompt's choice where that is sure, otherwise the one with examples."""
    members = {
        "cheap": {"prompt": task.prompts[0]},
        "shots": {"prompt": task.prompts[0], "examples": shots(task, pool)},
    }
    arguments = {"members": members, "system": task.system, "choices": "${inputs.choices}", "fitted": "fitted.json"}
    return recipe({"answer": {"use": "ensemble.cascade", "model": "main", "with": arguments}})


PROMPT_TECHNIQUES = (
    Technique("plain", plain, ALL_KINDS, generative=True),
    Technique("choices", choices, CHOICE_KINDS),
    Technique("choices, calibrated", calibrated, CHOICE_KINDS),
    Technique("few-shot", few_shot, ALL_KINDS),
    Technique("few-shot, calibrated", few_shot_calibrated, CHOICE_KINDS),
    Technique("five prompts, vote", vote, CHOICE_KINDS),
    Technique("five prompts, choose", choose, CHOICE_KINDS),
    Technique("five prompts, choose, calibrated", choose_calibrated, CHOICE_KINDS),
    Technique("stack", stack, CHOICE_KINDS, fit="answer"),
    Technique("cascade", cascade, CHOICE_KINDS, fit="answer"),
    Technique("step by step", step_by_step, ALL_KINDS, generative=True),
    Technique("worked examples", worked_examples, ("number",), generative=True),
    Technique("self-consistency", self_consistency, ("number",), generative=True),
)
