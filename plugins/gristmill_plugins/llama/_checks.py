"""What a request must be before an engine sees it.

It needs no engine and no file. Invariant: every refusal is a ModelError with the cause "request", or a
CapabilityError, that says which part of the request is wrong and what to do.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

from gristmill import CapabilityError, GenerateRequest, Message, ModelError, ScoreRequest, suggest
from gristmill.schemas.jsonschema import problems


def check_generate(request: GenerateRequest, *, adapters: Collection[str], model: str) -> None:
    """Raise where an engine could not answer the request."""
    if not request.sample_indices:
        raise _refusal("the request asks for no sample", model)
    if request.members:
        _check_members(request, adapters, model)
    else:
        _check_messages(request.messages, model)
    for stop in request.sampling.stop:
        check_text(stop, model=model)
    _check_adapters(request.adapters, adapters, model)
    if request.sampling.beam_width > 1 and (
        request.members or request.json_schema is not None or request.top_logprobs is not None
    ):
        raise CapabilityError(f"{model} searches with beams only without schema, members and log-probabilities")
    if request.json_schema is not None and (found := problems(request.json_schema)):
        raise _refusal(f"the schema cannot be kept to: {'; '.join(map(str, found))}", model)


def check_score(request: ScoreRequest, *, adapters: Collection[str], model: str) -> None:
    """Raise where an engine could not score the choices."""
    _check_messages(request.messages, model)
    for choice in request.choices:
        check_text(choice, model=model)
    _check_adapters(request.adapters, adapters, model)


def check_text(text: str, *, model: str) -> None:
    """Raise where a text holds half of a character, which has no bytes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _refusal(
            f"the text holds {text[error.start]!r} at position {error.start}, half of a character",
            model,
            hint="decode the input with errors='replace', or mend where it comes from",
        ) from error


def check_length(texts: Iterable[str], *, longest_token: int, context_tokens: int, model: str) -> None:
    """Raise where the texts together are too long whatever their tokens are."""
    least = sum(map(len, texts)) // longest_token
    if least >= context_tokens:
        raise _refusal(
            f"the prompt takes at least {least} tokens, and the context of {model} holds {context_tokens}",
            model,
            hint="shorten the prompt, or declare the model with more context_tokens",
        )


def _check_members(request: GenerateRequest, adapters: Collection[str], model: str) -> None:
    if request.messages:
        raise _refusal("a request with members has its messages in them", model)
    weights = [member.weight for member in request.members]
    if not (all(weight >= 0 for weight in weights) and 0 < sum(weights) < math.inf):
        raise _refusal(f"the members' weights are {weights}: they must not be negative, nor all zero", model)
    for member in request.members:
        _check_messages(member.messages, model)
        _check_adapters(member.adapters, adapters, model)


def _check_messages(messages: Sequence[Message], model: str) -> None:
    if not any(message.content for message in messages):
        raise _refusal("the prompt is empty", model)
    for message in messages:
        check_text(message.content, model=model)


def _check_adapters(asked: dict[str, float], offered: Collection[str], model: str) -> None:
    for name, scale in asked.items():
        if name not in offered:
            raise _refusal(
                f"{name!r} is not an adapter of {model}: {suggest(name, offered)}",
                model,
                hint="adapters are declared with the model, under `adapters: {name: path}`",
            )
        if not math.isfinite(scale):
            raise _refusal(f"the scale of adapter {name!r} is {scale}: it must be a number", model)


def _refusal(text: str, model: str, *, hint: str | None = None) -> ModelError:
    return ModelError(text, model=model, cause="request", hint=hint)
