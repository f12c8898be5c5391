"""Adapter files: read, judged, converted, blended and merged, on a model and adapters of a few kilobytes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gristmill import FunctionError, GristmillError, ModelError, UsageError

pytest.importorskip("gguf", reason="the extra gristmill[adapters] is not installed")
np = pytest.importorskip("numpy")

from gguf import GGUFWriter  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

from gristmill_plugins.adapters._adapter import Adapter, Pair, read_adapter, read_tensor, write_adapter  # noqa: E402
from gristmill_plugins.adapters._blend import blend_adapters, merge_adapters, weights_of  # noqa: E402
from gristmill_plugins.adapters._convert import convert_adapter, permuted  # noqa: E402
from gristmill_plugins.adapters._inspect import inspect_adapter, list_adapters, verify_adapter  # noqa: E402
from gristmill_plugins.adapters._llama import llama  # noqa: E402

WIDTH, INNER, HEADS, SHARED, TOKENS = 16, 24, 4, 2, 40
Q, V, EMBEDDING, OUTPUT = "blk.0.attn_q.weight", "blk.0.attn_v.weight", "token_embd.weight", "output.weight"
SHAPES = {EMBEDDING: (TOKENS, WIDTH), OUTPUT: (TOKENS, WIDTH), "output_norm.weight": (WIDTH,)} | {
    f"blk.{layer}.{name}.weight": shape
    for layer in (0, 1)
    for name, shape in (
        ("attn_norm", (WIDTH,)), ("attn_q", (WIDTH, WIDTH)), ("attn_k", (WIDTH // 2, WIDTH)),
        ("attn_v", (WIDTH // 2, WIDTH)), ("attn_output", (WIDTH, WIDTH)), ("ffn_norm", (WIDTH,)),
        ("ffn_gate", (INNER, WIDTH)), ("ffn_up", (INNER, WIDTH)), ("ffn_down", (WIDTH, INNER)),
    )
}  # fmt: skip
BAD_INPUTS = Path(os.environ.get("GRISTMILL_BAD_INPUTS", "/nowhere")) / "gguf"


def numbers(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0, 0.5, shape).astype(np.float32)


def pair(outputs: int = WIDTH, inputs: int = WIDTH, rank: int = 2, seed: int = 0) -> Pair:
    return Pair(numbers(rank, inputs, seed=seed), numbers(outputs, rank, seed=seed + 100))


def adapter(path: Path, pairs: dict[str, Pair] | None = None, alpha: float = 8.0) -> Path:
    return write_adapter(Adapter("llama", pairs or {Q: pair()}, alpha), path)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A llama of two layers, whose output is a matrix of its own."""
    path = tmp_path / "base.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_name("Tiny")
    writer.add_block_count(2)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(SHARED)
    writer.add_token_list([f"t{n}" for n in range(TOKENS)])
    writer.add_file_type(0)
    for seed, (name, shape) in enumerate(SHAPES.items()):
        writer.add_tensor(name, numbers(*shape, seed=seed))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def weight(path: Path, name: str) -> Any:
    header = llama().read_gguf(path)
    return read_tensor(path, next(tensor for tensor in header["tensors"] if tensor["name"] == name))


# -- files -----------------------------------------------------------------------------------------------------------


def test_an_adapter_that_is_written_is_read_as_it_was(tmp_path: Path) -> None:
    made = Adapter("llama", {Q: pair(), EMBEDDING: pair(TOKENS, WIDTH, rank=3)}, 8.0, name="skill")
    read = read_adapter(write_adapter(made, tmp_path / "a.gguf"))
    assert (read.architecture, read.alpha, read.name) == ("llama", 8.0, "skill")
    for name, wanted in made.pairs.items():
        assert np.array_equal(read.pairs[name].a, wanted.a)
        assert np.array_equal(read.pairs[name].b, wanted.b)
    assert read.scale(Q) == 4.0
    assert read.scale(EMBEDDING) == pytest.approx(8 / 3)


def test_the_embeddings_pair_lies_in_the_file_as_llama_cpp_reads_it(tmp_path: Path) -> None:
    path = adapter(tmp_path / "a.gguf", {EMBEDDING: pair(TOKENS, WIDTH, rank=3)})
    shapes = {tensor["name"]: tensor["shape"] for tensor in llama().read_gguf(path)["tensors"]}
    assert shapes == {"token_embd.weight.lora_a": (3, TOKENS), "token_embd.weight.lora_b": (3, WIDTH)}


