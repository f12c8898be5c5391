"""`kill -9` at random moments, the same command again: the output is that of an undisturbed run."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

PLUGIN = '''\
"""Work that takes a moment and fails for every tenth row."""

import asyncio

from gristmill import FunctionError, function


@function
async def double(n: int) -> int:
    """Return twice the number."""
    await asyncio.sleep(0.01)
    if n % 10 == 7:
        raise FunctionError(f"{n} cannot be doubled")
    return 2 * n
'''
RECIPE = """\
version: 1
name: double
inputs: {n: integer}
steps:
  d: {use: slow.double, with: {n: "${inputs.n}"}}
output: ${d}
"""
N_ROWS = 1_500
KILLS = 6


def command(folder: Path, out: str, *options: str) -> list[str]:
    recipe, data = str(folder / "r.yaml"), str(folder / "in.jsonl")
    place = ["--out", str(folder / out), "--plugin", str(folder / "slow.py"), "--attempts", "1", "--concurrency", "8"]
    return [sys.executable, "-m", "gristmill", "batch", recipe, data, *place, *options]


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def test_a_batch_killed_again_and_again_ends_with_exactly_one_record_for_each_row(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(PLUGIN)
    (tmp_path / "r.yaml").write_text(RECIPE)
    rows = [{"id": f"row-{n % 1_000}", "n": n} for n in range(N_ROWS)]  # the ids repeat
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out, chance = tmp_path / "out.jsonl", random.Random(0)
    kills = 0
    for _ in range(KILLS):
        process = subprocess.Popen(command(tmp_path, "out.jsonl"), stderr=subprocess.DEVNULL)
        enough, deadline = size_of(out) + chance.randrange(1, 12_000), time.monotonic() + 120
        while process.poll() is None and size_of(out) < enough and time.monotonic() < deadline:
            time.sleep(0.001)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert kills >= 2, "the batch was over before it could be killed"
    with out.open("ab") as file:
        file.write(b'{"row": 1, "id": "torn')
    last = subprocess.run(command(tmp_path, "out.jsonl", "--json"), capture_output=True, text=True, timeout=300)
    assert last.returncode == 1, last.stderr  # some rows failed, as they must
    summary = json.loads(last.stdout)
    assert summary["rows"] == N_ROWS
    assert summary["failed"] == N_ROWS // 10
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(record["row"] for record in records) == list(range(1, N_ROWS + 1))
    for record in records:
        n = record["row"] - 1
        assert record["id"] == rows[n]["id"]
        assert record["input"] == {"n": n}
        if n % 10 == 7:
            assert record["error"]["message"] == f"step 'd': {n} cannot be doubled"
        else:
            assert record["output"] == 2 * n


def test_the_batch_command_answers_with_the_bundled_model_and_reads_its_own_mistakes(tmp_path: Path) -> None:
    import pytest

    pytest.importorskip("llama_cpp")
    data = tmp_path / "in.csv"
    data.write_text("review\nI loved every minute.\nA boring mess.\n")
    run = [sys.executable, "-m", "gristmill", "batch", "few_shot", str(data), "--out", str(tmp_path / "out.jsonl")]
    wrong = subprocess.run(run, capture_output=True, text=True, timeout=120)
    assert wrong.returncode == 2
    assert "the data have no column 'text', which the input 'text' takes" in wrong.stderr
    right = subprocess.run([*run, "--map", "text=review", "--in-order"], capture_output=True, text=True, timeout=300)
    assert right.returncode == 0, right.stderr
    assert "2 rows; 0 failed" in right.stderr
    answers = [json.loads(line)["output"]["sentiment"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert answers[0] == "positive"
    assert set(answers) <= {"positive", "negative"}
