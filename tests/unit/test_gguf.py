# ruff: noqa: E501  (a table reads best with one case to a line)
"""GGUF files: what is read, and what is refused before anything native sees it.

`Gguf` writes a model that llama.cpp loads (one layer, 261 tokens); each test changes one thing in it.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
import math
import os
import random
import struct
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gristmill import ModelError
from gristmill_plugins.llama import _gguf, _gguf_reader, _store, _weights
from gristmill_plugins.llama._ggml import TENSOR_TYPES, TENSOR_TYPES_BY_NAME
from gristmill_plugins.llama._gguf import GGUFHeader, check_adapter, check_model, read_header

CODES = {"u8": 0, "i8": 1, "u16": 2, "i16": 3, "u32": 4, "i32": 5, "f32": 6, "bool": 7, "str": 8, "u64": 10, "f64": 12}
FORMS = {"u8": "B", "i8": "b", "u16": "H", "i16": "h", "u32": "I", "i32": "i", "f32": "f", "bool": "?", "u64": "Q", "f64": "d"}  # fmt: skip
IDS = {info.name: number for number, info in TENSOR_TYPES.items()}
WIDTH, INNER, HEADS = 32, 64, 2
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>"]
# GPT-2's way to give every byte a printable character.
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTES = [chr(byte if byte in PRINTABLE else 256 + sum(1 for b in range(byte) if b not in PRINTABLE)) for byte in range(256)]  # fmt: skip
TOKENS = [*SPECIAL, *BYTES, "he"]
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


def packed_text(text: str | bytes) -> bytes:
    raw = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(raw)) + raw


def packed_value(kind: str, value: Any) -> bytes:
    if kind.startswith("["):
        inner = kind[1:-1]
        return struct.pack("<IQ", CODES[inner], len(value)) + b"".join(packed_value(inner, each) for each in value)
    return packed_text(value) if kind == "str" else struct.pack("<" + FORMS[kind], value)


class Gguf:
    """A GGUF file in the making. `metadata` maps a key to (type, value); `tensors` a name to (shape, type, data)."""

    def __init__(self) -> None:
        self.version = 3
        self.alignment = 32
        self.metadata: dict[str | bytes, tuple[str, Any]] = {}
        self.tensors: dict[str, tuple[tuple[int, ...], str, bytes]] = {}

    def tensor(self, name: str, *shape: int, kind: str = "F32", data: bytes | None = None) -> None:
        chance = random.Random(name)
        if data is None:
            data = struct.pack(f"<{math.prod(shape)}f", *(chance.uniform(-0.1, 0.1) for _ in range(math.prod(shape))))
        self.tensors[name] = (shape, kind, data)

    def described(self) -> tuple[bytes, bytes]:
        offset, infos, data = 0, b"", b""
        for name, (shape, kind, raw) in self.tensors.items():
            infos += packed_text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, IDS[kind], offset)
            data += raw + bytes(-len(raw) % self.alignment)
            offset = len(data)
        return infos, data

    def content(self) -> bytes:
        infos, data = self.described()
        pairs = b""
        for key, (kind, value) in self.metadata.items():
            code = 9 if kind.startswith("[") else CODES[kind]
            pairs += packed_text(key) + struct.pack("<I", code) + packed_value(kind, value)
        head = b"GGUF" + struct.pack("<IQQ", self.version, len(self.tensors), len(self.metadata)) + pairs + infos
        return head + bytes(-len(head) % self.alignment) + data

    def write(self, path: Path) -> Path:
        path.write_bytes(self.content())
        return path


def model() -> Gguf:
    made = Gguf()
    text = {"general.architecture": "llama", "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm"}
    text["tokenizer.chat_template"] = TEMPLATE
    numbers = {"context_length": 256, "embedding_length": WIDTH, "block_count": 1, "feed_forward_length": INNER}
    numbers |= {"attention.head_count": HEADS, "attention.head_count_kv": HEADS, "rope.dimension_count": WIDTH // HEADS}
    made.metadata = {key: ("str", value) for key, value in text.items()}
    made.metadata |= {f"llama.{key}": ("u32", value) for key, value in numbers.items()}
    made.metadata["llama.attention.layer_norm_rms_epsilon"] = ("f32", 1e-5)
    made.metadata["tokenizer.ggml.tokens"] = ("[str]", TOKENS)
    made.metadata["tokenizer.ggml.token_type"] = ("[i32]", [3] * 4 + [1] * (len(TOKENS) - 4))
    made.metadata["tokenizer.ggml.merges"] = ("[str]", ["h e"])
    made.metadata["tokenizer.ggml.bos_token_id"] = ("u32", 1)
    made.metadata["tokenizer.ggml.eos_token_id"] = ("u32", 2)
    made.tensor("token_embd.weight", WIDTH, len(TOKENS))
    made.tensor("output_norm.weight", WIDTH)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        made.tensor(f"blk.0.{name}.weight", WIDTH, WIDTH)
    for name in ("attn_norm", "ffn_norm"):
        made.tensor(f"blk.0.{name}.weight", WIDTH)
    for name, shape in (("ffn_gate", (WIDTH, INNER)), ("ffn_up", (WIDTH, INNER)), ("ffn_down", (INNER, WIDTH))):
        made.tensor(f"blk.0.{name}.weight", *shape)
    return made


def adapter(rank: int = 4) -> Gguf:
    made = Gguf()
    made.metadata = {
        "general.architecture": ("str", "llama"),
        "general.type": ("str", "adapter"),
        "adapter.type": ("str", "lora"),
        "adapter.lora.alpha": ("f32", 16.0),
    }
    made.tensor("blk.0.attn_q.weight.lora_a", WIDTH, rank)
    made.tensor("blk.0.attn_q.weight.lora_b", rank, WIDTH)
    return made


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def base(tmp_path: Path) -> GGUFHeader:
    return check_model(model().write(tmp_path / "base.gguf"))


def refused(call: Callable[[], Any], path: Path) -> str:
    """Return the error's text, after checking that it names the file and what to do, and came soon."""
    start = time.monotonic()
    with pytest.raises(ModelError) as caught:
        call()
    assert time.monotonic() - start < 60
    assert caught.value.message.startswith(f"{path}: ")
    assert caught.value.model == str(path)
    assert caught.value.cause == "file"
    assert caught.value.hint
    return str(caught.value).replace(str(path), "FILE")


# -- reading -------------------------------------------------------------------------------------------------------------


