"""Adapters at work: effects computed by hand, blends, merges, cache keys, and hostile files on a running host."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gristmill import GenerateRequest, Kernel, Message, Model, ModelCalled, ModelError, RunError, ScoreRequest

pytest.importorskip("llama_cpp", reason="the extra gristmill[llama] is not installed")
pytest.importorskip("gguf", reason="the extra gristmill[adapters] is not installed")

import numpy as np
from gguf import GGUFWriter, TokenType

from gristmill_plugins.adapters._adapter import Adapter, Pair, write_adapter
from gristmill_plugins.adapters._blend import blend_adapters, merge_adapters
from gristmill_plugins.adapters._commands import app
from gristmill_plugins.adapters._compare import divergence
from gristmill_plugins.adapters._llama import llama

WIDTH, INNER, HEADS = 32, 64, 2
Q, OUTPUT = "blk.0.attn_q.weight", "output.weight"
BAD_INPUTS = Path(os.environ.get("GRISTMILL_BAD_INPUTS", "/nowhere")) / "gguf"
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
SAYS = (Message(role="user", content="abc"),)


def numbers(*shape: int, seed: int, spread: float = 0.3) -> Any:
    return np.random.default_rng(seed).normal(0, spread, shape).astype(np.float32)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of one layer in F32, whose tokens are the bytes and whose output is a matrix of its own."""
    path = tmp_path_factory.mktemp("base") / "tiny.gguf"
    extra = (chr(256 + n) for n in range(256))
    letters = [chr(byte) if byte in PRINTABLE else next(extra) for byte in range(256)]
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *letters, "ab"]
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(256)
    writer.add_block_count(1)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    shapes = {"token_embd": (len(tokens), WIDTH), "output": (len(tokens), WIDTH)}
    shapes |= {f"blk.0.attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_gate": (INNER, WIDTH), "blk.0.ffn_up": (INNER, WIDTH), "blk.0.ffn_down": (WIDTH, INNER)}
    for seed, (name, shape) in enumerate(shapes.items()):
        writer.add_tensor(f"{name}.weight", numbers(*shape, seed=seed))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def output_rows() -> Any:
    return numbers(259 + 1, WIDTH, seed=1)


def on(base: Path, **adapters: Path) -> Model:
    return llama().llama(
        model=str(base), adapters={name: str(path) for name, path in adapters.items()}, context_tokens=256,
        reproducible=True,
    )  # fmt: skip


def logprobs(model: Model, *scales: dict[str, float]) -> list[Any]:
    """Return the log-probabilities of the next token under each set of scales, and close the model."""

    async def all_of_them() -> list[Any]:
        try:
            found = []
            for adapters in scales:
                session = await model.open_session(GenerateRequest(messages=SAYS, adapters=adapters))
                found.append(np.asarray(await session.next_logprobs(), np.float64))
                await session.close()
            return found
        finally:
            await model.close()

    return asyncio.run(all_of_them())


def random_adapter(path: Path, seed: int, rank: int = 2, *, alpha: float = 4.0) -> Path:
    targets = ("attn_q", "attn_k", "attn_v", "attn_output")
    pairs = {
        f"blk.0.{name}.weight": Pair(
            numbers(rank, WIDTH, seed=seed + n, spread=0.5), numbers(WIDTH, rank, seed=seed + n + 50, spread=0.5)
        )
        for n, name in enumerate(targets)
    }
    return write_adapter(Adapter("llama", pairs, alpha), path)


def test_an_adapter_changes_a_logit_by_what_its_factors_say(tiny: Path, tmp_path: Path) -> None:
    """A = W[u] - W[v] reads logit u minus logit v, and B adds that to logit t: all three are known."""
    u, v, t = 100, 120, 140
    rows, up = output_rows(), np.zeros((len(output_rows()), 1), np.float32)
    up[t] = 1
    path = write_adapter(Adapter("llama", {OUTPUT: Pair((rows[u] - rows[v])[None], up)}, 0.5), tmp_path / "known.gguf")
    plain, once, twice = logprobs(on(tiny, known=path), {}, {"known": 1.0}, {"known": 2.0})
    gap = plain[u] - plain[v]
    assert abs(gap) > 0.1
    for scale, changed in ((1.0, once), (2.0, twice)):
        logits = plain.copy()
        logits[t] += scale * 0.5 * gap  # alpha 0.5, rank 1
        expected = logits - np.log(np.exp(logits).sum())
        assert np.allclose(changed, expected, atol=0.02)
    assert abs(twice[t] - plain[t]) > 0.05


