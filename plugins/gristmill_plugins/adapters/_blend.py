"""One adapter made of several, and a base model with adapters folded into its weights.

It trains nothing. Invariants: a blend is exact: its factors are those of its parts one below the other, weights and
scales in B, so its change is the weighted sum of theirs (singular values are not cut); a merged file has every
metadata value and every untouched tensor of its base.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gristmill import FunctionError, UsageError
from gristmill_plugins.adapters._adapter import (
    Adapter,
    AdapterType,
    Pair,
    file_error,
    read_adapter,
    read_tensor,
    refuse_existing,
    write_adapter,
    write_new,
)
from gristmill_plugins.adapters._llama import llama

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PLAIN_FORMATS = ("F32", "F16", "BF16")
FINE_FORMATS = (*PLAIN_FORMATS, "Q8_0")
"""Formats that can hold a trained change. The weights of a 4-bit base lie on its 4-bit grid, and most changes are less
than half a step of it: rounded onto that grid again, they are gone (measured in docs/adapters.md)."""
FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32}
"""llama.cpp's `llama_ftype` of the formats that are written here."""


def blend_adapters(weights: Mapping[str | Path, float], output: Path, *, type: AdapterType = "F32") -> Path:
    """Write the adapter whose change is the weighted sum of those of several; its ranks are the sums of theirs.

    Raises:
        ModelError: a file is no LoRA adapter, or they are not for one base.
        FunctionError: there is nothing to blend.
    """
    refuse_existing(output)
    parts = [(read_adapter(path), weight) for path, weight in weights.items()]
    if not any(weight for _, weight in parts):
        raise FunctionError("there is nothing to blend", hint="give at least one adapter a weight that is not 0")
    architectures = {adapter.architecture for adapter, _ in parts}
    if len(architectures) > 1:
        raise FunctionError(f"these adapters are for different architectures: {', '.join(sorted(architectures))}")
    return write_adapter(blended([part for part in parts if part[1]], output.stem), output, type=type)


def blended(parts: list[tuple[Adapter, float]], name: str) -> Adapter:
    """Return the weighted sum of adapters, exactly.

    Raises:
        ModelError: two of them change a matrix of one name and different shapes.
    """
    import numpy as np

    pairs = {}
    for target in dict.fromkeys(target for adapter, _ in parts for target in adapter.pairs):
        having = [(adapter, weight) for adapter, weight in parts if target in adapter.pairs]
        shapes = {(adapter.pairs[target].b.shape[0], adapter.pairs[target].a.shape[1]) for adapter, _ in having}
        if len(shapes) > 1:
            raise file_error(having[-1][0].path or name, f"its {target!r} is of another shape than the others'")
        down = [adapter.pairs[target].a for adapter, _ in having]
        up = [adapter.pairs[target].b * np.float32(weight * adapter.scale(target)) for adapter, weight in having]
        pairs[target] = Pair(np.concatenate(down), np.concatenate(up, axis=1))
    ranks = {pair.rank for pair in pairs.values()}
    # The scale is 1 everywhere now: alpha = rank says so where all ranks are equal, and alpha = 0 where they are not.
    return Adapter(parts[0][0].architecture, pairs, float(ranks.pop()) if len(ranks) == 1 else 0.0, name=name)


