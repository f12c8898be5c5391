"""What the rows of benchmarks/retrieval.py say: Markdown tables, and the constants of `retrieval.check`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from _retrieval_scores import auc, auc_interval, interval, ranking

Row = Mapping[str, Any]
RANKING = ("recall@1", "recall@5", "recall@20", "nDCG@10", "MRR")
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""The model's share in reranking, tried on the rows."""


def tables(rows: Sequence[Row]) -> str:
    """Return every table that there are rows for."""
    makers: dict[str, Callable[[list[Row]], str]] = {
        "search": _search, "compress": _compress, "rerank": _rerank, "hyde": lambda of_part: _hyde(of_part, rows),
        "answers": _answers, "check": _check, "inject": _inject, "refuse": _refuse,
    }  # fmt: skip
    found = []
    for part, maker in makers.items():
        of_part = [row for row in rows if row["key"].startswith(f"{part}/")]
        if of_part:
            found.append(f"### {part}\n\n{maker(of_part)}")
    return "\n\n".join(found)


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *lines])


def _shown(values: Sequence[float]) -> str:
    mean, low, high = interval(values)
    return f"{mean:.3f} ({low:.2f}-{high:.2f})"


def _groups(rows: Sequence[Row], name: Callable[[Row], tuple[str, ...]]) -> dict[tuple[str, ...], list[Row]]:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(name(row), []).append(row)
    return groups


def _search(rows: list[Row]) -> str:
    groups = _groups(rows, lambda row: (row["set"], row["mode"]))
    lines = [
        [*name, str(len(group)), *(_shown([row[metric] for row in group]) for metric in RANKING)]
        for name, group in groups.items()
    ]
    return _markdown(["set", "search", "n", *RANKING], lines) + "\n\n" + _paired(rows)


