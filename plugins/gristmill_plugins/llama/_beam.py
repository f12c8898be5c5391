"""Beam search: the most likely whole answer that a few parallel beginnings lead to.

Invariant: at most `width` beginnings are open, and each is a branch of its own. Scores are sums of natural
log-probabilities divided by the number of tokens, the end included, as in Hugging Face's default
(`length_penalty=1`); the search ends when `width` answers have ended, or at the limit of tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from gristmill import GenerateRequest
from gristmill_plugins.llama._branch import Branch, adapters_key
from gristmill_plugins.llama._jobs import Report, refuse_damaged
from gristmill_plugins.llama._native import Vocabulary
from gristmill_plugins.llama._sampling import Floats, Sampler, log_softmax, most_likely
from gristmill_plugins.llama._text import TextStream


@dataclass(slots=True)
class _Beam:
    branch: Branch
    score: float
    row: Floats | None = None


@dataclass(frozen=True, slots=True)
class _Ended:
    tokens: tuple[int, ...]
    score: float
    reason: str


class BeamJob:
    """Searches for one answer with several beams."""

    def __init__(
        self,
        request: GenerateRequest,
        prompt: Sequence[int],
        *,
        vocabulary: Vocabulary,
        model: str,
        context_tokens: int,
        report: Report,
    ) -> None:
        self._request = request
        self._width = request.sampling.beam_width
        self._prompt = list(prompt)
        self._vocabulary = vocabulary
        self._model = model
        self._report = report
        self._most = min(request.sampling.max_tokens, context_tokens - len(prompt))
        head = Branch(self, list(prompt), wants_from=len(prompt) - 1, adapters=adapters_key(request.adapters))
        self._beams = [_Beam(head, 0.0)]
        self._ended: list[_Ended] = []
        self._n_shared = 0

    def start(self) -> list[Branch]:
        """Return the branch that reads the prompt."""
        return [self._beams[0].branch]

    def consume(self, branch: Branch, at: int, logits: Floats) -> Iterable[Branch]:
        """Collect the beams' rows; when all are there, choose the next beams."""
        refuse_damaged(logits, self._model)
        if at == len(self._prompt) - 1:
            self._n_shared = branch.n_shared
        beam = next(beam for beam in self._beams if beam.branch is branch)
        beam.row = log_softmax(self._adjust(beam, logits))
        if any(beam.row is None for beam in self._beams):
            return []
        return self._choose()

    def _adjust(self, beam: _Beam, logits: Floats) -> Floats:
        """Apply bias and penalties, which look at the tokens of this beam."""
        sampler = Sampler(self._request.sampling, seed=0, prompt=self._prompt)
        for token in beam.branch.tokens[len(self._prompt) :]:
            sampler.accept(token)
        return sampler.adjust(logits)

    def _choose(self) -> list[Branch]:
        """Replace the beams by the best continuations of all of them."""
        parents, candidates = self._beams, self._candidates()
        self._beams = []
        for score, parent, token in candidates:
            answer = (*parent.branch.tokens[len(self._prompt) :],)
            if token in self._vocabulary.ends:
                self._ended.append(_Ended(answer, score / (len(answer) + 1), "stop"))
            elif self._stops((*answer, token)):
                self._ended.append(_Ended((*answer, token), score / (len(answer) + 1), "stop"))
            elif len(answer) + 1 >= self._most:
                self._ended.append(_Ended((*answer, token), score / (len(answer) + 1), "length"))
            else:
                self._beams.append(_Beam(self._fork(parent.branch, token), score))
            if len(self._beams) == self._width:
                break
        for parent in parents:
            parent.branch.closed = True
        if len(self._ended) >= self._width or not self._beams:
            self._finish()
            return []
        return [beam.branch for beam in self._beams]

    def _candidates(self) -> list[tuple[float, _Beam, int]]:
        """Return the best continuations, twice as many as beams, so that enough are left when some end."""
        found = []
        for beam in self._beams:
            assert beam.row is not None
            for token in most_likely(beam.row, 2 * self._width):
                if np.isfinite(beam.row[token]):
                    found.append((beam.score + float(beam.row[token]), beam, int(token)))
        return sorted(found, key=lambda candidate: -candidate[0])[: 2 * self._width]

    def _fork(self, parent: Branch, token: int) -> Branch:
        tokens = [*parent.tokens, token]
        return Branch(self, tokens, wants_from=len(tokens) - 1, adapters=parent.adapters, keep=False)

    def _text(self, tokens: Iterable[int]) -> TextStream:
        text = TextStream(self._request.sampling.stop)
        for token in tokens:
            text.feed(self._vocabulary.piece(token))
        text.finish()
        return text

    def _stops(self, tokens: Sequence[int]) -> bool:
        return bool(self._request.sampling.stop) and self._text(tokens).stopped

    def _finish(self) -> None:
        best = max(self._ended, key=lambda ended: ended.score)
        text = self._text(best.tokens).text
        index = self._request.sample_indices[0]
        self._beams = []
        self._report.delta(index, text, len(best.tokens))
        sample = {"text": text, "finish_reason": best.reason, "n_tokens": len(best.tokens), "logprobs": []}
        self._report.done({"samples": [sample], "prompt_tokens": len(self._prompt), "shared_tokens": self._n_shared})

    def fail(self, error: Exception) -> None:
        """Report the error."""
        self._report.failed(error)

    def close(self) -> None:
        """Nothing native is held."""
