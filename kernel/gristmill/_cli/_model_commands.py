"""`gristmill model`: fetch, list, describe, convert and tune model files.

The llama plugin does the work; here its answers are printed. With `--json`, standard output holds one JSON document;
what is under way goes to standard error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gristmill.commands import JsonOption, print_table

model_app = typer.Typer(help="Fetch, inspect and convert model files.", no_args_is_help=True)

NameArgument = Annotated[
    str, typer.Argument(help="smollm2, a path, or hf:owner/repo/file.gguf", metavar="NAME", show_default=False)
]


def _llama() -> Any:
    """Return the llama plugin, whose methods the commands call."""
    from gristmill._kernel import Kernel

    return Kernel(cache=False).registry.plugin("llama").plugin


@model_app.command("pull")
def pull(
    name: Annotated[str, typer.Argument(help="hf:owner/repo/file.gguf", show_default=False)],
    sha256: Annotated[str | None, typer.Option(help="The digest that the file must have.")] = None,
) -> None:
    """Fetch a model file: resumed after a break, checked by its digest."""
    from gristmill._cli._live import download_progress
    from gristmill._errors import UsageError

    if not name.startswith("hf:"):
        raise UsageError(f"{name!r} is nothing to fetch", hint="write hf:owner/repo/file.gguf")
    with download_progress(name) as progress:
        path = _llama().pull_model(name, sha256=sha256, on_progress=progress)
    typer.echo(str(path))


@model_app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List the models on this machine: the bundled one and what was pulled."""
    rows: list[dict[str, Any]] = _llama().list_models()
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False))
        return
    cells = [
        (row["name"], row["architecture"], row["quantisation"], _megabytes(row["size_bytes"]), row["path"])
        if "error" not in row
        else (row["name"], "unusable:", "", "", row["error"])
        for row in rows
    ]
    print_table(("name", "architecture", "format", "size", "path"), cells, right=(3,))


@model_app.command("info")
def info(name: NameArgument, as_json: JsonOption = False) -> None:
    """Say what a model file holds, and how much memory it takes."""
    facts: dict[str, Any] = _llama().describe_model(name)
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False))
        return
    memory = f"{_megabytes(facts['memory_bytes'])} with a cache of {_megabytes(facts['cache_bytes'])}"
    types = ", ".join(f"{count} {kind}" for kind, count in facts["tensor_types"].items())
    trained = facts["trained_context_tokens"] or "not said"
    shown = {
        "name": f"{facts['name']} ({facts['title']})" if facts["title"] else facts["name"],
        "file": f"{facts['path']} ({_megabytes(facts['size_bytes'])})",
        "kind": f"{facts['kind']}, architecture {facts['architecture']}",
        "parameters": f"{facts['parameters']:,}",
        "format": f"{facts['quantisation']} (tensors: {types})",
        "context": f"{facts['default_context_tokens']} tokens by default, {trained} trained for",
        "vocabulary": f"{facts['vocabulary_tokens']:,} tokens, tokenizer {facts['tokenizer']}",
        "template": facts["template"],
        "memory": f"about {memory}",
        "sha256": facts["sha256"],
    }
    for key, value in shown.items():
        typer.echo(f"{key + ':':<12}{value}")


@model_app.command("quantize")
def quantize(
    name: NameArgument,
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help="Q8_0, Q4_0, Q4_K_M, F16, ...")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; by default MODEL.FORMAT.gguf here.")
    ] = None,
) -> None:
    """Write a model in another format; smaller loses quality, which `gristmill model tune` measures."""
    typer.echo(str(_llama().quantize_model(name, to=to, output=output)))


@model_app.command("tune")
def tune(
    name: NameArgument,
    text: Annotated[Path, typer.Option("--text", metavar="FILE", help="A text of the kind the model will read.")],
    format_: Annotated[
        list[str] | None, typer.Option("--format", metavar="FORMAT", help="A format to try; may be given again.")
    ] = None,
    max_loss: Annotated[
        float, typer.Option(min=0.0, help="Most divergence from the original, in nats a token, of the choice.")
    ] = 0.05,
    write: Annotated[Path | None, typer.Option("--write", metavar="FILE", help="Write the chosen format here.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure which format, threads and batch size run a model best on this machine, and what each format loses."""
    found: dict[str, Any] = _llama().tune_model(
        name,
        text=text,
        formats=format_,
        max_loss=max_loss,
        write=write,
        on_step=lambda step: print(step, file=sys.stderr, flush=True),
    )
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        _print_tuning(found)


def _print_tuning(found: dict[str, Any]) -> None:
    rates = ("prefill_per_s", "batched_per_s", "single_per_s")
    rows = [
        (
            row["format"] + (" (original)" if row["format"] == found["original"] else ""),
            _megabytes(row["size_bytes"]),
            *(f"{row[rate]:.0f}" for rate in rates),
            f"{row['perplexity']:.2f}",
            f"{row['kl_mean']:.4f}",
        )
        for row in found["rows"]
    ]
    print_table(("format", "size", "prompt/s", "16 together/s", "alone/s", "perplexity", "KL"), rows, right=range(1, 7))
    typer.echo()
    settings = [(str(s["threads"]), str(s["batch"]), *(f"{s[rate]:.0f}" for rate in rates)) for s in found["settings"]]
    headings = (f"{found['chosen']} with threads", "batch", "prompt/s", "16 together/s", "alone/s")
    print_table(headings, settings, right=range(5))
    typer.echo()
    limit = f"loses at most {found['max_loss']:g} nats a token over {found['n_scored']} tokens"
    typer.echo(f"{found['chosen']} is the fastest that {limit}")
    if found["written"]:
        typer.echo(f"wrote {found['written']}")
    elif found["chosen"] == found["original"]:
        typer.echo("the file is best as it is: nothing was written")


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.0f} MB"
