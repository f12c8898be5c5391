"""LoRA adapters: switching against reloading, memory of k adapters against k models, two skills in one run.

    python benchmarks/adapters.py --data DIR --spam spam.gguf --intent intent.gguf

DIR has `dev/sms_spam.jsonl` and `dev/banking77.jsonl`; the adapters are those that docs/adapters.md says how to train.
Without them, `--parts memory` needs neither. The engine is the one that recipes use.

- switching: requests of one token that change the adapter each time, and such that do not, on one resident model; and
  the same change by closing the model and loading it anew with the other adapter, to its first token;
- memory: the proportional set size (Linux: shared pages are divided by who shares them) of an engine with k adapters of
  rank 8 on the queries and values of every layer, and of k engines; weights are mapped, so engines share them;
- together: both development sets as alternating requests with both adapters resident, each counted as when alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _lora

from gristmill import GenerateRequest, Message, Sampling, ScoreRequest
from gristmill_plugins.llama import LlamaPlugin
from gristmill_plugins.llama._files import resolve

SPAM_SYSTEM, SPAM_PROMPT = "You sort text messages.", "Is this text message spam or ham?\n\n{}"
INTENT_SYSTEM = "Name the intent of the customer's message."


def model(adapters: dict[str, str], **options: Any) -> Any:
    """Return the bundled model with adapters on offer."""
    return LlamaPlugin().llama(model="smollm2", adapters=adapters, context_tokens=2048, **options)


def asks(text: str, adapter: str | None, system: str | None = None, max_tokens: int = 1) -> GenerateRequest:
    """Return a request for a short answer."""
    messages = [Message(role="system", content=system)] if system else []
    return GenerateRequest(
        messages=(*messages, Message(role="user", content=text)),
        sampling=Sampling(max_tokens=max_tokens, stop=("\n",)),
        adapters={adapter: 1.0} if adapter else {},
    )


async def timed(made: Any, request: GenerateRequest) -> float:
    """Return how many milliseconds a request takes."""
    start = time.perf_counter()
    await made.generate(request)
    return 1000 * (time.perf_counter() - start)


async def switching(files: Sequence[str], rounds: int) -> None:
    """Compare changing the adapter on one model with loading the model anew."""
    names = {f"a{number}": path for number, path in enumerate(files)}
    made = model(names)
    await made.generate(asks("Warm up.", "a0"))
    same, other, base = [], [], []
    for number in range(rounds):
        await timed(made, asks(f"Message {number}.", "a0"))
        same.append(await timed(made, asks(f"Call {number}.", "a0")))
        other.append(await timed(made, asks(f"Call {number}.", "a1")))
        base.append(await timed(made, asks(f"Call {number}.", None)))
    await made.close()
    reload = []
    for number in range(max(3, rounds // 8)):
        start = time.perf_counter()
        fresh = model({"x": files[number % 2]})
        await fresh.generate(asks(f"Call {number}.", "x"))
        reload.append(1000 * (time.perf_counter() - start))
        await fresh.close()
    for what, found in (
        ("the adapter of the last request", same),
        ("another adapter", other),
        ("no adapter after one", base),
        ("the model loaded anew", reload),
    ):
        print(f"{what:<34} {statistics.median(found):8.1f} ms (of {len(found)}; least {min(found):.1f})")


def proportional_bytes(pid: int) -> int:
    """Return a process's proportional set size."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/{pid}/smaps_rollup has no Pss")


async def memory(counts: Sequence[int]) -> None:
    """Compare k adapters beside one model with k models."""
    with tempfile.TemporaryDirectory() as folder:
        for k in counts:
            files = _lora.write_adapters(resolve("smollm2"), Path(folder), k)
            size = sum(os.path.getsize(path) for path in files.values())
            one = model(files)
            for name in files:
                await one.generate(asks("Hello.", name))
            beside = proportional_bytes(one.engine_pid)
            await one.close()
            several = [model({}) for _ in range(k)]
            for each in several:
                await each.generate(asks("Hello.", None))
            apart = sum(proportional_bytes(each.engine_pid) for each in several)
            await asyncio.gather(*(each.close() for each in several))
            print(
                f"k = {k:2}: {beside / 1e6:6.0f} MB with k adapters ({size / 1e6:.1f} MB of files), "
                f"{apart / 1e6:6.0f} MB as k models"
            )


def rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


async def together(data: Path, spam: str, intent: str, most: int) -> None:
    """Ask both development sets in alternation, each request with its own adapter, and each set alone."""
    made = model({"spam": spam, "intent": intent})
    messages, questions = rows(data / "dev" / "sms_spam.jsonl")[:most], rows(data / "dev" / "banking77.jsonl")[:most]
    limit = asyncio.Semaphore(32)

    async def is_spam(row: dict[str, Any]) -> bool:
        prompt = asks(SPAM_PROMPT.format(row["text"]), None, SPAM_SYSTEM).messages
        async with limit:
            found = await made.score(ScoreRequest(messages=prompt, choices=("ham", "spam"), adapters={"spam": 1.0}))
        said = "spam" if found.logprobs[1] > found.logprobs[0] else "ham"
        return said == str(row["label"])

    async def has_intent(row: dict[str, Any]) -> bool:
        async with limit:
            (found,) = await made.generate(asks(row["text"], "intent", INTENT_SYSTEM, max_tokens=24))
        return str(found.text).strip() == str(row["label"])

    start = time.perf_counter()
    alone = [sum(await asyncio.gather(*map(is_spam, messages))), sum(await asyncio.gather(*map(has_intent, questions)))]
    middle = time.perf_counter()
    pairs = [task for row, other in zip(messages, questions, strict=True) for task in (is_spam(row), has_intent(other))]
    found = await asyncio.gather(*pairs)
    end = time.perf_counter()
    await made.close()
    print(f"one set after the other: {alone[0]} and {alone[1]} of {len(messages)} right, {middle - start:.0f} s")
    print(f"alternating requests:    {sum(found[::2])} and {sum(found[1::2])} right, {end - middle:.0f} s")


def main() -> None:
    """Measure the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--spam")
    parser.add_argument("--intent")
    parser.add_argument("--parts", nargs="+", default=["switching", "memory", "together"])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rows", type=int, default=300)
    given = parser.parse_args()
    if "switching" in given.parts and given.spam and given.intent:
        asyncio.run(switching([given.spam, given.intent], given.rounds))
    if "memory" in given.parts:
        asyncio.run(memory(given.counts))
    if "together" in given.parts and given.data and given.spam and given.intent:
        asyncio.run(together(given.data, given.spam, given.intent, given.rows))


if __name__ == "__main__":
    main()
