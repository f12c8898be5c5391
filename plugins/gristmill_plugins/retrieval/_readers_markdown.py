"""Where the headings of a Markdown text stand.

It knows `#` headings, and that there are none inside fenced code. LlamaIndex's MarkdownNodeParser rewrites what it
splits, so that its pieces cannot be found in the file again, and takes `~~~` fences for text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_HEADING = re.compile(r" {0,3}(#{1,6})[ \t]+(.+?)[ \t]*#*[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)$")


def headings(text: str) -> Iterator[tuple[int, str]]:
    """Yield (character offset of a heading's line, that heading and those above it joined by " > ")."""
    above: list[tuple[int, str]] = []
    fence = ""
    offset = 0
    for line in text.split("\n"):
        marks = _FENCE.match(line)
        if fence:
            if marks and marks[1].startswith(fence) and not marks[2].strip():
                fence = ""
        elif marks and not (marks[1][0] == "`" and "`" in marks[2]):
            fence = marks[1]
        elif found := _HEADING.match(line):
            level = len(found[1])
            above = [*((depth, title) for depth, title in above if depth < level), (level, found[2])]
            yield offset, " > ".join(title for _, title in above)
        offset += len(line) + 1
