"""Stacking: a linear meta-model over what members answered (Wolpert 1992, Stacked Generalization).

What a member contributes is its probability of each label, as a centred log-ratio, and its vote, as 0 or 1; a text
may add an embedding. With fixed labels each label has its own weights. With options that differ from row to row one
set of weights serves every option, so that a member counts for its reliability alone. It fits nothing (see
`_stack_fit`) and needs no library. Invariant: members and features are bound by name; a member, label or embedder that
it was not fitted on is refused, and so is another model behind a member (`_stack_models`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field, FiniteFloat, model_validator

from gristmill import Candidate, FunctionError, Value

from ._ballots_normalize import normalizer
from ._learned_file import AGAIN, Kept

LEAST_PROBABILITY = 1e-6
"""Below it all probabilities are one: a member that is sure beyond a millionth is not to outvote all others."""

_READ = normalizer("text")
MetaModel = Literal["logistic", "lda"]


class Stacked(Value):
    """What the meta-model, or without one the members' mean, makes of the members' answers."""

    text_field = "text"

    text: str
    probabilities: dict[str, float]
    """A probability for each label or option; they sum to 1."""
    confidence: float
    """The probability of `text`."""
    agreement: float
    """The share of members that voted for it."""
    answers: dict[str, Candidate]
    """Member to what it said."""
    fitted: bool
    """False: there was no fitted model, and the members' mean decided."""
    embedding: tuple[float, ...] = ()
    """Of the text that was given along."""
    embedder: str | None = None
    models: dict[str, str] = {}
    """Member to the digest of the model that answered, where the step knows it."""


class Evidence(Value):
    """How good the members and the stack were on the rows it was fitted on."""

    n: int
    members: dict[str, float]
    """Accuracy of each member alone."""
    accuracy: float
    """Accuracy of the stack on rows that it had not seen (nested cross-validation)."""
    folds: int


class FittedStack(Kept):
    """A fitted meta-model. `coefficients` is (n_labels, n_features), or (1, n_features) without labels."""

    kind: ClassVar[str] = "ensemble.stack"

    members: tuple[str, ...]
    probabilistic: tuple[str, ...]
    """The members whose probabilities are features; the others only vote."""
    labels: tuple[str, ...] | None
    """None: options differ from row to row."""
    embedder: str | None = None
    """The fingerprint of what made the embeddings."""
    models: dict[str, str] = {}
    """Member to the digest of its model when this was fitted; members that it did not know are not in it."""
    features: tuple[str, ...]
    mean: tuple[FiniteFloat, ...]
    scale: tuple[FiniteFloat, ...]
    coefficients: tuple[tuple[FiniteFloat, ...], ...]
    intercepts: tuple[FiniteFloat, ...]
    meta: MetaModel
    penalty: float | None = Field(default=None, description="The C of logistic regression, chosen by cross-validation.")
    evidence: Evidence

    @model_validator(mode="after")
    def _shapes_agree(self) -> FittedStack:
        n, rows = len(self.features), 1 if self.labels is None else len(self.labels)
        if len(self.mean) != n or len(self.scale) != n or any(len(row) != n for row in self.coefficients):
            raise ValueError(f"{n} features need {n} means, scales and coefficients a row")
        if len(self.coefficients) != rows or len(self.intercepts) != rows:
            raise ValueError(f"{rows} rows of coefficients and intercepts are wanted")
        if any(scale <= 0 for scale in self.scale):
            raise ValueError("scales are above 0")
        return self


def same(text: str) -> str:
    """Return what two spellings of a label have in common: case, white space, quotes and final punctuation aside."""
    answer = _READ(text)
    return "" if answer is None else answer.key


def options_of(members: Mapping[str, Candidate]) -> tuple[str, ...]:
    """Return what members chose among: the keys of their probabilities, or else all that was said, in order."""
    for candidate in members.values():
        if candidate.probabilities:
            return tuple(candidate.probabilities)
    return tuple({same(candidate.text): candidate.text for candidate in members.values()}.values())


def probabilities_of(name: str, candidate: Candidate, options: Sequence[str]) -> list[float]:
    """Return a member's probabilities in the order of `options`, floored and normalised again.

    Raises:
        FunctionError: it has none, or for other options.
    """
    given = candidate.probabilities
    if given is None or set(given) != set(options):
        had = "none" if given is None else ", ".join(map(repr, given))
        raise FunctionError(f"member {name!r} has probabilities for {had}; wanted are {', '.join(map(repr, options))}")
    floored = [max(given[option], LEAST_PROBABILITY) for option in options]
    total = sum(floored)
    return [value / total for value in floored]


