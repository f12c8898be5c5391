"""Search: what is found, how it is ordered, and that its source is where it stands."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill import Embedder, FunctionError, Passage
from gristmill.testing import FakeEmbedder
from gristmill_plugins.retrieval import _readers
from gristmill_plugins.retrieval._chunks import Chunker, SplitOptions, estimated_tokens, sentences
from gristmill_plugins.retrieval._index_functions import Indexed, IndexFunctions
from gristmill_plugins.retrieval._readers import Part, line_starts, read_file
from gristmill_plugins.retrieval._readers_html import page_of
from gristmill_plugins.retrieval._readers_markdown import headings
from gristmill_plugins.retrieval._search_filter import Filter


class Plain:
    """As much of a Context as indexing and searching use, without a kernel."""

    def __init__(self, settings: dict[str, Any], embedder: Embedder) -> None:
        self.settings = settings
        self.memory = self
        self.embedder: Any = embedder
        self.notes: list[str] = []

    def path(self, path: Path) -> Path:
        return path.resolve()

    def note(self, text: str) -> None:
        self.notes.append(text)


class Shelf:
    """A folder of documents with an index."""

    def __init__(self, folder: Path) -> None:
        self.docs = folder / "docs"
        self.docs.mkdir(parents=True)
        self.context: Any = Plain({"directory": str(folder / "indexes")}, FakeEmbedder())
        self.functions = IndexFunctions()

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.docs / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def search(self, query: str, **arguments: Any) -> list[Passage]:
        return asyncio.run(self.functions.search(query, self.context, documents=self.docs, **arguments))

    def index(self, **arguments: Any) -> Indexed:
        return asyncio.run(self.functions.index(self.docs, self.context, **arguments))


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


@pytest.fixture
def mills(shelf: Shelf) -> Shelf:
    shelf.write(
        "mills.jsonl",
        "\n".join(
            json.dumps(row)
            for row in [
                {"id": "a", "text": "The water mill grinds wheat into flour.", "year": 1850, "kind": "water"},
                {"id": "b", "text": "A wind mill pumps water from the polder.", "year": 1740, "kind": "wind"},
                {"id": "c", "text": "Steam drove the last mill in town.", "year": 1901, "kind": "steam"},
                {"id": "d", "text": "Bread is baked from flour and water.", "year": 1901, "kind": "water"},
            ]
        ),
    )
    return shelf


def rows(found: Sequence[Passage]) -> list[str]:
    return [passage.metadata["row_id"] for passage in found]


# Modes, fusion, filters, diversity


def test_words_find_what_holds_them_best_first(mills: Shelf) -> None:
    found = mills.search("flour wheat", mode="bm25")
    assert rows(found) == ["a", "d"]
    assert found[0].score > found[1].score > 0
    assert found[0].metadata["found_by"] == ["bm25"]
    assert found[0].metadata["bm25"] == found[0].score


def test_meaning_finds_by_cosine_and_gives_every_passage_a_score(mills: Shelf) -> None:
    found = mills.search("Bread is baked from flour and water.", mode="dense", top_k=4)
    assert rows(found)[0] == "d"
    assert found[0].score == pytest.approx(1.0)
    assert [p.score for p in found] == sorted((p.score for p in found), reverse=True)
    assert all(p.metadata["found_by"] == ["dense"] for p in found)


def test_hybrid_fuses_the_scores_of_both_sides(mills: Shelf) -> None:
    found = mills.search("mill water", dense_weight=0.4, top_k=4)
    dense = {row: p.metadata["dense"] for row, p in zip(rows(found), found, strict=True)}
    words = {row: p.metadata.get("bm25", 0.0) for row, p in zip(rows(found), found, strict=True)}
    low, high, top = min(dense.values()), max(dense.values()), max(words.values())
    for row, passage in zip(rows(found), found, strict=True):
        expected = 0.4 * (dense[row] - low) / (high - low) + 0.6 * words[row] / top
        assert passage.score == pytest.approx(expected)


def test_hybrid_fuses_ranks_if_asked(mills: Shelf) -> None:
    found = mills.search("mill", fusion="rrf", dense_weight=0.0, top_k=2)
    assert [p.score for p in found] == pytest.approx([1.0, 61 / 62])


def test_a_query_of_no_known_word_is_found_by_words_only(mills: Shelf) -> None:
    class Mute(FakeEmbedder):
        fingerprint = "mute"

        def vectors(self, texts: Sequence[str]) -> np.ndarray:
            return np.zeros((len(texts), 8), np.float32)

    mills.context.embedder = Mute()
    found = mills.search("steam")
    assert rows(found)[0] == "c"
    assert found[0].score == 1.0
    assert mills.search("steam", mode="dense") == []


def test_an_empty_query_finds_nothing(mills: Shelf) -> None:
    assert mills.search(" \n") == []


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"kind": "water"}, {"a", "d"}),
        ({"kind": ["wind", "steam"]}, {"b", "c"}),
        ({"year": {"min": 1850}}, {"a", "c", "d"}),
        ({"year": {"min": 1800, "max": 1900}}, {"a"}),
        ({"year": 1901, "kind": "steam"}, {"c"}),
        ({"kind": {"max": "steam"}}, {"c"}),
        ({"line": 2}, {"b"}),
        ({"path": "docs/mills.jsonl", "year": 1740}, {"b"}),
        ({"nothing": None}, set()),
    ],
)
@pytest.mark.parametrize("mode", ["hybrid", "dense", "bm25"])
def test_a_filter_holds_in_every_mode(mills: Shelf, where: dict[str, Any], expected: set[str], mode: Any) -> None:
    found = mills.search("mill water flour", where=where, mode=mode, top_k=9)
    assert set(rows(found)) == expected


def test_a_filter_follows_the_files(mills: Shelf) -> None:
    assert rows(mills.search("mill", where={"year": 1901}, mode="bm25")) == ["c"]
    mills.write("more.jsonl", '{"id": "e", "text": "A new mill.", "year": 1901}')
    assert set(rows(mills.search("mill", where={"year": 1901}, mode="bm25"))) == {"c", "e"}


@pytest.mark.parametrize(
    "wanted", [{"min": 1, "low": 2}, {}, {"min": 1, "max": "b"}, {"min": True}, object(), [[1]]], ids=str
)
def test_a_filter_that_means_nothing_is_refused(mills: Shelf, wanted: Any) -> None:
    with pytest.raises(FunctionError, match="the filter 'year' cannot be") as caught:
        mills.search("mill", where={"year": wanted})
    assert "{min: ..., max: ...}" in str(caught.value)


def test_a_filter_tells_booleans_from_numbers_and_looks_into_lists() -> None:
    assert not Filter({"a": 1}).allows({"a": True})
    assert Filter({"a": 1}).allows({"a": 1.0})
    assert Filter({"a": "x"}).allows({"a": ["y", "x"]})
    assert Filter({"a": None}).allows({"a": None})
    assert not Filter({"a": None}).allows({})
    assert not Filter({"a": {"min": 1}}).allows({"a": "2"})


def test_passages_below_the_minimum_score_are_left_out(mills: Shelf) -> None:
    found = mills.search("flour wheat", mode="bm25")
    assert rows(mills.search("flour wheat", mode="bm25", min_score=found[0].score)) == ["a"]


def test_diversity_prefers_what_is_unlike(shelf: Shelf) -> None:
    shelf.write("a.txt", "mill wheel water stone")
    shelf.write("b.txt", "mill wheel water stones")
    shelf.write("c.txt", "mill and some bread for everyone")
    plain = [p.metadata["path"] for p in shelf.search("mill wheel water", top_k=2, mode="dense")]
    varied = [p.metadata["path"] for p in shelf.search("mill wheel water", top_k=2, mode="dense", mmr=0.3)]
    assert set(plain) == {"docs/a.txt", "docs/b.txt"}
    assert varied == [plain[0], "docs/c.txt"]


@pytest.mark.parametrize("arguments", [{}, {"index": "a", "documents": Path("x")}])
def test_a_search_is_of_one_place(shelf: Shelf, arguments: dict[str, Any]) -> None:
    with pytest.raises(FunctionError, match="search takes one of documents, index and retriever, this has"):
        asyncio.run(shelf.functions.search("mill", shelf.context, **arguments))


@settings(max_examples=60, deadline=None)
@given(query=st.text(max_size=40))
def test_no_query_is_ever_syntax(tmp_path_factory: pytest.TempPathFactory, query: str) -> None:
    shelf = shared_shelf(tmp_path_factory)
    for mode in ("hybrid", "bm25"):
        found = shelf.search(query, mode=mode)
        assert all(math.isfinite(passage.score) for passage in found)


_SHELVES: list[Shelf] = []


def shared_shelf(factory: pytest.TempPathFactory) -> Shelf:
    if not _SHELVES:
        made = Shelf(factory.mktemp("shared"))
        made.write("a.txt", 'NEAR mill OR "water" AND NOT text: flour*')
        _SHELVES.append(made)
    return _SHELVES[0]


# Neighbours


def numbered(n: int) -> str:
    return " ".join(f"Sentence {i} is about subject{i} alone." for i in range(n))


def test_neighbours_are_joined_and_what_they_share_stands_once(shelf: Shelf) -> None:
    text = numbered(60)
    shelf.write("a.txt", text)
    shelf.index(size=40, overlap=16)
    (alone,) = shelf.search("subject30", mode="bm25", top_k=1)
    (joined,) = shelf.search("subject30", mode="bm25", top_k=1, neighbours=1)
    assert alone.text in joined.text
    assert len(joined.text) > len(alone.text)
    assert joined.text in text


@pytest.mark.parametrize("separator", [" ", "\n", "\n\n"])
def test_joined_neighbours_stand_as_in_the_document(shelf: Shelf, separator: str) -> None:
    text = separator.join(f"Sentence {i} is about subject{i} alone." for i in range(60))
    shelf.write("a.txt", text)
    shelf.index(size=32, overlap=0)
    (found,) = shelf.search("subject30", mode="bm25", top_k=1, neighbours=2)
    assert found.text in text
    assert found.text.count("subject") > 10
    lines = text.split("\n")
    assert found.text in "\n".join(lines[found.metadata["line"] - 1 : found.metadata["end_line"]])


def test_no_passage_repeats_what_an_earlier_one_holds(shelf: Shelf) -> None:
    text = numbered(60)
    shelf.write("a.txt", text)
    shelf.index(size=32, overlap=0)
    found = shelf.search("subject30 subject31 subject36", mode="bm25", top_k=5, neighbours=2)
    told = " ".join(passage.text for passage in found)
    assert all(told.count(f"subject{i} ") <= 1 for i in range(60))
    assert len({passage.metadata["id"] for passage in found}) == len(found)


def test_rows_have_no_neighbours_and_pages_have(shelf: Shelf) -> None:
    shelf.write("rows.jsonl", '{"text": "the first mill"}\n{"text": "the second stone"}')
    assert shelf.search("mill", mode="bm25", neighbours=3, top_k=1)[0].text == "the first mill"
    shelf.write("a.pdf", pdf("First page, the windlass.", "Second page, the sail."))
    (found,) = shelf.search("windlass", mode="bm25", neighbours=1, top_k=1)
    assert found.text == "First page, the windlass.\nSecond page, the sail."
    assert found.source == "docs/a.pdf#page=1"


# Sources: a passage stands where its source says


@settings(max_examples=80, deadline=None)
@given(
    words=st.lists(
        st.sampled_from(["mill", "A stone. ", "\n", "\n\n", "# Head\n", "```\n", "wheel, ", "Zwölf! ", "水车。", "  "]),
        min_size=1, max_size=150,
    ),
    size=st.integers(16, 60),
    overlap=st.integers(0, 15),
    splitter=st.sampled_from(["markdown", "sentence", "none"]),
)  # fmt: skip
def test_chunks_are_pieces_of_the_text_and_cover_it(words: list[str], size: int, overlap: int, splitter: Any) -> None:
    text = "".join(words)
    part = Part(text, lines=line_starts(text), headings=list(headings(text)))
    covered: set[int] = set()
    for chunk in Chunker(SplitOptions(splitter, size, overlap)).chunks(part):
        assert text[chunk.start : chunk.end] == chunk.text
        assert splitter == "none" or estimated_tokens(chunk.text) <= size
        covered.update(range(chunk.start, chunk.end))
        assert part.line_at(chunk.start) == text.count("\n", 0, chunk.start) + 1
    assert all(text[i].isspace() for i in range(len(text)) if i not in covered)


@pytest.mark.parametrize("overlap", [0, 4, 8])
def test_chunks_of_a_text_that_repeats_itself_follow_one_another(overlap: int) -> None:
    text = "A stone. " * 40
    chunks = Chunker(SplitOptions("sentence", 16, overlap)).chunks(Part(text, lines=line_starts(text), headings=[]))
    for before, chunk in itertools.pairwise(chunks):
        assert before.start < chunk.start <= before.end + 1
        assert overlap or chunk.start == before.end + 1
    assert (chunks[0].start, chunks[-1].end) == (0, len(text) - 1)


@pytest.mark.parametrize("overlap", [0, 32])
@pytest.mark.parametrize("word", ["A" * 6000, "ha" * 4000, "![x](data:image/png;base64," + "A" * 4000 + ")"])
def test_a_word_without_end_is_cut_and_what_follows_is_there(word: str, overlap: int) -> None:
    text = f"# Head\n\nA mill.\n\n{word}\n\nThe wheel turns.\n"
    part = Part(text, lines=line_starts(text), headings=list(headings(text)))
    chunks = Chunker(SplitOptions("markdown", 256, overlap)).chunks(part)
    assert all(text[chunk.start : chunk.end] == chunk.text for chunk in chunks)
    assert "A mill." in chunks[0].text
    assert any("The wheel turns." in chunk.text for chunk in chunks)


@given(st.text())
def test_sentences_joined_are_the_text(text: str) -> None:
    assert "".join(sentences(text)) == text


def test_sentences_end_at_stops_and_not_at_small_letters() -> None:
    assert sentences('He said "No." Then e.g. this. 水在。流') == ['He said "No." ', "Then e.g. this. ", "水在。", "流"]


def test_markdown_passages_know_their_lines_and_headings(shelf: Shelf) -> None:
    text = "# Guide\n\n## Setup\n\nTurn the mill on.\n\n```sh\n# not a heading\n```\n\n## Use ##\nGrind slowly.\n"
    shelf.write("guide.md", text)
    by_source = {p.source: p for p in shelf.search("mill grind heading", top_k=9)}
    assert {source: p.metadata["heading"] for source, p in by_source.items()} == {
        "docs/guide.md#L1-9": "Guide",
        "docs/guide.md#L11-12": "Guide > Use",
    }
    lines = text.split("\n")
    for passage in by_source.values():
        first, last = passage.metadata["line"], passage.metadata["end_line"]
        assert passage.text == "\n".join(lines[first - 1 : last])


def test_a_heading_is_matched_though_it_is_not_in_the_passage(shelf: Shelf) -> None:
    shelf.write("a.md", "# Windmills\n\nIntroduction.\n\n## Sails\n\nThey are set by hand.\n")
    (found,) = shelf.search("windmills sails hand", mode="bm25", top_k=1)
    assert found.text == "## Sails\n\nThey are set by hand."


def test_headings_of_every_form_are_found() -> None:
    text = "# A\n### B #\n## C\n~~~\n# no\n```\n~~~\n   ## D\n#no\n    # no\n"
    assert [title for _, title in headings(text)] == ["A", "A > B", "A > C", "A > D"]


def test_html_passages_know_the_lines_of_the_source_and_hide_what_is_hidden(shelf: Shelf) -> None:
    shelf.write(
        "a.html",
        "<html><head><title>The\nmill</title><style>p {}</style></head>\n<body>\n<h1>Wheels</h1><p>Water &amp;\nwind"
        "</p>\n<script>evil()</script><h2>Stones</h2>\n<table><tr><td>old</td><td>new</td></tr></table></body></html>",
    )
    found = {p.source: p for p in shelf.search("water stones", top_k=5)}
    assert set(found) == {"docs/a.html#L4-5", "docs/a.html#L6-7"}
    assert found["docs/a.html#L4-5"].text == "Wheels\nWater & wind"
    assert found["docs/a.html#L6-7"].text == "Stones\nold\tnew"
    assert found["docs/a.html#L6-7"].metadata["title"] == "The mill"
    assert found["docs/a.html#L6-7"].metadata["heading"] == "Wheels > Stones"


@given(st.text(st.sampled_from("<>/ahp1=\"' \n&;!-scriptody"), max_size=80))
def test_no_page_is_too_broken_to_be_read(source: str) -> None:
    part = page_of(source)
    assert [offset for offset, _ in part.lines] == sorted({offset for offset, _ in part.lines})


def test_rows_of_csv_know_their_line_and_their_fields(shelf: Shelf) -> None:
    shelf.write("a.csv", 'name,note,year\nmill,"two\nlines",1850\nlock,short,1740\n')
    found = {p.source: p for p in shelf.search("note short two", top_k=5)}
    assert found["docs/a.csv#L2"].text == "name: mill\nnote: two\nlines\nyear: 1850"
    assert found["docs/a.csv#L4"].metadata["name"] == "lock"
    shelf.write("b.tsv", "text\tplace\nthe sluice\tsouth\n")
    (row,) = shelf.search("sluice", mode="bm25")
    assert (row.text, row.source, row.metadata["place"]) == ("the sluice", "docs/b.tsv#L2", "south")


def test_rows_of_jsonl_without_a_text_field_show_all_their_texts(shelf: Shelf) -> None:
    shelf.write("a.jsonl", '\n{"question": "Which mill?", "answer": "The old one", "n": 3, "more": [1]}\n')
    (found,) = shelf.search("old mill", mode="bm25")
    assert (found.text, found.source) == ("question: Which mill?\nanswer: The old one\nn: 3", "docs/a.jsonl#L2")


def test_half_characters_are_replaced(shelf: Shelf) -> None:
    shelf.write("a.jsonl", '{"text": "mill \\ud800 end", "who": "\\udfff"}')
    (found,) = shelf.search("mill", mode="bm25")
    assert (found.text, found.metadata["who"]) == ("mill ? end", "?")


def test_other_encodings_that_say_so_are_read(shelf: Shelf) -> None:
    shelf.write("a.txt", "\ufeffthe mühle".encode())
    shelf.write("b.txt", "the schleuse\r\nsecond".encode("utf-16"))
    assert shelf.search("mühle", mode="bm25")[0].text == "the mühle"
    assert shelf.search("schleuse", mode="bm25")[0].text == "the schleuse\nsecond"


def pdf(*pages: str) -> bytes:
    """Return a PDF with a line of text on each page."""
    kids = " ".join(f"{3 + 2 * i} 0 R" for i in range(len(pages)))
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>"]
    for i, text in enumerate(pages):
        content = f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET"
        font = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {4 + 2 * i} 0 R"
            f" /Resources << /Font << /F1 {font} >> >> >>",
            f"<< /Length {len(content)} >>\nstream\n{content}\nendstream",
        ]
    body = b"%PDF-1.4\n"
    offsets = []
    for number, text in enumerate(objects, start=1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{text}\nendobj\n".encode()
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    n = len(objects) + 1
    end = f"xref\n0 {n}\n0000000000 65535 f \n{table}trailer << /Size {n} /Root 1 0 R >>\nstartxref\n{len(body)}\n%%EOF"
    return body + end.encode()


def docx(path: Path, *paragraphs: str) -> Path:
    """Write a Word document."""
    space = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    body = "".join(f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>" for text in paragraphs)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", f"<w:document {space}><w:body>{body}</w:body></w:document>")
    return path


def test_pdf_passages_know_their_page(shelf: Shelf) -> None:
    shelf.write("a.pdf", pdf("The first mill.", "The second sluice."))
    (found,) = shelf.search("sluice", mode="bm25")
    assert (found.text, found.source, found.metadata["page"]) == ("The second sluice.", "docs/a.pdf#page=2", 2)


def test_word_documents_are_read(shelf: Shelf) -> None:
    docx(shelf.docs / "a.docx", "The first mill.", "The second sluice.")
    (found,) = shelf.search("sluice", mode="bm25")
    assert (found.source, found.text) == ("docs/a.docx", "The first mill.\n\nThe second sluice.")


READ = """
import logging, sys
from pathlib import Path
from gristmill import FunctionError
from gristmill_plugins.retrieval._readers import read_file
try:
    read_file(Path(sys.argv[1]), {})
