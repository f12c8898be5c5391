"""A model's chat template, rendered so that a message's text can never become part of the template's own.

The template is rendered with a random word in place of each message's text. What stands around the words is the
template's, trusted, and may hold control tokens; the texts go where the words stood and are to be tokenised without
them. It does not tokenise. Invariants: no text of a message is ever seen by the template; a second rendering, with
other words, must differ in nothing but the words; and a template that fails either, leaves a message out, or breaks
the sandbox's bounds is refused, with the line.

What follows: a template cannot act on what a text says (`</think>` in an old answer is not cut out), and the same
roles give the same frame, which is kept.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from gristmill import Message, ModelError
from gristmill_plugins.llama._sandbox import SandboxedTemplate, TemplateFailure

if TYPE_CHECKING:
    from gristmill_plugins.llama._gguf_reader import GGUFHeader

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""For a model without a template whose vocabulary has ChatML's <|im_start|>."""
PLAIN = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content }}\n\n"
    "{% else %}{{ 'User: ' if message.role == 'user' else 'Assistant: ' }}{{ message.content }}\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""For every other model without a template, base models among them: a transcript in plain words."""
_MOST_FRAMES = 64
# What pads the second rendering's words: all of it goes when the template trims, the newlines alone when it strips
# those. The tab and the vertical tab tell the sides apart; templates hold neither.
_LEFT, _RIGHT = "\n\t\n", "\n\v\n"

Strip = Literal["none", "newlines", "all"]


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a prompt. Control tokens are read in it only when it is `trusted`: the template's own text."""

    text: str
    trusted: bool


@dataclass(frozen=True, slots=True)
class _Slot:
    """Where the text of message number `index` goes, and what the template strips from its ends."""

    index: int
    left: Strip
    right: Strip

    def fill(self, text: str) -> str:
        text = text if self.left == "none" else text.lstrip("\n" if self.left == "newlines" else None)
        return text if self.right == "none" else text.rstrip("\n" if self.right == "newlines" else None)


_Frame = tuple[str | _Slot, ...]


def source_of(header: GGUFHeader) -> str:
    """Return a model's chat template, or, when it has none, CHATML or PLAIN."""
    return header.chat_template or (CHATML if "<|im_start|>" in header.tokens else PLAIN)


