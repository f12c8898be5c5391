"""A LoRA adapter in memory: pairs of small matrices by the name of the matrix they change.

Read from GGUF and written to GGUF; it does not judge whether an adapter fits a base (`verify` does) and runs no model.
Invariants: a file appears under its name only whole, and none is overwritten; in memory every pair has the same
orientation, `change = scale * b @ a`, also where GGUF keeps a pair the other way round.

LoRA is Hu et al. 2021, section 4.1; how llama.cpp scales it is `llama_adapter_lora_weight::get_scale`: by alpha / rank,
and not at all where alpha is 0.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gristmill import ModelError, UsageError
from gristmill_plugins.adapters._llama import llama

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

AdapterType = Literal["F32", "F16"]
EMBEDDING = "token_embd.weight"
READABLE = ("F32", "F16", "BF16", "Q8_0")
NEEDS = 'pip install "gristmill[adapters]"'


@dataclass(frozen=True, slots=True)
class Pair:
    """The two factors of one change: `a` is (rank, inputs), `b` is (outputs, rank), both float32."""

    a: Floats
    b: Floats

    @property
    def rank(self) -> int:
        return int(self.a.shape[0])


@dataclass(frozen=True, slots=True)
class Adapter:
    """Pairs by GGUF tensor name ("blk.0.attn_q.weight")."""

    architecture: str
    pairs: Mapping[str, Pair]
    alpha: float
    """What the change is multiplied by, before it is divided by the rank; 0: neither."""
    name: str = ""
    path: Path | None = None
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def scale(self, target: str) -> float:
        """Return what `b @ a` is multiplied with at scale 1."""
        return self.alpha / self.pairs[target].rank if self.alpha else 1.0


def read_adapter(path: str | Path) -> Adapter:
    """Return an adapter from a GGUF file.

    Raises:
        ModelError: it is no complete GGUF file, no LoRA adapter, or one whose pairs do not match.
    """
    facts = llama().read_gguf(path)
    metadata = facts["metadata"]
    _refuse_other_kinds(path, metadata)
    tensors = {tensor["name"]: tensor for tensor in facts["tensors"]}
    pairs = {}
    for name in tensors:
        target, _, part = name.rpartition(".")
        other = f"{target}.{'lora_b' if part == 'lora_a' else 'lora_a'}"
        if part not in ("lora_a", "lora_b"):
            raise file_error(path, f"tensor {name!r} is neither a lora_a nor a lora_b")
        if other not in tensors:
            raise file_error(path, f"tensor {name!r} has no {other.rpartition('.')[2]} beside it")
        if part == "lora_a":
            pairs[target] = _pair(path, target, tensors[name], tensors[other])
    if not pairs:
        raise file_error(path, "it holds no tensors, so it would change nothing")
    title = metadata.get("general.name", "")
    return Adapter(facts["architecture"], pairs, _alpha(path, metadata), str(title), Path(facts["path"]), facts)


def _refuse_other_kinds(path: str | Path, metadata: Mapping[str, Any]) -> None:
    kind = metadata.get("general.type")
    if kind != "adapter":
        whole = "tokenizer.ggml.tokens" in metadata
        raise file_error(
            path, "it is a whole model, not an adapter" if whole else f"'general.type' is {kind!r}, not 'adapter'"
        )
    if metadata.get("adapter.type") != "lora":
        raise file_error(path, f"'adapter.type' is {metadata.get('adapter.type')!r}, not 'lora'")
    if "adapter.alora.invocation_tokens" in metadata:
        raise file_error(path, "it is an activated LoRA ('adapter.alora.invocation_tokens'), which is not supported")


def _alpha(path: str | Path, metadata: Mapping[str, Any]) -> float:
    alpha = metadata.get("adapter.lora.alpha", 0.0)
    if not isinstance(alpha, float) or not abs(alpha) <= 1e6:  # a NaN is not below either
        raise file_error(path, f"'adapter.lora.alpha' is {alpha!r}, not a finite number")
    return alpha


def _pair(path: str | Path, target: str, down: Mapping[str, Any], up: Mapping[str, Any]) -> Pair:
    import numpy as np

    for tensor in (down, up):
        if len(tensor["shape"]) != 2:
            raise file_error(path, f"tensor {tensor['name']!r} is no matrix: only matrices are adapted")
        if tensor["type"] not in READABLE:
            kinds = f"{', '.join(READABLE[:-1])} or {READABLE[-1]}"
            raise file_error(path, f"tensor {tensor['name']!r} is of type {tensor['type']}; adapters are {kinds}")
    a, b = read_tensor(path, down), read_tensor(path, up)
    if (
        target == EMBEDDING
    ):  # llama.cpp looks rows of this one up: its lora_a is (tokens, rank), its lora_b (width, rank)
        a, b = b.T, a
    if a.shape[0] != b.shape[1]:
        raise file_error(path, f"{target!r}: lora_a has rank {a.shape[0]} and lora_b rank {b.shape[1]}")
    for part, values in (("lora_a", a), ("lora_b", b)):
        if n_bad := int(values.size - np.isfinite(values).sum()):
            raise file_error(path, f"{target!r}: {part} holds {n_bad:,} values that are not finite numbers")
    return Pair(a, b)


def read_tensor(path: str | Path, tensor: Mapping[str, Any]) -> Floats:
    """Return one tensor of a GGUF file as float32, in numpy's order (rows first); its place was checked before."""
    import numpy as np
    from gguf import GGMLQuantizationType, dequantize

    raw = np.fromfile(path, np.uint8, tensor["size_bytes"], offset=tensor["offset"])
    shape = tuple(reversed(tensor["shape"]))
    if raw.size != tensor["size_bytes"]:
        raise file_error(path, "it became shorter while it was read")
    values = dequantize(raw.reshape(*shape[:-1], -1), GGMLQuantizationType[tensor["type"]])
    return np.asarray(values, np.float32).reshape(shape)


