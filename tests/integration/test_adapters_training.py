"""Training with torch: it learns, goes on after a kill as if there had been none, and converts to what PEFT computes.

Skipped where the extra gristmill[train] is not installed. The base is a model of one layer that the tests write.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gristmill import FunctionError, GenerateRequest, Kernel, Message, UsageError

pytest.importorskip("llama_cpp", reason="the extra gristmill[llama] is not installed")
torch: Any = pytest.importorskip("torch", reason="the extra gristmill[train] is not installed")
peft: Any = pytest.importorskip("peft", reason="the extra gristmill[train] is not installed")
transformers: Any = pytest.importorskip("transformers", reason="the extra gristmill[train] is not installed")

import numpy as np  # noqa: E402
from gguf import GGUFWriter, TokenType  # noqa: E402

from gristmill_plugins.adapters import options_of  # noqa: E402
from gristmill_plugins.adapters._convert import convert_adapter  # noqa: E402
from gristmill_plugins.adapters._inspect import inspect_adapter  # noqa: E402
from gristmill_plugins.adapters._llama import llama  # noqa: E402
from gristmill_plugins.adapters._train import TrainReport, folder_of, train_adapter  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("default::FutureWarning"),
    pytest.mark.filterwarnings("default::DeprecationWarning"),
    pytest.mark.filterwarnings("default::UserWarning"),
]

WIDTH, INNER, HEADS, SHARED = 64, 128, 4, 2
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
TINY = {"precision": "float32", "threads": 1, "learning_rate": 0.02, "evaluations": 4, "patience": 0, "shots": 2}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of two layers in F32 with grouped key-value heads, whose tokens are the bytes."""
    path = tmp_path_factory.mktemp("base") / "tiny.gguf"
    extra = (chr(256 + n) for n in range(256))
    letters = [chr(byte) if byte in PRINTABLE else next(extra) for byte in range(256)]
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *letters, "ab"]
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_block_count(2)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(SHARED)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    chance = np.random.default_rng(0)
    shapes = {"token_embd": (len(tokens), WIDTH), "output": (len(tokens), WIDTH)}
    for layer in (0, 1):
        shapes |= {f"blk.{layer}.attn_{part}": (WIDTH, WIDTH) for part in ("q", "output")}
        shapes |= {f"blk.{layer}.attn_{part}": (WIDTH * SHARED // HEADS, WIDTH) for part in ("k", "v")}
        shapes |= {f"blk.{layer}.ffn_{part}": (INNER, WIDTH) for part in ("gate", "up")}
        shapes |= {f"blk.{layer}.ffn_down": (WIDTH, INNER)}
        for part in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{part}.weight", np.ones(WIDTH, np.float32))
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", chance.normal(0, 0.2, shape).astype(np.float32))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def rows(path: Path, n: int = 60) -> Path:
    """Write a task that a model of one page of numbers can learn: the letter decides the label."""
    lines = [{"prompt": f"{'xz'[k % 2]} {k}", "completion": ("yes", "no")[k % 2]} for k in range(n)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def train(tiny: Path, folder: Path, name: str = "out", **options: Any) -> TrainReport:
    data = rows(folder / "d.jsonl")
    restart = options.pop("restart", False)
    return train_adapter(str(tiny), data, folder / f"{name}.gguf", options_of(TINY | options), restart=restart)


@pytest.mark.parametrize(
    "config", [{}, {"use_rslora": True}, {"rank_pattern": {"k_proj": 3}, "alpha_pattern": {"up_proj": 5}}]
)
def test_llama_cpp_computes_with_a_converted_adapter_what_peft_computes(
    tiny: Path, tmp_path: Path, config: dict[str, Any]
) -> None:
    base = transformers.AutoModelForCausalLM.from_pretrained(str(tiny.parent), gguf_file=tiny.name, dtype=torch.float32)
    torch.manual_seed(0)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = peft.get_peft_model(base, peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, **config))
    for name, values in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(values, std=0.3)
    model.save_pretrained(str(tmp_path / "peft"), save_embedding_layers=False)
    convert_adapter(tmp_path / "peft", str(tiny), tmp_path / "out.gguf")
    ids, found, plain = engine_logprobs(tiny, tmp_path / "out.gguf")
    with torch.no_grad():
        wanted = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0, -1], -1).numpy()
        with model.disable_adapter():
            unchanged = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0, -1], -1).numpy()
    assert np.abs(plain - unchanged).max() < 0.01  # the engine's cache is in F16
    assert np.abs(found - wanted).max() < 0.02
    assert np.abs(found - plain).max() > 0.5


