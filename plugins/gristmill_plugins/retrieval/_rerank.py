"""Passages in the order that a model gives them.

Four ways: the probability of "Yes, it answers the question" of each passage; the likelihood of the question after
reading each passage (Sachan et al. 2022, UPR); one prompt that asks for the order of all (Sun et al. 2023, RankGPT);
and the score of a cross-encoder, a model trained for nothing else (Nogueira and Cho 2019).
Invariant: what goes in comes out, in another order: no way to rank can lose or invent a passage.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

from gristmill import Context, GenerateRequest, ModelHandle, Passage, Sampling
from gristmill_plugins.retrieval._answer_context import fit, quoted, room_for_passages
from gristmill_plugins.retrieval._prompts import prompt

Method = Literal["likelihood", "relevance", "listwise", "cross_encoder"]
TOKENS_A_NUMBER = 6
"""Of a listwise answer: `[12] > ` is five tokens at most in the vocabularies looked at."""


async def rerank(
    question: str, passages: Sequence[Passage], context: Context, model: str, method: Method, weight: float | None
) -> list[Passage]:
    """Return all passages, best first; `score` is 0 to 1.

    The model's scores and those of the search are each brought to 0..1 over these passages, and mixed: `weight` is
    the model's share, by default the half, and all of it for a cross-encoder. What either gave itself is in
    `metadata`, as `rerank_score` and `search_score`.
    """
    if not passages:
        return []
    share = weight if weight is not None else (1.0 if method == "cross_encoder" else 0.5)
    given = await _METHODS[method](question, passages, context.model(model))
    searched = unit([passage.score for passage in passages])
    scores = [share * ours + (1 - share) * theirs for ours, theirs in zip(unit(given), searched, strict=True)]
    order = sorted(range(len(passages)), key=lambda i: (-scores[i], i))
    return [_scored(passages[i], scores[i], given[i]) for i in order]


def _scored(passage: Passage, score: float, given: float) -> Passage:
    told = {"rerank_score": given, "search_score": passage.score}
    return passage.model_copy(update={"score": score, "metadata": passage.metadata | told})


def unit(scores: Sequence[float]) -> list[float]:
    """Return scores brought to 0..1 by the lowest and highest of them; all 0 where they are equal."""
    low, high = min(scores), max(scores)
    return [(score - low) / (high - low) if high > low else 0.0 for score in scores]


async def _likelihood(question: str, passages: Sequence[Passage], handle: ModelHandle) -> list[float]:
    """Return the log-probability of the whole question after each passage: comparable, for the question is the same."""
    form = prompt("likelihood")
    found = await asyncio.gather(
        *(handle.logprobs(form.messages(passage=passage.text), [question]) for passage in passages)
    )
    return [logprobs[0] for logprobs in found]


async def _relevance(question: str, passages: Sequence[Passage], handle: ModelHandle) -> list[float]:
    """Return the probability of Yes for each passage, calibrated by what an empty question would get."""
    form = prompt("relevance")
    found = await asyncio.gather(
        *(
            handle.choose(
                form.messages(passage=quoted(number, passage), question=question), ["Yes", "No"], calibrate=True
            )
            for number, passage in enumerate(passages, 1)
        )
    )
    return [choice.probabilities["Yes"] for choice in found]


async def _cross_encoder(question: str, passages: Sequence[Passage], handle: ModelHandle) -> list[float]:
    """Return a reranker's own scores of question and passage read together: logits of any size, as a rule."""
    return await handle.rank(question, [passage.text for passage in passages])


async def _listwise(question: str, passages: Sequence[Passage], handle: ModelHandle) -> list[float]:
    """Return reciprocal ranks from one answer; passages it does not name keep their order, after those it does."""
    form = prompt("listwise")
    max_tokens = TOKENS_A_NUMBER * len(passages)
    room = await room_for_passages(handle, form.messages(question=question, passages=""), max_tokens, None)
    shown = await fit(passages, handle, room, order="rank")
    messages = form.messages(question=question, passages=shown.text)
    (completion,) = await handle.generate(GenerateRequest(messages=messages, sampling=Sampling(max_tokens=max_tokens)))
    order = ranking_in(completion.text, len(passages))
    ranks = {number: rank for rank, number in enumerate(order, 1)}
    return [1 / ranks[number] for number in range(1, len(passages) + 1)]


def ranking_in(text: str, n_passages: int) -> list[int]:
    """Return every number from 1 to `n_passages` once: first those that a text names, in its order."""
    named = [int(number) for number in re.findall(r"\d{1,4}", text)]
    return list(dict.fromkeys([number for number in named if 1 <= number <= n_passages] + [*range(1, n_passages + 1)]))


_METHODS: dict[Method, Callable[[str, Sequence[Passage], ModelHandle], Awaitable[list[float]]]] = {
    "likelihood": _likelihood,
    "relevance": _relevance,
    "listwise": _listwise,
    "cross_encoder": _cross_encoder,
}
