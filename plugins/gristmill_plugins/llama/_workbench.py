"""Native work on a model file in a process of its own: write it in another format, measure its speed and its loss.

Run as `python -P -m gristmill_plugins.llama._workbench` by `_tools` alone: one JSON job on standard input, one line of
JSON on standard output. It chooses nothing and checks no file; the parent did. Invariant: whatever happens in
here, the parent gets an answer, an error in words, or an exit code.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gristmill import ModelError
from gristmill_plugins.llama import _native
from gristmill_plugins.llama._sampling import Floats, log_softmax

C = _native.C
WINDOW = 512
LEAST_TOKENS = 64
N_SEQUENCES = 16
N_STEPS = 24
N_BEFORE = 32
"""Tokens that the batched sequences begin with, in common."""


def quantize(job: dict[str, Any]) -> dict[str, Any]:
    """Write `source` in the format `file_type` to `target`."""
    params = C.llama_model_quantize_default_params()
    params.nthread = job["threads"]
    params.ftype = job["file_type"]
    params.allow_requantize = True
    start = time.perf_counter()
    if code := C.llama_model_quantize(job["source"].encode(), job["target"].encode(), ctypes.byref(params)):
        raise ModelError(
            f"llama.cpp could not convert {job['source']!r} (code {code})", model=job["source"], cause="load"
        )
    return {"seconds": time.perf_counter() - start}


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Return the rates of a file and, with a text, its perplexity and its divergence from the reference."""
    found: dict[str, Any] = {}
    bench = _Bench(job)
    if job["text"] is not None:
        found |= bench.loss(job["text"], job["n_windows"], job["reference"], writes=job["writes_reference"])
    return found | bench.speed()


class _Bench:
    """One loaded file."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._n_repeats: int = job["n_repeats"]
        self._params = _native.LoadParams(
            path=job["path"],
            n_ctx=max(2 * WINDOW, N_BEFORE + N_SEQUENCES * (N_STEPS + 1)),
            n_seq_max=N_SEQUENCES + 1,
            n_threads=job["threads"],
            n_batch=job["n_batch"],
            use_extra_bufts=job["use_extra_bufts"],
        ).settled()
        self._model = _native.NativeModel(self._params, lambda _: None)
        self._context = _native.NativeContext(self._model, self._params)
        if not self._context.can_remember:
            raise ModelError(f"{job['path']!r} is an encoder: it writes no text", model=job["path"], cause="request")

    # Loss

    def loss(self, text: str, n_windows: int, reference: str, *, writes: bool) -> dict[str, Any]:
        """Return what the second half of each window of the text costs, as llama.cpp's own perplexity does."""
        windows = list(self._windows(text, n_windows))
        n_rows = sum(len(window) - 1 - len(window) // 2 for window in windows)
        shape = (n_rows, self._model.vocabulary.size)
        kept = np.memmap(reference, np.float32, "w+" if writes else "r", shape=shape)
        surprise = divergence = 0.0
        at = 0
        for window in windows:
            for token, row in zip(window[len(window) // 2 + 1 :], self._predictions(window), strict=True):
                surprise -= float(row[token])
                if writes:
                    kept[at] = row
                else:
                    divergence += float((np.exp(kept[at]) * (kept[at] - row)).sum(dtype=np.float64))
                at += 1
        result = {"perplexity": float(np.exp(surprise / n_rows)), "n_scored": n_rows}
        return result | {"kl_mean": max(0.0, divergence / n_rows)}

    def _windows(self, text: str, n_windows: int) -> Iterator[list[int]]:
        vocabulary = self._model.vocabulary
        ids = vocabulary.tokenize(text)
        if len(ids) < LEAST_TOKENS:
            raise ModelError(
                f"the text has {len(ids)} tokens, and at least {LEAST_TOKENS} are needed to compare formats",
                model=self._params.path,
                cause="request",
                hint="give a longer text, best of the kind that the model will read",
            )
        start = [vocabulary.bos] if vocabulary.adds_bos and vocabulary.bos >= 0 else []
        size = WINDOW - len(start)
        for at in range(0, min(len(ids), n_windows * size), size):
            if (part := ids[at : at + size]) and (not at or len(part) >= LEAST_TOKENS):
                yield start + part

    def _predictions(self, window: list[int]) -> Iterator[Floats]:
        """Yield the log-probabilities that follow each token from the middle of a window to the last but one."""
        self._context.truncate(0, 0)
        first, last = len(window) // 2, len(window) - 1
        for at in range(0, len(window), self._context.n_batch):
            places = range(at, min(at + self._context.n_batch, len(window)))
            wants = [first <= place < last for place in places]
            self._decode(window[at : places.stop], places, [0] * len(places), wants)
            if any(wants):
                for row in self._context.logits(sum(wants)):
                    yield log_softmax(row)

    # Speed

    def speed(self) -> dict[str, float]:
        """Return tokens a second: a prompt read, sixteen sequences decoded together, and one alone."""
        size = self._model.vocabulary.size
        ids = np.random.default_rng(0).integers(size // 10, size, WINDOW).tolist()  # what they are plays no part
        batched = self._best(lambda: self._decode_together(ids, N_SEQUENCES))
        return {
            "prefill_per_s": WINDOW / self._best(lambda: self._prefill(ids)),
            "batched_per_s": N_SEQUENCES * N_STEPS / batched,
            "single_per_s": N_STEPS / self._best(lambda: self._decode_together(ids, 1)),
        }

    def _best(self, work: Callable[[], float]) -> float:
        """Return the shortest of a few runs: what else the machine does only ever adds."""
        return min(work() for _ in range(self._n_repeats))

    def _prefill(self, ids: list[int]) -> float:
        self._context.clear()
        start = time.perf_counter()
        for at in range(0, len(ids), self._context.n_batch):
            part = ids[at : at + self._context.n_batch]
            self._decode(part, range(at, at + len(part)), [0] * len(part), [False] * (len(part) - 1) + [True])
        self._context.logits(1)
        return time.perf_counter() - start

    def _decode_together(self, ids: list[int], n_sequences: int) -> float:
        self._context.clear()
        seqs = list(range(1, n_sequences + 1))
        self._decode(ids[:N_BEFORE], range(N_BEFORE), [1] * N_BEFORE, [False] * N_BEFORE)
        for seq in seqs[1:]:
            self._context.copy(1, seq, N_BEFORE)
        start = time.perf_counter()
        for step in range(N_STEPS):
            self._decode(ids[:n_sequences], [N_BEFORE + step] * n_sequences, seqs, [True] * n_sequences)
            self._context.logits(n_sequences)
        return time.perf_counter() - start

    def _decode(self, ids: list[int], places: Any, seqs: list[int], wants: list[bool]) -> None:
        if code := self._context.decode(ids, places, seqs, wants):
            raise ModelError(f"llama.cpp could not decode a batch (code {code})", model=self._params.path, cause="load")


JOBS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"quantize": quantize, "measure": measure}


def main() -> None:
    """Do one job."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    log = _native.NativeLog()
    job = json.loads(sys.stdin.read())
    try:
        answer = JOBS[job["job"]](job)
    except ModelError as error:
        known = log.explain(error)
        answer = {"error": known.message, "cause": known.cause, "hint": known.hint}
    print(json.dumps(answer), file=answers, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
