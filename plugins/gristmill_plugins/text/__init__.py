"""The `text` plugin: the small glue between steps: read, split, pack, join, match.

It calls no model but for counting tokens. Invariant: splitting loses nothing (the pieces of `split`, overlaps aside,
hold every character but the white space at their edges), and packing never cuts an item.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from gristmill import Context, FunctionError, ModelRef, Value, function

MOST_BYTES = 50_000_000


class Packed(Value):
    """What fitted into a window of tokens, and what did not."""

    text_field = "text"

    text: str
    """The items that fitted, joined."""
    items: tuple[str, ...]
    dropped: tuple[str, ...]
    n_tokens: int


class Match(Value):
    """Where a pattern was found."""

    text_field = "text"

    text: str
    groups: tuple[str | None, ...] = ()
    named: dict[str, str | None] = Field(default_factory=dict)
    start: int
    """Character offset, from 0."""


class TextPlugin:
    """Reads, splits, packs, joins and searches text."""

    @function
    def read(
        self,
        path: Annotated[Path, "A UTF-8 text file below the recipe's folder, or given as an input."],
        *,
        encoding: Annotated[str, "Any encoding Python knows."] = "utf-8",
    ) -> str:
        """Return the text of a file, its line ends as they are."""
        try:
            size_bytes = path.stat().st_size
            if not path.is_file():
                raise FunctionError(f"{path} is not a file")
            if size_bytes > MOST_BYTES:
                raise FunctionError(f"{path} has {size_bytes:,} bytes, the most is {MOST_BYTES:,}", hint="split it")
            return path.read_bytes().decode("utf-8-sig" if encoding == "utf-8" else encoding)
        except OSError as error:
            raise FunctionError(f"{path} cannot be read: {error.strerror}") from error
        except LookupError as error:
            raise FunctionError(f"{encoding!r} is no encoding", hint="utf-8, utf-16, latin-1, ...") from error
        except UnicodeDecodeError as error:
            raise FunctionError(f"{path} is not {encoding}: byte {error.start}", hint="name its encoding") from error

    @function(pure=True)
    async def split(
        self,
        text: Annotated[str, "What to split."],
        *,
        by: Annotated[Literal["chars", "words", "lines", "paragraphs", "sentences"], "The unit of size."] = "words",
        size: Annotated[int, "How many units a piece has at most."] = 300,
        overlap: Annotated[int, "How many units a piece repeats of the one before."] = 0,
    ) -> list[str]:
        """Return the pieces of a text, in order; empty ones are left out."""
        if size < 1 or not 0 <= overlap < size:
            raise FunctionError(f"size is 1 or more and overlap from 0 below it: size={size}, overlap={overlap}")
        starts = list(_starts(text, by))
        pieces = []
        for first in range(0, len(starts), size - overlap):
            last = first + size
            end = starts[last] if last < len(starts) else len(text)
            pieces.append(text[starts[first] : end].strip())
            if last >= len(starts):
                break
        return [piece for piece in pieces if piece]

    @function
    async def pack(
        self,
        items: Annotated[list[str], "The most important first."],
        tokens: Annotated[int, "How many tokens there is room for."],
        context: Context,
        *,
        model: Annotated[ModelRef, "Whose tokens are counted."],
        separator: Annotated[str, "What stands between two items."] = "\n\n",
    ) -> Packed:
        """Return as many whole items, in order, as fit into a number of tokens."""
        if tokens < 1:
            raise FunctionError(f"tokens is 1 or more, this is {tokens}")
        handle = context.model(model)
        kept: list[str] = []
        n_tokens = 0
        for item in items:
            together = await handle.count_tokens(separator.join([*kept, item]))
            if together > tokens:
                break
            kept.append(item)
            n_tokens = together
        return Packed(
            text=separator.join(kept), items=tuple(kept), dropped=tuple(items[len(kept) :]), n_tokens=n_tokens
        )

    @function(pure=True)
    async def join(
        self,
        items: Annotated[list[str], "What to join."],
        *,
        separator: Annotated[str, "What stands between two items."] = "\n",
    ) -> str:
        """Return the items as one text."""
        return separator.join(items)

    @function(pure=True)
    def match(
        self,
        text: Annotated[str, "Where to look."],
        pattern: Annotated[str, "A Python regular expression."],
        *,
        ignore_case: Annotated[bool, "Let a match a and A."] = False,
    ) -> list[Match]:
        """Return every match of a pattern, in order."""
        found = _search(pattern, text, ignore_case)
        return [
            Match(text=hit["text"], groups=tuple(hit["groups"]), named=hit["named"], start=hit["start"])
            for hit in found
        ]


# Matches, of no width, where a unit begins; each in linear time.
_STARTS = {
    "chars": re.compile(r"(?=.)", re.DOTALL),
    "words": re.compile(r"(?<!\S)(?=\S)"),
    "sentences": re.compile(r"(?:\A\s*|(?<=[.!?])\s+)(?=\S)"),
}


def _starts(text: str, unit: str) -> Iterator[int]:
    """Yield the offset of each unit's first character."""
    if unit in _STARTS:
        yield from (match.end() for match in _STARTS[unit].finditer(text))
        return
    offset, after_blank = 0, True
    for line in text.split("\n"):
        if line.strip():
            if unit == "lines" or after_blank:
                yield offset + len(line) - len(line.lstrip())
            after_blank = False
        else:
            after_blank = True
        offset += len(line) + 1


def _search(pattern: str, text: str, ignore_case: bool) -> list[dict[str, Any]]:
    """Search in bounded time: Python's engine can take exponential time on a hostile pattern."""
    import regex

    try:
        compiled = regex.compile(pattern, regex.IGNORECASE if ignore_case else 0)
        return [
            {"text": hit.group(), "groups": hit.groups(), "named": hit.groupdict(), "start": hit.start()}
            for hit in compiled.finditer(text, timeout=MATCH_WITHIN_S)
        ]
    except regex.error as error:
        raise FunctionError(f"{pattern!r} is no regular expression: {error}") from error
    except TimeoutError as error:
        raise FunctionError(f"matching {pattern!r} took longer than {MATCH_WITHIN_S:g} s") from error


MATCH_WITHIN_S = 2.0
