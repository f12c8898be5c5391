"""`gristmill adapters`: list, inspect, verify, convert, blend, merge and train LoRA adapters.

The work is elsewhere in this package; here its answers are printed. With `--json`, standard output holds one JSON
document; what is under way goes to standard error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from gristmill_plugins.adapters._inspect import AdapterInfo
    from gristmill_plugins.adapters._plan import TrainPlan
    from gristmill_plugins.adapters._train import TrainReport

app = typer.Typer(help="Inspect, convert, blend, merge and train LoRA adapters.", no_args_is_help=True)

AdapterArgument = Annotated[Path, typer.Argument(metavar="FILE", help="An adapter in GGUF.", show_default=False)]
PartsArgument = Annotated[
    list[str], typer.Argument(metavar="FILE[=WEIGHT]...", help="Adapters and their weights.", show_default=False)
]
BaseOption = Annotated[str, typer.Option("--base", metavar="MODEL", help="The base model: smollm2, or a GGUF file.")]
OutputOption = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
F16Option = Annotated[bool, typer.Option("--f16", help="Half the size; the rounding is below that of a 4-bit base.")]


@app.command("list")
def list_(
    folder: Annotated[Path, typer.Argument(help="A folder with adapter files.")] = Path(),
    as_json: JsonOption = False,
) -> None:
    """List the adapters in a folder."""
    from gristmill_plugins.adapters._inspect import list_adapters

    found = list_adapters(folder)
    if as_json:
        typer.echo(json.dumps([info.model_dump(mode="json") for info in found], ensure_ascii=False))
        return
    for info in found:
        if info.error:
            typer.echo(f"{Path(info.path).name}  unusable: {info.error}")
        else:
            typer.echo(f"{Path(info.path).name}  {_summary(info)}")
    if not found:
        typer.echo(f"no adapter in {folder}", err=True)


def _summary(info: AdapterInfo) -> str:
    ranks = "/".join(map(str, info.ranks))
    return f"{info.architecture}, rank {ranks}, {info.format}, {_size(info.size_bytes)}, sha256 {info.sha256[:12]}"


@app.command("inspect")
def inspect(file: AdapterArgument, as_json: JsonOption = False) -> None:
    """Say what an adapter file holds."""
    from gristmill_plugins.adapters._inspect import inspect_adapter

    info = inspect_adapter(file)
    if as_json:
        typer.echo(info.model_dump_json())
        return
    shown = {
        "file": f"{info.path} ({_size(info.size_bytes)})",
        "name": info.name or "none",
        "made for": f"{info.architecture}" + (f", {info.base}" if info.base else ""),
        "rank": "/".join(map(str, info.ranks)),
        "alpha": f"{info.alpha:g}" if info.alpha else "none: its change is not scaled",
        "changes": ", ".join(f"{count} {kind}" for kind, count in info.targets.items()),
        "numbers": f"{info.n_parameters:,} in {info.format}" + ("" if info.changes else "; its change is zero"),
        "sha256": info.sha256,
    }
    for key, value in shown.items():
        typer.echo(f"{key + ':':<10}{value}")


@app.command("verify")
def verify(file: AdapterArgument, base: BaseOption = "smollm2", as_json: JsonOption = False) -> None:
    """Say whether an adapter is sound and fits a base model; exit code 1 if not."""
    from gristmill_plugins.adapters._inspect import verify_adapter

    verdict = verify_adapter(file, base)
    typer.echo(verdict.model_dump_json() if as_json else verdict.reason)
    if not verdict.fits:
        if verdict.hint and not as_json:
            typer.echo(f"  {verdict.hint}")
        raise typer.Exit(1)


@app.command("convert")
def convert(
    folder: Annotated[Path, typer.Argument(help="What PEFT's save_pretrained wrote.", show_default=False)],
    output: OutputOption,
    base: BaseOption = "smollm2",
    f16: F16Option = False,
) -> None:
    """Convert a PEFT adapter (safetensors) to GGUF, without torch."""
    from gristmill_plugins.adapters._convert import convert_adapter

    info = convert_adapter(folder, base, output, type="F16" if f16 else "F32")
    typer.echo(f"{info.path}  {_summary(info)}")


@app.command("blend")
def blend(parts: PartsArgument, output: OutputOption, f16: F16Option = False) -> None:
    """Make one adapter whose change is the weighted sum of several; exact, its rank is their sum."""
    from gristmill_plugins.adapters._blend import blend_adapters, weights_of
    from gristmill_plugins.adapters._inspect import inspect_adapter

    path = blend_adapters(weights_of(parts), output, type="F16" if f16 else "F32")
    typer.echo(f"{path}  {_summary(inspect_adapter(path))}")


@app.command("merge")
def merge(
    parts: PartsArgument,
    output: OutputOption,
    base: BaseOption = "smollm2",
    to: Annotated[
        str | None, typer.Option("--to", metavar="FORMAT", help="By default the base's own, at least Q8_0.")
    ] = None,
) -> None:
    """Write a base model with adapters folded into its weights, and say what that changed."""
    from gristmill_plugins.adapters._blend import merge_adapters, weights_of
    from gristmill_plugins.adapters._compare import divergence

    weights = weights_of(parts)
    path = merge_adapters(base, weights, output, format=to)
    found = divergence(base, weights, str(path))
    typer.echo(f"{path}  {_size(path.stat().st_size)}")
    typer.echo(
        f"next to base and adapter apart: {found.mean_nats:.4f} nats a token, the same next token after "
        f"{found.n_same} of {found.n} prompts"
    )


@app.command("advise")
def advise(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A .csv or .jsonl file.", show_default=False)],
    prompt: Annotated[str, typer.Option(help="Made of each row.")] = "${prompt}",
    completion: Annotated[str, typer.Option(help="What is to be answered.")] = "${completion}",
    as_json: JsonOption = False,
) -> None:
    """Say whether prompting, retrieval or fine-tuning fits a task, from its examples."""
    from gristmill_plugins.adapters._advise import advise as advise_on
    from gristmill_plugins.adapters._examples import Columns, read_examples

    found = advise_on(read_examples(data, Columns(prompt, completion)))
    if as_json:
        typer.echo(found.model_dump_json())
        return
    typer.echo(found.way)
    for reason in found.reasons:
        typer.echo(f"  {reason}")


@app.command("train")
def train(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A .csv or .jsonl file.", show_default=False)],
    output: OutputOption,
    base: BaseOption = "smollm2",
    prompt: Annotated[str, typer.Option(help="Made of each row: ${column}.")] = "${prompt}",
    completion: Annotated[str, typer.Option(help="What is to be answered; the loss is on it alone.")] = "${completion}",
    text: Annotated[str | None, typer.Option(help="Instead of both: a text; the loss is on all of it.")] = None,
    system: Annotated[str | None, typer.Option(help="The system message of every example.")] = None,
    test: Annotated[Path | None, typer.Option(help="Measure on this file, not on the held-out part.")] = None,
    rank: Annotated[int, typer.Option(help="Of the factors.")] = 8,
    alpha: Annotated[float, typer.Option(help="The change is multiplied by alpha / rank.")] = 16.0,
    rslora: Annotated[bool, typer.Option(help="... by alpha / sqrt(rank): for high ranks.")] = False,
    dropout: Annotated[float, typer.Option(help="Of the factors' inputs.")] = 0.0,
    target: Annotated[list[str] | None, typer.Option(help="q_proj, ...; by default all seven.")] = None,
    layers: Annotated[int | None, typer.Option(help="Only the last so many: faster, less memory.")] = None,
    epochs: Annotated[float, typer.Option(help="Times through the data.")] = 3.0,
    batch: Annotated[int, typer.Option(help="Examples computed together.")] = 8,
    accumulate: Annotated[int, typer.Option(help="Batches a step.")] = 1,
    learning_rate: Annotated[float, typer.Option(help="The highest; then down a cosine.")] = 1e-3,
    warmup: Annotated[float, typer.Option(help="Share of the run in which it rises.")] = 0.05,
    max_tokens: Annotated[int, typer.Option(help="Longer examples are left out.")] = 512,
    holdout: Annotated[float, typer.Option(help="Share that is not trained on.")] = 0.1,
    patience: Annotated[int, typer.Option(help="Evaluations without a better loss before it stops.")] = 4,
    evaluations: Annotated[int, typer.Option(help="Of the loss on the held-out part.")] = 10,
    seed: Annotated[int, typer.Option(help="Of the split, the order and the factors.")] = 0,
    minutes: Annotated[float | None, typer.Option(help="Most time for training.")] = None,
    threads: Annotated[int | None, typer.Option(help="Of the processor.")] = None,
    precision: Annotated[str, typer.Option(help="auto, float32, bfloat16, or nf4 (QLoRA).")] = "auto",
    shots: Annotated[int, typer.Option(help="Examples in the prompt, for comparison.")] = 4,
    measure: Annotated[int, typer.Option(help="Held-out examples asked before and after; 0: none.")] = 300,
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw away what an earlier run of this output did.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and stop.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train an adapter on examples, convert it, and measure the model before and after.

    A run that was stopped goes on from its last checkpoint when the same command is given again.
    """
    import asyncio

    from gristmill_plugins.adapters._plan import ALL_LINEAR, TrainOptions
    from gristmill_plugins.adapters._train import prepare, train_adapter

    options = TrainOptions(
        prompt=prompt, completion=completion, text=text, system=system, rank=rank, alpha=alpha, rslora=rslora,
        dropout=dropout, targets=tuple(target or ALL_LINEAR), layers=layers, epochs=epochs, batch=batch,
        accumulate=accumulate, learning_rate=learning_rate, warmup=warmup, max_tokens=max_tokens, holdout=holdout,
        patience=patience, evaluations=evaluations, seed=seed, minutes=minutes, threads=threads, precision=precision,
        shots=shots, measure=measure,
    )  # fmt: skip
    if dry_run:
        plan = asyncio.run(prepare(base, data, output, options, test=test)).plan
        typer.echo(plan.model_dump_json() if as_json else _plan_text(plan))
        return
    with _progress() as (on_step, on_stage):
        report = train_adapter(
            base, data, output, options, test=test, restart=restart, on_step=on_step, on_stage=on_stage
        )
    typer.echo(report.model_dump_json() if as_json else _report_text(report))


