"""The contenders of `engine.py`, each the worker of a process of its own.

All get the same work: gristmill as messages, the others as the token ids that gristmill makes of them, so that they
are spared the template. Nobody stops early: the tokens that end an answer cannot be drawn (gristmill: `logit_bias`;
llama-server: `ignore_eos`) or do not end it (the `Llama` class, whose own `logit_bias` would slow it down). A reply
is `{"seconds": ..., "tokens": ..., "texts": [...]}`; seconds are those of the public call alone.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import _peers

Json = dict[str, Any]
Ids = list[int]

NEVER = -1000.0
SAMPLED: Json = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
"""llama.cpp's own defaults, for everybody."""
GREEDY: Json = {"temperature": 0.0}
CONTEXT_TOKENS = 4096
SLOTS = 16


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


class Gristmill:
    """Our engine through the public API: provider, `generate`, `stream`, `score`."""

    def __init__(self, path: str, threads: int, adapters: dict[str, str], **options: Any) -> None:
        from gristmill_plugins.llama import LlamaPlugin

        self._runner = asyncio.Runner()
        self._ends: list[int] = []
        self._model: Any = LlamaPlugin().llama(model=path, threads=threads, adapters=adapters, **options)

    def describe(self, ends: list[int]) -> list[str]:
        """Load the model, take the tokens that must not be drawn, and return what the model can do."""
        self._ends = ends
        self._runner.run(self._model.count_tokens("a"))
        return sorted(self._model.capabilities)

    def ids(self, prompts: list[list[Json]]) -> list[Ids]:
        return [self._runner.run(self._model.prompt_ids(self._messages(prompt))) for prompt in prompts]

    def generate(
        self,
        prompts: list[list[Json]],
        n_tokens: int,
        samples: int = 1,
        sampled: bool = False,
        seed: int = 0,
        adapters: list[str | None] | None = None,
        at_once: int = 1000,
    ) -> Json:
        """Answer all prompts, `at_once` of them at a time."""
        names = adapters or [None] * len(prompts)
        requests = [
            self._request(prompt, n_tokens, samples=samples, sampled=sampled, seed=seed, adapter=name)
            for prompt, name in zip(prompts, names, strict=True)
        ]

        async def all_of() -> list[Any]:
            found = []
            for start in range(0, len(requests), at_once):
                found += await asyncio.gather(*map(self._model.generate, requests[start : start + at_once]))
            return found

        seconds, answers = timed(lambda: self._runner.run(all_of()))
        completions = [completion for answer in answers for completion in answer]
        assert all(completion.finish_reason == "length" for completion in completions)
        texts = [completion.text for completion in completions]
        return {"seconds": seconds, "tokens": len(texts) * n_tokens, "texts": texts}

    def stream(self, prompt: list[Json], n_tokens: int) -> Json:
        from gristmill import Delta

        request = self._request(prompt, n_tokens)
        start = time.perf_counter()

        async def follow() -> tuple[float, list[str]]:
            first, pieces = 0.0, []
            async for part in self._model.stream(request):
                if isinstance(part, Delta):
                    first = first or time.perf_counter() - start
                    pieces.append(part.text)
            return first, pieces

        seconds, (first, pieces) = timed(lambda: self._runner.run(follow()))
        return {"seconds": seconds, "first_s": first, "tokens": n_tokens, "texts": ["".join(pieces)]}

    def score(self, questions: list[Json]) -> Json:
        """Return the place of the likeliest choice of each question."""
        from gristmill import ScoreRequest

        asked = [(self._messages(question["messages"]), tuple(question["choices"])) for question in questions]
        requests = [ScoreRequest(messages=messages, choices=choices) for messages, choices in asked]

        async def all_of() -> list[Any]:
            return await asyncio.gather(*map(self._model.score, requests))

        seconds, scores = timed(lambda: self._runner.run(all_of()))
        return {"seconds": seconds, "best": [s.logprobs.index(max(s.logprobs)) for s in scores]}

    def one_by_one(self, prompt: list[Json], adapters: list[str | None]) -> list[float]:
        """Return the seconds of requests for one token, one after another, each with an adapter."""
        requests = [self._request(prompt, 1, adapter=name) for name in adapters]
        return [timed(lambda r=request: self._runner.run(self._model.generate(r)))[0] for request in requests]  # type: ignore[misc]

    def close(self) -> None:
        self._runner.run(self._model.close())

    def _messages(self, prompt: list[Json]) -> tuple[Any, ...]:
        from gristmill import Message

        return tuple(Message(**message) for message in prompt)

    def _request(
        self,
        prompt: list[Json],
        n_tokens: int,
        *,
        samples: int = 1,
        sampled: bool = False,
        seed: int = 0,
        adapter: str | None = None,
    ) -> Any:
        from gristmill import GenerateRequest
        from gristmill._models import Sampling

        bias = dict.fromkeys(self._ends, NEVER)
        return GenerateRequest(
            messages=self._messages(prompt),
            sampling=Sampling(max_tokens=n_tokens, logit_bias=bias, **(SAMPLED if sampled else GREEDY)),
            sample_indices=tuple(range(samples)),
            seed=seed,
            adapters={adapter: 1.0} if adapter else {},
        )


