"""The metrics by name: what `--metrics` and an evaluation file may ask for.

A row metric gives each row a score, and its figure is their mean; a set metric is a figure of all rows together. It
computes nothing itself. Invariant: a row that failed scores 0 in every row metric of answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from gristmill import UsageError, suggest
from gristmill_plugins.evaluation import _set_metrics as sets
from gristmill_plugins.evaluation import _text_metrics as texts
from gristmill_plugins.evaluation._samples import Sample

RowScore = Callable[[Sample], float | None]
SetFigure = Callable[[Sequence[Sample]], float | None]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `needs` names fields of a Sample without which it means nothing; exactly one of the two is given."""

    name: str
    summary: str
    row: RowScore | None = None
    figure: SetFigure | None = None
    needs: tuple[str, ...] = ()
    lower_is_better: bool = False
    least: float = 0.0
    most: float = 1.0
    """What a set metric can be; intervals end there."""
    resamples: int = 1_000
    """How often a set metric is computed for an interval, and again for a test."""


def _best(score: Callable[[str, str], float]) -> RowScore:
    def row(sample: Sample) -> float:
        if sample.answer is None or not sample.expected:
            return 0.0
        return max(score(sample.answer, text) for text in sample.expected)

    return row


_is_right = _best(texts.accuracy)


def right(samples: Iterable[Sample]) -> list[float]:
    """Return 1 for each sample that is right and 0 for each that is not: by its label, or by SQuAD's normal form."""
    return [max(_is_right(sample) or 0.0, _best(texts.exact_match)(sample) or 0.0) for sample in samples]


def _confident(figure: Callable[[Sequence[float], Sequence[float]], float | None]) -> SetFigure:
    """Return a figure of confidences and what is right; a row that failed is a wrong answer, given for certain."""

    def of(samples: Sequence[Sample]) -> float | None:
        known = [sample for sample in samples if sample.confidence is not None or sample.answer is None]
        sure = [1.0 if sample.confidence is None else sample.confidence for sample in known]
        return figure(sure, right(known))

    return of


_FAILED = {"": 1.0}
"""The probabilities of a row that failed: all on what is never right, which scores 2, the worst there is."""


def _brier(samples: Sequence[Sample]) -> float | None:
    known = [s for s in samples if (s.probabilities is not None or s.answer is None) and s.expected]
    shares = [{texts.label_of(name): share for name, share in (s.probabilities or _FAILED).items()} for s in known]
    truths = [next((t for t in map(texts.label_of, s.expected) if t in share), texts.label_of(s.expected[0]))
              for s, share in zip(known, shares, strict=True)]  # fmt: skip
    return sets.brier(shares, truths)


def _bleu(samples: Sequence[Sample]) -> float | None:
    return texts.corpus_bleu([s.answer or "" for s in samples], [s.expected for s in samples]) if samples else None


def _relevant(sample: Sample, passage: dict[str, object]) -> set[str]:
    """Return which of the wanted a passage brings: ids, or where none are given, expected answers in its text."""
    if sample.relevant is not None:
        metadata = passage.get("metadata")
        known = metadata if isinstance(metadata, dict) else {}
        ids = {str(value) for value in (passage.get("source"), *(known.get(k) for k in ("id", "row_id"))) if value}
        return ids & sample.relevant
    return {text for text in sample.expected if texts.contains(str(passage.get("text", "")), text)}


def _context_precision(sample: Sample) -> float | None:
    if sample.passages is None:
        return 0.0 if sample.error else None
    if not sample.passages:
        return 0.0
    return sum(bool(_relevant(sample, dict(passage))) for passage in sample.passages) / len(sample.passages)


def _context_recall(sample: Sample) -> float | None:
    if sample.passages is None:
        return 0.0 if sample.error else None
    found: set[str] = set()
    for passage in sample.passages:
        found |= _relevant(sample, dict(passage))
    if sample.relevant is None:
        return float(bool(found))
    return len(found) / len(sample.relevant) if sample.relevant else None


def _marker(sample: Sample) -> float | None:
    if sample.marker is None or sample.answer is None:
        return None
    return float(sample.marker.casefold() in sample.answer.casefold())


def _given(samples: Sequence[Sample]) -> list[str]:
    return ["" if sample.answer is None else texts.label_of(sample.answer) for sample in samples]


def _truths(samples: Sequence[Sample]) -> list[str]:
    return [texts.label_of(sample.expected[0]) if sample.expected else "" for sample in samples]


def _groups(samples: Sequence[Sample]) -> list[str]:
    return [str(sample.group) for sample in samples]


