"""The recipes of the ladder: for one task, the techniques that practitioners try one after another, as YAML.

Each rung is an ordinary recipe that is written to a file, so that the best one can be kept, read and changed. Nothing
is run here. Invariant: rungs of one task differ in their technique and in nothing else: model, instruction, examples
and documents are the task's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from gristmill_plugins.evaluation._task_file import Task

Steps = dict[str, Any]
Made = tuple[Steps, Any]
"""Steps, and the output."""
QUESTION = "${inputs.question}"
THINK = f"{QUESTION}\n\nThink step by step, in a few short sentences."
READ = (
    "{% for passage in passages %}\nPassage ${loop.index}: ${passage.text}\n{% endfor %}\n"
    "Answer from the passages.\nQuestion: ${inputs.question}"
)
READ_BEST = READ.replace("passages %}", "best %}", 1)


class Example(BaseModel):
    """A worked example: `reasoning` is shown where a rung reasons."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: str
    output: str
    reasoning: str = ""


class LadderFile(Task):
    """A task file: an evaluation file in which the recipes are made from what the task has."""

    ladder: Literal[1] = 1
    question: str
    """The column of the question, or of the text to classify."""
    instruction: str = "Answer with the answer alone, in as few words as possible."
    model: dict[str, Any] = Field(default_factory=lambda: {"use": "llama", "model": "smollm2", "context_tokens": 4096})
    choices: list[str] | None = None
    kind: Literal["auto", "number", "yes_no", "span"] = "auto"
    """What the answer is, for rungs that find it in a chain of thought."""
    examples: list[Example] = Field(default_factory=list)
    documents: Path | None = None
    top_k: int = Field(default=3, ge=1, le=50)
    adapter: Path | None = None
    samples: int = Field(default=8, ge=2, le=64)
    max_tokens: int = Field(default=48, ge=1)
    thought_tokens: int = Field(default=160, ge=8)
    rungs: list[str] | None = None


def _ask(task: LadderFile, prompt: str = QUESTION, **more: Any) -> dict[str, Any]:
    step: dict[str, Any] = {"system": task.instruction, "prompt": prompt}
    step |= {"choices": task.choices} if task.choices else {"max_tokens": task.max_tokens}
    return step | more


def _baseline(task: LadderFile) -> Made:
    return {"answer": _ask(task)}, "${answer}"


def _few_shot(task: LadderFile) -> Made:
    return {"answer": _ask(task, examples=_pairs(task))}, "${answer}"


def _pairs(task: LadderFile) -> list[dict[str, str]]:
    return [{"input": example.input, "output": example.output} for example in task.examples]


def _chain_of_thought(task: LadderFile) -> Made:
    if task.choices:
        thoughts = {"system": task.instruction, "prompt": THINK, "max_tokens": task.thought_tokens}
        return {"thoughts": thoughts, "answer": _decide(task, "${thoughts.text}")}, "${answer}"
    return {"chain": _chains(task)}, "${chain[0].text}"


def _decide(task: LadderFile, thoughts: str) -> dict[str, Any]:
    """Choose after having thought."""
    return {
        "messages": [
            {"role": "system", "content": task.instruction},
            {"role": "user", "content": THINK},
            {"role": "assistant", "content": thoughts},
            {"role": "user", "content": "So the answer is:"},
        ],
        "choices": task.choices,
    }


def _chains(task: LadderFile, **more: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"question": QUESTION, "kind": task.kind, "max_tokens": task.thought_tokens}
    worked = [example.model_dump() for example in task.examples if example.reasoning]
    return {"use": "reasoning.chain_of_thought", "with": given | ({"examples": worked} if worked else {}) | more}


def _search(task: LadderFile, query: str = QUESTION, **more: Any) -> dict[str, Any]:
    given = {"documents": "${inputs.documents}", "query": query, "top_k": task.top_k}
    return {"use": "retrieval.search", "with": given | more}


_READ_OUTPUT = {"answer": "${answer.text}", "passages": "${passages}"}


def _retrieval(task: LadderFile) -> Made:
    return {"passages": _search(task), "answer": _ask(task, READ)}, _READ_OUTPUT


