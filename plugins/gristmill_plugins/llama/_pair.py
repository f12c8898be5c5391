"""A query and a text as the one sequence of ids that a reranker was trained to read.

It scores nothing. The form is that of llama.cpp's server (`format_prompt_rerank`): the file's own "rerank" template
where it has one, else the two texts between the tokens that the vocabulary says it adds. Invariants: what the query
and the text say never becomes a control token; of a pair that is too long only the text is cut, at its end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Protocol

from gristmill import ModelError
from gristmill_plugins.llama import _prompt
from gristmill_plugins.llama._template import Segment

_QUERY, _TEXT = "{query}", "{document}"
_SLOTS = re.compile("({query}|{document})")


class Vocabulary(_prompt.Vocabulary, Protocol):
    """What this module needs to know about a vocabulary; an id below 0 is that of no token."""

    eos: int
    sep: int
    adds_eos: bool
    adds_sep: bool


class PairTokenizer:
    """Tokenises pairs. `template` has `{query}` and `{document}` in it; None where the file has none for ranking."""

    def __init__(self, vocabulary: Vocabulary, *, model: str, template: str | None) -> None:
        self._vocabulary = vocabulary
        self._model = model
        self._parts = None if template is None else _SLOTS.split(template)
        for slot in (_QUERY, _TEXT):
            if self._parts is not None and slot not in self._parts:
                raise ModelError(f"{model}: its rerank template has no {slot}", model=model, cause="file")
        self._prompt = _prompt.PromptTokenizer(vocabulary, model=model, template=template or "")

    def encode(self, query: str, texts: Iterable[str], *, most: int) -> tuple[list[list[int]], int]:
        """Return the ids of each pair, at most so many, and how many texts were cut for that.

        Raises:
            ModelError: the query or a text is empty, or the query leaves no room for a text.
        """
        self._check("query", query)
        least = sum(map(len, self._halves(query, "")))
        if least >= most:
            raise ModelError(
                f"the query takes {least} tokens, and with the text {self._model} reads {most}",
                model=self._model,
                cause="request",
                hint="ask in fewer words",
            )
        pairs, n_cut = [], 0
        for place, text in enumerate(texts):
            self._check(f"text {place}", text)
            ids = self._whole(query, text)
            if len(ids) > most:
                head, tail = self._halves(query, text)
                ids = head[: most - len(tail)] + tail
                n_cut += 1
            pairs.append(ids)
        return pairs, n_cut

    def _check(self, what: str, text: str) -> None:
        if not text.strip():
            raise ModelError(f"{what} to rank is empty", model=self._model, cause="request")

    def _whole(self, query: str, text: str) -> list[int]:
        if self._parts is not None:
            return self._fill(self._parts, query, text)
        head, tail = self._halves(query, text)
        return head + tail

    def _halves(self, query: str, text: str) -> tuple[list[int], list[int]]:
        """Return what ends with the text, and what follows it."""
        if self._parts is not None:
            after = len(self._parts) - self._parts[::-1].index(_TEXT)
            return self._fill(self._parts[:after], query, text), self._fill(self._parts[after:], query, text)
        known = self._vocabulary
        begins = [known.bos] if known.adds_bos else []
        ends = [known.eos if known.eos >= 0 else known.sep] if known.adds_eos else []
        parts = [known.sep] if known.adds_sep else []
        head = [*begins, *self._plain(query), *ends, *parts, *self._plain(text)]
        return [token for token in head if token >= 0], [token for token in ends if token >= 0]

    def _plain(self, text: str) -> list[int]:
        """Return the ids of a text, without any of the tokens that part it from the other."""
        known = self._vocabulary
        return [token for token in known.tokenize(text) if token not in (known.bos, known.eos, known.sep)]

    def _fill(self, parts: Iterable[str], query: str, text: str) -> list[int]:
        texts = {_QUERY: query, _TEXT: text}
        segments = [Segment(texts.get(part, part), trusted=part not in texts) for part in parts]
        return self._prompt.encode(segments, add_bos=False)