def test_a_header_tells_what_the_file_says(tmp_path: Path) -> None:
    path = model().write(tmp_path / "tiny.gguf")
    header = read_header(path)
    assert (header.path, header.version, header.architecture, header.context_length) == (path, 3, "llama", 256)
    assert header.chat_template == TEMPLATE
    assert header.tokens == tuple(TOKENS)
    assert header.size_bytes == path.stat().st_size
    assert (header.token("bos"), header.token("eos"), header.token("sep")) == ("<|im_start|>", "<|im_end|>", "")
    assert header.metadata["llama.block_count"] == 1
    assert header.types["tokenizer.ggml.merges"] == "[str]"
    first, last = header.tensors[0], header.tensors[-1]
    assert (first.name, first.shape, first.type, first.size_bytes) == ("token_embd.weight", (32, 261), "F32", 33408)
    assert last.offset + last.size_bytes == header.size_bytes


def test_a_header_cannot_be_changed(tmp_path: Path) -> None:
    header = read_header(model().write(tmp_path / "tiny.gguf"))
    with pytest.raises(TypeError):
        header.metadata["general.architecture"] = "other"  # type: ignore[index]
    with pytest.raises(AttributeError):
        header.version = 2  # type: ignore[misc]


def test_vocabulary_digests_are_equal_for_equal_token_lists_only(tmp_path: Path) -> None:
    def digest(*tokens: str) -> str:
        made = model()
        made.metadata["tokenizer.ggml.tokens"] = ("[str]", list(tokens))
        return read_header(made.write(tmp_path / "v.gguf")).vocabulary_digest

    assert digest("a", "b") == digest("a", "b")
    assert len({digest("a", "b"), digest("ab"), digest("b", "a"), digest("ab", ""), digest("", "ab"), digest()}) == 6


def test_reading_again_costs_one_stat_and_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    path = model().write(tmp_path / "tiny.gguf")
    first = read_header(path)
    assert read_header(path) is first
    changed = model()
    changed.metadata["llama.context_length"] = ("u32", 512)
    changed.write(path)
    os.utime(path, ns=(first.identity.mtime_ns, first.identity.mtime_ns))
    assert read_header(path).context_length == 512


def test_a_large_vocabulary_is_read_quickly(tmp_path: Path) -> None:
    made = model()
    made.metadata["tokenizer.ggml.tokens"] = ("[str]", [f"token{n}" for n in range(50_000)])
    made.metadata["tokenizer.ggml.merges"] = ("[str]", [f"to ken{n}" for n in range(50_000)])
    path = made.write(tmp_path / "large.gguf")
    start = time.perf_counter()
    assert len(read_header(path).tokens) == 50_000
    assert time.perf_counter() - start < 60  # 0.07 s when measured alone


def test_version_2_and_every_metadata_type_are_read(tmp_path: Path) -> None:
    made = model()
    made.version = 2
    values = {"u8": 255, "i8": -1, "u16": 9, "i16": -9, "i32": -7, "f32": 0.5, "bool": True, "u64": 2**63, "f64": 0.1}
    made.metadata |= {f"x.{kind}": (kind, value) for kind, value in values.items()}
    made.metadata |= {f"x.list.{kind}": (f"[{kind}]", [value, value]) for kind, value in values.items()}
    header = read_header(made.write(tmp_path / "v2.gguf"))
    assert {key: header.metadata[f"x.{key}"] for key in values} == values
    assert header.metadata["x.list.u64"] == (2**63, 2**63)


