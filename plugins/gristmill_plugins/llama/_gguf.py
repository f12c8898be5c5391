"""Decide whether a GGUF model or adapter may be handed to llama.cpp.

llama.cpp aborts the whole process on some files and answers silently wrong with others; here every such file known
is refused first, with its name, the reason and the next step. It does not load models and does not say how well they
answer. Invariants: nothing native sees the file; a file that passes was seen in exactly the state that its digest,
remembered with the verdict, stands for. What llama.cpp itself refuses cleanly may be left to it, and so is what only
the code of a rare architecture asserts: the engine's process takes that.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gristmill import suggest
from gristmill_plugins.llama._ggml import (
    ARCHITECTURES,
    MAX_EXPERTS,
    MAX_LAYERS,
    MIXTURES,
    NO_WEIGHT_TYPES,
    PLAIN_DECODERS,
    RECURRENT,
    ROPE_SCALINGS,
    SECTIONED_ROPE,
)
from gristmill_plugins.llama._gguf_reader import GGUFHeader, TensorInfo, read_header
from gristmill_plugins.llama._store import file_error, hash_file, recall, remember
from gristmill_plugins.llama._vocabulary import vocabulary_problems
from gristmill_plugins.llama._weights import SCAN_VERSION, weight_problems

__all__ = ["GGUFHeader", "TensorInfo", "check_adapter", "check_model", "read_header"]

MAX_WIDTH = 1 << 20
MAX_CONTEXT = 1 << 28
_MOST_SHOWN = 6
_SCALES = (
    *("rope.scaling.alpha", "rope.scaling.yarn_log_multiplier", "attention.scale", "attention.max_alibi_bias"),
    *("attention.clamp_kqv", "logit_scale", "embedding_scale", "residual_scale", "attn_logit_softcapping"),
    "final_logit_softcapping",
)
"""Numbers that everything is multiplied with or cut off at: an absurd one makes every answer a NaN."""


def check_model(path: str | Path) -> GGUFHeader:
    """Return the header of a model that is safe to load; the weights are read once per state of the file.

    Raises:
        ModelError: it is not a complete model file, or llama.cpp would abort on it or answer nonsense.
    """
    header = read_header(path)
    _refuse(header, _kind_problems(header), "give a language model here")
    _refuse(header, _model_problems(header), "download the file again, or convert the model again")
    _refuse(header, _remembered_weight_problems(header), "its weights are damaged: download or convert it again")
    return header


def check_adapter(path: str | Path, base: GGUFHeader) -> GGUFHeader:
    """Return the header of a LoRA adapter that fits the base model. Anything unusual is refused.

    llama.cpp dies of most damaged adapters, when they load or at the first token (18 of 24 tried: SIGSEGV).

    Raises:
        ModelError: it is not an adapter, or does not fit; the text lists everything that is wrong.
    """
    header = read_header(path)
    _refuse(header, _adapter_kind_problems(header, base), "give a LoRA adapter converted for this base model")
    hint = f"was it trained for {base.path.name}? convert it again: gristmill adapters convert"
    _refuse(header, [*_adapter_problems(header, base), *_remembered_weight_problems(header)], hint)
    return header


def _refuse(header: GGUFHeader, problems: Iterable[str], hint: str) -> None:
    found = list(dict.fromkeys(itertools.islice(problems, 1000)))  # both matrices of a pair may have one fault
    if not found:
        return
    shown = found[:_MOST_SHOWN]
    if more := len(found) - len(shown):
        shown.append(f"and {more} more")
    raise file_error(header.path, "; ".join(shown), hint=hint)


def _remembered_weight_problems(header: GGUFHeader) -> list[str]:
    facts = recall(header.identity)
    known = facts.get("weight_problems")
    if facts.get("scan_version") == SCAN_VERSION and isinstance(known, list) and isinstance(facts.get("sha256"), str):
        return [str(problem) for problem in known]
    # The digest costs as much as the scan and is needed as well: hashing leaves the interpreter free.
    with ThreadPoolExecutor(1) as pool:
        hashing = pool.submit(hash_file, header.path, header.identity)
        try:
            problems = weight_problems(header)
        except OSError as error:
            raise file_error(header.path, f"cannot be read: {error.strerror}", hint="try again") from error
        digest = hashing.result()
    remember(header.identity, {"sha256": digest, "scan_version": SCAN_VERSION, "weight_problems": problems})
    return problems


def _kind_problems(header: GGUFHeader) -> Iterator[str]:
    metadata, architecture = header.metadata, header.architecture
    if metadata.get("general.type") == "adapter":
        yield "it is an adapter, not a model: list it under the model's 'adapters'"
    elif architecture == "clip" or metadata.get("general.type") == "mmproj":
        yield f"it is an image encoder ({architecture}), not a language model"
    elif architecture not in ARCHITECTURES:
        yield f"its architecture {architecture!r} is not one llama.cpp has; {suggest(architecture, ARCHITECTURES)}"
    elif metadata.get("split.count", 1) not in (0, 1):
        yield (
            f"it is one part of {metadata['split.count']}: join them with llama.cpp's "
            "llama-gguf-split --merge FIRST-PART OUT.gguf"
        )


def _model_problems(header: GGUFHeader) -> Iterator[str]:
    sizes = [*_size_problems(header), *_rope_problems(header), *_expert_problems(header)]
    yield from sizes
    yield from vocabulary_problems(header)
    if not sizes:
        yield from _tensor_problems(header)


class _Hyperparameters:
    """The metadata under the architecture's own name, with llama.cpp's rule of one value or one per layer."""

    def __init__(self, header: GGUFHeader) -> None:
        self.header = header

    def name(self, key: str) -> str:
        return f"{self.header.architecture}.{key}"

    def has(self, key: str) -> bool:
        return self.name(key) in self.header.metadata

    def raw(self, key: str) -> object:
        return self.header.metadata.get(self.name(key))

    def integer(self, key: str, default: int = 0) -> int:
        value = self.raw(key)
        return value if type(value) is int else default  # a bool is an int to isinstance

    def per_layer(self, key: str, layer: int, default: int = 0) -> int:
        value = self.raw(key)
        if isinstance(value, tuple):
            value = value[layer] if layer < len(value) else default
        return value if type(value) is int else default


def _size_problems(header: GGUFHeader) -> Iterator[str]:
    values = _Hyperparameters(header)
    yield from _count_problems(values, "block_count", 1, MAX_LAYERS)
    yield from _count_problems(values, "context_length", 1, MAX_CONTEXT)
    yield from _count_problems(values, "embedding_length", 1, MAX_WIDTH)
    for key, low, high in (
        ("vocab_size", 1, 1 << 24),
        ("feed_forward_length", 0, 1 << 24),
        ("attention.head_count", 0, 1 << 16),
        ("attention.head_count_kv", 0, 1 << 16),
        ("attention.key_length", 1, 1 << 16),
        ("attention.value_length", 1, 1 << 16),
        ("nextn_predict_layers", 0, values.integer("block_count")),
    ):
        if values.has(key):
            yield from _count_problems(values, key, low, high)
    for key in ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon", "attention.group_norm_epsilon"):
        yield from _number_problems(values, key, lambda epsilon: 0 <= epsilon < 1, "a number from 0 to below 1")
    if header.architecture in PLAIN_DECODERS and not values.has("attention.layer_norm_rms_epsilon"):
        yield f"{values.name('attention.layer_norm_rms_epsilon')!r} is missing"
    yield from _head_problems(values)


def _count_problems(values: _Hyperparameters, key: str, low: int, high: int) -> Iterator[str]:
    """Check a u32 (or one per layer); llama.cpp reads no other type here and aborts on some values."""
    name, found = values.name(key), values.raw(key)
    kind = values.header.types.get(name)
    if kind is None:
        yield f"{name!r} is missing"
    elif kind not in ("u32", "[u32]", "[i32]"):
        yield f"{name!r} is of type {kind}, not u32"
    elif isinstance(found, tuple) and len(found) < values.integer("block_count"):
        yield f"{name!r} has {len(found)} values for {values.integer('block_count')} layers"
    else:
        for value in found if isinstance(found, tuple) else (found,):
            if not low <= value <= high:
                yield f"{name!r} is {value:,}: it must lie between {low} and {high:,}"
                return


def _number_problems(values: _Hyperparameters, key: str, fits: Callable[[float], bool], expected: str) -> Iterator[str]:
    name, found = values.name(key), values.raw(key)
    if name not in values.header.metadata:
        return
    if values.header.types[name] not in ("f32", "[f32]"):
        yield f"{name!r} is of type {values.header.types[name]}, not f32"
        return
    for number in found if isinstance(found, tuple) else (found,):
        if not (isinstance(number, float) and math.isfinite(number) and fits(number)):
            yield f"{name!r} is {number}: it must be {expected}"
            return


def _head_problems(values: _Hyperparameters) -> Iterator[str]:
    architecture = values.header.architecture
    heads = values.per_layer("attention.head_count", 0)
    if architecture in RECURRENT or isinstance(values.raw("attention.head_count"), tuple):
        return  # recurrent layers have no heads; per-layer counts are compared with the tensors' shapes
    if heads < 1:
        yield f"{values.name('attention.head_count')!r} is {heads}: it must be at least 1"
        return
    shared = values.per_layer("attention.head_count_kv", 0, heads)
    if not isinstance(values.raw("attention.head_count_kv"), tuple) and (shared < 1 or heads % shared):
        yield f"{heads} attention heads cannot share {shared} key-value heads"
    width = values.integer("embedding_length")
    if architecture in PLAIN_DECODERS and width % heads and not values.has("attention.key_length"):
        yield f"an embedding of {width} does not divide into {heads} attention heads"


def _rope_problems(header: GGUFHeader) -> Iterator[str]:
    values = _Hyperparameters(header)
    scaling = values.raw("rope.scaling.type")
    if values.has("rope.scaling.type") and scaling not in ROPE_SCALINGS:
        yield f"{values.name('rope.scaling.type')!r} is {scaling!r}: {suggest(str(scaling), ROPE_SCALINGS)}"
    positive = "a number above 0"
    yield from _number_problems(values, "rope.freq_base", lambda base: base > 0, positive)
    yield from _number_problems(values, "rope.freq_base_swa", lambda base: base > 0, positive)
    for key in ("rope.scaling.factor", "rope.scale_linear", "rope.scaling.attn_factor"):
        yield from _number_problems(values, key, lambda factor: 0 <= factor <= 1e6, "a number from 0 to a million")
    for key in _SCALES:
        yield from _number_problems(values, key, lambda scale: abs(scale) <= 1e6, "a number up to a million")
    sections = values.raw("rope.dimension_sections")
    if header.architecture in SECTIONED_ROPE and not (
        isinstance(sections, tuple) and any(type(part) is int and part > 0 for part in sections[:3])
    ):
        yield f"{values.name('rope.dimension_sections')!r} is {sections!r:.40}: one of the first three must be above 0"
    if values.has("rope.dimension_count"):
        yield from _count_problems(values, "rope.dimension_count", 0, 1 << 16)
        heads = values.per_layer("attention.head_count", 0)
        width = values.integer("attention.key_length", values.integer("embedding_length") // heads if heads else 0)
        turned = values.integer("rope.dimension_count")
        wrong = turned != width if header.architecture == "llama" else turned > width or turned % 2
        if heads and wrong and header.architecture in PLAIN_DECODERS:
            yield f"{values.name('rope.dimension_count')!r} is {turned} for attention heads of {width}"


def _expert_problems(header: GGUFHeader) -> Iterator[str]:
    values = _Hyperparameters(header)
    for key in ("expert_count", "expert_used_count", "expert_group_count", "expert_group_used_count"):
        if values.has(key):
            yield from _count_problems(values, key, 0, MAX_EXPERTS)
    experts, groups = values.integer("expert_count"), values.integer("expert_group_count")
    raw = values.raw("expert_used_count")
    used = max((count for count in raw if type(count) is int), default=0) if isinstance(raw, tuple) else raw or 0
    if not isinstance(used, int):
        return  # its type was told above
    if not experts and header.architecture in MIXTURES:
        yield f"{values.name('expert_count')!r} is 0, and {header.architecture} is made of experts"
    if used > experts or (experts and not used):
        yield f"{used} of {experts} experts are used"
    if groups and (groups >= experts or experts % groups):
        yield f"{experts} experts do not divide into {groups} groups"
    if groups > 1 and not 0 < values.integer("expert_group_used_count") < groups:
        yield f"{values.integer('expert_group_used_count')} of {groups} groups of experts are used"


def _tensor_problems(header: GGUFHeader) -> Iterator[str]:
    tensors = {tensor.name: tensor for tensor in header.tensors}
    values = _Hyperparameters(header)
    if "token_embd.weight" not in tensors and header.tokens:
        yield "tensor 'token_embd.weight' is missing"
        return
    yield from _block_problems(header, tensors)
    yield from _type_problems(header)
    if header.architecture in PLAIN_DECODERS and not values.integer("expert_count"):
        yield from _plain_tensor_problems(header, tensors)
    elif header.tokens and tensors["token_embd.weight"].shape[-1] != len(header.tokens):
        rows = tensors["token_embd.weight"].shape[-1]
        yield f"tensor 'token_embd.weight' has {rows:,} rows for a vocabulary of {len(header.tokens):,}"


def _block_problems(header: GGUFHeader, tensors: Iterable[str]) -> Iterator[str]:
    numbers = {int(name.split(".")[1]) for name in tensors if name.startswith("blk.") and name.split(".")[1].isdigit()}
    layers = _Hyperparameters(header).integer("block_count")
    if numbers and max(numbers) >= layers:
        yield f"it has tensors of layer {max(numbers)}, and {layers} layers by its metadata"
    missing = sorted(set(range(layers)) - numbers)
    # deci (Nemotron) drops whole layers; T5 and the codecs name theirs otherwise.
    if missing and header.architecture != "deci" and (numbers or header.architecture in PLAIN_DECODERS):
        yield f"it has no tensors for layer {missing[0]} of {layers}"


def _type_problems(header: GGUFHeader) -> Iterator[str]:
    """Find tensors of a type that llama.cpp's kernels have no path for: it aborts or segfaults at the first token."""
    for tensor in header.tensors:
        added = tensor.name.endswith(".bias") or "norm" in tensor.name.rpartition(".")[0].rpartition(".")[2]
        if added or (len(tensor.shape) == 1 and tensor.type != "I32"):
            if tensor.type != "F32":
                yield f"tensor {tensor.name!r} is of type {tensor.type}; norms, biases and vectors are F32"
        elif tensor.type in NO_WEIGHT_TYPES and "tid2eid" not in tensor.name:
            yield f"tensor {tensor.name!r} is of type {tensor.type}, which weights cannot have"


