"""A PEFT LoRA folder to a GGUF adapter, with numpy alone.

It trains nothing and needs no torch: safetensors' own parser reads the weights. Invariants: what cannot be converted is
refused, all of it named at once, and nothing is left out silently; the adapter that is written passed `verify` against
the base it is for.

Two things differ between the formats. Llama-family GGUFs hold the rows of the query and key matrices in another order
(llama.cpp turns neighbouring pairs, transformers halves), so an adapter's B, whose rows are those, is reordered alike.
And GGUF has one alpha, divided by each pair's own rank: rank-stabilised scaling (alpha / sqrt(r), Kalajdzievski 2023)
and alphas or ranks that differ between layers are folded into alpha and B.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gristmill import FunctionError, UsageError
from gristmill_plugins.adapters._adapter import (
    EMBEDDING,
    NEEDS,
    Adapter,
    AdapterType,
    Pair,
    file_error,
    refuse_existing,
    write_adapter,
)
from gristmill_plugins.adapters._inspect import AdapterInfo, inspect_adapter, verify_adapter
from gristmill_plugins.adapters._llama import llama

if TYPE_CHECKING:
    from gristmill_plugins.adapters._adapter import Floats

PERMUTED = frozenset({"llama", "smollm3", "arcee", "granite"})
"""Architectures whose query and key rows GGUF holds in llama.cpp's order."""
PLAIN = frozenset({"qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3"})
"""Architectures whose matrices are the same in both formats."""
PREFIX = "base_model.model."
MOST_BYTES = 8 << 30
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(?:\.default)?(?:\.weight)?")
_BASE_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations that change the base's weights as well, so that their files fit no untouched base."""

_NOT_IN_GGUF = {
    "use_dora": "DoRA, whose magnitudes have no place in it",
    "use_qalora": "QA-LoRA, which pools its inputs",
    "lora_bias": "biases on its B factors",
    "modules_to_save": "whole modules beside the factors",
    "trainable_token_indices": "single retrained tokens",
    "target_parameters": "factors of bare parameters (experts)",
    "layer_replication": "layers that the base does not have",
    "alora_invocation_tokens": "an activated LoRA, which the engine does not follow",
    "megatron_config": "Megatron's parallel layers",
    "arrow_config": "routing between several adapters",
}
"""What a configuration may ask for that GGUF adapters do not have."""
_SAFE_KEYS = """
alpha_pattern auto_mapping base_model_name_or_path bias corda_config ensure_weight_tying eva_config exclude_modules
fan_in_fan_out inference_mode init_lora_weights layers_pattern layers_to_transform loftq_config lora_alpha lora_dropout
lora_ga_config megatron_core peft_type peft_version qalora_group_size r rank_pattern revision runtime_config
target_modules task_type use_rslora
"""
_HARMLESS = frozenset(_SAFE_KEYS.split())
"""Keys that say how an adapter was trained, or that are read elsewhere; any other that is set is refused, since PEFT
adds kinds of LoRA with each release."""


def convert_adapter(folder: Path, base: str, output: Path, *, type: AdapterType = "F32") -> AdapterInfo:
    """Write the GGUF adapter of a PEFT folder for a base model, and return what it is.

    Raises:
        ModelError: the folder holds no PEFT LoRA adapter, a damaged one, or one that does not fit the base.
        FunctionError: it holds something that GGUF adapters do not have; the text lists everything.
    """
    refuse_existing(output)
    config = read_config(folder / "adapter_config.json")
    header = llama().read_gguf(base)
    factors, other = _factors(read_safetensors(folder / "adapter_model.safetensors"))
    if problems := [*config_problems(config), *_tensor_problems(other), *_base_problems(header)]:
        raise _refused(folder, problems)
    names = _gguf_names(sorted({module for module, _ in factors}), header)
    if missing := [module for module, name in names.items() if name is None]:
        raise _refused(folder, [f"module {module!r} has no matrix of its own in {base}" for module in missing])
    adapter = _adapter(folder, config, factors, {module: name for module, name in names.items() if name}, header)
    write_adapter(adapter, output, type=type)
    verdict = verify_adapter(output, base)
    if not verdict.fits:
        output.unlink()
        raise file_error(folder, f"does not fit: {verdict.reason}", f"was it trained for {base}?")
    return inspect_adapter(output)


