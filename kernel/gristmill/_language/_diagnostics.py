"""A mistake in a file: where it is, what is wrong, what to do; and how it is shown.

It decides nothing about recipes. Invariant: line and column are 1-based and count characters (code points) of the
file as decoded, with `\\n`, `\\r\\n` and `\\r` as line ends and a byte order mark not counted.
"""

from __future__ import annotations

import bisect
import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Severity = Literal["error", "warning"]

_MOST_SHOWN = 160


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One mistake. `code` is a stable name for tools; `source` is the line it stands on."""

    path: str
    line: int
    column: int
    width: int
    severity: Severity
    code: str
    message: str
    hint: str
    source: str

    def render(self) -> str:
        """Return the message as compilers print it, with the line and a caret; never wrapped."""
        head = f"{self.path}:{self.line}:{self.column}: {self.severity}: {self.message}"
        if not self.source.strip():
            return f"{head}\n  {self.hint}" if self.hint else head
        source, column = _window(self.source, self.column)
        gutter = " " * len(str(self.line))
        caret = _pad(source[: column - 1]) + "^" * max(1, min(self.width, len(source) - column + 1))
        hint = f" {self.hint}" if self.hint else ""
        return f"{head}\n{gutter} |\n{self.line} | {source}\n{gutter} | {caret}{hint}"

    def as_json(self) -> dict[str, Any]:
        """Return the fields for tools; `utf16_column` is what editors and SARIF count."""
        utf16 = len(self.source[: self.column - 1].encode("utf-16-le", "surrogatepass")) // 2 + 1
        keys = ("path", "line", "column", "width", "severity", "code", "message", "hint")
        return {key: getattr(self, key) for key in keys} | {"utf16_column": utf16}

    def as_github(self) -> str:
        """Return the workflow command that makes GitHub annotate the line."""
        text = f"{self.message}. {self.hint}" if self.hint else self.message
        escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
        return f"::{self.severity} file={self.path},line={self.line},col={self.column}::{escaped}"


def _window(source: str, column: int) -> tuple[str, int]:
    """Cut a very long line around the column, so that a message never prints a whole minified file."""
    start = max(0, column - 1 - _MOST_SHOWN // 2) if len(source) > _MOST_SHOWN else 0
    end = start + _MOST_SHOWN
    printable = "".join(c if c == "\t" or unicodedata.category(c) != "Cc" else "�" for c in source[start:end])
    lead, rest = "…" if start else "", "…" if end < len(source) else ""
    return lead + printable + rest, column - start + len(lead)


def _pad(before: str) -> str:
    """Return blanks as wide as `before` on a terminal: tabs stay tabs, wide characters count twice."""
    pad = []
    for char in before:
        wide = unicodedata.east_asian_width(char) in "WF"
        pad.append("\t" if char == "\t" else "" if unicodedata.combining(char) else "  " if wide else " ")
    return "".join(pad)


_LINE_END = re.compile(r"\r\n|\n|\r")


class SourceText:
    """A file's text with its line starts: turns offsets into lines and columns."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.text = text
        self._starts = [0, *(match.end() for match in _LINE_END.finditer(text))]
        self._lines: dict[int, str] = {}

    def position(self, offset: int) -> tuple[int, int]:
        """Return 1-based line and column of a character offset."""
        line = bisect.bisect_right(self._starts, min(offset, len(self.text)))
        return line, offset - self._starts[line - 1] + 1

    def line(self, number: int) -> str:
        """Return a line's text without its end; the same object each time, since a line may be the whole file."""
        if number not in self._lines:
            start = self._starts[number - 1]
            end = self._starts[number] if number < len(self._starts) else len(self.text)
            self._lines[number] = self.text[start:end].rstrip("\r\n")
        return self._lines[number]

    def diagnostic(
        self, start: int, end: int, message: str, *, code: str, hint: str = "", severity: Severity = "error"
    ) -> Diagnostic:
        """Make a diagnostic for the characters from `start` to `end`; the caret stays on the first line."""
        line, column = self.position(start)
        source = self.line(line)
        width = max(1, min(end - start, len(source) - column + 1))
        return Diagnostic(self.path, line, column, width, severity, code, message, hint, source)


def sort_unique(diagnostics: Iterable[Diagnostic]) -> list[Diagnostic]:
    """Order by file and position; the same mistake at the same place (an alias used twice) is told once."""
    unique = dict.fromkeys(diagnostics)
    return sorted(unique, key=lambda d: (d.path, d.line, d.column, d.severity, d.message))


def shorten_path(path: Path) -> str:
    """Return the path as messages show it: relative when it is under the current folder."""
    try:
        relative = os.path.relpath(path)
    except ValueError:
        return str(path)
    return str(path) if relative.startswith("..") else relative
