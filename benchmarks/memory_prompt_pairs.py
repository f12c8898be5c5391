"""Write labelled pairs of prompts for `gristmill cache audit`: some that one answer serves, and many that it does not.

    python benchmarks/memory_prompt_pairs.py --data DATA --output pairs.jsonl
    gristmill cache audit pairs.jsonl

Of DATA it reads gptcache_mock.jsonl (paraphrases: one answer serves both), banking77.jsonl (questions of two intents),
checklist_sentiment.jsonl (a changed name, place, number or group, an added phrase), and makes two traps of the first
half of each paraphrase: with a "not" after its verb, and with two of its words swapped.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHANGES = ("name", "location", "number", "protected", "phrases", "negat")


def rows(data: Path, name: str) -> list[dict[str, Any]]:
    """Return the records of a data set."""
    return [json.loads(line) for line in (data / f"{name}.jsonl").read_text().splitlines()]


def pairs(data: Path) -> Iterator[tuple[list[str], int]]:
    """Yield texts, the first to be paired with each other, and their label."""
    for row in rows(data, "gptcache_mock"):
        yield [row["text_a"], row["text_b"]], 1
        yield from (([row["text_a"], twin], 0) for twin in twins(row["text_a"]))
    for row in rows(data, "checklist_sentiment"):
        if row["type"] in ("INV", "DIR") and any(change in row["test"] for change in CHANGES):
            yield row["texts"], 0
    for one, other in itertools.combinations(rows(data, "banking77"), 2):
        if one["label"] != other["label"]:
            yield [one["text"], other["text"]], 0


def twins(text: str) -> Iterator[str]:
    """Yield the text negated, and with two of its words swapped, where that can be done."""
    if verb := re.search(r"\b(is|are|can|was|does|will|should)\b", text):
        yield f"{text[: verb.end()]} not{text[verb.end() :]}"
    words = re.findall(r"\b[a-z]{6,}\b", text)
    other = next((word for word in words if word[:5] != words[0][:5]), None)
    if other is not None:
        swap = {words[0]: other, other: words[0]}
        yield re.sub(rf"\b({words[0]}|{other})\b", lambda found: swap[found.group()], text)


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of the data sets")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    with given.output.open("w") as file:
        for texts, label in pairs(given.data):
            file.write(json.dumps({"texts": texts, "label": label}) + "\n")


if __name__ == "__main__":
    main()
