"""One sequence stepped from outside: the caller looks at the next token's probabilities and says which it is.

It draws no token itself. Invariant: the log-probabilities handed out are those after the last accepted token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from gristmill import ModelError
from gristmill_plugins.llama._branch import Adapters, Branch
from gristmill_plugins.llama._sampling import Floats, log_softmax
from gristmill_plugins.llama._text import TextStream

OnRow = Callable[[Floats | Exception], None]


class SessionJob:
    """A branch that waits, after every token, for the caller to name the next."""

    def __init__(self, prompt: Sequence[int], *, adapters: Adapters, model: str, context_tokens: int) -> None:
        self._branch = Branch(self, list(prompt), wants_from=len(prompt) - 1, adapters=adapters)
        self._model = model
        self._context_tokens = context_tokens
        self._text = TextStream()
        self._row: Floats | None = None
        self._waiting: OnRow | None = None
        self._error: Exception | None = None

    def start(self) -> list[Branch]:
        """Return the branch that reads the prompt."""
        return [self._branch]

    def consume(self, branch: Branch, at: int, logits: Floats) -> Iterable[Branch]:
        """Keep the row until the caller asks for it."""
        self._row = log_softmax(logits)
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting(self._row)
        return []

    def request_row(self, on_row: OnRow) -> None:
        """Call `on_row` with the next token's log-probabilities, as soon as they are there."""
        if self._error is not None:
            on_row(self._error)
        elif self._row is not None:
            on_row(self._row)
        else:
            self._waiting = on_row

    def accept(self, token: int, piece: bytes) -> str:
        """Append a token; return the text that is certain now.

        Raises:
            ModelError: the context is full, or the session has failed.
        """
        if self._error is not None:
            raise self._error
        if len(self._branch.tokens) >= self._context_tokens:
            raise ModelError(
                f"the session has filled the context of {self._context_tokens} tokens",
                model=self._model,
                cause="request",
            )
        self._row = None
        self._branch.tokens.append(token)
        return self._text.feed(piece)

    def fail(self, error: Exception) -> None:
        """Remember the error for the next call, or give it to the one that waits."""
        self._error = error
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting(error)

    def close(self) -> None:
        """Nothing native is held."""