def write_adapter(adapter: Adapter, path: Path, *, type: AdapterType = "F32") -> Path:
    """Write an adapter to a new GGUF file and return its path.

    Raises:
        UsageError: the file exists already, or cannot be made.
        ModelError: a value is too large for F16.
    """
    import numpy as np
    from gguf import GGUFWriter

    dtype = np.dtype(np.float32 if type == "F32" else np.float16)
    largest = float(np.finfo(np.float32 if type == "F32" else np.float16).max)

    def write(temporary: Path) -> None:
        writer = GGUFWriter(temporary, adapter.architecture)
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", adapter.alpha)
        writer.add_name(adapter.name or path.stem)
        for key, value in adapter.facts.items():
            writer.add_string(key, str(value))
        for target, pair in adapter.pairs.items():
            a, b = (pair.b, pair.a.T) if target == EMBEDDING else (pair.a, pair.b)
            for part, values in (("lora_a", a), ("lora_b", b)):
                if np.abs(values).max(initial=0) > largest:
                    raise file_error(path, f"{target!r}: {part} is too large for {type}", "write it as F32")
                writer.add_tensor(f"{target}.{part}", np.ascontiguousarray(values, dtype))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    return write_new(path, write)


def write_new(path: Path, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a file beside `path`, which then gets that name.

    Raises:
        UsageError: there is something at `path`, or nothing can be written there.
    """
    refuse_existing(path)
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", hint="name another file") from error
    os.close(descriptor)
    try:
        write(Path(temporary))
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def refuse_existing(path: Path) -> None:
    """Raise a UsageError where something is in the way of an output."""
    if path.exists():
        raise UsageError(f"{path} exists already", hint="remove it, or name another file with -o")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {path.absolute().parent}", hint="make it first, or name another file")


def file_error(path: str | Path, reason: str, hint: str | None = None) -> ModelError:
    """Make the error for an adapter file that cannot be used."""
    return ModelError(
        f"{path}: {reason}",
        model=str(path),
        cause="file",
        hint=hint or "give a LoRA adapter in GGUF; `gristmill adapters convert` makes one from a PEFT folder",
    )
