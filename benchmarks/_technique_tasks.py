"""The tasks of `techniques.py`: rows as inputs of a recipe, prompts, and what counts as right.

Every row has the inputs `question` and `choices` (empty where a number is asked for). Invariant: the same files give
the same rows in the same order, and no row that is asked is among those that examples or fits come from.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

POOL = 40
"""Rows that examples and fits come from."""


@dataclass(frozen=True, slots=True)
class Row:
    """One question. `rationale` is a worked solution, where the data have one."""

    inputs: Mapping[str, Any]
    answer: str
    rationale: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """One set of questions. `prompts` are ways to ask, the first of them the plain one."""

    name: str
    about: str
    kind: Literal["label", "options", "number"]
    system: str
    prompts: tuple[str, ...]
    train: bool = False

    def load(self, data: Path) -> tuple[list[Row], list[Row]]:
        """Return the rows to ask, in a fixed random order, and those to learn from."""
        rows = [_row(self, record) for record in _records(data / "dev" / f"{self.name}.jsonl")]
        if self.train:
            pool = [_row(self, record) for record in _records(data / "train" / f"{self.name}_train.jsonl")]
            asked = {row.inputs["question"] for row in rows}
            return rows, [row for row in pool if row.inputs["question"] not in asked][:POOL]
        return rows[:-POOL], rows[-POOL:]

    def judge(self, text: str, row: Row) -> bool:
        """Tell whether an answer is right: the first choice that it names, or the last number in it."""
        if self.kind == "number":
            said = last_number(text)
            return said is not None and said == last_number(row.answer)
        return first_choice(text, row.inputs["choices"]) == row.answer


def first_choice(text: str, choices: Sequence[str]) -> str | None:
    """Return the choice that a text names first, whole, by letter ("B)" or "B.") where it names none; else None."""
    lowered = " ".join(text.lower().split())
    at = {
        choice: match.start()
        for choice in choices
        if (match := re.search(rf"(?<!\w){re.escape(choice.lower().rstrip('.'))}(?!\w)", lowered))
    }
    if at:
        return min(at, key=lambda choice: (at[choice], -len(choice)))
    letter = re.match(r"\W*([a-h])\b", lowered)
    index = "abcdefgh".index(letter.group(1)) if letter else len(choices)
    return choices[index] if index < len(choices) else None


def last_number(text: str) -> Fraction | None:
    """Return the number after "answer is" or "####" if there is one, otherwise the last; "1,000" is 1000."""
    marked = re.split(r"####|answer is|answer:", text, flags=re.IGNORECASE)
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", marked[-1]) if len(marked) > 1 else []
    number = found[0] if found else next(iter(re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)[::-1]), None)
    return Fraction(number.replace(",", "")) if number else None


def _records(path: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    random.Random(20261122).shuffle(records)
    return records


def _row(task: Task, record: Mapping[str, Any]) -> Row:
    if task.kind == "number":
        return Row({"question": record["question"], "choices": []}, record["answer"], record.get("rationale", ""))
    if task.name == "boolq":
        question = f"{record['context']}\nQuestion: {record['question']}?"
        return Row({"question": question, "choices": ["yes", "no"]}, "yes" if record["answer"] else "no")
    if task.kind == "label":
        return Row({"question": record["text"], "choices": record["choices"]}, record["label"])
    options = list(dict.fromkeys(record["choices"]))  # one question offers the same town twice
    return Row({"question": record["question"], "choices": options}, record["answer"])


_PUPIL = "You know school science."
_SOLVER = "You solve problems."
_OPTIONS = "{% for choice in inputs.choices %}\n${loop.index}. ${choice}\n{% endfor %}"
_SCIENCE = (
    "Question: ${inputs.question}\nOptions: ${inputs.choices | join('; ')}\nAnswer with one of the options.",
    "${inputs.question}",
    "Question: ${inputs.question}\nAnswer:",
    f"Choose the right answer.\n${{inputs.question}}\n{_OPTIONS}",
    "A pupil asks: ${inputs.question}\nWhat do you say?",
)
_NUMBERS = (
    "${inputs.question}\nAnswer with a number only.",
    "${inputs.question}\nLet's think step by step.",
)

TASKS = {
    task.name: task
    for task in (
        Task(
            "sentence_polarity",
            "Is a sentence of a film review positive or negative? (two labels, even)",
            "label",
            "You judge film reviews.",
            (
                "${inputs.question}\nIs this review positive or negative? Answer with one word.",
                "Review: ${inputs.question}\nSentiment:",
                "${inputs.question}\nDid the critic like the film? Say positive if so, else negative.",
                "Classify the sentiment as positive or negative.\n\n${inputs.question}",
                'A critic wrote: "${inputs.question}" The critic\'s opinion is',
            ),
            train=True,
        ),
        Task(
            "sms_spam",
            'Is a text message spam or ham? (two labels; always "ham" would be right in 87%)',
            "label",
            "You filter text messages.",
            (
                "${inputs.question}\nIs this message spam or ham? Answer with one word.",
                "Message: ${inputs.question}\nClass (spam or ham):",
                "${inputs.question}\nIs this unwanted advertising? Say spam if so, else ham.",
                "Classify the message as spam or ham.\n\n${inputs.question}",
                'Somebody received: "${inputs.question}" The filter marked it as',
            ),
            train=True,
        ),
        Task(
            "boolq",
            "Does a passage answer a question with yes or no? (even)",
            "label",
            "You answer questions about passages.",
            (
                "${inputs.question}\nAnswer yes or no.",
                "${inputs.question}\nAnswer:",
                "Read the passage and answer with yes or no.\n\n${inputs.question}",
                "${inputs.question}\nIs that so, yes or no?",
                "${inputs.question} The answer is",
            ),
        ),
        Task(
            "arc_easy",
            "School science questions with four options; a guess is right in 25%.",
            "options",
            _PUPIL,
            _SCIENCE,
            True,
        ),
        Task(
            "openbookqa",
            "Elementary science questions with four options; a guess is right in 25%.",
            "options",
            _PUPIL,
            _SCIENCE,
        ),
        Task(
            "commonsenseqa",
            "Everyday knowledge, five options; a guess is right in 20%.",
            "options",
            "You know everyday life.",
            _SCIENCE,
        ),
        Task("svamp", "Short arithmetic stories; the answer is a number.", "number", _SOLVER, _NUMBERS),
        Task("gsm8k", "School mathematics in several steps, for a number.", "number", _SOLVER, _NUMBERS, True),
    )
}
