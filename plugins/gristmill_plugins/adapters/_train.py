"""A training run from data to a measured GGUF adapter.

The parts are elsewhere: rows (`_examples`), ids (`_tokens`), sizes (`_plan`), the loop (`_loop`), the format
(`_convert`), answers (`_measure`). Invariants: a run leaves one adapter under its name, or none; everything else it
makes is in the folder beside it, from which it goes on when it was stopped.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gristmill import FunctionError, UsageError, Value
from gristmill_plugins.adapters._adapter import refuse_existing
from gristmill_plugins.adapters._convert import convert_adapter
from gristmill_plugins.adapters._curve import Curve
from gristmill_plugins.adapters._examples import Columns, Example, labels_of, pick_shots, read_examples, split
from gristmill_plugins.adapters._inspect import AdapterInfo
from gristmill_plugins.adapters._llama import llama
from gristmill_plugins.adapters._measure import Measured, answers, as_measured, right
from gristmill_plugins.adapters._plan import (
    TrainOptions,
    TrainPlan,
    check_options,
    free_bytes,
    layer_numbers,
    longest_of,
    memory_bytes,
    n_steps,
    plan_key,
    trained_shapes,
)
from gristmill_plugins.adapters._tokens import Sequenced, encode_chats, encode_texts, end_tokens

if TYPE_CHECKING:
    from gristmill import Model

OnStep = Callable[[int, int, float, float | None], None]


class TrainReport(Value):
    """What came out of a training run."""

    text_field = "path"

    path: str
    adapter: AdapterInfo
    folder: str
    """Loss curve, PEFT adapter, checkpoints."""
    steps: int
    best_step: int
    """After which the loss on the held-out part was lowest; the adapter is from there."""
    ended_by: str
    seconds: float
    loss_before: float
    """On the held-out part, nats a token."""
    loss_after: float
    peak_bytes: int
    measured: tuple[Measured, ...] = ()


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that a run needs, before anything heavy is loaded."""

    plan: TrainPlan
    header: dict[str, Any]
    train: list[Sequenced]
    held: list[Sequenced]
    shown: list[Example]
    """Training examples, as text."""
    asked: list[Example]
    """Held-out examples that are asked before and after."""


def folder_of(output: Path) -> Path:
    """Return the folder of a run's own files, beside its output."""
    return output.with_name(f"{output.name}.train")


async def prepare(base: str, data: Path, output: Path, options: TrainOptions, *, test: Path | None = None) -> Prepared:
    """Read, split and tokenise the examples, and estimate what training takes.

    Raises:
        UsageError: an option means nothing, or the base or the data does not fit the options.
        FunctionError: the data cannot be read, or no example is short enough.
        ModelError: the base cannot be used.
    """
    check_options(options)
    if not _was_not_measured(output):
        refuse_existing(output)
    header = llama().read_gguf(base)
    columns = Columns(options.prompt, options.completion, options.text)
    shown, held_out = split(read_examples(data, columns), options.holdout, options.seed)
    tests = held_out if test is None else read_examples(test, columns)
    train, held = await _encode(base, header, shown, held_out, options)
    fits = [one for one in train if len(one.ids) <= options.max_tokens]
    held = [one for one in held if len(one.ids) <= options.max_tokens]
    if not fits or not held:
        raise FunctionError(f"no example has {options.max_tokens} tokens or fewer", hint="raise max_tokens")
    from gristmill_plugins.adapters._base import device_and_precision

    device, precision = device_and_precision(options.precision)
    longest, longest_loss = longest_of(fits)
    plan = TrainPlan(
        base=base,
        output=str(output),
        n_train=len(fits),
        n_held_out=len(held),
        n_too_long=len(train) - len(fits),
        longest_tokens=longest,
        mean_tokens=sum(len(one.ids) for one in fits) / len(fits),
        n_loss_tokens=sum(len(one.ids) - one.start for one in fits),
        steps=n_steps(len(fits), options),
        trained_parameters=options.rank * sum(map(sum, trained_shapes(header, options))),
        memory_bytes=memory_bytes(header, options, longest=longest, longest_loss=longest_loss, precision=precision),
        device=device,
        precision=precision,
        labels=labels_of(shown),
        key=plan_key(options, header["sha256"], [data] if test is None else [data, test]),
        resumes_at=_resumes_at(folder_of(output)),
    )
    asked = tests[: options.measure] if options.text is None else []
    return Prepared(plan, header, fits, held, shown, asked)


def _was_not_measured(output: Path) -> bool:
    """Return whether a run wrote its adapter and was stopped before its report, so that it may write it again."""
    folder = folder_of(output)
    return output.exists() and (folder / "plan.json").exists() and not (folder / "report.json").exists()


def _resumes_at(folder: Path) -> int:
    from gristmill_plugins.adapters._loop import checkpoint_step, checkpoints

    found = checkpoints(folder)
    return checkpoint_step(found[-1]) if found else 0


async def _encode(
    base: str, header: dict[str, Any], shown: Sequence[Example], held: Sequence[Example], options: TrainOptions
) -> tuple[list[Sequenced], list[Sequenced]]:
    ends = end_tokens(header)
    if not ends:
        raise FunctionError(f"{base} names no token that ends a text")
    if options.text is not None:
        from gristmill_plugins.adapters._base import require_extra

        require_extra()
        path, end = Path(header["path"]), header["metadata"].get("tokenizer.ggml.eos_token_id", min(ends))
        train, rest = (encode_texts(path, part, end=end, most=options.max_tokens) for part in (shown, held))
        return train, rest
    model = llama().llama(model=base, context_tokens=max(512, 2 * options.max_tokens), threads=options.threads)
    try:
        found = await encode_chats(model, [*shown, *held], system=options.system, ends=ends)
    finally:
        await model.close()
    return found[: len(shown)], found[len(shown) :]


