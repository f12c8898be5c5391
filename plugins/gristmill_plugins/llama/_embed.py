"""Texts to vectors, in the engine process, one text a step.

It does not generate. Invariants: no text reaches native code longer than a batch (that aborts the process) or
without a token; every row that leaves has length one. How many texts go together: one. On a processor a batch of
texts is no faster than one by one (MiniLM at 2,048 tokens a batch: 5 texts a second against 35).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from gristmill import ModelError
from gristmill_plugins.llama._native import LoadParams, NativeContext, NativeModel
from gristmill_plugins.llama._sampling import Floats

MAX_TEXT_TOKENS = 2048
OnVectors = Callable[[Floats, int], None]
OnError = Callable[[Exception], None]


@dataclass(slots=True)
class _Order:
    """One request's texts as ids, and the rows there are."""

    request: int
    texts: list[list[int]]
    n_cut: int
    done: OnVectors
    failed: OnError
    rows: list[Floats] = field(default_factory=list)


class TextEmbedder:
    """A pooled context beside the one that generates, made when the first text comes."""

    def __init__(self, model: NativeModel, params: LoadParams, *, context_tokens: int) -> None:
        self._model = model
        self._params = params
        self._most = min(context_tokens, MAX_TEXT_TOKENS)
        self._context: NativeContext | None = None
        self._orders: deque[_Order] = deque()

    @property
    def idle(self) -> bool:
        return not self._orders

    def add(self, request: int, texts: list[str], done: OnVectors, failed: OnError) -> None:
        """Queue the texts of a request.

        Raises:
            ModelError: a text has no tokens, or the model has no vectors to give.
        """
        if self._context is None:
            self._context = self._make_context()
        ids = [self._model.vocabulary.tokenize(text, add_ends=True) for text in texts]
        for place, tokens in enumerate(ids):
            if not tokens:
                raise ModelError(f"text {place} to embed is empty", model=self._model.path, cause="request")
        cut = [self._cut(tokens) for tokens in ids]
        n_cut = sum(len(short) < len(tokens) for short, tokens in zip(cut, ids, strict=True))
        self._orders.append(_Order(request, cut, n_cut, done, failed))

    def drop(self, request: int) -> None:
        """Forget a request."""
        self._orders = deque(order for order in self._orders if order.request != request)

    def step(self) -> None:
        """Embed one text of the request whose turn it is; requests take turns."""
        order = self._orders.popleft()
        try:
            if len(order.rows) < len(order.texts):
                order.rows.append(self._embed(order.texts[len(order.rows)]))
        except (ModelError, RuntimeError) as error:
            order.failed(error)
            return
        if len(order.rows) == len(order.texts):
            order.done(
                np.stack(order.rows) if order.rows else np.zeros((0, self._model.n_embd), np.float32), order.n_cut
            )
        else:
            self._orders.append(order)

    def _make_context(self) -> NativeContext:
        params = replace(self._params, n_ctx=self._most, n_batch=self._most, n_seq_max=1)
        context = NativeContext(self._model, params, pooled=True)
        if context.ranks:
            context.close()
            raise ModelError(
                f"{self._model.path} is a reranker: it scores a question with a passage, and has no vector of a text",
                model=self._model.path,
                cause="request",
                hint="embed with another model",
            )
        if context.pools_nothing:  # a generative model: the mean of its last layer is the usual choice
            context.close()
            context = NativeContext(self._model, params, pooled=True, mean=True)
        self._most = min(self._most, context.n_batch)
        return context

    def _cut(self, tokens: list[int]) -> list[int]:
        """Shorten ids to what fits, keeping a closing token such as [SEP]."""
        if len(tokens) <= self._most:
            return tokens
        closes = tokens[-1] in self._model.vocabulary.control
        return tokens[: self._most - 1] + tokens[-1:] if closes else tokens[: self._most]

    def _embed(self, tokens: list[int]) -> Floats:
        context = self._context
        assert context is not None
        context.clear()
        size = len(tokens)
        if code := context.decode(tokens, range(size), [0] * size, [True] * size):
            raise RuntimeError(f"llama.cpp could not embed a text of {size} tokens (code {code})")
        row = context.pooled_row(0, self._model.n_embd)
        length = float(np.linalg.norm(row))
        if not np.isfinite(length) or length == 0:
            raise ModelError(
                f"{self._model.path} gives a vector without length or with numbers that are not finite",
                model=self._model.path,
                cause="file",
            )
        return (row / length).astype(np.float32)
