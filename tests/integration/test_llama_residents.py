"""Limits on loaded models, with real engines behind one kernel."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from gristmill import Kernel
from gristmill._settings import load_settings
from gristmill_plugins.llama._client import LlamaModel

RECIPE = """version: 1
models:
  one: {use: llama, context_tokens: 128}
  two: {use: llama, context_tokens: 144}
steps:
  a: {prompt: Say hello., model: one, max_tokens: 2, cache: off}
  b: {prompt: "Say it again: ${a}", model: two, max_tokens: 2, cache: off}
"""


def test_one_engine_at_a_time_and_none_when_idle(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE, encoding="utf-8")
    settings = replace(load_settings(tmp_path), max_loaded=1, idle_s=1.0)
    with Kernel(settings=settings) as kernel:
        recipe = kernel.recipe(tmp_path / "r.yaml")
        one, two = (kernel.model_of(declared) for declared in recipe.recipe.models.values())
        assert isinstance(one, LlamaModel)
        assert isinstance(two, LlamaModel)
        first = recipe.run().output
        assert one.engine_pid is None
        assert two.engine_pid is not None
        deadline = time.monotonic() + 10
        while two.engine_pid is not None and time.monotonic() < deadline:
            time.sleep(0.1)
        assert two.engine_pid is None
        assert recipe.run().output.text == first.text
