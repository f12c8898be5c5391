"""What a row costs the driver and the worker of a batch on Ray, in processor time and bytes: for planning large runs.

    python benchmarks/large_runs.py --data DATA            # DATA holds squad.jsonl; needs the extra "ray"

Two nodes on this machine (`ray.cluster_utils`), a recipe that joins texts of a real row and calls no model: what is
left is everything but the model. The driver reads rows, sends them, takes in outcomes and writes records; its
processor time is that of its process. A worker's is what the same rows cost this process without Ray, plus Ray's share
in it, which is not measured. Bytes are of pickled rows and outcomes and of the records in the output file. Processor
time and bytes hardly depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PLUGIN = '''
"""A trivial function."""

from gristmill import function

@function
async def join(question: str, context: str) -> str:
    """Join."""
    return question + context[:100]
'''
RECIPE = """\
version: 1
name: trivial
inputs: {question: string, context: string}
steps:
  joined: {use: trivial.join, with: {question: "${inputs.question}", context: "${inputs.context}"}}
output: ${joined}
"""


def measure(data: Path, n_rows: int) -> dict[str, Any]:
    """Run the batch on two nodes and alone, and return what a row cost."""
    from ray.cluster_utils import Cluster as RayCluster

    from gristmill import Kernel
    from gristmill_plugins.evaluation._batch import BatchOptions, run_batch
    from gristmill_plugins.evaluation._cluster import Cluster, _portable
    from gristmill_plugins.evaluation._inputs import map_inputs
    from gristmill_plugins.evaluation._rows import Row
    from gristmill_plugins.evaluation._runner import Effort, run_rows

    rows = [json.loads(line) for line in (data / "squad.jsonl").open()]
    rows = [{key: rows[i % len(rows)][key] for key in ("id", "question", "context")} for i in range(n_rows)]
    made = RayCluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20})
    made.add_node(num_cpus=1, object_store_memory=100 << 20)
    found: dict[str, Any] = {"rows": n_rows}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "trivial.py").write_text(PLUGIN)
        (folder / "trivial.yaml").write_text(RECIPE)
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        with Kernel(plugin_files=[folder / "trivial.py"], cache=False) as kernel:
            recipe = kernel.recipe(folder / "trivial.yaml")
            recipe.run(question="Is it loaded?", context="It is.")
            for kind, cluster in (("ray", Cluster(made.address)), ("local", None)):
                options = BatchOptions({}, {}, {}, Effort(cluster=cluster))
                busy, started = time.process_time(), time.perf_counter()
                run_batch(recipe, folder / "rows.jsonl", folder / f"{kind}.jsonl", options)
                found[kind] = {"processor_s": time.process_time() - busy, "seconds": time.perf_counter() - started}
            outcomes: list[Any] = []
            some = [Row(i + 1, row) for i, row in enumerate(rows[:40])]
            run_rows(recipe, some, map_inputs(recipe, {}, {}, some[0]), Effort(), outcomes.append)
            found["row_bytes"] = len(pickle.dumps(some)) / len(some)
            found["outcome_bytes"] = len(pickle.dumps([_portable(outcome) for outcome in outcomes])) / len(some)
            found["record_bytes"] = (folder / "ray.jsonl").stat().st_size / n_rows
    made.shutdown()
    return found


def told(found: dict[str, Any]) -> str:
    """Return the table."""
    n = found["rows"]
    ray, local = (1000 * found[kind]["processor_s"] / n for kind in ("ray", "local"))
    return "\n".join([
        "| a row costs | |", "|---|---:|",
        f"| the driver, with Ray | {ray:.2f} ms of one processor |",
        f"| this machine alone: reading, running, recording | {local:.2f} ms of one processor |",
        f"| sent to a worker | {found['row_bytes']:,.0f} bytes |",
        f"| sent back | {found['outcome_bytes']:,.0f} bytes |",
        f"| its record | {found['record_bytes']:,.0f} bytes |",
        f"\n{n:,} rows of SQuAD without a model; two Ray nodes on one machine.",
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", required=True, type=Path, help="The folder of squad.jsonl.")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "large_runs.json")
    options = parser.parse_args()
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 32, "RAY_USAGE_STATS_ENABLED": "0"}
    found = measure(options.data.absolute(), options.rows)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(told(found))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
