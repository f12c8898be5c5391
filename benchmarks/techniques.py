"""What each technique is worth on small tasks, with the bundled model: accuracy, tokens, seconds, calls, cache hits.

    python benchmarks/techniques.py --data DATA                    # goes on where it was stopped
    python benchmarks/techniques.py --data DATA --rows 300 --generative-rows 100
    python benchmarks/techniques.py --report                       # the tables, from benchmarks/results/techniques.json
    python benchmarks/techniques.py --report --into docs/techniques.md     # and put between the marks in that page

DATA holds `dev/*.jsonl`, and `train/*.jsonl` where there is one. Each technique is a recipe, written here and run as a
user would run it. Rows are drawn in one fixed random order; examples and what is fitted come from `train`, or else from
rows that are never asked.

What a technique costs is measured on the first five rows, with an empty prompt cache and the engine loaded: tokens,
calls, processor seconds of all processes (on a machine with other work they say more than the clock), and the calls
that are left when the same rows are run again. Its answers to all rows go through a cache that all techniques share,
since many ask the same thing; that changes no answer.

Accuracy has a bootstrap interval of 95%; the difference from the plain prompt is of the same rows, and so is its
interval (paired bootstrap, 10,000 draws).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _quiet
from _technique_recipes import PROMPT_TECHNIQUES, Technique
from _technique_steps import STEP_TECHNIQUES
from _technique_tasks import TASKS, Row, Task

from gristmill import Kernel, PromptCache, RecipeError, RunError, RunnableRecipe, RunResult

RESULTS = Path(__file__).parent / "results" / "techniques.json"
BATCH = 50
COST_ROWS = 5
AT_ONCE = 12
ATTEMPTS = 4
DRAWS = 10_000
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
TECHNIQUES = {technique.name: technique for technique in (*PROMPT_TECHNIQUES, *STEP_TECHNIQUES)}

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """How many rows of which techniques."""

    choice_rows: int
    generative_rows: int
    tasks: Sequence[str]
    techniques: Sequence[str]

    def pairs(self) -> Iterator[tuple[Task, Technique, int]]:
        """Yield what is to be run, the plain prompts first, as everything is compared with them."""
        for technique in TECHNIQUES.values():
            for task in TASKS.values():
                if (self.techniques and technique.name not in self.techniques) or (
                    self.tasks and task.name not in self.tasks
                ):
                    continue
                if task.kind in technique.kinds:
                    slow = technique.generative or task.kind == "number"
                    yield task, technique, self.generative_rows if slow else self.choice_rows


@dataclass(frozen=True, slots=True)
class Places:
    """Where data lie, where recipes and caches go, and the file of the results."""

    data: Path
    work: Path
    results: Path

    @property
    def shared_cache(self) -> Path:
        """Where the command line keeps its prompt cache when XDG_CACHE_HOME is `cache` here."""
        return self.work / "cache" / "gristmill" / "prompts"


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder with dev/ and train/")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "gristmill-techniques")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the numbers are kept")
    parser.add_argument("--rows", type=int, default=60, help="rows of techniques that score choices")
    parser.add_argument("--generative-rows", type=int, default=30, help="rows of techniques that write text")
    parser.add_argument("--task", action="append", default=[], choices=TASKS, help="only this task; may be repeated")
    parser.add_argument("--technique", action="append", default=[], choices=TECHNIQUES, help="only this technique")
    parser.add_argument("--minutes", type=float, help="begin nothing more after so long; the same command goes on")
    parser.add_argument("--report", action="store_true", help="print the tables and run nothing")
    parser.add_argument("--into", type=Path, help="a Markdown page whose marked block the tables replace")
    arguments = parser.parse_args()
    file: Path = arguments.results
    results = json.loads(file.read_text()) if file.is_file() else {}
    if not arguments.report:
        if arguments.data is None:
            parser.error("--data is needed to run anything")
        wanted = Wanted(arguments.rows, arguments.generative_rows, arguments.task, arguments.technique)
        end = time.monotonic() + 60 * (arguments.minutes or float("inf"))
        for task, technique, n in wanted.pairs():
            if time.monotonic() > end:
                break
            run_pair(task, technique, n, Places(arguments.data, arguments.work, file), results)
    if arguments.into is None:
        print(report(results))
    else:
        arguments.into.write_text(replaced(arguments.into.read_text(encoding="utf-8"), report(results)), "utf-8")


def replaced(page: str, tables: str) -> str:
    """Return a page with the tables between its marks, in place of what stood there."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"the page has no block between {BEGIN} and {END}")
    return f"{head}{begin}\n\n{tables}\n\n{end}{tail}"


def run_pair(task: Task, technique: Technique, n: int, places: Places, results: dict[str, Record]) -> None:
    """Run one technique on the rows of one task that were not run yet, and keep what came of them."""
    key = f"{task.name}/{technique.name}"
    record = results.get(key) or {"right": ""}
    rows, pool = task.load(places.data)
    rows = rows[:n]
    if len(record["right"]) >= len(rows) and "cost" in record:
        return
    folder = places.work / task.name / technique.name
    folder.mkdir(parents=True, exist_ok=True)
    recipe = folder / "recipe.yaml"
    recipe.write_text(json.dumps(technique.build(task, pool), indent=1, ensure_ascii=False))
    with Kernel(cache=PromptCache(places.shared_cache)) as kernel:
        try:
            runnable = kernel.recipe(recipe)
        except RecipeError as error:  # a function that is not installed
            print(f"{key}: left out: {error.diagnostics[0].message}", flush=True)
            return
        if technique.fit is not None and not ("fitted" in record and (folder / "fitted.json").is_file()):
            record["fitted"] = fit(technique, task, pool, folder, places)
        while len(record["right"]) < len(rows):
            batch = rows[len(record["right"]) :][:BATCH]
            given = asyncio.run(run_rows(runnable, batch))
            record["right"] += "".join(
                str(int(task.judge(str_of(result.output), row))) for result, row in zip(given, batch, strict=True)
            )
            results[key] = record
            save(results, places.results)
    if "cost" not in record:
        record["cost"] = cost_of(recipe, rows[:COST_ROWS], pool[0], folder / "cache")
        save(results, places.results)
    print(f"{key}: {mean(record['right']):.3f} of {len(record['right'])}", flush=True)


