"""Texts to vectors, or pairs of texts to scores, in the engine process, one a step.

It does not generate. Invariants: no text reaches native code longer than a batch (that aborts the process) or
without a token; every vector that leaves has length one, every score is a number. How many texts go together: one. On
a processor a batch of texts is no faster than one by one (MiniLM at 2,048 tokens a batch: 5 texts a second against 35).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from gristmill import ModelError
from gristmill_plugins.llama._native import LoadParams, NativeContext, NativeModel
from gristmill_plugins.llama._pair import PairTokenizer
from gristmill_plugins.llama._sampling import Floats

MAX_TEXT_TOKENS = 2048
OnRows = Callable[[Floats, list[int], int], None]
"""Given `(n, width) float32`, how many tokens each text took, and how many texts were cut."""
OnError = Callable[[Exception], None]


@dataclass(slots=True)
class _Order:
    """One request's texts as ids, and the rows there are."""

    request: int
    texts: list[list[int]]
    n_cut: int
    done: OnRows
    failed: OnError
    rows: list[Floats] = field(default_factory=list)


class TextEmbedder:
    """A pooled context beside the one that generates, made when the first text comes.

    With `pairs` the model is a reranker: it takes queries with texts, and its rows are one score each.
    """

    def __init__(
        self, model: NativeModel, params: LoadParams, *, context_tokens: int, pairs: PairTokenizer | None = None
    ) -> None:
        self._model = model
        self._params = params
        self._pairs = pairs
        # An encoder has as many positions as it was trained with; native code aborts on the next one.
        self._most = min(context_tokens, MAX_TEXT_TOKENS, model.n_ctx_train)
        self._context: NativeContext | None = None
        self._orders: deque[_Order] = deque()

    @property
    def idle(self) -> bool:
        return not self._orders

    def add(self, request: int, texts: list[str], done: OnRows, failed: OnError, *, query: str | None = None) -> None:
        """Queue the texts of a request; a reranker reads each with the query.

        Raises:
            ModelError: a text has no tokens.
        """
        if self._context is None:
            self._context = self._make_context()
        if self._pairs is not None:
            ids, n_cut = self._pairs.encode(query or "", texts, most=self._most)
        else:
            whole = [self._model.vocabulary.tokenize(text, add_ends=True) for text in texts]
            ids = [self._cut(tokens) for tokens in whole]
            n_cut = sum(len(short) < len(tokens) for short, tokens in zip(ids, whole, strict=True))
        for place, tokens in enumerate(ids):
            if not tokens:
                verb = "embed" if self._pairs is None else "rank"
                raise ModelError(f"text {place} to {verb} is empty", model=self._model.path, cause="request")
        self._orders.append(_Order(request, ids, n_cut, done, failed))

    def drop(self, request: int) -> None:
        """Forget a request."""
        self._orders = deque(order for order in self._orders if order.request != request)

    def step(self) -> None:
        """Read one text of the request whose turn it is; requests take turns."""
        order = self._orders.popleft()
        try:
            if len(order.rows) < len(order.texts):
                order.rows.append(self._read(order.texts[len(order.rows)]))
        except (ModelError, RuntimeError) as error:
            order.failed(error)
            return
        if len(order.rows) == len(order.texts):
            rows = np.stack(order.rows) if order.rows else np.zeros((0, self._model.n_embd), np.float32)
            order.done(rows, [len(tokens) for tokens in order.texts], order.n_cut)
        else:
            self._orders.append(order)

    def _make_context(self) -> NativeContext:
        params = replace(self._params, n_ctx=self._most, n_batch=self._most, n_seq_max=1)
        # Most cross-encoders' files do not say how they pool.
        context = NativeContext(self._model, params, pooled=True, pooling="rank" if self._pairs else None)
        if context.pools_nothing:  # a generative model: the mean of its last layer is the usual choice
            context.close()
            context = NativeContext(self._model, params, pooled=True, pooling="mean")
        self._most = min(self._most, context.n_batch)
        return context

    def _cut(self, tokens: list[int]) -> list[int]:
        """Shorten ids to what fits, keeping a closing token such as [SEP]."""
        if len(tokens) <= self._most:
            return tokens
        closes = tokens[-1] in self._model.vocabulary.control
        return tokens[: self._most - 1] + tokens[-1:] if closes else tokens[: self._most]

    def _read(self, tokens: list[int]) -> Floats:
        """Return a text's vector, `(n_embd,)` of length one, or a pair's score, `(1,)`."""
        context = self._context
        assert context is not None
        context.clear()
        size = len(tokens)
        if code := context.decode(tokens, range(size), [0] * size, [True] * size):
            raise RuntimeError(f"llama.cpp could not read a text of {size} tokens (code {code})")
        row, length = context.pooled_row(0), 1.0
        if self._pairs is None:
            length = float(np.linalg.norm(row))
        else:
            row = row[:1]  # of several classes the first means relevant, as in "yes" and "no"
        if not (np.isfinite(row).all() and np.isfinite(length) and length > 0):
            raise ModelError(
                f"{self._model.path} gives numbers that are not finite, or a vector without length",
                model=self._model.path,
                cause="file",
            )
        return (row / length).astype(np.float32)
