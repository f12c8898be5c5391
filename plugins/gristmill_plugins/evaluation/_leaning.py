"""Says where a recipe's answers lean: to one text, or to one place in a list, far more often than those are right.

A model that says "spam" to everything, or takes the first of any options, has an accuracy that does not show it, and no
vote, chain or larger budget mends it: another prompt or calibration may. It looks at answers and rows, runs nothing.
Invariant: what is told is a fifth of the rows at least and no chance (McNemar's exact test, p below 0.01).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from gristmill_plugins.evaluation._rows import Row
from gristmill_plugins.evaluation._samples import Sample
from gristmill_plugins.evaluation._statistics import mcnemar_exact
from gristmill_plugins.evaluation._text_metrics import label_of

LEAST_GAP = 0.2
"""Less than this share of the rows, a leaning is a nuance and not the first thing to mend."""
MOST_P = 0.01


@dataclass(frozen=True, slots=True)
class Leaning:
    """What is answered too often: the text `answer`, or whatever stands at `place`, from 1, of the list in `column`."""

    answer: str | None
    column: str | None
    place: int | None
    given: int
    """Rows in which it was the answer."""
    right: int
    """Rows in which it would have been right."""
    n: int

    def __str__(self) -> str:
        what = _short(self.answer) if self.answer is not None else f"no. {self.place} of {self.column!r}"
        return f"{what} is the answer in {self.given:,} of {self.n:,} rows and right in {self.right:,}"

    def as_json(self) -> dict[str, Any]:
        """Return the record's form."""
        return asdict(self)


@dataclass(slots=True)
class _Tally:
    """How often each thing was given and right, and in how many rows only one of the two."""

    n: int = 0
    given: Counter[Any] = field(default_factory=Counter)
    right: Counter[Any] = field(default_factory=Counter)
    both: Counter[Any] = field(default_factory=Counter)

    def add(self, given: Any, right: set[Any]) -> None:
        self.n += 1
        self.given[given] += 1
        self.right.update(right)
        self.both.update(right & {given})

    def worst(self) -> Any | None:
        """Return what is given too often by the widest gap, None where nothing is."""
        found = max(self.given, key=lambda thing: self.given[thing] - self.right[thing], default=None)
        only_given, only_right = (counts[found] - self.both[found] for counts in (self.given, self.right))
        told = only_given - only_right >= LEAST_GAP * self.n > 0 and mcnemar_exact(only_given, only_right) < MOST_P
        return found if told else None


def leaning(rows: Iterable[Row], samples: Iterable[Sample]) -> Leaning | None:
    """Return what a recipe answers too often, a text before a place; None where there is none or nothing expected."""
    texts, shown = _Tally(), dict[str, str]()
    places: dict[str, _Tally] = {}
    for row, sample in zip(rows, samples, strict=True):
        if sample.answer is None or not sample.expected:
            continue
        given, right = label_of(sample.answer), {label_of(text) for text in sample.expected}
        shown.setdefault(given, sample.answer.strip())
        texts.add(given, right)
        for column, options in _lists(row.data):
            if given in options and not right.isdisjoint(options):
                at = {place for place, option in enumerate(options, 1) if option in right}
                places.setdefault(column, _Tally()).add(options.index(given) + 1, at)
    if (answer := texts.worst()) is not None:
        return Leaning(shown[answer], None, None, texts.given[answer], texts.right[answer], texts.n)
    for column, tally in places.items():
        if (place := tally.worst()) is not None:
            return Leaning(None, column, place, tally.given[place], tally.right[place], tally.n)
    return None


def _short(text: str, width: int = 80) -> str:
    return repr(text if len(text) <= width else text[: width - 1] + "…")


def _lists(data: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yield a row's columns that hold several texts."""
    for column, value in data.items():
        if isinstance(value, list | tuple) and len(value) > 1 and all(isinstance(item, str) for item in value):
            yield column, [label_of(item) for item in value]