def fit(technique: Technique, task: Task, pool: Sequence[Row], folder: Path, places: Places) -> Record:
    """Fit the technique's step on rows that are never asked, by the command line, and return what it says."""
    data = folder / "pool.jsonl"
    data.write_text("".join(json.dumps({**row.inputs, "label": row.answer}) + "\n" for row in pool))
    command = [sys.executable, "-m", "gristmill", "ensemble", "fit", str(folder / "recipe.yaml"), str(technique.fit)]
    command += ["--data", str(data), "--out", str(folder / "fitted.json"), "--json", *technique.fit_options]
    environment = {**os.environ, "XDG_CACHE_HOME": str(places.work / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{task.name}/{technique.name} cannot be fitted:\n{done.stderr}")
    evidence: Record = json.loads(done.stdout)["evidence"]
    return evidence


def cost_of(recipe: Path, rows: Sequence[Row], warm_up: Row, cache: Path) -> Record:
    """Return what rows cost with an empty prompt cache, in all, and how many calls are left when they come again."""
    shutil.rmtree(cache, ignore_errors=True)
    with Kernel(cache=PromptCache(cache)) as kernel:
        runnable = kernel.recipe(recipe)
        asyncio.run(run_rows(runnable, [warm_up]))  # loads the engine
        cpu_s, started = _quiet.family_s(os.getpid()), time.perf_counter()
        first = asyncio.run(run_rows(runnable, rows))
        seconds, cpu_s = time.perf_counter() - started, _quiet.family_s(os.getpid()) - cpu_s
        again = asyncio.run(run_rows(runnable, rows))
    usages = [result.usage for result in first]
    return {
        "n": len(rows),
        "tokens": sum(usage.prompt_tokens + usage.completion_tokens for usage in usages),
        "calls": sum(usage.calls for usage in usages),
        "seconds": round(seconds, 2),
        "cpu_s": round(cpu_s, 2),
        "again_calls": sum(result.usage.calls for result in again),
        "again_hits": sum(result.usage.calls == 0 for result in again),
    }


async def run_rows(runnable: RunnableRecipe, rows: Sequence[Row]) -> list[RunResult]:
    """Run rows, a few together."""
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(row: Row) -> RunResult:
        async with limit:
            for attempt in range(ATTEMPTS):
                try:
                    return await runnable.arun(row.inputs)
                except RunError:  # an engine that a busy machine starves is ended; the next call starts another
                    if attempt == ATTEMPTS - 1:
                        raise
            raise AssertionError("unreachable")

    return list(await asyncio.gather(*(one(row) for row in rows)))


def str_of(output: Any) -> str:
    text = output.as_text() if hasattr(output, "as_text") else output
    return "" if text is None else str(text)


def save(results: Mapping[str, Record], file: Path) -> None:
    """Write the results whole or not at all."""
    partial = file.with_suffix(".part")
    partial.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    partial.replace(file)


def mean(bits: str) -> float:
    return bits.count("1") / max(len(bits), 1)


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Return the bootstrap interval of 95% of a mean."""
    import numpy as np

    data = np.array(values)
    means = data[np.random.default_rng(seed).integers(0, len(data), (DRAWS, len(data)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def report(results: Mapping[str, Record]) -> str:
    """Return a Markdown table for each task."""
    parts = []
    for task in TASKS.values():
        known = {name: results[key] for name in TECHNIQUES if (key := f"{task.name}/{name}") in results}
        if known:
            parts.append(f"### {task.name}\n\n{task.about}\n\n" + table(known))
    return "\n\n".join(parts)


def table(known: Mapping[str, Record]) -> str:
    lines = [
        "| technique | n | right, % | against plain, points | tokens | calls | processor s | from cache, 2nd run |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    plain = known.get("plain", {}).get("right", "")
    for name, record in known.items():
        right = [float(bit) for bit in record["right"]]
        n = len(right)
        low, high = interval(right)
        cells = [name, str(n), f"{100 * sum(right) / n:.0f} ({100 * low:.0f} to {100 * high:.0f})"]
        cells += [difference(right, plain, name), *costs(record.get("cost"))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def costs(cost: Record | None) -> list[str]:
    """Return tokens, calls and processor seconds a question, and the rows that came from the cache alone."""
    if cost is None:
        return ["", "", "", ""]
    n = cost["n"]
    each = [f"{cost['tokens'] / n:.0f}", f"{cost['calls'] / n:.1f}", f"{cost['cpu_s'] / n:.2f}"]
    return [*each, f"{cost['again_hits']} of {n}"]


def difference(right: Sequence[float], plain: str, name: str) -> str:
    """Return the mean of the paired differences on the rows that both were asked, with its interval."""
    pairs = [a - float(b) for a, b in zip(right, plain, strict=False)]
    if name == "plain" or not pairs:
        return ""
    low, high = interval(pairs)
    of = f", n={len(pairs)}" if len(pairs) < len(right) else ""
    return f"{100 * sum(pairs) / len(pairs):+.1f} ({100 * low:+.0f} to {100 * high:+.0f}{of})"


if __name__ == "__main__":
    main()
