"""Passages as they stand in a prompt: quoted, fitted to the model's window, the best at both ends.

Retrieved text is data. Every line of it is quoted with `> `, after its line ends (all that Unicode has) were made
plain, so that no passage can end its own quotation; that it cannot become a control token or a role is the model's
and the kernel's part. Invariants: a passage keeps its number, its place in the list from 1, wherever it is shown;
what is not shown is reported.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gristmill import Message, ModelHandle, Passage
from gristmill_plugins.retrieval._answer_text import sentences

Fence = Literal["quoted", "plain"]
Order = Literal["ends", "rank"]
TEMPLATE_TOKENS = 64
"""Kept free for the chat template's own tokens: SmolLM2's takes 15 for two turns, Llama 3's 40 with its date."""
MOST_SOURCE = 120
"""Characters of a source that are shown: a file's name is text from outside, too."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What of the passages goes into a prompt."""

    text: str
    numbers: tuple[int, ...]
    """In the order in which they are shown."""
    left_out: tuple[int, ...]
    cut: bool = False
    """Whether the only passage shown was shortened, because not even the first one fitted."""


def quoted(number: int, passage: Passage, fence: Fence = "quoted") -> str:
    """Return a passage under its number and source, each line after `> ` unless `fence` is "plain"."""
    source = " ".join(passage.source.split())
    head = f"[{number}] {source if len(source) <= MOST_SOURCE else '…' + source[1 - MOST_SOURCE :]}".rstrip()
    lines = passage.text.splitlines() if fence == "quoted" else [passage.text]
    return "\n".join([head, *(f"> {line}" if fence == "quoted" else line for line in lines)])


def best_at_ends(numbers: Sequence[int]) -> list[int]:
    """Return numbers, best first, so that the best stand at both ends: 2 4 ... 5 3 1, the best next to the question.

    Liu et al. 2023, Lost in the Middle: models use what stands at the beginning or the end of a long context best. Of
    the two ends SmolLM2-135M reads the last: of five questions over four passages it answered none with the best
    passage first, and three with it last.
    """
    return [*numbers[1::2], *reversed(numbers[::2])]


async def fit(
    passages: Sequence[Passage], handle: ModelHandle, room: int, *, order: Order = "ends", fence: Fence = "quoted"
) -> Shown:
    """Return the best passages that fit into `room` tokens together; the first one is shortened if it must be."""
    blocks = [quoted(number, passage, fence) for number, passage in enumerate(passages, 1)]
    sizes = await asyncio.gather(*(handle.count_tokens(block + "\n\n") for block in blocks))
    numbers: list[int] = []
    for number, size in enumerate(sizes, 1):
        room -= size
        if room < 0:
            break
        numbers.append(number)
    if not numbers and passages:
        return await _cut(passages, handle, room + sizes[0], fence)
    shown = best_at_ends(numbers) if order == "ends" else numbers
    text = "\n\n".join(blocks[number - 1] for number in shown)
    return Shown(text, tuple(shown), tuple(range(len(numbers) + 1, len(passages) + 1)))


async def _cut(passages: Sequence[Passage], handle: ModelHandle, room: int, fence: Fence) -> Shown:
    """Show as many of the first passage's first sentences as there is room for."""
    first, kept, text = passages[0], "", ""
    for sentence in sentences(first.text):
        longer = f"{kept} {sentence}".strip()
        block = quoted(1, first.model_copy(update={"text": longer}), fence)
        if await handle.count_tokens(block) > room:
            break
        kept, text = longer, block
    shown = (1,) if kept else ()
    return Shown(text, shown, tuple(range(1 + len(shown), len(passages) + 1)), cut=bool(kept))


async def room_for_passages(
    handle: ModelHandle, messages: Sequence[Message], max_tokens: int, window: int | None
) -> int:
    """Return how many tokens passages may have beside `messages` (without them) and an answer."""
    own = await handle.count_tokens("\n".join(message.content for message in messages))
    whole = handle.model.context_tokens
    return min(whole, window or whole) - max_tokens - own - TEMPLATE_TOKENS
