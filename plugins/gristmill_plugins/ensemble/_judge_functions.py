"""The functions of `ensemble` in which a model reads the members' answers: judge, rank, fuse.

It holds signatures and help; the work is in the modules beside it.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gristmill import Context, FunctionError, GenerateRequest, ModelRef, Sampling, function

from ._ask_types import Candidates, Seed
from ._ballots import named
from ._fuse import INSTRUCTION, Fused, fuse_messages
from ._judge import CRITERION, Judge, Judgement, judgement_of
from ._rank import Method, Ranking, rank_listwise, rank_pairwise

Asked = Annotated[str, "The question that was answered."]
Criterion = Annotated[str, "What makes an answer better, as a sentence."]
Swap = Annotated[bool, "Show the answers in every place, so that a liking for a place cancels out."]


class _JudgeFunctions:
    """Comparing answers, and writing one from several."""

    @function
    async def judge(
        self,
        candidates: Candidates,
        question: Asked,
        context: Context,
        *,
        model: Annotated[ModelRef, "The judge."],
        criterion: Criterion = CRITERION,
        swap: Swap = True,
        margin: Annotated[float, Field(ge=0, lt=0.5, description="So close to 0.5 nobody wins.")] = 0.0,
    ) -> Judgement:
        """Return which of two answers is better, whichever is shown first."""
        given = named(candidates)
        if len(given) != 2:
            raise FunctionError(
                f"judge compares two answers, these are {len(given)}", hint="ensemble.rank takes any number"
            )
        (first, second), part = given, context.apart("judge")
        verdict = await Judge(part.model(model), question, criterion, swap=swap).compare(
            given[first].text, given[second].text
        )
        judgement = judgement_of((first, second), (given[first].text, given[second].text), verdict, margin)
        return judgement.model_copy(update={"usage": part.usage})

    @function
    async def rank(
        self,
        candidates: Candidates,
        question: Asked,
        context: Context,
        *,
        model: Annotated[ModelRef, "The judge."],
        method: Annotated[Method, "Every pair is compared, or all are shown together."] = "pairwise",
        criterion: Criterion = CRITERION,
        swap: Swap = True,
    ) -> Ranking:
        """Return answers in the order of their worth, the best first, as a judge sees it."""
        given = named(candidates)
        if not given:
            raise FunctionError("there is no answer to rank")
        part = context.apart("judge")
        judge = Judge(part.model(model), question, criterion, swap=swap)
        ranking = await (rank_pairwise if method == "pairwise" else rank_listwise)(judge, given)
        return ranking.model_copy(update={"usage": part.usage})

    @function
    async def fuse(
        self,
        candidates: Candidates,
        question: Asked,
        context: Context,
        *,
        model: Annotated[ModelRef, "Who writes the answer."],
        top_k: Annotated[int, Field(ge=1, description="How many answers it reads, the first ones.")] = 3,
        instruction: Annotated[str, "What it is to do with the drafts."] = INSTRUCTION,
        temperature: Annotated[float, Field(ge=0, le=100, description="0 is greedy.")] = 0.0,
        max_tokens: Annotated[int, Field(ge=1, description="Of the answer.")] = 512,
        seed: Seed = 0,
    ) -> Fused:
        """Write one answer from the best of several."""
        messages, sources = fuse_messages(question, named(candidates), top_k=top_k, instruction=instruction)
        part = context.apart("fuse")
        request = GenerateRequest(
            messages=tuple(messages),
            sampling=Sampling(temperature=temperature, max_tokens=max_tokens),
            seed=seed + context.seed,
        )
        (completion,) = await part.model(model).generate(request)
        return Fused(text=completion.text, sources=sources, usage=part.usage)