def _plain_tensor_problems(header: GGUFHeader, tensors: dict[str, TensorInfo]) -> Iterator[str]:
    for name, shape, required in _plain_shapes(header, tensors):
        tensor = tensors.get(name)
        if tensor is None:
            if required:
                yield f"tensor {name!r} is missing"
        elif tensor.shape != shape:
            yield f"tensor {name!r} is {_shape(tensor.shape)} where the metadata wants {_shape(shape)}"


def _plain_shapes(header: GGUFHeader, tensors: Iterable[str]) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    values = _Hyperparameters(header)
    width = values.integer("embedding_length")
    yield "token_embd.weight", (width, len(header.tokens)), True
    yield "output_norm.weight", (width,), True
    yield "output.weight", (width, len(header.tokens)), False
    for layer in range(values.integer("block_count")):
        heads = values.per_layer("attention.head_count", layer)
        shared = values.per_layer("attention.head_count_kv", layer, heads)
        keys = values.integer("attention.key_length", width // heads if heads else 0)
        contents = values.integer("attention.value_length", width // heads if heads else 0)
        inner = values.per_layer("feed_forward_length", layer)
        block = f"blk.{layer}."
        fused = f"{block}attn_qkv.weight" in tensors
        yield block + "attn_norm.weight", (width,), True
        yield block + "attn_qkv.weight", (width, keys * (heads + shared) + contents * shared), fused
        yield block + "attn_q.weight", (width, keys * heads), not fused
        yield block + "attn_k.weight", (width, keys * shared), not fused
        yield block + "attn_v.weight", (width, contents * shared), not fused
        yield block + "attn_output.weight", (contents * heads, width), True
        yield block + "ffn_norm.weight", (width,), True
        yield block + "ffn_gate.weight", (width, inner), True
        yield block + "ffn_up.weight", (width, inner), True
        yield block + "ffn_down.weight", (inner, width), True


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _adapter_kind_problems(header: GGUFHeader, base: GGUFHeader) -> Iterator[str]:
    kind = header.metadata.get("general.type")
    if kind != "adapter":
        yield "it is a whole model, not an adapter" if header.tokens else f"'general.type' is {kind!r}, not 'adapter'"
    elif header.metadata.get("adapter.type") != "lora":
        yield f"'adapter.type' is {header.metadata.get('adapter.type')!r}, not 'lora'"
    elif header.architecture != base.architecture:
        yield f"it is for the architecture {header.architecture!r}; {base.path.name} is {base.architecture!r}"
    elif "adapter.alora.invocation_tokens" in header.metadata:
        # An activated LoRA takes effect only after its tokens were seen; the engine does not follow them.
        yield "it is an activated LoRA ('adapter.alora.invocation_tokens'), which is not supported"
    elif not header.tensors:
        yield "it holds no tensors, so it would change nothing"


def _adapter_problems(header: GGUFHeader, base: GGUFHeader) -> Iterator[str]:
    alpha = header.metadata.get("adapter.lora.alpha")
    if header.types.get("adapter.lora.alpha", "f32") != "f32":
        yield f"'adapter.lora.alpha' is of type {header.types['adapter.lora.alpha']}, not f32"
    elif alpha is not None and not (math.isfinite(alpha) and 0 <= abs(alpha) <= 1e6):
        yield f"'adapter.lora.alpha' is {alpha}, not a finite number"
    tensors = {tensor.name: tensor for tensor in header.tensors}
    targets = {tensor.name: tensor for tensor in base.tensors}
    for name, tensor in tensors.items():
        target, _, part = name.rpartition(".")
        other = f"{target}.{'lora_b' if part == 'lora_a' else 'lora_a'}"
        if part not in ("lora_a", "lora_b"):
            yield f"tensor {name!r} is neither a lora_a nor a lora_b"
        elif other not in tensors:
            yield f"tensor {name!r} has no {other.rpartition('.')[2]} beside it"
        elif target not in targets:
            yield f"tensor {target!r} does not exist in {base.path.name}"
        elif target == "token_embd.weight" and "output.weight" not in targets:
            # Such a base uses the embedding for its output as well, where llama.cpp aborts on the pair's shape.
            yield f"it adapts 'token_embd.weight', which {base.path.name} uses for its output as well"
        elif tensor.type not in ("F32", "F16", "BF16", "Q8_0"):
            yield f"tensor {name!r} is of type {tensor.type}; adapters are F32, F16, BF16 or Q8_0"
        elif part == "lora_a":
            yield from _pair_problems(target, targets[target].shape, tensor.shape, tensors[other].shape)


def _pair_problems(name: str, target: tuple[int, ...], down: tuple[int, ...], up: tuple[int, ...]) -> Iterator[str]:
    """Compare an adapter's pair with what it changes, as llama-adapter.cpp does, and beyond."""
    if len(target) != 2 or len(down) != 2 or len(up) != 2:
        yield f"{name!r} is {_shape(target)} and its adapter {_shape(down)} and {_shape(up)}: only matrices are adapted"
        return
    embeds = name == "token_embd.weight"  # llama.cpp keeps this one pair the other way round
    inputs, ranks, outputs = (up[1], (down[0], up[0]), down[1]) if embeds else (down[0], (down[1], up[0]), up[1])
    if ranks[0] != ranks[1]:
        yield f"{name!r}: lora_a has rank {ranks[0]} and lora_b rank {ranks[1]}"
    elif (inputs, outputs) != target:
        yield f"{name!r} is {_shape(target)}, and its adapter is made for {inputs} x {outputs}"
    elif ranks[0] > max(target):
        yield f"{name!r}: a rank of {ranks[0]} is more than the matrix has"