def test_a_header_larger_than_the_first_read_is_read(tmp_path: Path) -> None:
    made = model()
    made.metadata["x.long"] = ("str", "é" * 3_000_000)
    made.metadata["x.many"] = ("[str]", ["abc"] * 10)
    header = read_header(made.write(tmp_path / "long.gguf"))
    assert len(header.metadata["x.long"]) == 3_000_000
    assert header.metadata["x.many"] == ("abc",) * 10


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "FILE: it is empty"),
        (b"G", "FILE: it is not a GGUF file: it begins with b'G'"),
        (b"GGUF", "FILE: it ends inside its first 24 bytes: the file is cut off or damaged"),
        (b"GGUF\3\0\0\0" + b"\1" * 8, "FILE: it ends inside its first 24 bytes"),
        (b"<!DOCTYPE html><title>404</title>", "FILE: it is a web page, not a model"),
        (b"\n <html>", "FILE: it is a web page, not a model"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "FILE: it is a Git LFS pointer, not the model\n  run: git lfs pull"),
        (gzip.compress(b"GGUF"), "FILE: it is gzip-compressed"),
        (b"\x28\xb5\x2f\xfd....", "FILE: it is zstd-compressed"),
        (b"\xfd7zXZ\0", "FILE: it is xz-compressed"),
        (b"PK\3\4", "FILE: it is a ZIP archive or a PyTorch checkpoint"),
        (b"GGML....", "FILE: it is older than GGUF"),
        (b'\x10\0\0\0\0\0\0\0{"__metadata__"', "FILE: it is a safetensors file"),
        (b'{"error": "not found"}', "FILE: it is JSON, not a model"),
        (bytes(100), "FILE: it holds zeros where a GGUF file begins"),
        (b"hello, world", "FILE: it is not a GGUF file: it begins with b'hello, w'"),
        (b"GGUF" + struct.pack("<IQQ", 0, 0, 0), "FILE: it is GGUF version 0; versions 2 and 3 are read"),
        (b"GGUF" + struct.pack("<IQQ", 99, 0, 0), "FILE: it is GGUF version 99; versions 2 and 3 are read"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "FILE: it is a big-endian GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0), "FILE: it claims 9,223,372,036,854,775,808 tensors: the file is damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**32), "FILE: it claims 4,294,967,296 metadata keys: the file is damaged"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**63), "FILE: the name of metadata key 0 claims 9,223,372,036,854,775,808 bytes"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "FILE: it names no architecture ('general.architecture')"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value[6:40],
)  # fmt: skip
def test_what_is_no_gguf_file_is_named_for_what_it_is(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "file.gguf"
    path.write_bytes(content)
    assert refused(lambda: read_header(path), path).startswith(reason)


def pair(key: bytes, code: int, raw: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key + struct.pack("<I", code) + raw


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [
        ([pair(b"", 4, b"\1\0\0\0")], "metadata key 0 has no name"),
        ([pair(b"a", 4, b"\1\0\0\0")] * 2, "metadata key 'a' is there twice"),
        ([pair(b"\xff", 4, b"\1\0\0\0")], r"the name of metadata key 0 is not valid UTF-8: b'\xff'"),
        ([pair(b"a", 8, struct.pack("<Q", 2) + b"\xff\xfe")], r"metadata 'a' is not valid UTF-8: b'\xff\xfe'"),
        ([pair(b"a", 8, struct.pack("<Q", 2**40))], "metadata 'a' claims 1,099,511,627,776 bytes: the file is damaged"),
        ([pair(b"a", 99, b"")], "metadata 'a' has type 99, which GGUF does not have"),
        ([pair(b"a", 9, struct.pack("<IQ", 9, 1))], "metadata 'a' is a list of type 9, which GGUF does not have"),
        ([pair(b"a", 9, struct.pack("<IQ", 4, 2**61))], "metadata 'a' claims 2,305,843,009,213,693,952 elements: the file is damaged"),
        ([pair(b"a", 9, struct.pack("<IQ", 8, 3) + bytes(16))], "it ends inside metadata 'a'[2]: the file is cut off or damaged"),
        ([pair(b"a", 9, struct.pack("<IQQ", 8, 1, 2**62))], "metadata 'a'[0] claims 4,611,686,018,427,387,904 bytes: the file is damaged"),
        ([pair(b"a", 9, struct.pack("<IQQ", 8, 1, 1) + b"\xff")], r"metadata 'a'[0] is not valid UTF-8: b'\xff'"),
        ([pair(b"a", 9, struct.pack("<IQ", 4, 5) + bytes(8))], "it ends inside metadata 'a': the file is cut off or damaged"),
        ([pair(b"general.alignment", 5, b"\x20\0\0\0")], "'general.alignment' is of type i32, not u32"),
        ([pair(b"general.alignment", 4, b"\x03\0\0\0")], "'general.alignment' is 3: not a power of two up to 65536"),
        ([pair(b"general.alignment", 4, b"\0\0\0\0")], "'general.alignment' is 0: not a power of two up to 65536"),
        ([pair(b"general.alignment", 4, b"\0\0\0\x80")], "'general.alignment' is 2147483648: not a power of two up to 65536"),
        ([pair(b"general.architecture", 4, b"\1\0\0\0")], "'general.architecture' is 1, not a text"),
        ([pair(b"tokenizer.ggml.tokens", 4, b"\1\0\0\0")], "'tokenizer.ggml.tokens' is not a list of texts"),
        (
            [pair(b"general.architecture", 8, packed_text("llama")), pair(b"tokenizer.chat_template", 4, b"\7\0\0\0")],
            "'tokenizer.chat_template' is 7, not a text",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_damaged_metadata_is_refused_with_its_key(tmp_path: Path, pairs: list[bytes], reason: str) -> None:
    path = tmp_path / "file.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + b"".join(pairs))
    assert refused(lambda: read_header(path), path).startswith(f"FILE: {reason}\n")


def with_tensor(*fields: bytes, data: bytes = b"") -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(fields), 1)
    head += pair(b"general.architecture", 8, packed_text("llama")) + b"".join(fields)
    return head + bytes(-len(head) % 32) + data


def info(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return packed_text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (with_tensor(info("a" * 64, (1,))), "the name of tensor 0 claims 64 bytes: the file is damaged"),
        (with_tensor(info("a", ())), "tensor 'a' has 0 dimensions; ggml has 1 to 4"),
        (with_tensor(info("a", (1, 1, 1, 1, 1))), "tensor 'a' has 5 dimensions; ggml has 1 to 4"),
        (with_tensor(info("a", (0,))), "tensor 'a' has the shape 0, which F32 cannot have"),
        (with_tensor(info("a", (2**64 - 32,))), "tensor 'a' has the shape 18446744073709551584, which F32 cannot have"),
        (with_tensor(info("a", (33,), 8)), "tensor 'a' has the shape 33, which Q8_0 cannot have"),
        (with_tensor(info("a", (1,), 31)), "tensor 'a' has type 31, which this llama.cpp does not have"),
        (with_tensor(info("a", (1,), 2**32 - 1)), "tensor 'a' has type 4294967295, which this llama.cpp does not have"),
        (with_tensor(info("a", (2**31, 2**31))), "it is cut off: tensor 'a' ends 18,446,744,073,709,551,616 bytes behind the end of the file"),
        (with_tensor(info("a", (8,), offset=2**64 - 32)), "tensor 'a' lies at offset 18,446,744,073,709,551,584 where 0 is due"),
        (with_tensor(info("a", (8,)), info("b", (8,), offset=64), data=bytes(96)), "tensor 'b' lies at offset 64 where 32 is due"),
        (with_tensor(info("a", (8,)), info("a", (8,), offset=32), data=bytes(64)), "tensor 'a' is there twice"),
        (with_tensor(info("a", (8,)), data=bytes(31)), "it is cut off: tensor 'a' ends 1 bytes behind the end of the file"),
        (with_tensor(info("a", (8,)), data=bytes(200)), "168 bytes follow its last tensor: two downloads in one file?"),
        (with_tensor(packed_text("a") + b"\1\0"), "it ends inside the description of tensor 'a': the file is cut off or damaged"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)  # fmt: skip
def test_damaged_tensors_are_refused_with_their_name(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "file.gguf"
    path.write_bytes(content)
    assert refused(lambda: read_header(path), path).startswith(f"FILE: {reason}\n")


def test_padding_behind_the_last_tensor_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "file.gguf"
    path.write_bytes(with_tensor(info("a", (7,)), data=bytes(64)))
    assert read_header(path).tensors[0].size_bytes == 28


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "none.gguf"
    assert refused(lambda: read_header(path), path).startswith("FILE: there is no such file\n")


@pytest.mark.skipif(sys.platform == "win32", reason="needs FIFOs, devices and symbolic links")
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    pipe, loop = tmp_path / "pipe.gguf", tmp_path / "loop.gguf"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    for path, reason in [
        (pipe, "FILE: is a named pipe, not a file"),
        (tmp_path, "FILE: is a folder, not a file"),
        (Path("/dev/zero"), "FILE: is a device, not a file"),
        (loop, "FILE: cannot be opened: Too many levels of symbolic links"),
    ]:
        assert refused(functools.partial(read_header, path), path).startswith(reason)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_this_user_may_not_read_is_said_to_be_that(tmp_path: Path) -> None:
    path = model().write(tmp_path / "secret.gguf")
    path.chmod(0)
    assert refused(lambda: read_header(path), path).startswith("FILE: this user may not read it")


def test_a_path_with_a_nul_is_refused() -> None:
    with pytest.raises(ModelError, match="is not a path: embedded null byte"):
        read_header("a\0b.gguf")


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = model().write(tmp_path / "tiny.gguf")
    identity = read_header(path).identity
    monkeypatch.setattr(_gguf_reader, "_CHUNK_BYTES", 64)
    longer = _store.FileIdentity(identity.path, identity.inode, 10**6, identity.mtime_ns, identity.ctime_ns)
    path.write_bytes(path.read_bytes()[:1000])
    with path.open("rb") as file, pytest.raises(Exception, match="it became shorter while it was read"):
        _gguf_reader._read_opened(file, longer, str(path))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_ends_in_an_error_or_a_header_soon(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(model().content())
    end = 4900  # the header and a little of the weights
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, end))
        patch = data.draw(
            st.sampled_from([b"\xff" * 8, bytes(8), b"\0\0\0\x80", b"\1", b"\x7f\xff\xff\xff\xff\xff\xff\xff"])
        )
        content[place : place + len(patch)] = patch
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), end, 100, 3000]))])
    start = time.monotonic()
    with contextlib.suppress(ModelError):
        check_model(path)
    assert time.monotonic() - start < 60


