"""What the engine does with logits: draw samples, score choices.

It knows nothing of batches, processes or templates. Invariant: a job reports exactly once, with its result or
its error, and never after it was dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gristmill import GenerateRequest, ModelError
from gristmill_plugins.llama._branch import Adapters, Branch, adapters_key
from gristmill_plugins.llama._lookup import PromptLookup
from gristmill_plugins.llama._members import combine
from gristmill_plugins.llama._native import Grammar, Vocabulary
from gristmill_plugins.llama._sampling import Floats, Sampler, log_softmax, most_likely
from gristmill_plugins.llama._text import TextStream

N_GRAMMAR_TRIED = 64
"""Greedy decoding tries this many of the likeliest tokens before it masks the vocabulary: 0.1 against 20 ms."""


def refuse_damaged(logits: Floats, model: str) -> None:
    """Raise where logits are not numbers; `argmax` finds a NaN before any number."""
    if not np.isfinite(logits[int(logits.argmax())]):
        raise ModelError(
            f"{model} computed numbers that are not finite: its weights are damaged", model=model, cause="file"
        )


@dataclass(frozen=True, slots=True)
class Report:
    """How a job speaks: pieces of text as they come, then one result or one error."""

    delta: Callable[[int, str, int], None]
    done: Callable[[dict[str, Any]], None]
    failed: Callable[[Exception], None]


@dataclass(frozen=True, slots=True)
class Reading:
    """What one member reads before it predicts; most requests have just one."""

    prompt: list[int]
    adapters: Adapters
    weight: float = 1.0


@dataclass(slots=True)
class _Sample:
    """One answer in the making, with a branch and a row of logits for each member."""

    index: int
    sampler: Sampler
    text: TextStream
    grammar: Grammar | None
    branches: list[Branch]
    rows: list[Floats | None]
    n_tokens: int = 0
    n_told: int = 0
    """How many of the tokens have been reported with a piece of text."""
    finish_reason: str | None = None
    logprobs: list[dict[str, Any]] = field(default_factory=list)

    def result(self) -> dict[str, Any]:
        return {
            "text": self.text.text,
            "finish_reason": self.finish_reason,
            "n_tokens": self.n_tokens,
            "logprobs": self.logprobs,
        }


class GenerateJob:
    """Continues one prompt once for each sample; the prompt is decoded once.

    With several readings, every token is drawn from their combined prediction and appended to all of them. A
    branch's mark is the sample's position times the number of readings, plus the reading's.
    """

    def __init__(
        self,
        request: GenerateRequest,
        readings: Sequence[Reading],
        *,
        vocabulary: Vocabulary,
        model: str,
        context_tokens: int,
        grammar: str | None,
        report: Report,
    ) -> None:
        self._request = request
        self._readings = list(readings)
        self._vocabulary = vocabulary
        self._model = model
        self._report = report
        self._grammar = grammar
        longest = max(len(reading.prompt) for reading in readings)
        self._most = min(request.sampling.max_tokens, context_tokens - longest)
        self._samples = [self._make_sample(place) for place in range(self._n_distinct())]
        self._banned = np.fromiter(vocabulary.control - vocabulary.ends, np.intp)
        self._n_shared = 0
        self._begun = False

    def _n_distinct(self) -> int:
        """Greedy samples are all alike: one is computed for all."""
        return 1 if self._request.sampling.temperature == 0 else len(self._request.sample_indices)

    def _make_sample(self, place: int) -> _Sample:
        index = self._request.sample_indices[place]
        return _Sample(
            index=index,
            sampler=Sampler(self._request.sampling, seed=self._request.seed + index, prompt=self._readings[0].prompt),
            text=TextStream(self._request.sampling.stop),
            grammar=None if self._grammar is None else Grammar(self._vocabulary, self._grammar, model=self._model),
            branches=[self._make_branch(place, member) for member in range(len(self._readings))],
            rows=[None] * len(self._readings),
        )

    def _make_branch(self, place: int, member: int) -> Branch:
        """Return the branch of a sample and member: the first sample's read the prompts, the others split off."""
        reading = self._readings[member]
        is_first = place == 0
        return Branch(
            self,
            list(reading.prompt),
            wants_from=len(reading.prompt) - int(is_first),
            adapters=reading.adapters,
            keep=is_first,
            mark=place * len(self._readings) + member,
            guesser=self._make_guesser(reading),
        )

    def _make_guesser(self, reading: Reading) -> PromptLookup | None:
        """Answers are guessed ahead where each token is the most likely one, with nothing to change that."""
        sampler = Sampler(self._request.sampling, seed=0)
        if self._grammar is not None or len(self._readings) > 1 or not sampler.takes_most_likely:
            return None
        return PromptLookup(limit=len(reading.prompt) + self._most)

    def start(self) -> list[Branch]:
        """Return the branches that read the prompts."""
        return self._samples[0].branches

    def consume(self, branch: Branch, at: int, logits: Floats) -> Iterable[Branch]:
        """Take a member's prediction; when all members of a sample have made theirs, draw its next token."""
        refuse_damaged(logits, self._model)
        place, member = divmod(branch.mark or 0, len(self._readings))
        sample = self._samples[place]
        # The row is native memory and gone with the next batch; a lone reader is done with it by then.
        sample.rows[member] = logits if len(self._readings) == 1 else logits.copy()
        if any(row is None for row in sample.rows):
            return []
        combined = self._combine([row for row in sample.rows if row is not None])
        sample.rows = [None] * len(self._readings)
        new = [] if self._begun else self._begin(combined)
        self._advance(sample, combined)
        self._finish_if_done()
        return [own for own in new if not own.closed]

    def _begin(self, logits: Floats) -> list[Branch]:
        """Let every sample but the first draw from the same prediction; return their branches."""
        self._begun = True
        self._n_shared = sum(branch.n_shared for branch in self._samples[0].branches)
        if logits.max() == logits.min():
            raise ModelError(
                f"{self._model} gives every token the same probability: its weights are damaged",
                model=self._model,
                cause="file",
            )
        for sample in self._samples[1:]:
            self._advance(sample, logits)
        return [branch for sample in self._samples[1:] for branch in sample.branches]

    def _combine(self, rows: list[Floats]) -> Floats:
        if len(rows) == 1:
            return rows[0]
        return combine(rows, [reading.weight for reading in self._readings], self._request.combine or "arithmetic")

    def fail(self, error: Exception) -> None:
        """Report the error; idempotent frees of native state included."""
        self.close()
        self._report.failed(error)

    def close(self) -> None:
        """Free native state."""
        for sample in self._samples:
            if sample.grammar is not None:
                sample.grammar.close()

    def _advance(self, sample: _Sample, logits: Floats) -> None:
        """Draw one token, and close the branches where the answer ends."""
        token = self._draw(sample, logits)
        if token in self._vocabulary.ends:
            self._end(sample, "stop")
            return
        sample.n_tokens += 1
        if self._request.top_logprobs is not None:
            sample.logprobs.append(self._logprob(token, logits))
        piece = sample.text.feed(self._piece(sample, token))
        self._tell(sample, piece)
        if sample.text.stopped:
            self._end(sample, "stop")
        elif sample.n_tokens >= self._most:
            self._end(sample, "length")
        else:
            for branch in sample.branches:
                branch.tokens.append(token)

    def _tell(self, sample: _Sample, piece: str) -> None:
        """Report text that is certain now, with the tokens since the last report."""
        if piece:
            self._report.delta(sample.index, piece, sample.n_tokens - sample.n_told)
            sample.n_told = sample.n_tokens

    def _piece(self, sample: _Sample, token: int) -> bytes:
        """Return the bytes of a token; SentencePiece marks the first word of a text with a space."""
        piece = self._vocabulary.piece(token)
        if sample.n_tokens == 1 and self._vocabulary.is_spm and piece.startswith(b" "):
            return piece[1:]
        return piece

    def _end(self, sample: _Sample, reason: str) -> None:
        self._tell(sample, sample.text.finish())
        sample.finish_reason = reason
        for branch in sample.branches:
            branch.closed = True

    def _draw(self, sample: _Sample, logits: Floats) -> int:
        adjusted = sample.sampler.adjust(logits)
        token = self._draw_in_grammar(sample, adjusted) if sample.grammar else sample.sampler.pick(adjusted)
        sample.sampler.accept(token)
        return token

    def _draw_in_grammar(self, sample: _Sample, adjusted: Floats) -> int:
        """Draw a token that the grammar allows; the vocabulary is masked only where the first draw is refused."""
        grammar = sample.grammar
        assert grammar is not None
        adjusted = adjusted.copy()
        adjusted[self._banned] = -np.inf
        tried = most_likely(adjusted, N_GRAMMAR_TRIED) if sample.sampler.is_greedy else None
        if tried is None:
            first = sample.sampler.pick(adjusted)
            allowed = grammar.allowed(np.asarray([first]))
            token = first if allowed[0] else None
        else:
            fits = tried[grammar.allowed(tried)]
            token = int(fits[0]) if fits.size else None
        if token is None:
            mask = grammar.allowed(np.arange(adjusted.size))
            if not mask.any():
                raise ModelError("no token of the model fits the schema here", model=self._model, cause="request")
            token = sample.sampler.pick(np.where(mask, adjusted, np.float32(-np.inf)))
        grammar.accept(token)
        return token

    def _logprob(self, token: int, logits: Floats) -> dict[str, Any]:
        """Return the model's own log-probabilities, before penalties and temperature."""
        logprobs = log_softmax(logits)
        top: dict[str, float] = {}
        for rank in most_likely(logprobs, self._request.top_logprobs or 0) if self._request.top_logprobs else ():
            top.setdefault(self._shown(int(rank)), float(logprobs[rank]))
        return {"token": self._shown(token), "logprob": float(logprobs[token]), "top": top}

    def _shown(self, token: int) -> str:
        piece = self._vocabulary.piece(token)
        return piece.decode("utf-8", "replace") if piece else self._vocabulary.text(token)

    def _finish_if_done(self) -> None:
        if any(sample.finish_reason is None for sample in self._samples):
            return
        self.close()
        self._report.done(
            {
                "samples": [sample.result() for sample in self._samples],
                "prompt_tokens": sum(len(reading.prompt) for reading in self._readings),
                "shared_tokens": self._n_shared,
            }
        )