def _hyde(task: LadderFile) -> Made:
    made_up = {"use": "retrieval.hyde", "with": {"question": QUESTION, "samples": 4}}
    search = _search(task, "${made_up.text}", mode="dense")
    return {"made_up": made_up, "passages": search, "answer": _ask(task, READ)}, _READ_OUTPUT


def _rerank(task: LadderFile) -> Made:
    ranked = {
        "use": "retrieval.rerank",
        "with": {"question": QUESTION, "passages": "${found}", "top_k": task.top_k},
    }
    steps = {"found": _search(task, top_k=4 * task.top_k), "passages": ranked, "answer": _ask(task, READ)}
    return steps, _READ_OUTPUT


def _checked(task: LadderFile) -> Made:
    """Answer, check the answer against the passages, and where it is not supported answer from the best one alone."""
    ranked = {"use": "retrieval.rerank", "with": {"question": QUESTION, "passages": "${passages}", "top_k": 1}}
    steps = {
        "passages": _search(task),
        "first": _ask(task, READ),
        "check": {"use": "retrieval.check", "with": {"text": "${first.text}", "passages": "${passages}"}},
        "best": {"if": "${not check.supported}", **ranked},
        "second": {"if": "${best is not none}", **_ask(task, READ_BEST)},
    }
    return steps, {"answer": "${second.text if second else first.text}", "passages": "${passages}"}


def _ensemble(task: LadderFile) -> Made:
    """Self-consistency (Wang et al. 2022): many drawn answers vote."""
    drawn = {"samples": task.samples, "temperature": 0.7}
    if task.choices:
        thoughts = {"system": task.instruction, "prompt": THINK, "max_tokens": task.thought_tokens, **drawn}
        one = {"for_each": "${thoughts}", "as": "thought", **_decide(task, "${thought.text}")}
        vote = {"use": "ensemble.vote", "with": {"candidates": '${answers | map(attribute="text") | list}'}}
        return {"thoughts": thoughts, "answers": one, "answer": vote}, "${answer}"
    vote = {"use": "ensemble.vote", "with": {"candidates": "${answers}"}}
    if task.documents:
        steps = {"passages": _search(task), "answers": _ask(task, READ, **drawn), "answer": vote}
        return steps, {"answer": "${answer.winner}", "confidence": "${answer.confidence}", "passages": "${passages}"}
    return {"answers": _chains(task, **drawn), "answer": vote}, "${answer}"


def _adapter(task: LadderFile) -> Made:
    return {"answer": _ask(task, adapters={"task": 1.0})}, "${answer}"


RUNGS: Mapping[str, Callable[[LadderFile], Made]] = {
    "baseline": _baseline, "few_shot": _few_shot, "chain_of_thought": _chain_of_thought, "retrieval": _retrieval,
    "hyde": _hyde, "rerank": _rerank, "checked": _checked, "ensemble": _ensemble, "adapter": _adapter,
}  # fmt: skip


def lacks(task: LadderFile, rung: str) -> str | None:
    """Return what a task lacks for a rung, or None."""
    if rung == "few_shot" and not task.examples:
        return "the task file has no `examples`"
    if rung in ("retrieval", "hyde", "rerank", "checked") and task.documents is None:
        return "the task file has no `documents`"
    if rung == "checked" and task.choices:
        return "one of fixed choices is not checked against passages"
    if rung == "adapter" and task.adapter is None:
        return "the task file has no `adapter`"
    return None


def rung_recipe(task: LadderFile, rung: str) -> str:
    """Return a rung's recipe as YAML."""
    steps, output = RUNGS[rung](task)
    model = dict(task.model)
    if rung == "adapter":
        model["adapters"] = {"task": str(Path(str(task.adapter)).absolute())}
    inputs: dict[str, Any] = {"question": "string"}
    if rung in ("retrieval", "hyde", "rerank", "checked") or (rung == "ensemble" and "passages" in steps):
        inputs["documents"] = "path"
    described = f"The rung {rung.replace('_', ' ')} of the ladder of {task.name or task.data.stem}."
    recipe = {
        "version": 1, "name": rung, "description": described, "inputs": inputs, "models": {"main": model},
        "steps": steps, "output": output,
    }  # fmt: skip
    return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=110)
