"""From parts of text to chunks: at headings, at sentences, or where the meaning turns; size and overlap in tokens.

LlamaIndex's SentenceSplitter and SemanticSplitterNodeParser do the splitting, with a sentence function and a token
count of ours: their defaults load NLTK and tiktoken data. Invariant: a chunk is a piece of its part, character for
character, so that its lines and pages are those of the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gristmill import FunctionError
from gristmill_plugins.retrieval._readers import Part

Splitter = Literal["markdown", "sentence", "semantic", "none"]
Count = Callable[[str], int]
_FEWEST_SENTENCES = 3
"""The semantic splitter compares neighbours; below this there is nothing to choose from."""

# A piece is a token of most vocabularies of 32,000 to 150,000: a word of up to 8 letters, a digit, a CJK character, a
# mark. Against SmolLM2's own count: 1.03 of it on 200 SQuAD paragraphs (0.79 to 1.28), 0.94 to 0.98 on Python and
# Markdown.
_WIDE = "\u2e80-\ud7ff\uf900-\ufaff"
_TOKEN = re.compile(rf"[{_WIDE}]|[^\W\d_{_WIDE}]{{1,8}}|[\d_]|[^\w\s]")

# After a full stop, and closing quotes, white space and no small letter; after a CJK stop; at a line's end.
_NO_SPACE = re.compile(r"\S")
_SENTENCE_END = re.compile(r"""[.!?…]["'”’)\]]*\s+(?=[^\sa-z])|[。！？]["'”’」』）]*\s*|\n+""")


@dataclass(frozen=True, slots=True)
class SplitOptions:
    """How parts are split. `size` and `overlap` are in tokens."""

    splitter: Splitter = "markdown"
    size: int = 256
    overlap: int = 32


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a part; `end` is one after its last character."""

    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)


def estimated_tokens(text: str) -> int:
    """Return about how many tokens a text is, without a model."""
    return len(_TOKEN.findall(text))


def sentences(text: str) -> list[str]:
    """Return the sentences of a text with what follows them; joined, they are the text."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    pieces = [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]
    return [piece for piece in pieces if piece]


class Chunker:
    """Splits parts.

    Args:
        options: how.
        count: returns how many tokens a text is.
        embedding: a LlamaIndex embedding, for the semantic splitter only.
    """

    def __init__(self, options: SplitOptions, count: Count = estimated_tokens, embedding: Any = None) -> None:
        self.options = options
        self._count = count
        self._embedding = embedding
        self._by_sentence: Any = None

    def chunks(self, part: Part) -> list[Chunk]:
        """Return the chunks of a part, in order."""
        if self.options.splitter == "none":
            return list(_located(part.text, [part.text], 0))
        found: list[Chunk] = []
        for start, end in self._sections(part):
            text = part.text[start:end]
            pieces = self._semantic(text) if self.options.splitter == "semantic" else [text]
            for section in _located(text, pieces, start):
                found += self._fitting(section)
        return found

    def _sections(self, part: Part) -> Iterator[tuple[int, int]]:
        """Yield where text under one heading begins and ends; a heading without any stays with the next one."""
        cuts = [offset for offset, _ in part.headings] if self.options.splitter == "markdown" else []
        start = 0
        for i, cut in enumerate(cuts):
            under = part.text[start:cut]
            only_heading = i > 0 and "\n" not in under.strip()
            if under.strip() and not only_heading:
                yield start, cut
                start = cut
        yield start, len(part.text)

    def _fitting(self, chunk: Chunk) -> Iterator[Chunk]:
        if self._count(chunk.text) <= self.options.size:
            yield chunk
            return
        pieces = self._sentence_splitter().split_text(chunk.text)
        most = self.options.overlap
        yield from _located(chunk.text, pieces, chunk.start, (lambda text: self._count(text) <= most) if most else None)

    def _sentence_splitter(self) -> Any:
        if self._by_sentence is None:
            from llama_index.core.node_parser import SentenceSplitter

            self._by_sentence = SentenceSplitter(
                chunk_size=self.options.size,
                chunk_overlap=self.options.overlap,
                tokenizer=lambda text: range(self._count(text)),
                chunking_tokenizer_fn=sentences,
            )
        return self._by_sentence

    def _semantic(self, text: str) -> list[str]:
        """Cut where neighbouring sentences are least alike (the farthest twentieth), as LlamaIndex does."""
        if len(sentences(text)) < _FEWEST_SENTENCES:
            return [text]
        from llama_index.core import Document
        from llama_index.core.node_parser import SemanticSplitterNodeParser

        parser = SemanticSplitterNodeParser(embed_model=self._embedding, sentence_splitter=sentences)
        nodes = parser.build_semantic_nodes_from_documents([Document(text=text)])
        return [node.get_content() for node in nodes]


def _located(
    text: str, pieces: Sequence[str], base: int, overlap: Callable[[str], bool] | None = None
) -> Iterator[Chunk]:
    """Yield each piece, without white space around it, with where it stands in `text` plus `base`.

    A text that repeats itself holds a piece more than once: it stands where the one before it ended. Where pieces
    overlap, it stands as far back as `overlap`, asked about what both hold, allows, and the last at the end.
    """
    start = end = 0
    last = next((i for i in reversed(range(len(pieces))) if pieces[i].strip()), 0)
    for i, piece in enumerate(map(str.strip, pieces)):
        if not piece:
            continue
        after = _NO_SPACE.search(text, end)
        following = after.start() if after else len(text)
        places = [following]
        if overlap is not None and i:
            places = list(_places(text, piece, max(start + 1, end - len(piece) + 1), following)) or places
            places = [place for place in places if overlap(text[place:end])] or places
        place = places[-1 if i == last else 0]
        if not text.startswith(piece, place):  # (a splitter counts a word of one letter repeated in its own way)
            later = text.find(piece, max(start + 1, end - len(piece) + 1))
            place = later if later >= 0 else text.rfind(piece)
        if place < 0:
            raise FunctionError(f"the splitter made a piece that is not in the text: {piece!r:.60}")
        start, end = place, place + len(piece)
        yield Chunk(piece, base + start)


def _places(text: str, piece: str, first: int, last: int) -> Iterator[int]:
    """Yield where a text holds a piece, from one place to another."""
    place = text.find(piece, first, last + len(piece))
    while place >= 0:
        yield place
        place = text.find(piece, place + 1, last + len(piece))