def test_inspect_says_what_a_file_holds(tmp_path: Path) -> None:
    path = adapter(tmp_path / "a.gguf", {Q: pair(), "blk.1.attn_q.weight": pair(), V: pair(WIDTH // 2, rank=4)}, 16.0)
    info = inspect_adapter(path)
    assert (info.architecture, info.ranks, info.alpha, info.format) == ("llama", (2, 4), 16.0, "F32")
    assert info.targets == {"attn_q": 2, "attn_v": 1}
    assert info.n_parameters == 2 * (2 * WIDTH * 2) + 4 * (WIDTH + WIDTH // 2)
    assert info.changes
    assert len(info.sha256) == 64
    assert info.size_bytes == path.stat().st_size


def test_f16_is_half_the_size_and_nearly_the_same(tmp_path: Path) -> None:
    made = Adapter("llama", {Q: pair(rank=8)}, 8.0)
    whole, half = write_adapter(made, tmp_path / "a.gguf"), write_adapter(made, tmp_path / "b.gguf", type="F16")
    assert half.stat().st_size < whole.stat().st_size - 400
    assert np.allclose(read_adapter(half).pairs[Q].a, made.pairs[Q].a, atol=1e-3)
    huge = Adapter("llama", {Q: Pair(made.pairs[Q].a * 1e6, made.pairs[Q].b)}, 8.0)
    with pytest.raises(ModelError, match="lora_a is too large for F16"):
        write_adapter(huge, tmp_path / "c.gguf", type="F16")
    assert not (tmp_path / "c.gguf").exists()


def test_no_file_is_overwritten(tmp_path: Path) -> None:
    path = adapter(tmp_path / "a.gguf")
    with pytest.raises(UsageError, match="exists already"):
        adapter(path)
    with pytest.raises(UsageError, match="there is no folder"):
        adapter(tmp_path / "none" / "a.gguf")


def raw_adapter(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], Any]) -> Path:
    """Write an adapter that `change` has damaged; it gets the text values and the tensors."""
    texts: dict[str, Any] = {"general.type": "adapter", "adapter.type": "lora"}
    tensors: dict[str, Any] = {f"{Q}.lora_a": numbers(2, WIDTH), f"{Q}.lora_b": numbers(WIDTH, 2)}
    texts["alpha"] = 8.0
    change(texts, tensors)
    writer = GGUFWriter(path, "llama")
    alpha = texts.pop("alpha")
    for key, value in texts.items():
        writer.add_string(key, value)
    if alpha is not None:
        writer.add_float32("adapter.lora.alpha", alpha)
    for name, value in tensors.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda texts, _: texts.update({"general.type": "model"}), "'general.type' is 'model', not 'adapter'"),
        (lambda texts, _: texts.update({"adapter.type": "ia3"}), "'adapter.type' is 'ia3', not 'lora'"),
        (lambda texts, _: texts.update({"adapter.alora.invocation_tokens": "x"}), "an activated LoRA"),
        (lambda texts, _: texts.update(alpha=float("nan")), "'adapter.lora.alpha' is nan, not a finite number"),
        (lambda _, tensors: tensors.pop(f"{Q}.lora_b"), f"tensor '{Q}.lora_a' has no lora_b beside it"),
        (lambda _, tensors: tensors.update(x=numbers(2, 2)), "tensor 'x' is neither a lora_a nor a lora_b"),
        (lambda _, tensors: tensors.clear(), "it holds no tensors"),
        (lambda _, tensors: tensors.update({f"{Q}.lora_b": numbers(WIDTH, 3)}), "lora_a has rank 2 and lora_b rank 3"),
        (lambda _, tensors: tensors.update({f"{Q}.lora_b": numbers(WIDTH)}), "is no matrix"),
        (lambda _, tensors: tensors[f"{Q}.lora_a"].fill(np.nan), "lora_a holds 32 values that are not finite numbers"),
        (
            lambda _, tensors: tensors.update({f"{Q}.lora_a": np.zeros((2, WIDTH), np.int8)}),
            "is of type I8; adapters are F32, F16, BF16 or Q8_0",
        ),
    ],
)
def test_a_damaged_adapter_is_refused_with_the_reason_by_inspect_and_by_verify(
    tmp_path: Path, base: Path, change: Callable[[Any, Any], Any], reason: str
) -> None:
    path = raw_adapter(tmp_path / "bad.gguf", change)
    with pytest.raises(ModelError) as caught:
        inspect_adapter(path)
    assert reason in str(caught.value)
    assert caught.value.message.startswith(f"{path}: ")
    assert caught.value.hint
    verdict = verify_adapter(path, str(base))
    assert not verdict.fits
    assert str(path) in verdict.reason
    assert verdict.hint


