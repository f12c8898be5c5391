"""Frames between a model's client and its engine process: two lengths, a JSON message, and raw bytes.

It knows nothing of what the messages mean, of processes, or of models. Invariant: a frame is written whole or
not at all, and one that is cut short or too long is an error, never a shorter frame.

Client to engine: `{"id": n, "op": "load" | "generate" | ...}`; `cancel` names the id to stop.
Engine to client: `{"id": n, "event": "done" | "error" | "delta" | "progress"}`, and `{"event": "alive"}`
every second while there is work.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

LENGTHS = struct.Struct(">II")
MAX_PART_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Frame:
    """One message with the bytes that came along: a row of logits, a matrix of embeddings."""

    message: dict[str, Any]
    blob: bytes = b""


def encode(message: dict[str, Any], blob: bytes = b"") -> bytes:
    """Return the bytes of a frame.

    Raises:
        ValueError: the message or the blob is longer than a frame can hold.
    """
    text = json.dumps(message, separators=(",", ":")).encode("ascii")
    if max(len(text), len(blob)) > MAX_PART_BYTES:
        raise ValueError(f"a message of {max(len(text), len(blob))} bytes is over the limit of {MAX_PART_BYTES}")
    return LENGTHS.pack(len(text), len(blob)) + text + blob


def read(stream: BinaryIO) -> Frame | None:
    """Return the next frame, or None where the stream ends between two frames.

    Raises:
        EOFError: the stream ends inside a frame.
        ValueError: the bytes are not a frame.
    """
    header = stream.read(LENGTHS.size)
    if not header:
        return None
    if len(header) < LENGTHS.size:
        raise EOFError("the stream ended inside a frame")
    n_text, n_blob = LENGTHS.unpack(header)
    if max(n_text, n_blob) > MAX_PART_BYTES:
        raise ValueError(f"a frame announces {max(n_text, n_blob)} bytes, over the limit of {MAX_PART_BYTES}")
    text, blob = stream.read(n_text), stream.read(n_blob)
    if len(text) < n_text or len(blob) < n_blob:
        raise EOFError("the stream ended inside a frame")
    return Frame(json.loads(text), blob)
