"""How the answer is best taken out of a chain of thought over options: its letter, or the option's text.

    python benchmarks/chain_readouts.py --data DATA --rows 100

Every line reads the same chains out: `reasoning.chain_of_thought` as in `techniques.py`, the options in its prompt.
What follows the chain differs. The last lines have no chain, for comparison. Intervals are bootstraps of 95%.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _technique_recipes import THEREFORE, THINK, Recipe, recipe
from _technique_steps import CHAIN_TOKENS, thought
from _technique_tasks import TASKS, Row, Task
from techniques import interval, run_rows, str_of

from gristmill import Kernel, PromptCache

LETTERS = "ABCDE"
LISTED = "{% for choice in inputs.choices %} (${'" + LETTERS + "'[loop.index - 1]}) ${choice}{% endfor %}"
QUESTION = "${inputs.question}"
SHOWN = f"{QUESTION}\n\nOptions:{LISTED}\n\n{THINK}"


def readouts(task: Task) -> dict[str, Recipe]:
    """Return a recipe for each way of reading a chain out."""
    chain = {"use": "reasoning.chain_of_thought", "model": "main", "with": thought(task, max_tokens=CHAIN_TOKENS)}

    def behind(asked: str, **more: Any) -> Recipe:
        said = ((asked, "user"), ("${chain[0].reasoning}", "assistant"), (THEREFORE, "user"))
        turns = [{"role": role, "content": content} for content, role in said]
        return recipe({"chain": chain, "answer": {"messages": turns, "choices": "${inputs.choices}", **more}})

    def alone(**more: Any) -> Recipe:
        asked = f"Question: {QUESTION}\nAnswer:"
        return recipe({"answer": {"prompt": asked, "choices": "${inputs.choices}", **more}})

    letter = chain | {"with": thought(task, max_tokens=CHAIN_TOKENS, finish="ask")}
    return {
        "the letter, asked for": recipe({"chain": letter}, "${chain[0].text}"),
        "the option's text": behind(SHOWN),
        "the same, `calibrate: true`": behind(SHOWN, calibrate=True),
        "the text, options not shown with the chain": behind(f"{QUESTION}\n\n{THINK}"),
        "no chain: the text, options not shown": alone(),
        "the same, no chain, `calibrate: true`": alone(calibrate=True),
    }


def main() -> None:
    """Print a table of each task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with dev/ and train/")
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--cache", type=Path, help="a prompt cache to share, such as that of techniques.py")
    parser.add_argument(
        "--task", action="append", choices=[name for name, one in TASKS.items() if one.kind == "options"]
    )
    arguments = parser.parse_args()
    cache = PromptCache(arguments.cache) if arguments.cache else True
    with Kernel(cache=cache) as kernel, tempfile.TemporaryDirectory() as folder:
        for name in arguments.task or ("arc_easy", "openbookqa"):
            task = TASKS[name]
            rows = task.load(arguments.data)[0][: arguments.rows]
            print(f"\n### {name}, n={len(rows)}\n\n| read out | right, % | first option, % |\n|---|--:|--:|")
            for label, made in readouts(task).items():
                path = Path(folder) / f"{name}.yaml"
                path.write_text(json.dumps(made))
                given = asyncio.run(run_rows(kernel.recipe(path), rows))
                print(line(label, task, rows, [str_of(result.output) for result in given]), flush=True)


def line(label: str, task: Task, rows: Sequence[Row], answers: Sequence[str]) -> str:
    right = [float(task.judge(answer, row)) for answer, row in zip(answers, rows, strict=True)]
    first = [_place(answer, row.inputs) == 0 for answer, row in zip(answers, rows, strict=True)]
    low, high = interval(right)
    told = f"{100 * sum(right) / len(right):.0f} ({100 * low:.0f} to {100 * high:.0f})"
    return f"| {label} | {told} | {100 * sum(first) / len(first):.0f} |"


def _place(answer: str, inputs: Mapping[str, Any]) -> int:
    choices = inputs["choices"]
    return choices.index(answer) if answer in choices else LETTERS.find(answer.strip() or "?")


if __name__ == "__main__":
    main()
