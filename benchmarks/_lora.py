"""Tiny random LoRA adapters, written as GGUF files that fit a given model.

What they do to an answer is of no interest: they are as large, and as dear to switch, as trained ones of their rank.
It reads the base model's header through the llama plugin and writes with the standard library and numpy.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from gristmill_plugins.llama._gguf import read_header

RANK = 8
TARGETS = ("attn_q", "attn_v")
ALIGNMENT = 32
F32_VALUE, STRING_VALUE = 6, 8


def write_adapters(base: Path, folder: Path, count: int) -> dict[str, str]:
    """Write `count` adapters for `base` and return their names and paths."""
    header = read_header(base)
    shapes = {t.name: t.shape for t in header.tensors if any(f".{target}." in t.name for target in TARGETS)}
    paths = {f"a{number}": folder / f"a{number}.gguf" for number in range(count)}
    for number, path in enumerate(paths.values()):
        path.write_bytes(_adapter(header.architecture, shapes, np.random.default_rng(number)))
    return {name: str(path) for name, path in paths.items()}


def _adapter(architecture: str, shapes: dict[str, tuple[int, ...]], chance: np.random.Generator) -> bytes:
    parts: dict[str, tuple[int, int]] = {}  # in numpy's order: rows, columns
    for name, (inputs, outputs) in shapes.items():
        parts[f"{name}.lora_a"] = (RANK, inputs)
        parts[f"{name}.lora_b"] = (outputs, RANK)
    described, data = b"", b""
    for name, shape in parts.items():
        described += _text(name) + struct.pack("<IQQIQ", 2, shape[1], shape[0], 0, len(data))
        data += chance.normal(0, 0.02, shape).astype(np.float32).tobytes()
        data += bytes(-len(data) % ALIGNMENT)
    words = {"general.architecture": architecture, "general.type": "adapter", "adapter.type": "lora"}
    metadata = b"".join(_text(key) + struct.pack("<I", STRING_VALUE) + _text(value) for key, value in words.items())
    metadata += _text("adapter.lora.alpha") + struct.pack("<If", F32_VALUE, float(RANK))
    head = b"GGUF" + struct.pack("<IQQ", 3, len(parts), len(words) + 1) + metadata + described
    return head + bytes(-len(head) % ALIGNMENT) + data


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data
