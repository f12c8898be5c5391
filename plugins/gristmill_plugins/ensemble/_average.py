"""Members that write one text together, token by token, over the vocabulary that they share.

Members of one model (prompts, adapters) decode in one batch of its engine; members of several models, such as two
quantisations, are stepped through sessions. Invariants: every token is drawn from the members' combined prediction
after the same text; with one member the text is its own greedy text; members that number their tokens otherwise are
refused before anything is decoded.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gristmill import (
    CapabilityError,
    Combine,
    Context,
    FunctionError,
    GenerateRequest,
    Member,
    ModelHandle,
    Sampling,
    Session,
    Usage,
    Value,
)

from ._ask_member import MemberSpec, Question, messages_of
from ._ask_together import together

if TYPE_CHECKING:
    import numpy as np


class Together(Value):
    """A text that several members wrote together."""

    text_field = "text"

    text: str
    finish_reason: Literal["stop", "length"]
    """"stop": the members ended it; "length": `max_tokens` or the context was full."""
    n_tokens: int
    weights: dict[str, float]
    """Member to its share, summing to 1."""
    agreement: float | None = None
    """The mean share of the votes that won, for `vote_tokens` by phrases."""
    usage: dict[str, Usage] = {}
    """Member to what it cost. Members that decode in one batch each read the whole text: the step counts it once."""


@dataclass(frozen=True, slots=True)
class Writer:
    """A member, ready to decode."""

    name: str
    model: str
    adapters: dict[str, float]
    handle: ModelHandle
    context: Context
    request: GenerateRequest
    weight: float


async def write_together(
    context: Context, members: Mapping[str, MemberSpec], question: Question, combine: Combine
) -> Together:
    """Return the text that members decode together.

    Raises:
        FunctionError: a member is a recipe, vocabularies differ, weights make no sense.
        CapabilityError: a model can neither decode members nor be stepped.
    """
    writers = make_writers(context, members, question)
    shares = shares_of(writers)
    if len({writer.model for writer in writers}) == 1 and "members" in writers[0].handle.model.capabilities:
        return await _in_one_batch(context, writers, question, combine, shares)
    check_vocabularies(writers)
    return await _in_step(writers, question, combine, shares)


def make_writers(context: Context, members: Mapping[str, MemberSpec], question: Question) -> list[Writer]:
    """Return the members as they decode, each with a context that counts what it costs."""
    if not members:
        raise FunctionError("an ensemble needs members", hint="members: {first: {prompt: ...}, second: {prompt: ...}}")
    writers = []
    for name, spec in members.items():
        if spec.recipe is not None:
            raise FunctionError(
                f"member {name!r} is a recipe, and its tokens cannot be averaged",
                hint="ensemble.choose averages recipes that give a choice, ensemble.vote counts any answers",
            )
        model = spec.model or question.model
        if model is None:
            raise FunctionError(f"member {name!r} has no model", hint="give it one, or write `model:` beside `use:`")
        part = context.apart(name)
        handle = part.model(model, adapters=dict(spec.adapters)) if spec.adapters else part.model(model)
        sampling = Sampling(temperature=question.temperature, max_tokens=question.max_tokens)
        request = GenerateRequest(messages=messages_of(name, spec, question), sampling=sampling)
        writers.append(Writer(name, model, dict(spec.adapters), handle, part, request, spec.weight))
    return writers


def shares_of(writers: Sequence[Writer]) -> dict[str, float]:
    """Return weights that sum to 1."""
    total = sum(writer.weight for writer in writers)
    if total <= 0:
        raise FunctionError("the members' weights are all zero")
    return {writer.name: writer.weight / total for writer in writers}


def check_vocabularies(writers: Sequence[Writer]) -> None:
    """Refuse members whose tokens do not mean the same.

    Raises:
        FunctionError: vocabularies differ; it names two members and what works instead.
        CapabilityError: a model cannot be stepped, or does not show its vocabulary.
    """
    instead = "ensemble.choose averages over choices, and ensemble.vote over whole answers, of any models"
    digests: dict[str, str] = {}
    for writer in writers:
        model = writer.handle.model
        if "sessions" not in model.capabilities:
            raise CapabilityError(f"member {writer.name!r}: {model.name} cannot be stepped by token", hint=instead)
        digests[writer.name] = model.vocabulary_digest
    first, digest = next(iter(digests.items()))
    other = next((name for name in digests if digests[name] != digest), None)
    if other is not None:
        raise FunctionError(
            f"members {first!r} and {other!r} have different vocabularies: their next tokens cannot be combined",
            hint=instead,
        )


async def _in_one_batch(
    context: Context, writers: Sequence[Writer], question: Question, combine: Combine, shares: dict[str, float]
) -> Together:
    """Let the engine combine the members; a member without adapters has the step's."""
    request = GenerateRequest(
        members=tuple(Member(messages=w.request.messages, adapters=w.adapters, weight=w.weight) for w in writers),
        combine=combine,
        sampling=writers[0].request.sampling,
        seed=question.seed,
        top_logprobs=0,  # so that the number of tokens is known, also from the cache
    )
    batch = context.apart("+".join(shares))
    (completion,) = await batch.model(writers[0].model).generate(request)
    n_tokens = len(completion.logprobs or ())
    return Together(
        text=completion.text,
        finish_reason=completion.finish_reason,
        n_tokens=n_tokens,
        weights=shares,
        usage=await _usage_of_batch(writers, batch.usage, n_tokens),
    )


