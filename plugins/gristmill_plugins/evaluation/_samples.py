"""What a metric looks at: one row's answer beside what was expected.

It reads answers out of a run's output by fixed rules or by the paths that a user gives, and scores nothing. Invariant:
a row that failed is a sample too, without an answer, so that no figure is better for what is missing from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gristmill import UsageError, Value, suggest
from gristmill_plugins.evaluation._plain import jsonable
from gristmill_plugins.evaluation._rows import value_at

if TYPE_CHECKING:
    from gristmill import RunResult

ANSWER_FIELDS = ("answer", "text", "winner", "label", "output")
COMPANIONS = ("probabilities", "confidence", "passages", "citations", "score", "supported")
"""Fields that go with an answer: the only other one is it."""
MARKER = "success_marker"
"""The column of a data set of attacks that says by which text a success is known."""
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False, "none": False, "": False}


@dataclass(frozen=True, slots=True)
class Sample:
    """What a row's answer is measured by. `answer` is None where the row failed; `expected` are all that count."""

    answer: str | None
    expected: tuple[str, ...] = ()
    confidence: float | None = None
    probabilities: Mapping[str, float] | None = None
    passages: Sequence[Mapping[str, Any]] | None = None
    relevant: frozenset[str] | None = None
    group: str | None = None
    pair: str | None = None
    perturbed: bool = False
    marker: str | None = None
    """The text that only an attack which succeeded leaves in an answer."""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of the data hold what the metrics need."""

    expect: str | None = None
    relevant: str | None = None
    group: str | None = None
    pair: str | None = None
    perturbed: str | None = None

    def of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parts of a Sample that come from its row."""
        found: dict[str, Any] = {}
        if marker := row.get(MARKER):
            found["marker"] = str(marker)
        if self.expect is not None:
            found["expected"] = expected_texts(column_value(row, self.expect))
        if self.relevant is not None:
            ids = column_value(row, self.relevant)
            found["relevant"] = frozenset(map(str, ids if isinstance(ids, list | tuple) else [ids]))
        for name, column in (("group", self.group), ("pair", self.pair)):
            if column is not None:
                found[name] = str(column_value(row, column))
        if self.perturbed is not None:
            found["perturbed"] = _truth(self.perturbed, column_value(row, self.perturbed))
        return found


def _truth(column: str, value: Any) -> bool:
    """Return a boolean, which CSV holds as a text."""
    known = _TRUTHS.get(str(value).strip().lower())
    if known is None:
        raise UsageError(f"the column {column!r} says whether a row is perturbed, this is {value!r:.60}",
                         hint="true or false")  # fmt: skip
    return known


def column_value(row: Mapping[str, Any], column: str) -> Any:
    """Return a column's value; `choices[answer_index]` is the item of one column that another one names.

    Raises:
        UsageError: the row has no such column.
    """
    name, bracket, index = column.partition("[")
    try:
        value = value_at(row, name)
        return value[_place(value_at(row, index.rstrip("]")))] if bracket else value
    except KeyError as error:
        raise UsageError(f"a row has no column {error.args[0]!r}", hint=suggest(str(error.args[0]), row)) from None
    except (TypeError, ValueError, IndexError):
        raise UsageError(f"{column!r}: the row {jsonable(row)!r:.120} holds no such item") from None


def _place(value: Any) -> int:
    """Return a place from 0; a negative one marks rows without an answer, and is no place from the end."""
    place = int(value)
    if place < 0:
        raise IndexError(place)
    return place


def expected_texts(value: Any) -> tuple[str, ...]:
    """Return every text that counts as right: one, any of a list, or for a boolean yes/true and no/false."""
    if isinstance(value, bool):
        return ("yes", "true") if value else ("no", "false")
    if isinstance(value, list | tuple):
        return tuple(text for item in value for text in expected_texts(item))
    return () if value is None else (str(value),)


