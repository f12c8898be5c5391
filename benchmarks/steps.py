"""What a step costs: gristmill against LangGraph, Haystack, LlamaIndex Workflows and PDL.

    python benchmarks/steps.py                # tables on standard output, numbers in benchmarks/results/steps.json
    python benchmarks/steps.py --rounds 5     # quick
    python benchmarks/steps.py --only chain-100 fan-out-100   # a minute; the other numbers in the file are kept

The work is a number that each step adds 1 to: a chain, in which each step reads the one before it, and a fan-out of
steps that are joined by one that adds up. Everybody builds (or reads, checks, compiles) its pipeline once outside the
timed part, in its own environment and process, and is then called through its public API, a block of runs each in
turns. "traced" gristmill hands every event to a listener and writes the trace file; the peers write none.

Then the checker: `Kernel.check` of chains, from the file to the diagnostics.
"""

# Without `from __future__ import annotations`: the peers read the annotations of what is defined inside functions.

import argparse
import asyncio
import gc
import itertools
import json
import operator
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, TypedDict

import _peers

PEERS = {
    "langgraph": ["langgraph==1.2.22"],
    "haystack": ["haystack-ai==3.4.0"],
    "llamaindex": ["llama-index-workflows==2.26.1"],
    "pdl": ["prompt-declaration-language==0.9.3"],
}
OURS = "gristmill, traced"
CONTENDERS = {  # name: environment
    OURS: None,
    "gristmill": None,
    "gristmill, `def`, traced": None,
    "gristmill, `def`": None,
    "LangGraph, invoke": "langgraph",
    "LangGraph, ainvoke": "langgraph",
    "LlamaIndex Workflows": "llamaindex",
    "Haystack, run": "haystack",
    "Haystack, run_async": "haystack",
    "PDL": "pdl",
}
SCENARIOS: dict[tuple[str, int], dict[str, float]] = {
    # Who takes part, and in what share of the rounds: a whole run of Haystack's 1,000 steps takes seconds.
    ("chain", 100): dict.fromkeys(CONTENDERS, 1),
    ("fan-out", 100): dict.fromkeys(CONTENDERS, 1),
    ("chain", 300): {OURS: 1, "gristmill": 1, "PDL": 0.3},
    ("chain", 1_000): dict.fromkeys(CONTENDERS, 1) | {"Haystack, run": 0.2, "Haystack, run_async": 0.2, "PDL": 0},
    ("chain", 10_000): {OURS: 0.5, "gristmill": 0.5},
}
NAMES = {f"{shape}-{size}": (shape, size) for shape, size in SCENARIOS}
CHECKED = (100, 1_000, 10_000)

Call = Callable[[], Any]


def plugin(*, threads: bool = False) -> Any:
    """Return gristmill's trivial functions, as `async def` or as `def`, which it runs in threads."""
    from gristmill import function

    class Async:
        """Trivial functions."""

        @function
        async def add(self, value: int) -> int:
            """Add 1."""
            return value + 1

        @function
        async def total(self, values: list[int]) -> int:
            """Add up."""
            return sum(values)

    class Threads:
        """Trivial functions that run in threads."""

        @function
        def add(self, value: int) -> int:
            """Add 1."""
            return value + 1

        @function
        def total(self, values: list[int]) -> int:
            """Add up."""
            return sum(values)

    return Threads() if threads else Async()


def gristmill(shape: str, size: int, *, threads: bool, traced: bool) -> Call:
    from gristmill import Event, Kernel

    file = Path("recipe.yaml").absolute()
    file.write_text(recipe(shape, size))
    kernel = Kernel(plugins={"bench": plugin(threads=threads)}, cache=False)
    runnable = kernel.recipe(file)
    if not traced:
        return lambda: runnable.run(start=0).output
    heard: list[Event] = []
    traces = (Path(f"trace{number}.jsonl").absolute() for number in itertools.count())

    def run() -> Any:
        heard.clear()  # each run writes a file of its own, as recorded ones do: ext4 flushes one cut and rewritten
        return runnable.run_with({"start": 0}, on_event=heard.append, trace=next(traces)).output

    return run


def recipe(shape: str, size: int) -> str:
    """Return the YAML of a pipeline."""
    head = "version: 1\nname: bench\ninputs: {start: integer}\nsteps:\n"
    before = ["inputs.start", *(f"s{i}" for i in range(size - 1))]
    if shape == "chain":
        return head + "".join(
            f"  s{i}: {{use: bench.add, with: {{value: '${{{b}}}'}}}}\n" for i, b in enumerate(before)
        )
    steps = "".join(f"  s{i}: {{use: bench.add, with: {{value: '${{inputs.start}}'}}}}\n" for i in range(size))
    values = ", ".join(f"'${{s{i}}}'" for i in range(size))
    return f"{head}{steps}  total: {{use: bench.total, with: {{values: [{values}]}}}}\n"


