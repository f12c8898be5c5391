"""Converted adapters against torch, family by family: a tiny random model of each, written to GGUF here in F32.

The writer is this test's own, from what transformers holds in memory; so an order of rows that `convert` has wrong for
a family shows as other log-probabilities. Skipped where the extra gristmill[train] is not installed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gristmill import GenerateRequest, Message

pytest.importorskip("llama_cpp", reason="the extra gristmill[llama] is not installed")
torch: Any = pytest.importorskip("torch", reason="the extra gristmill[train] is not installed")
peft: Any = pytest.importorskip("peft", reason="the extra gristmill[train] is not installed")
transformers: Any = pytest.importorskip("transformers", reason="the extra gristmill[train] is not installed")

import numpy as np  # noqa: E402
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFWriter, TokenType, get_tensor_name_map  # noqa: E402

from gristmill_plugins.adapters._convert import PERMUTED, PLAIN, convert_adapter, permuted  # noqa: E402
from gristmill_plugins.adapters._llama import llama  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("default::FutureWarning"),
    pytest.mark.filterwarnings("default::DeprecationWarning"),
    pytest.mark.filterwarnings("default::UserWarning"),
]

WIDTH, INNER, HEADS, SHARED, LAYERS = 64, 128, 4, 2, 2
SIZES = {
    "hidden_size": WIDTH, "intermediate_size": INNER, "num_attention_heads": HEADS, "num_key_value_heads": SHARED,
    "num_hidden_layers": LAYERS, "head_dim": WIDTH // HEADS, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
SPLIT = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Family:
    """How transformers names a family, and what its GGUF says beside the sizes."""

    name: str
    targets: tuple[str, ...] = SPLIT
    part: str = ""
    """Of a model of several kinds of input: the part whose configuration is taken."""
    config: dict[str, Any] = field(default_factory=dict)
    facts: Callable[[GGUFWriter], None] | None = None
    norm_offset: float = 0.0
    """Gemma's norms multiply by 1 + weight in torch, and by the weight in GGUF."""


def gemma2_facts(writer: GGUFWriter) -> None:
    writer.add_attn_logit_softcapping(50.0)
    writer.add_final_logit_softcapping(30.0)
    writer.add_sliding_window(256)


def granite_facts(writer: GGUFWriter) -> None:
    writer.add_embedding_scale(2.0)
    writer.add_residual_scale(0.5)
    writer.add_attention_scale(0.3)
    writer.add_logit_scale(4.0)


GRANITE = {
    "embedding_multiplier": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.3, "logits_scaling": 4.0,
}  # fmt: skip
FAMILIES = {
    "llama": Family("Llama"),
    "smollm3": Family("SmolLM3"),
    "arcee": Family("Arcee", tuple(target for target in SPLIT if target != "gate_proj")),
    "granite": Family("Granite", config=GRANITE, facts=granite_facts),
    "qwen2": Family("Qwen2"),
    "qwen3": Family("Qwen3"),
    "gemma": Family("Gemma", norm_offset=1.0),
    "gemma2": Family(
        "Gemma2", config={"query_pre_attn_scalar": WIDTH // HEADS, "sliding_window": 256}, facts=gemma2_facts,
        norm_offset=1.0,
    ),
    "gemma3": Family(
        "Gemma3", part="Text", config={"query_pre_attn_scalar": WIDTH // HEADS, "sliding_window": 256},
        facts=lambda writer: writer.add_sliding_window(256), norm_offset=1.0,
    ),
    "phi3": Family("Phi3", ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")),
}  # fmt: skip


def test_every_family_that_converts_is_checked_here() -> None:
    assert set(FAMILIES) == PERMUTED | PLAIN


@pytest.mark.parametrize("architecture", FAMILIES)
def test_llama_cpp_computes_with_a_converted_adapter_what_peft_computes(architecture: str, tmp_path: Path) -> None:
    family = FAMILIES[architecture]
    torch.manual_seed(0)
    base = random_model(family)
    written = write_gguf(base, architecture, family, tmp_path / "base.gguf")
    model = peft.get_peft_model(base, peft.LoraConfig(r=4, lora_alpha=8, target_modules=list(family.targets)))
    for name, values in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(values, std=0.3)
    model.save_pretrained(str(tmp_path / "peft"), save_embedding_layers=False)
    convert_adapter(tmp_path / "peft", str(written), tmp_path / "out.gguf")
    ids, found, plain = engine_logprobs(written, tmp_path / "out.gguf")
    with torch.no_grad():
        wanted = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0, -1], -1).numpy()
        with model.disable_adapter():
            unchanged = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0, -1], -1).numpy()
    print(  # the table in docs/adapters.md: pytest -s
        f"{architecture}: base {np.abs(plain - unchanged).max():.4f}, adapter {np.abs(found - wanted).max():.4f}, "
        f"its effect {np.abs(found - plain).max():.1f}"
    )
    assert np.abs(plain - unchanged).max() < 0.02  # the engine's cache is in F16
    assert np.abs(found - wanted).max() < 0.05
    assert np.abs(found - plain).max() > 0.5


