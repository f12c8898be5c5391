"""Writes a comparison as one HTML file: tables, pictures, examples; no script, no font, nothing from a network.

It shows a record and computes nothing new but the bars of reliability. Invariant: whatever a model or the data hold is
shown as text, never as markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from gristmill import UsageError
from gristmill_plugins.evaluation._compare import Point
from gristmill_plugins.evaluation._evaluate import Evaluated
from gristmill_plugins.evaluation._leaning import Leaning
from gristmill_plugins.evaluation._metrics import right
from gristmill_plugins.evaluation._print import shown_p
from gristmill_plugins.evaluation._set_metrics import reliability
from gristmill_plugins.evaluation._svg import differences_picture, front_picture, reliability_picture

STYLE = """
:root{color-scheme:light dark;--ink:#1d2329;--soft:#68727d;--line:#d5dadf;--accent:#0b7261;--paper:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#98a2ad;--line:#3a424a;--accent:#4fc3ae;--paper:#16191c}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:62rem;margin:2rem auto;
padding:0 1rem}h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{padding:.3rem .8rem .3rem 0;text-align:left;
border-bottom:1px solid var(--line);vertical-align:top}th{color:var(--soft);font-weight:500}.soft{color:var(--soft)}
.picture{max-width:40rem;width:100%;height:auto}.picture text{fill:var(--ink);font:12px system-ui,sans-serif}
.picture .tick,.picture .label{fill:var(--soft)}.grid{stroke:var(--line)}.bar{fill:var(--accent)}.diagonal,.zero{stroke:
var(--soft);stroke-dasharray:4 3}.front{fill:none;stroke:var(--accent);stroke-width:1.5}.whisker{stroke:var(--ink);
stroke-width:2}.dot{fill:var(--paper);stroke:var(--ink);stroke-width:2}.dot.on{fill:var(--accent);stroke:var(--accent)}
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:0;font:13px/1.4 ui-monospace,monospace}
"""
MOST_CHARS = 2_000
"""Of one text in an example: a report is read, not searched."""


def check_report(path: Path) -> None:
    """Find out before anything runs whether a report can be written, and take no other file for an old one.

    Raises:
        UsageError: it does not end in .html, or its folder is not there.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{path}: a report ends in .html", hint="so that no other file is written over")
    if not path.parent.is_dir() or path.is_dir():
        raise UsageError(f"{path}: the report cannot be written there", hint="name a file in a folder that exists")


