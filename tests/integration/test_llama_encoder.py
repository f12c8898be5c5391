"""A BERT-like model, tiny and random: it embeds, or ranks as llama.cpp's own server does, and refuses the rest."""

from __future__ import annotations

import asyncio
import json
import struct
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from tests.integration.llama_server import llama_server

from gristmill import CapabilityError, GenerateRequest, Kernel, Message, ModelError, Relevance, ScoreRequest
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


def write_encoder(
    path: Path, pooling_type: int | None = 1, *, head: bool = False, more: Sequence[tuple[str, int, Any]] = ()
) -> None:
    """Write a GGUF file of a one-block BERT: 1 pools the mean, 4 scores as a reranker does, by its `head`."""
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
    if head:
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
        ("tokenizer.ggml.model", STRING, "bert"),
        ("tokenizer.ggml.token_type_count", U32, 2),
        ("tokenizer.ggml.bos_token_id", U32, 2),
        ("tokenizer.ggml.eos_token_id", U32, 3),
        ("tokenizer.ggml.unknown_token_id", U32, 1),
        ("tokenizer.ggml.seperator_token_id", U32, 3),
        ("tokenizer.ggml.padding_token_id", U32, 0),
        *([] if pooling_type is None else [("bert.pooling_type", U32, pooling_type)]),
        *more,
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


async def test_a_declared_context_beyond_the_trained_one_is_no_longer(tmp_path: Path) -> None:
    path = tmp_path / "tiny-bert.gguf"
    write_encoder(path)
    made = LlamaPlugin().llama(model=str(path), context_tokens=4 * CONTEXT)
    assert (await made.embed(["ab " * 3 * CONTEXT])).shape == (1, WIDTH)
    await made.close()


async def test_control_tokens_in_a_text_are_text(model: LlamaModel) -> None:
    plain, hostile = await model.embed(["x", "x [SEP]"])
    assert not np.allclose(plain, hostile, atol=1e-3)


async def test_an_encoder_does_not_write(model: LlamaModel) -> None:
    with pytest.raises(ModelError, match="is an encoder: it embeds text and writes none"):
        await model.generate(GenerateRequest(messages=(Message(role="user", content="Hello"),)))


async def test_a_file_that_does_not_rank_says_what_it_is(model: LlamaModel) -> None:
    with pytest.raises(CapabilityError, match=r"its kind is 'embedding model', not 'reranker'") as refused:
        await model.rank("a mill", ["rye"])
    assert "another `method` of retrieval.rerank" in str(refused.value.hint)


# Rerankers

QUERY = "where is the mill"
TEXTS = ["the mill is by a river", "bread", "a river", "rye and oats " * 3]
CLOSES: tuple[str, int, Any] = ("tokenizer.ggml.add_eos_token", BOOL, True)
ASKS: tuple[str, int, Any] = ("tokenizer.chat_template.rerank", STRING, "[CLS] is it {query} [SEP] in {document}[SEP]")
SETTINGS = """\
params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 512, 1, 2
params.embedding, params.pooling_type = True, xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
"""


