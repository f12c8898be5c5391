"""Members that vote on the next word or sentence of one text, while it is being written.

Voting on single tokens is `_average`'s, as a way to combine predictions. Each member continues the text greedily by one
phrase; the phrase with the most votes becomes part of the text for all. Invariant: all members continue the very same
tokens, so their vocabularies must be equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gristmill import Context, Session

from ._ask_member import MemberSpec, Question
from ._ask_together import together
from ._average import Together, Writer, check_vocabularies, make_writers, shares_of

Unit = Literal["token", "word", "sentence"]
MOST_TOKENS = {"word": 24, "sentence": 128}
"""A phrase ends here, whatever its unit: a text without a space is not one word for ever."""


@dataclass(frozen=True, slots=True)
class Phrase:
    """What one member would say next; `ends` when it would then stop."""

    tokens: tuple[int, ...]
    text: str
    logprob: float
    ends: bool

    @property
    def key(self) -> tuple[str, bool]:
        """What makes two phrases one vote: their text, and whether the answer ends with it."""
        return self.text.strip(), self.ends

    @property
    def mean_logprob(self) -> float:
        return self.logprob / max(len(self.tokens) + self.ends, 1)


async def write_by_phrases(
    context: Context, members: Mapping[str, MemberSpec], question: Question, unit: Unit
) -> Together:
    """Return the text that members write by voting on its words or sentences.

    Raises:
        FunctionError: a member is a recipe, vocabularies differ, weights make no sense.
        CapabilityError: a model cannot be stepped.
    """
    writers = make_writers(context, members, question)
    shares = shares_of(writers)
    check_vocabularies(writers)
    tokens: list[int] = []
    text, agreements, ended = "", [], False
    while not ended and len(tokens) < question.max_tokens:
        most = min(MOST_TOKENS[unit], question.max_tokens - len(tokens))
        phrases = await together(_propose(writer, tokens, unit, most) for writer in writers)
        winner, agreement = elect(phrases, [shares[writer.name] for writer in writers])
        agreements.append(agreement)
        tokens += winner.tokens
        text += winner.text
        ended = winner.ends
    return Together(
        text=text,
        finish_reason="stop" if ended else "length",
        n_tokens=len(tokens),
        weights=shares,
        agreement=sum(agreements) / len(agreements) if agreements else None,
        usage={writer.name: writer.context.usage for writer in writers},
    )


def elect(phrases: Sequence[Phrase], weights: Sequence[float]) -> tuple[Phrase, float]:
    """Return the phrase with the most votes and its share of them.

    Of phrases with equal votes, the one whose voters gave its tokens the highest mean log-probability wins; of those
    that are written in several tokens, the likeliest is taken.
    """
    votes: dict[tuple[str, bool], float] = {}
    sureness: dict[tuple[str, bool], float] = {}
    for phrase, weight in zip(phrases, weights, strict=True):
        votes[phrase.key] = votes.get(phrase.key, 0.0) + weight
        sureness[phrase.key] = sureness.get(phrase.key, 0.0) + weight * phrase.mean_logprob
    best = max(votes, key=lambda key: (round(votes[key], 9), sureness[key] / (votes[key] or 1.0), key))
    own = [phrase for phrase in phrases if phrase.key == best]
    return max(own, key=lambda phrase: (phrase.mean_logprob, phrase.tokens)), votes[best] / sum(weights)


async def _propose(writer: Writer, tokens: Sequence[int], unit: Unit, most: int) -> Phrase:
    """Continue the text by one phrase, in a session of its own: what is not chosen leaves no trace."""
    session = await writer.handle.open_session(writer.request)
    try:
        for token in tokens:
            await session.accept(token)
        return await _continue(session, unit, most)
    finally:
        await session.close()


async def _continue(session: Session, unit: Unit, most: int) -> Phrase:
    own: list[int] = []
    text, logprob = "", 0.0
    while len(own) < most:
        row = await session.next_logprobs()
        token = int(row.argmax())
        if token in session.ends:
            return Phrase(tuple(own), text, logprob + float(row[token]), ends=True)
        piece = await session.accept(token)
        if unit == "word" and text.strip() and piece[:1].isspace():
            break
        own.append(token)
        text, logprob = text + piece, logprob + float(row[token])
        if unit == "sentence" and ("\n" in piece or text.rstrip().endswith((".", "!", "?"))):
            break
    return Phrase(tuple(own), text, logprob, ends=False)
