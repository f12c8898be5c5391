"""An index in Qdrant, embedded by WordLlama: what the store finds is what the index file finds."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from gristmill import Kernel, Passage

TEXTS = {
    "mill.md": "# Mill\n\nThe water mill grinds wheat into flour.\n\n## Sails\n\nA wind mill turns its sails.\n",
    "bread.txt": "Bread is baked from flour, water and salt.\nThe oven is hot.\n",
}


@pytest.mark.skipif(importlib.util.find_spec("qdrant_client") is None, reason="needs qdrant-client")
def test_an_index_in_qdrant_follows_its_documents(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for name, text in TEXTS.items():
        (docs / name).write_text(text)

    with Kernel(cache=False) as kernel:

        def call(function: str, **arguments: Any) -> Any:
            recipe = tmp_path / "r.yaml"
            recipe.write_text(
                "version: 1\nmodels: {far: {use: qdrant, path: ./qdrant}}\nsteps:\n"
                f"  s:\n    use: retrieval.{function}\n    with: {json.dumps(arguments)}\noutput: ${{s}}\n"
            )
            return kernel.recipe(recipe).run().output

        made = call("index", documents="./docs", name="manual", store="far")
        assert made.n_passages == 3
        for query in ("wheat flour", "sails of a wind mill"):
            far: list[Passage] = call("search", query=query, index="manual", store="far", top_k=2)
            near: list[Passage] = call("search", query=query, index="manual", top_k=2)
            assert far[0].source == near[0].source
            assert far[0].text == near[0].text
        (docs / "bread.txt").write_text("Cheese is made from milk.\n")
        assert call("index", documents="./docs", name="manual", store="far").n_embedded == 1
        found: list[Passage] = call("search", query="cheese milk bread oven", index="manual", store="far", top_k=9)
        assert {passage.source for passage in found} == {
            "docs/mill.md#L1-3", "docs/mill.md#L5-7", "docs/bread.txt#L1",
        }  # fmt: skip
