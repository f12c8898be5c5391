"""What `gristmill runs` shows of kept records: a list, one of them, and what two differ in.

It reads records and writes none. Invariant: two records of the same data are compared row by row, two of different
data by their figures only, and it says which.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gristmill_plugins.evaluation._identity import differences
from gristmill_plugins.evaluation._leaning import Leaning
from gristmill_plugins.evaluation._print import shown_p
from gristmill_plugins.evaluation._records import read_scores
from gristmill_plugins.evaluation._statistics import difference_interval, paired_permutation


def list_rows(records: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return a line for each record: id, kind, data, and the first metric of each recipe."""
    rows: list[tuple[str, ...]] = []
    for record in records:
        told = [_told(record, name, one) for name, one in record["recipes"].items()]
        data = f"{Path(record['data']['path']).name} ({record['data']['rows']:,})"
        rows.append((record["id"], record["kind"], data, "; ".join(told)))
    return rows


def _told(record: Mapping[str, Any], name: str, one: Mapping[str, Any]) -> str:
    if record["kind"] == "batch":
        return f"{name} {one['failed']:,} failed"
    metric, figure = next(iter(one["metrics"].items()))
    return f"{name} {metric} {number(figure['value'])}"


def number(value: float | None) -> str:
    """Return a figure with three decimals, or a dash."""
    return "-" if value is None else f"{value:.3f}"


def show_lines(record: Mapping[str, Any]) -> list[str]:
    """Return a record as text: what was measured, with what, and what came out."""
    lines = [f"{record['kind']} {record['id']}, {record['at']}"]
    data = record["data"]
    lines.append(f"data: {data['path']}, {data['rows']:,} rows, SHA-256 {data['sha256']}")
    lines.append("versions: " + ", ".join(f"{name} {version}" for name, version in record["versions"].items()))
    for name, one in record["recipes"].items():
        identity = one["identity"]
        lines.append(f"\n{name}: {identity['recipe']['path']}, SHA-256 {identity['recipe']['sha256']}")
        for model, entry in identity["models"].items():
            files = ", ".join(f"{role} {digest}" for role, digest in entry.get("files", {}).items())
            lines.append(f"  model {model}: {entry.get('name', entry.get('provider'))} {files}".rstrip())
        for key, value in identity["overrides"].items():
            lines.append(f"  changed: {key}={value}")
        for metric, figure in one["metrics"].items():
            span = "" if figure["low"] is None else f" [{number(figure['low'])}, {number(figure['high'])}]"
            lines.append(f"  {metric}: {number(figure['value'])}{span}, n={figure['n']:,}")
        if found := one.get("leaning"):
            lines.append(f"  leans: {Leaning(**found)}")
        cost = one["cost"]
        lines.append(f"  {cost['calls']:,} calls, {cost['tokens_per_row']:,.0f} tokens a row, {cost['seconds']:.1f} s")
    if out := record.get("out"):
        lines.append(f"out: {out['path']}, {out['rows']:,} rows, {out['before']:,} of them before")
        lines.append(f"failed rows: {out['failed']:,}")
    lines += [f"failed: {condition}" for condition in record.get("failed_conditions", [])]
    return lines


def diff_lines(folder: Path, first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Return what differs between two records: versions, data, recipes, and then the figures."""
    lines = [f"{first['id']} ({first['kind']}, {first['at']})", f"{second['id']} ({second['kind']}, {second['at']})"]
    lines += _version_lines(first["versions"], second["versions"])
    same_data = first["data"]["sha256"] == second["data"]["sha256"] and first["data"]["rows"] == second["data"]["rows"]
    if not same_data:
        lines.append("the data differ: figures are compared as they are, not row by row")
    rows = (read_scores(folder, first["id"]), read_scores(folder, second["id"])) if same_data else ([], [])
    if all(rows) and not _are_same(*rows):
        lines.append("the rows differ, of the same data: figures are compared as they are, not row by row")
        rows = ([], [])
    for before, now in _matched(first["recipes"], second["recipes"]):
        old, new = first["recipes"][before], second["recipes"][now]
        lines.append(f"\n{before}" if before == now else f"\n{before} and {now}")
        lines += [f"  {told}" for told in differences(old["identity"], new["identity"])]
        lines.append("  " + _cost_line(old, new))
        for metric in old["metrics"]:
            if metric in new["metrics"]:
                lines.append("  " + _figure_line(metric, old, new, (before, now), rows))
    return lines


def _cost_line(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    costs = (old["cost"], new["cost"])
    tokens = " -> ".join(f"{cost['tokens_per_row']:,.0f}" for cost in costs)
    seconds = " -> ".join(f"{cost['seconds']:.1f}" for cost in costs)
    return f"tokens a row: {tokens}; seconds: {seconds}; failed rows: {old['failed']:,} -> {new['failed']:,}"


def _version_lines(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    return [
        f"{name}: {old.get(name, 'none')} -> {new.get(name, 'none')}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def _matched(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return which recipe to hold against which: those of one name, or the only two there are."""
    if len(first) == len(second) == 1:
        return [(next(iter(first)), next(iter(second)))]
    return [(name, name) for name in first if name in second]


def _figure_line(
    metric: str, old: Mapping[str, Any], new: Mapping[str, Any], names: tuple[str, str],
    rows: tuple[list[dict[str, Any]], list[dict[str, Any]]],
) -> str:  # fmt: skip
    was, now = old["metrics"][metric]["value"], new["metrics"][metric]["value"]
    line = f"{metric}: {number(was)} -> {number(now)}"
    gaps = _gaps(metric, names, rows)
    if gaps:
        interval = difference_interval(gaps)
        line += f", row by row {sum(gaps) / len(gaps):+.3f} {interval}, p={shown_p(paired_permutation(gaps))}"
    return line


def _are_same(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> bool:
    """Tell whether two records are of the same rows in the same order: of one file they may have chosen others."""
    digests = ([row.get("digest") for row in rows] for rows in (first, second))
    return len(first) == len(second) and all(a == b for a, b in zip(*digests, strict=True))


def _gaps(metric: str, names: tuple[str, str], rows: tuple[list[dict[str, Any]], list[dict[str, Any]]]) -> list[float]:
    gaps = []
    for before, now in zip(*rows, strict=False):
        a = before["scores"].get(names[0], {}).get(metric)
        b = now["scores"].get(names[1], {}).get(metric)
        if a is not None and b is not None:
            gaps.append(b - a)
    return gaps