# -- models --------------------------------------------------------------------------------------------------------------


def test_a_sound_model_passes(tmp_path: Path) -> None:
    assert check_model(model().write(tmp_path / "tiny.gguf")).architecture == "llama"


A = "llama"


@pytest.mark.parametrize(
    ("key", "kind", "value", "reason"),
    [
        ("general.type", "str", "adapter", "it is an adapter, not a model: list it under the model's 'adapters'"),
        ("general.architecture", "str", "clip", "it is an image encoder (clip), not a language model"),
        ("general.architecture", "str", "lama", "its architecture 'lama' is not one llama.cpp has; did you mean 'llama'?"),
        ("split.count", "u16", 3, "it is one part of 3: join them with llama.cpp's llama-gguf-split --merge"),
        (f"{A}.block_count", "u32", 0, "'llama.block_count' is 0: it must lie between 1 and 512"),
        (f"{A}.block_count", "u32", 513, "'llama.block_count' is 513: it must lie between 1 and 512"),
        (f"{A}.block_count", "str", "1", "'llama.block_count' is of type str, not u32"),
        (f"{A}.block_count", None, None, "'llama.block_count' is missing"),
        (f"{A}.block_count", "u32", 2, "it has no tensors for layer 1 of 2"),
        (f"{A}.nextn_predict_layers", "u32", 2, "'llama.nextn_predict_layers' is 2: it must lie between 0 and 1"),
        (f"{A}.context_length", "u32", 0, "'llama.context_length' is 0: it must lie between 1 and 268,435,456"),
        (f"{A}.context_length", "u32", 2**32 - 1, "'llama.context_length' is 4,294,967,295: it must lie between"),
        (f"{A}.embedding_length", "u32", 0, "'llama.embedding_length' is 0: it must lie between 1 and 1,048,576"),
        (f"{A}.embedding_length", "u32", 64, "'llama.rope.dimension_count' is 16 for attention heads of 32"),
        (f"{A}.feed_forward_length", "u32", 65, "tensor 'blk.0.ffn_gate.weight' is 32 x 64 where the metadata wants 32 x 65"),
        (f"{A}.feed_forward_length", "[u32]", [64], None),
        (f"{A}.feed_forward_length", "[u32]", [], "'llama.feed_forward_length' has 0 values for 1 layers"),
        (f"{A}.attention.head_count", "u32", 0, "'llama.attention.head_count' is 0: it must be at least 1"),
        (f"{A}.attention.head_count", "u32", 3, "3 attention heads cannot share 2 key-value heads; an embedding of 32 does not divide into 3 attention heads"),
        (f"{A}.attention.head_count_kv", "u32", 0, "2 attention heads cannot share 0 key-value heads"),
        (f"{A}.attention.head_count_kv", "u32", 1, "tensor 'blk.0.attn_k.weight' is 32 x 32 where the metadata wants 32 x 16"),
        (f"{A}.attention.layer_norm_rms_epsilon", "f32", math.nan, "'llama.attention.layer_norm_rms_epsilon' is nan: it must be a number from 0 to below 1"),
        (f"{A}.attention.layer_norm_rms_epsilon", "f32", -1.0, "'llama.attention.layer_norm_rms_epsilon' is -1.0: it must be"),
        (f"{A}.attention.layer_norm_rms_epsilon", "u32", 1, "'llama.attention.layer_norm_rms_epsilon' is of type u32, not f32"),
        (f"{A}.attention.layer_norm_rms_epsilon", None, None, "'llama.attention.layer_norm_rms_epsilon' is missing"),
        (f"{A}.rope.dimension_count", "u32", 14, "'llama.rope.dimension_count' is 14 for attention heads of 16"),
        (f"{A}.rope.scaling.type", "str", "linaer", "'llama.rope.scaling.type' is 'linaer': did you mean 'linear'?"),
        (f"{A}.rope.scaling.type", "u32", 1, "'llama.rope.scaling.type' is 1: there is: linear, longrope, none, yarn"),
        (f"{A}.rope.scaling.factor", "f32", math.inf, "'llama.rope.scaling.factor' is inf: it must be a number from 0 to a million"),
        (f"{A}.rope.freq_base", "f32", 0.0, "'llama.rope.freq_base' is 0.0: it must be a number above 0"),
        (f"{A}.attention.scale", "f32", math.nan, "'llama.attention.scale' is nan: it must be a number up to a million"),
        (f"{A}.rope.scaling.attn_factor", "f32", 1e30, "'llama.rope.scaling.attn_factor' is 1.0000000150474662e+30: it must be"),
        (f"{A}.expert_used_count", "[str]", ["a"], "'llama.expert_used_count' is of type [str], not u32"),
        (f"{A}.attention.head_count", "[f32]", [1.5], "'llama.attention.head_count' is of type [f32], not u32"),
        (f"{A}.expert_count", "u32", 2**31, "'llama.expert_count' is 2,147,483,648: it must lie between 0 and 1,024"),
        (f"{A}.expert_count", "u32", 4, "0 of 4 experts are used"),
        (f"{A}.expert_used_count", "u32", 2, "2 of 0 experts are used"),
        (f"{A}.expert_group_count", "u32", 2, "0 experts do not divide into 2 groups; 0 of 2 groups of experts are used"),
        (f"{A}.vocab_size", "u32", 0, "'llama.vocab_size' is 0: it must lie between 1 and 16,777,216"),
        ("tokenizer.ggml.model", None, None, "'tokenizer.ggml.model' is missing"),
        ("tokenizer.ggml.model", "str", "gpt3", "'tokenizer.ggml.model' is 'gpt3': did you mean 'gpt2'?"),
        ("tokenizer.ggml.model", "str", "no_vocab", "it has no vocabulary, so it cannot read or write text"),
        ("tokenizer.ggml.model", "str", "llama", "the vocabulary has no token for the byte 0x00, so it cannot read every text"),
        ("tokenizer.ggml.tokens", None, None, "'tokenizer.ggml.tokens' is missing or empty"),
        ("tokenizer.ggml.tokens", "[str]", ["a", *TOKENS[1:-1], "a"], "token 'a' is in the vocabulary 3 times"),
        ("tokenizer.ggml.tokens", "[str]", ["", "", *TOKENS[2:]], None),
        ("tokenizer.ggml.tokens", "[str]", ["a\0b", *TOKENS[1:]], "token 'a' is in the vocabulary 2 times"),
        ("tokenizer.ggml.tokens", "[str]", ["\0", *TOKENS[1:]], None),
        ("tokenizer.ggml.token_type", "[i32]", [1] * 260, "'tokenizer.ggml.token_type' has 260 entries for 261 tokens"),
        ("tokenizer.ggml.token_type", "[i32]", [1] * 300, None),
        ("tokenizer.ggml.token_type", "[u8]", [1] * 261, "'tokenizer.ggml.token_type' is of type [u8], not [i32]"),
        ("tokenizer.ggml.token_type", "[i32]", [6] * 261, "token 0 is of type byte, and its text is '<|endoftext|>', not like '<0x0A>'"),
        ("tokenizer.ggml.scores", "[f32]", [0.0], "'tokenizer.ggml.scores' has 1 entries for 261 tokens"),
        ("tokenizer.ggml.scores", "[str]", ["a"], "'tokenizer.ggml.scores' is of type [str], not [f32] or [i32]"),
        ("tokenizer.ggml.scores", "[f32]", [math.nan] * 261, "'tokenizer.ggml.scores' holds a NaN"),
        ("tokenizer.ggml.bos_token_id", "u32", 261, "'tokenizer.ggml.bos_token_id' is 261: the vocabulary has 261 tokens"),
        ("tokenizer.ggml.eos_token_id", "u32", 2**32 - 1, "'tokenizer.ggml.eos_token_id' is 4,294,967,295: the vocabulary has 261 tokens"),
        ("tokenizer.ggml.eos_token_id", "i32", 2, "'tokenizer.ggml.eos_token_id' is of type i32, not u32"),
        ("tokenizer.ggml.padding_token_id", "u32", 2**32 - 1, None),
        ("tokenizer.ggml.add_eos_token", "bool", True, None),
        ("tokenizer.ggml.model", "str", "rwkv", "the vocabulary has no token for the byte 0x00"),
        ("tokenizer.ggml.model", "str", "bert", None),
        ("tokenizer.ggml.add_bos_token", "u32", 1, "'tokenizer.ggml.add_bos_token' is of type u32, not bool"),
        ("tokenizer.ggml.merges", None, None, "'tokenizer.ggml.merges' is missing"),
        ("tokenizer.ggml.merges", "[u8]", [1], "'tokenizer.ggml.merges' is of type [u8], not a list of texts"),
        ("tokenizer.ggml.merges", "[str]", ["h e", "hell"], "tokenizer.ggml.merges[1] is 'hell', not two pieces with a space between"),
    ],
)  # fmt: skip
def test_metadata_that_llama_cpp_dies_of_is_refused(
    tmp_path: Path, key: str, kind: str | None, value: Any, reason: str | None
) -> None:
    made = model()
    if kind is None:
        del made.metadata[key]
    else:
        made.metadata[key] = (kind, value)
    path = made.write(tmp_path / "tiny.gguf")
    if reason is None:
        check_model(path)
    else:
        assert reason in refused(lambda: check_model(path), path)


