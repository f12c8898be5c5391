"""Read the header of a GGUF file: metadata, vocabulary and the place of every tensor.

It does not read weights and does not judge whether llama.cpp can run the model (`_gguf` does). Invariants: every
count, length and offset is checked against the file's real size and a fixed bound before anything is allocated
or skipped, so that any file is read or refused in bounded time and memory; and a header that is returned
describes tensors that lie wholly inside the file. At least as strict as llama.cpp's own reader (ggml's gguf.cpp).
"""

from __future__ import annotations

import functools
import hashlib
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from gristmill_plugins.llama._ggml import TENSOR_TYPES
from gristmill_plugins.llama._store import FileIdentity, file_error, open_file

MAX_HEADER_BYTES = 256 << 20
MAX_ELEMENTS = 4 << 20
"""Array elements in one file, all keys together; the largest vocabulary known (Gemma 3) has 1.3 million with merges."""
MAX_STRING_BYTES = 16 << 20
MAX_KEY_BYTES = 64 << 10
MAX_KEYS = 64 << 10
MAX_TENSORS = 256 << 10
MAX_NAME_BYTES = 63
"""ggml's GGML_MAX_NAME, less its terminator."""
MAX_ALIGNMENT = 64 << 10
MAX_DIMENSIONS = 4
_CHUNK_BYTES = 4 << 20

_DOWNLOAD_AGAIN = "download the file again, or convert the model again"

_SCALARS: Mapping[int, tuple[str, str]] = MappingProxyType(
    {
        0: ("u8", "B"),
        1: ("i8", "b"),
        2: ("u16", "H"),
        3: ("i16", "h"),
        4: ("u32", "I"),
        5: ("i32", "i"),
        6: ("f32", "f"),
        7: ("bool", "?"),
        10: ("u64", "Q"),
        11: ("i64", "q"),
        12: ("f64", "d"),
    }
)
_STRING, _ARRAY = 8, 9
_POOLING_RANK = 4
Kind = Literal["language model", "embedding model", "reranker", "adapter"]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor: `shape` is in ggml's order, fastest first; `offset` is from the start of the file."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """All that a GGUF file says about itself."""

    path: Path
    version: int
    metadata: Mapping[str, Any]
    types: Mapping[str, str] = field(repr=False)
    """The type of each metadata value: "u32", "str", "[f32]", ..."""
    tensors: tuple[TensorInfo, ...] = field(repr=False)
    architecture: str
    context_length: int | None
    """What the model was trained for, in tokens; None when the file does not say."""
    chat_template: str | None
    tokens: tuple[str, ...] = field(repr=False)
    vocabulary_digest: str
    """SHA-256 of the token list: equal for models whose token ids mean the same."""
    size_bytes: int
    identity: FileIdentity = field(repr=False)

    @property
    def kind(self) -> Kind:
        """What the file is for.

        A reranker says that it ranks, or has a head with one output and says nothing: that is how llama.cpp's
        converter writes most cross-encoders (and the file of a masked language model has a head with many).
        """
        pooling = self.metadata.get(f"{self.architecture}.pooling_type")
        if self.metadata.get("general.type") == "adapter":
            return "adapter"
        if pooling == _POOLING_RANK or (pooling is None and any(map(_is_ranking_head, self.tensors))):
            return "reranker"
        return "language model" if pooling is None else "embedding model"

    def token(self, key: str) -> str:
        """Return the text of a special token (`bos`, `eos`, ...), or "" when the model has none."""
        index = self.metadata.get(f"tokenizer.ggml.{key}_token_id")
        return self.tokens[index] if isinstance(index, int) and 0 <= index < len(self.tokens) else ""


def _is_ranking_head(tensor: TensorInfo) -> bool:
    return tensor.name in ("cls.weight", "cls.output.weight") and tensor.shape[0] == math.prod(tensor.shape)


class _Malformed(Exception):
    """Why the file is not a GGUF file we read; becomes a ModelError with the path in front."""

    def __init__(self, reason: str, hint: str = _DOWNLOAD_AGAIN) -> None:
        super().__init__(reason)
        self.hint = hint


