"""A model that compares answers: two at a time, shown in both orders so that its liking for a place cancels out.

It asks through `choose`, so a verdict is a probability and not a text to be parsed. Invariant: with `swap`, whatever a
place adds to a judge's log-odds has no part in the verdict, and exchanging the two answers exchanges it.

Sources: Zheng et al. 2023, Judging LLM-as-a-Judge (pairwise comparison, and swapping against position bias); Wang et
al. 2023, Large Language Models are not Fair Evaluators (averaging over both positions). They average verdicts; here
log-odds are averaged, which cancels a constant bias exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gristmill import Choice, FunctionError, Message, ModelHandle, Usage, Value

from ._ask_together import together

LEAST = 1e-9
"""Verdicts beyond a billionth all count the same."""
SYSTEM = "You are a fair judge. You compare answers to a question and say which one is better."
CRITERION = "Prefer the answer that is correct, complete and clear."


class Judgement(Value):
    """Which of two answers is better."""

    text_field = "text"

    text: str | None
    """The better answer; None: they are too close."""
    winner: str | None
    """Its name."""
    probabilities: dict[str, float]
    """Name to the probability that it is the better one, place aside."""
    agrees: bool | None
    """Whether both orders gave the same verdict; None when only one was shown."""
    first_shown: float | None
    """How likely the judge prefers what is shown first, of equal answers; 0.5 is fair."""
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The log-odds that the first of two is better, and those that the place alone gives it."""

    odds: float
    bias: float | None = None
    agrees: bool | None = None

    @property
    def probability(self) -> float:
        return sigmoid(self.odds)


@dataclass(frozen=True, slots=True)
class Judge:
    """A model with a question and what to look for."""

    handle: ModelHandle
    question: str
    criterion: str = CRITERION
    system: str = SYSTEM
    swap: bool = True

    async def compare(self, first: str, second: str) -> Verdict:
        """Return which of two answers is better; equal ones are not shown."""
        if first == second:
            return Verdict(0.0)
        if not self.swap:
            return Verdict(await self._odds_of_first(first, second))
        one, other = await together([self._odds_of_first(first, second), self._odds_of_first(second, first)])
        return without_bias(one, other)

    async def _odds_of_first(self, first: str, second: str) -> float:
        choice = await self.handle.choose(self.messages([first, second]), ["A", "B"])
        return math.log(max(choice.probabilities["A"], LEAST)) - math.log(max(choice.probabilities["B"], LEAST))

    async def best_of(self, messages: Sequence[Message], letters: Sequence[str]) -> Choice:
        """Return which of several answers, under their letters, is the best."""
        return await self.handle.choose(messages, letters)

    def messages(self, answers: Sequence[str]) -> tuple[Message, ...]:
        """Return what the judge reads: the question, the answers under letters, and what is asked of it."""
        letters = [letter_of(place) for place in range(len(answers))]
        shown = "\n\n".join(f"Answer {letter}:\n{answer}" for letter, answer in zip(letters, answers, strict=True))
        listed = f"{', '.join(letters[:-1])} or {letters[-1]}"
        asked = f"{self.criterion} Which answer is better, {listed}? Say the letter only."
        content = f"Question:\n{self.question}\n\n{shown}\n\n{asked}"
        return (Message(role="system", content=self.system), Message(role="user", content=content))


def without_bias(shown_first: float, shown_second: float) -> Verdict:
    """Return the verdict on an answer from the log-odds of the first place, when it had it and when the other did."""
    odds = (shown_first - shown_second) / 2
    return Verdict(odds, bias=(shown_first + shown_second) / 2, agrees=shown_first * shown_second < 0)


def letter_of(place: int) -> str:
    """Return A to Z.

    Raises:
        FunctionError: there are not so many letters.
    """
    if place >= 26:
        raise FunctionError("at most 26 answers can be shown together", hint="rank them pairwise")
    return chr(ord("A") + place)


def sigmoid(odds: float) -> float:
    """Return the probability of log-odds."""
    return 1 / (1 + math.exp(-odds)) if odds >= 0 else math.exp(odds) / (1 + math.exp(odds))


def judgement_of(names: tuple[str, str], texts: tuple[str, str], verdict: Verdict, margin: float) -> Judgement:
    """Return a verdict in the names of the answers; within `margin` of one half nobody wins."""
    share = verdict.probability
    place = None if abs(share - 0.5) <= margin else int(share < 0.5)
    return Judgement(
        text=None if place is None else texts[place],
        winner=None if place is None else names[place],
        probabilities={names[0]: share, names[1]: 1 - share},
        agrees=verdict.agrees,
        first_shown=None if verdict.bias is None else sigmoid(verdict.bias),
    )