def train_adapter(
    base: str,
    data: Path,
    output: Path,
    options: TrainOptions,
    *,
    test: Path | None = None,
    restart: bool = False,
    on_step: OnStep = lambda *_: None,
    on_stage: Callable[[str], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> TrainReport:
    """Train an adapter, convert it to GGUF, and measure the model with and without it.

    Raises:
        UsageError: an option means nothing, the extra is not installed, or there is another run's folder.
        FunctionError: the data cannot be used, or memory is short.
        ModelError: the base cannot be used.
    """
    from gristmill_plugins.adapters._base import require_extra

    require_extra()
    on_stage("reading and tokenising the examples")
    ready = asyncio.run(prepare(base, data, output, options, test=test))
    _check_memory(ready.plan)
    folder = _open_folder(folder_of(output), ready.plan, restart=restart)
    report = _fit(ready, options, folder, on_step, on_stage, cancelled)
    on_stage("converting to GGUF")
    if _was_not_measured(output):
        output.unlink()
    info = convert_adapter(folder / "peft", base, output)
    if ready.asked:
        on_stage(f"asking {len(ready.asked)} held-out examples: as it was, with examples, with the adapter")
    measured = asyncio.run(before_and_after(base, output, ready, options)) if ready.asked else ()
    done = TrainReport(path=str(output), adapter=info, folder=str(folder), measured=measured, **report)
    (folder / "report.json").write_text(done.model_dump_json(indent=2), encoding="utf-8")
    return done


def _check_memory(plan: TrainPlan) -> None:
    free = free_bytes()
    if plan.device == "cpu" and free is not None and plan.memory_bytes > free:
        raise FunctionError(
            f"training takes about {plan.memory_bytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are free",
            hint="take a smaller batch with accumulate, fewer layers, or a lower max_tokens",
        )


def _open_folder(folder: Path, plan: TrainPlan, *, restart: bool) -> Path:
    """Return the folder of this run, which may hold what it has done so far."""
    named = folder / "plan.json"
    if folder.exists() and restart:
        shutil.rmtree(folder)
    if folder.exists():
        try:
            known = json.loads(named.read_text(encoding="utf-8")).get("key")
        except (OSError, ValueError, AttributeError):
            known = None
        if known != plan.key:
            raise UsageError(
                f"{folder} holds a run with other options, data or base",
                hint="start anew with restart, or name another output",
            )
    folder.mkdir(exist_ok=True)
    named.write_text(plan.model_dump_json(indent=2), encoding="utf-8")
    return folder


def _fit(
    ready: Prepared,
    options: TrainOptions,
    folder: Path,
    on_step: OnStep,
    on_stage: Callable[[str], None],
    cancelled: Callable[[], bool],
) -> dict[str, Any]:
    from gristmill_plugins.adapters._base import load_base
    from gristmill_plugins.adapters._loop import Loop

    on_stage("loading the base")
    plan = ready.plan
    layers = layer_numbers(ready.header, options)
    path = Path(ready.header["path"])
    model = load_base(path, options, device=plan.device, precision=plan.precision, layers=layers)
    curve = Curve(folder / "loss.jsonl")
    loop = Loop(model, ready.train, ready.held, options, folder, curve, on_step, cancelled)
    on_stage(f"training {plan.trained_parameters:,} numbers for up to {plan.steps} steps")
    end = loop.run()
    if end == "cancelled":
        raise FunctionError(f"stopped after step {loop.progress.step}", hint="the same call goes on from there")
    curve.draw(folder / "loss.svg", f"{Path(plan.output).name}: {plan.n_train:,} examples")
    model.save_pretrained(str(folder / "peft"), save_embedding_layers=False)
    now = loop.progress
    return {
        "steps": now.step, "best_step": now.best_step, "ended_by": end, "seconds": now.elapsed_s,
        "loss_before": now.first_loss, "loss_after": now.best_loss, "peak_bytes": _peak_bytes(),
    }  # fmt: skip


def _peak_bytes() -> int:
    """Return the most memory that this process has held."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


async def before_and_after(base: str, adapter: Path, ready: Prepared, options: TrainOptions) -> tuple[Measured, ...]:
    """Return how often the base is right with nothing, with examples in the prompt, and with the adapter."""
    model: Model = llama().llama(model=base, adapters={"trained": str(adapter)}, threads=options.threads)
    shots = pick_shots(ready.shown, options.shots, options.seed)
    ways: list[tuple[str, list[Example], dict[str, float]]] = [("zero-shot", [], {})]
    if shots:
        ways.append((f"few-shot ({len(shots)})", shots, {}))
    ways.append(("trained", [], {"trained": 1.0}))
    found: list[Measured] = []
    first: list[bool] | None = None
    try:
        for how, shown, adapters in ways:
            told = await answers(
                model, ready.asked, system=options.system, labels=ready.plan.labels, shots=shown, adapters=adapters
            )
            hits = right(told, ready.asked)
            found.append(as_measured(how, hits, first))
            first = first or hits
    finally:
        await model.close()
    return tuple(found)
