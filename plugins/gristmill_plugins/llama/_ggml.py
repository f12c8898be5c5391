"""What the llama.cpp that this plugin is pinned to knows: tensor types, architectures and limits.

It reads nothing. Invariant: it agrees with the pinned llama-cpp-python release, and `tests/integration` compares it
with the installed library; the numbers are llama.cpp's ggml-common.h, llama-arch.cpp and llama-hparams.h.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

MAX_LAYERS = 512
"""LLAMA_MAX_LAYERS; one more is an abort, not an error."""
MAX_EXPERTS = 1024
"""LLAMA_MAX_EXPERTS."""


@dataclass(frozen=True, slots=True)
class TensorType:
    """How ggml lays out a tensor type: blocks of `block` elements in `block_bytes` bytes.

    `scales` are the places in a block that hold floating-point numbers: (byte offset, number format).
    """

    name: str
    block: int
    block_bytes: int
    scales: tuple[tuple[int, str], ...] = ()

    def size_bytes(self, shape: tuple[int, ...]) -> int:
        return math.prod(shape) // self.block * self.block_bytes


def _quantised(name: str, block: int, block_bytes: int, *offsets: int) -> TensorType:
    return TensorType(name, block, block_bytes, tuple((offset, "f16") for offset in offsets))


TENSOR_TYPES: Mapping[int, TensorType] = MappingProxyType(
    {
        0: TensorType("F32", 1, 4, ((0, "f32"),)),
        1: TensorType("F16", 1, 2, ((0, "f16"),)),
        2: _quantised("Q4_0", 32, 18, 0),
        3: _quantised("Q4_1", 32, 20, 0, 2),
        6: _quantised("Q5_0", 32, 22, 0),
        7: _quantised("Q5_1", 32, 24, 0, 2),
        8: _quantised("Q8_0", 32, 34, 0),
        9: _quantised("Q8_1", 32, 36, 0, 2),
        10: _quantised("Q2_K", 256, 84, 80, 82),
        11: _quantised("Q3_K", 256, 110, 108),
        12: _quantised("Q4_K", 256, 144, 0, 2),
        13: _quantised("Q5_K", 256, 176, 0, 2),
        14: _quantised("Q6_K", 256, 210, 208),
        15: TensorType("Q8_K", 256, 292, ((0, "f32"),)),
        16: _quantised("IQ2_XXS", 256, 66, 0),
        17: _quantised("IQ2_XS", 256, 74, 0),
        18: _quantised("IQ3_XXS", 256, 98, 0),
        19: _quantised("IQ1_S", 256, 50, 0),
        20: _quantised("IQ4_NL", 32, 18, 0),
        21: _quantised("IQ3_S", 256, 110, 0),
        22: _quantised("IQ2_S", 256, 82, 0),
        23: _quantised("IQ4_XS", 256, 136, 0),
        24: TensorType("I8", 1, 1),
        25: TensorType("I16", 1, 2),
        26: TensorType("I32", 1, 4),
        27: TensorType("I64", 1, 8),
        28: TensorType("F64", 1, 8, ((0, "f64"),)),
        29: TensorType("IQ1_M", 256, 56, ((48, "iq1m"),)),
        30: TensorType("BF16", 1, 2, ((0, "bf16"),)),
        34: _quantised("TQ1_0", 256, 54, 52),
        35: _quantised("TQ2_0", 256, 66, 64),
        39: TensorType("MXFP4", 32, 17, ((0, "e8m0"),)),
        40: TensorType("NVFP4", 64, 36),  # its scales cannot hold a NaN
        41: _quantised("Q1_0", 128, 18, 0),
        42: _quantised("Q2_0", 64, 18, 0),
    }
)
TENSOR_TYPES_BY_NAME: Mapping[str, TensorType] = MappingProxyType({each.name: each for each in TENSOR_TYPES.values()})

NO_WEIGHT_TYPES = frozenset({"I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K"})
"""Types that matrices cannot have: integers and intermediate results. (DeepSeek's tid2eid is a table.)"""

_ARCHITECTURES = """
afmoe apertus arcee arctic arwkv7 baichuan bailingmoe bailingmoe2 bailingmoe3 bert bitnet bloom chameleon chatglm
codeshell cogvlm cohere2 cohere2moe command-r dbrx deci deepseek deepseek2 deepseek2-ocr deepseek32 deepseek4 dflash
dots1 dots3note dream eagle3 ernie4_5 ernie4_5-moe eurobert exaone exaone-moe exaone4 falcon falcon-h1 gemma
gemma-embedding gemma2 gemma3 gemma3n gemma4 gemma4-assistant glm-dsa glm4 glm4moe glm5-next gpt-oss gpt2 gptj
gptneox granite granite_swa granitehybrid granitemoe graniteswitch grok grovemoe hrm_text hunyuan-dense hunyuan-moe
hunyuan_vl hy_v3 hy_v4 internlm2 jais jais2 jamba jina-bert-v2 jina-bert-v3 kimi-k3 kimi-linear laguna lfm2 lfm2moe
llada llada-moe llama llama-embed llama4 maincoder mamba mamba2 maple mellum mimo2 minicpm minicpm3 minimax-01
minimax-m2 minimax-m3 mistral3 mistral4 modern-bert mpt muse-glimmer nanbeige nemotron nemotron_h nemotron_h_moe
neo-bert nomic-bert nomic-bert-moe olmo olmo2 olmoe openelm orion paddleocr pangu-embedded phi2 phi3 phimoe plamo
plamo2 plamo3 plm pockettts qwen qwen2 qwen2moe qwen2vl qwen3 qwen35 qwen35moe qwen3moe qwen3next qwen3tts qwen3vl
qwen3vlmoe qwen4exp refact rnd1 rwkv6 rwkv6qwen2 rwkv7 seed_oss smallthinker smollm3 spark2_5 stablelm starcoder
starcoder2 step35 t5 t5encoder talkie wavtokenizer-dec xverse
"""
ARCHITECTURES = frozenset(_ARCHITECTURES.split())
"""What `general.architecture` may be. Not here: "clip", an image encoder, which cannot be a model of its own."""

RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
"""Architectures without attention heads."""

PLAIN_DECODERS = frozenset({"llama", "qwen2", "qwen3", "smollm3", "gemma"})
"""Architectures whose every tensor follows from the metadata, so that names and shapes are compared."""

TOKENIZERS = frozenset({"llama", "bert", "gpt2", "hybriddna", "whitespace", "t5", "rwkv", "plamo2", "gemma4"})
"""What `tokenizer.ggml.model` may be for a model that reads text."""

ROPE_SCALINGS = frozenset({"none", "linear", "yarn", "longrope"})

SECTIONED_ROPE = frozenset(
    {"qwen2vl", "paddleocr", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen4exp", "qwen3tts"}
)
"""Architectures that turn positions in sections; without any, llama.cpp aborts at the first token."""

MIXTURES = frozenset(
    {"bailingmoe", "bailingmoe2", "exaone-moe", "glm4moe", "grovemoe", "llada-moe", "olmoe", "qwen2moe", "qwen3moe"}
    | {"qwen3vlmoe", "rnd1", "smallthinker"}
)
"""Architectures whose code asserts that there are experts."""