def read_header(path: str | Path) -> GGUFHeader:
    """Return the header of a GGUF file; reading the same state of a file again costs one `stat`.

    Raises:
        ModelError: it is not a readable, complete GGUF file; the text names the file, the reason and the next step.
    """
    file, identity = open_file(path)
    file.close()
    try:
        return _read(identity, str(path))
    except _Malformed as error:
        raise file_error(path, str(error), hint=error.hint) from None
    except OSError as error:
        raise file_error(path, f"cannot be read: {error.strerror}", hint="is the disk it lies on well?") from error


@functools.lru_cache(maxsize=16)  # a pure function of the file's state, so kernels may share it
def _read(identity: FileIdentity, path: str) -> GGUFHeader:
    file, found = open_file(path)
    with file:
        if found != identity:
            raise _Malformed("it changed while it was read", "try again when it is no longer written to")
        return _read_opened(file, identity, path)


def _read_opened(file: BufferedReader, identity: FileIdentity, path: str) -> GGUFHeader:
    cursor = _Cursor(file, identity.size_bytes)
    version, n_tensors, n_keys = _read_preamble(cursor)
    metadata, types = _read_metadata(cursor, n_keys)
    alignment = _alignment(metadata, types)
    tensors = _read_tensors(cursor, n_tensors, alignment)
    tokens = metadata.get("tokenizer.ggml.tokens", ())
    if types.get("tokenizer.ggml.tokens", "[str]") != "[str]":
        raise _Malformed("'tokenizer.ggml.tokens' is not a list of texts")
    architecture = _text(metadata, "general.architecture")
    if not architecture:
        raise _Malformed("it names no architecture ('general.architecture')")
    context_length = metadata.get(f"{architecture}.context_length")
    return GGUFHeader(
        path=Path(path),
        version=version,
        metadata=MappingProxyType(metadata),
        types=MappingProxyType(types),
        tensors=tensors,
        architecture=architecture,
        context_length=context_length if isinstance(context_length, int) else None,
        chat_template=_text(metadata, "tokenizer.chat_template") or None,
        tokens=tokens,
        vocabulary_digest=_digest_tokens(tokens),
        size_bytes=identity.size_bytes,
        identity=identity,
    )


def _digest_tokens(tokens: tuple[str, ...]) -> str:
    # NUL cannot separate texts that may hold it: the lengths go first.
    encoded = [token.encode() for token in tokens]
    digest = hashlib.sha256(struct.pack(f"<{len(encoded)}I", *map(len, encoded)))
    digest.update(b"".join(encoded))
    return digest.hexdigest()


def _text(metadata: Mapping[str, Any], key: str) -> str:
    value = metadata.get(key, "")
    if not isinstance(value, str):
        raise _Malformed(f"{key!r} is {value!r:.40}, not a text")
    return value