except FunctionError as error:
    print(error.message, logging.root.handlers, logging.root.level == logging.WARNING)
"""


def test_reading_leaves_the_log_alone(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4 cut short")
    command = [sys.executable, "-c", READ, str(tmp_path / "a.pdf")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    assert ended.stdout == "it cannot be read: PdfStreamError: Stream has ended unexpectedly [] True\n"
    assert ended.stderr == ""


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.pdf", b"%PDF-1.4 nothing", "it cannot be read: "),
        ("a.docx", b"PK nothing", "it cannot be read: BadZipFile: "),
        ("a.jsonl", b'{"text": "ok"}\n[1]', "line 2 is no JSON object"),
        ("a.jsonl", b"{", "line 1 is no JSON: "),
        ("a.jsonl", b"[" * 100_000, "line 1 is no JSON: "),
        ("a.csv", b"a\n1,2", "line 2 has 2 cells under 1 names"),
        ("a.txt", b"a\0b", "it is no text: it holds a NUL"),
        ("a.txt", b"caf\xe9", "it is not utf-8: byte 3"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(FunctionError) as caught:
        read_file(path, {})
    assert caught.value.message.startswith(told)


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 500_000_001)
    with pytest.raises(FunctionError, match="it has 500,000,001 bytes, the most is 500,000,000"):
        read_file(path, {})


def test_a_word_document_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_readers, "MOST_UNPACKED_BYTES", 100_000)
    path = tmp_path / "a.docx"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", bytes(100_001))
    assert path.stat().st_size < 1000
    with pytest.raises(FunctionError, match="it unpacks to 100,001 bytes, the most is 100,000"):
        read_file(path, {})
