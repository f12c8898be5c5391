"""How the two sides of a search become one order: fusion of scores, and diversity.

It reads no store. Invariant: the result holds the same hits, each once; ties keep the order in which they came.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from gristmill._models import Hit

Fusion = Literal["minmax", "rrf"]
RRF_K = 60


def fuse(hits: Sequence[Hit], *, fusion: Fusion, dense_weight: float) -> list[tuple[Hit, float]]:
    """Return the hits with one score from 0 to 1 each, best first.

    `minmax` scales each side's scores to 0 to 1 over these hits and takes their weighted mean; a text without any word
    of the query has 0 on the lexical side. On SQuAD (2,067 paragraphs, 10,570 questions) with MiniLM it found more in
    the first five (0.952) than reciprocal rank fusion (0.935) or BM25 alone (0.925). `rrf` is reciprocal rank fusion
    (Cormack et al., SIGIR 2009) with k = 60, weighted, and divided by its largest value.
    """
    scale = _by_rank if fusion == "rrf" else _scaled
    dense = scale([hit.dense for hit in hits], lowest=None)
    lexical = scale([hit.lexical for hit in hits], lowest=0.0)
    fused = [d * dense_weight + x * (1 - dense_weight) for d, x in zip(dense, lexical, strict=True)]
    return sorted(zip(hits, fused, strict=True), key=lambda pair: -pair[1])


def _scaled(scores: Sequence[float | None], *, lowest: float | None) -> list[float]:
    given = [score for score in scores if score is not None]
    low = lowest if lowest is not None else min(given, default=0.0)
    span = max(given, default=0.0) - low
    if span <= 0:
        return [float(score is not None) for score in scores]
    return [0.0 if score is None else (score - low) / span for score in scores]


def _by_rank(scores: Sequence[float | None], *, lowest: float | None) -> list[float]:
    del lowest  # ranks need no floor
    order = sorted((i for i, score in enumerate(scores) if score is not None), key=lambda i: -(scores[i] or 0.0))
    ranked = {i: (RRF_K + 1) / (RRF_K + rank) for rank, i in enumerate(order, start=1)}
    return [ranked.get(i, 0.0) for i in range(len(scores))]


def diversify(hits: Sequence[tuple[Hit, float]], top_k: int, relevance_weight: float) -> list[tuple[Hit, float]]:
    """Return `top_k` hits that are good and unlike one another: maximal marginal relevance.

    Carbonell and Goldstein, SIGIR 1998: take the hit with the largest `weight * score - (1 - weight) * nearest`, where
    `nearest` is its largest cosine to one that was taken. Scores are first divided by the best one, so that BM25 and
    cosines weigh alike; the hits keep their own scores.
    """
    import numpy as np

    if not hits:
        return []
    vectors = np.stack([hit.vector for hit, _ in hits if hit.vector is not None])
    best = max(score for _, score in hits)
    gain = np.array([score / best if best > 0 else score for _, score in hits])
    nearest = np.zeros(len(hits))
    free = np.ones(len(hits), bool)
    chosen: list[tuple[Hit, float]] = []
    while len(chosen) < min(top_k, len(hits)):
        value = np.where(free, relevance_weight * gain - (1 - relevance_weight) * nearest, -np.inf)
        pick = int(value.argmax())
        free[pick] = False
        likeness = vectors @ vectors[pick]
        nearest = likeness if not chosen else np.maximum(nearest, likeness)
        chosen.append(hits[pick])
    return chosen