def langgraph(shape: str, size: int, *, asynchronous: bool) -> Call:
    from langgraph.graph import END, START, StateGraph  # type: ignore[import-not-found]

    class Chain(TypedDict):
        value: int

    class FanOut(TypedDict):
        value: int
        values: Annotated[list[int], operator.add]

    def add(state: Chain) -> dict[str, int]:
        return {"value": state["value"] + 1}

    async def add_async(state: Chain) -> dict[str, int]:
        return {"value": state["value"] + 1}

    def branch(state: FanOut) -> dict[str, list[int]]:
        return {"values": [state["value"] + 1]}

    async def branch_async(state: FanOut) -> dict[str, list[int]]:
        return {"values": [state["value"] + 1]}

    def total(state: FanOut) -> dict[str, int]:
        return {"value": sum(state["values"])}

    async def total_async(state: FanOut) -> dict[str, int]:
        return {"value": sum(state["values"])}

    names = [f"s{i}" for i in range(size)]
    if shape == "chain":
        graph = StateGraph(Chain)
        for name in names:
            graph.add_node(name, add_async if asynchronous else add)
        for before, after in zip([START, *names], [*names, END], strict=True):
            graph.add_edge(before, after)
    else:
        graph = StateGraph(FanOut)
        for name in names:
            graph.add_node(name, branch_async if asynchronous else branch)
            graph.add_edge(START, name)
        graph.add_node("total", total_async if asynchronous else total)
        graph.add_edge(names, "total")
        graph.add_edge("total", END)
    compiled = graph.compile()
    given: dict[str, Any] = {"value": 0}
    config = {"recursion_limit": size + 10}
    if not asynchronous:
        return lambda: compiled.invoke(given, config)["value"]
    loop = asyncio.new_event_loop()
    return lambda: loop.run_until_complete(compiled.ainvoke(given, config))["value"]


def haystack(shape: str, size: int, *, asynchronous: bool) -> Call:
    from haystack import Pipeline, component  # type: ignore[import-not-found]
    from haystack.core.component.types import Variadic  # type: ignore[import-not-found]

    class Add:
        @component.output_types(value=int)  # type: ignore[untyped-decorator]
        def run(self, value: int) -> dict[str, int]:
            return {"value": value + 1}

        @component.output_types(value=int)  # type: ignore[untyped-decorator]
        async def run_async(self, value: int) -> dict[str, int]:
            return {"value": value + 1}

    class Total:
        @component.output_types(value=int)  # type: ignore[untyped-decorator]
        def run(self, values: Variadic[int]) -> dict[str, int]:
            return {"value": sum(values)}

        @component.output_types(value=int)  # type: ignore[untyped-decorator]
        async def run_async(self, values: Variadic[int]) -> dict[str, int]:
            return {"value": sum(values)}

    add, total = component(Add), component(Total)
    pipeline = Pipeline()
    names = [f"s{i}" for i in range(size)]
    for name in names:
        pipeline.add_component(name, add())
    if shape == "chain":
        for before, after in itertools.pairwise(names):
            pipeline.connect(f"{before}.value", f"{after}.value")
        last, given = names[-1], {names[0]: {"value": 0}}
    else:
        pipeline.add_component("total", total())
        for name in names:
            pipeline.connect(f"{name}.value", "total.values")
        last, given = "total", {name: {"value": 0} for name in names}
    if not asynchronous:
        return lambda: pipeline.run(given)[last]["value"]
    loop = asyncio.new_event_loop()
    # As wide as gristmill's default; its own is 4.
    return lambda: loop.run_until_complete(pipeline.run_async(given, concurrency_limit=32))[last]["value"]


def llamaindex(shape: str, size: int) -> Call:
    from workflows import Context, Workflow, step
    from workflows.events import Event, StartEvent, StopEvent

    class Given(Event):
        value: int
        left: int

    class Made(Event):
        value: int

    class Chain(Workflow):
        """A loop: steps are methods of a class, so that a chain of any length is one event sent round and round."""

        @step
        async def begin(self, ev: StartEvent) -> Given:
            return Given(value=ev.value, left=size)

        @step
        async def add(self, ev: Given) -> Given | StopEvent:
            if ev.left == 1:
                return StopEvent(result=ev.value + 1)
            return Given(value=ev.value + 1, left=ev.left - 1)

    class FanOut(Workflow):
        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> Given | None:
            for left in range(size):
                ctx.send_event(Given(value=ev.value, left=left))
            return None

        @step(num_workers=32)
        async def add(self, ev: Given) -> Made:
            return Made(value=ev.value + 1)

        @step
        async def total(self, ctx: Context, ev: Made) -> StopEvent | None:
            made = ctx.collect_events(ev, [Made] * size)
            return None if made is None else StopEvent(result=sum(one.value for one in made))

    workflow = (Chain if shape == "chain" else FanOut)(timeout=None)
    loop = asyncio.new_event_loop()

    async def run() -> Any:
        return await workflow.run(value=0)

    return lambda: loop.run_until_complete(run())


