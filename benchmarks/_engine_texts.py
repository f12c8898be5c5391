"""The prompts of `engine.py`: invented, different in every round from the first words on, of a given length."""

from __future__ import annotations

import random
from typing import Any

Messages = list[dict[str, str]]

NOUNS = (
    "mill",
    "river",
    "harvest",
    "ledger",
    "bridge",
    "garden",
    "letter",
    "engine",
    "winter",
    "village",
    "market",
    "lantern",
    "orchard",
    "ferry",
    "quarry",
)
VERBS = (
    "supplies",
    "crosses",
    "records",
    "outlasts",
    "feeds",
    "borders",
    "repairs",
    "lights",
    "follows",
    "measures",
    "carries",
    "shelters",
)
PLACES = (
    "Ansby",
    "Corvale",
    "Dunmere",
    "Eastfold",
    "Harrow",
    "Kelling",
    "Lowick",
    "Marsden",
    "Norholt",
    "Oakley",
    "Penrith",
    "Selby",
)
LABELS = ("trade", "travel", "weather", "farming", "building")
SHOTS = 12


def sentences(chance: random.Random, count: int) -> str:
    """Return so many sentences of some 12 tokens."""
    return " ".join(
        f"The {chance.choice(NOUNS)} of {chance.choice(PLACES)} {chance.choice(VERBS)} "
        f"{chance.randrange(2, 99)} {chance.choice(NOUNS)}s."
        for _ in range(count)
    )


def documented(seed: int, n_sentences: int, question: str = "Retell this in your own words.") -> Messages:
    """Return a prompt whose system message is a text that no other seed begins with."""
    chance = random.Random(seed)
    report = f"{chance.choice(PLACES)}, report {seed}. {sentences(chance, n_sentences)}"
    return [{"role": "system", "content": report}, {"role": "user", "content": question}]


def questions(seed: int, n_sentences: int, count: int, batch: int) -> list[Messages]:
    """Return questions behind the text of `seed`, others for every batch."""
    chance = random.Random(f"{seed}/{batch}")
    asked = [f"What is told of {chance.choice(PLACES)} and its {chance.choice(NOUNS)}, no. {i}?" for i in range(count)]
    return [documented(seed, n_sentences, question) for question in asked]


def plain(question: str) -> Messages:
    return [{"role": "system", "content": "You answer at length."}, {"role": "user", "content": question}]


def choices(seed: int, count: int, batch: int) -> list[dict[str, Any]]:
    """Return questions with 2 to 5 choices behind the few-shot prefix of `seed`, others for every batch."""
    chance = random.Random(seed)
    shots: Messages = [{"role": "system", "content": "Name the subject of each sentence."}]
    for number in range(SHOTS):
        shots.append({"role": "user", "content": sentences(chance, 1)})
        shots.append({"role": "assistant", "content": LABELS[number % len(LABELS)]})
    chance = random.Random(f"{seed}/{batch}")
    return [
        {
            "messages": [*shots, {"role": "user", "content": sentences(chance, 1)}],
            "choices": chance.sample(LABELS, chance.randrange(2, 6)),
        }
        for _ in range(count)
    ]
