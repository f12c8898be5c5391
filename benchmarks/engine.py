"""The engine of the llama plugin beside llama-cpp-python's `Llama` class in a loop and llama-server's own batching.

    python benchmarks/engine.py                # a table on standard output, numbers in benchmarks/results/engine.json
    python benchmarks/engine.py --quick        # a few seconds a row: does it run at all?
    python benchmarks/engine.py --only stream  # one row

One run, one GGUF file, one number of threads; every contender in a process of its own, taking turns while the others
sleep, in another order each round; every row bounded in time. gristmill is called through its public API
(provider, then `generate`, `stream`, `score`), with no prompt cache. llama-server is xllamacpp's in-process `Server`,
without HTTP. Run it on a machine that does nothing else: threads that wait for one another by spinning make a busy
machine's numbers worthless. The load average is printed for that reason.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _engine_texts as texts
import _lora
import _peers
import _quiet
from _engine_report import OURS, Row, machine, table

PEERS = {"xllamacpp": ["xllamacpp==2026.10.11549"]}
INSIDE, LOOP, SERVER = "in-process", "Llama class", "llama-server"
SERVER_N = "llama-server, `n`"
ADAPTERS = 4


CPU: Mapping[str, Any] = {"cpu": True, "threads": 1, "quiet_s": 0, "row_s": 40.0, "loop_choices": 10, "choices": 100}


@dataclass(frozen=True)
class Size:
    """How much work a row does; the documentation's table is made with the defaults."""

    threads: int
    rounds: int = 5
    row_s: float = 80.0
    """No new round of a row begins after so many seconds."""
    quiet_s: float = 15.0
    """How long a round waits for others to rest."""
    cpu: bool = False
    """Whether processor seconds are counted instead of the clock's."""
    samples: int = 8
    sample_tokens: int = 64
    sentences: int = 48  # of some 12 tokens: with the question and the roles, 600
    system_sentences: int = 41  # 500 tokens
    questions: int = 16
    question_tokens: int = 32
    stream_tokens: int = 128
    batched_tokens: int = 64
    choices: int = 200
    loop_choices: int = 40
    """The loop scores fewer questions: it would take minutes."""
    adapter_requests: int = 16
    adapter_tokens: int = 32
    switches: int = 40
    disk_sentences: int = 168  # 2,000 tokens


QUICK: Mapping[str, Any] = {
    "rounds": 1, "quiet_s": 0, "samples": 2, "sample_tokens": 4, "sentences": 4, "system_sentences": 4, "questions": 2,
    "question_tokens": 4, "stream_tokens": 8, "batched_tokens": 4, "choices": 4, "loop_choices": 2,
    "adapter_requests": 4, "adapter_tokens": 2, "switches": 4, "disk_sentences": 24,
}  # fmt: skip


class Bench:
    """The running contenders and the prompts both as messages and as ids."""

    def __init__(self, path: Path, size: Size, stack: ExitStack) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")  # the workers inherit it: nobody starts from a warm disk
        self.path, self.size = path, size
        self.chance = random.Random(0)
        self.adapters = _lora.write_adapters(path, folder, ADAPTERS)
        self.pythons = {SERVER: _peers.environment("xllamacpp", PEERS["xllamacpp"])}
        self._watch = _quiet.Watch()
        self.disturbances: list[float] = []
        """The share of the processors that others used, in each round."""
        self.workers = {kind: stack.enter_context(self.worker(kind)) for kind in (OURS, INSIDE, LOOP, SERVER)}
        self.ends = self.workers[LOOP].call("ends")
        self.capabilities = self.workers[OURS].call("describe", ends=self.ends)
        self.workers[INSIDE].call("describe", ends=self.ends)
        self._seeds = itertools.count(1000 + int(time.time()) % 1000 * 10)

    def worker(self, kind: str, **options: Any) -> _peers.Worker:
        """Start another process of a contender."""
        python = self.pythons.get(kind, Path(sys.executable))
        setup = json.dumps([kind, str(self.path), self.size.threads, self.adapters if not options else {}, options])
        return _peers.Worker(python, _peers.HERE / "_engine_workers.py", setup)

    def seed(self) -> int:
        """Return a number that no earlier prompt was made with."""
        return next(self._seeds)

    def ids(self, prompts: list[texts.Messages]) -> list[list[int]]:
        found: list[list[int]] = self.workers[OURS].call("ids", prompts=prompts)
        return found

    def call(self, kind: str, what: str, prompts: list[texts.Messages], ids: list[list[int]], **more: Any) -> Any:
        """Call a contender with the prompts in its form; rates are tokens a second."""
        answer = self.ask(kind, what, prompts=prompts if kind == OURS else ids, **more)
        answer["rate"] = answer["tokens"] / answer["seconds"]
        return answer

    def ask(self, kind: str, what: str, **parameters: Any) -> Any:
        """Call a contender; where processor seconds count, they stand in the answer in place of the clock's."""
        worker = self.workers[kind]
        if not self.size.cpu:
            return worker.call(what, **parameters)
        before = _quiet.family_s(worker.pid)
        answer = worker.call(what, **parameters)
        return {**answer, "seconds": _quiet.family_s(worker.pid) - before}

    def rounds(self, *rows: Row, most: int | None = None) -> Iterator[int]:
        """Count rounds until enough were undisturbed, or the time is used up; the other values are dropped."""
        end, kept = time.monotonic() + self.size.row_s, 0
        for number in itertools.count():
            self._watch.wait(min(self.size.quiet_s, end - time.monotonic()))
            sizes = [{name: len(values) for name, values in row.found.items()} for row in rows]
            yield number
            others, late = 0.0 if self.size.cpu else self._watch.others(), time.monotonic() > end
            self.disturbances.append(round(others, 3))
            last = late or self.size.rounds == 1
            if others <= _quiet.LIMIT:
                kept += 1
            elif kept or not last:
                for row, before in zip(rows, sizes, strict=True):
                    row.shrink(before)
            else:
                rows[0].notes.append(f"never undisturbed: others used {others:.0%} of the processors")
            if last or kept == (most or self.size.rounds):
                return

    def turns(self, *names: str) -> list[str]:
        """Return the contenders in this round's order."""
        order = list(names)
        self.chance.shuffle(order)
        return order


