"""A BERT-like embedding model, tiny and random: it embeds, pools as its file says, and refuses to write."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from gristmill import GenerateRequest, Message, ModelError
from gristmill_plugins.llama import LlamaPlugin
from gristmill_plugins.llama._client import LlamaModel

pytestmark = pytest.mark.asyncio(loop_scope="module")

WIDTH, FEED, CONTEXT = 32, 64, 64
U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
FORMATS = {U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def pack(kind: int, value: Any) -> bytes:
    return text(value) if kind == STRING else struct.pack(FORMATS[kind], value)


def write_encoder(path: Path, pooling_type: int = 1) -> None:
    """Write a GGUF file of a one-block BERT: 1 pools the mean, 4 scores as a reranker does."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [f"\u2581{chr(code)}" for code in range(97, 123)] + [chr(code) for code in range(97, 123)]
    words += [f"\u2581{chr(code)}{chr(code)}" for code in range(97, 123)] + [
        f"{chr(code)}{chr(code)}" for code in range(97, 123)
    ]
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(words), WIDTH),
        "token_types.weight": (2, WIDTH),
        "position_embd.weight": (CONTEXT, WIDTH),
        "blk.0.ffn_up.weight": (FEED, WIDTH),
        "blk.0.ffn_up.bias": (FEED,),
        "blk.0.ffn_down.weight": (WIDTH, FEED),
        "blk.0.ffn_down.bias": (WIDTH,),
    }
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        shapes |= {f"blk.0.{name}.weight": (WIDTH, WIDTH), f"blk.0.{name}.bias": (WIDTH,)}
    for name in ("token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm"):
        shapes |= {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}
    if pooling_type == 4:
        shapes |= {"cls.weight": (WIDTH, WIDTH), "cls.bias": (WIDTH,)}
        shapes |= {"cls.output.weight": (1, WIDTH), "cls.output.bias": (1,)}
    metadata: list[tuple[str, int, Any]] = [
        ("general.architecture", STRING, "bert"),
        ("bert.context_length", U32, CONTEXT),
        ("bert.embedding_length", U32, WIDTH),
        ("bert.feed_forward_length", U32, FEED),
        ("bert.block_count", U32, 1),
        ("bert.attention.head_count", U32, 2),
        ("bert.attention.layer_norm_epsilon", F32, 1e-12),
        ("bert.attention.causal", BOOL, False),
        ("bert.pooling_type", U32, pooling_type),
        ("tokenizer.ggml.model", STRING, "bert"),
        ("tokenizer.ggml.token_type_count", U32, 2),
        ("tokenizer.ggml.bos_token_id", U32, 2),
        ("tokenizer.ggml.eos_token_id", U32, 3),
        ("tokenizer.ggml.unknown_token_id", U32, 1),
        ("tokenizer.ggml.seperator_token_id", U32, 3),
        ("tokenizer.ggml.padding_token_id", U32, 0),
    ]
    out = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(metadata) + 2)
    for key, kind, value in metadata:
        out += text(key) + struct.pack("<I", kind) + pack(kind, value)
    kinds = [3] * 5 + [1] * (len(words) - 5)
    out += text("tokenizer.ggml.tokens") + struct.pack("<IIQ", ARRAY, STRING, len(words)) + b"".join(map(text, words))
    out += text("tokenizer.ggml.token_type") + struct.pack(f"<IIQ{len(kinds)}i", ARRAY, I32, len(kinds), *kinds)
    data = b""
    for name, shape in shapes.items():
        out += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), 0, len(data))
        data += rng.normal(0, 0.3, shape).astype(np.float32).tobytes()
        data += bytes(-len(data) % 32)
    path.write_bytes(out + bytes(-len(out) % 32) + data)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LlamaModel]:
    path = tmp_path_factory.mktemp("encoder") / "tiny-bert.gguf"
    write_encoder(path)
    made = LlamaPlugin().llama(model=str(path))
    assert isinstance(made, LlamaModel)
    yield made
    await made.close()


async def test_texts_become_unit_vectors(model: LlamaModel) -> None:
    vectors = await model.embed(["a mill by a river", "a mill by a river", "bread"])
    assert vectors.shape == (3, WIDTH)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1], abs=1e-4)
    assert np.allclose(vectors[0], vectors[1])
    assert not np.allclose(vectors[0], vectors[2], atol=1e-2)


async def test_a_text_beyond_the_context_is_cut(model: LlamaModel) -> None:
    vectors = await model.embed(["abc " * 3000])
    assert vectors.shape == (1, WIDTH)
    assert (await model.embed(["ok"])).shape == (1, WIDTH)


async def test_control_tokens_in_a_text_are_text(model: LlamaModel) -> None:
    plain, hostile = await model.embed(["x", "x [SEP]"])
    assert not np.allclose(plain, hostile, atol=1e-3)


async def test_an_encoder_does_not_write(model: LlamaModel) -> None:
    with pytest.raises(ModelError, match="is an encoder: it embeds text and writes none"):
        await model.generate(GenerateRequest(messages=(Message(role="user", content="Hello"),)))


async def test_a_reranker_has_no_vectors_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "tiny-reranker.gguf"
    write_encoder(path, pooling_type=4)
    made = LlamaPlugin().llama(model=str(path))
    try:
        for _ in range(2):
            with pytest.raises(
                ModelError, match=r"tiny-reranker\.gguf is a reranker: it scores a question with a passage"
            ):
                await made.embed(["a mill by a river"])
    finally:
        await made.close()