def test_a_blend_is_its_parts_applied_together(tiny: Path, tmp_path: Path) -> None:
    one, two = random_adapter(tmp_path / "one.gguf", 10), random_adapter(tmp_path / "two.gguf", 30, 5, alpha=3.0)
    blend = blend_adapters({one: 0.7, two: 0.3}, tmp_path / "blend.gguf")
    parts, plain, alone = logprobs(on(tiny, one=one, two=two), {"one": 0.7, "two": 0.3}, {}, {"one": 1.0})
    (blended,) = logprobs(on(tiny, blend=blend), {"blend": 1.0})
    assert np.allclose(parts, blended, atol=0.01)
    assert np.abs(parts - plain).max() > 0.2
    assert np.abs(parts - alone).max() > 0.2


def test_a_merge_answers_as_base_and_adapter_do(tiny: Path, tmp_path: Path) -> None:
    one = random_adapter(tmp_path / "one.gguf", 10)
    merged = merge_adapters(str(tiny), {one: 1.0}, tmp_path / "merged.gguf")
    found = divergence(str(tiny), {one: 1.0}, str(merged))
    assert found.n_same == found.n == 8
    assert found.mean_nats < 1e-4
    assert found.largest < 0.02
    apart = divergence(str(tiny), {one: 1.0}, str(tiny))
    assert apart.mean_nats > 100 * found.mean_nats


def test_a_merge_into_a_4_bit_base_is_written_in_8_bits_by_llama_cpp(tmp_path: Path) -> None:
    """The bundled model: 4 bits would round the change away."""
    pairs = {
        f"blk.{layer}.attn_output.weight": Pair(
            numbers(4, 576, seed=layer, spread=0.3), numbers(576, 4, seed=layer + 50, spread=0.3)
        )
        for layer in range(24, 30)
    }
    path = write_adapter(Adapter("llama", pairs, 4.0), tmp_path / "a.gguf")
    merged = merge_adapters("smollm2", {path: 1.0}, tmp_path / "merged.gguf")
    plugin = llama()
    assert plugin.describe_model("smollm2")["quantisation"] == "Q4_1"
    assert plugin.describe_model(str(merged))["quantisation"] == "Q8_0"
    near, far = divergence("smollm2", {path: 1.0}, str(merged)), divergence("smollm2", {path: 1.0}, "smollm2")
    assert near.mean_nats < far.mean_nats / 10
    assert list(tmp_path.glob(".*")) == []


def recipe(folder: Path, base: Path, **adapters: Path) -> Path:
    path = folder / "r.yaml"
    declared = json.dumps({name: str(file) for name, file in adapters.items()})
    path.write_text(
        f"version: 1\nmodels:\n  main: {{use: llama, model: {json.dumps(str(base))}, context_tokens: 256, "
        f"adapters: {declared}}}\nsteps:\n"
        "  offered: {use: adapters.list}\n"
        "  seen: {use: adapters.inspect, with: {path: one.gguf}}\n"
        "  fits: {use: adapters.verify, with: {path: one.gguf}}\n"
        "  plain: {prompt: abc, choices: [x, y]}\n"
        "  skilled: {prompt: abc, choices: [x, y], adapters: {one: 1.0}}\n"
        "output: {offered: '${offered}', rank: '${seen.ranks[0]}', fits: '${fits.fits}', "
        "plain: '${plain.probabilities}', skilled: '${skilled.probabilities}'}\n"
    )
    return path


def test_steps_name_inspect_and_verify_adapters_and_another_file_is_another_cache_entry(
    tiny: Path, tmp_path: Path
) -> None:
    one = random_adapter(tmp_path / "one.gguf", 10)
    with Kernel() as kernel:
        path = recipe(tmp_path, tiny, one=one)
        first = kernel.recipe(path).run()
        again = kernel.recipe(path).run()
    assert [offer.name for offer in first.steps["offered"].value] == ["one"]
    assert first.output["rank"] == 2
    assert first.output["fits"] is True
    assert first.output["plain"] != first.output["skilled"]
    assert again.output == first.output
    assert [event.n_cached for event in again.trace if isinstance(event, ModelCalled)] == [1, 1]
    one.unlink()
    random_adapter(one, 77)
    with Kernel() as kernel:
        other = kernel.recipe(path).run()
    assert [event.n_cached for event in other.trace if isinstance(event, ModelCalled)] == [0, 0]
    assert other.output["skilled"] != first.output["skilled"]


