"""Rows on a Ray cluster: each has exactly one record, whichever node or driver dies, and the same as without one."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gristmill import Kernel, UsageError
from gristmill_plugins.evaluation._batch import BatchOptions, BatchSummary, run_batch
from gristmill_plugins.evaluation._cluster import Cluster, refuse_exposed
from gristmill_plugins.evaluation._runner import Effort

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason='ray is not installed: the extra "ray"')

PLUGIN = '''
"""Slow arithmetic."""

import asyncio
from gristmill import FunctionError, function

@function
async def square(number: int) -> int:
    """Return the square, after a moment; 13 has none."""
    await asyncio.sleep(0.05)
    if number == 13:
        raise FunctionError("13 is unlucky")
    return number * number
'''
RECIPE = """\
version: 1
inputs: {number: integer}
steps: {s: {use: slow.square, with: {number: "${inputs.number}"}}}
output: ${s}
"""
N_ROWS = 120


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Three nodes on this machine, with a token, as an exposed cluster must have."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("AUTH_MODE", "token"), ("AUTH_TOKEN", "a" * 32), ("USAGE_STATS_ENABLED", "0")):
            patch.setenv(f"RAY_{name}", value)
        from ray.cluster_utils import Cluster as RayCluster  # after that: it reads them when it is imported

        made = RayCluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20})
        for _ in range(2):
            made.add_node(num_cpus=1, object_store_memory=100 << 20)
        yield made
        made.shutdown()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "slow.py").write_text(PLUGIN)
    (tmp_path / "r.yaml").write_text(RECIPE)
    (tmp_path / "data.jsonl").write_text("".join(json.dumps({"number": i}) + "\n" for i in range(1, N_ROWS + 1)))
    return tmp_path


def options(address: str | None, **fields: Any) -> BatchOptions:
    cluster = None if address is None else Cluster(address)
    return BatchOptions({}, {}, {}, Effort(concurrency=4, attempts=1, backoff_s=0, cluster=cluster), **fields)


def run(folder: Path, out: str, options: BatchOptions, progress: Any = lambda *_: None) -> BatchSummary:
    with Kernel(plugin_files=[folder / "slow.py"], cache=False) as kernel:
        return run_batch(kernel.recipe(folder / "r.yaml"), folder / "data.jsonl", folder / out, options, progress)


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@needs_ray
def test_a_lost_node_loses_no_row_and_doubles_none(cluster: Any, folder: Path) -> None:
    doomed = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    killed: list[int] = []

    def kill_once(done: int, *_: int) -> None:
        if done >= N_ROWS // 4 and not killed:
            killed.append(done)
            cluster.remove_node(doomed, allow_graceful=False)

    summary = run(folder, "out.jsonl", options(cluster.address, in_order=True), kill_once)
    assert killed
    assert (summary.n_rows, summary.n_failed) == (N_ROWS, 1)
    rows = records(folder / "out.jsonl")
    assert [row["row"] for row in rows] == list(range(1, N_ROWS + 1))
    assert all(row["output"] == row["row"] ** 2 for row in rows if row["row"] != 13)
    assert rows[12]["error"] == {"type": "RunError", "message": "step 's': 13 is unlucky"}


@needs_ray
def test_a_killed_driver_goes_on_where_it_was(cluster: Any, folder: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_batch_cluster as t; from pathlib import Path\n"
        "def told(done, *_): print(done, flush=True)\n"
        "print(t.run(Path(sys.argv[2]), 'out.jsonl', t.options(sys.argv[3]), told))"
    )
    command = [sys.executable, "-c", program, str(Path(__file__).parent), str(folder), cluster.address]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder)
    assert first.stdout is not None
    for line in first.stdout:
        if int(line) >= N_ROWS // 3:
            break
    first.send_signal(signal.SIGKILL)
    first.communicate()
    n_before = len(records(folder / "out.jsonl"))
    assert N_ROWS // 3 <= n_before < N_ROWS
    summary = run(folder, "out.jsonl", options(cluster.address))
    assert summary.n_before >= N_ROWS // 3
    assert sorted(row["row"] for row in records(folder / "out.jsonl")) == list(range(1, N_ROWS + 1))


@needs_ray
def test_the_records_are_those_of_this_machine_alone(cluster: Any, folder: Path) -> None:
    run(folder, "cluster.jsonl", options(cluster.address, in_order=True))
    run(folder, "local.jsonl", options(None, in_order=True))
    assert records(folder / "cluster.jsonl") == records(folder / "local.jsonl")


@needs_ray
def test_a_model_that_cannot_be_loaded_stops_the_batch(cluster: Any, folder: Path) -> None:
    (folder / "r.yaml").write_text(
        "version: 1\ninputs: {number: integer}\nmodels: {m: {use: llama, model: ./broken.gguf}}\n"
        "steps: {s: {prompt: 'Say ${inputs.number}'}}\noutput: ${s.text}\n"
    )
    (folder / "broken.gguf").write_bytes(b"not a model" * 100)
    with pytest.raises(Exception, match=r"broken\.gguf"):
        run(folder, "out.jsonl", options(cluster.address))


def test_a_cluster_that_others_can_reach_needs_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    refuse_exposed("127.0.0.1:6379")
    refuse_exposed("[::1]:6379")
    refuse_exposed("localhost:6379")
    for address in ("10.0.0.5:6379", "[fe80::1]:6379", "head.example:6379"):
        with pytest.raises(UsageError, match="can be reached from other machines and asks for no token"):
            refuse_exposed(address)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    refuse_exposed("10.0.0.5:6379")


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="ray is installed")
def test_without_ray_the_error_says_what_to_install(folder: Path) -> None:
    with pytest.raises(UsageError, match="--engine ray needs Ray"):
        run(folder, "out.jsonl", options("auto"))