def samples(bench: Bench) -> list[Row]:
    """Several samples of one prompt that nobody has seen, then again."""
    size = bench.size
    work = f"{size.samples} samples x {size.sample_tokens} tokens of one {{}}-token prompt"
    cold = Row(f"{work}, cold", "tokens/s", {SERVER: 3.5, LOOP: 1.6})
    warm = Row(f"{work}, warm", "tokens/s", {SERVER: 1.25, LOOP: 2.0})
    lengths = set()
    for _ in bench.rounds(cold, warm):
        for name in bench.turns(OURS, LOOP, SERVER, SERVER_N):
            prompt = [texts.documented(bench.seed(), size.sentences)]
            ids = bench.ids(prompt)
            lengths.add(len(ids[0]))
            kind, together = name.split(",")[0], {"together": True} if name == SERVER_N else {}
            for row in (cold, warm):
                answer = bench.call(
                    kind, "generate", prompt, ids,
                    n_tokens=size.sample_tokens, samples=size.samples, sampled=True, seed=bench.seed(), **together,
                )  # fmt: skip
                assert answer["tokens"] == size.samples * size.sample_tokens, name
                row.add(name, answer["rate"])
    for row in (cold, warm):
        row.name = row.name.format(round(statistics.mean(lengths)))
    return [cold, warm]


def questions(bench: Bench) -> list[Row]:
    """Different questions behind one system prompt: first when nobody knows it, then new questions."""
    size = bench.size
    seed = bench.seed()
    prompts = texts.questions(seed, size.system_sentences, size.questions, 0)
    first = bench.ids(prompts)
    n_shared = _n_common(first)
    work = f"{size.questions} questions behind one {n_shared}-token system prompt, {size.question_tokens} tokens each"
    cold = Row(f"{work}, cold", "tokens/s")
    warm = Row(f"{work}, the prompt known", "tokens/s", {SERVER: 1.2, LOOP: 2.5})
    said: dict[str, list[str]] = {}
    for number in bench.rounds(cold, warm, most=size.rounds + 1):
        if number:
            prompts = texts.questions(seed, size.system_sentences, size.questions, number)
        ids = bench.ids(prompts)
        for name in bench.turns(OURS, LOOP, SERVER):
            answer = bench.call(name, "generate", prompts, ids, n_tokens=size.question_tokens)
            (warm if number else cold).add(name, answer["rate"])
            said.setdefault(name, answer["texts"])
    prompts = texts.questions(seed, size.system_sentences, size.questions, 0)
    banned = bench.call(LOOP, "generate", prompts, first, n_tokens=size.question_tokens, banned=True)["texts"]
    warm.notes += [_agreement(name, said[name], banned) for name in (OURS, SERVER)]
    return [cold, warm]


def _agreement(name: str, ours: list[str], theirs: list[str]) -> str:
    pairs = [(left.strip(), right.strip()) for left, right in zip(ours, theirs, strict=True)]
    same = sum(left == right for left, right in pairs)
    alike = statistics.mean(_n_common(pair) / max(len(pair[1]), 1) for pair in pairs)
    return (
        f"greedy answers of {name} equal to the loop's: {same} of {len(pairs)}; "
        f"the same up to {alike:.0%} of their length on average"
    )


def _n_common(rows: Sequence[Sequence[Any]]) -> int:
    """Return how long the beginning is that all have in common."""
    columns = zip(*rows, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))


