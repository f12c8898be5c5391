"""`reflect`: try, judge, say what went wrong, and try again with that in mind.

Shinn et al. 2023 (Reflexion). The actor is an agent where there are tools, and a chain of thought where there are none;
the evaluator is a recipe of the author's, or the model's own yes or no; reflections are kept as text and put before the
next trial. Invariants: every trial is scored; the best one is returned, the earlier of equals; a reflection follows
each trial that failed but the last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, Field

from gristmill import Candidate, Context, FunctionError, ModelRef, RecipeRef, ToolList, Value, function
from gristmill_plugins.reasoning._asking import Critic, Given, MaxTokens, Question, probability_of_yes, user, write
from gristmill_plugins.reasoning._chains import MANY, AnswerKind, ChainRequest, make_chains
from gristmill_plugins.reasoning._extract import Kind
from gristmill_plugins.reasoning._prompts import Prompt, Replaced, load
from gristmill_plugins.reasoning._react import AgentRequest, AgentTurn, MaxTurns, run_agent


class Trial(Value):
    """One attempt. `reflection` is what was noted for the next; empty where there is none."""

    text_field = "answer"

    answer: str
    trajectory: str
    """What was thought and done."""
    found: bool = True
    """False: it holds no answer of the kind that was asked for."""
    score: float
    feedback: str = ""
    """What the evaluator said."""
    reflection: str = ""


class Reflected(Candidate):
    """The best answer of several trials. `text` is the answer."""

    score: float
    solved: bool
    """Whether it reached the score that was asked for."""
    trials: tuple[Trial, ...]
    prompt: str = ""


@dataclass(frozen=True, slots=True)
class _Task:
    question: str
    context: str | list[str] | None
    model: str
    critic: str
    tools: list[dict[str, Any]] | None
    evaluator: str | None
    kind: Kind
    max_turns: int
    max_tokens: int
    prompt: Prompt


class ReflectFunctions:
    """Learns from failed attempts, within one run."""

    @function
    async def reflect(
        self,
        question: Question,
        run: Context,
        *,
        model: ModelRef,
        context: Given = None,
        tools: Annotated[ToolList | None, "Makes each trial an agent that may call these; see reasoning.react."] = None,
        evaluator: Annotated[
            RecipeRef | None, "Takes question and answer; returns a score, a boolean, or {score, feedback}."
        ] = None,
        critic: Critic = None,
        until: Annotated[float, Field(ge=0, le=1, description="A trial of this score solves it.")] = 0.9,
        trials: Annotated[int, Field(ge=1, le=20, description="The most attempts.")] = 3,
        remembered: Annotated[int, Field(ge=1, description="How many reflections the next trial sees.")] = 3,
        kind: AnswerKind = "auto",
        max_turns: MaxTurns = 6,
        max_tokens: MaxTokens = 256,
        prompts: Replaced = None,
    ) -> Reflected:
        """Try, judge, reflect on what went wrong, and try again with that in mind."""
        prompt = load("reflect", prompts)
        task = _Task(
            question, context, model, critic or model, tools, evaluator, kind, max_turns, max_tokens, prompt
        )  # fmt: skip
        done: list[Trial] = []
        for n in range(trials):
            trial = await _try(run.apart(f"trial {n + 1}"), task, [one.reflection for one in done][-remembered:], n)
            run.note(f"trial {n + 1}: {trial.score:.2f}: {trial.answer}")
            solved = trial.score >= until
            if not solved and n + 1 < trials:
                trial = trial.model_copy(update={"reflection": await _reflection(run, task, trial)})
                run.note(f"reflection {n + 1}: {trial.reflection}")
            done.append(trial)
            if solved:
                break
        best = max(done, key=lambda one: one.score)  # the first of equals
        return Reflected(
            text=best.answer, found=best.found, score=best.score, solved=best.score >= until, trials=tuple(done),
            prompt=prompt.label,
        )  # fmt: skip


async def _try(run: Context, task: _Task, reflections: list[str], n: int) -> Trial:
    asked = task.prompt.fill("ask", question=task.question)
    if reflections:
        listed = "\n".join(f"- {one}" for one in reflections)
        asked = f"{task.prompt.fill('remember', reflections=listed)}\n\n{asked}"
    given, trajectory = await (_as_agent(run, task, asked) if task.tools else _as_chain(run, task, asked, n))
    score, feedback = await _judged(run, task, given.text)
    return Trial(answer=given.text, trajectory=trajectory, found=given.found, score=score, feedback=feedback)


async def _as_chain(run: Context, task: _Task, asked: str, n: int) -> tuple[Candidate, str]:
    prompt = load("chain_of_thought")
    context = task.context if task.context is None or isinstance(task.context, str) else "\n\n".join(task.context)
    given = prompt.fill("context", context=context) if context else None
    message = user(given, asked, prompt.fill("step_by_step"))
    # The first trial is the likeliest text; later ones draw, for a reflection alone may not move a small model.
    temperature = MANY if n else 0.0
    request = ChainRequest(
        prompt, (message,), task.kind, None, "extract", 1, temperature, 1.0, task.max_tokens, n, False
    )
    chain = (await make_chains(run, run.model(task.model), request))[0]
    return chain, chain.reasoning


async def _as_agent(run: Context, task: _Task, asked: str) -> tuple[Candidate, str]:
    request = AgentRequest(
        question=asked, context=task.context, tools=task.tools or (), model=task.model, max_turns=task.max_turns,
        tokens=None, seconds=None, thoughts=True, required=(), result_length=1000,
        answer_length=400, examples=(), prompt=load("react"),
    )  # fmt: skip
    agent = await run_agent(run, request)
    return agent, "\n".join(_told(turn) for turn in agent.turns)


def _told(turn: AgentTurn) -> str:
    did = f"{turn.tool}({turn.arguments}) -> {turn.result}" if turn.tool else f"answered: {turn.result}"
    return f"{turn.thought} {did}".strip()


async def _judged(run: Context, task: _Task, answer: str) -> tuple[float, str]:
    """Return the score of an answer from 0 to 1, and what was said about it."""
    if task.evaluator is None:
        asked = task.prompt.fill("judge", question=task.question, answer=answer)
        return await probability_of_yes(run.model(task.critic), asked), ""
    told = await run.run_recipe(task.evaluator, {"question": task.question, "answer": answer})
    told = told.model_dump() if isinstance(told, BaseModel) else told
    feedback = ""
    if isinstance(told, Mapping):
        feedback, told = str(told.get("feedback") or ""), told.get("score")
    if not isinstance(told, bool | int | float) or not 0 <= told <= 1:
        raise FunctionError(
            f"the evaluator {task.evaluator!r} returned {told!r} as the score",
            hint="its output is a number from 0 to 1, a boolean, or {score: ..., feedback: ...}",
        )
    return float(told), feedback


async def _reflection(run: Context, task: _Task, trial: Trial) -> str:
    asked = task.prompt.fill(
        "reflect", question=task.question, trajectory=f"{trial.trajectory}\n{trial.answer}", feedback=trial.feedback
    )
    return (await write(run, run.model(task.model), [user(asked)], max_tokens=task.max_tokens))[0].text.strip()
