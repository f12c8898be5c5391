"""`self_refine`: draft, critique, revise, until the model is content or it was done often enough.

Madaan et al. 2023, algorithm 1. The paper stops at a word or a score in the feedback; here the judge's probability of
"yes" decides, which a model of any size can give. Invariants: every draft is judged; what is returned was judged, and
is the best or the last of them, as asked.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gristmill import Candidate, Context, ModelHandle, ModelRef, Value, function
from gristmill_plugins.reasoning._asking import Critic, MaxTokens, probability_of_yes, user, write
from gristmill_plugins.reasoning._prompts import Prompt, Replaced, load


class Draft(Value):
    """One version of the text. `critique` is what led to the next one; empty for the last."""

    text_field = "text"

    text: str
    score: float
    """The judge's probability that it does all that was asked, 0 to 1."""
    critique: str = ""


class Refined(Candidate):
    """A text that was drafted, criticised and revised."""

    score: float
    drafts: tuple[Draft, ...]
    """All versions, the first draft first."""
    stopped: Literal["until", "max", "unchanged"]
    """The judge was content, it was revised `max` times, or a revision changed nothing."""
    prompt: str = ""


class RefineFunctions:
    """Improves drafts."""

    @function
    async def self_refine(
        self,
        task: Annotated[str, "What to write, with all that it must satisfy."],
        run: Context,
        *,
        model: ModelRef,
        draft: Annotated[str | None, "A first draft, if there is one already."] = None,
        critic: Critic = None,
        until: Annotated[float, Field(ge=0, le=1, description="Stop at this probability of the judge's yes.")] = 0.9,
        max: Annotated[int, Field(ge=1, le=50, description="The most revisions.")] = 3,
        keep: Annotated[Literal["best", "last"], "Which version to return."] = "best",
        max_tokens: MaxTokens = 256,
        prompts: Replaced = None,
    ) -> Refined:
        """Write a draft, criticise it, and revise it, until it is good enough or was revised `max` times."""
        prompt = load("self_refine", prompts)
        work = _Refining(run, prompt, task, run.model(model), run.model(critic or model), max_tokens)
        text = draft if draft is not None else await work.ask(work.writer, prompt.fill("draft", task=task))
        drafts: list[Draft] = []
        stopped: Literal["until", "max", "unchanged"] = "max"
        for n in range(max + 1):
            score = await work.judge(text)
            run.note(f"draft {n + 1}: {score:.2f}")
            drafts.append(Draft(text=text, score=score))
            if score >= until:
                stopped = "until"
                break
            if n == max:
                break
            critique, revised = await work.revise(text)
            drafts[-1] = drafts[-1].model_copy(update={"critique": critique})
            if revised == text:
                stopped = "unchanged"
                break
            text = revised
        kept = sorted(drafts, key=lambda one: -one.score)[0] if keep == "best" else drafts[-1]
        return Refined(text=kept.text, score=kept.score, drafts=tuple(drafts), stopped=stopped, prompt=prompt.label)


class _Refining:
    """One task that is being worked on."""

    def __init__(
        self, run: Context, prompt: Prompt, task: str, writer: ModelHandle, critic: ModelHandle, max_tokens: int
    ) -> None:
        self.run = run
        self.prompt = prompt
        self.task = task
        self.writer = writer
        self.critic = critic
        self.max_tokens = max_tokens

    async def ask(self, model: ModelHandle, text: str) -> str:
        return (await write(self.run, model, [user(text)], max_tokens=self.max_tokens))[0].text.strip()

    async def judge(self, draft: str) -> float:
        return await probability_of_yes(self.critic, self.prompt.fill("judge", task=self.task, draft=draft))

    async def revise(self, draft: str) -> tuple[str, str]:
        """Return the critique and the revised text."""
        critique = await self.ask(self.critic, self.prompt.fill("critique", task=self.task, draft=draft))
        asked = self.prompt.fill("revise", task=self.task, draft=draft, critique=critique)
        return critique, await self.ask(self.writer, asked)
