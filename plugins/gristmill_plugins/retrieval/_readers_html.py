"""What an HTML page shows, as text that knows the lines of its source and its headings.

Scripts, styles and templates are left out; blocks become lines. It runs nothing and fetches nothing. LlamaIndex's
HTMLTagReader reads one kind of tag, joins neighbouring blocks without a space, and keeps no lines.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser

from gristmill_plugins.retrieval._readers import Part

_HIDDEN = frozenset({"script", "style", "template", "noscript", "svg", "head"})
_BLOCK_NAMES = (
    "address article aside blockquote br dd details div dl dt fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6"
    " header hr li main nav ol p pre section summary table tbody tfoot thead tr ul"
)
_BLOCKS = frozenset(_BLOCK_NAMES.split())
_CELLS = frozenset({"td", "th"})
_SPACE = re.compile(r"\s+")


class _Page(HTMLParser):
    """Collects the shown text of a page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self.length = 0
        self.lines: list[tuple[int, int]] = []
        self.headings: list[tuple[int, str]] = []
        self.title = ""
        self._above: list[tuple[int, str]] = []
        self._hidden: list[str] = []
        self._heading: tuple[int, int, list[str]] | None = None
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "title":
            self._in_title = True
        elif tag in _HIDDEN:
            self._hidden.append(tag)
        elif tag == "body":
            self._hidden.clear()  # a head that was never closed
        elif tag in _BLOCKS:
            self._end_line()
            if tag[0] == "h" and tag[1:].isdigit():
                self._heading = (int(tag[1]), self.length, [])
        elif tag in _CELLS:
            self._add("\t" if self.pieces and not self.pieces[-1].endswith("\n") else "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        elif tag in self._hidden:
            del self._hidden[self._hidden.index(tag) :]
        elif tag in _BLOCKS:
            self._end_heading()
            self._end_line()

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data
            return
        if self._hidden:
            return
        first_line = self.getpos()[0]
        for i, line in enumerate(data.split("\n")):
            self._add_line((" " if i else "") + line, first_line + i)

    def _add_line(self, data: str, number: int) -> None:
        text = _SPACE.sub(" ", data)
        if not self.pieces or self.pieces[-1].endswith(("\n", " ", "\t")):
            text = text.lstrip()
        if text.strip() and (not self.lines or number > self.lines[-1][1]):
            self.lines.append((self.length, number))
        if text and self._heading is not None:
            self._heading[2].append(text)
        self._add(text)

    def _add(self, text: str) -> None:
        if text:
            self.pieces.append(text)
            self.length += len(text)

    def _end_line(self) -> None:
        if self.pieces and not self.pieces[-1].endswith("\n"):
            self._add("\n")

    def _end_heading(self) -> None:
        if self._heading is None:
            return
        level, offset, words = self._heading
        self._heading = None
        if title := "".join(words).strip():
            self._above = [*((depth, text) for depth, text in self._above if depth < level), (level, title)]
            self.headings.append((offset, " > ".join(text for _, text in self._above)))


def page_of(source: str) -> Part:
    """Return what a page shows as one part; its `title` is metadata."""
    page = _Page()
    page.feed(source)
    page.close()
    title = _SPACE.sub(" ", page.title).strip()
    return Part("".join(page.pieces), {"title": title} if title else {}, page.lines, page.headings)