class InProcess(Gristmill):
    """The same engine without its process: what the hop costs."""

    def __init__(self, path: str, threads: int, adapters: dict[str, str], **options: Any) -> None:
        os.environ.update({"GOMP_SPINCOUNT": "1000", "GGML_NO_BACKTRACE": "1"})  # as the engine process has them
        super().__init__(path, threads, adapters, **options)
        from gristmill_plugins.llama import _gguf, _native, _probe
        from gristmill_plugins.llama._engine import Engine

        self._log = _native.NativeLog()
        self._events: list[tuple[float, Json]] = []
        load = self._model._load_message(_gguf.check_model(path), _probe.first_attempt(True))
        self._engine: Any = Engine(self, load, request=0)  # type: ignore[arg-type]

    def send(self, message: Json, blob: bytes = b"") -> None:
        """Take what the engine would write to its pipe."""
        self._events.append((time.perf_counter(), message))

    def describe(self, ends: list[int]) -> list[str]:
        self._ends = ends
        return []

    def stream(self, prompt: list[Json], n_tokens: int) -> Json:
        from gristmill_plugins.llama._protocol import Frame

        request = self._model._wire(self._request(prompt, n_tokens))
        message = {"id": 1, "op": "generate", "request": request, "grammar": None, "stream": True}
        self._events.clear()
        start = time.perf_counter()
        self._engine.handle(Frame(message))
        while not self._engine.idle:
            self._engine.step()
        seconds = time.perf_counter() - start
        deltas = [(at, event["text"]) for at, event in self._events if event["event"] == "delta"]
        texts = ["".join(text for _, text in deltas)]
        return {"seconds": seconds, "first_s": deltas[0][0] - start, "tokens": n_tokens, "texts": texts}

    def raw(self, ids: Ids, n_sequences: int, n_steps: int) -> Json:
        """Decode without sampling: what the library itself gives."""
        context = self._engine._context
        self._engine._scheduler.forget_kept()
        size = len(ids)

        def prefill() -> None:
            for at in range(0, size, context.n_batch):
                part = ids[at : at + context.n_batch]
                context.decode(part, range(at, at + len(part)), [1] * len(part), [False] * len(part))

        prefill_s, _ = timed(prefill)
        for seq in range(2, n_sequences + 1):
            context.copy(1, seq, size)
        seqs, wants = list(range(1, n_sequences + 1)), [True] * n_sequences

        def decode() -> None:
            for step in range(n_steps):
                context.decode([ids[step]] * n_sequences, [size + step] * n_sequences, seqs, wants)

        decode_s, _ = timed(decode)
        for seq in seqs:
            context.truncate(seq, 0)
        return {"prefill": size / prefill_s, "decode": n_sequences * n_steps / decode_s}

    def close(self) -> None:
        self._engine.close()


