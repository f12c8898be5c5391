"""A stream's pieces of text on their way from the engine to the client.

Each message wakes the client, which takes a processor from the threads that compute: with two processors and 7 ms a
token that cost a tenth of the rate. So pieces that come within `PACE_S` of one another go together; a person sees no
difference. It knows nothing of tokens' meaning or of stop strings. Invariants: what is sent is what was added, in the
order of each sample, with all its tokens counted; the first piece goes at once; after `flush` nothing is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable

PACE_S = 0.03
"""Below what an eye follows in text; four tokens of the bundled model on two cores."""

Send = Callable[[int, str, int], None]


class PacedDeltas:
    """The pieces of one request's samples. `send` gets the sample, the text and how many tokens it is of."""

    def __init__(self, send: Send, clock: Callable[[], float] = time.monotonic) -> None:
        self._send = send
        self._clock = clock
        self._sent_at = float("-inf")
        self._held: dict[int, tuple[list[str], int]] = {}

    def add(self, sample: int, text: str, n_tokens: int) -> None:
        """Send a piece, with those that wait, or have it wait for the next."""
        texts, n_held = self._held.get(sample, ([], 0))
        self._held[sample] = ([*texts, text], n_held + n_tokens)
        if self._clock() - self._sent_at >= PACE_S:
            self.flush()

    def flush(self) -> None:
        """Send all that waits: nothing more comes, or not soon."""
        held, self._held = self._held, {}
        for sample, (texts, n_tokens) in held.items():
            self._send(sample, "".join(texts), n_tokens)
        if held:
            self._sent_at = self._clock()