@contextmanager
def _progress() -> Iterator[tuple[Callable[[int, int, float, float | None], None], Callable[[str], None]]]:
    """Show a bar on a terminal, and one line an evaluation elsewhere; both on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(file=sys.stderr)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        tasks: list[Any] = []

        def on_step(step: int, steps: int, loss: float, held_out: float | None) -> None:
            if not tasks:
                tasks.append(bar.add_task("", total=steps))
            bar.update(tasks[0], completed=step, description=f"loss {loss:.3f}")
            if held_out is not None:
                console.print(f"step {step} of {steps}: loss {loss:.3f}, held out {held_out:.3f}", highlight=False)

        yield on_step, lambda stage: console.print(stage, highlight=False)


def _plan_text(plan: TrainPlan) -> str:
    left_out = f", {plan.n_too_long} too long" if plan.n_too_long else ""
    labels = f"choosing among {len(plan.labels)} completions" if plan.labels else "writing the completion"
    rows = {
        "would write": plan.output,
        "base": f"{plan.base}, in {plan.precision} on {plan.device}",
        "examples": f"{plan.n_train:,} to train on, {plan.n_held_out:,} held out{left_out}",
        "tokens": f"{plan.mean_tokens:.0f} an example, {plan.longest_tokens} at most; the loss is on "
        f"{plan.n_loss_tokens / plan.n_train:.1f} an example",
        "task": f"{labels}, measured as that",
        "trains": f"{plan.trained_parameters:,} numbers for {plan.steps:,} steps",
        "memory": f"about {plan.memory_bytes / 1e9:.1f} GB",
    }
    if plan.resumes_at:
        rows["goes on"] = f"from step {plan.resumes_at}"
    return "\n".join(f"{key + ':':<13}{value}" for key, value in rows.items())


def _report_text(report: TrainReport) -> str:
    lines = [
        f"{report.path}  {_summary(report.adapter)}",
        f"{report.steps} steps in {report.seconds / 60:.1f} minutes, ended by {report.ended_by}; held-out loss "
        f"{report.loss_before:.3f} before, {report.loss_after:.3f} after step {report.best_step}; "
        f"peak memory {report.peak_bytes / 1e9:.1f} GB",
    ]
    for way in report.measured:
        test = "" if way.p_value is None else f", p {way.p_value:.2g}"
        share = f"{way.accuracy:.1%} ({way.low:.1%} to {way.high:.1%}{test})"
        lines.append(f"  {way.how:<14} {way.n_right} of {way.n} right: {share}")
    return "\n".join([*lines, f"curve, PEFT adapter and checkpoints: {report.folder}"])


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB" if size_bytes >= 100_000 else f"{size_bytes / 1e3:,.1f} kB"