class Loop:
    """llama-cpp-python's `Llama` class, one call after another; it keeps the last prompt's beginning by itself."""

    def __init__(self, path: str, threads: int, adapters: dict[str, str]) -> None:
        import llama_cpp

        self._native: Any = importlib.import_module("llama_cpp.llama_cpp")
        self._settings: Json = {"n_ctx": CONTEXT_TOKENS, "n_threads": threads, "n_threads_batch": threads}
        self._settings["n_gpu_layers"] = -1  # all, where the build can
        self._class: Any = llama_cpp.Llama
        self._path = path
        self._adapters = adapters
        self._llama: Any = self._class(path, verbose=False, **self._settings)
        self._scorer: Any = None
        vocabulary, size = self._llama._model.vocab, self._llama.n_vocab()
        self._ends = [token for token in range(size) if self._native.llama_vocab_is_eog(vocabulary, token)]
        # The class asks this function after each token whether to end.
        vars(self._native)["llama_vocab_is_eog"] = lambda _vocabulary, _token: False

    def ends(self) -> list[int]:
        """Return the tokens that end an answer."""
        return self._ends

    def tokenize(self, texts: list[str]) -> list[Ids]:
        """Return the ids of texts that stand inside an answer."""
        return [self._llama.tokenize(text.encode(), add_bos=False) for text in texts]

    def generate(
        self,
        prompts: list[Ids],
        n_tokens: int,
        samples: int = 1,
        sampled: bool = False,
        seed: int = 0,
        banned: bool = False,
    ) -> Json:
        """Answer one prompt after another; with `banned`, as slowly as its `logit_bias` is."""
        settings: Json = {"max_tokens": n_tokens, "repeat_penalty": 1.0, **(SAMPLED if sampled else GREEDY)}
        if banned:
            settings["logit_bias"] = dict.fromkeys(map(str, self._ends), NEVER)

        def loop() -> list[Json]:
            return [
                self._llama.create_completion(prompt, seed=seed + sample, **settings)
                for prompt in prompts
                for sample in range(samples)
            ]

        seconds, answers = timed(loop)
        tokens = sum(answer["usage"]["completion_tokens"] for answer in answers)
        return {"seconds": seconds, "tokens": tokens, "texts": [answer["choices"][0]["text"] for answer in answers]}

    def stream(self, prompt: Ids, n_tokens: int) -> Json:
        start = time.perf_counter()
        first, pieces = 0.0, []
        for part in self._llama.create_completion(
            prompt, max_tokens=n_tokens, repeat_penalty=1.0, stream=True, **GREEDY
        ):
            first = first or time.perf_counter() - start
            pieces.append(part["choices"][0]["text"])
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "first_s": first, "tokens": n_tokens, "texts": ["".join(pieces)]}

    def score(self, questions: list[Json], keep_question: bool) -> Json:
        """Add up each choice's log-probabilities, behind the shared prefix, or behind the whole question, kept."""
        import numpy as np

        if self._scorer is None:  # the only way of the class to the logits of more than the last token
            self._scorer = self._class(self._path, verbose=False, logits_all=True, **self._settings | {"n_ctx": 1024})
        llama = self._scorer

        def logprob(question: Json, choice: Ids, fresh: bool) -> float:
            ids, shared = question["ids"], question["n_shared"]
            llama.n_tokens = shared if fresh or not keep_question else len(ids) - 1
            llama.eval([*ids[llama.n_tokens :], *choice[:-1]])
            rows = llama.scores[len(ids) - 1 : len(ids) - 1 + len(choice)].astype(np.float64)
            rows -= rows.max(axis=1, keepdims=True)
            rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
            return float(sum(row[token] for row, token in zip(rows, choice, strict=True)))

        def loop() -> list[int]:
            best = []
            for question in questions:
                scores = [logprob(question, choice, place == 0) for place, choice in enumerate(question["choices"])]
                best.append(scores.index(max(scores)))
            return best

        shared = questions[0]["ids"][: questions[0]["n_shared"]]
        llama.n_tokens = 0
        llama.eval(shared)
        seconds, best = timed(loop)
        return {"seconds": seconds, "best": best}

    def reload(self) -> float:
        """Return the seconds it takes to make the object again with an adapter, the class's way to switch."""
        path = next(iter(self._adapters.values()))
        seconds, llama = timed(lambda: self._class(self._path, lora_path=path, verbose=False, **self._settings))
        llama.close()
        return seconds

    def close(self) -> None:
        self._llama.close()


