"""The parts of search that plugins may build on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gristmill import Hit, Kernel, StoredRecord
from gristmill import ranking as public
from gristmill.testing import FakeEmbedder


def test_the_public_parts_search_rank_and_diversify() -> None:
    rows = np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32)
    matrix = public.Matrix(2, epoch=0)
    matrix.append([3, 5, 9], [None] * 3, rows.tobytes())
    scores = matrix.scores(rows[0])
    assert matrix.top(scores, 2, 0.0, None) == pytest.approx({3: 1.0, 5: 0.6})
    hits = [
        Hit(StoredRecord(id=id_, text="t"), float(score), None, row)
        for id_, score, row in zip("359", scores, rows, strict=True)
    ]
    fused = public.fuse(hits, fusion="rrf", dense_weight=1.0)
    assert [hit.record.id for hit, _ in fused] == ["3", "5", "9"]
    assert [hit.record.id for hit, _ in public.diversify(fused, 2, 0.1)] == ["3", "9"]
    assert public.match_expression('a "mill" AND*') == '" mill "'


def test_importing_it_does_not_import_numpy() -> None:
    code = "import gristmill.ranking, sys; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=600, check=False).returncode == 0


def test_a_name_that_is_not_there_is_refused() -> None:
    with pytest.raises(AttributeError, match=r"gristmill\.ranking' has no attribute 'Nothing'"):
        _ = public.Nothing


def test_memory_tells_its_default_embedder(tmp_path: Path) -> None:
    with Kernel(memory=tmp_path / "memory", cache=False) as kernel:
        made = FakeEmbedder()
        kernel.memory._default = lambda: made
        assert kernel.memory.embedder is made