def _refused(folder: Path, problems: list[str]) -> FunctionError:
    shown = problems[:8] + ([f"and {len(problems) - 8} more"] if len(problems) > 8 else [])
    return FunctionError(
        f"{folder} cannot be converted: " + "; ".join(shown),
        hint="merge it into its base with PEFT's merge_and_unload, and convert the merged model",
    )


# Reading


def read_config(path: Path) -> dict[str, Any]:
    """Return adapter_config.json.

    Raises:
        ModelError: it is missing or no JSON object.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise file_error(
            path, "there is no such file", "give the folder that PEFT's save_pretrained wrote: it has this file"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise file_error(path, f"cannot be read as JSON: {error}") from error
    if not isinstance(config, dict):
        raise file_error(path, "holds no JSON object")
    return config


def read_safetensors(path: Path) -> dict[str, Floats]:
    """Return every tensor of a safetensors file as float32.

    Raises:
        ModelError: it is missing, damaged, too large for an adapter, or holds numbers of another type.
    """
    try:
        from safetensors import SafetensorError, deserialize
    except ImportError as error:
        raise UsageError("converting needs safetensors, which is not installed", hint=NEEDS) from error
    try:
        if path.stat().st_size > MOST_BYTES:
            raise file_error(path, f"has {path.stat().st_size:,} bytes, too many for an adapter")
        found = deserialize(path.read_bytes())  # type: ignore[no-untyped-call, unused-ignore]
    except FileNotFoundError as error:
        pickled = path.with_name("adapter_model.bin").exists()
        reason = "there is only adapter_model.bin, a pickle, which is never opened here" if pickled else "is missing"
        raise file_error(path, reason, "save it with safe_serialization=True") from error
    except (OSError, SafetensorError) as error:
        raise file_error(path, f"cannot be read: {error}", "copy or save it again") from error
    return {name: _floats(path, name, tensor) for name, tensor in found}


def _floats(path: Path, name: str, tensor: Mapping[str, Any]) -> Floats:
    import numpy as np

    kind, data = tensor["dtype"], tensor["data"]
    if kind == "BF16":
        values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    elif kind in ("F16", "F32", "F64"):
        values = np.frombuffer(data, f"<f{int(kind[1:]) // 8}").astype(np.float32)
    else:
        raise file_error(path, f"tensor {name!r} is of type {kind}; F32, F16 and BF16 are read")
    if not np.isfinite(values).all():
        raise file_error(path, f"tensor {name!r} holds values that are not finite numbers", "train it again")
    return values.reshape(tensor["shape"])


def _factors(tensors: Mapping[str, Floats]) -> tuple[dict[tuple[str, str], Floats], list[str]]:
    """Return the factors by (module, side), and the names of what is no factor."""
    factors, other = {}, []
    for name, values in tensors.items():
        match = _FACTOR.fullmatch(name.removeprefix(PREFIX))
        if match is None or values.ndim != 2:
            other.append(name)
        else:
            factors[match["module"], match["side"]] = values
    return factors, other


# What cannot be converted


def config_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield, in words, what a configuration asks for that GGUF adapters do not have."""
    if config.get("peft_type") != "LORA":
        yield f"its kind is {config.get('peft_type')!r}; only LORA has a GGUF form"
        return
    start = str(config.get("init_lora_weights", "")).lower()
    if start.startswith(_BASE_CHANGING):
        yield (
            f"it began as {start!r}, which changes the base's weights: save it with "
            "path_initial_model_for_weight_conversion"
        )
    for key, value in config.items():
        if value and key in _NOT_IN_GGUF:
            yield f"it has {_NOT_IN_GGUF[key]} ({key})"
        elif value and key not in _HARMLESS:
            yield f"it has {key!r}, whose meaning is not known here"
    if config.get("bias", "none") != "none":
        yield f"it has retrained biases (bias: {config['bias']!r})"
    for key in ("r", "lora_alpha"):
        value = config.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            yield f"{key!r} is {value!r}, not a number above 0"
    for key in ("rank_pattern", "alpha_pattern"):
        if not isinstance(config.get(key) or {}, dict):
            yield f"{key!r} is no mapping"


