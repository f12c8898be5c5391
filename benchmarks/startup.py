"""How long a command takes from its start to its end: gristmill against llm, Haystack and PDL.

    python benchmarks/startup.py               # a table on standard output, numbers in benchmarks/results/startup.json
    python benchmarks/startup.py --repeats 15

Every command is a process of its own, in its own environment, with its bytecode compiled beforehand; they take turns.
Wall time is what a user waits for; processor time (user and system) is steadier on a machine that does other things.
The run is answered from the cache, which the bundled model filled beforehand. Then each gristmill command is looked
into: which modules it imported, which processes it started. The engines' libraries must not be among them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import _peers

PEERS = {
    "llm": ["llm==0.36"],
    "haystack": ["haystack-ai==3.4.0"],
    "pdl": ["prompt-declaration-language==0.9.3"],
}
HEAVY = ("semantic_kernel", "llama_cpp", "llama_index", "sklearn", "torch", "ray")
QUESTION = "question=How many legs does a spider have?"
CHECKED = ("quickstart", "few_shot", "compose", "map_reduce", "branch", "refine")
GRISTMILL = {
    "gristmill --help": ["--help"],
    "gristmill check quickstart": ["check", "quickstart"],
    "gristmill run quickstart (cached)": ["run", "quickstart", "--input", QUESTION],
}
OBSERVED = """
import json, os, sys
started = []
watched = ("subprocess.Popen", "os.fork", "os.posix_spawn", "os.exec", "os.system")
sys.addaudithook(lambda event, _: started.append(event) if event in watched else None)
from gristmill._cli import main
code = 0
try:
    main()
except SystemExit as end:
    code = end.code or 0
with open(os.environ["OBSERVED"], "w") as file:
    json.dump({"code": code, "modules": sorted(sys.modules), "started": started}, file)
"""


def commands(pythons: Mapping[str, Path]) -> dict[str, list[str]]:
    """Return what is compared, as a user would start it, and the interpreter alone, which all of them pay."""
    ours = Path(sys.executable).with_name("gristmill")
    return {name: [str(ours), *arguments] for name, arguments in GRISTMILL.items()} | {
        "llm --help": [str(pythons["llm"].with_name("llm")), "--help"],
        'python -c "import haystack"': [str(pythons["haystack"]), "-c", "import haystack"],
        "pdl --help": [str(pythons["pdl"].with_name("pdl")), "--help"],
        "python -c pass": [sys.executable, "-c", "pass"],
    }


def compile_bytecode(python: Path) -> None:
    """Compile all that an interpreter can import beside the standard library, so that no timed part pays for it."""
    script = (
        "import os, sys, compileall; known = os.path.dirname(os.__file__); "
        "[compileall.compile_dir(path, quiet=2) for path in sys.path if path and not path.startswith(known)]"
    )
    subprocess.run([str(python), "-c", script], check=True)


def clock(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, int]:
    """Return wall time and processor time (user and system) of a command, in nanoseconds."""
    start = time.perf_counter_ns()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter_ns() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return wall, int((usage.ru_utime + usage.ru_stime) * 1e9)


def compare(repeats: int, named: Mapping[str, Sequence[str]], environment: Mapping[str, str]) -> dict[str, Any]:
    """Measure every command, in turns."""
    chance = random.Random(0)
    wall: dict[str, list[int]] = {name: [] for name in named}
    processor: dict[str, list[int]] = {name: [] for name in named}
    load_before = _peers.load()
    for number in range(repeats + 1):
        order = list(named)
        chance.shuffle(order)
        for name in order:
            times = clock(named[name], environment)
            if number:  # the first round fills the disk cache
                wall[name].append(times[0])
                processor[name].append(times[1])
    found = {
        name: {
            "wall": _peers.summary(wall[name]) | {"min_us": min(wall[name]) / 1000},
            "processor": _peers.summary(processor[name]) | {"min_us": min(processor[name]) / 1000},
        }
        for name in named
    }
    return {"load_before": load_before, "load_after": _peers.load(), "commands": found}


def observe(folder: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """Run a gristmill command and say what of the heavy libraries it imported, and what it started."""
    seen = folder / "observed.json"
    subprocess.run(
        [sys.executable, "-c", OBSERVED, *arguments],
        env={**environment, "OBSERVED": str(seen)},
        check=True,
        capture_output=True,
    )
    found = json.loads(seen.read_text())
    assert found["code"] == 0, f"{arguments} ended with {found['code']}"
    heavy = sorted({name.partition(".")[0] for name in found["modules"]} & set(HEAVY))
    assert not heavy, f"gristmill {' '.join(arguments)} imports {heavy}"
    assert not found["started"], f"gristmill {' '.join(arguments)} starts a process"
    return {"modules": len(found["modules"]), "heavy": heavy, "processes": len(found["started"])}


def table(result: Mapping[str, Any]) -> str:
    """Return the times as Markdown, in milliseconds."""
    lines = [
        "| command | wall, ms, median | quartiles | fastest | processor, ms, median | fastest |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, found in result["commands"].items():
        wall, used = found["wall"], found["processor"]
        spread = f"{wall['q1_us'] / 1000:.0f} to {wall['q3_us'] / 1000:.0f}"
        lines.append(
            f"| `{name}` | {wall['median_us'] / 1000:.0f} | {spread} | {wall['min_us'] / 1000:.0f} "
            f"| {used['median_us'] / 1000:.0f} | {used['min_us'] / 1000:.0f} |"
        )
    return "\n".join([*lines, "", f"Load average {result['load_before']} before, {result['load_after']} after."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--out", type=Path, default=_peers.HERE / "results" / "startup.json")
    options = parser.parse_args()
    pythons = {name: _peers.environment(name, wanted) for name, wanted in PEERS.items()}
    for python in (*pythons.values(), Path(sys.executable)):
        compile_bytecode(python)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own = {variable: str(folder) for variable in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
        environment = {**os.environ, **own, "HAYSTACK_TELEMETRY_ENABLED": "false"}
        named = commands(pythons)
        subprocess.run(named["gristmill run quickstart (cached)"], env=environment, check=True, capture_output=True)
        observed = {name: observe(folder, arguments, environment) for name, arguments in GRISTMILL.items()}
        observed["gristmill plugins"] = observe(folder, ["plugins"], environment)
        observed |= {f"gristmill check {name}": observe(folder, ["check", name], environment) for name in CHECKED}
        result = compare(options.repeats, named, environment)
    packages = {name: _peers.versions(pythons[name]) for name in PEERS}
    options.out.parent.mkdir(exist_ok=True)
    report = {"python": sys.version.split()[0], **result, "observed": observed, "packages": packages}
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(table(result))
    print(f"\nImported by none of {len(observed)} gristmill commands: {', '.join(HEAVY)}. Processes started: none.")


if __name__ == "__main__":
    main()