def test_an_adapter_without_alpha_is_not_scaled(tmp_path: Path) -> None:
    path = raw_adapter(tmp_path / "a.gguf", lambda texts, _: texts.update(alpha=None))
    assert read_adapter(path).scale(Q) == 1.0


def test_verify_says_whether_an_adapter_fits_its_base(tmp_path: Path, base: Path) -> None:
    good = verify_adapter(adapter(tmp_path / "good.gguf"), str(base))
    assert good.fits
    assert "its 1 pairs fit" in good.reason
    for name, pairs, reason in (
        ("layer", {"blk.9.attn_q.weight": pair()}, "tensor 'blk.9.attn_q.weight' does not exist in base.gguf"),
        ("shape", {Q: pair(inputs=8)}, f"{Q!r} is 16 x 16, and its adapter is made for 8 x 16"),
        ("zero", {Q: Pair(pair().a, pair().b * 0)}, "every change it makes is zero: it was not trained"),
    ):
        verdict = verify_adapter(adapter(tmp_path / f"{name}.gguf", pairs), str(base))
        assert (verdict.fits, reason in verdict.reason) == (False, True), verdict.reason
    with pytest.raises(ModelError, match="there is no such file"):
        verify_adapter(tmp_path / "good.gguf", str(tmp_path / "none.gguf"))


def test_list_shows_adapters_and_what_is_wrong_with_others_but_no_models(tmp_path: Path, base: Path) -> None:
    adapter(tmp_path / "good.gguf")
    (tmp_path / "page.gguf").write_text("<html>404</html>")
    found = {Path(info.path).name: info for info in list_adapters(tmp_path)}
    assert set(found) == {"good.gguf", "page.gguf"}
    assert found["good.gguf"].targets == {"attn_q": 1}
    assert "it is a web page, not a model" in found["page.gguf"].error
    with pytest.raises(UsageError, match="is no folder"):
        list_adapters(base)


BAD_ADAPTERS = sorted(path.name for path in BAD_INPUTS.glob("lora_*"))


@pytest.mark.skipif(not BAD_ADAPTERS, reason="GRISTMILL_BAD_INPUTS names no folder with gguf/lora_*.gguf")
@pytest.mark.parametrize("name", BAD_ADAPTERS)
def test_a_hostile_adapter_is_refused_with_a_reason(name: str) -> None:
    verdict = verify_adapter(BAD_INPUTS / name, str(BAD_INPUTS / "00_valid.gguf"))
    assert verdict.fits == (name in {"lora_00_valid.gguf", "lora_no_alpha.gguf"})
    assert len(verdict.reason) > len(str(BAD_INPUTS / name)) + 10


# -- conversion ------------------------------------------------------------------------------------------------------

CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "bias": "none", "target_modules": ["q_proj"]}
MODULE = "base_model.model.model.layers.0.self_attn.q_proj"


def peft(folder: Path, tensors: dict[str, Any] | None = None, **config: Any) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    if tensors is None:
        tensors = {f"{MODULE}.lora_A.weight": pair().a, f"{MODULE}.lora_B.weight": pair().b}
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def test_the_rows_of_queries_are_put_into_llama_cpps_order() -> None:
    rows = np.arange(8, dtype=np.float32).reshape(8, 1)
    assert permuted(rows, 2).ravel().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert permuted(rows, None) is rows


