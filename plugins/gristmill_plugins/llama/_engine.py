"""The engine process: one model, one owner thread, requests in and answers out over two pipes.

Run as `python -P -m gristmill_plugins.llama._engine` by the client and by nobody else. It holds no policy on
restarts or time limits of calls; those are the client's. Invariants: only the main thread touches llama.cpp;
the process ends when its input does, even while native code runs; nothing but frames is written to the
descriptor that carries them.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gristmill import BusyError, GenerateRequest, GristmillError, ModelError, ScoreRequest
from gristmill_plugins.llama import _native, _protocol
from gristmill_plugins.llama._backend import Backend, ShelvedSequences
from gristmill_plugins.llama._beam import BeamJob
from gristmill_plugins.llama._branch import adapters_key
from gristmill_plugins.llama._deltas import PacedDeltas
from gristmill_plugins.llama._embed import TextEmbedder
from gristmill_plugins.llama._jobs import GenerateJob, Reading, Report, ScoreJob
from gristmill_plugins.llama._pair import PairTokenizer
from gristmill_plugins.llama._prompt import PromptTokenizer
from gristmill_plugins.llama._renderer import PromptRenderer
from gristmill_plugins.llama._sampling import Floats
from gristmill_plugins.llama._scheduler import Scheduler
from gristmill_plugins.llama._session import SessionJob
from gristmill_plugins.llama._shelf import PrefixShelf
from gristmill_plugins.llama._stow import Stow
from gristmill_plugins.llama._wire import Wire, die_with_parent, take_pipes

SHELF_S = 1.5
"""How long a closing engine may still write prefixes; the client ends it by force after two seconds."""
PREFILL_SHARE = 64
"""Prompt tokens read in one step while answers stream: at 330 tokens/s (2 cores) they add 0.2 s to a step."""
WIDE_TOKENS = 2048
"""On a processor no prompt is begun beside sequences that have so many tokens with it: 30 passages of 200 tokens, with
answers of 25 tokens, take 14.8 s so and 22.6 s where all are read first (two cores)."""
PROBE_TOKENS = 24
"""A prompt this long takes every kernel that longer ones do: AMX crashes from two tokens on."""


class Engine:
    """One loaded model and the requests that are under way."""

    def __init__(self, wire: Wire, options: dict[str, Any], *, request: int) -> None:
        self._wire = wire
        self._path = options["path"]
        self._context_tokens: int = options["context_tokens"]
        self._max_waiting: int = options["max_waiting"]
        self._jobs: dict[int, GenerateJob | ScoreJob | BeamJob] = {}
        self._sessions: dict[int, SessionJob] = {}
        # One running sequence is left to calls that end by themselves.
        self._max_sessions = max(1, options["max_running"] - 1)
        params = _native.LoadParams(**options["params"]).settled()
        shown = _Progress(lambda fraction: wire.send({"id": request, "event": "progress", "fraction": fraction}))
        self._model = _native.NativeModel(params, shown)
        adapters = {name: self._model.load_adapter(name, path) for name, path in options["adapters"].items()}
        self._context = Backend(self._model, params, adapters)
        vocabulary = self._model.vocabulary
        pairs = PairTokenizer(vocabulary, model=self._path, **options["pairs"]) if options["pairs"] else None
        self._embedder = TextEmbedder(self._model, params, context_tokens=self._context_tokens, pairs=pairs)
        self._tokenizer = PromptTokenizer(vocabulary, model=self._path, template=options["template"])
        self._renderer = PromptRenderer(options["template"], bos=options["bos"], eos=options["eos"], model=self._path)
        self._shelf = _open_shelf(options["shelf"])
        self._scheduler = Scheduler(
            self._context,
            max_running=options["max_running"],
            prefill_share=max(PREFILL_SHARE, params.n_batch // 4),
            reproducible=options["reproducible"],
            shelf=ShelvedSequences(self._context, self._shelf) if self._shelf else None,
            # Measured on a processor only; a GPU would send its cells over the bus.
            stow=None if params.gpu_layers else Stow(self._context, limit_bytes=options["stow_bytes"]),
            most_guessing=options["most_guessing"],
            reads_apart=not params.gpu_layers,
            wide_tokens=math.inf if params.gpu_layers else WIDE_TOKENS,
        )

    def close(self) -> None:
        """Finish what is being written."""
        if self._shelf:
            self._shelf.close(wait_s=SHELF_S)

    def probe(self) -> None:
        """Decode a short prompt, so that kernels which crash do so now, when nothing is lost."""
        tokens = [min(i, self._model.vocabulary.size - 1) for i in range(PROBE_TOKENS)]
        self._context.decode(tokens, range(len(tokens)), [0] * len(tokens), [False] * len(tokens))
        self._context.truncate(0, 0)

    @property
    def idle(self) -> bool:
        """Whether nothing is to be computed."""
        return self._scheduler.idle and self._embedder.idle

    def step(self) -> None:
        """Decode one batch, and embed one text or rank one pair."""
        if not self._scheduler.idle:
            self._scheduler.step()
        if not self._embedder.idle:
            self._embedder.step()

    def handle(self, frame: _protocol.Frame) -> None:
        """Begin what a message asks for; an error is the answer to that message alone."""
        message = frame.message
        if message["op"] == "cancel":
            self._cancel(message["target"])
            return
        try:
            begin: Callable[[dict[str, Any]], None] = getattr(self, f"_do_{message['op']}")
            begin(message)
        except (GristmillError, RuntimeError, ValueError) as error:
            self._send_error(message["id"], error)

    def _do_generate(self, message: dict[str, Any]) -> None:
        request = GenerateRequest.model_validate(message["request"])
        self._check_bias(request)
        self._check_room()
        shared: dict[str, Any] = {
            "vocabulary": self._model.vocabulary,
            "model": self._path,
            "context_tokens": self._context_tokens,
            "report": self._report(message["id"], streams=message["stream"]),
        }
        readings = self._readings(request)
        if request.sampling.beam_width > 1:
            self._begin(message["id"], BeamJob(request, readings[0].prompt, **shared))
        else:
            self._begin(message["id"], GenerateJob(request, readings, grammar=message["grammar"], **shared))

    def _readings(self, request: GenerateRequest) -> list[Reading]:
        """Return what each member reads; a request without members is its own only one.

        A member without adapters has those of the request.
        """
        if not request.members:
            return [Reading(self._prompt(request.messages), adapters_key(request.adapters))]
        return [
            Reading(self._prompt(member.messages), adapters_key(member.adapters or request.adapters), member.weight)
            for member in request.members
        ]

    def _do_open(self, message: dict[str, Any]) -> None:
        request = GenerateRequest.model_validate(message["request"])
        if len(self._sessions) >= self._max_sessions:
            raise BusyError(f"{self._path}: {self._max_sessions} sessions are open already; close one first")
        prompt = self._prompt(request.messages)
        job = SessionJob(
            prompt,
            adapters=adapters_key(request.adapters),
            model=self._path,
            context_tokens=self._context_tokens,
        )
        number = message["id"]
        self._sessions[number] = job
        self._scheduler.add(job.start())
        ends = sorted(self._model.vocabulary.ends)
        opened = {"session": number, "ends": ends, "prompt_tokens": len(prompt)}
        job.request_row(lambda row: self._answer(number, row, opened))

    def _do_row(self, message: dict[str, Any]) -> None:
        number = message["id"]
        self._session(message).request_row(lambda row: self._answer(number, row, {}))

    def _do_accept(self, message: dict[str, Any]) -> None:
        token = message["token"]
        if not 0 <= token < self._model.vocabulary.size:
            raise self._no_token("the session was given", token)
        text = self._session(message).accept(token, self._model.vocabulary.piece(token))
        self._wire.send({"id": message["id"], "event": "done", "result": {"text": text}})

    def _do_end(self, message: dict[str, Any]) -> None:
        if job := self._sessions.pop(message["session"], None):
            self._scheduler.drop(job)
        self._wire.send({"id": message["id"], "event": "done", "result": {}})

    def _session(self, message: dict[str, Any]) -> SessionJob:
        try:
            return self._sessions[message["session"]]
        except KeyError:
            raise ModelError("the session is closed", model=self._path, cause="request") from None

    def _answer(self, request: int, row: Floats | Exception, result: dict[str, Any]) -> None:
        """Send a session's row, or the error that came instead."""
        if isinstance(row, Exception):
            self._send_error(request, row)
        else:
            self._wire.send({"id": request, "event": "done", "result": result}, row.tobytes())

    def _do_score(self, message: dict[str, Any]) -> None:
        request = ScoreRequest.model_validate(message["request"])
        prompt = self._prompt(request.messages)
        choices = [self._choice(text) for text in request.choices]
        if _any_begins_another(choices):
            choices = [[*choice, self._end_of_answer()] for choice in choices]
        longest = max(map(len, choices))
        if len(prompt) + longest > self._context_tokens:
            raise self._too_long(len(prompt) + longest)
        self._check_room()
        report = self._report(message["id"], streams=False)
        job = ScoreJob(prompt, choices, adapters=request.adapters, model=self._path, report=report)
        self._begin(message["id"], job)

    def _do_embed(self, message: dict[str, Any]) -> None:
        """Answer with a row for each text; a reranker is sent a `query` too, and its rows are scores."""
        request = message["id"]

        def done(rows: Floats, n_tokens: list[int], n_cut: int) -> None:
            result = {"shape": list(rows.shape), "n_tokens": n_tokens, "n_cut": n_cut}
            self._wire.send({"id": request, "event": "done", "result": result}, rows.tobytes())

        self._embedder.add(
            request, message["texts"], done, lambda error: self._send_error(request, error), query=message["query"]
        )

    def _do_count(self, message: dict[str, Any]) -> None:
        n_tokens = len(self._tokenizer.encode_text(message["text"]))
        self._wire.send({"id": message["id"], "event": "done", "result": {"n_tokens": n_tokens}})

    def _do_prompt(self, message: dict[str, Any]) -> None:
        request = GenerateRequest.model_validate({"messages": message["messages"]})
        ids = self._tokenizer.encode(self._renderer.render(request.messages))
        self._wire.send({"id": message["id"], "event": "done", "result": {"ids": ids}})

    def _do_counters(self, message: dict[str, Any]) -> None:
        counters = self._scheduler.counters
        result = {name: getattr(counters, name) for name in counters.__slots__}
        self._wire.send({"id": message["id"], "event": "done", "result": result})

    def _begin(self, request: int, job: GenerateJob | ScoreJob | BeamJob) -> None:
        self._jobs[request] = job
        self._scheduler.add(job.start())

    def _cancel(self, target: int) -> None:
        self._embedder.drop(target)
        job = self._jobs.pop(target, None) or self._sessions.pop(target, None)
        if job is not None:
            self._scheduler.drop(job)
            job.close()

    def _prompt(self, messages: Any) -> list[int]:
        if not self._context.can_remember:
            raise ModelError(
                f"{self._path} is an encoder: it embeds text and writes none", model=self._path, cause="request"
            )
        ids = self._tokenizer.encode(self._renderer.render(messages))
        if not ids:
            raise ModelError("the prompt is empty", model=self._path, cause="request")
        if len(ids) >= self._context_tokens:
            raise self._too_long(len(ids))
        return ids

    def _too_long(self, n_tokens: int) -> ModelError:
        return ModelError(
            f"the prompt takes {n_tokens} tokens, and with at least one token of answer the context of "
            f"{self._path} holds {self._context_tokens}",
            model=self._path,
            cause="request",
            hint="shorten the prompt, or declare the model with more context_tokens",
        )

    def _choice(self, text: str) -> list[int]:
        ids = self._tokenizer.encode_text(text)
        if not ids:
            raise ModelError(f"the choice {text!r} has no tokens", model=self._path, cause="request")
        return ids

    def _end_of_answer(self) -> int:
        return self._model.vocabulary.eos

    def _check_bias(self, request: GenerateRequest) -> None:
        size = self._model.vocabulary.size
        for token in request.sampling.logit_bias:
            if not 0 <= token < size:
                raise self._no_token("logit_bias names", token)

    def _no_token(self, what: str, token: int) -> ModelError:
        last = self._model.vocabulary.size - 1
        return ModelError(
            f"{what} token {token}, and {self._path} has the tokens 0 to {last}", model=self._path, cause="request"
        )

    def _check_room(self) -> None:
        if self._scheduler.n_waiting >= self._max_waiting:
            raise BusyError(f"{self._path}: {self._max_waiting} requests are waiting already; try again later")

    def _report(self, request: int, *, streams: bool) -> Report:
        began = time.monotonic()

        def send(sample: int, text: str, n_tokens: int) -> None:
            message = {"id": request, "event": "delta", "sample": sample, "text": text, "n_tokens": n_tokens}
            self._wire.send(message)

        deltas = PacedDeltas(send)

        def delta(sample: int, text: str, n_tokens: int) -> None:
            if streams:
                deltas.add(sample, text, n_tokens)

        def done(result: dict[str, Any]) -> None:
            self._jobs.pop(request, None)
            deltas.flush()
            result["elapsed_s"] = time.monotonic() - began
            self._wire.send({"id": request, "event": "done", "result": result})

        def failed(error: Exception) -> None:
            self._jobs.pop(request, None)
            deltas.flush()
            self._send_error(request, error)

        return Report(delta=delta, done=done, failed=failed)

    def _send_error(self, request: int, error: Exception) -> None:
        self._wire.send({"id": request, "event": "error", **describe(error)})