def test_a_recipe_cannot_blend_files_outside_its_folder(tmp_path: Path) -> None:
    outside = random_adapter(tmp_path / "out.gguf", 10)
    folder = tmp_path / "inside"
    folder.mkdir()
    path = folder / "r.yaml"
    path.write_text(
        "version: 1\nsteps:\n  b:\n    use: adapters.blend\n    with:\n"
        f"      files: {{{json.dumps(str(outside))}: 1.0}}\n      output: blend.gguf\n"
    )
    with Kernel() as kernel, pytest.raises(RunError, match="outside what this recipe may read"):
        kernel.recipe(path).run()
    path.write_text(path.read_text().replace(str(outside), "../out.gguf"))
    with Kernel() as kernel, pytest.raises(RunError, match="outside what this recipe may read"):
        kernel.recipe(path).run()
    random_adapter(folder / "in.gguf", 10)
    path.write_text(path.read_text().replace("../out.gguf", "in.gguf"))
    with Kernel() as kernel:
        assert kernel.recipe(path).run().output.ranks == (2,)


BAD_ADAPTERS = sorted(path.name for path in BAD_INPUTS.glob("lora_*"))


@pytest.mark.skipif(not BAD_ADAPTERS, reason="GRISTMILL_BAD_INPUTS names no folder with gguf/lora_*.gguf")
def test_no_hostile_adapter_ends_the_host_and_the_next_call_works() -> None:
    base = BAD_INPUTS / "00_valid.gguf"
    for name in BAD_ADAPTERS:
        model = on(base, bad=BAD_INPUTS / name)
        request = ScoreRequest(messages=SAYS, choices=("x", "y"), adapters={"bad": 1.0})

        async def ask(model: Model = model, request: ScoreRequest = request) -> Any:
            try:
                return await model.score(request)
            finally:
                await model.close()

        if name in {"lora_00_valid.gguf", "lora_no_alpha.gguf"}:
            assert len(asyncio.run(ask()).logprobs) == 2
        else:
            with pytest.raises(ModelError, match=name):
                asyncio.run(ask())


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.fixture
def told() -> Any:
    runner = CliRunner()

    def tell(*words: object, code: int = 0) -> str:
        result = runner.invoke(app, [str(word) for word in words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return str(result.stdout)

    return tell


def test_the_commands_say_what_they_did(tiny: Path, tmp_path: Path, told: Any) -> None:
    one, two = random_adapter(tmp_path / "one.gguf", 10), random_adapter(tmp_path / "two.gguf", 30)
    assert "4 pairs fit" in told("verify", one, "--base", tiny)
    assert json.loads(told("inspect", one, "--json"))["targets"] == {
        "attn_q": 1, "attn_k": 1, "attn_v": 1, "attn_output": 1
    }  # fmt: skip
    assert "rank:     2\nalpha:    4" in told("inspect", one)
    assert "rank 4, F16" in told("blend", f"{one}=0.5", two, "-o", tmp_path / "b.gguf", "--f16")
    assert "the same next token after 8 of 8 prompts" in told("merge", one, "--base", tiny, "-o", tmp_path / "m.gguf")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    listed = told("list", tmp_path).splitlines()
    assert [line.split()[0] for line in listed] == ["b.gguf", "broken.gguf", "one.gguf", "two.gguf"]
    assert "unusable: " in listed[1]
    assert "it ends inside" in told("verify", tmp_path / "broken.gguf", "--base", tiny, code=1)
    assert len(json.loads(told("list", tmp_path, "--json"))) == 4


def test_a_dry_run_says_what_training_would_take(tiny: Path, tmp_path: Path, told: Any) -> None:
    data = tmp_path / "d.csv"
    data.write_text("prompt,completion\n" + "".join(f"m{n},{('yes', 'no')[n % 2]}\n" for n in range(40)))
    text = told("train", data, "-o", tmp_path / "a.gguf", "--base", tiny, "--dry-run", "--epochs", 1)
    assert "examples:    36 to train on, 4 held out" in text
    assert "task:        choosing among 2 completions" in text
    assert "for 5 steps" in text
    plan = json.loads(told("train", data, "-o", tmp_path / "a.gguf", "--base", tiny, "--dry-run", "--json"))
    assert plan["n_train"] == 36
    assert plan["trained_parameters"] == 8 * (4 * 2 * WIDTH + 3 * (WIDTH + INNER))
    assert not (tmp_path / "a.gguf.train").exists()
    assert told("advise", data).startswith("prompting\n")