def test_a_peft_adapter_becomes_gguf(tmp_path: Path, base: Path) -> None:
    tensors = {}
    for module, outputs in (("self_attn.q_proj", WIDTH), ("self_attn.k_proj", WIDTH // 2), ("mlp.up_proj", INNER)):
        made = pair(outputs, seed=outputs)
        tensors[f"base_model.model.model.layers.1.{module}.lora_A.weight"] = made.a
        tensors[f"base_model.model.model.layers.1.{module}.lora_B.weight"] = made.b
    info = convert_adapter(peft(tmp_path / "peft", tensors), str(base), tmp_path / "out.gguf")
    assert info.targets == {"attn_q": 1, "attn_k": 1, "ffn_up": 1}
    assert (info.alpha, info.base, info.name) == (8.0, "Tiny", "peft")
    pairs = read_adapter(tmp_path / "out.gguf").pairs
    query, key, up = (pairs[f"blk.1.{name}.weight"] for name in ("attn_q", "attn_k", "ffn_up"))
    assert np.array_equal(query.a, pair(WIDTH, seed=WIDTH).a)
    assert np.array_equal(query.b, permuted(pair(WIDTH, seed=WIDTH).b, HEADS))
    assert np.array_equal(key.b, permuted(pair(WIDTH // 2, seed=WIDTH // 2).b, SHARED))
    assert np.array_equal(up.b, pair(INNER, seed=INNER).b)


def test_every_way_to_scale_gives_the_change_that_peft_makes(tmp_path: Path, base: Path) -> None:
    other = "base_model.model.model.layers.1.self_attn.v_proj"
    value = pair(WIDTH // 2, rank=4, seed=3)
    tensors = {
        f"{MODULE}.lora_A.weight": pair().a, f"{MODULE}.lora_B.weight": pair().b,
        f"{other}.lora_A.weight": value.a, f"{other}.lora_B.weight": value.b,
    }  # fmt: skip
    ways: list[tuple[dict[str, Any], float, float]] = [
        ({"rank_pattern": {"v_proj": 4}}, 4.0, 2.0),
        ({"use_rslora": True}, 8 / 2**0.5, 4.0),
        ({"alpha_pattern": {"layers.1.self_attn.v_proj": 3}}, 4.0, 0.75),
    ]
    for number, (config, q_scale, v_scale) in enumerate(ways):
        out = tmp_path / f"{number}.gguf"
        convert_adapter(peft(tmp_path / f"peft{number}", tensors, **config), str(base), out)
        read = read_adapter(out)
        for target, made, scale in ((Q, pair(), q_scale), ("blk.1.attn_v.weight", value, v_scale)):
            b = permuted(made.b, HEADS) if target == Q else made.b
            found = read.scale(target) * read.pairs[target].b @ read.pairs[target].a
            assert np.allclose(found, scale * b @ made.a, atol=1e-5), (config, target)


def test_embedding_and_output_are_converted(tmp_path: Path, base: Path) -> None:
    made = pair(TOKENS, WIDTH)
    tensors = {
        "base_model.model.model.embed_tokens.lora_embedding_A": np.ascontiguousarray(made.b.T),
        "base_model.model.model.embed_tokens.lora_embedding_B": np.ascontiguousarray(made.a.T),
        "base_model.model.lm_head.lora_A.weight": made.a,
        "base_model.model.lm_head.lora_B.weight": made.b,
    }
    convert_adapter(peft(tmp_path / "peft", tensors), str(base), tmp_path / "out.gguf")
    pairs = read_adapter(tmp_path / "out.gguf").pairs
    for name in (EMBEDDING, OUTPUT):
        assert np.allclose(pairs[name].b @ pairs[name].a, made.b @ made.a)


def test_bfloat16_factors_are_read(tmp_path: Path, base: Path) -> None:
    made = pair()
    short = {"a": (made.a.view(np.uint32) >> 16).astype("<u2"), "b": (made.b.view(np.uint32) >> 16).astype("<u2")}
    data, header, at = b"", {}, 0
    for side in "ab":
        end = at + short[side].nbytes
        name = f"{MODULE}.lora_{side.upper()}.weight"
        header[name] = {"dtype": "BF16", "shape": list(short[side].shape), "data_offsets": [at, end]}
        data, at = data + short[side].tobytes(), end
    folder = peft(tmp_path / "peft")
    text = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    convert_adapter(folder, str(base), tmp_path / "out.gguf")
    assert np.allclose(read_adapter(tmp_path / "out.gguf").pairs[Q].a, made.a, rtol=0.01)


@pytest.mark.parametrize(
    ("config", "reasons"),
    [
        ({"peft_type": "IA3"}, ["its kind is 'IA3'; only LORA has a GGUF form"]),
        ({"use_dora": True, "bias": "all"}, ["DoRA, whose magnitudes", "it has retrained biases (bias: 'all')"]),
        ({"modules_to_save": ["lm_head"]}, ["whole modules beside the factors (modules_to_save)"]),
        ({"init_lora_weights": "pissa"}, ["it began as 'pissa', which changes the base's weights"]),
        ({"velora_config": {"rank": 1}}, ["it has 'velora_config', whose meaning is not known here"]),
        ({"trainable_token_indices": [1]}, ["single retrained tokens"]),
        ({"alora_invocation_tokens": [1]}, ["an activated LoRA"]),
        ({"r": 0, "lora_alpha": "8"}, ["'r' is 0, not a number above 0", "'lora_alpha' is '8'"]),
        ({"rank_pattern": [1]}, ["'rank_pattern' is no mapping"]),
    ],
)
def test_what_gguf_adapters_do_not_have_is_refused_all_at_once(
    tmp_path: Path, base: Path, config: dict[str, Any], reasons: list[str]
) -> None:
    with pytest.raises(FunctionError) as caught:
        convert_adapter(peft(tmp_path / "peft", **config), str(base), tmp_path / "out.gguf")
    for reason in reasons:
        assert reason in caught.value.message
    assert caught.value.hint
    assert not (tmp_path / "out.gguf").exists()


def test_tensors_and_modules_that_have_no_place_are_named(tmp_path: Path, base: Path) -> None:
    factors = {f"{MODULE}.lora_A.weight": pair().a, f"{MODULE}.lora_B.weight": pair().b}
    for number, (tensors, reason) in enumerate(
        (
            (factors | {f"{MODULE}.lora_magnitude_vector": numbers(4)}, "is a DoRA magnitude"),
            (
                factors | {"base_model.model.lm_head.weight": numbers(4, 4)},
                "'base_model.model.lm_head.weight' is no LoRA",
            ),
            ({"base_model.model.model.layers.7.mlp.up_proj.lora_A.weight": pair().a}, "has no matrix of its own in"),
            ({f"{MODULE}.lora_A.weight": pair().a}, "has lora_A alone"),
            ({**factors, f"{MODULE}.lora_B.weight": pair(rank=3).b}, "lora_A has rank 2 and lora_B 3"),
            ({**factors, f"{MODULE}.lora_B.weight": pair().b * np.float32("nan")}, "not finite numbers"),
            ({f"{MODULE}.lora_A.weight": pair(inputs=8).a, f"{MODULE}.lora_B.weight": pair().b}, "does not fit"),
        )
    ):
        with pytest.raises(GristmillError) as caught:
            convert_adapter(peft(tmp_path / f"p{number}", tensors), str(base), tmp_path / "out.gguf")
        assert reason in str(caught.value)
        assert not (tmp_path / "out.gguf").exists()


def test_a_folder_that_is_no_adapter_is_refused_and_a_pickle_never_opened(tmp_path: Path, base: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ModelError, match="give the folder that PEFT's save_pretrained wrote"):
        convert_adapter(empty, str(base), tmp_path / "out.gguf")
    (empty / "adapter_config.json").write_text("[]")
    with pytest.raises(ModelError, match="holds no JSON object"):
        convert_adapter(empty, str(base), tmp_path / "out.gguf")
    (empty / "adapter_config.json").write_text(json.dumps(CONFIG))
    (empty / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ModelError, match=r"only adapter_model.bin, a pickle, which is never opened here"):
        convert_adapter(empty, str(base), tmp_path / "out.gguf")
    for content in (b"", b"\xff" * 64, (1 << 60).to_bytes(8, "little") + b"{}"):
        (empty / "adapter_model.safetensors").write_bytes(content)
        with pytest.raises(ModelError, match="cannot be read"):
            convert_adapter(empty, str(base), tmp_path / "out.gguf")


# -- blending and merging --------------------------------------------------------------------------------------------


def change(path: Path, target: str) -> Any:
    read = read_adapter(path)
    if target not in read.pairs:
        return 0.0
    return read.scale(target) * read.pairs[target].b @ read.pairs[target].a


def test_a_blend_changes_as_the_weighted_sum_of_its_parts(tmp_path: Path) -> None:
    one = adapter(tmp_path / "one.gguf", {Q: pair(), V: pair(WIDTH // 2)}, 8.0)
    two = adapter(tmp_path / "two.gguf", {Q: pair(rank=5, seed=7)}, 3.0)
    blend = blend_adapters({one: 0.7, two: -0.3}, tmp_path / "blend.gguf")
    for target in (Q, V):
        assert np.allclose(change(blend, target), 0.7 * change(one, target) - 0.3 * change(two, target), atol=1e-5)
    assert inspect_adapter(blend).ranks == (2, 7)


def test_a_blend_of_equal_ranks_has_an_alpha_that_others_understand(tmp_path: Path) -> None:
    one, two = adapter(tmp_path / "one.gguf"), adapter(tmp_path / "two.gguf", {Q: pair(seed=5)}, 2.0)
    blend = blend_adapters({one: 1.0, two: 2.0}, tmp_path / "blend.gguf")
    assert (read_adapter(blend).alpha, inspect_adapter(blend).ranks) == (4.0, (4,))


def test_what_cannot_be_blended_is_refused(tmp_path: Path) -> None:
    one = adapter(tmp_path / "one.gguf")
    with pytest.raises(FunctionError, match="there is nothing to blend"):
        blend_adapters({one: 0.0}, tmp_path / "blend.gguf")
    gemma = write_adapter(Adapter("gemma", {Q: pair()}, 1.0), tmp_path / "gemma.gguf")
    with pytest.raises(FunctionError, match="different architectures: gemma, llama"):
        blend_adapters({one: 1.0, gemma: 1.0}, tmp_path / "blend.gguf")
    wide = adapter(tmp_path / "wide.gguf", {Q: pair(inputs=32)})
    with pytest.raises(ModelError, match=f"its {Q!r} is of another shape"):
        blend_adapters({one: 1.0, wide: 1.0}, tmp_path / "blend.gguf")


def test_a_merge_adds_the_change_and_keeps_everything_else(tmp_path: Path, base: Path) -> None:
    one = adapter(tmp_path / "one.gguf")
    merged = merge_adapters(str(base), {one: 0.5}, tmp_path / "merged.gguf", format="F32")
    assert np.allclose(weight(merged, Q), weight(base, Q) + 0.5 * change(one, Q), atol=1e-6)
    assert np.array_equal(weight(merged, V), weight(base, V))
    before, after = llama().read_gguf(base), llama().read_gguf(merged)
    assert after["metadata"] == before["metadata"] | {"general.file_type": 0}
    assert [tensor["name"] for tensor in after["tensors"]] == [tensor["name"] for tensor in before["tensors"]]
    half = merge_adapters(str(base), {one: 0.5}, tmp_path / "half.gguf", format="f16")
    assert np.allclose(weight(half, Q), weight(merged, Q), atol=2e-3)
    assert {tensor["type"] for tensor in llama().read_gguf(half)["tensors"]} == {"F32", "F16"}


def test_an_adapter_that_does_not_fit_is_not_merged(tmp_path: Path, base: Path) -> None:
    other = adapter(tmp_path / "other.gguf", {"blk.9.attn_q.weight": pair()})
    with pytest.raises(ModelError, match=r"does not exist in base\.gguf"):
        merge_adapters(str(base), {other: 1.0}, tmp_path / "merged.gguf", format="F32")
    assert not (tmp_path / "merged.gguf").exists()


def test_weights_are_read_from_the_command_line(tmp_path: Path) -> None:
    odd = tmp_path / "a=b.gguf"
    odd.touch()
    assert weights_of(["one.gguf", "two.gguf=0.3", str(odd)]) == {"one.gguf": 1.0, "two.gguf": 0.3, str(odd): 1.0}
    with pytest.raises(UsageError, match="'much' is no number"):
        weights_of(["one.gguf=much"])
    with pytest.raises(UsageError, match="is named twice"):
        weights_of(["one.gguf", "one.gguf=2"])