def merge_adapters(
    base: str, weights: Mapping[str | Path, float], output: Path, *, format: str | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Path:  # fmt: skip
    """Write the base with adapters folded into its weights, in `format` (the base's own if fine enough, else Q8_0).

    The sums are made in float32; other formats are then written by llama.cpp's own quantiser, which rounds what was
    changed, and what was not to the values it had.

    Raises:
        ModelError: the base or an adapter cannot be used, or they do not fit.
        UsageError: the output exists, or there is no such format.
    """
    refuse_existing(output)
    plugin = llama()
    header = plugin.read_gguf(base)
    for path in weights:
        plugin.check_adapter(path, base=base)
    sum_ = blended([(read_adapter(path), weight) for path, weight in weights.items()], output.stem)
    own = plugin.describe_model(base)["quantisation"]
    wanted = (format or (own if own in FINE_FORMATS else "Q8_0")).upper()
    if wanted in PLAIN_FORMATS:
        return write_new(output, lambda temporary: _write_merged(temporary, header, sum_, wanted, on_progress))
    with tempfile.TemporaryDirectory(dir=output.absolute().parent, prefix=f".{output.name}.") as folder:
        whole = Path(folder) / "merged.gguf"
        _write_merged(whole, header, sum_, "F32", on_progress)
        return plugin.quantize_model(str(whole), to=wanted, output=output)


def _write_merged(
    path: Path, header: Mapping[str, Any], adapter: Adapter, format: str, on_progress: Callable[[int, int], None]
) -> None:
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter, quantize

    writer = GGUFWriter(path, header["architecture"])
    _copy_metadata(writer, header, FILE_TYPES[format])
    kind = GGMLQuantizationType[format]
    tensors = header["tensors"]
    for tensor in tensors:
        rows = tuple(reversed(tensor["shape"]))
        if len(rows) == 1:  # norms and biases are F32 in every format
            writer.add_tensor_info(tensor["name"], rows, np.dtype(np.float32), 4 * rows[0], GGMLQuantizationType.F32)
        else:
            width = 4 if format == "F32" else 2
            dtype = np.dtype(np.float32 if format == "F32" else np.float16)
            writer.add_tensor_info(tensor["name"], rows, dtype, width * int(np.prod(rows)), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for done, tensor in enumerate(tensors):
        values = _changed(read_tensor(header["path"], tensor), adapter, tensor["name"])
        writer.write_tensor_data(values if values.ndim == 1 else quantize(values, kind))
        on_progress(done + 1, len(tensors))
    writer.close()


def _changed(values: npt.NDArray[np.float32], adapter: Adapter, name: str) -> npt.NDArray[np.float32]:
    import numpy as np

    pair = adapter.pairs.get(name)
    if pair is None:
        return values
    return values + np.float32(adapter.scale(name)) * (pair.b @ pair.a)


def _copy_metadata(writer: Any, header: Mapping[str, Any], file_type: int) -> None:
    """Copy every value with the type it has; architecture, format and alignment are the writer's."""
    from gguf import GGUFValueType

    kinds = {
        "u8": "UINT8", "i8": "INT8", "u16": "UINT16", "i16": "INT16", "u32": "UINT32", "i32": "INT32",
        "f32": "FLOAT32", "bool": "BOOL", "str": "STRING", "u64": "UINT64", "i64": "INT64", "f64": "FLOAT64",
    }  # fmt: skip
    for key, value in header["metadata"].items():
        if key in ("general.architecture", "general.file_type", "general.alignment", "general.quantization_version"):
            continue
        kind = header["types"][key]
        if not kind.startswith("["):
            writer.add_key_value(key, value, GGUFValueType[kinds[kind]])
        elif value:
            element = GGUFValueType[kinds[kind.strip("[]")]]
            writer.add_key_value(key, list(value), GGUFValueType.ARRAY, sub_type=element)
    writer.add_file_type(file_type)


def weights_of(specs: list[str]) -> dict[str | Path, float]:
    """Return files and weights from `FILE` or `FILE=WEIGHT`, as the command line takes them.

    Raises:
        UsageError: a weight is no number, or a file is named twice.
    """
    weights: dict[str | Path, float] = {}
    for spec in specs:
        path, equals, text = spec.rpartition("=")
        path, text = (path, text) if equals and not Path(spec).exists() else (spec, "1")
        try:
            weight = float(text)
        except ValueError as error:
            raise UsageError(
                f"{spec!r}: {text!r} is no number", hint="write FILE=WEIGHT, such as tone.gguf=0.3"
            ) from error
        if path in weights:
            raise UsageError(f"{path} is named twice", hint="name it once, with one weight")
        weights[path] = weight
    return weights
