"""Guess the next tokens from what was read and written already (prompt lookup, Saxena 2023), so that one step
verifies several.

It knows nothing of models: it sees tokens and how many of its guesses were right. Invariants: only a token that the
model itself finds most likely is ever written; where guesses do not pay, they become rare. What a guess can change is
rounding: llama.cpp multiplies several rows with other kernels than one, so that of two tokens that are nearly tied the
other may win, just as it may beside other requests.
"""

from __future__ import annotations

from collections.abc import Sequence

N_GRAM = 3
"""The last tokens that must have occurred before. Two occur by chance, and a wrong guess costs time."""
FIRST_GUESS, LONGEST_GUESS = 3, 15
WORTH = 0.5
"""The share of a guess that must be right for it to pay: on 2 cores a token more in a batch costs 0.3 to 0.45 of a
step of its own (SmolLM2 135M, Q4_1, batches of 2 to 16)."""
FIRST_PAUSE, LONGEST_PAUSE = 4, 128


class PromptLookup:
    """Guesses for one sequence that only grows. After a guess that did not pay it rests, each time for longer."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        """The length at which the sequence ends at the latest."""
        self._seen: dict[tuple[int, ...], int] = {}
        """For each run of tokens, where its latest occurrence ends."""
        self._n_indexed = N_GRAM
        self._size = FIRST_GUESS
        self._pause = FIRST_PAUSE
        self._rests_until = 0

    def guess(self, tokens: Sequence[int], room: int) -> list[int]:
        """Return up to `room` tokens that may follow; none where nothing is known, or guessing has not paid."""
        if len(tokens) < self._rests_until:
            return []
        # All but the end of the sequence: that is what is looked for.
        for end in range(self._n_indexed, len(tokens)):
            self._seen[tuple(tokens[end - N_GRAM : end])] = end
        self._n_indexed = max(self._n_indexed, len(tokens))
        start = self._seen.get(tuple(tokens[-N_GRAM:]))
        size = min(self._size, room, self._limit - len(tokens) - 1)
        if start is None or size <= 0:
            return []
        # A guess that comes to the end of what is known repeats itself: texts that loop are guessed whole.
        period = len(tokens) - start
        return [tokens[start + i % period] for i in range(size)]

    def learn(self, length: int, n_guessed: int, n_right: int) -> None:
        """Note how a guess came out, for a sequence that is `length` tokens long now."""
        if n_right >= WORTH * n_guessed:
            self._pause = FIRST_PAUSE
        else:
            self._rests_until = length + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        grown = 2 * n_guessed + 1 if n_right == n_guessed else n_right
        self._size = max(FIRST_GUESS, min(grown, LONGEST_GUESS))