def test_many_faults_are_told_at_once_and_the_list_ends(tmp_path: Path) -> None:
    made = model()
    for name in ("block_count", "context_length", "embedding_length"):
        del made.metadata[f"llama.{name}"]
    for name in ("bos", "eos", "eot", "eom"):
        made.metadata[f"tokenizer.ggml.{name}_token_id"] = ("u32", 999)
    message = refused(lambda: check_model(path), path := made.write(tmp_path / "tiny.gguf"))
    assert "'llama.block_count' is missing; 'llama.context_length' is missing" in message
    assert "; and 2 more" in message


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda made: made.tensors.pop("token_embd.weight"), "tensor 'token_embd.weight' is missing"),
        (lambda made: made.tensors.pop("blk.0.attn_k.weight"), "tensor 'blk.0.attn_k.weight' is missing"),
        (lambda made: made.tensors.clear(), "tensor 'token_embd.weight' is missing"),
        (lambda made: made.tensor("blk.7.x", 4), "it has tensors of layer 7, and 1 layers by its metadata"),
        (lambda made: made.tensor("output.weight", WIDTH, 9), "tensor 'output.weight' is 32 x 9 where the metadata wants 32 x 261"),
        (lambda made: made.tensor("blk.0.attn_q.weight", WIDTH), "tensor 'blk.0.attn_q.weight' is 32 where the metadata wants 32 x 32"),
    ],
)  # fmt: skip
def test_missing_and_misshapen_tensors_are_refused(tmp_path: Path, change: Callable[[Gguf], Any], reason: str) -> None:
    made = model()
    change(made)
    path = made.write(tmp_path / "tiny.gguf")
    assert reason in refused(lambda: check_model(path), path)


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        (
            "blk.0.attn_norm.weight",
            "F16",
            "tensor 'blk.0.attn_norm.weight' is of type F16; norms, biases and vectors are F32",
        ),
        ("output_norm.weight", "I32", "tensor 'output_norm.weight' is of type I32; norms, biases and vectors are F32"),
        ("blk.0.attn_q.bias", "Q8_0", "tensor 'blk.0.attn_q.bias' is of type Q8_0; norms, biases and vectors are F32"),
        ("blk.0.attn_q.weight", "Q8_1", "tensor 'blk.0.attn_q.weight' is of type Q8_1, which weights cannot have"),
        ("blk.0.ffn_up.weight", "F64", "tensor 'blk.0.ffn_up.weight' is of type F64, which weights cannot have"),
        ("blk.0.attn_k.weight", "I64", "tensor 'blk.0.attn_k.weight' is of type I64, which weights cannot have"),
        ("blk.0.attn_k.weight", "BF16", None),
        ("blk.0.attn_k.weight", "Q8_0", None),
    ],
)
def test_a_tensor_of_a_type_without_kernels_is_refused(
    tmp_path: Path, name: str, kind: str, reason: str | None
) -> None:
    made = model()
    shape = made.tensors[name][0] if name in made.tensors else (WIDTH,)
    made.tensor(name, *shape, kind=kind, data=b"\1" * TENSOR_TYPES_BY_NAME[kind].size_bytes(shape))
    path = made.write(tmp_path / "typed.gguf")
    if reason is None:
        check_model(path)
    else:
        assert reason in refused(lambda: check_model(path), path)