def random_model(family: Family) -> Any:
    """Return a model whose every weight is random, norms around what they do nothing at."""
    config = getattr(transformers, f"{family.name}{family.part}Config")(
        vocab_size=len(tokens()), **SIZES, **family.config
    )
    model = getattr(transformers, f"{family.name}ForCausalLM")(config).float().eval()
    for name, values in model.named_parameters():
        middle = 1 - family.norm_offset if "norm" in name else 0.0
        torch.nn.init.normal_(values, mean=middle, std=0.1 if "norm" in name else 0.2)
    return model


def tokens() -> list[str]:
    extra = (chr(256 + n) for n in range(256))
    letters = [chr(byte) if byte in PRINTABLE else next(extra) for byte in range(256)]
    return ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *letters, "ab"]


def write_gguf(model: Any, architecture: str, family: Family, path: Path) -> Path:
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(512)
    writer.add_block_count(LAYERS)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(SHARED)
    writer.add_key_length(WIDTH // HEADS)
    writer.add_value_length(WIDTH // HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(rope_base(model.config))
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens()))
    writer.add_file_type(0)
    if family.facts:
        family.facts(writer)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens())
    writer.add_token_types([TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (len(tokens()) - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    add_weights(writer, model, architecture, family.norm_offset)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def rope_base(config: Any) -> float:
    """Return the base of the rotary angles, of full attention where it differs between layers."""
    found = config.rope_parameters
    return float(found.get("full_attention", found)["rope_theta"])


def add_weights(writer: GGUFWriter, model: Any, architecture: str, norm_offset: float) -> None:
    kind = next(arch for arch in MODEL_ARCH if MODEL_ARCH_NAMES[arch] == architecture)
    names = get_tensor_name_map(kind, LAYERS)
    for name, value in model.named_parameters():  # a tied output is not among them
        values = value.detach().numpy()
        if "norm" in name:
            values = values + np.float32(norm_offset)
        for part, heads in (("q_proj.weight", HEADS), ("k_proj.weight", SHARED)):
            if architecture in PERMUTED and name.endswith(part):
                values = np.ascontiguousarray(permuted(values, heads))
        gguf_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert gguf_name, name
        writer.add_tensor(gguf_name, values)


def engine_logprobs(base: Path, adapter: Path) -> tuple[list[int], Any, Any]:
    model: Any = llama().llama(model=str(base), adapters={"x": str(adapter)}, context_tokens=512, reproducible=True)
    says = (Message(role="user", content="abc, a longer text with 17 words"),)

    async def ask() -> tuple[list[int], Any, Any]:
        try:
            found = []
            for adapters in ({"x": 1.0}, {}):
                session = await model.open_session(GenerateRequest(messages=says, adapters=adapters))
                found.append(np.array(await session.next_logprobs()))
            return await model.prompt_ids(says), found[0], found[1]
        finally:
            await model.close()

    return asyncio.run(ask())
