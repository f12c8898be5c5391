"""Passages shortened to the sentences that matter for a question, within a budget of tokens.

Extractive, as RECOMP's extractive compressor (Xu et al. 2023, section 3.1), but untrained: a sentence's worth is its
cosine to the question plus the share of the question's words, by rarity, that it holds. Invariants: sentences stay
as they are, in their order and under their passage's source; the budget is never exceeded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from gristmill import Embedder, ModelHandle, Passage
from gristmill_plugins.retrieval._answer_text import coverage, rarity, sentences

RANK = 0.5
"""What it is worth to a sentence that its passage is the first; the n-th has an n-th of it. Chosen on every other one
of 706 questions of four sets, from 0 to 3 in eight steps: from 0.5 to 1 it hardly matters, and without it the first
tokens of the passages, as they stand, hold more answers."""


@dataclass(frozen=True, slots=True)
class _Sentence:
    passage: int
    place: int
    text: str


async def compress(
    question: str, passages: Sequence[Passage], handle: ModelHandle, tokens: int, embedder: Embedder | None
) -> list[Passage]:
    """Return the passages with their best sentences only; one that has none of them is left out."""
    found = [
        _Sentence(number, place, text)
        for number, passage in enumerate(passages)
        for place, text in enumerate(sentences(passage.text))
    ]
    likeness = await worths(question, [sentence.text for sentence in found], embedder)
    worth = [own + RANK / (sentence.passage + 1) for own, sentence in zip(likeness, found, strict=True)]
    sizes = await asyncio.gather(*(handle.count_tokens(f" {sentence.text}") for sentence in found))
    kept: list[_Sentence] = []
    for at in sorted(range(len(found)), key=lambda i: (-worth[i], i)):
        if sizes[at] <= tokens:
            tokens -= sizes[at]
            kept.append(found[at])
    texts: dict[int, list[str]] = {}
    for sentence in sorted(kept, key=lambda one: (one.passage, one.place)):
        texts.setdefault(sentence.passage, []).append(sentence.text)
    return [passages[number].model_copy(update={"text": " ".join(lines)}) for number, lines in texts.items()]


async def worths(question: str, texts: Sequence[str], embedder: Embedder | None) -> list[float]:
    """Return each text's worth for a question: the cosine (if there is an embedder) plus the coverage of its words."""
    if not texts:
        return []
    weights = rarity(texts)
    worth = [coverage(question, text, weights) for text in texts]
    if embedder is None:
        return worth
    vectors = await embedder.embed([question, *texts])
    return [share + float(cosine) for share, cosine in zip(worth, vectors[1:] @ vectors[0], strict=True)]