def test_a_fused_attention_matrix_stands_for_three(tmp_path: Path) -> None:
    made = model()
    for name in "qkv":
        del made.tensors[f"blk.0.attn_{name}.weight"]
    made.tensor("blk.0.attn_qkv.weight", WIDTH, 3 * WIDTH)
    check_model(made.write(tmp_path / "tiny.gguf"))


def test_an_architecture_whose_tensors_are_not_known_is_checked_for_its_rows_only(tmp_path: Path) -> None:
    made = model()
    made.metadata = {
        key.replace("llama.", "mpt.") if isinstance(key, str) else key: value for key, value in made.metadata.items()
    }
    made.metadata["general.architecture"] = ("str", "mpt")
    del made.tensors["blk.0.attn_q.weight"]
    check_model(made.write(tmp_path / "mpt.gguf"))
    made.tensor("token_embd.weight", WIDTH, 9)
    path = made.write(tmp_path / "rows.gguf")
    assert "tensor 'token_embd.weight' has 9 rows for a vocabulary of 261" in refused(lambda: check_model(path), path)


def test_a_sentencepiece_vocabulary_with_its_byte_tokens_passes(tmp_path: Path) -> None:
    made = model()
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "he", "llo"]
    made.metadata["tokenizer.ggml.model"] = ("str", "llama")
    made.metadata["tokenizer.ggml.tokens"] = ("[str]", tokens)
    made.metadata["tokenizer.ggml.token_type"] = ("[i32]", [2, 3, 3, *[6] * 256, 1, 1])
    made.metadata["tokenizer.ggml.scores"] = ("[f32]", [0.0] * 261)
    check_model(made.write(tmp_path / "spm.gguf"))


@pytest.mark.parametrize(
    ("kind", "content", "reason"),
    [
        ("[u8]", struct.pack("<I", 100) + bytes(8), "'tokenizer.ggml.precompiled_charsmap' is cut off"),
        ("[u8]", b"\0", "'tokenizer.ggml.precompiled_charsmap' is cut off"),
        ("[u8]", struct.pack("<I", 4) + bytes(8), None),
        ("[i32]", [1], "'tokenizer.ggml.precompiled_charsmap' is of type [i32], not a list of bytes"),
    ],
)
def test_a_cut_off_character_map_is_refused(tmp_path: Path, kind: str, content: Any, reason: str | None) -> None:
    made = model()
    made.metadata["tokenizer.ggml.model"] = ("str", "t5")
    made.metadata["tokenizer.ggml.precompiled_charsmap"] = (kind, list(content))
    path = made.write(tmp_path / "t5.gguf")
    if reason is None:
        check_model(path)
    else:
        assert reason in refused(lambda: check_model(path), path)


@pytest.mark.parametrize("model_name", ["bert", "rwkv"])
def test_byte_tokens_where_the_tokenizer_has_none_are_refused(tmp_path: Path, model_name: str) -> None:
    made = model()
    made.metadata["tokenizer.ggml.model"] = ("str", model_name)
    made.metadata["tokenizer.ggml.token_type"] = ("[i32]", [6] * len(TOKENS))
    path = made.write(tmp_path / "bytes.gguf")
    reason = f"it has tokens of type byte, which a {model_name} vocabulary has not"
    assert reason in refused(lambda: check_model(path), path)


def test_a_vocabulary_without_the_token_it_is_told_to_add_is_refused(tmp_path: Path) -> None:
    made = model()
    del made.metadata["tokenizer.ggml.bos_token_id"]
    made.metadata["tokenizer.ggml.add_bos_token"] = ("bool", True)
    path = made.write(tmp_path / "bos.gguf")
    reason = "'tokenizer.ggml.add_bos_token' is set and 'tokenizer.ggml.bos_token_id' is missing"
    assert reason in refused(lambda: check_model(path), path)


def test_a_vocabulary_smaller_than_its_usual_special_tokens_is_refused(tmp_path: Path) -> None:
    made = model()
    made.metadata["tokenizer.ggml.tokens"] = ("[str]", TOKENS[:5])
    made.metadata["tokenizer.ggml.token_type"] = ("[i32]", [1] * 5)
    path = made.write(tmp_path / "few.gguf")
    assert "a vocabulary of 5 tokens is too small" in refused(lambda: check_model(path), path)


def test_an_rwkv_vocabulary_with_every_byte_passes(tmp_path: Path) -> None:
    made = model()
    names = {9: "\\t", 10: "\\n", 13: "\\r", 92: "\\\\", 39: "\\'"}
    bytes_ = [names.get(byte, chr(byte) if 31 < byte < 127 else f"\\x{byte:02x}") for byte in range(256)]
    made.metadata["tokenizer.ggml.model"] = ("str", "rwkv")
    made.metadata["tokenizer.ggml.tokens"] = ("[str]", ["<s>", *bytes_, "he", "ll", "lo", "ho"])
    check_model(made.write(tmp_path / "rwkv.gguf"))


def test_an_architecture_of_experts_needs_some(tmp_path: Path) -> None:
    made = model()
    made.metadata = {
        key.replace("llama.", "olmoe.") if isinstance(key, str) else key: value for key, value in made.metadata.items()
    }
    made.metadata["general.architecture"] = ("str", "olmoe")
    path = made.write(tmp_path / "none.gguf")
    assert "'olmoe.expert_count' is 0, and olmoe is made of experts" in refused(lambda: check_model(path), path)