def _paired(rows: list[Row]) -> str:
    """What hybrid gains over each of its sides, question by question."""
    gained = {(row["key"].split("/", 3)[1], row["key"].split("/", 3)[3], row["mode"]): row["nDCG@10"] for row in rows}
    lines = []
    for name in dict.fromkeys(row["set"] for row in rows):
        for side in ("bm25", "dense"):
            differences = [
                value - gained[where, question, side]
                for (where, question, mode), value in gained.items()
                if where == name and mode == "hybrid" and (where, question, side) in gained
            ]
            if differences:
                mean, low, high = interval(differences)
                lines.append([name, side, str(len(differences)), f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"])
    return _markdown(["set", "hybrid against", "n", "gain in nDCG@10"], lines)


def _rerank(rows: list[Row]) -> str:
    lines = []
    for name, group in _by_set(rows).items():
        for weight in WEIGHTS:
            scored = [ranking(_mixed(row, weight), row["relevant"]) for row in group]
            gains = [one["nDCG@10"] - ranking(row["found"], row["relevant"])["nDCG@10"]
                     for one, row in zip(scored, group, strict=True)]  # fmt: skip
            cells = [_shown([one[metric] for one in scored]) for metric in ("recall@1", "recall@5", "nDCG@10", "MRR")]
            lines.append([name, f"{weight:g}", str(len(group)), *cells, _gain(gains)])
    head = ["set", "model's share", "n", "recall@1", "recall@5", "nDCG@10", "MRR", "gain in nDCG@10"]
    return _markdown(head, lines)


def _compress(rows: list[Row]) -> str:
    lines = []
    for name, group in _by_set([row for row in rows if row["kept"]]).items():
        for budget in group[0]["kept"]:
            kept = [row["kept"][budget] for row in group]
            share = sum(one[2] for one in kept) / sum(row["tokens"] for row in group)
            cells = [_shown([float(one[place]) for one in kept]) for place in (0, 1)]
            lines.append([name, budget, str(len(group)), f"{share:.2f}", *cells])
    return _markdown(
        ["set", "tokens", "n", "share of the tokens", "compressed holds it", "first tokens hold it"], lines
    )


def _by_set(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each set, and of all together."""
    groups = {name: group for (name,), group in _groups(rows, lambda row: (row["set"],)).items()}
    return {**groups, "all": list(rows)} if len(groups) > 1 else groups


def _gain(differences: Sequence[float]) -> str:
    mean, low, high = interval(differences)
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"


def _mixed(row: Row, weight: float) -> list[str]:
    """Return the ids with those that the model judged in the order of the mixed scores, as `retrieval.rerank` does."""
    model: Mapping[str, float] = row["model"]
    head = row["found"][: len(model)]
    low, high = min(row["search"][: len(head)]), max(row["search"][: len(head)])
    searched = {
        identity: (score - low) / (high - low) if high > low else 0.0
        for identity, score in zip(head, row["search"], strict=False)
    }
    order = sorted(head, key=lambda identity: -(weight * model[identity] + (1 - weight) * searched[identity]))
    return [*order, *row["found"][len(head) :]]


def _hyde(rows: list[Row], searched: Sequence[Row]) -> str:
    """HyDE beside plain search, over the same questions."""
    plain = {row["key"].removeprefix("search/"): row for row in searched}
    lines = []
    for name, group in _by_set(rows).items():
        for mode in ("dense", "hybrid"):
            found = [row["modes"][mode] for row in group]
            cells = [_shown([one[metric] for one in found]) for metric in ("recall@1", "recall@5", "nDCG@10", "MRR")]
            keys = [f"{row['set']}/{mode}/{row['key'].split('/', 2)[2]}" for row in group]
            gains = [one["nDCG@10"] - plain[key]["nDCG@10"] for one, key in zip(found, keys, strict=True)
                     if key in plain]  # fmt: skip
            lines.append([name, f"HyDE, {mode}", str(len(group)), *cells, _gain(gains) if gains else "-"])
    head = ["set", "search", "n", "recall@1", "recall@5", "nDCG@10", "MRR", "gain in nDCG@10"]
    return _markdown(head, lines)


def _answers(rows: list[Row]) -> str:
    lines = []
    for (way,), group in _groups(rows, lambda row: (row["way"],)).items():
        refused = sum(not row["found"] for row in group) / len(group)
        cited = sum(bool(row["cited"]) for row in group) / len(group)
        scores = [_shown([row[metric] for row in group]) for metric in ("exact", "F1", "holds")]
        lines.append([way, str(len(group)), *scores, f"{refused:.2f}", f"{cited:.2f}"])
    return _markdown(["passages", "n", "exact match", "F1", "holds the answer", "refused", "cited"], lines)


def _inject(rows: list[Row]) -> str:
    lines = []
    for (fence,), group in _groups(rows, lambda row: (row["fence"],)).items():
        marked = [float(row["succeeded"]) for row in group if row["marked"]]
        succeeded = _shown(marked) if fence != "none" else "-"
        held = _shown([row["holds"] for row in group])
        lines.append(["no attack" if fence == "none" else fence, str(len(marked)), succeeded, str(len(group)), held])
    head = ["fence", "n with a mark", "attacks that succeeded", "n", "answers that hold the right one"]
    return _markdown(head, lines)


def _refuse(rows: list[Row]) -> str:
    lines = []
    for answerable in (False, True):
        refused = [float(not row["found"]) for row in rows if row["answerable"] is answerable]
        if refused:
            lines.append(["yes" if answerable else "no", str(len(refused)), _shown(refused)])
    return _markdown(["the paragraph holds the answer", "n", "not found"], lines)


TASKS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "supported, against an abstract that says nothing": (("SUPPORT",), ("NONE",)),
    "supported, against contradicted": (("SUPPORT",), ("CONTRADICT",)),
    "supported, against both": (("SUPPORT",), ("CONTRADICT", "NONE")),
}


def _check(rows: list[Row]) -> str:
    lines = []
    for title, (true, false) in TASKS.items():
        for split in ("test", "train"):
            group = [row for row in rows if row["split"] == split and row["label"] in (*true, *false)]
            labels = [row["label"] in true for row in group]
            if len(set(labels)) == 2:
                ours, words = ([row[score] for row in group] for score in ("supported", "overlap"))
                cells = ["{:.3f} ({:.2f}-{:.2f})".format(*auc_interval(labels, scores)) for scores in (ours, words)]
                cells.append("{:+.3f} ({:+.2f} to {:+.2f})".format(*auc_interval(labels, ours, words)))
                lines.append([title, split, f"{sum(labels)} + {len(labels) - sum(labels)}", *cells])
    return _markdown(["claim is", "split", "n", "AUC of retrieval.check", "AUC of word overlap", "gain"], lines)


FITS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "WITH_MEANING": (("coverage", "surprise", "cosine"), ("SUPPORT", "CONTRADICT"), ("NONE",)),
    "WORDS_ONLY": (("coverage", "surprise"), ("SUPPORT", "CONTRADICT"), ("NONE",)),
    "AGAINST": (("negated", "direction"), ("CONTRADICT",), ("SUPPORT",)),
}
"""Constants of `retrieval.check` to the signs they weigh, and the labels to tell apart."""


def fit(rows: Sequence[Row]) -> str:
    """Return logistic regressions over the training split, and what they come to on the test split."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    told = []
    for title, (signs, true, false) in FITS.items():
        group = [row for row in rows if row["key"].startswith("check/") and row["label"] in (*true, *false)]
        values = {
            split: np.array([[row["signs"][sign] for sign in signs] for row in group if row["split"] == split])
            for split in ("train", "test")
        }
        labels = {split: [row["label"] in true for row in group if row["split"] == split] for split in values}
        model = LogisticRegression(C=3, max_iter=1000).fit(values["train"], labels["train"])
        weights = ", ".join(f"{sign} {weight:.3f}" for sign, weight in zip(signs, model.coef_[0], strict=True))
        area = auc(labels["test"], model.decision_function(values["test"]).tolist())
        told.append(
            f"{title}: base {model.intercept_[0]:.3f}, {weights}; n={len(labels['train'])};"
            f" AUC on test {area:.3f}, n={len(labels['test'])}"
        )
    return "\n".join(told)