class Server:
    """llama-server's own continuous batching, in one process with its caller (xllamacpp)."""

    def __init__(self, path: str, threads: int, adapters: dict[str, str]) -> None:
        import xllamacpp  # type: ignore[import-not-found]

        settings = xllamacpp.CommonParams()
        settings.model.path = path
        settings.n_ctx = SLOTS * 1024
        settings.n_parallel = SLOTS
        settings.n_gpu_layers = 999
        settings.kv_unified = True  # one cache for all slots: the faster way on a processor
        settings.cache_ram_mib = 0  # do not copy a slot's prompt aside before another takes its place
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
        settings.hostnames, settings.port, settings.verbosity = ["127.0.0.1"], 0, 0
        self._server: Any = xllamacpp.Server(settings)
        self._pool = ThreadPoolExecutor(SLOTS)

    def generate(
        self,
        prompts: list[Ids],
        n_tokens: int,
        samples: int = 1,
        sampled: bool = False,
        seed: int = 0,
        together: bool = False,
    ) -> Json:
        """Answer all prompts from threads; several samples are so many requests or, `together`, one with `n`."""
        wanted = self._settings(n_tokens) | (SAMPLED if sampled else GREEDY)
        if together:
            requests = [{**wanted, "prompt": prompt, "n": samples, "seed": seed} for prompt in prompts]
        else:
            requests = [{**wanted, "prompt": p, "seed": seed + i} for p in prompts for i in range(samples)]
        seconds, answers = timed(lambda: list(self._pool.map(self._server.handle_completions, requests)))
        choices = [choice for answer in answers for choice in answer["choices"]]
        assert all(choice["finish_reason"] == "length" for choice in choices)
        return {"seconds": seconds, "tokens": len(choices) * n_tokens, "texts": [c["text"] for c in choices]}

    def stream(self, prompt: Ids, n_tokens: int) -> Json:
        first, start = 0.0, time.perf_counter()
        pieces: list[str] = []

        def piece(parts: Any) -> bool:
            nonlocal first
            first = first or time.perf_counter() - start
            for part in parts if isinstance(parts, list) else [parts]:
                pieces.extend(choice["text"] for choice in part["choices"])
            return False  # True would end the stream

        self._server.handle_completions({**self._settings(n_tokens), **GREEDY, "prompt": prompt, "stream": True}, piece)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "first_s": first, "tokens": n_tokens, "texts": ["".join(pieces)]}

    def close(self) -> None:
        self._pool.shutdown()

    @staticmethod
    def _settings(n_tokens: int) -> Json:
        return {"max_tokens": n_tokens, "ignore_eos": True, "cache_prompt": True}


KINDS: dict[str, type[Gristmill] | type[Loop] | type[Server]] = {
    "gristmill": Gristmill,
    "in-process": InProcess,
    "Llama class": Loop,
    "llama-server": Server,
}


def work(kind: str, path: str, threads: int, adapters: dict[str, str], options: Json) -> None:
    """Be the worker of one contender: every public method can be called."""
    contender = KINDS[kind](path, threads, adapters, **options)
    _peers.serve({name: getattr(contender, name) for name in dir(contender) if not name.startswith("_")})


if __name__ == "__main__":
    work(*json.loads(sys.argv[1]))
