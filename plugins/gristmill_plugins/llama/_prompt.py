"""Rendered prompts to token ids, so that the text of users, documents and tools is never a control token.

It does not render templates. Invariants: a control id comes only from a control token written out in the
template's own text; text that holds none gets exactly the ids of the whole rendered prompt.

The rendered prompt is cut at the control tokens of its trusted segments. What lies between two cuts is one
run, whether it came from the template, a message or both, and is tokenised without looking for control
tokens; to cut between the template's text and a message's would change the ids of ordinary prompts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from gristmill import ModelError

ATTRIBUTE_LSTRIP, ATTRIBUTE_RSTRIP = 1 << 7, 1 << 8


class Segment(Protocol):
    """A piece of a rendered prompt: the template's own text, or a message's."""

    @property
    def text(self) -> str: ...

    @property
    def trusted(self) -> bool: ...


class Vocabulary(Protocol):
    """What this module needs to know about a vocabulary."""

    size: int
    bos: int
    adds_bos: bool

    @property
    def control(self) -> frozenset[int]: ...

    @property
    def special(self) -> frozenset[int]: ...

    def flags(self, token: int) -> int: ...

    def user_defined(self) -> Iterable[int]: ...

    def text(self, token: int) -> str: ...

    def tokenize(self, text: str) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class _Cut:
    """A control token that the template itself wrote."""

    token: int


class PromptTokenizer:
    """Tokenises the segments of a rendered prompt."""

    def __init__(self, vocabulary: Vocabulary, *, model: str, template: str = "") -> None:
        self._vocabulary = vocabulary
        self._model = model
        self._template = template

    @cached_property
    def _marks(self) -> dict[str, int]:
        """Text of every user-defined token that this template writes: llama.cpp finds those in any text.

        Some files list their role markers so.
        """
        texts = {self._vocabulary.text(token): token for token in self._vocabulary.user_defined()}
        return {text: token for text, token in texts.items() if text and text in self._template}

    @cached_property
    def _by_text(self) -> dict[str, int]:
        """Text of every token with a meaning of its own in this template, to its id."""
        texts = {self._vocabulary.text(token): token for token in self._vocabulary.special}
        return self._marks | {text: token for text, token in texts.items() if text}

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        texts = sorted(self._by_text, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, texts))) if texts else None

    def encode(self, segments: Iterable[Segment], *, add_bos: bool = True) -> list[int]:
        """Return the ids of a rendered prompt; `add_bos` adds the token that begins one where the file wants it."""
        ids: list[int] = []
        run = ""
        rstrip = False
        for part in self._parts(segments):
            if isinstance(part, str):
                run += part
                continue
            flags = self._vocabulary.flags(part.token)
            ids += self.encode_text(self._strip(run, left=rstrip, right=bool(flags & ATTRIBUTE_LSTRIP)))
            ids.append(part.token)
            run, rstrip = "", bool(flags & ATTRIBUTE_RSTRIP)
        ids += self.encode_text(self._strip(run, left=rstrip, right=False))
        if add_bos and self._vocabulary.adds_bos and self._vocabulary.bos >= 0 and ids[:1] != [self._vocabulary.bos]:
            ids.insert(0, self._vocabulary.bos)
        return ids

    def encode_text(self, text: str) -> list[int]:
        """Return the ids of text that holds no control token, whatever it says."""
        if not text:
            return []
        ids = self._vocabulary.tokenize(text)
        forbidden = self._forbidden
        if forbidden.isdisjoint(ids) or self._pattern is None:
            return ids
        # The vocabulary spells a control token with ordinary merges: break each occurrence after its first letter.
        broken: list[int] = []
        start = 0
        for match in self._pattern.finditer(text):
            broken += self._vocabulary.tokenize(text[start : match.start() + 1])
            start = match.start() + 1
        broken += self._vocabulary.tokenize(text[start:])
        if not forbidden.isdisjoint(broken):
            raise ModelError("the text cannot be written without control tokens", model=self._model, cause="request")
        return broken

    @cached_property
    def _forbidden(self) -> frozenset[int]:
        return self._vocabulary.control.union(self._marks.values())

    def _parts(self, segments: Iterable[Segment]) -> Iterable[str | _Cut]:
        """Yield text and control tokens in order; only trusted text is searched for them."""
        for segment in _merge_trusted(segments):
            if not segment[1] or self._pattern is None:
                yield segment[0]
                continue
            start = 0
            for match in self._pattern.finditer(segment[0]):
                yield segment[0][start : match.start()]
                yield _Cut(self._by_text[match.group()])
                start = match.end()
            yield segment[0][start:]

    @staticmethod
    def _strip(text: str, *, left: bool, right: bool) -> str:
        """Take off the white space that a neighbouring control token swallows."""
        text = text.lstrip() if left else text
        return text.rstrip() if right else text


def _merge_trusted(segments: Iterable[Segment]) -> Iterable[tuple[str, bool]]:
    """Join neighbours of one kind: a template may write a control token in two steps."""
    text, trusted = "", True
    for segment in segments:
        if segment.trusted != trusted:
            yield text, trusted
            text, trusted = "", segment.trusted
        text += segment.text
    yield text, trusted