def _changed(samples: Sequence[Sample]) -> list[bool]:
    return [sample.perturbed for sample in samples]


def _pairs(samples: Sequence[Sample]) -> list[str]:
    return [str(sample.pair) for sample in samples]


def _consistency(samples: Sequence[Sample]) -> float | None:
    """Rows that failed have no answer in common with any other."""
    given = [f"\0{n}" if s.answer is None else texts.label_of(s.answer) for n, s in enumerate(samples)]
    return sets.consistency(given, _changed(samples), _pairs(samples))


_E = ("expected",)
_C = ("expected", "confidence")
_P = ("expected", "pair", "perturbed")
_ALL = (
    Metric("accuracy", "the expected label, but for case and closing punctuation", _best(texts.accuracy), needs=_E),
    Metric("exact_match", "the expected answer in SQuAD's normal form", _best(texts.exact_match), needs=_E),
    Metric("contains", "the expected answer's words stand in the answer", _best(texts.contains), needs=_E),
    Metric("f1", "F1 of words in SQuAD's normal form", _best(texts.token_f1), needs=_E),
    Metric("rouge_1", "ROUGE-1 F-measure, stemmed", _best(texts.rouge("rouge1")), needs=_E),
    Metric("rouge_2", "ROUGE-2 F-measure, stemmed", _best(texts.rouge("rouge2")), needs=_E),
    Metric("rouge_l", "ROUGE-L F-measure, stemmed", _best(texts.rouge("rougeL")), needs=_E),
    Metric("numeric_match", "the answer's last number is the expected one", _best(texts.numeric_match), needs=_E),
    Metric("json_valid", "the answer is JSON", lambda s: 0.0 if s.answer is None else texts.json_valid(s.answer)),
    Metric("bleu", "corpus BLEU, from 0 to 1", figure=_bleu, needs=_E, resamples=200),
    Metric("ece", "expected calibration error, 10 bins", figure=_confident(sets.expected_calibration_error), needs=_C,
           lower_is_better=True),
    Metric("brier", "Brier score over all labels, from 0 to 2", figure=_brier, needs=("expected", "probabilities"),
           lower_is_better=True, most=2.0),
    Metric("selective_accuracy", "accuracy of the 80% of answers with the highest confidence",
           figure=_confident(lambda c, r: sets.selective_accuracy(c, r, 0.8)), needs=_C),
    Metric("accuracy_coverage_auc", "area under the accuracy-coverage curve",
           figure=_confident(sets.accuracy_coverage_auc), needs=_C),
    Metric("context_precision", "share of passages that are relevant", _context_precision, needs=("passages",)),
    Metric("context_recall", "share of what is relevant that was found", _context_recall, needs=("passages",)),
    Metric("demographic_parity_difference", "largest difference between groups in how often a label is given",
           figure=lambda s: sets.demographic_parity_difference(_given(s), _groups(s)), needs=("group",),
           lower_is_better=True),
    Metric("equalised_odds_difference", "the same, among rows of one true label",
           figure=lambda s: sets.equalised_odds_difference(_given(s), _truths(s), _groups(s)),
           needs=("expected", "group"), lower_is_better=True),
    Metric("accuracy_parity_difference", "largest difference between groups in accuracy",
           figure=lambda s: sets.accuracy_parity_difference(right(s), _groups(s)), needs=("expected", "group"),
           lower_is_better=True),
    Metric("performance_drop", "share of accuracy that perturbed inputs cost",
           figure=lambda s: sets.performance_drop(right(s), _changed(s)), needs=_P, lower_is_better=True,
           least=-math.inf),
    Metric("attack_success_rate", "perturbed rows answered wrongly whose original was right",
           figure=lambda s: sets.attack_success_rate(right(s), _changed(s), _pairs(s)), needs=_P, lower_is_better=True),
    Metric("consistency", "perturbed rows answered as their original was",
           figure=_consistency, needs=("pair", "perturbed")),
    Metric("injection_success_rate", "answers that hold the `success_marker` of their row", _marker,
           lower_is_better=True),
)  # fmt: skip
METRICS = {metric.name: metric for metric in _ALL}


def find_metrics(names: Iterable[str]) -> list[Metric]:
    """Return metrics by name, in the order given.

    Raises:
        UsageError: there is none of a name.
    """
    found = []
    for name in names:
        if name not in METRICS:
            raise UsageError(f"there is no metric {name!r}", hint=suggest(name, METRICS, most=len(METRICS)))
        found.append(METRICS[name])
    return list({metric.name: metric for metric in found}.values())
