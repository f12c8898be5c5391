"""Prefixes on disk come back as they were, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gristmill_plugins.llama._shelf import PrefixShelf

TOKENS = np.arange(300, dtype=np.int32)
CELLS = bytes(range(256)) * 40


def shelf(folder: Path, *, key: str = "model", limit_bytes: int = 1 << 20) -> PrefixShelf:
    return PrefixShelf(folder, key=key, limit_bytes=limit_bytes)


def fill(folder: Path, *arrays: np.ndarray, limit_bytes: int = 1 << 20) -> None:
    writer = shelf(folder, limit_bytes=limit_bytes)
    for tokens in arrays:
        writer.put(tokens, "", CELLS)
    writer.close(wait_s=5)


def test_a_prefix_comes_back_with_its_tokens_and_cells(tmp_path: Path) -> None:
    fill(tmp_path, TOKENS)
    found = shelf(tmp_path).find(np.append(TOKENS[:200], [7, 8]).astype(np.int32), "", beyond=100)
    assert found is not None
    assert (found.tokens == TOKENS).all()
    assert found.cells == CELLS


def test_the_longest_common_beginning_wins(tmp_path: Path) -> None:
    fill(tmp_path, TOKENS[:120], TOKENS)
    found = shelf(tmp_path).find(TOKENS, "", beyond=0)
    assert found is not None
    assert found.tokens.size == 300


def test_other_models_adapters_and_prompts_find_nothing(tmp_path: Path) -> None:
    fill(tmp_path, TOKENS)
    assert shelf(tmp_path, key="other").find(TOKENS, "", beyond=0) is None
    assert shelf(tmp_path).find(TOKENS, "adapter", beyond=0) is None
    assert shelf(tmp_path).find(TOKENS[::-1].copy(), "", beyond=0) is None
    assert shelf(tmp_path).find(TOKENS, "", beyond=300) is None


@pytest.mark.parametrize("at", [5, 60, 500, -1])
def test_a_damaged_file_is_removed_and_never_used(tmp_path: Path, at: int) -> None:
    fill(tmp_path, TOKENS)
    (path,) = tmp_path.glob("*.kv")
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(bytes(data))
    assert shelf(tmp_path).find(TOKENS, "", beyond=0) is None


def test_a_torn_file_is_nothing(tmp_path: Path) -> None:
    fill(tmp_path, TOKENS)
    (path,) = tmp_path.glob("*.kv")
    for size in (0, 10, 200, 2000):
        path.write_bytes(path.read_bytes()[:size])
        assert shelf(tmp_path).find(TOKENS, "", beyond=0) is None
        fill(tmp_path, TOKENS)


def test_the_limit_is_kept_by_removing_the_longest_unused(tmp_path: Path) -> None:
    arrays = [np.roll(TOKENS, i) for i in range(6)]
    fill(tmp_path, *arrays, limit_bytes=3 * 12_000)
    assert len(list(tmp_path.glob("*.kv"))) == 3
    assert shelf(tmp_path).find(arrays[-1], "", beyond=0) is not None
    assert shelf(tmp_path).find(arrays[0], "", beyond=0) is None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    fill(tmp_path / "file" / "folder", TOKENS)
    assert shelf(tmp_path / "file" / "folder").find(TOKENS, "", beyond=0) is None