def rows_of(
    members: Mapping[str, Candidate], probabilistic: Sequence[str], options: Sequence[str]
) -> list[list[float]]:
    """Return `(n_options, 2 * members)` features: of each member, by name, the log-ratio (if any) and the vote."""
    columns: list[list[float]] = []
    for name in sorted(members):
        if name in probabilistic:
            logs = [math.log(value) for value in probabilities_of(name, members[name], options)]
            middle = sum(logs) / len(logs)
            columns.append([value - middle for value in logs])
        columns.append([float(same(members[name].text) == same(option)) for option in options])
    return [list(row) for row in zip(*columns, strict=True)]


def feature_names(members: Sequence[str], probabilistic: Sequence[str]) -> list[str]:
    """Return the names of the columns of `rows_of`."""
    names: list[str] = []
    for name in sorted(members):
        names += [f"{name}:log_ratio"] * (name in probabilistic) + [f"{name}:vote"]
    return names


def flat_features(rows: Sequence[Sequence[float]], embedding: Sequence[float]) -> list[float]:
    """Return the features of a model with fixed labels: every label's, then the embedding's."""
    return [value for row in rows for value in row] + list(embedding)


def predict(model: FittedStack, members: Mapping[str, Candidate], embedding: Sequence[float] = ()) -> Stacked:
    """Return what a fitted model makes of the members' answers.

    Raises:
        FunctionError: these are not the members, labels or embeddings that it was fitted on.
    """
    _check_members(model, members)
    options = model.labels or options_of(members)
    rows = rows_of(members, model.probabilistic, options)
    if model.labels is None:
        scores = [_dot(model, 0, row) for row in rows]
    else:
        row = flat_features(rows, embedding)
        if len(row) != len(model.features):
            raise FunctionError(
                f"the stack was fitted on {len(model.features)} features, these are {len(row)}",
                hint="give the same `text` and `embedder` as when it was fitted",
            )
        scores = [_dot(model, k, row) for k in range(len(options))]
    return outcome(members, options, softmax(scores), fitted=True)


def _check_members(model: FittedStack, members: Mapping[str, Candidate]) -> None:
    missing, unknown = sorted(set(model.members) - set(members)), sorted(set(members) - set(model.members))
    if missing or unknown:
        told = [f"it was fitted on {name!r}, which is missing" for name in missing]
        told += [f"it was not fitted on {name!r}" for name in unknown]
        raise FunctionError(f"the stack does not fit these members: {'; '.join(told)}", hint=AGAIN)


def _dot(model: FittedStack, k: int, row: Sequence[float]) -> float:
    scaled = ((value - mean) / scale for value, mean, scale in zip(row, model.mean, model.scale, strict=True))
    return model.intercepts[k] + sum(w * value for w, value in zip(model.coefficients[k], scaled, strict=True))


def mean_of(members: Mapping[str, Candidate]) -> Stacked:
    """Return what members say without a model: the geometric mean of their probabilities, a vote being one.

    A member without probabilities counts as one that is half sure of what it said and spreads the rest evenly.
    """
    options = options_of(members)
    totals = [0.0] * len(options)
    for name, candidate in members.items():
        if candidate.probabilities:
            shares = probabilities_of(name, candidate, options)
        else:
            rest = 0.5 / len(options)
            shares = [rest + 0.5 * (same(candidate.text) == same(option)) for option in options]
        totals = [total + math.log(share) for total, share in zip(totals, shares, strict=True)]
    return outcome(members, options, softmax([total / len(members) for total in totals]), fitted=False)


def outcome(
    members: Mapping[str, Candidate], options: Sequence[str], probabilities: Sequence[float], *, fitted: bool
) -> Stacked:
    """Return the likeliest option; of equal ones the first."""
    best = max(range(len(options)), key=lambda k: probabilities[k])
    voted = sum(same(candidate.text) == same(options[best]) for candidate in members.values())
    return Stacked(
        text=options[best],
        probabilities=dict(zip(options, probabilities, strict=True)),
        confidence=probabilities[best],
        agreement=voted / len(members),
        answers=dict(members),
        fitted=fitted,
    )


def softmax(scores: Sequence[float]) -> list[float]:
    """Return probabilities proportional to exp(score)."""
    highest = max(scores)
    weights = [math.exp(score - highest) for score in scores]
    total = sum(weights)
    return [weight / total for weight in weights]