def engine_logprobs(base: Path, adapter: Path) -> tuple[list[int], Any, Any]:
    model: Any = llama().llama(model=str(base), adapters={"x": str(adapter)}, context_tokens=256, reproducible=True)
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


def test_training_learns_a_task_and_leaves_an_adapter_a_curve_and_figures(tiny: Path, tmp_path: Path) -> None:
    report = train(tiny, tmp_path, epochs=12)
    zero, few, trained = report.measured
    assert (zero.how, few.how, trained.how) == ("zero-shot", "few-shot (2)", "trained")
    assert trained.accuracy == 1.0 > zero.accuracy
    assert report.loss_after < 0.3 * report.loss_before
    assert report.ended_by == "steps"
    assert inspect_adapter(tmp_path / "out.gguf").changes
    folder = folder_of(tmp_path / "out.gguf")
    assert {"loss.jsonl", "loss.svg", "plan.json", "report.json", "peft", "best.safetensors"} <= {
        path.name for path in folder.iterdir()
    }
    assert len((folder / "loss.jsonl").read_text().splitlines()) >= report.steps
    assert not [path for path in folder.rglob("*") if path.suffix in {".bin", ".pt", ".pkl"}]


def test_a_seed_gives_the_same_adapter_and_another_another(tiny: Path, tmp_path: Path) -> None:
    digests = [
        train(tiny, tmp_path, name, epochs=0.5, measure=0, seed=seed).adapter.sha256
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    # The file's name is in it, so equal factors are compared.
    first, second, third = (_factors(tmp_path / f"{name}.gguf") for name in "abc")
    assert len(digests) == 3
    assert all(np.array_equal(first[key], second[key]) for key in first)
    assert not all(np.array_equal(first[key], third[key]) for key in first)


def _factors(path: Path) -> dict[str, Any]:
    from gristmill_plugins.adapters._adapter import read_adapter

    return {name: pair.b for name, pair in read_adapter(path).pairs.items()}


KILLED = """
import sys
from pathlib import Path
from gristmill_plugins.adapters import options_of
from gristmill_plugins.adapters._train import train_adapter
import json
base, data, output, options = sys.argv[1:]
train_adapter(base, Path(data), Path(output), options_of(json.loads(options)),
    on_step=lambda step, *_: print(step, flush=True))
"""


def test_a_run_that_was_killed_goes_on_to_the_same_adapter(tiny: Path, tmp_path: Path) -> None:
    options = {**TINY, "epochs": 6, "measure": 0, "dropout": 0.1, "checkpoint_every": 5, "accumulate": 2}
    data = rows(tmp_path / "d.jsonl")
    output = tmp_path / "killed.gguf"
    script = tmp_path / "run.py"
    script.write_text(KILLED)
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(script), str(tiny), str(data), str(output), json.dumps(options)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert child.stdout is not None
    with child:
        for line in child.stdout:
            if int(line) >= 12:
                child.send_signal(signal.SIGKILL)
                break
    folder = folder_of(output)
    assert not output.exists()
    (checkpoint,) = folder.glob("checkpoint-0*")
    assert int(checkpoint.name[-7:]) >= 10
    resumed = train_adapter(str(tiny), data, output, options_of(options))
    whole = train_adapter(str(tiny), data, tmp_path / "whole.gguf", options_of(options))
    assert resumed.steps == whole.steps
    first, second = _factors(output), _factors(tmp_path / "whole.gguf")
    assert all(np.allclose(first[key], second[key], atol=1e-6) for key in first)
    steps = [json.loads(line)["step"] for line in (folder / "loss.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


def test_a_run_that_was_stopped_while_it_was_measured_is_measured_without_training_again(
    tiny: Path, tmp_path: Path
) -> None:
    first = train(tiny, tmp_path, epochs=1)
    (folder_of(tmp_path / "out.gguf") / "report.json").unlink()
    again = train(tiny, tmp_path, epochs=1)
    assert again.model_copy(update={"peak_bytes": 0}) == first.model_copy(update={"peak_bytes": 0})
    with pytest.raises(UsageError, match="exists already"):
        train(tiny, tmp_path, epochs=1)


def test_another_runs_folder_is_not_gone_on_from(tiny: Path, tmp_path: Path) -> None:
    train(tiny, tmp_path, epochs=0.2, measure=0)
    (tmp_path / "out.gguf").unlink()
    with pytest.raises(UsageError, match="holds a run with other options, data or base"):
        train(tiny, tmp_path, epochs=0.2, measure=0, rank=4)
    assert train(tiny, tmp_path, epochs=0.2, measure=0, rank=4, restart=True).adapter.ranks == (4,)


def test_it_stops_early_when_the_held_out_loss_no_longer_falls(tiny: Path, tmp_path: Path) -> None:
    report = train(tiny, tmp_path, epochs=40, measure=0, evaluations=40, patience=1, learning_rate=0.9)
    assert report.ended_by == "patience"
    assert report.best_step < report.steps


def test_a_limit_in_minutes_ends_a_run(tiny: Path, tmp_path: Path) -> None:
    before = time.monotonic()
    report = train(tiny, tmp_path, epochs=1000, measure=0, minutes=0.02)
    assert report.ended_by == "minutes"
    assert time.monotonic() - before < 300


def test_a_text_column_trains_on_all_of_the_text(tiny: Path, tmp_path: Path) -> None:
    data = tmp_path / "t.csv"
    data.write_text("text\n" + "".join(f"ab{n % 3}ab{n % 3} <|im_end|> {n}\n" for n in range(30)))
    report = train_adapter(
        str(tiny), data, tmp_path / "out.gguf", options_of(TINY | {"text": "${text}", "epochs": 4, "layers": 1})
    )
    assert report.loss_after < report.loss_before
    assert report.measured == ()
    assert {name.split(".")[1] for name in _factors(tmp_path / "out.gguf")} == {"1"}


def test_a_cancelled_run_says_where_it_stopped(tiny: Path, tmp_path: Path) -> None:
    data = rows(tmp_path / "d.jsonl")
    with pytest.raises(FunctionError, match="stopped after step 1"):
        train_adapter(str(tiny), data, tmp_path / "o.gguf", options_of(TINY), cancelled=lambda: True)
    assert not (tmp_path / "o.gguf").exists()


def test_a_4_bit_base_can_be_trained_on(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    report = train(tiny, tmp_path, epochs=6, precision="nf4", measure=0)
    assert report.loss_after < report.loss_before


def test_the_shipped_recipe_runs_the_whole_loop(tiny: Path, tmp_path: Path) -> None:
    data = rows(tmp_path / "d.jsonl")
    with Kernel(cache=False) as kernel:
        recipe = kernel.recipe("lora_train", overrides={"models.main.model": json.dumps(str(tiny))})
        result = recipe.run(data=data, output=tmp_path / "out.gguf", layers=1, minutes=0.1)
    assert result.output["fits"] is True
    assert result.output["advice"] == "prompting"
    assert [way.how for way in result.output["measured"]][-1] == "trained"
    assert (tmp_path / "out.gguf").exists()