class _Cursor:
    """A bounded window on the header that grows as it is read."""

    def __init__(self, file: BufferedReader, size_bytes: int) -> None:
        self.file = file
        self.size_bytes = size_bytes
        self.buffer = file.read(min(_CHUNK_BYTES, size_bytes))
        self.position = 0
        self.n_elements = 0

    def need(self, n_bytes: int, what: str) -> int:
        """Make `n_bytes` available, move past them, and return where they start."""
        start, end = self.position, self.position + n_bytes
        if end > len(self.buffer):
            self._grow(end, what)
        self.position = end
        return start

    def _grow(self, end: int, what: str) -> None:
        if end > self.size_bytes:
            raise _Malformed(f"it ends inside {what}: the file is cut off or damaged")
        if end > MAX_HEADER_BYTES:
            raise _Malformed(f"its header is larger than {MAX_HEADER_BYTES >> 20} MiB: the file is damaged")
        wanted = min(max(end, 2 * len(self.buffer)), self.size_bytes, MAX_HEADER_BYTES)
        self.buffer += self.file.read(wanted - len(self.buffer))
        if end > len(self.buffer):
            raise _Malformed("it became shorter while it was read")

    def number(self, code: str, what: str) -> Any:
        return struct.unpack_from(f"<{code}", self.buffer, self.need(struct.calcsize(code), what))[0]

    def string(self, what: str, limit: int = MAX_STRING_BYTES) -> str:
        length = self.number("Q", what)
        if length > limit:
            raise _Malformed(f"{what} claims {length:,} bytes: the file is damaged")
        start = self.need(length, what)
        try:
            return self.buffer[start : self.position].decode()
        except UnicodeDecodeError:
            raise _Malformed(f"{what} is not valid UTF-8: {self.buffer[start : self.position][:32]!r}") from None

    def array(self, what: str) -> tuple[str, tuple[Any, ...]]:
        """Return the element type's name and the elements."""
        kind, count = self.number("I", what), self.number("Q", what)
        if kind != _STRING and kind not in _SCALARS:
            raise _Malformed(f"{what} is a list of type {kind}, which GGUF does not have")
        self.n_elements += count
        if self.n_elements > MAX_ELEMENTS:
            raise _Malformed(f"{what} claims {count:,} elements: the file is damaged")
        if kind == _STRING:
            return "str", self._strings(count, what)
        name, code = _SCALARS[kind]
        form = f"<{count}{code}"
        return name, struct.unpack_from(form, self.buffer, self.need(struct.calcsize(form), what))

    def _strings(self, count: int, what: str) -> tuple[str, ...]:
        # The one hot loop: 98,000 strings in a 49,000-token vocabulary; calling `string` would take 4 times as long.
        lengths, found = struct.Struct("<Q"), []
        buffer, position = self.buffer, self.position
        for index in range(count):
            try:
                start = position + 8
                position = start + lengths.unpack_from(buffer, position)[0]
                if position > len(buffer):
                    raise struct.error
                found.append(buffer[start:position].decode())
            except (struct.error, UnicodeDecodeError):
                self.position = start - 8
                found.append(self.string(f"{what}[{index}]"))
                buffer, position = self.buffer, self.position
        self.position = position
        return tuple(found)


def _read_preamble(cursor: _Cursor) -> tuple[int, int, int]:
    if cursor.buffer[:4] != b"GGUF":
        raise _Malformed(*_what_it_is(cursor.buffer))
    cursor.position = 4
    version = cursor.number("I", "its first 24 bytes")
    if version & 0xFFFF == 0 and version:
        raise _Malformed("it is a big-endian GGUF file", "convert the model on, or for, a little-endian machine")
    if version not in (2, 3):
        raise _Malformed(f"it is GGUF version {version}; versions 2 and 3 are read", "convert the model again")
    n_tensors, n_keys = cursor.number("Q", "its first 24 bytes"), cursor.number("Q", "its first 24 bytes")
    if n_tensors > MAX_TENSORS:
        raise _Malformed(f"it claims {n_tensors:,} tensors: the file is damaged")
    if n_keys > MAX_KEYS:
        raise _Malformed(f"it claims {n_keys:,} metadata keys: the file is damaged")
    return version, n_tensors, n_keys


def _what_it_is(start: bytes) -> tuple[str, str]:
    """Say what a file without GGUF's magic is, as well as its first bytes tell, and what to do."""
    text = start[:512].lstrip().lower()
    convert = "convert the model to GGUF with llama.cpp's convert_hf_to_gguf.py"
    known: list[tuple[bool, str, str]] = [
        (not start, "it is empty", _DOWNLOAD_AGAIN),
        (start.startswith(b"version https://git-lfs"), "it is a Git LFS pointer, not the model", "run: git lfs pull"),
        (text.startswith((b"<!doctype", b"<html", b"<?xml")), "it is a web page, not a model", _DOWNLOAD_AGAIN),
        (start.startswith(b"\x1f\x8b"), "it is gzip-compressed", "unpack it: gunzip --keep --suffix ..."),
        (start.startswith(b"\x28\xb5\x2f\xfd"), "it is zstd-compressed", "unpack it: unzstd"),
        (start.startswith(b"\xfd7zXZ"), "it is xz-compressed", "unpack it: unxz"),
        (start.startswith(b"PK"), "it is a ZIP archive or a PyTorch checkpoint", convert),
        (start.startswith((b"GGML", b"ggml", b"lmgg", b"fmgg", b"tjgg", b"algg")), "it is older than GGUF", convert),
        (start[8:10] == b'{"', "it is a safetensors file", convert),
        (text.startswith(b"{"), "it is JSON, not a model", _DOWNLOAD_AGAIN),
        (not start.strip(b"\0"), "it holds zeros where a GGUF file begins", _DOWNLOAD_AGAIN),
    ]
    for matches, reason, hint in known:
        if matches:
            return reason, hint
    return f"it is not a GGUF file: it begins with {start[:8]!r}", "give the path of a .gguf file"


