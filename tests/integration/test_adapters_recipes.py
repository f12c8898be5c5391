"""The recipes about adapters run on the bundled model, with adapters that the tests write beside a copy of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from gristmill import Kernel, RunError
from gristmill.testing import check_plugin
from gristmill_plugins.adapters import AdaptersPlugin

pytest.importorskip("llama_cpp", reason="the extra gristmill[llama] is not installed")
pytest.importorskip("gguf", reason="the extra gristmill[adapters] is not installed")

import numpy as np

from gristmill_plugins.adapters._adapter import Adapter, Pair, write_adapter

WIDTH = 576


def beside(folder: Path, recipe: str, **seeds: int) -> Path:
    """Copy a recipe that ships and write the adapters that it names, random ones, beside it."""
    with Kernel(cache=False) as kernel:
        path = Path(shutil.copy(kernel.library.find(recipe), folder))
    for name, seed in seeds.items():
        chance = np.random.default_rng(seed)
        pairs = {
            f"blk.{layer}.attn_output.weight": Pair(
                chance.normal(0, 0.4, (4, WIDTH)).astype(np.float32),
                chance.normal(0, 0.4, (WIDTH, 4)).astype(np.float32),
            )
            for layer in range(24, 30)
        }
        write_adapter(Adapter("llama", pairs, 4.0), folder / f"{name}.gguf")
    return path


def run(path: Path, **inputs: Any) -> Any:
    with Kernel(cache=False) as kernel:
        return kernel.recipe(path).run(**inputs)


def test_lora_switch_uses_two_adapters_and_none_on_one_engine(tmp_path: Path) -> None:
    result = run(beside(tmp_path, "lora_switch", spam=1, sql=2), message="Call me later?")
    assert result.output["kind"] in ("ham", "spam")
    assert 0.5 <= result.output["probability"] <= 1
    assert result.output["sql"] != result.output["without_adapter"]


def test_lora_blend_moves_from_one_adapter_to_the_other(tmp_path: Path) -> None:
    output = run(beside(tmp_path, "lora_blend", first=1, second=2), message="Win a prize").output
    assert len(output["spam"]) == len(output["shares"]) == 5
    assert len({round(share, 4) for share in output["spam"]}) == 5


def test_lora_vote_counts_each_adapter_once(tmp_path: Path) -> None:
    output = run(beside(tmp_path, "lora_vote", first=1, second=2, third=3), message="Win a prize").output
    votes = ["spam" if share > 0.5 else "ham" for share in output["spam"]]
    assert len(votes) == 3
    assert output["winner"] == max(set(votes), key=votes.count)
    assert output["agreement"] == pytest.approx(votes.count(output["winner"]) / 3)


def test_a_recipe_without_its_adapters_says_which_file_is_missing(tmp_path: Path) -> None:
    path = beside(tmp_path, "lora_switch", sql=2)
    with pytest.raises(RunError, match=r"spam\.gguf: there is no such file"):
        run(path)


def test_lora_train_says_what_is_missing_where_torch_is(tmp_path: Path) -> None:
    try:
        import torch  # noqa: F401
    except ImportError:
        data = tmp_path / "d.csv"
        data.write_text("prompt,completion\n" + "".join(f"m{n},{('yes', 'no')[n % 2]}\n" for n in range(40)))
        with Kernel(cache=False) as kernel, pytest.raises(RunError) as caught:
            kernel.recipe("lora_train").run(data=data, output=tmp_path / "out.gguf")
        assert "training needs torch" in str(caught.value)
        assert caught.value.result.steps["plan"].value.n_train == 36
        assert caught.value.result.steps["advice"].value.way == "prompting"
    else:
        pytest.skip("torch is installed: tests/integration/test_adapters_training.py runs the whole recipe")


def test_the_plugin_passes_the_contract() -> None:
    names = set(check_plugin("adapters", AdaptersPlugin()).functions)
    assert {"adapters.convert", "adapters.blend", "adapters.merge", "adapters.train", "adapters.advise"} <= names