def test_an_architecture_that_turns_positions_in_sections_needs_one(tmp_path: Path) -> None:
    made = model()
    made.metadata = {
        key.replace("llama.", "qwen2vl.") if isinstance(key, str) else key: value
        for key, value in made.metadata.items()
    }
    made.metadata["general.architecture"] = ("str", "qwen2vl")
    path = made.write(tmp_path / "none.gguf")
    assert "'qwen2vl.rope.dimension_sections' is None: one of the first three" in refused(
        lambda: check_model(path), path
    )
    made.metadata["qwen2vl.rope.dimension_sections"] = ("[i32]", [4, 2, 2, 0])
    check_model(made.write(tmp_path / "some.gguf"))


# -- weights -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    made = model()
    numbers = [0.5] * (WIDTH * WIDTH)
    numbers[77] = numbers[-1] = value
    made.tensor("blk.0.attn_v.weight", WIDTH, WIDTH, data=struct.pack("<1024f", *numbers))
    path = made.write(tmp_path / "tiny.gguf")
    reason = "FILE: tensor 'blk.0.attn_v.weight' holds 2 values that are not finite numbers\n  its weights are damaged"
    assert refused(lambda: check_model(path), path).startswith(reason)


BAD_SCALES = {
    "F32": b"\0\0\xc0\x7f", "F16": b"\0\x7e", "BF16": b"\xc0\x7f", "F64": b"\0\0\0\0\0\0\xf8\x7f", "Q8_K": b"\0\0\xc0\x7f", "MXFP4": b"\xff",
}  # fmt: skip


@pytest.mark.parametrize("kind", [info.name for info in TENSOR_TYPES.values() if info.scales])
def test_a_bad_number_is_found_in_every_tensor_type(tmp_path: Path, kind: str) -> None:
    layout = TENSOR_TYPES_BY_NAME[kind]
    blocks = 3 * (1024 // layout.block)
    sound = b"".join(b"\x11" * layout.block_bytes for _ in range(blocks))
    if kind == "F64":
        sound = struct.pack(f"<{blocks}d", *[0.5] * blocks)
    for offset, number in layout.scales:
        damaged = bytearray(sound)
        place = (blocks - 2) * layout.block_bytes + offset
        if number == "iq1m":
            struct.pack_into("<4H", damaged, place, 0x0111, 0x0111, 0xE111, 0x7111)
        else:
            bad = BAD_SCALES.get(kind, b"\0\x7e")
            damaged[place : place + len(bad)] = bad
        for content, wrong in ((sound, False), (bytes(damaged), True)):
            made = model()
            made.tensor("blk.0.extra.weight", layout.block, blocks, kind=kind, data=content)
            header = read_header(made.write(tmp_path / "typed.gguf"))
            assert bool(_weights.weight_problems(header)) is wrong, (offset, number)


@pytest.mark.parametrize("name", ["token_embd.weight", "output_norm.weight", "output.weight"])
def test_a_vital_tensor_of_zeros_is_refused(tmp_path: Path, name: str) -> None:
    made = model()
    shape = (WIDTH,) if "norm" in name else (WIDTH, len(TOKENS))
    made.tensor(name, *shape, data=bytes(4 * math.prod(shape)))
    path = made.write(tmp_path / "tiny.gguf")
    assert f"FILE: tensor {name!r} holds nothing but zeros\n" in refused(lambda: check_model(path), path)


def test_a_model_of_zeros_is_refused_and_one_zero_matrix_is_not(tmp_path: Path) -> None:
    made = model()
    made.tensor("blk.0.attn_output.weight", WIDTH, WIDTH, data=struct.pack("<1024f", *[-0.0] * 1024))
    check_model(made.write(tmp_path / "one.gguf"))
    for name, (shape, _, data) in list(made.tensors.items()):
        if name.startswith("blk") and len(shape) == 2:
            made.tensor(name, *shape, data=bytes(len(data)))
    path = made.write(tmp_path / "all.gguf")
    assert "7 of its 8 matrices hold nothing but zeros" in refused(lambda: check_model(path), path)


def test_weights_are_scanned_once_for_each_state_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = model().write(tmp_path / "tiny.gguf")
    scans: list[Path] = []

    def scan(header: GGUFHeader) -> list[str]:
        scans.append(header.path)
        return []

    monkeypatch.setattr(_gguf, "weight_problems", scan)
    check_model(path)
    check_model(path)
    assert len(scans) == 1
    model().write(path)
    check_model(path)
    assert len(scans) == 2


def test_a_remembered_verdict_is_given_again(tmp_path: Path) -> None:
    made = model()
    made.tensor("output_norm.weight", WIDTH, data=struct.pack("<32f", *[math.nan] * 32))
    path = made.write(tmp_path / "tiny.gguf")
    first, second = (refused(lambda: check_model(path), path) for _ in range(2))
    assert first == second


def test_a_damaged_memory_is_an_empty_one(tmp_path: Path) -> None:
    path = model().write(tmp_path / "tiny.gguf")
    check_model(path)
    (record,) = (tmp_path / "cache" / "gristmill" / "model-files").iterdir()
    whole = record.read_bytes()
    for content in (b"", b"{", b"[1]", whole[:50], whole.replace(b"sha256", b"sha257"), b"[" * 100_000):
        record.write_bytes(content)
        check_model(path)
        assert json.loads(record.read_bytes())["facts"].items() >= json.loads(whole)["facts"].items()


def test_a_model_is_checked_where_nothing_can_be_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    check_model(model().write(tmp_path / "tiny.gguf"))


def test_many_threads_may_check_one_file(tmp_path: Path) -> None:
    path = model().write(tmp_path / "tiny.gguf")
    with ThreadPoolExecutor(8) as pool:
        headers = list(pool.map(check_model, [path] * 16))
    assert {header.vocabulary_digest for header in headers} == {read_header(path).vocabulary_digest}


# -- adapters ------------------------------------------------------------------------------------------------------------


def test_an_adapter_made_for_the_model_passes(tmp_path: Path, base: GGUFHeader) -> None:
    assert check_adapter(adapter().write(tmp_path / "lora.gguf"), base).metadata["adapter.type"] == "lora"


def test_an_adapter_without_alpha_passes(tmp_path: Path, base: GGUFHeader) -> None:
    made = adapter()
    del made.metadata["adapter.lora.alpha"]
    check_adapter(made.write(tmp_path / "lora.gguf"), base)


def test_an_adapter_of_the_embedding_passes_only_where_the_output_is_another_matrix(
    tmp_path: Path, base: GGUFHeader
) -> None:
    made = adapter()
    made.tensor("token_embd.weight.lora_a", 4, len(TOKENS))
    made.tensor("token_embd.weight.lora_b", 4, WIDTH)
    path = made.write(tmp_path / "lora.gguf")
    reason = "it adapts 'token_embd.weight', which base.gguf uses for its output as well"
    assert reason in refused(lambda: check_adapter(path, base), path)
    untied = model()
    untied.tensor("output.weight", WIDTH, len(TOKENS))
    check_adapter(path, check_model(untied.write(tmp_path / "untied.gguf")))


def nan_tensor(made: Gguf) -> None:
    made.tensor("blk.0.attn_q.weight.lora_a", WIDTH, 4, data=struct.pack("<128f", *[math.nan] * 128))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda made: made.metadata.pop("general.type"), "'general.type' is None, not 'adapter'"),
        (lambda made: made.metadata.update({"general.type": ("str", "model")}), "'general.type' is 'model', not 'adapter'"),
        (lambda made: made.metadata.update({"general.type": ("u32", 1)}), "'general.type' is 1, not 'adapter'"),
        (lambda made: made.metadata.update({"adapter.type": ("str", "ia3")}), "'adapter.type' is 'ia3', not 'lora'"),
        (lambda made: made.metadata.update({"general.architecture": ("str", "qwen2")}), "it is for the architecture 'qwen2'; base.gguf is 'llama'"),
        (
            lambda made: made.metadata.update({"adapter.alora.invocation_tokens": ("[u32]", [1])}),
            "it is an activated LoRA ('adapter.alora.invocation_tokens'), which is not supported",
        ),
        (lambda made: made.tensors.clear(), "it holds no tensors, so it would change nothing"),
        (lambda made: made.metadata.update({"adapter.lora.alpha": ("str", "16")}), "'adapter.lora.alpha' is of type str, not f32"),
        (lambda made: made.metadata.update({"adapter.lora.alpha": ("f32", math.nan)}), "'adapter.lora.alpha' is nan, not a finite number"),
        (lambda made: made.metadata.update({"adapter.lora.alpha": ("f32", 1e30)}), "'adapter.lora.alpha' is 1.0000000150474662e+30, not a finite"),
        (lambda made: made.tensors.pop("blk.0.attn_q.weight.lora_b"), "tensor 'blk.0.attn_q.weight.lora_a' has no lora_b beside it"),
        (lambda made: made.tensors.pop("blk.0.attn_q.weight.lora_a"), "tensor 'blk.0.attn_q.weight.lora_b' has no lora_a beside it"),
        (lambda made: made.tensor("blk.0.attn_norm.weight", WIDTH), "tensor 'blk.0.attn_norm.weight' is neither a lora_a nor a lora_b"),
        (
            lambda made: [made.tensor("blk.9.attn_q.weight.lora_a", WIDTH, 4), made.tensor("blk.9.attn_q.weight.lora_b", 4, WIDTH)],
            "tensor 'blk.9.attn_q.weight' does not exist in base.gguf",
        ),
        (
            lambda made: [made.tensor("output_norm.weight.lora_a", WIDTH, 4), made.tensor("output_norm.weight.lora_b", 4, WIDTH)],
            "'output_norm.weight' is 32 and its adapter 32 x 4 and 4 x 32: only matrices are adapted",
        ),
        (lambda made: made.tensor("blk.0.attn_q.weight.lora_b", 8, WIDTH), "'blk.0.attn_q.weight': lora_a has rank 4 and lora_b rank 8"),
        (lambda made: made.tensor("blk.0.attn_q.weight.lora_a", 64, 4), "'blk.0.attn_q.weight' is 32 x 32, and its adapter is made for 64 x 32"),
        (
            lambda made: [made.tensor("blk.0.attn_q.weight.lora_a", WIDTH, 64), made.tensor("blk.0.attn_q.weight.lora_b", 64, WIDTH)],
            "'blk.0.attn_q.weight': a rank of 64 is more than the matrix has",
        ),
        (
            lambda made: made.tensor("blk.0.attn_q.weight.lora_a", WIDTH, 4, kind="I8", data=bytes(128)),
            "tensor 'blk.0.attn_q.weight.lora_a' is of type I8; adapters are F32, F16, BF16 or Q8_0",
        ),
        (nan_tensor, "tensor 'blk.0.attn_q.weight.lora_a' holds 128 values that are not finite numbers"),
    ],
)  # fmt: skip
def test_an_adapter_that_does_not_fit_is_refused(
    tmp_path: Path, base: GGUFHeader, change: Callable[[Gguf], Any], reason: str
) -> None:
    made = adapter()
    change(made)
    path = made.write(tmp_path / "lora.gguf")
    assert reason in refused(lambda: check_adapter(path, base), path)