def pdl(shape: str, size: int) -> Call:
    from pdl.pdl import exec_program  # type: ignore[import-not-found]
    from pdl.pdl_parser import parse_dict  # type: ignore[import-not-found]

    if shape == "chain":
        blocks = [{"def": f"s{i + 1}", "data": f"${{ s{i} + 1 }}"} for i in range(size)]
        program = parse_dict({"lastOf": [{"def": "s0", "data": 0}, *blocks]})
    else:
        branches = {"for": {"value": [0] * size}, "map": {"data": "${ value + 1 }"}, "join": {"as": "array"}}
        program = parse_dict({"lastOf": [{"def": "values", **branches}, {"data": "${ values | sum }"}]})
    return lambda: exec_program(program)


MAKERS: dict[str, Callable[[str, int], Call]] = {
    OURS: lambda shape, size: gristmill(shape, size, threads=False, traced=True),
    "gristmill": lambda shape, size: gristmill(shape, size, threads=False, traced=False),
    "gristmill, `def`, traced": lambda shape, size: gristmill(shape, size, threads=True, traced=True),
    "gristmill, `def`": lambda shape, size: gristmill(shape, size, threads=True, traced=False),
    "LangGraph, invoke": lambda shape, size: langgraph(shape, size, asynchronous=False),
    "LangGraph, ainvoke": lambda shape, size: langgraph(shape, size, asynchronous=True),
    "LlamaIndex Workflows": llamaindex,
    "Haystack, run": lambda shape, size: haystack(shape, size, asynchronous=False),
    "Haystack, run_async": lambda shape, size: haystack(shape, size, asynchronous=True),
    "PDL": pdl,
}


def work(name: str) -> None:
    """Be the worker of one contender."""
    made: dict[str, Call] = {}

    def make(shape: str, size: int) -> None:
        made["run"] = MAKERS[name](shape, size)
        found = made["run"]()
        assert found == size, f"{name} made {found!r} of a {shape} of {size}"

    def measure(runs: int) -> list[int]:
        gc.collect()  # so that nobody pays for an earlier block
        return _peers.clock([made["run"]] * runs)

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # for the recipe and its trace
        _peers.serve({"make": make, "measure": measure})
        os.chdir("/")