def stream(bench: Bench) -> list[Row]:
    """One stream, and the same engine without the process between."""
    size = bench.size
    row = Row(f"one stream, {size.stream_tokens} tokens", "tokens/s", {INSIDE: 0.97})
    first = Row("the same, first token", "ms")
    prompt = [texts.plain("Write a long story about a miller.")]
    ids = bench.ids(prompt)
    said = {}
    for number in bench.rounds(row, first, most=3 * size.rounds + 1):
        for name in bench.turns(OURS, INSIDE, LOOP, SERVER):
            given = prompt[0] if name in (OURS, INSIDE) else ids[0]
            answer = bench.ask(name, "stream", prompt=given, n_tokens=size.stream_tokens)
            if number or size.rounds == 1:
                row.add(name, answer["tokens"] / answer["seconds"])
                first.add(name, 1000 * answer["first_s"])
            said[name] = answer["texts"][0]
    row.notes.append(f"the text in-process and through the process is the same: {said[OURS] == said[INSIDE]}")
    return [row] if size.cpu else [row, first]


def choices(bench: Bench) -> list[Row]:
    """Closed choices behind a shared few-shot prefix that everybody has read."""
    size, seed = bench.size, bench.seed()
    again, kept = f"{LOOP}, each choice behind the prefix", f"{LOOP}, the question kept too"
    row = Row(f"{size.choices} questions of 2 to 5 choices behind a {{}}-token prefix", "questions/s", {again: 4.0})
    bench.workers[OURS].call("score", questions=texts.choices(seed, 2, -1))
    same = n_compared = 0
    for number in bench.rounds(row, most=3):
        asked = texts.choices(seed, size.choices, number)
        ids = bench.ids([question["messages"] for question in asked[: size.loop_choices]])
        n_shared = _n_common(ids)
        row.name = row.name.format(n_shared)
        for_loop = [
            {"ids": own, "n_shared": n_shared, "choices": bench.workers[LOOP].call("tokenize", texts=q["choices"])}
            for own, q in zip(ids, asked, strict=False)
        ]
        best: dict[str, list[int]] = {}
        for name in bench.turns(OURS, again, kept):
            if name == OURS:
                answer = bench.ask(OURS, "score", questions=asked)
            else:
                answer = bench.ask(LOOP, "score", questions=for_loop, keep_question=name == kept)
            row.add(name, len(answer["best"]) / answer["seconds"])
            best[name] = answer["best"]
        same += sum(ours == theirs for ours, theirs in zip(best[OURS], best[again], strict=False))
        n_compared += len(for_loop)
    agreed = f"the same choice as gristmill's in {same} of {n_compared}"
    row.notes.append(f"the loop had {size.loop_choices} of the questions each time; {agreed}")
    return [row]


def batched(bench: Bench) -> list[Row]:
    """Decoding many sequences at once, against reading a prompt: the limit that the processor sets."""
    size = bench.size
    read = Row("reading a {}-token prompt", "tokens/s")
    write = Row("batched decode, 16 sequences", "tokens/s")
    share = Row("batched decode at 16 sequences as a share of the prefill rate", "share")
    share.notes.append("the aim is 0.6")
    short = [texts.plain("Write a long story about a miller.")]
    short_ids = bench.ids(short)
    more: dict[str, Any] = {"samples": 16, "sampled": True}
    for _ in bench.rounds(read, write, share):
        for name in bench.turns(OURS, LOOP, SERVER):
            long = [texts.documented(bench.seed(), size.sentences)]
            ids = bench.ids(long)
            read.name = read.name.format(len(ids[0]))
            taken = bench.call(name, "generate", long, ids, n_tokens=1)
            read.add(name, len(ids[0]) / taken["seconds"])
            if name == LOOP:
                continue
            bench.call(name, "generate", short, short_ids, n_tokens=2, **more)
            decoded = bench.call(name, "generate", short, short_ids, n_tokens=size.batched_tokens, **more)
            write.add(name, decoded["rate"])
            share.add(name, decoded["rate"] / read.found[name][-1])
        raw = bench.workers[INSIDE].call("raw", ids=ids[0][:64], n_sequences=16, n_steps=min(32, size.batched_tokens))
        write.add("the library alone, no sampling", raw["decode"])
    return [read, write, share]