class _Progress:
    """Passes on loading progress when it has moved by a hundredth."""

    def __init__(self, show: Callable[[float], None]) -> None:
        self._show = show
        self._last = -1.0

    def __call__(self, fraction: float) -> None:
        if fraction - self._last >= 0.01:
            self._last = fraction
            self._show(fraction)


def describe(error: Exception) -> dict[str, Any]:
    """Return an error as a message that the client can raise again."""
    kind = "busy" if isinstance(error, BusyError) else "model"
    cause = error.cause if isinstance(error, ModelError) else "request"
    text = error.message if isinstance(error, GristmillError) else f"{type(error).__name__}: {error}"
    hint = error.hint if isinstance(error, GristmillError) else None
    return {"kind": kind, "cause": cause, "text": text, "hint": hint}


def _open_shelf(options: dict[str, Any] | None) -> PrefixShelf | None:
    """Return the folder for prefixes, if there is to be one."""
    if options is None:
        return None
    return PrefixShelf(Path(options["folder"]), key=options["key"], limit_bytes=options["limit_bytes"])


def _any_begins_another(choices: list[list[int]]) -> bool:
    """Whether one choice is the beginning of another: then where an answer ends must count too."""
    return any(
        left == right[: len(left)] for i, left in enumerate(choices) for j, right in enumerate(choices) if i != j
    )


def _serve(wire: Wire, log: _native.NativeLog) -> None:
    """Load the model that the first message names and answer until the input ends."""
    first = wire.inbox.get()
    request = first.message["id"]
    wire.working.set()
    try:
        engine = Engine(wire, first.message, request=request)
        if first.message["probe"]:
            wire.send({"id": request, "event": "probing"})
            engine.probe()
    except ModelError as error:
        wire.send({"id": request, "event": "error", **describe(log.explain(error))})
        return
    wire.send({"id": request, "event": "done", "result": {}})
    while True:
        if engine.idle:
            wire.working.clear()
            wire.step_began = None
            frame = wire.inbox.get()
            wire.working.set()
            wire.step_began = time.monotonic()
            if frame.message["op"] == "close":
                engine.close()
                return
            engine.handle(frame)
        wire.step_began = time.monotonic()
        while not wire.inbox.empty():
            frame = wire.inbox.get()
            if frame.message["op"] == "close":
                engine.close()
                return
            engine.handle(frame)
        engine.step()


def main() -> None:
    """Run the engine process."""
    die_with_parent(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    wire = Wire(*take_pipes())
    wire.start()
    _serve(wire, _native.NativeLog())
    os._exit(0)


if __name__ == "__main__":
    main()