def compare(shape: str, size: int, rounds: int, pythons: dict[str | None, Path]) -> dict[str, Any]:
    """Measure all who take part, in turns; times are nanoseconds a step."""
    shares = {name: share for name, share in SCENARIOS[shape, size].items() if share}
    chance = random.Random(size)
    taken: dict[str, list[int]] = {name: [] for name in shares}
    with ExitStack() as stack:
        workers = {}
        for name in shares:
            worker = _peers.Worker(pythons[CONTENDERS[name]], Path(__file__), "--worker", name)
            workers[name] = stack.enter_context(worker)
            workers[name].call("make", shape=shape, size=size)
        load_before = _peers.load()
        runs = 3 if size == 100 else 1
        for number in range(rounds + 1):
            order = list(workers)
            chance.shuffle(order)
            for name in order:
                share = shares[name]
                if int(number * share) == int((number - 1) * share) and number:
                    continue
                times = workers[name].call("measure", runs=runs)
                if number:  # the first round warms up
                    taken[name] += [time // size for time in times]
    return {
        "shape": shape,
        "steps": size,
        "load_before": load_before,
        "load_after": _peers.load(),
        "contenders": {name: _peers.summary(times) | {"min_us": min(times) / 1000} for name, times in taken.items()},
    }


def check_times(rounds: int) -> dict[str, Any]:
    """Measure the checker on chains of several lengths, in turns, in this process."""
    from gristmill import Kernel

    kernel = Kernel(plugins={"bench": plugin()}, cache=False)
    taken: dict[int, list[int]] = {size: [] for size in CHECKED}
    processor: dict[int, list[int]] = {size: [] for size in CHECKED}
    load_before = _peers.load()
    with tempfile.TemporaryDirectory() as folder:
        files = {size: Path(folder, f"chain_{size}.yaml") for size in CHECKED}
        for size, file in files.items():
            file.write_text(recipe("chain", size))
        for number in range(rounds + 1):
            for size, file in files.items():
                if size == max(CHECKED) and number > rounds / 3:
                    continue
                gc.collect()
                used, start = time.process_time_ns(), time.perf_counter_ns()
                checked = kernel.check(file)
                elapsed, used = time.perf_counter_ns() - start, time.process_time_ns() - used
                assert not checked.diagnostics, checked.diagnostics[0].render()
                if number:  # the first round warms up
                    taken[size].append(elapsed)
                    processor[size].append(used)
    found = {
        str(size): _peers.summary(times) | {"min_us": min(times) / 1000, "processor_us": min(processor[size]) / 1000}
        for size, times in taken.items()
    }
    return {"load_before": load_before, "load_after": _peers.load(), "steps": found}


def table(results: list[dict[str, Any]]) -> str:
    """Return the results as Markdown: every contender's time, and how many times the best peer's it is."""
    lines = [
        "| pipeline | contender | µs a step, median | quartiles | fastest | times the best peer |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for result in results:
        found = result["contenders"]
        peers = [times["median_us"] for name, times in found.items() if CONTENDERS[name] is not None]
        what = f"{result['shape']} of {result['steps']:,}"
        for name, times in found.items():
            ratio = f"{times['median_us'] / min(peers):.2f}" if peers else ""
            spread = f"{times['q1_us']:.0f} to {times['q3_us']:.0f}"
            lines.append(f"| {what} | {name} | {times['median_us']:.1f} | {spread} | {times['min_us']:.1f} | {ratio} |")
        lines.append(f"| | *load average {result['load_before']} before, {result['load_after']} after* | | | | |")
    return "\n".join(lines)


def growth(results: list[dict[str, Any]]) -> str:
    """Return how a step's cost grows with the length of the chain: the fastest runs, since the tables' loads differ."""
    of = {result["steps"]: result["contenders"] for result in results if result["shape"] == "chain"}
    lines = [
        "| contender, µs a step, fastest run | 100 steps | 300 | 1,000 | 10,000 | longest to 100 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in CONTENDERS:
        times = [of[size][name]["min_us"] if name in of[size] else None for size in sorted(of)]
        known = [time for time in times if time is not None]
        shown = " | ".join("" if time is None else f"{time:.1f}" for time in times)
        lines.append(f"| {name} | {shown} | {known[-1] / known[0]:.2f} |")
    return "\n".join(lines)


def check_table(checked: dict[str, Any]) -> str:
    """Return the checker's times as Markdown."""
    lines = [
        "| steps | check, ms, median | quartiles | fastest | processor, ms, fastest | processor, µs a step |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for size, times in checked["steps"].items():
        spread = f"{times['q1_us'] / 1000:.1f} to {times['q3_us'] / 1000:.1f}"
        shown = " | ".join(f"{times[key] / 1000:.1f}" for key in ("min_us", "processor_us"))
        a_step = times["processor_us"] / int(size)
        lines.append(f"| {int(size):,} | {times['median_us'] / 1000:.1f} | {spread} | {shown} | {a_step:.1f} |")
    return "\n".join([*lines, "", f"Load average {checked['load_before']} before, {checked['load_after']} after."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="at least 10")
    parser.add_argument("--out", type=Path, default=_peers.HERE / "results" / "steps.json")
    parser.add_argument("--only", nargs="+", choices=NAMES, help="measure only these, without the checker")
    parser.add_argument("--worker", choices=MAKERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ |= {"HAYSTACK_TELEMETRY_ENABLED": "false", "LANGSMITH_TRACING": "false"}
    if options.worker:
        work(options.worker)
        return
    pythons: dict[str | None, Path] = {name: _peers.environment(name, wanted) for name, wanted in PEERS.items()}
    pythons[None] = Path(sys.executable)
    wanted = [NAMES[name] for name in options.only or NAMES]
    results = [compare(shape, size, options.rounds, pythons) for shape, size in wanted]
    packages = {name: _peers.versions(pythons[name]) for name in PEERS}
    report: dict[str, Any] = {"python": sys.version.split()[0], "results": results, "packages": packages}
    if options.only:
        earlier = json.loads(options.out.read_text()) if options.out.exists() else {"results": []}
        kept = [one for one in earlier["results"] if (one["shape"], one["steps"]) not in wanted]
        report = earlier | report | {"results": results + kept}
        print(table(results))
    else:
        report["checker"] = check_times(options.rounds)
        print(f"{table(results)}\n\n{growth(results)}\n\n{check_table(report['checker'])}")
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