def write_report(path: Path, record: Mapping[str, Any], evaluated: Sequence[Evaluated]) -> None:
    """Write the report.

    Raises:
        UsageError: the file cannot be written.
    """
    try:
        path.write_text(report(record, evaluated), encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UsageError(f"{path}: the report cannot be written: {error.strerror}") from error


def report(record: Mapping[str, Any], evaluated: Sequence[Evaluated]) -> str:
    """Return the report as HTML."""
    title = record["task"].get("name") or " and ".join(record["recipes"])
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{record["data"]["rows"]:,} rows of {escape(record["data"]["path"])}, {escape(record["at"])}, '
        f"record {escape(record['id'])}. Intervals are 95%.</p>",
        *_scores(record),
        *_differences(record),
        *_front(record, evaluated),
        *_reliability(evaluated),
        *_slices(record),
        *_examples(record),
        *_origin(record),
    ]
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
    size = '<meta name="viewport" content="width=device-width,initial-scale=1">'
    policy = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    return "\n".join([head, size, policy, f"<style>{STYLE}</style>", *parts, "</html>"]) + "\n"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in headings)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _figure(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "-"
    if figure["low"] is None:
        return f"{figure['value']:.3f}"
    return f'{figure["value"]:.3f} <span class="soft">[{figure["low"]:.3f}, {figure["high"]:.3f}]</span>'


def _scores(record: Mapping[str, Any]) -> list[str]:
    metrics = list(next(iter(record["recipes"].values()))["metrics"])
    rows = []
    for name, one in record["recipes"].items():
        cost = one["cost"]
        rows.append([
            escape(name), *(_figure(one["metrics"][metric]) for metric in metrics), f"{cost['tokens_per_row']:,.0f}",
            f"{cost['calls']:,}", f"{cost['seconds']:.1f}", f"{cost['rows_cached']:,}", f"{one['failed']:,}",
        ])  # fmt: skip
    headings = ["recipe", *metrics, "tokens of a row", "calls", "seconds", "rows from the cache", "failed"]
    leanings = [
        f"{name} leans: {Leaning(**one['leaning'])}" for name, one in record["recipes"].items() if one["leaning"]
    ]
    return ["<h2>Scores and cost</h2>", _table(headings, rows), *(f"<p>{escape(text)}</p>" for text in leanings)]


def _differences(record: Mapping[str, Any]) -> list[str]:
    found = record["differences"]
    if not found:
        return []
    rows = [
        [
            escape(f"{one['second']} - {one['first']}"), escape(one["metric"]),
            _figure({"value": one["value"], **one["interval"]}), f"{one['wins']} / {one['ties']} / {one['losses']}",
            escape(shown_p(one["p"])), escape(shown_p(one["p_holm"])), escape(one["test"]),
            escape(f"{one['better']} is better" if one["better"] else "no difference shown"),
        ]
        for one in found
    ]  # fmt: skip
    headings = ["difference", "metric", "value", "win / tie / loss", "p", "p (Holm)", "test", "verdict"]
    return ["<h2>Differences, row by row</h2>", _table(headings, rows), differences_picture(found)]


def _front(record: Mapping[str, Any], evaluated: Sequence[Evaluated]) -> list[str]:
    points = [Point(p["recipe"], p["tokens_per_row"], p["value"], p["front"]) for p in record["front"]]
    if len(points) < 2:
        return []
    metric = next(iter(evaluated[0].figures))
    note = '<p class="soft">Filled: no other recipe is better at the same cost.</p>'
    return ["<h2>Quality against cost</h2>", front_picture(points, metric), note]


def _reliability(evaluated: Sequence[Evaluated]) -> list[str]:
    parts = []
    for one in evaluated:
        known = [sample for sample in one.samples if sample.confidence is not None and sample.expected]
        if known:
            bars = reliability([sample.confidence or 0.0 for sample in known], right(known))
            parts += [f"<h2>Reliability of {escape(one.name)}</h2>", reliability_picture(bars)]
    return parts


def _slices(record: Mapping[str, Any]) -> list[str]:
    parts = []
    for name, one in record["recipes"].items():
        for column, values in one["slices"].items():
            metrics = list(one["metrics"])
            rows = [
                [escape(value), *(_figure(figures[m]) for m in metrics), str(max(f["n"] for f in figures.values()))]
                for value, figures in values.items()
            ]
            parts += [f"<h2>{escape(name)} by {escape(column)}</h2>", _table([column, *metrics, "n"], rows)]
    return parts


def _examples(record: Mapping[str, Any]) -> list[str]:
    parts = []
    for other, examples in record.get("examples", {}).items():
        if not examples:
            continue
        rows = []
        for example in examples:
            data = "\n".join(f"{key}: {_cut(str(value))}" for key, value in example["data"].items())
            answers = [f"{_pre(answer)}{example['scores'][name]:.2f}" for name, answer in example["answers"].items()]
            rows.append([str(example["row"]), _pre(data), _pre(" | ".join(example["expected"])), *answers])
        headings = ["row", "data", "expected", *examples[0]["answers"]]
        parts += [f"<h2>Where {escape(other)} differs most</h2>", _table(headings, rows)]
    return parts


def _pre(text: str | None) -> str:
    return f"<pre>{escape(_cut('(failed)' if text is None else text))}</pre>"


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARS else text[:MOST_CHARS] + "…"


def _origin(record: Mapping[str, Any]) -> list[str]:
    rows = [["data", f"<pre>{escape(record['data']['sha256'])}</pre>"]]
    for name, one in record["recipes"].items():
        identity = one["identity"]
        models = "\n".join(f"{model} {entry.get('files', {})}" for model, entry in identity["models"].items())
        rows.append([escape(name), _pre(f"{identity['recipe']['path']} {identity['recipe']['sha256']}\n{models}")])
    rows.append(["versions", _pre(", ".join(f"{name} {version}" for name, version in record["versions"].items()))])
    return ["<h2>What this was</h2>", _table(["", "SHA-256 and versions"], rows)]
