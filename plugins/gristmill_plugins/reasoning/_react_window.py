"""What of an agent's conversation its model still sees when it has outgrown the model's window.

The oldest results go first: each is cut to its beginning, then whole turns are left out, the oldest first, and at last
the latest result is cut. It calls no tool, and a model only to count tokens. Invariants: a conversation that fits is
shown whole; instructions, examples, the question and the latest call are always there; what was cut stays cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from gristmill import CapabilityError, Message, ModelHandle

TEMPLATE_TOKENS = 8
"""What a chat template puts around a message, at most in the templates looked at."""
BYTES_OF_A_TOKEN = 3
"""For models that cannot count: few, so that rather too much is cut than too little."""
SHORT = 100
"""Characters that are left of a result that was cut."""


@dataclass(slots=True)
class Exchange:
    """One turn: what the model wrote, and what it was told of it."""

    n: int
    said: Message
    told: list[Message] = field(default_factory=list)
    shown: Literal["whole", "short", "gone"] = "whole"

    @property
    def messages(self) -> list[Message]:
        """The turn as it is shown."""
        if self.shown == "gone":
            return []
        return [self.said, *(_shortened(one) if self.shown == "short" else one for one in self.told)]

    @property
    def is_long(self) -> bool:
        """Whether there is anything to shorten."""
        return self.shown == "whole" and any(len(one.content) > SHORT for one in self.told)


def _shortened(message: Message) -> Message:
    text = message.content
    return message if len(text) <= SHORT else message.model_copy(update={"content": text[: SHORT - 1] + "…"})


class Conversation:
    """An agent's conversation: its beginning, and a turn at a time."""

    def __init__(self, beginning: list[Message]) -> None:
        self.beginning = beginning
        self.exchanges: list[Exchange] = []
        self._sizes: dict[str, int] = {}

    @property
    def messages(self) -> list[Message]:
        """What the model is shown."""
        return [*self.beginning, *(message for one in self.exchanges for message in one.messages)]

    @property
    def trimmed(self) -> tuple[int, ...]:
        """The turns that are not shown whole, from 1."""
        return tuple(one.n for one in self.exchanges if one.shown != "whole")

    def say(self, n: int, message: Message) -> None:
        """Add what the model wrote in a turn."""
        self.exchanges.append(Exchange(n, message))

    def tell(self, message: Message) -> None:
        """Add what the model is told of its turn, or, before the first, of its question."""
        (self.exchanges[-1].told if self.exchanges else self.beginning).append(message)

    async def fit(self, model: ModelHandle, turn_tokens: int) -> str:
        """Cut until the next turn has room in the model's window; return what was cut now, in words.

        `turn_tokens` is what the next turn may take; half of the window is left for it at most. A model that does not
        know its window is shown everything.
        """
        try:
            window = model.model.context_tokens
        except CapabilityError:
            return ""
        room = window - min(turn_tokens, window // 2)
        before = {one.n: one.shown for one in self.exchanges}
        for exchange, shown in self._cuts():
            if await self._fits(model, room):
                break
            exchange.shown = shown
        return "; ".join(
            f"turn {one.n} {'left out' if one.shown == 'gone' else 'shortened'}"
            for one in self.exchanges
            if one.shown != before[one.n]
        )

    def _cuts(self) -> Iterator[tuple[Exchange, Literal["short", "gone"]]]:
        """Yield what can be cut, in order; the last turn is never left out."""
        earlier, last = self.exchanges[:-1], self.exchanges[-1:]
        yield from ((one, "short") for one in earlier if one.is_long)
        yield from ((one, "gone") for one in earlier if one.shown != "gone")
        yield from ((one, "short") for one in last if one.is_long)

    async def _fits(self, model: ModelHandle, room: int) -> bool:
        messages = self.messages
        frame = TEMPLATE_TOKENS * len(messages)
        if frame + sum(len(message.content.encode()) for message in messages) <= room:
            return True  # no token is shorter than a byte
        return frame + sum([await self._size(model, message.content) for message in messages]) <= room

    async def _size(self, model: ModelHandle, text: str) -> int:
        if text not in self._sizes:
            try:
                self._sizes[text] = await model.count_tokens(text)
            except CapabilityError:
                self._sizes[text] = -(-len(text.encode()) // BYTES_OF_A_TOKEN)
        return self._sizes[text]
