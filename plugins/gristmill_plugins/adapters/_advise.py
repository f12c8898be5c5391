"""Whether prompting, retrieval or fine-tuning fits a task, from its examples and from what was measured.

It runs no model. The rules are few and stated with each answer, so that they can be argued with. Invariant: what was
measured outweighs what the examples look like, and a difference counts only where the intervals are apart.

Knowledge against behaviour follows Ovadia et al. 2023 (Fine-Tuning or Retrieval?): facts that a model lacks are better
looked up, while form, labels and tone are learnt from a few hundred examples (Zhou et al. 2023, LIMA).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from gristmill import Value
from gristmill_plugins.adapters._examples import Example, labels_of
from gristmill_plugins.adapters._measure import wilson

Way = Literal["prompting", "retrieval", "fine-tuning"]
ENOUGH = 200
"""Examples from which a small model's adapter usually gains (both adapters of docs/adapters.md had more)."""
MUCH_NEW = 0.5
REPEATED = 0.6
GOOD = 0.9
_WORD = re.compile(r"\w+")


class Advice(Value):
    """Which way to take, and why."""

    text_field = "way"

    way: Way
    reasons: tuple[str, ...]
    facts: dict[str, float]
    """What was seen: n_examples, n_labels, new_words, known_words, mean_words."""


def advise(examples: Sequence[Example], measured: Mapping[str, float] | None = None, n_measured: int = 0) -> Advice:
    """Return the way that fits a task.

    `measured` maps "prompting", "retrieval" and "fine-tuning" to accuracies on the same `n_measured` examples.
    """
    facts = look_at(examples)
    found = _by_measurement(measured or {}, n_measured)
    if found is not None:
        return Advice(way=found[0], reasons=(found[1],), facts=facts)
    way, reasons = _by_examples(facts)
    if measured:
        reasons.append(f"the measured accuracies do not differ beyond chance on {n_measured} examples")
    return Advice(way=way, reasons=tuple(reasons), facts=facts)


def look_at(examples: Sequence[Example]) -> dict[str, float]:
    """Return what examples look like.

    `new_words` is the share of a completion's words that its prompt does not have, and `known_words` the share of those
    that other completions have too: labels and form repeat, facts do not.
    """
    pairs = [(set(_words(one.prompt or "")), _words(one.completion)) for one in examples]
    uses = Counter(word for _, words in pairs for word in set(words))
    new = [word for prompt, words in pairs for word in words if word not in prompt]
    n_words = sum(len(words) for _, words in pairs)
    return {
        "n_examples": len(examples),
        "n_labels": len(labels_of(examples)),
        "mean_words": n_words / max(1, len(pairs)),
        "new_words": len(new) / max(1, n_words),
        "known_words": sum(uses[word] > 1 for word in new) / max(1, len(new)),
    }


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _by_measurement(measured: Mapping[str, float], n: int) -> tuple[Way, str] | None:
    ways: tuple[Way, ...] = ("prompting", "retrieval", "fine-tuning")
    known = [(measured[way], way) for way in ways if way in measured]
    if not known or not n:
        return None
    if "prompting" in measured and wilson(round(measured["prompting"] * n), n)[0] >= GOOD:
        return "prompting", f"prompting alone is right {measured['prompting']:.0%} of the time: nothing else is needed"
    if len(known) < 2:
        return None
    (best, way), (second, other) = sorted(known, reverse=True)[:2]
    low, high = wilson(round(best * n), n)[0], wilson(round(second * n), n)[1]
    if low <= high:
        return None
    return way, f"measured on {n} examples, {way} is right {best:.0%} of the time and {other} {second:.0%}"


def _by_examples(facts: Mapping[str, float]) -> tuple[Way, list[str]]:
    n, n_labels = round(facts["n_examples"]), round(facts["n_labels"])
    if facts["new_words"] > MUCH_NEW and facts["known_words"] < REPEATED and not n_labels:
        return "retrieval", [
            f"{facts['new_words']:.0%} of the answers' words are not in their prompts, and only "
            f"{facts['known_words']:.0%} of those come up again: the answers hold facts, which are better looked up",
            "training would have to teach every fact many times over, and could not take one back",
        ]
    kind = f"the answers are {n_labels} labels" if n_labels else "the answers repeat one form"
    if n < ENOUGH:
        return "prompting", [
            f"{kind}: a behaviour, which examples in the prompt show",
            f"{n} examples are few to train on; {ENOUGH} and more usually gain",
        ]
    return "fine-tuning", [
        f"{kind}: a behaviour, which an adapter learns",
        f"{n} examples are enough to try, and prompts get shorter: the examples need not be read each time",
    ]