def _tensor_problems(other: list[str]) -> Iterator[str]:
    for name in other:
        kind = "a DoRA magnitude" if "lora_magnitude_vector" in name else "no LoRA factor"
        yield f"tensor {name!r} is {kind}"


def _base_problems(header: Mapping[str, Any]) -> Iterator[str]:
    architecture = header["architecture"]
    if architecture not in PERMUTED | PLAIN:
        known = ", ".join(sorted(PERMUTED | PLAIN))
        yield f"how {architecture!r} arranges its matrices is not known here (known: {known})"


def _gguf_names(modules: list[str], header: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the tensor of the base that each module's matrix is; None where it has none."""
    from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map

    architecture = header["architecture"]
    kind = next(arch for arch in MODEL_ARCH if MODEL_ARCH_NAMES[arch] == architecture)
    names = get_tensor_name_map(kind, int(header["metadata"].get(f"{architecture}.block_count", 0)))
    there = {tensor["name"] for tensor in header["tensors"]}
    found = {}
    for module in modules:
        name = names.get_name(module)
        found[module] = f"{name}.weight" if name and f"{name}.weight" in there else None
    return found


# Converting


def _adapter(
    folder: Path,
    config: Mapping[str, Any],
    factors: Mapping[tuple[str, str], Floats],
    names: Mapping[str, str],
    header: Mapping[str, Any],
) -> Adapter:
    import numpy as np

    pairs, strengths = {}, {}
    for module, name in names.items():
        a, b = factors.get((module, "A")), factors.get((module, "B"))
        if a is None or b is None:
            raise file_error(folder, f"module {module!r} has lora_{'B' if a is None else 'A'} alone", "save it again")
        if name == EMBEDDING:  # PEFT: A is (rank, tokens), B (width, rank); as a change of (tokens, width): A' B'
            a, b = b.T, a.T
        if a.shape[0] != b.shape[1]:
            raise file_error(folder, f"module {module!r}: lora_A has rank {a.shape[0]} and lora_B {b.shape[1]}")
        pairs[name] = Pair(a, permuted(b, _heads(name, header)))
        strengths[name] = scaling(config, module, a.shape[0]) * a.shape[0]
    # One alpha for the file: the most frequent; what differs goes into B.
    alpha = Counter(strengths.values()).most_common(1)[0][0]
    for name, strength in strengths.items():
        if strength != alpha:
            pairs[name] = Pair(pairs[name].a, (pairs[name].b * np.float32(strength / alpha)).astype(np.float32))
    base = str(header["metadata"].get("general.name", ""))
    return Adapter(
        header["architecture"],
        pairs,
        alpha,
        name=folder.name,
        facts={"general.base_model.0.name": base} if base else {},
    )


def scaling(config: Mapping[str, Any], module: str, rank: int) -> float:
    """Return what PEFT multiplies `b @ a` of a module with: alpha / r, or alpha / sqrt(r) where rank-stabilised."""
    alpha = float(_by_pattern(config.get("alpha_pattern") or {}, module, config["lora_alpha"]))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _by_pattern(patterns: Mapping[str, Any], module: str, default: float) -> float:
    """Return the value of the first pattern that a module's name ends with, as PEFT matches them."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return float(value)
    return default


def _heads(name: str, header: Mapping[str, Any]) -> int | None:
    """Return how many heads' rows are in another order in this tensor of the base; None where none are."""
    architecture, metadata = header["architecture"], header["metadata"]
    kind = name.split(".")[2] if name.startswith("blk.") else ""
    if architecture not in PERMUTED or kind not in ("attn_q", "attn_k"):
        return None
    heads = metadata[f"{architecture}.attention.head_count"]
    count = heads if kind == "attn_q" else metadata.get(f"{architecture}.attention.head_count_kv", heads)
    return int(count[int(name.split(".")[1])] if isinstance(count, tuple) else count)


def permuted(rows: Floats, n_heads: int | None) -> Floats:
    """Return rows in llama.cpp's order: within each head, the two halves interleaved (0, n/2, 1, n/2 + 1, ...)."""
    if n_heads is None:
        return rows
    halves = rows.reshape(n_heads, 2, rows.shape[0] // n_heads // 2, rows.shape[1])
    return halves.swapaxes(1, 2).reshape(rows.shape)