class ScoreJob:
    """Sums the log-probabilities of each choice's tokens; all choices are decoded over one prompt."""

    def __init__(
        self,
        prompt: Sequence[int],
        choices: Sequence[Sequence[int]],
        *,
        adapters: dict[str, float],
        model: str,
        report: Report,
    ) -> None:
        self._prompt = list(prompt)
        self._choices = [list(choice) for choice in choices]
        self._adapters = adapters_key(adapters)
        self._model = model
        self._report = report
        self._sums = [0.0] * len(choices)
        self._n_open = len(choices)

    def start(self) -> list[Branch]:
        """Return the branch that reads the prompt."""
        return [self._make_branch(list(self._prompt), wants_from=len(self._prompt) - 1)]

    def _make_branch(self, tokens: list[int], *, wants_from: int) -> Branch:
        return Branch(self, tokens, wants_from, adapters=self._adapters, streams=False)

    def consume(self, branch: Branch, at: int, logits: Floats) -> Iterable[Branch]:
        """Add up the token that follows `at`, in the choice that the branch stands for or in all of them."""
        refuse_damaged(logits, self._model)
        logprobs = log_softmax(logits)
        if branch.mark is None:
            return self._split(branch, logprobs)
        self._add(branch.mark, at - len(self._prompt) + 1, logprobs)
        branch.closed = at == len(branch.tokens) - 1
        self._finish_if_done()
        return []

    def _split(self, branch: Branch, logprobs: Floats) -> list[Branch]:
        """Score every first token, and make a branch for each choice that has more."""
        branch.closed = True
        new = []
        for which, choice in enumerate(self._choices):
            self._add(which, 0, logprobs)
            if len(choice) > 1:
                tokens = self._prompt + choice[:-1]
                own = self._make_branch(tokens, wants_from=len(self._prompt))
                own.mark, own.keep = which, False
                new.append(own)
        self._finish_if_done()
        return new

    def _add(self, which: int, place: int, logprobs: Floats) -> None:
        choice = self._choices[which]
        self._sums[which] += float(logprobs[choice[place]])
        self._n_open -= place == len(choice) - 1

    def _finish_if_done(self) -> None:
        if not self._n_open:
            self._report.done({"logprobs": self._sums, "prompt_tokens": len(self._prompt)})

    def fail(self, error: Exception) -> None:
        """Report the error."""
        self._report.failed(error)

    def close(self) -> None:
        """Nothing native is held."""