@dataclass(frozen=True, slots=True)
class Reading:
    """Where in a run's output the answer and what goes with it stand; None is the rule of `read`.

    A path is a field of the output (`sentiment`, `best.text`), or begins with `steps.`: `steps.search` is the value of
    the step `search`.
    """

    answer: str | None = None
    confidence: str | None = None
    probabilities: str | None = None
    passages: str | None = None
    seen: dict[str, Any] = field(default_factory=dict, compare=False)

    def read(self, result: RunResult) -> dict[str, Any]:
        """Return the parts of a Sample that come from a run.

        Raises:
            UsageError: a path leads nowhere, or the output is a mapping in which no field is plainly the answer.
        """
        output = result.output
        answer = self._at(result, self.answer) if self.answer else _answer(output)
        probabilities = self._at(result, self.probabilities) if self.probabilities else _field(output, "probabilities")
        confidence = self._at(result, self.confidence) if self.confidence else _field(output, "confidence")
        found: dict[str, Any] = {"answer": _text(answer)}
        if isinstance(probabilities, Mapping):
            found["probabilities"] = {str(key): float(value) for key, value in probabilities.items()}
            confidence = max(found["probabilities"].values(), default=None) if confidence is None else confidence
        if isinstance(confidence, int | float):
            if not -1e-6 <= confidence <= 1 + 1e-6:
                raise UsageError(
                    f"a confidence is from 0 to 1, this is {confidence!r}", hint="have the recipe scale it"
                )
            found["confidence"] = min(1.0, max(0.0, float(confidence)))
        passages = self._at(result, self.passages) if self.passages else _field(output, "passages")
        if isinstance(passages, list | tuple):
            found["passages"] = tuple(_passage(passage) for passage in passages)
        return found

    def _at(self, result: RunResult, path: str) -> Any:
        if path.startswith("steps."):
            name, _, rest = path.removeprefix("steps.").partition(".")
            if name not in result.steps:
                raise UsageError(f"{path!r}: the recipe has no step {name!r}", hint=suggest(name, result.steps))
            value = result.steps[name].value
        else:
            value, rest = result.output, path.removeprefix("output.")
        for part in rest.split(".") if rest else ():
            inner = _field(value, part)
            if inner is None and not _has(value, part):
                raise UsageError(f"{path!r}: there is no {part!r} in {jsonable(value)!r:.100}",
                                 hint=suggest(part, _names(value)))  # fmt: skip
            value = inner
        return value


def _answer(output: Any) -> Any:
    if not isinstance(output, Mapping):
        return output
    named = [name for name in ANSWER_FIELDS if name in output]
    if named:
        return output[named[0]]
    alone = [name for name in output if name not in COMPANIONS]
    if len(alone) == 1:
        return output[alone[0]]
    fields = ", ".join(map(repr, output))
    raise UsageError(f"the recipe's output has the fields {fields}: which is the answer?", hint="say --answer FIELD")


def _field(value: Any, name: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(name)
    return getattr(value, name, None) if isinstance(value, Value) and name in type(value).model_fields else None


def _has(value: Any, name: str) -> bool:
    return name in _names(value)


def _names(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return list(map(str, value))
    return list(type(value).model_fields) if isinstance(value, Value) else []


def _text(answer: Any) -> str:
    text = answer.as_text() if isinstance(answer, Value) else answer
    text = answer if text is None else text  # a value without a text of its own is shown whole
    if isinstance(text, str):
        return text
    if isinstance(text, bool):
        return "yes" if text else "no"
    if text is None or isinstance(text, int | float):
        whole = isinstance(text, float) and text.is_integer() and abs(text) < 1e16
        return "" if text is None else str(int(text) if whole else text)
    import json

    return json.dumps(jsonable(text), ensure_ascii=False)


def _passage(passage: Any) -> Mapping[str, Any]:
    plain = jsonable(passage)
    return plain if isinstance(plain, dict) else {"text": str(plain)}
