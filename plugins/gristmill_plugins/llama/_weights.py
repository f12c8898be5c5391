"""Scan a GGUF file's weights for what makes a model answer nonsense without any error.

It computes nothing with the weights: it looks for NaN and infinity in floating-point tensors and in the scales of
quantised blocks, and for tensors that are zero throughout. Invariant: the file is read, never mapped, so that one
that shrinks meanwhile is an error and not a SIGBUS; memory stays at one buffer of 8 MiB.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BufferedReader
from typing import TYPE_CHECKING

from gristmill_plugins.llama._ggml import TENSOR_TYPES_BY_NAME, TensorType
from gristmill_plugins.llama._gguf_reader import GGUFHeader, TensorInfo
from gristmill_plugins.llama._store import open_file

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SCAN_VERSION = 1
"""Part of what is remembered about a file: raise it when the scan finds more."""
_BUFFER_BYTES = 8 << 20
_VITAL = ("token_embd.weight", "output_norm.weight", "output.weight")
# Format to (unsigned integer type, exponent bits that are all set in NaN and infinity, bits that are not the sign).
_FORMATS: tuple[tuple[str, str, int, int], ...] = (
    ("f16", "<u2", 0x7C00, 0x7FFF),
    ("bf16", "<u2", 0x7F80, 0x7FFF),
    ("f32", "<u4", 0x7F800000, 0x7FFFFFFF),
    ("f64", "<u8", 0x7FF0000000000000, 0x7FFFFFFFFFFFFFFF),
    ("e8m0", "<u1", 0xFF, 0xFF),
)


def weight_problems(header: GGUFHeader) -> list[str]:
    """Return what is wrong with the weights, in words; the whole file is read once.

    Raises:
        ModelError: the file cannot be opened any more.
        OSError: it cannot be read, or became shorter.
    """
    file, _ = open_file(header.path)
    not_finite: list[str] = []
    zero: list[str] = []
    with file:
        for tensor in header.tensors:
            n_bad, all_zero = _scan(file, tensor)
            if n_bad:
                not_finite.append(f"tensor {tensor.name!r} holds {n_bad:,} values that are not finite numbers")
            elif all_zero:
                zero.append(tensor.name)
    return not_finite + _zero_problems(header, zero)


def _zero_problems(header: GGUFHeader, zero: list[str]) -> list[str]:
    # A few zero tensors are sound: biases, and the blocks that LLaMA Pro adds and then trains.
    matrices = [tensor.name for tensor in header.tensors if len(tensor.shape) > 1]
    vital = [f"tensor {name!r} holds nothing but zeros" for name in _VITAL if name in zero]
    if vital or not matrices or 2 * len(set(matrices) & set(zero)) <= len(matrices):
        return vital
    return [f"{len(set(matrices) & set(zero))} of its {len(matrices)} matrices hold nothing but zeros"]


def _scan(file: BufferedReader, tensor: TensorInfo) -> tuple[int, bool]:
    """Return how many numbers of a tensor are not finite, and whether it is known to be zero throughout."""
    kind = TENSOR_TYPES_BY_NAME[tensor.type]
    if not kind.scales:
        return 0, False
    n_bad, all_zero = 0, not any(number == "e8m0" for _, number in kind.scales)
    for numbers in _numbers(file, tensor, kind):
        for values, exponent, magnitude in numbers:
            n_bad += int(((values & exponent) == exponent).sum())
            all_zero = all_zero and not (values & magnitude).any()
    return n_bad, all_zero


def _numbers(
    file: BufferedReader, tensor: TensorInfo, kind: TensorType
) -> Iterator[list[tuple[npt.NDArray[np.unsignedinteger], np.unsignedinteger, np.unsignedinteger]]]:
    import numpy as np

    buffer = bytearray(min(tensor.size_bytes, _BUFFER_BYTES // kind.block_bytes * kind.block_bytes))
    view = memoryview(buffer)
    file.seek(tensor.offset)
    left = tensor.size_bytes
    while left:
        wanted = min(left, len(buffer))
        if file.readinto(view[:wanted]) != wanted:
            raise OSError(0, "it became shorter while it was read")
        left -= wanted
        n_blocks = wanted // kind.block_bytes
        found = []
        for offset, number in kind.scales:
            if number == "iq1m":
                found.append((_iq1m_scales(buffer, n_blocks), np.uint16(0x7C00), np.uint16(0x7FFF)))
                continue
            dtype, exponent, magnitude = next(each[1:] for each in _FORMATS if each[0] == number)
            scale = np.dtype(dtype)
            values = np.ndarray((n_blocks,), scale, buffer, offset, (kind.block_bytes,))
            found.append((values, scale.type(exponent), scale.type(magnitude)))
        yield found


def _iq1m_scales(buffer: bytearray, n_blocks: int) -> npt.NDArray[np.unsignedinteger]:
    """IQ1_M spreads the 16 bits of its scale over the high nibbles of four numbers."""
    import numpy as np

    parts = np.ndarray((n_blocks, 4), np.dtype("<u2"), buffer, 48, (56, 2))
    scales = (parts[:, 0] >> 12) | ((parts[:, 1] >> 8) & 0xF0) | ((parts[:, 2] >> 4) & 0xF00) | (parts[:, 3] & 0xF000)
    return scales.astype(np.uint16)
