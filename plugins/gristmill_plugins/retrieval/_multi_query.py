"""One question in several wordings, and several lists of passages made one.

Invariants: the question itself always comes first among its wordings; merging keeps each passage once.
"""

from __future__ import annotations

from collections.abc import Sequence

from gristmill import Context, GenerateRequest, Passage, Sampling
from gristmill_plugins.retrieval._prompts import prompt

RRF_K = 60
"""Cormack et al. 2009, Reciprocal Rank Fusion, section 2: 60, and the choice is not critical."""


async def rewordings(
    question: str, context: Context, model: str, *, n: int, temperature: float, max_tokens: int
) -> list[str]:
    """Return the question and up to `n` other wordings, drawn in one batch."""
    request = GenerateRequest(
        messages=prompt("multi_query").messages(question=question),
        sampling=Sampling(temperature=temperature, max_tokens=max_tokens, stop=("\n",)),
        seed=context.seed,
        sample_indices=tuple(range(n)),
    )
    completions = await context.model(model).generate(request)
    wordings = {question.strip().casefold(): question}
    for completion in completions:
        text = completion.text.strip().strip('"')
        if text:
            wordings.setdefault(text.casefold(), text)
    return list(wordings.values())


def merge(results: Sequence[Sequence[Passage]], top_k: int) -> list[Passage]:
    """Return the passages of several lists, best first by reciprocal rank fusion; `score` is the fused one.

    A passage's score is the sum of 1 / (60 + rank) over the lists that have it (Cormack et al. 2009), so it needs no
    scores that could be compared. Of equals, the one that was met first comes first.
    """
    scores: dict[str, float] = {}
    first: dict[str, Passage] = {}
    for passages in results:
        for rank, passage in enumerate(passages, 1):
            key = identity(passage)
            first.setdefault(key, passage)
            scores[key] = scores.get(key, 0.0) + 1 / (RRF_K + rank)
    best = sorted(scores, key=lambda key: -scores[key])[:top_k]
    return [first[key].model_copy(update={"score": scores[key]}) for key in best]


def identity(passage: Passage) -> str:
    """Return what makes two passages the same: the index's id, or else source and text."""
    known = passage.metadata.get("id")
    return known if isinstance(known, str) else f"{passage.source}\0{passage.text}"