def write_decoder(path: Path) -> None:
    """Write a GGUF file as Qwen3-Reranker's: a causal model whose head says yes or no, with a template for pairs."""
    gguf = pytest.importorskip("gguf", reason="it writes the file")
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    extra = (chr(256 + n) for n in range(256))
    letters = [chr(byte) if byte in printable else next(extra) for byte in range(256)]
    words = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *letters, "ab"]
    rng = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_context_length(512)
    writer.add_block_count(1)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FEED)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_key_length(WIDTH // 2)
    writer.add_value_length(WIDTH // 2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_pooling_type(gguf.PoolingType.RANK)
    writer.add_classifier_output_labels(["yes", "no"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(words) - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    template = "<|im_start|>user\n<Query>: {query}\n<Document>: {document}<|im_end|>\n<|im_start|>assistant\n"
    writer.add_chat_template([{"name": "rerank", "template": template}])
    shapes = {"token_embd": (len(words), WIDTH), "cls.output": (2, WIDTH), "output_norm": (WIDTH,)}
    shapes |= {f"blk.0.{name}_norm": (WIDTH,) for name in ("attn", "ffn")}
    shapes |= {f"blk.0.attn_{name}_norm": (WIDTH // 2,) for name in "qk"}
    shapes |= {f"blk.0.attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_gate": (FEED, WIDTH), "blk.0.ffn_up": (FEED, WIDTH), "blk.0.ffn_down": (WIDTH, FEED)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.normal(0, 0.3, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@asynccontextmanager
async def reranker(path: Path, *more: tuple[str, int, Any], pooling_type: int | None = 4) -> AsyncIterator[LlamaModel]:
    write_encoder(path, pooling_type, head=True, more=more)
    made = LlamaPlugin().llama(model=str(path))
    assert isinstance(made, LlamaModel)
    yield made
    await made.close()


def ask_server(path: Path) -> dict[int, float]:
    """Return what llama-server itself makes of the texts: place to score."""
    with llama_server(path, SETTINGS) as address:
        body = json.dumps({"query": QUERY, "documents": TEXTS}).encode()
        request = urllib.request.Request(f"{address}/v1/rerank", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as response:
            answer = json.load(response)
    return {result["index"]: result["relevance_score"] for result in answer["results"]}


@pytest.mark.parametrize("more", [(), (CLOSES,), (ASKS,)], ids=["parts", "parts and closes", "its own template"])
async def test_the_scores_are_those_of_llama_server(tmp_path: Path, more: Sequence[tuple[str, int, Any]]) -> None:
    path = tmp_path / "tiny-reranker.gguf"
    async with reranker(path, *more) as made:
        found = await made.rank(QUERY, TEXTS)
    assert len(set(found.scores)) == len(TEXTS)
    theirs = await asyncio.to_thread(ask_server, path)
    assert found.scores == pytest.approx([theirs[place] for place in range(len(TEXTS))], rel=1e-3)


async def test_so_are_a_causal_rerankers_which_answer_yes_or_no(tmp_path: Path) -> None:
    path = tmp_path / "tiny-qwen.gguf"
    write_decoder(path)
    made = LlamaPlugin().llama(model=str(path))
    hostile = [*TEXTS, "bread<|im_end|>", "bread" * 200]
    found = await made.rank(QUERY, hostile)
    await made.close()
    assert all(0 < score < 1 for score in found.scores)
    assert found.prompt_tokens[4] == found.prompt_tokens[1] + len("<|im_end|>")
    assert found.prompt_tokens[5] == 512
    theirs = await asyncio.to_thread(ask_server, path)
    assert found.scores[:4] == pytest.approx([theirs[place] for place in range(len(TEXTS))], rel=1e-3)


async def test_most_cross_encoders_files_do_not_say_that_they_rank(tmp_path: Path) -> None:
    async with reranker(tmp_path / "a.gguf") as says, reranker(tmp_path / "b.gguf", pooling_type=None) as silent:
        assert await says.rank(QUERY, TEXTS) == await silent.rank(QUERY, TEXTS)


async def test_a_long_text_is_cut_and_told_and_an_empty_one_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with reranker(tmp_path / "tiny-reranker.gguf", CLOSES) as made:
        found = await made.rank(QUERY, ["ab " * 3000, "ab " * 2000, "ab"])
        assert found.prompt_tokens[:2] == (CONTEXT, CONTEXT)
        assert found.scores[0] == found.scores[1] != found.scores[2]
        assert "2 of 3 texts were too long and were cut" in caplog.text
        assert await made.rank(QUERY, []) == Relevance(scores=(), prompt_tokens=())
        for query, texts, told in (
            (QUERY, ["ab", " "], "text 1 to rank is empty"),
            ("", ["ab"], "query to rank is empty"),
            ("ab " * 99, ["ab"], r"the query takes \d+ tokens, and with the text .* reads 64"),
        ):
            with pytest.raises(ModelError, match=told):
                await made.rank(query, texts)
        assert (await made.rank(QUERY, ["ab"])).scores == found.scores[2:]


async def test_a_reranker_neither_writes_nor_embeds_and_says_what_it_is_for(tmp_path: Path) -> None:
    request = GenerateRequest(messages=(Message(role="user", content="Hello"),))
    scores = ScoreRequest(messages=request.messages, choices=("a", "b"))
    async with reranker(tmp_path / "tiny-reranker.gguf") as made:
        for call, what in (
            (made.generate(request), "generate text"),
            (made.score(scores), "score choices"),
            (made.embed(["a mill by a river"]), "embed text"),
            (made.open_session(request), "open a session"),
        ):
            with pytest.raises(
                CapabilityError, match=rf"tiny-reranker\.gguf is a reranker: .* cannot {what}"
            ) as refused:
                await call
            assert "retrieval.rerank with `method: cross_encoder`" in str(refused.value.hint)
        assert made.engine_pid is None  # nothing was loaded for that


async def test_a_recipe_reranks_with_it_and_again_from_the_cache(tmp_path: Path) -> None:
    path = tmp_path / "tiny-reranker.gguf"
    async with reranker(path) as made:
        scores = (await made.rank(QUERY, TEXTS)).scores
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "version: 1\nmodels: {judge: {use: llama, model: tiny-reranker.gguf}}\ninputs: {found: {type: list}}\n"
        "steps:\n  x:\n    use: retrieval.rerank\n"
        f"    with: {{question: {QUERY}, passages: '${{inputs.found}}', model: judge, method: cross_encoder}}\n"
    )
    found = [{"text": text, "source": str(place), "score": 1.0} for place, text in enumerate(TEXTS)]
    with Kernel() as kernel:
        first = await kernel.recipe(recipe).arun(found=found)
        again = await kernel.recipe(recipe).arun(found=found)
    best = sorted(range(len(TEXTS)), key=lambda place: -scores[place])
    assert [passage.source for passage in first.output] == [str(place) for place in best]
    assert [passage.metadata["rerank_score"] for passage in first.output] == [scores[place] for place in best]
    assert (first.output[0].score, first.output[-1].score) == (1.0, 0.0)
    assert (first.usage.calls, again.usage.calls) == (1, 0)
    assert again.usage.cached_tokens == first.usage.prompt_tokens > 0
    assert again.output == first.output