def _read_metadata(cursor: _Cursor, n_keys: int) -> tuple[dict[str, Any], dict[str, str]]:
    metadata: dict[str, Any] = {}
    types: dict[str, str] = {}
    for index in range(n_keys):
        key = cursor.string(f"the name of metadata key {index}", MAX_KEY_BYTES)
        if not key:
            raise _Malformed(f"metadata key {index} has no name")
        if key in metadata:
            raise _Malformed(f"metadata key {key!r} is there twice")
        metadata[key], types[key] = _read_value(cursor, key)
    return metadata, types


def _read_value(cursor: _Cursor, key: str) -> tuple[Any, str]:
    what = f"metadata {key!r}"
    kind = cursor.number("I", what)
    if kind == _STRING:
        return cursor.string(what), "str"
    if kind == _ARRAY:
        name, elements = cursor.array(what)
        return elements, f"[{name}]"
    if kind not in _SCALARS:
        raise _Malformed(f"{what} has type {kind}, which GGUF does not have")
    name, code = _SCALARS[kind]
    return cursor.number(code, what), name


def _alignment(metadata: Mapping[str, Any], types: Mapping[str, str]) -> int:
    if "general.alignment" not in metadata:
        return 32
    value = metadata["general.alignment"]
    if types["general.alignment"] != "u32":
        raise _Malformed(f"'general.alignment' is of type {types['general.alignment']}, not u32")
    if value == 0 or value & (value - 1) or value > MAX_ALIGNMENT:
        raise _Malformed(f"'general.alignment' is {value}: not a power of two up to {MAX_ALIGNMENT}")
    return int(value)


def _read_tensors(cursor: _Cursor, n_tensors: int, alignment: int) -> tuple[TensorInfo, ...]:
    described = [_read_tensor(cursor, index) for index in range(n_tensors)]
    base = -(-cursor.position // alignment) * alignment
    tensors: dict[str, TensorInfo] = {}
    expected = 0
    for name, shape, kind, offset in described:
        if name in tensors:
            raise _Malformed(f"tensor {name!r} is there twice")
        info = TENSOR_TYPES[kind]
        size = info.size_bytes(shape)
        # llama.cpp wants the tensors back to back, in the order of their descriptions.
        if offset != expected:
            raise _Malformed(f"tensor {name!r} lies at offset {offset:,} where {expected:,} is due")
        expected += -(-size // alignment) * alignment
        tensors[name] = TensorInfo(name, shape, info.name, base + offset, size)
        if base + offset + size > cursor.size_bytes:
            missing = base + offset + size - cursor.size_bytes
            raise _Malformed(f"it is cut off: tensor {name!r} ends {missing:,} bytes behind the end of the file")
    trailing = cursor.size_bytes - base - expected
    if tensors and trailing > alignment:
        raise _Malformed(f"{trailing:,} bytes follow its last tensor: two downloads in one file?")
    return tuple(tensors.values())


def _read_tensor(cursor: _Cursor, index: int) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.string(f"the name of tensor {index}", MAX_NAME_BYTES)
    what = f"the description of tensor {name!r}"
    n_dimensions = cursor.number("I", what)
    if not 1 <= n_dimensions <= MAX_DIMENSIONS:
        raise _Malformed(f"tensor {name!r} has {n_dimensions} dimensions; ggml has 1 to {MAX_DIMENSIONS}")
    shape = tuple(cursor.number("Q", what) for _ in range(n_dimensions))
    kind, offset = cursor.number("I", what), cursor.number("Q", what)
    if kind not in TENSOR_TYPES:
        raise _Malformed(f"tensor {name!r} has type {kind}, which this llama.cpp does not have")
    block = TENSOR_TYPES[kind].block
    if not all(0 < side < 1 << 40 for side in shape) or shape[0] % block:
        text = " x ".join(map(str, shape))
        raise _Malformed(f"tensor {name!r} has the shape {text}, which {TENSOR_TYPES[kind].name} cannot have")
    return name, shape, kind, offset
