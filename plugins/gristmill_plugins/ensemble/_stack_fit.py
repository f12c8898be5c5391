"""Fitting a stack on labelled rows, with scikit-learn.

The strength of the penalty is chosen by cross-validation, and what the stack is worth is told by an outer one: each
row is judged by a model that saw neither it nor chose its penalty by it. Nothing of scikit-learn is kept: what leaves
here are numbers. Invariant: the same rows and seed give the same model.
"""

from __future__ import annotations

import contextlib
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from gristmill import Candidate, FunctionError

from ._stack import (
    Evidence,
    FittedStack,
    MetaModel,
    feature_names,
    flat_features,
    options_of,
    predict,
    rows_of,
    same,
)

if TYPE_CHECKING:
    import numpy as np

PENALTIES = (0.01, 0.1, 1.0, 10.0)
LEAST_ROWS = 10


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """What the members answered to one question, and what is right."""

    members: Mapping[str, Candidate]
    label: str
    embedding: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class _Shape:
    """What all rows have in common."""

    members: tuple[str, ...]
    probabilistic: tuple[str, ...]
    labels: tuple[str, ...] | None
    embedder: str | None
    n_embedding: int


def fit_stack(
    rows: Sequence[LabelledRow],
    *,
    meta: MetaModel = "logistic",
    folds: int = 5,
    seed: int = 0,
    embedder: str | None = None,
    models: Mapping[str, str] | None = None,
) -> FittedStack:
    """Fit a meta-model.

    Args:
        rows: at least ten, all with the same members; where all have the same options, those are the labels.
        meta: multinomial logistic regression, or linear discriminant analysis with a shrunken covariance.
        folds: how many parts cross-validation makes; fewer where a label is rarer than that.
        seed: of the parts.
        embedder: the fingerprint of what made the rows' embeddings.
        models: member to the digest of the model that answered.

    Raises:
        FunctionError: too few rows, rows that do not agree, or a label that nobody was asked about.
    """
    shape = _shape_of(rows, embedder)
    if shape.labels is None and shape.n_embedding:
        raise FunctionError(
            "an embedding says nothing about options that differ from row to row: leave out `text`",
            hint="or give every row the same labels",
        )
    if shape.labels is None and meta == "lda":
        raise FunctionError("'lda' needs labels that are the same in every row; take 'logistic'")
    folds = _folds(rows, shape, folds)
    right = 0
    with one_thread():
        for training, testing in _splits(rows, shape, folds, seed):
            model = _fit([rows[i] for i in training], shape, meta, seed)
            right += sum(_is_right(model, rows[i]) for i in testing)
        whole = _fit(rows, shape, meta, seed)
    alone = {
        name: statistics.fmean(same(row.members[name].text) == same(row.label) for row in rows)
        for name in shape.members
    }
    evidence = Evidence(n=len(rows), members=alone, accuracy=right / len(rows), folds=folds)
    return whole.model_copy(update={"evidence": evidence, "models": dict(models or {})})


def one_thread() -> contextlib.AbstractContextManager[Any]:
    """Keep the linear algebra to one thread: on these small matrices more cost 4 times the time (2 busy cores)."""
    import threadpoolctl

    return cast("contextlib.AbstractContextManager[Any]", threadpoolctl.threadpool_limits(1))


def _is_right(model: FittedStack, row: LabelledRow) -> bool:
    return same(predict(model, row.members, row.embedding).text) == same(row.label)


def _shape_of(rows: Sequence[LabelledRow], embedder: str | None) -> _Shape:
    if len(rows) < LEAST_ROWS:
        raise FunctionError(f"a stack is fitted on {LEAST_ROWS} rows or more, these are {len(rows)}")
    members = tuple(sorted(rows[0].members))
    probabilistic = {name for name in members if rows[0].members[name].probabilities}
    options = {options_of(row.members) for row in rows}
    for n, row in enumerate(rows, start=1):
        if tuple(sorted(row.members)) != members:
            raise FunctionError(f"row {n} has the members {sorted(row.members)}, the first row has {list(members)}")
        if len(row.embedding) != len(rows[0].embedding):
            raise FunctionError(
                f"row {n} has an embedding of {len(row.embedding)}, the first of {len(rows[0].embedding)}"
            )
        probabilistic &= {name for name in members if row.members[name].probabilities}
    fixed = probabilistic and len({tuple(sorted(some)) for some in options}) == 1
    labels = _labels(rows, next(iter(options)) if fixed else None, voting=not probabilistic)
    return _Shape(members, tuple(sorted(probabilistic)), labels, embedder, len(rows[0].embedding))


def _labels(rows: Sequence[LabelledRow], options: tuple[str, ...] | None, *, voting: bool) -> tuple[str, ...] | None:
    """Return the labels that all rows share, or None where each row has options of its own."""
    if voting:  # members that only vote: the labels are those of the data, where they come back often enough
        counts = Counter(same(row.label) for row in rows)
        if len(counts) * 5 > len(rows):
            return None
        return tuple(sorted({same(row.label): row.label for row in rows}.values()))
    if options is None:
        return None
    known = {same(option) for option in options}
    for n, row in enumerate(rows, start=1):
        if same(row.label) not in known:
            raise FunctionError(
                f"row {n} has the label {row.label!r}; members chose among {', '.join(map(repr, options))}"
            )
    return tuple(sorted(options))


