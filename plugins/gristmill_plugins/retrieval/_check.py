"""Is each sentence of an answer supported by the passages, contradicted by them, or neither?

A statement is scored by how much of the model's surprise at it the evidence takes away, together with the words and
the meaning they share; contradiction by negation and direction (more, less). It corrects nothing. Invariants: the
three scores of a sentence sum to 1; a sentence without evidence is unsupported, whatever the model believes.

What it is worth, measured on SciFact, is in docs/retrieval.md: finding evidence works far better than counting words
does; telling contradiction from support is weak, with a small model and with these signs.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gristmill import Context, Embedder, ModelHandle, Passage, Value
from gristmill_plugins.retrieval._answer_text import sentences
from gristmill_plugins.retrieval._check_evidence import Evidence, find_evidence
from gristmill_plugins.retrieval._cite import without_marks
from gristmill_plugins.retrieval._prompts import prompt

Verdict = Literal["supported", "contradicted", "unsupported"]
CONTENT_FREE = "N/A"


@dataclass(frozen=True, slots=True)
class _Weights:
    """A logistic regression: log-odds = base + the sum of weight times sign."""

    base: float
    coverage: float
    surprise: float
    cosine: float = 0.0


# Fitted as benchmarks/retrieval.py --fit does on the claims of SciFact's training split (136 labelled claims, each with
# its abstract and with the one BM25 puts first of the others), with SmolLM2-135M-Instruct Q4_1 and WordLlama 256.
# Whether they hold for other models and other kinds of text was not measured.
WITH_MEANING = _Weights(base=-4.673, coverage=1.582, surprise=6.756, cosine=4.305)
WORDS_ONLY = _Weights(base=-2.967, coverage=2.182, surprise=7.528)
AGAINST_BASE, AGAINST_NEGATED, AGAINST_DIRECTION = -0.805, 0.661, -0.840

CONTRADICTED_FROM = 0.4
"""Where there is evidence, this share for the contradiction makes the verdict: 0.31 is what every sentence has, and a
negation or a direction that differs brings more than this. Called from 0.5, a plain "not" would pass as supported."""


class CheckedSentence(Value):
    """One sentence and what the passages say of it."""

    text_field = "text"

    text: str
    verdict: Verdict
    supported: float
    """0 to 1; `contradicted` and `unsupported` are the rest."""
    contradicted: float
    unsupported: float
    number: int | None = None
    """Of the passage with the closest evidence, from 1."""
    source: str = ""
    evidence: str = ""
    """Up to three sentences of that passage."""
    signs: dict[str, float] = {}
    """What the scores were made from: coverage, cosine, surprise (taken away), negated, direction."""


class Checked(Value):
    """A text, sentence by sentence."""

    sentences: tuple[CheckedSentence, ...]
    supported: bool
    """Whether every sentence is."""
    score: float
    """The lowest `supported` of all sentences; 0 for a text without any."""


async def check(
    text: str, passages: Sequence[Passage], context: Context, model: str, embedder: Embedder | None
) -> Checked:
    """Check each sentence of a text against the passages."""
    statements = [plain for sentence in sentences(text) if (plain := without_marks(sentence).strip())]
    found = await find_evidence(statements, passages, embedder)
    handle = context.model(model)
    weights = WORDS_ONLY if embedder is None else WITH_MEANING
    checked = await asyncio.gather(
        *(_checked(one, evidence, passages, handle, weights) for one, evidence in zip(statements, found, strict=True))
    )
    return Checked(
        sentences=tuple(checked),
        supported=bool(checked) and all(one.verdict == "supported" for one in checked),
        score=min((one.supported for one in checked), default=0.0),
    )


async def _checked(
    statement: str, evidence: Evidence | None, passages: Sequence[Passage], handle: ModelHandle, weights: _Weights
) -> CheckedSentence:
    if evidence is None:
        return CheckedSentence(text=statement, verdict="unsupported", supported=0.0, contradicted=0.0, unsupported=1.0)
    surprise = await surprise_taken(statement, evidence.text, handle)
    scores = verdict_scores(evidence, surprise, weights)
    return CheckedSentence(
        text=statement,
        verdict=verdict_of(scores),
        supported=scores["supported"],
        contradicted=scores["contradicted"],
        unsupported=scores["unsupported"],
        number=evidence.number,
        source=passages[evidence.number - 1].source,
        evidence=evidence.text,
        signs={
            "coverage": evidence.coverage, "cosine": evidence.cosine, "surprise": surprise,
            "negated": float(evidence.negated), "direction": float(evidence.direction),
        },
    )  # fmt: skip


async def surprise_taken(statement: str, evidence: str, handle: ModelHandle) -> float:
    """Return the share of the model's surprise at a statement that evidence takes away: at most 1, below 0 if it adds.

    (log p(statement | evidence) - log p(statement | "N/A")) / -log p(statement | "N/A"): pointwise mutual information,
    divided by the statement's own information, so that long and rare statements compare with short and common ones.
    """
    form = prompt("check")
    (after,), (before,) = await asyncio.gather(
        handle.logprobs(form.messages(passage=evidence), [statement]),
        handle.logprobs(form.messages(passage=CONTENT_FREE), [statement]),
    )
    return (after - before) / -before if before < 0 else 0.0


def verdict_scores(evidence: Evidence, surprise: float, weights: _Weights) -> dict[Verdict, float]:
    """Return a probability for each verdict; they sum to 1."""
    there = _logistic(
        weights.base
        + weights.coverage * evidence.coverage
        + weights.surprise * surprise
        + weights.cosine * evidence.cosine
    )
    against = _logistic(
        AGAINST_BASE + AGAINST_NEGATED * evidence.negated + AGAINST_DIRECTION * evidence.direction
    )  # fmt: skip
    return {"supported": there * (1 - against), "contradicted": there * against, "unsupported": 1 - there}


def verdict_of(scores: Mapping[Verdict, float]) -> Verdict:
    """Return what the scores come to."""
    there = scores["supported"] + scores["contradicted"]
    if there < 0.5:
        return "unsupported"
    return "contradicted" if scores["contradicted"] >= CONTRADICTED_FROM * there else "supported"


def _logistic(log_odds: float) -> float:
    return 1 / (1 + math.exp(-max(-500.0, min(500.0, log_odds))))