def test_a_model_given_as_an_adapter_is_refused(tmp_path: Path, base: GGUFHeader) -> None:
    path = model().write(tmp_path / "model.gguf")
    assert "it is a whole model, not an adapter" in refused(lambda: check_adapter(path, base), path)


def test_everything_wrong_with_an_adapter_is_told_at_once(tmp_path: Path, base: GGUFHeader) -> None:
    made = adapter()
    made.metadata["adapter.lora.alpha"] = ("f32", math.inf)
    made.tensor("blk.0.attn_q.weight.lora_b", 8, WIDTH)
    nan_tensor(made)
    message = refused(lambda: check_adapter(path, base), path := made.write(tmp_path / "lora.gguf"))
    for part in (
        "'adapter.lora.alpha' is inf",
        "rank 4 and lora_b rank 8",
        "not finite",
        "was it trained for base.gguf?",
    ):
        assert part in message


# -- a folder of bad files -----------------------------------------------------------------------------------------------

FOLDER = os.environ.get("GRISTMILL_BAD_INPUTS", "")
FOUND = sorted(Path(FOLDER, "gguf").glob("*.gguf")) if FOLDER else []
SOUND = {
    "00_valid",  # what the others were made from
    "06_version_2",  # older, and read by llama.cpp as well
    "84_unknown_pre",  # refused by llama.cpp itself, cleanly; its list of names grows with every release
    "lora_00_valid",
    "lora_no_alpha",  # llama.cpp takes the rank for it
}


@pytest.mark.skipif(not FOUND, reason="set GRISTMILL_BAD_INPUTS to a folder with gguf/*.gguf")
@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_a_bad_file_is_refused_and_a_sound_one_is_not(path: Path) -> None:
    def use() -> None:
        if path.name.startswith("lora"):
            check_adapter(path, read_header(path.with_name("00_valid.gguf")))
        else:
            check_model(path)

    if path.stem in SOUND or (path.stem.startswith("tpl_") and path.stem != "tpl_is_int"):
        use()  # a template is tried when it is first used
    else:
        refused(use, path)
