"""The recipe `search` with the embedder that ships, on a small handbook with a broken file in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gristmill import Kernel

pytest.importorskip("llama_index.readers.file", reason="documents are read by the extra gristmill[retrieval]")

FILES = {
    "mill.md": b"# The mill\n\nIt stands on the river Lea.\n\n## When it breaks\n\nError GM-2041: the belt slipped.\n",
    "people.jsonl": b'{"text": "Henry Gripper built it."}\n{"text": "Ada Lane keeps the keys."}\n',
    "plan.pdf": b"%PDF-1.4 cut short",
}


def test_search_finds_passages_and_says_what_it_skipped(tmp_path: Path) -> None:
    (tmp_path / "handbook").mkdir()
    for name, content in FILES.items():
        (tmp_path / "handbook" / name).write_bytes(content)
    with Kernel() as kernel:
        recipe = kernel.recipe("search")
        found = recipe.run(documents=tmp_path / "handbook", query="What does error GM-2041 mean?").output
        assert found["sources"][0] == "handbook/mill.md#L5-7"
        assert found["found_by"] == ["dense", "bm25"]
        assert (found["n_files"], found["n_embedded"]) == (2, 4)
        assert [skipped.path for skipped in found["skipped"]] == ["handbook/plan.pdf"]
        again = recipe.run(documents=tmp_path / "handbook", query="Who keeps the keys?", mode="bm25").output
        assert (again["best"], again["n_embedded"]) == ("Ada Lane keeps the keys.", 0)
        assert again["sources"] == ["handbook/people.jsonl#L2"]
        assert recipe.run(documents=tmp_path / "handbook", query="zebra", mode="bm25").output["best"] == (
            "nothing was found"
        )
