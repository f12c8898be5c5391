"""LoRA adapters that nobody trained, for tests in which adapters must differ and need not be good."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

WIDTH, RANK, STRING, FLOAT32 = 576, 4, 8, 6


def write_adapter(path: Path, *, seed: int, spread: float) -> None:
    """Write a LoRA adapter in GGUF for the bundled model: random, on the attention outputs of its last blocks.

    `spread` is the standard deviation of its numbers: at 0.3 answers differ, at 0.6 they are hardly language.
    """
    rng = np.random.default_rng(seed)
    tensors = {
        f"blk.{block}.attn_output.weight.lora_{side}": rng.normal(0, spread, shape).astype(np.float32)
        for block in range(24, 30)
        for side, shape in (("a", (RANK, WIDTH)), ("b", (WIDTH, RANK)))
    }

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    strings = {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora"}
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(strings) + 1)
    for key, value in strings.items():
        out += text(key) + struct.pack("<I", STRING) + text(value)
    out += text("adapter.lora.alpha") + struct.pack("<If", FLOAT32, float(RANK))
    offset = 0
    for name, tensor in tensors.items():
        out += text(name) + struct.pack("<IQQIQ", 2, tensor.shape[1], tensor.shape[0], 0, offset)
        offset += tensor.nbytes
    out += bytes(-len(out) % 32)
    path.write_bytes(out + b"".join(tensor.tobytes() for tensor in tensors.values()))
