"""An exact cache hit: gristmill against LangChain's SQLiteCache and DSPy's cache.

    python benchmarks/cache.py                 # a table on standard output, numbers in benchmarks/results/cache.json
    python benchmarks/cache.py --sizes 10 --rounds 5

Every contender answers the same requests (a 600-token prompt with its sampling parameters) with the same text of
200 tokens, from its own files, in its own environment and process. They take turns, a block of hits each, within one
run, after every file was read once. A hit is the contender's public call, from the request to the decoded answer:

- gristmill: `cache_key(request)` and `PromptCache.get`; "n samples" computes the key of the request's common part
  once and takes 8 samples of it, divided by 8;
- LangChain: `SQLiteCache.lookup(prompt, parameters)`, both already text, which its models make for each call;
- DSPy: `Cache.get(request)`, with and without its memory tier, which holds every entry here.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import _peers

PEERS = {
    "langchain": ["langchain-community==0.4.2"],
    "dspy": ["dspy==3.4.1"],
}
CONTENDERS = {  # name: environment
    "gristmill": None,
    "gristmill, n samples": None,
    "LangChain SQLiteCache": "langchain",
    "DSPy, disk": "dspy",
    "DSPy, memory and disk": "dspy",
}
BASELINE = "LangChain SQLiteCache"
SAMPLES = 8
SENTENCE = "The handbook says that every member of staff is entitled to twenty-five days of paid leave, and more. "
ANSWER = ("Twenty-five days a year, and bank holidays on top of them. " * 16)[:900]

Hit = Callable[[int], Callable[[], Any]]


def request(i: int) -> dict[str, Any]:
    """Return the i-th request: some 600 tokens, and what a model is told beside them."""
    return {
        "model": "sha256:" + "a" * 64,
        "template": "b" * 64,
        "adapters": {"law": 0.5},
        "messages": [
            {"role": "system", "content": "Answer from the handbook, in one sentence."},
            {"role": "user", "content": f"{SENTENCE * 26}\nQuestion {i}: how many days do I get?"},
        ],
        "sampling": {
            "temperature": 0.7, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0, "presence_penalty": 0.0,
            "frequency_penalty": 0.0, "logit_bias": {}, "beam_width": 1, "max_tokens": 512, "stop": [],
        },
        "seed": 0,
        "schema": None,
        "versions": {"gristmill": "0.1.0", "llama_cpp": "0.3.36"},
    }  # fmt: skip


def answer() -> dict[str, Any]:
    """Return what is stored for every request."""
    usage = {"prompt_tokens": 600, "completion_tokens": 200, "cached_tokens": 0, "calls": 1, "elapsed_s": 1.25}
    return {"text": ANSWER, "finish_reason": "stop", "usage": usage, "value": None, "logprobs": None, "cached": False}


def gristmill(folder: Path, size: int) -> Hit:
    from gristmill._cache import PromptCache, cache_key

    cache = PromptCache(folder)
    for start in range(0, size, 1000):
        keys = [cache_key(request(i)) for i in range(start, min(start + 1000, size))]
        assert cache.set_many((key, answer()) for key in keys)

    def hit(i: int) -> Callable[[], Any]:
        material = request(i)
        return lambda: cache.get(cache_key(material))

    return hit


def gristmill_samples(folder: Path, size: int) -> Hit:
    from gristmill._cache import KeyPrefix, PromptCache

    cache = PromptCache(folder)
    samples = [{"sample": sample} for sample in range(SAMPLES)]
    size = max(size // SAMPLES, 1)
    for start in range(0, size, 125):
        prefixes = [KeyPrefix(request(i)) for i in range(start, min(start + 125, size))]
        assert cache.set_many((prefix.key(sample), answer()) for prefix in prefixes for sample in samples)

    def hit(i: int) -> Callable[[], Any]:
        material = request(i % size)

        def take() -> Any:
            prefix = KeyPrefix(material)
            return cache.get_many([prefix.key(sample) for sample in samples])

        return take

    return hit


def langchain(folder: Path, size: int) -> Hit:
    from langchain_community.cache import FullLLMCache, SQLiteCache  # type: ignore[import-not-found]
    from langchain_core.load.dump import dumps  # type: ignore[import-not-found]
    from langchain_core.outputs import Generation  # type: ignore[import-not-found]
    from sqlalchemy import insert

    cache = SQLiteCache(str(folder / "langchain.db"))

    def texts(i: int) -> tuple[str, str]:
        material = request(i)
        return json.dumps(material.pop("messages")), json.dumps(material)

    # In bulk through its own table: `update` syncs the disk for each entry, 100,000 times.
    response = dumps(Generation(text=ANSWER, generation_info=answer()["usage"]))
    for start in range(0, size, 1000):
        pairs = [texts(i) for i in range(start, min(start + 1000, size))]
        rows = [{"prompt": prompt, "llm": llm, "idx": 0, "response": response} for prompt, llm in pairs]
        with cache.engine.begin() as connection:
            connection.execute(insert(FullLLMCache), rows)

    def hit(i: int) -> Callable[[], Any]:
        prompt, llm = texts(i)
        return lambda: cache.lookup(prompt, llm)

    return hit


def dspy(folder: Path, size: int, *, memory: bool) -> Hit:
    from dspy.clients.cache import Cache  # type: ignore[import-not-found]

    cache = Cache(
        enable_disk_cache=True,
        enable_memory_cache=memory,
        disk_cache_dir=str(folder),
        disk_size_limit_bytes=16 * 2**30,  # its default of 10 MB would evict most entries
    )
    for i in range(size):
        cache.put(request(i), answer())

    def hit(i: int) -> Callable[[], Any]:
        material = request(i)
        return lambda: cache.get(material)

    return hit


MAKERS: dict[str, Callable[[Path, int], Hit]] = {
    "gristmill": gristmill,
    "gristmill, n samples": gristmill_samples,
    "LangChain SQLiteCache": langchain,
    "DSPy, disk": lambda folder, size: dspy(folder, size, memory=False),
    "DSPy, memory and disk": lambda folder, size: dspy(folder, size, memory=True),
}


def work(name: str) -> None:
    """Be the worker of one contender."""
    state: dict[str, Hit] = {}

    def fill(folder: str, size: int) -> None:
        Path(folder).mkdir()
        state["hit"] = MAKERS[name](Path(folder), size)

    def warm(folder: str) -> None:
        # The system may have dropped one contender's files while it filled another's.
        for path in Path(folder).rglob("*"):
            if path.is_file():
                path.read_bytes()

    def measure(entries: list[int]) -> list[int]:
        pieces = [state["hit"](i) for i in entries]
        found = pieces[0]()
        assert ANSWER in str(found), f"{name} did not hit: {found!r}"
        return _peers.clock(pieces)

    _peers.serve({"fill": fill, "warm": warm, "measure": measure})


def compare(size: int, rounds: int, block: int, pythons: dict[str | None, Path]) -> dict[str, Any]:
    """Measure every contender at `size` entries, in turns."""
    chance = random.Random(size)
    taken: dict[str, list[int]] = {name: [] for name in CONTENDERS}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        workers = {}
        for number, (name, peer) in enumerate(CONTENDERS.items()):
            worker = _peers.Worker(pythons[peer], Path(__file__), "--worker", name)
            workers[name] = stack.enter_context(worker)
            workers[name].call("fill", folder=str(folder / str(number)), size=size)
        for number, worker in enumerate(workers.values()):
            worker.call("warm", folder=str(folder / str(number)))
        load_before = _peers.load()
        for number in range(rounds):
            entries = [chance.randrange(size) for _ in range(block)]
            order = list(workers)
            chance.shuffle(order)
            for name in order:
                times = workers[name].call("measure", entries=entries)
                if number:  # the first round warms up
                    taken[name] += [t // SAMPLES for t in times] if name.endswith("n samples") else times
    return {
        "entries": size,
        "load_before": load_before,
        "load_after": _peers.load(),
        "contenders": {name: _peers.summary(times) for name, times in taken.items()},
    }


def table(results: list[dict[str, Any]]) -> str:
    """Return the results as Markdown."""
    lines = [
        f"| entries | contender | median, µs | quartiles, µs | times {BASELINE} |",
        "|---:|---|---:|---:|---:|",
    ]
    for result in results:
        baseline = result["contenders"][BASELINE]["median_us"]
        for name, found in result["contenders"].items():
            spread = f"{found['q1_us']:.1f} to {found['q3_us']:.1f}"
            ratio = found["median_us"] / baseline
            lines.append(f"| {result['entries']:,} | {name} | {found['median_us']:.1f} | {spread} | {ratio:.2f} |")
        lines.append(f"| | *load average {result['load_before']} before, {result['load_after']} after* | | | |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 2_000, 100_000])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--block", type=int, default=200, help="hits of one contender before the next has its turn")
    parser.add_argument("--out", type=Path, default=_peers.HERE / "results" / "cache.json")
    parser.add_argument("--worker", choices=MAKERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker)
        return
    pythons: dict[str | None, Path] = {name: _peers.environment(name, wanted) for name, wanted in PEERS.items()}
    pythons[None] = Path(sys.executable)
    results = [compare(size, options.rounds, options.block, pythons) for size in options.sizes]
    packages = {name: _peers.versions(pythons[name]) for name in PEERS}
    options.out.parent.mkdir(exist_ok=True)
    report = {"python": sys.version.split()[0], "results": results, "packages": packages}
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
