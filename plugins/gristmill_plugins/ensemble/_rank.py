"""Answers in the order of their worth, as a judge sees it: pair by pair, or all in one prompt.

Pairwise after Jiang et al. 2023, LLM-Blender, section 3 (PairRanker: every pair is compared, and each answer's
comparisons are summed up); where they train a comparer, here any model judges by a prompt. Listwise asks for the best
of all at once, each answer having had every place. Invariant: the order in which the answers are given changes nothing
but the order of equals.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Literal

from gristmill import Candidate, Usage, Value

from ._ask_together import together
from ._judge import LEAST, Judge, letter_of, sigmoid

Method = Literal["pairwise", "listwise"]


class Ranking(Value):
    """Answers, the best first."""

    text_field = "text"

    text: str
    """The best answer."""
    order: tuple[str, ...]
    """Names, the best first."""
    candidates: tuple[Candidate, ...]
    """The answers in that order."""
    scores: dict[str, float]
    """Name to score. Pairwise: its mean probability of winning a comparison. Listwise: of being the best of all."""
    wins: dict[str, dict[str, float]] = {}
    """Pairwise: name to the probability of winning against each other."""
    first_shown: float | None = None
    """How likely the judge prefers what is shown first, of equal answers; fair is one half, or listwise 1/n."""
    usage: Usage = Usage()


async def rank_pairwise(judge: Judge, candidates: Mapping[str, Candidate]) -> Ranking:
    """Compare every two answers, n (n - 1) / 2 comparisons, each in both orders unless the judge does not swap."""
    pairs = list(itertools.combinations(candidates, 2))
    verdicts = await together(judge.compare(candidates[a].text, candidates[b].text) for a, b in pairs)
    wins: dict[str, dict[str, float]] = {name: {} for name in candidates}
    for (a, b), verdict in zip(pairs, verdicts, strict=True):
        wins[a][b], wins[b][a] = verdict.probability, 1 - verdict.probability
    scores = {name: math.fsum(own.values()) / len(own) if own else 1.0 for name, own in wins.items()}
    biases = [verdict.bias for verdict in verdicts if verdict.bias is not None]
    ranking = _in_order(candidates, scores)
    first = sigmoid(math.fsum(biases) / len(biases)) if biases else None
    return ranking.model_copy(update={"wins": wins, "first_shown": first})


async def rank_listwise(judge: Judge, candidates: Mapping[str, Candidate]) -> Ranking:
    """Ask which of all answers is the best, once for each rotation of them (once at all without swapping)."""
    names = list(candidates)
    letters = [letter_of(place) for place in range(len(names))]
    if len(names) == 1:
        return _in_order(candidates, {names[0]: 1.0})
    rotations = [names[start:] + names[:start] for start in range(len(names) if judge.swap else 1)]
    shown = [judge.messages([candidates[name].text for name in rotation]) for rotation in rotations]
    choices = await together(judge.best_of(messages, letters) for messages in shown)
    logs = [[math.log(max(choice.probabilities[letter], LEAST)) for letter in letters] for choice in choices]
    return rotated_scores(candidates, rotations, logs)


def rotated_scores(
    candidates: Mapping[str, Candidate], rotations: Sequence[Sequence[str]], logs: Sequence[Sequence[float]]
) -> Ranking:
    """Return the ranking by mean log-probability over all places, which a place's own pull cannot change.

    Args:
        candidates: the answers.
        rotations: for each prompt, who was shown where.
        logs: for each prompt, the log-probability of each place.
    """
    own: dict[str, list[float]] = {name: [] for name in candidates}
    for shown, row in zip(rotations, logs, strict=True):
        for name, value in zip(shown, row, strict=True):
            own[name].append(value)
    scores = _softmax({name: math.fsum(values) / len(values) for name, values in own.items()})
    ranking = _in_order(candidates, scores)
    if len(rotations) == 1:
        return ranking
    places = {str(place): math.fsum(row[place] for row in logs) / len(logs) for place in range(len(logs[0]))}
    return ranking.model_copy(update={"first_shown": _softmax(places)["0"]})


def _softmax(logs: Mapping[str, float]) -> dict[str, float]:
    values = {name: math.exp(value - max(logs.values())) for name, value in logs.items()}
    total = math.fsum(values.values())
    return {name: value / total for name, value in values.items()}


def _in_order(candidates: Mapping[str, Candidate], scores: Mapping[str, float]) -> Ranking:
    """Sort by score; equals stay as they were given."""
    order = sorted(candidates, key=lambda name: -round(scores[name], 12))
    return Ranking(
        text=candidates[order[0]].text,
        order=tuple(order),
        candidates=tuple(candidates[name] for name in order),
        scores={name: scores[name] for name in order},
    )
