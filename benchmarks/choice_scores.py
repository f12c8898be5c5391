"""How `choices` should be scored and asked for: normalisations, and options that the prompt shows or does not.

    python benchmarks/choice_scores.py --data DATA --rows 100

For each task and prompt the log-probability of every choice is taken once and compared as it is (`sum`), divided by its
tokens or its bytes, and less its log-probability as an answer to "N/A" (Brown et al. 2020, section 2.4; what
`calibrate` does). Intervals are bootstraps of 95%, of 10,000 draws, also those of the paired differences from `sum`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from _technique_recipes import recipe
from _technique_tasks import TASKS, Row, Task
from techniques import interval

from gristmill import Context, Kernel, Message, ModelRef, RunnableRecipe, function

AT_ONCE = 4
PROMPTS = {"plain": 0, "Question: ... Answer:": 2}
"""Of options, the first shows them and the second does not."""

Scores = Mapping[str, Sequence[float]]
RULES: dict[str, Callable[[Scores, Row], list[float]]] = {
    "sum": lambda s, _: list(s["logprobs"]),
    "by token": lambda s, _: [a / n for a, n in zip(s["logprobs"], s["tokens"], strict=True)],
    "by byte": lambda s, row: [a / len(c.encode()) for a, c in zip(s["logprobs"], row.inputs["choices"], strict=True)],
    'less that of "N/A"': lambda s, _: [a - b for a, b in zip(s["logprobs"], s["empty"], strict=True)],
}


class ProbePlugin:
    """Tells log-probabilities as they are."""

    @function
    async def scores(
        self, system: str, prompt: str, choices: list[str], context: Context, *, model: ModelRef
    ) -> dict[str, list[float]]:
        """Return each choice's log-probability behind the prompt and behind "N/A", and its tokens."""
        handle = context.model(model)

        def asked(text: str) -> list[Message]:
            return [Message(role="system", content=system), Message(role="user", content=text)]

        return {
            "logprobs": await handle.logprobs(asked(prompt), choices),
            "empty": await handle.logprobs(asked("N/A"), choices),
            "tokens": [float(await handle.count_tokens(choice)) for choice in choices],
        }


def main() -> None:
    """Print a table of each task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with dev/ and train/")
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument(
        "--task", action="append", choices=[name for name, one in TASKS.items() if one.kind != "number"]
    )
    arguments = parser.parse_args()
    with Kernel(plugins={"probe": ProbePlugin()}) as kernel, tempfile.TemporaryDirectory() as folder:
        for name in arguments.task or ("arc_easy", "openbookqa", "commonsenseqa"):
            task = TASKS[name]
            rows = task.load(arguments.data)[0][: arguments.rows]
            print(f"\n### {name}, n={len(rows)}\n\n| prompt | {' | '.join(RULES)} | first place chosen, % |")
            print(f"|---|{'--:|' * (len(RULES) + 1)}")
            for label, prompt in PROMPTS.items():
                path = Path(folder) / f"{name}-{prompt}.yaml"
                path.write_text(json.dumps(probing(task, prompt)))
                scores = asyncio.run(run_rows(kernel.recipe(path), rows))
                print(line(label, rows, scores), flush=True)


def probing(task: Task, prompt: int) -> dict[str, Any]:
    """Return a recipe that takes the scores of a row's choices."""
    arguments = {"system": task.system, "prompt": task.prompts[prompt], "choices": "${inputs.choices}"}
    return recipe({"answer": {"use": "probe.scores", "model": "main", "with": arguments}}, "${answer}")


async def run_rows(runnable: RunnableRecipe, rows: Sequence[Row]) -> list[Scores]:
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(row: Row) -> Scores:
        async with limit:
            output: Scores = (await runnable.arun(row.inputs)).output
            return output

    return list(await asyncio.gather(*(one(row) for row in rows)))


def chosen(values: Sequence[float]) -> int:
    return max(range(len(values)), key=lambda n: values[n])


def line(label: str, rows: Sequence[Row], scores: Sequence[Scores]) -> str:
    """Return a line of the table: what each rule got right, and the difference from the sum."""
    right = {
        rule: [
            float(row.inputs["choices"][chosen(of(s, row))] == row.answer) for row, s in zip(rows, scores, strict=True)
        ]
        for rule, of in RULES.items()
    }
    cells = []
    for rule, values in right.items():
        low, high = interval(values)
        cells.append(f"{100 * sum(values) / len(values):.0f} ({100 * low:.0f} to {100 * high:.0f})")
        if rule != "sum":
            differences = [a - b for a, b in zip(values, right["sum"], strict=True)]
            low, high = interval(differences)
            cells[-1] += f", {100 * sum(differences) / len(rows):+.0f} ({100 * low:+.0f} to {100 * high:+.0f})"
    first = sum(chosen(s["logprobs"]) == 0 for s in scores)
    return f"| {label} | {' | '.join(cells)} | {100 * first / len(rows):.0f} |"


if __name__ == "__main__":
    main()