def adapters(bench: Bench) -> list[Row]:
    """Four adapters: what a switch costs, and what mixed requests cost."""
    if "adapters" not in bench.capabilities:
        return [Row("switching between adapters (not offered by this build)", "")]
    size = bench.size
    ours = bench.workers[OURS]
    names = list(bench.adapters)
    prompt = texts.plain("Name a river.")
    change, again = "the switch alone: the difference of the two below", "Llama class, a new object"
    switch = Row("switching adapters, request by request", "ms", {again: 50.0}, reference=change)
    work = f"{size.adapter_requests} requests, {size.adapter_tokens} tokens each, with {len(names)} adapters"
    quarter = size.adapter_requests // len(names)
    one, many = "one adapter, all at once", "four adapters, all at once"
    few, grouped = f"one adapter, {quarter} at a time", f"four adapters, {quarter} at a time, grouped"
    mixed = Row(work, "tokens/s", {few: 0.9}, reference=grouped)
    prompts = [texts.plain(f"Tell a story about the number {i}.") for i in range(size.adapter_requests)]
    plans: dict[str, tuple[list[str], int]] = {
        one: ([names[0]] * len(prompts), len(prompts)),
        few: ([names[0]] * len(prompts), quarter),
        many: ([names[i % len(names)] for i in range(len(prompts))], len(prompts)),
        grouped: ([names[i // quarter] for i in range(len(prompts))], quarter),
    }
    for name in names:
        ours.call("one_by_one", prompt=prompt, adapters=[name])
    for number in bench.rounds(switch, mixed):
        same = ours.call("one_by_one", prompt=prompt, adapters=[names[0]] * size.switches)
        other = ours.call("one_by_one", prompt=prompt, adapters=[names[i % len(names)] for i in range(size.switches)])
        with_same, with_other = 1000 * statistics.median(same[1:]), 1000 * statistics.median(other)
        switch.add(change, max(with_other - with_same, 0.01))
        switch.add("a request, the adapter of the last one", with_same)
        switch.add("a request, another adapter", with_other)
        switch.add(again, 1000 * bench.workers[LOOP].call("reload"))
        for plan in bench.turns(*plans):
            given, at_once = plans[plan]
            answer = bench.ask(
                OURS, "generate", prompts=prompts, n_tokens=size.adapter_tokens, adapters=given, at_once=at_once
            )  # fmt: skip
            if number or size.rounds == 1:  # the first round reads the prompts
                mixed.add(plan, answer["tokens"] / answer["seconds"])
    return [mixed] if size.cpu else [switch, mixed]


def disk(bench: Bench) -> list[Row]:
    """A process that has just started, with and without the prefix that an earlier one left on disk."""
    prompt = texts.documented(bench.seed(), bench.size.disk_sentences)
    n_tokens = len(bench.ids([prompt])[0])
    kept, bare = "prefix on disk", "nothing kept"
    row = Row(
        f"first token of a new process, {n_tokens}-token prompt, loading included", "s", {bare: 5.0}, reference=kept
    )

    def start(disk_mb: int) -> float:
        with bench.worker(OURS, prefix_disk_mb=disk_mb) as worker:
            taken = float(worker.call("stream", prompt=prompt, n_tokens=2)["first_s"])
            worker.call("close")
        return taken

    start(512)
    for _ in bench.rounds(row, most=3):
        for name in bench.turns(kept, bare):
            row.add(name, start(512 if name == kept else 0))
    return [row]


ROWS: Mapping[str, Callable[[Bench], list[Row]]] = {
    "samples": samples,
    "questions": questions,
    "stream": stream,
    "choices": choices,
    "batched": batched,
    "adapters": adapters,
    "disk": disk,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="a model's name, as recipes have it")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpu", action="store_true", help="one thread, processor seconds: for a machine that is busy")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: to see that it runs")
    parser.add_argument("--only", choices=ROWS, nargs="+", default=list(ROWS))
    parser.add_argument("--out", type=Path, default=_peers.HERE / "results" / "engine.json")
    options = parser.parse_args()
    from gristmill_plugins.llama._files import digest, resolve

    path = resolve(options.model)
    chosen = {"rounds": options.rounds, "threads": options.threads} | (dict(QUICK) if options.quick else {})
    size = Size(**chosen | (dict(CPU) if options.cpu else {}))
    report: dict[str, Any] = {"machine": machine() | {"peers": PEERS}, "model": path.name, "sha256": digest(path)}
    report |= {"threads": size.threads, "processor_seconds": size.cpu, "load_before": _peers.load()}
    began, rows = time.monotonic(), []
    with ExitStack() as stack:
        bench = Bench(path, size, stack)
        for name in options.only:
            since = time.monotonic()
            rows += ROWS[name](bench)
            print(f"{name}: {time.monotonic() - since:.0f} s, load {_peers.load()}", file=sys.stderr)
    report |= {"load_after": _peers.load(), "seconds": round(time.monotonic() - began)}
    report["others"] = bench.disturbances
    report["rows"] = [row.as_json() for row in rows]
    if not options.quick:
        options.out.parent.mkdir(exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(table(rows))
    print(f"\nload average {report['load_before']} before, {report['load_after']} after; {report['seconds']} s")


if __name__ == "__main__":
    main()
