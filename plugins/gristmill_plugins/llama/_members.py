"""Several predictions of one next token, made into one.

It knows nothing of models. Invariant: the result is a row of natural log-probabilities that sum to one, the same
whatever order the members come in (up to rounding).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gristmill_plugins.llama._sampling import Floats, log_softmax

if TYPE_CHECKING:
    from gristmill import Combine


def combine(rows: Sequence[Floats], weights: Sequence[float], how: Combine) -> Floats:
    """Return `(n_vocab,) float32` log-probabilities from the members' logits.

    "arithmetic" is the weighted mean of probabilities, "geometric" of log-probabilities (a product of experts);
    in a "vote" each member gives its weight to its likeliest token, and the mean probability breaks ties.
    """
    logprobs = np.stack([log_softmax(row) for row in rows]).astype(np.float64)
    shares = np.asarray(weights, np.float64) / sum(weights)
    if how == "geometric":
        return log_softmax((shares[:, None] * logprobs).sum(axis=0).astype(np.float32))
    mean = (shares[:, None] * np.exp(logprobs)).sum(axis=0)
    if how == "vote":
        votes = np.zeros_like(mean)
        np.add.at(votes, logprobs.argmax(axis=1), shares)
        mean = votes + TIE_BREAK * mean * (votes > 0)
    with np.errstate(divide="ignore"):
        combined: Floats = np.log(mean / mean.sum()).astype(np.float32)
    return combined


TIE_BREAK = 1e-6
"""How much a token's mean probability counts beside votes."""
