"""From a file to parts of text that know where their lines, pages and headings are.

PDF and DOCX are read by LlamaIndex's readers, as is any kind for which a reader is registered by name. Text, Markdown,
HTML, JSONL and CSV are read here, because a citation needs the line, which LlamaIndex's readers do not keep. It splits
nothing. Invariant: a file that cannot be read is a FunctionError that says why, whatever its reader raised.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import logging
import re
import zipfile
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gristmill import FunctionError, PluginError

MOST_BYTES = 500_000_000
MOST_UNPACKED_BYTES = 500_000_000
"""Of a DOCX, which is a ZIP archive and may be packed a thousandfold."""
INSTALL = 'pip install "gristmill[retrieval]"'
_TEXT_FIELDS = ("text", "content", "body", "passage", "contents")


@dataclass(frozen=True, slots=True)
class Part:
    """Text that belongs together: a file, a page, a row. `metadata` holds for all of it."""

    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    lines: Sequence[tuple[int, int]] = ()
    """(character offset, line of the file) where lines begin, offsets rising; empty where lines mean nothing."""
    headings: Sequence[tuple[int, str]] = ()
    """(character offset, the headings above joined by " > ")."""
    continues: bool = False
    """Whether it goes on where the part before it ended, as a page does."""

    def line_at(self, offset: int) -> int | None:
        """Return the line of the file that holds a character; None where lines mean nothing."""
        place = bisect_right(self.lines, offset, key=lambda pair: pair[0]) - 1
        return self.lines[place][1] if place >= 0 else None

    def heading_at(self, offset: int) -> str:
        """Return the headings above a character."""
        place = bisect_right(self.headings, offset, key=lambda pair: pair[0]) - 1
        return self.headings[place][1] if place >= 0 else ""


Reader = Callable[[Path], list[Part]]


def read_text(path: Path) -> list[Part]:
    """Read a text file as one part."""
    text = decoded(path)
    return [Part(text, lines=line_starts(text))]


def read_markdown(path: Path) -> list[Part]:
    """Read a Markdown file as one part, with its headings."""
    from gristmill_plugins.retrieval._readers_markdown import headings

    text = decoded(path)
    return [Part(text, lines=line_starts(text), headings=list(headings(text)))]


def read_html(path: Path) -> list[Part]:
    """Read what an HTML page shows, with the lines of its source and its headings."""
    from gristmill_plugins.retrieval._readers_html import page_of

    return [page_of(decoded(path))]


def read_jsonl(path: Path) -> list[Part]:
    """Read each line as a part: its text is `text` or `content`, or else all its texts; other scalars are metadata."""
    parts = []
    for number, line in enumerate(decoded(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise FunctionError(f"line {number} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise FunctionError(f"line {number} is no JSON object", hint='each line is like {"text": "..."}')
        parts.append(_row(row, number))
    return parts


def read_csv(path: Path) -> list[Part]:
    """Read each row as a part, under the names of the first row; `.tsv` is separated by tabs."""
    reader = csv.reader(io.StringIO(decoded(path), newline=""), delimiter="\t" if path.suffix == ".tsv" else ",")
    parts: list[Part] = []
    names: list[str] | None = None
    try:
        line = 1
        for cells in reader:
            if names is None:
                names = [name.strip() or f"column {i}" for i, name in enumerate(cells, start=1)]
            elif any(cells):
                if len(cells) > len(names):
                    raise FunctionError(f"line {line} has {len(cells)} cells under {len(names)} names")
                parts.append(_row(dict(zip(names, cells, strict=False)), line))
            line = reader.line_num + 1
    except csv.Error as error:
        raise FunctionError(f"line {reader.line_num} is no CSV: {error}") from error
    return parts


def _row(row: Mapping[str, Any], line: int) -> Part:
    """Make a part of a row of fields."""
    name = next((name for name in _TEXT_FIELDS if isinstance(row.get(name), str)), None)
    if name is not None:
        text = row[name]
    else:
        shown = ((key, value) for key, value in row.items() if isinstance(value, str | int | float) and key != "id")
        text = "\n".join(f"{key}: {value}" for key, value in shown if value != "")
    metadata = {
        "row_id" if key == "id" else whole(key): whole(value) if isinstance(value, str) else value
        for key, value in row.items()
        if key != name and (isinstance(value, bool | int | float) or (isinstance(value, str) and value))
    }
    return Part(whole(text), metadata, lines=[(0, line)])


def whole(text: str) -> str:
    """Return a text without half characters, which JSON can write and nothing can store."""
    return text.encode("utf-8", "replace").decode()


def read_pdf(path: Path) -> list[Part]:
    """Read each page of a PDF as a part, through LlamaIndex's PDFReader."""
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # what it warns of three times is said once, by us
    documents = _llama_index_readers().PDFReader().load_data(path)
    return [
        Part(whole(document.text), {"page": number}, continues=number > 1)
        for number, document in enumerate(documents, start=1)
    ]


