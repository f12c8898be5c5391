"""LoRA adapters: switching against reloading, memory of k adapters against k models, two skills in one run.

    python benchmarks/adapters.py --data DIR --spam spam.gguf --sql sql.gguf

DIR has `dev/sms_spam.jsonl` and `dev/text2sql_wikisql.jsonl`; the adapters are those that docs/adapters.md says how to
train. `--parts memory` needs neither. The engine is the one that recipes use; what is printed is Markdown.

- switching: requests of one token that change the adapter each time, and such that do not, on one resident model; and
  the same change by closing the model and loading it anew with the other adapter, to its first token;
- memory: the proportional set size (Linux: shared pages are divided by who shares them) of an engine with k adapters of
  rank 8 on the queries and values of every layer, and of k engines; weights are mapped, so engines share them;
- together: each development set with its adapter alone, then both as alternating requests with both adapters resident:
  how many are right, and how many answers are the same.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import _lora

from gristmill import GenerateRequest, Message, Sampling, ScoreRequest
from gristmill_plugins.llama import LlamaPlugin
from gristmill_plugins.llama._files import resolve

SPAM_SYSTEM, SPAM_PROMPT = "You sort text messages.", "Is this text message spam or ham?\n\n{}"
SQL_SYSTEM = "Write the SQL query."


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
    print("| a request of one token, with | median | least | of |")
    print("|---|---|---|---|")
    for what, found in (
        ("the adapter of the last request", same),
        ("another adapter", other),
        ("no adapter after one", base),
        ("the model loaded anew with the other adapter", reload),
    ):
        print(f"| {what} | {statistics.median(found):,.1f} ms | {min(found):,.1f} ms | {len(found)} |")


def proportional_bytes(pid: int) -> int:
    """Return a process's proportional set size."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/{pid}/smaps_rollup has no Pss")


async def memory(counts: Sequence[int]) -> None:
    """Compare k adapters beside one model with k models."""
    print("| memory (proportional set size) | k adapters beside one model | their files | k models |")
    print("|---|---|---|---|")
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
            print(f"| k = {k} | {beside / 1e6:,.0f} MB | {size / 1e6:.1f} MB | {apart / 1e6:,.0f} MB |")


def rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


async def spam_answer(made: Any, row: dict[str, Any]) -> str:
    """Return the likelier label of a text message."""
    prompt = asks(SPAM_PROMPT.format(row["text"]), None, SPAM_SYSTEM).messages
    found = await made.score(ScoreRequest(messages=prompt, choices=("ham", "spam"), adapters={"spam": 1.0}))
    return "spam" if found.logprobs[1] > found.logprobs[0] else "ham"


async def sql_answer(made: Any, row: dict[str, Any]) -> str:
    """Return the query written for a question about a table."""
    prompt = f"table: {row['table']}\ncolumns: {', '.join(row['columns'])}\nQ: {row['question']}"
    (found,) = await made.generate(asks(prompt, "sql", SQL_SYSTEM, max_tokens=96))
    return " ".join(found.text.split())


async def asked(tasks: Sequence[Coroutine[Any, Any, str]]) -> tuple[list[str], float]:
    """Return the answers, at most 32 under way at a time, and the seconds they took."""
    limit = asyncio.Semaphore(32)

    async def one(task: Coroutine[Any, Any, str]) -> str:
        async with limit:
            return await task

    start = time.perf_counter()
    return list(await asyncio.gather(*map(one, tasks))), time.perf_counter() - start


async def together(data: Path, spam: str, sql: str, most: int) -> None:
    """Ask each development set with its adapter alone, then both in alternation with both adapters resident."""
    messages = rows(data / "dev" / "sms_spam.jsonl")[:most]
    questions = rows(data / "dev" / "text2sql_wikisql.jsonl")[:most]
    one = model({"spam": spam})
    spam_alone, spam_s = await asked([spam_answer(one, row) for row in messages])
    await one.close()
    other = model({"sql": sql})
    sql_alone, sql_s = await asked([sql_answer(other, row) for row in questions])
    await other.close()
    both = model({"spam": spam, "sql": sql})
    pairs = zip(messages, questions, strict=True)
    found, both_s = await asked([task for m, q in pairs for task in (spam_answer(both, m), sql_answer(both, q))])
    await both.close()
    print("| skill | right with its adapter alone | right in alternation, both resident | same answers |")
    print("|---|---|---|---|")
    for skill, wanted, alone, mixed in (
        ("spam", [row["label"] for row in messages], spam_alone, found[::2]),
        ("SQL", [" ".join(row["sql"].split()) for row in questions], sql_alone, found[1::2]),
    ):
        n_alone, n_mixed = (sum(map(str.__eq__, said, wanted)) for said in (alone, mixed))
        same = sum(map(str.__eq__, alone, mixed))
        print(f"| {skill} | {n_alone} of {len(wanted)} | {n_mixed} of {len(wanted)} | {same} of {len(wanted)} |")
    print(f"\nOne after the other, each model loaded for it: {spam_s + sql_s:.0f} s; in alternation: {both_s:.0f} s.")


def main() -> None:
    """Measure the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--spam")
    parser.add_argument("--sql")
    parser.add_argument("--parts", nargs="+", default=["switching", "memory", "together"])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rows", type=int, default=300)
    given = parser.parse_args()
    if "switching" in given.parts and given.spam and given.sql:
        asyncio.run(switching([given.spam, given.sql], given.rounds))
        print()
    if "memory" in given.parts:
        asyncio.run(memory(given.counts))
        print()
    if "together" in given.parts and given.data and given.spam and given.sql:
        asyncio.run(together(given.data, given.spam, given.sql, given.rows))


if __name__ == "__main__":
    main()
