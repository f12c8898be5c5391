"""What a batch costs beside the model: 100,000 trivial rows, memory as they go by, and what resuming costs.

    python benchmarks/batch.py                  # a table on standard output, numbers in benchmarks/results/batch.json
    python benchmarks/batch.py --rows 20000

The recipe joins a text with a mark; the function is not kept in any cache. gristmill writes a record for each row that
a killed process does not lose; Haystack runs a pipeline of one such component in a loop and writes a line for each
row without any promise; promptflow runs a flow of one such function as its own batch run, with its own record of each
row, and gets a hundredth of the rows. Memory is the resident set of the process that was asked, without promptflow's
workers. "Resume" is the same command again when every row has its record: the digest of the data, all checks, and
nothing to run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _peers
from _quiet import Watch

PEERS = {"haystack": ["haystack-ai==3.4.0"], "promptflow": ["promptflow==1.18.5"]}
SHARE = {"promptflow": 100}
"""A contender that is so much slower gets so much fewer rows."""
FLOW = """\
def join(text: str) -> str:
    return text + "!"
"""
RECIPE = """\
version: 1
name: trivial
inputs: {text: string}
steps:
  joined: {use: trivial.join, with: {text: "${inputs.text}"}}
output: ${joined}
"""
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_mb() -> float:
    """Return this process's resident memory, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 1e6


def gristmill(folder: str, n_rows: int) -> dict[str, Any]:
    """Run the batch, and then the same command again."""
    from gristmill import Kernel, function
    from gristmill_plugins.evaluation._batch import BatchOptions, run_batch

    class Trivial:
        """A trivial function."""

        @function
        async def join(self, text: str) -> str:
            """Join."""
            return text + "!"

    place = Path(folder)
    (place / "trivial.yaml").write_text(RECIPE)
    memory: dict[int, float] = {}

    def look(done: int, *_: int) -> None:
        if done % (n_rows // 10) == 0:
            memory[done] = resident_mb()

    with Kernel(plugins={"trivial": Trivial()}, cache=False) as kernel:
        recipe = kernel.recipe(place / "trivial.yaml")
        options = BatchOptions({}, {}, {})
        started = time.perf_counter()
        run_batch(recipe, place / "rows.jsonl", place / "out.jsonl", options, look)
        seconds = time.perf_counter() - started
        started = time.perf_counter()
        again = run_batch(recipe, place / "rows.jsonl", place / "out.jsonl", options)
        resume = time.perf_counter() - started
    assert again.n_before == again.n_rows == n_rows
    return {"seconds": seconds, "memory_mb": memory, "resume_seconds": resume}


def haystack(folder: str, n_rows: int) -> dict[str, Any]:
    """Run a pipeline of one component in a loop."""
    from haystack import Pipeline, component  # type: ignore[import-not-found]

    @component
    class Join:
        @component.output_types(text=str)  # type: ignore[untyped-decorator]
        def run(self, text: str) -> dict[str, str]:
            return {"text": text + "!"}

    pipeline = Pipeline()
    pipeline.add_component("joined", Join())
    memory: dict[int, float] = {}
    started = time.perf_counter()
    with (Path(folder) / "rows.jsonl").open() as rows, (Path(folder) / "haystack.jsonl").open("w") as out:
        for done, line in enumerate(rows, 1):
            row = json.loads(line)
            result = pipeline.run({"joined": {"text": row["text"]}})
            out.write(json.dumps({"id": row["id"], "output": result["joined"]["text"]}) + "\n")
            if done % (n_rows // 10) == 0:
                memory[done] = resident_mb()
    return {"seconds": time.perf_counter() - started, "memory_mb": memory}


def promptflow(folder: str, n_rows: int) -> dict[str, Any]:
    """Run promptflow's batch run over a flow of one function."""
    place = Path(folder)
    os.environ["PF_HOME_DIRECTORY"] = str(place / "home")
    (place / "flow").mkdir()
    (place / "flow" / "flow_entry.py").write_text(FLOW)
    (place / "flow" / "flow.flex.yaml").write_text("entry: flow_entry:join\n")
    with (place / "rows.jsonl").open() as rows, (place / "few.jsonl").open("w") as few:
        few.writelines(line for _, line in zip(range(n_rows), rows, strict=False))
    from promptflow._sdk._configuration import Configuration  # type: ignore[import-not-found]
    from promptflow.client import PFClient  # type: ignore[import-not-found]

    settings = Configuration.get_instance()
    settings.set_config("telemetry.enabled", value=False)
    settings.set_config("trace.destination", "none")  # or it starts a service that outlives the run
    client = PFClient()
    before = resident_mb()
    started = time.perf_counter()
    run = client.run(flow=place / "flow", data=place / "few.jsonl", column_mapping={"text": "${data.text}"})
    seconds = time.perf_counter() - started
    assert run.status == "Completed"
    return {"seconds": seconds, "memory_mb": {0: before, n_rows: resident_mb()}}


def measure(n_rows: int) -> dict[str, Any]:
    """Run each contender once, in a process of its own."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        with (Path(folder) / "rows.jsonl").open("w") as file:
            for n in range(n_rows):
                file.write(json.dumps({"id": f"row-{n}", "text": f"the text of row {n}"}) + "\n")
        pythons = {name: _peers.environment(name, requirements) for name, requirements in PEERS.items()}
        for name, python in ({"gristmill": Path(sys.executable)} | pythons).items():
            watch = Watch()
            n = n_rows // SHARE.get(name, 1)
            with _peers.Worker(python, Path(__file__), "--worker") as worker:
                taken = worker.call(name, folder=folder, n_rows=n)
            found[name] = taken | {"rows": n, "rows_per_s": n / taken["seconds"], "others": watch.others()}
    return found


def told(found: dict[str, Any], n_rows: int) -> str:
    """Return the table."""
    lines = ["| | rows | rows/s | memory at 10% | memory at the end | others used of the machine |",
             "|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    for name, one in found.items():
        memory = list(one["memory_mb"].values())
        lines.append(f"| {name} | {one['rows']:,} | {one['rows_per_s']:,.0f} | {memory[0]:.0f} MB "
                     f"| {memory[-1]:.0f} MB | {one['others']:.0%} |")  # fmt: skip
    ours = found["gristmill"]
    share = ours["resume_seconds"] / ours["seconds"]
    lines.append(f"\n{n_rows:,} rows; resuming a finished batch took {ours['resume_seconds']:.2f} s, "
                 f"{share:.1%} of the run.")  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=_peers.HERE / "results" / "batch.json")
    parser.add_argument("--worker", action="store_true")
    options = parser.parse_args()
    if options.worker:
        _peers.serve({"gristmill": gristmill, "haystack": haystack, "promptflow": promptflow})
        return
    found = measure(options.rows)
    options.out.write_text(json.dumps({"rows": options.rows, "contenders": found}, indent=1) + "\n")
    print(told(found, options.rows))


if __name__ == "__main__":
    main()