def read_docx(path: Path) -> list[Part]:
    """Read a Word document as one part, through LlamaIndex's DocxReader."""
    with zipfile.ZipFile(path) as archive:
        unpacked_bytes = sum(entry.file_size for entry in archive.infolist())
    if unpacked_bytes > MOST_UNPACKED_BYTES:
        raise FunctionError(f"it unpacks to {unpacked_bytes:,} bytes, the most is {MOST_UNPACKED_BYTES:,}")
    return [Part(whole(document.text)) for document in _llama_index_readers().DocxReader().load_data(path)]


def _llama_index_readers() -> Any:
    """Import LlamaIndex's readers; one of them puts a handler on the root logger, which is taken off again."""
    handlers, level = logging.root.handlers[:], logging.root.level
    try:
        return importlib.import_module("llama_index.readers.file")
    finally:
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)


READERS: Mapping[str, Reader] = {
    ".txt": read_text, ".text": read_text, ".log": read_text, ".rst": read_text,
    ".md": read_markdown, ".markdown": read_markdown,
    ".html": read_html, ".htm": read_html,
    ".jsonl": read_jsonl, ".ndjson": read_jsonl, ".csv": read_csv, ".tsv": read_csv,
    ".pdf": read_pdf, ".docx": read_docx,
}  # fmt: skip


def read_file(path: Path, registered: Mapping[str, Any]) -> list[Part]:
    """Return the parts of a file that have any text. `registered` maps an ending to a LlamaIndex reader.

    Raises:
        FunctionError: it cannot be read; the message does not name the file, the caller does.
        PluginError: a library is missing.
    """
    ending = path.suffix.lower()
    if path.stat().st_size > MOST_BYTES:
        raise FunctionError(f"it has {path.stat().st_size:,} bytes, the most is {MOST_BYTES:,}", hint="split it")
    own = registered.get(ending)
    try:
        parts = _through(own, path) if own is not None else READERS[ending](path)
    except (FunctionError, PluginError):
        raise
    except ModuleNotFoundError as error:
        raise PluginError(f"reading {ending} files needs {error.name}", hint=INSTALL) from error
    except Exception as error:
        raise FunctionError(f"it cannot be read: {_cause(error)}") from error
    return [part for part in parts if part.text.strip()]


def _through(reader: Any, path: Path) -> list[Part]:
    """Read through a LlamaIndex reader: each document is a part; its scalar metadata is kept."""
    documents = reader.load_data(path)
    return [
        Part(
            whole(document.get_content()),
            {key: value for key, value in document.metadata.items() if isinstance(value, str | int | float | bool)},
        )
        for document in documents
    ]


def _cause(error: BaseException) -> str:
    """Say what happened, also where a reader tried several times and only says so."""
    attempt = getattr(error, "last_attempt", None)
    inner = attempt.exception() if attempt is not None else None
    told = inner or error
    return f"{type(told).__name__}: {told}" if str(told) else type(told).__name__


def decoded(path: Path) -> str:
    """Return the text of a UTF-8 file, or of a UTF-16 one that says so; line ends become `\\n`.

    Raises:
        FunctionError: it is of another encoding, or no text.
    """
    data = path.read_bytes()
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise FunctionError(f"it is not {encoding.removesuffix('-sig')}: byte {error.start}") from error
    if "\0" in text:
        raise FunctionError("it is no text: it holds a NUL")
    return text.replace("\r\n", "\n").replace("\r", "\n")


_LINE_END = re.compile("\n")


def line_starts(text: str, first_line: int = 1) -> list[tuple[int, int]]:
    """Return (offset, line number) for the beginning of each line."""
    return [(0, first_line), *_numbered(text, first_line)]


def _numbered(text: str, first_line: int) -> Iterator[tuple[int, int]]:
    for line, match in enumerate(_LINE_END.finditer(text), start=first_line + 1):
        yield match.end(), line
