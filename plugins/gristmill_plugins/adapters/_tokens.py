"""Training examples to token ids, made by the engine that will answer later.

The chat template, the default system message and what may become a control token are the engine's; so a model is
trained on exactly the ids that it is asked with. It does not pad or batch. Invariant: the loss falls on the completion
and on the token that ends the turn, and on nothing that a user wrote.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from gristmill import FunctionError, Message, Model
from gristmill_plugins.adapters._examples import Example

AT_ONCE = 256


class _Tokenizes(Protocol):
    async def prompt_ids(self, messages: Sequence[Message]) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class Sequenced:
    """The ids of one example; the loss is on those from `start`."""

    ids: tuple[int, ...]
    start: int


def messages_of(example: Example, system: str | None, shots: Sequence[Example] = ()) -> list[Message]:
    """Return the messages that ask for an example's completion."""
    messages = [Message(role="system", content=system)] if system else []
    for shot in (*shots, example):
        messages.append(Message(role="user", content=shot.prompt or ""))
        if shot is not example:
            messages.append(Message(role="assistant", content=shot.completion))
    return messages


async def encode_chats(
    model: Model, examples: Sequence[Example], *, system: str | None, ends: frozenset[int]
) -> list[Sequenced]:
    """Return prompt and completion of each example as the model's template writes them.

    Raises:
        FunctionError: the template ends its turns with none of `ends`, or joins a prompt to its answer.
    """
    limit = asyncio.Semaphore(AT_ONCE)
    engine = cast(_Tokenizes, model)

    async def encode(example: Example) -> Sequenced:
        messages = messages_of(example, system)
        async with limit:
            prompt = await engine.prompt_ids(messages)
            whole = await engine.prompt_ids([*messages, Message(role="assistant", content=example.completion)])
        if whole[: len(prompt)] != prompt:
            raise FunctionError(f"the chat template writes {example.completion[:40]!r} together with its prompt")
        end = next((at for at in range(len(prompt), len(whole)) if whole[at] in ends), None)
        if end is None:
            raise FunctionError("the chat template does not end an answer with an end token", hint="train on `text`")
        return Sequenced(tuple(whole[: end + 1]), len(prompt))

    return list(await asyncio.gather(*map(encode, examples)))


def encode_texts(base: Path, examples: Sequence[Example], *, end: int, most: int) -> list[Sequenced]:
    """Return texts as ids, in pieces of at most `most`; the loss is on everything but the first token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(base.parent), gguf_file=base.name)
    found = []
    for example in examples:
        # split_special_tokens: text that spells a control token stays text.
        ids = tokenizer(example.completion, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        ids = [*ids, end]
        found += [Sequenced(tuple(ids[at : at + most]), 1) for at in range(0, len(ids), most) if len(ids) - at > 1]
    return found


def end_tokens(header: Mapping[str, Any]) -> frozenset[int]:
    """Return the ids that end a turn, by a model's metadata."""
    metadata = header["metadata"]
    found = (metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom"))
    return frozenset(token for token in found if isinstance(token, int))
