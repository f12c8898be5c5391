"""What a training run will do: its options, its size in steps and memory, and what it is known by.

It loads no weights and imports no torch. Invariant: two runs with the same key train on the same examples, in the same
order, from the same base; only such runs resume one another.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gristmill import UsageError, Value
from gristmill_plugins.adapters._tokens import Sequenced

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RUNTIME_BYTES = 450_000_000
"""What torch, transformers and peft take by themselves (measured: 430 MB on Linux)."""


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How to train; the defaults suit a small model and a few thousand rows."""

    prompt: str = "${prompt}"
    completion: str = "${completion}"
    text: str | None = None
    system: str | None = None
    rank: int = 8
    alpha: float = 16.0
    rslora: bool = False
    dropout: float = 0.0
    targets: tuple[str, ...] = ALL_LINEAR
    layers: int | None = None
    """Train the last so many layers; None: all."""
    epochs: float = 3.0
    batch: int = 8
    accumulate: int = 1
    learning_rate: float = 1e-3
    warmup: float = 0.05
    """Share of the run."""
    max_tokens: int = 512
    holdout: float = 0.1
    patience: int = 4
    """Evaluations without a better loss on the held-out part, after which it stops; 0: never."""
    evaluations: int = 10
    checkpoint_every: int = 25
    seed: int = 0
    minutes: float | None = None
    """The learning rate reaches its end by then."""
    threads: int | None = None
    """Of the processor; None: all. On a busy machine one may be fastest: threads that wait for each other spin."""
    precision: str = "auto"
    """float32, bfloat16, or nf4 (QLoRA); auto: bfloat16 where the processor multiplies it, else float32."""
    shots: int = 4
    measure: int = 300
    """Held-out examples that are asked before and after; 0: none."""


class TrainPlan(Value):
    """What a dry run says."""

    base: str
    output: str
    n_train: int
    n_held_out: int
    n_too_long: int
    """Examples longer than max_tokens, which are left out."""
    longest_tokens: int
    mean_tokens: float
    n_loss_tokens: int
    """Tokens of one epoch that the loss falls on."""
    steps: int
    trained_parameters: int
    memory_bytes: int
    """Estimated peak."""
    device: str
    precision: str
    labels: tuple[str, ...] = ()
    """The closed list of completions, where the task is choosing."""
    key: str = ""
    resumes_at: int = 0
    """The step of the checkpoint that is there already."""


def check_options(options: TrainOptions) -> None:
    """Raise a UsageError for a value that means nothing."""
    for name, good, wanted in (
        ("rank", 1 <= options.rank <= 1024, "from 1 to 1024"),
        ("alpha", 0 < options.alpha <= 1e4, "above 0"),
        ("dropout", 0 <= options.dropout < 1, "from 0 to below 1"),
        ("epochs", 0 < options.epochs <= 1000, "above 0"),
        ("batch", 1 <= options.batch <= 4096, "1 or more"),
        ("accumulate", 1 <= options.accumulate <= 4096, "1 or more"),
        ("learning_rate", 0 < options.learning_rate < 1, "between 0 and 1"),
        ("warmup", 0 <= options.warmup < 1, "from 0 to below 1"),
        ("max_tokens", 8 <= options.max_tokens <= 1 << 20, "8 or more"),
        ("holdout", 0 < options.holdout < 1, "between 0 and 1"),
        ("minutes", options.minutes is None or options.minutes > 0, "above 0"),
        ("threads", options.threads is None or 1 <= options.threads <= 1024, "1 or more"),
        ("layers", options.layers is None or options.layers > 0, "1 or more"),
    ):
        if not good:
            raise UsageError(f"{name} is {getattr(options, name)!r}; it must be {wanted}")
    if options.precision not in ("auto", "float32", "bfloat16", "nf4"):
        raise UsageError(f"precision {options.precision!r} is none", hint="auto, float32, bfloat16 or nf4")


def plan_key(options: TrainOptions, base_sha256: str, data: Sequence[Path]) -> str:
    """Return what tells this run from another: its options, its base and the bytes of its data."""
    facts: dict[str, Any] = {"options": asdict(options), "base": base_sha256}
    facts["data"] = [hashlib.sha256(path.read_bytes()).hexdigest() for path in data]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def n_steps(n_train: int, options: TrainOptions) -> int:
    """Return how many times the weights will change."""
    per_epoch = math.ceil(n_train / options.batch) / options.accumulate
    return max(1, math.ceil(per_epoch * options.epochs))


def layer_numbers(header: Mapping[str, Any], options: TrainOptions) -> list[int]:
    """Return the layers that get factors."""
    count = int(header["metadata"].get(f"{header['architecture']}.block_count", 0))
    return list(range(count))[-options.layers if options.layers else 0 :]


def trained_shapes(header: Mapping[str, Any], options: TrainOptions) -> list[tuple[int, int]]:
    """Return (inputs, outputs) of every matrix that gets factors.

    Raises:
        UsageError: the base has no matrix for one of the targets.
    """
    from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map

    layers = layer_numbers(header, options)
    kind = next((arch for arch in MODEL_ARCH if MODEL_ARCH_NAMES[arch] == header["architecture"]), MODEL_ARCH.LLAMA)
    names = get_tensor_name_map(kind, max(layers, default=0) + 1)
    shapes = {tensor["name"]: tensor["shape"] for tensor in header["tensors"]}
    found = []
    for target in options.targets:
        there = [
            shapes[f"{name}.weight"]
            for layer in layers
            for part in ("self_attn", "mlp")
            if (name := names.get_name(f"model.layers.{layer}.{part}.{target}")) and f"{name}.weight" in shapes
        ]
        if not there:
            raise UsageError(f"the base has no matrix for the target {target!r}", hint=f"{', '.join(ALL_LINEAR)}")
        found += [(shape[0], shape[1]) for shape in there]
    return found


def memory_bytes(
    header: Mapping[str, Any], options: TrainOptions, *, longest: int, longest_loss: int, precision: str
) -> int:
    """Estimate a run's peak: weights (twice while they load), factors with Adam's state, activations, logits.

    The activations' coefficients are fitted to measurements of SmolLM2-135M with transformers 5.23.
    """
    metadata, architecture = header["metadata"], header["architecture"]
    n_weights = sum(math.prod(tensor["shape"]) for tensor in header["tensors"])
    width = int(metadata.get(f"{architecture}.embedding_length", 0))
    inner = metadata.get(f"{architecture}.feed_forward_length", 4 * width)
    inner = max(inner) if isinstance(inner, tuple) else int(inner)
    vocabulary = len(metadata.get("tokenizer.ggml.tokens", ()))
    per_weight = {"float32": 4.0, "bfloat16": 2.0, "nf4": 0.6}[precision]
    factors = 16 * options.rank * sum(map(sum, trained_shapes(header, options)))
    layers = len(layer_numbers(header, options))
    activations = 4 * (18 * width + 13 * inner) * layers * longest * options.batch
    logits = 12 * vocabulary * longest_loss * options.batch
    loading = n_weights * (4 + per_weight)
    return int(RUNTIME_BYTES + max(loading, n_weights * per_weight + factors + activations + logits))


def free_bytes() -> int | None:
    """Return the memory that this machine has free, where the system says (Linux)."""
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def longest_of(sequences: Sequence[Sequenced]) -> tuple[int, int]:
    """Return the most tokens, and the most tokens with a loss, of one example."""
    return max(len(one.ids) for one in sequences), max(len(one.ids) - one.start for one in sequences)
