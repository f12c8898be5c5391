"""What speaks for and against a statement in the sentences of passages: words, meaning, negation, direction.

It asks no language model. Invariant: the signs it returns are the same for a statement and its evidence wherever they
stand, so constants fitted on one set of documents mean the same on another.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gristmill import Embedder, Passage
from gristmill_plugins.retrieval._answer_text import content_words, coverage, rarity, sentences

N_SENTENCES = 3
"""Evidence is so many sentences of one passage, as SciFact's rationales have one to three."""
_NEGATION = re.compile(
    r"\b(?:not|no|nor|none|without|never|cannot|neither|fail\w*|lack\w*|absen\w+|independent\w*)\b|n['’]t\b",
    re.IGNORECASE,
)
_UP = (
    "increas", "elevat", "higher", "high", "enhanc", "promot", "upregulat", "activat", "induc", "more", "greater",
    "rais", "rise", "stimulat", "improv", "benefit", "accelerat", "better", "positiv", "gain", "caus",
)  # fmt: skip
_DOWN = (
    "decreas", "reduc", "lower", "low", "diminish", "inhibit", "downregulat", "suppress", "less", "fewer", "declin",
    "impair", "block", "attenuat", "prevent", "worse", "negativ", "loss", "deplet",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Evidence:
    """The sentences of one passage that are closest to a statement, and what can be told without a model."""

    number: int
    """The passage's, from 1."""
    text: str
    coverage: float
    """The share of the statement's words, by rarity, that the whole passage holds: 0 to 1."""
    cosine: float
    """The closest sentence's, -1 to 1; 0 without an embedder."""
    negated: bool
    """Whether the statement or its closest sentence is negated, and the other is not."""
    direction: int
    """1 where both speak of more, or both of less; -1 where they differ; 0 where either speaks of neither."""


async def find_evidence(
    statements: Sequence[str], passages: Sequence[Passage], embedder: Embedder | None
) -> list[Evidence | None]:
    """Return the evidence for each statement, from the passage that is closest to it; None where there is no text."""
    parts = [sentences(passage.text) for passage in passages]
    flat = [sentence for part in parts for sentence in part]
    if not flat:
        return [None] * len(statements)
    weights = rarity(flat)
    cosines = [[0.0] * len(flat)] * len(statements)
    if embedder is not None:
        vectors = await embedder.embed([*statements, *flat])
        cosines = (vectors[: len(statements)] @ vectors[len(statements) :].T).tolist()
    found: list[Evidence | None] = []
    for statement, row in zip(statements, cosines, strict=True):
        start, best = 0, None
        for number, part in enumerate(parts, 1):
            here = _closest(statement, number, part, row[start : start + len(part)], weights)
            start += len(part)
            if here and (best is None or here.coverage + here.cosine > best.coverage + best.cosine):
                best = here
        found.append(best)
    return found


def _closest(
    statement: str, number: int, part: Sequence[str], cosines: Sequence[float], weights: dict[str, float]
) -> Evidence | None:
    if not part:
        return None
    worth = [coverage(statement, one, weights) + cosine for one, cosine in zip(part, cosines, strict=True)]
    ranked = sorted(range(len(part)), key=lambda i: -worth[i])
    closest = part[ranked[0]]
    return Evidence(
        number=number,
        text=" ".join(part[i] for i in sorted(ranked[:N_SENTENCES])),
        coverage=coverage(statement, " ".join(part), weights),
        cosine=max(cosines),
        negated=is_negated(statement) != is_negated(closest),
        direction=direction(statement) * direction(closest),
    )


def is_negated(text: str) -> bool:
    """Tell whether a text holds a word that negates: "not", "without", "fails", ..."""
    return _NEGATION.search(text) is not None


def direction(text: str) -> int:
    """Return 1 for a text that speaks more of more ("increases", "higher"), -1 of less ("inhibits"), else 0."""
    words = content_words(text)
    up = sum(word.startswith(_UP) for word in words)
    down = sum(word.startswith(_DOWN) for word in words)
    return (up > down) - (up < down)