def _folds(rows: Sequence[LabelledRow], shape: _Shape, folds: int) -> int:
    if shape.labels is None:
        return folds
    counts = Counter(same(row.label) for row in rows)
    rarest, n = min(counts.items(), key=lambda item: item[1])
    if n < 4 or len(counts) < 2:
        raise FunctionError(f"the label {rarest!r} has {n} of {len(rows)} rows: two labels with 4 rows each are needed")
    return min(folds, n)


def _splits(
    rows: Sequence[LabelledRow], shape: _Shape, folds: int, seed: int
) -> Iterable[tuple[Sequence[int], Sequence[int]]]:
    from sklearn.model_selection import KFold, StratifiedKFold

    if shape.labels is None:
        return list(KFold(folds, shuffle=True, random_state=seed).split(range(len(rows))))
    answers = [same(row.label) for row in rows]
    return list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(answers, answers))


def _fit(rows: Sequence[LabelledRow], shape: _Shape, meta: MetaModel, seed: int) -> FittedStack:
    x, y, groups = _table(rows, shape)
    if meta == "lda":
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        return _kept(shape, x, LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"), y, meta, None)
    from sklearn.linear_model import LogisticRegression

    penalty = _best_penalty(x, y, groups, seed)
    return _kept(shape, x, LogisticRegression(C=penalty, max_iter=5000), y, meta, penalty)


def _best_penalty(x: np.ndarray, y: np.ndarray, groups: np.ndarray, seed: int) -> float:
    """Return the C of the lowest log loss on rows left out; of nearly equal ones the strongest penalty."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold

    folds = max(2, min(3, *Counter(y.tolist()).values()))
    loss = dict.fromkeys(PENALTIES, 0.0)
    for train, test in StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(x, y, groups):
        mean, scale = _scaling(x[train])
        for penalty in PENALTIES:
            model = LogisticRegression(C=penalty, max_iter=5000).fit((x[train] - mean) / scale, y[train])
            likely = model.predict_proba((x[test] - mean) / scale)
            columns = np.searchsorted(model.classes_, y[test])
            loss[penalty] -= float(np.log(np.maximum(likely[np.arange(len(test)), columns], 1e-12)).sum())
    return min(PENALTIES, key=lambda penalty: round(loss[penalty] / len(y), 4))


def _scaling(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each column's mean and standard deviation, 1 where it is constant."""
    scale = x.std(axis=0)
    scale[scale < 1e-9] = 1.0
    return x.mean(axis=0), scale


def _table(rows: Sequence[LabelledRow], shape: _Shape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features, targets and the row that each line comes from; without labels a line for each option."""
    import numpy as np

    x: list[list[float]] = []
    y: list[int] = []
    groups: list[int] = []
    for n, row in enumerate(rows):
        options = shape.labels or options_of(row.members)
        per_option = rows_of(row.members, shape.probabilistic, options)
        right = [same(option) == same(row.label) for option in options]
        if shape.labels is None:
            x += per_option
            y += [int(value) for value in right]
            groups += [n] * len(options)
        else:
            x.append(flat_features(per_option, row.embedding))
            y.append(right.index(True))
            groups.append(n)
    if len(set(y)) < 2:
        raise FunctionError("no row's label is among what its members chose from: there is nothing to learn")
    return np.array(x), np.array(y), np.array(groups)


def _kept(
    shape: _Shape, x: np.ndarray, estimator: Any, y: np.ndarray, meta: MetaModel, penalty: float | None
) -> FittedStack:
    """Fit on standardised features and return the numbers."""
    mean, scale = _scaling(x)
    estimator.fit((x - mean) / scale, y)
    coefficients, intercepts = estimator.coef_.tolist(), estimator.intercept_.tolist()
    n_rows = 1 if shape.labels is None else len(shape.labels)
    if n_rows > 1 and len(coefficients) == 1:  # two labels: the first one's score is 0
        coefficients, intercepts = [[0.0] * x.shape[1], *coefficients], [0.0, *intercepts]
    names = feature_names(shape.members, shape.probabilistic)
    if shape.labels is not None:
        names = [f"{name}={label}" for label in shape.labels for name in names]
        names += [f"embedding[{n}]" for n in range(shape.n_embedding)]
    return FittedStack(
        members=shape.members, probabilistic=shape.probabilistic, labels=shape.labels, embedder=shape.embedder,
        features=tuple(names), mean=mean.tolist(), scale=scale.tolist(), coefficients=coefficients,
        intercepts=intercepts, meta=meta, penalty=penalty,
        evidence=Evidence(n=len(x), members={}, accuracy=0.0, folds=0),
    )  # fmt: skip