async def _usage_of_batch(writers: Sequence[Writer], batch: Usage, n_tokens: int) -> dict[str, Usage]:
    """Split the prompt's tokens: each member's own text, and an equal part of what the templates add."""
    texts = ["".join(message.content for message in writer.request.messages) for writer in writers]
    own = await together(w.handle.count_tokens(text) for w, text in zip(writers, texts, strict=True))
    n_prompt = batch.prompt_tokens or batch.cached_tokens - n_tokens
    added, rest = divmod(n_prompt - sum(own), len(writers))
    usage = {}
    for place, (writer, n_own) in enumerate(zip(writers, own, strict=True)):
        n_own += added + (place < rest)
        spent = {"prompt_tokens": n_own, "completion_tokens": n_tokens} if batch.calls else {}
        cached = 0 if batch.calls else n_own + n_tokens
        usage[writer.name] = Usage(**spent, cached_tokens=cached, calls=batch.calls, elapsed_s=batch.elapsed_s)
    return usage


async def _in_step(
    writers: Sequence[Writer], question: Question, combine: Combine, shares: dict[str, float]
) -> Together:
    """Step one session a member: look at all rows, draw one token, hand it to all."""
    chance = random.Random(question.seed)
    weights = [shares[writer.name] for writer in writers]
    text, n_tokens, reason = "", 0, "length"
    async with open_sessions(writers) as sessions:
        while n_tokens < question.max_tokens:
            rows = await together(_next(session) for session in sessions)
            token = pick(combine_rows(rows, weights, combine), question.temperature, chance)
            if any(token in session.ends for session in sessions):
                reason = "stop"
                break
            pieces = await together(_accept(session, token) for session in sessions)
            text += pieces[0]
            n_tokens += 1
    return Together(
        text=text,
        finish_reason="stop" if reason == "stop" else "length",
        n_tokens=n_tokens,
        weights=shares,
        usage={writer.name: writer.context.usage for writer in writers},
    )


async def _next(session: Session) -> np.ndarray:
    return await session.next_logprobs()


async def _accept(session: Session, token: int) -> str:
    return await session.accept(token)


@asynccontextmanager
async def open_sessions(writers: Sequence[Writer]) -> AsyncIterator[list[Session]]:
    """Open a session for each member, and close every one that was opened."""
    async with AsyncExitStack() as stack:
        sessions = []
        for writer in writers:
            session = await writer.handle.open_session(writer.request)
            stack.push_async_callback(session.close)
            sessions.append(session)
        yield sessions


def combine_rows(rows: Sequence[np.ndarray], weights: Sequence[float], how: Combine) -> np.ndarray:
    """Return `(n_vocabulary,) float64` natural log-probabilities from the members' own, which sum to 1.

    "arithmetic" is the weighted mean of probabilities, "geometric" that of log-probabilities, normalised again; in a
    "vote" each member gives its weight to its likeliest token, and the mean probability breaks ties.
    """
    import numpy as np

    logs = np.stack(rows).astype(np.float64)
    shares = np.asarray(weights, np.float64)[:, None] / sum(weights)
    with np.errstate(divide="ignore"):
        if how == "geometric":
            floored = np.maximum(logs, LEAST_LOGPROB)
            mean = np.exp((shares * floored).sum(axis=0))
        else:
            mean = (shares * np.exp(logs)).sum(axis=0)
        if how == "vote":
            votes = np.zeros_like(mean)
            np.add.at(votes, logs.argmax(axis=1), shares[:, 0])
            mean = votes + TIE_BREAK * mean * (votes > 0)
        combined: np.ndarray = np.log(mean / mean.sum())
    return combined


LEAST_LOGPROB = -1e4
"""In a geometric mean a token that one member rules out stays comparable with others that it rules out."""
TIE_BREAK = 1e-6
"""How much a token's mean probability counts beside votes."""


def pick(logprobs: np.ndarray, temperature: float, chance: random.Random) -> int:
    """Return the likeliest token, or at a temperature above 0 one that is drawn."""
    import numpy as np

    if temperature == 0:
        return int(logprobs.argmax())
    scaled = logprobs / temperature
    shares = np.exp(scaled - scaled.max()).cumsum()
    return min(int(np.searchsorted(shares, chance.random() * shares[-1], side="right")), len(shares) - 1)