class ChatTemplate:
    """A model's chat template. `segments` may be called from any thread.

    Args:
        source: the Jinja template, from the GGUF or one of this module's own.
        bos: text of the token that begins a sequence; the template says whether it is used.
        eos: text of the token that ends one.
        name: the model, for messages.
        now: the clock that `strftime_now` shows.
    """

    def __init__(
        self,
        source: str,
        *,
        bos: str,
        eos: str,
        name: str = "chat template",
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self.source = source
        self._bos, self._eos, self._name, self._now = bos, eos, name, now
        self._frames: dict[tuple[str, ...], _Frame] = {}
        self._lock = threading.Lock()
        try:
            self._template = SandboxedTemplate(source)
        except TemplateFailure as failure:
            raise self._error("cannot be used", failure.reason, failure.line) from None

    @classmethod
    def of(cls, header: GGUFHeader) -> ChatTemplate:
        """Return the model's own template, or, when it has none, CHATML or PLAIN."""
        return cls(source_of(header), bos=header.token("bos"), eos=header.token("eos"), name=header.path.name)

    @property
    def uses_clock(self) -> bool:
        """Whether the prompt may hold today's date, so that the same messages give another one tomorrow."""
        return "strftime_now" in self._template.names

    def segments(self, messages: Sequence[Message]) -> list[Segment]:
        """Return the prompt that asks for the next answer, in pieces; joined, they are the whole prompt.

        The template's own `bos` is part of it: a tokeniser must not add another.

        Raises:
            ModelError: the template refuses these messages, leaves one out, changes its text, or breaks a bound.
        """
        found: list[Segment] = []
        for piece in self._frame(tuple(message.role for message in messages)):
            if isinstance(piece, str):
                found.append(Segment(piece, trusted=True))
            elif text := piece.fill(messages[piece.index].content):
                found.append(Segment(text, trusted=False))
        return found

    def _frame(self, roles: tuple[str, ...]) -> _Frame:
        with self._lock:
            frame = self._frames.get(roles)
            if frame is None:
                frame = self._make_frame(roles)
                if not self.uses_clock:
                    if len(self._frames) >= _MOST_FRAMES:
                        self._frames.clear()
                    self._frames[roles] = frame
            return frame

    def _make_frame(self, roles: tuple[str, ...]) -> _Frame:
        now = self._now()
        # Two sets of words, unlike in length, letters and white space: a template that looks at them shows.
        short = [f"q{secrets.token_hex(8)}" for _ in roles]
        long = [f"Z{secrets.token_hex(12)}.  \n{secrets.token_hex(12).upper()}w" for _ in roles]
        texts, indices = _split(self._render(roles, short, now), short)
        padded = [f"{_LEFT}{word}{_RIGHT}" for word in long]
        second, second_indices = _split(self._render(roles, padded, now), long)
        for index, role in enumerate(roles):
            if index not in indices:
                raise self._error("cannot be used", f"it leaves out message {index + 1} ({role})", None)
        if indices != second_indices:
            raise self._error("cannot be used", "it changes with what the messages say", None)
        strips = [self._strips(texts, second, place) for place in range(len(texts))]
        frame: list[str | _Slot] = []
        for place, text in enumerate(texts):
            if text:
                frame.append(text)
            if place < len(indices):
                frame.append(_Slot(indices[place], strips[place][1], strips[place + 1][0]))
        return tuple(frame)

    def _strips(self, texts: list[str], second: list[str], place: int) -> tuple[Strip, Strip]:
        """Say what was stripped behind the word before the text at `place`, and before the word after it."""
        nothing: dict[str, Strip] = {"": "none"}
        behind = _remainders(_RIGHT, "left") if place else nothing
        before = _remainders(_LEFT, "right") if place < len(texts) - 1 else nothing
        for right_rest, right in behind.items():
            for left_rest, left in before.items():
                if second[place] == right_rest + texts[place] + left_rest:
                    return right, left
        raise self._error("cannot be used", "it changes the text of messages, or changes with it", None)

    def _render(self, roles: tuple[str, ...], words: list[str], now: datetime) -> str:
        values = {
            "messages": [{"role": role, "content": word} for role, word in zip(roles, words, strict=True)],
            "add_generation_prompt": True,
            "bos_token": self._bos,
            "eos_token": self._eos,
            "tools": None,
            "documents": None,
        }
        try:
            return self._template.render(values, now)
        except TemplateFailure as failure:
            if failure.by_template:
                listed = ", ".join(roles) or "no messages"
                raise self._error(f"refuses these messages ({listed})", failure.reason, failure.line) from None
            raise self._error("cannot be used", failure.reason, failure.line) from None

    def _error(self, what: str, reason: str, line: int | None) -> ModelError:
        place = f", line {line}" if line else ""
        shown = _line_of(self.source, line)
        refused = what.startswith("refuses")
        return ModelError(
            f"{self._name}: the model's chat template{place} {what}: {reason}" + (f"\n    {shown}" if shown else ""),
            model=self._name,
            cause="request" if refused else "file",
            hint="write the messages as it wants them; instructions can go into the first user message"
            if refused
            else "use a model with another template",
        )


def _remainders(pad: str, side: Literal["left", "right"]) -> dict[str, Strip]:
    """Map what may be left of a pad to how much the template stripped from its outer side."""
    newlines = pad.rstrip("\n") if side == "left" else pad.lstrip("\n")
    return {pad: "none", newlines: "newlines", "": "all"}


def _split(text: str, words: list[str]) -> tuple[list[str], list[int]]:
    """Return the texts around the words, one more than words were found, and which words they were."""
    if not words:
        return [text], []
    number = {word: index for index, word in enumerate(words)}
    parts = re.split("(" + "|".join(map(re.escape, words)) + ")", text)
    return parts[::2], [number[word] for word in parts[1::2]]


def _line_of(source: str, line: int | None) -> str:
    lines = source.splitlines()
    if not line or line > len(lines):
        return ""
    text = lines[line - 1].strip()
    return text if len(text) <= 160 else text[:160] + " ..."
