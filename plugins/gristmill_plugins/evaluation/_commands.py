"""The commands `batch`, `eval`, `compare`, `optimize`, `ladder` and `runs`.

They read options and print; the work is in the modules they call, imported when a command runs, so that
`gristmill --help` imports typer alone. With `--json`, standard output holds one JSON document and nothing else.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gristmill.commands import JsonOption, ModelOption, PluginOption, RecipeArgument, SetOption, plural
from gristmill_plugins.evaluation._commands_runs import runs_app as runs_app

if TYPE_CHECKING:
    from gristmill import Kernel
    from gristmill_plugins.evaluation._runner import Effort

CONCURRENCY = 40

DataArgument = Annotated[Path, typer.Argument(metavar="DATA", help="Rows: .jsonl, .csv, .tsv or .parquet.")]
MapOption = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="INPUT=COLUMN", help="Which column an input takes; by default that of its name."),
]
InputOption = Annotated[
    list[str] | None,
    typer.Option("--input", "-i", metavar="NAME=VALUE", help="An input that is the same for every row."),
]
ConcurrencyOption = Annotated[int, typer.Option(min=1, max=10_000, help="Rows under way together.")]
AttemptsOption = Annotated[int, typer.Option(min=1, max=100, help="How often a row that fails is run in all.")]
NoCacheOption = Annotated[bool, typer.Option("--no-cache", help="Neither read nor write the prompt cache.")]
EngineOption = Annotated[
    str, typer.Option("--engine", metavar="local|ray", help="Where rows run: here, or on a Ray cluster.")
]
AddressOption = Annotated[
    str, typer.Option("--ray-address", metavar="HOST:PORT", help="The Ray cluster; by default this machine's.")
]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Workers on the cluster; by default one a GPU, or one a node.")
]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Only the first so many rows.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]


def _app() -> typer.Typer:
    return typer.Typer(rich_markup_mode=None)


def _effort(concurrency: int, attempts: int, engine: str, address: str, workers: int | None) -> Effort:
    from gristmill import UsageError, suggest
    from gristmill_plugins.evaluation._runner import Effort

    if engine not in ("local", "ray"):
        raise UsageError(f"--engine {engine!r} is no engine", hint=suggest(engine, ("local", "ray")))
    if engine == "local":
        return Effort(concurrency=concurrency, attempts=attempts)
    from gristmill_plugins.evaluation._cluster import Cluster

    return Effort(concurrency=concurrency, attempts=attempts, cluster=Cluster(address, workers))


def _kernel(plugins: list[str] | None, *, cache: bool) -> Kernel:
    from gristmill import Kernel

    return Kernel(plugin_files=plugins or (), cache=cache)


batch_app = _app()


@batch_app.command()
def batch(
    recipe: RecipeArgument,
    data: DataArgument,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT.jsonl", help="Where the records go.")],
    map_: MapOption = None,
    inputs: InputOption = None,
    id_column: Annotated[
        str | None, typer.Option("--id", metavar="COLUMN", help="The column of the records' `id`; by default `id`.")
    ] = None,
    in_order: Annotated[bool, typer.Option("--in-order", help="Write the records in the order of the rows.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run the rows again that failed in an earlier run of this command.")
    ] = False,
    limit: LimitOption = None,
    concurrency: ConcurrencyOption = CONCURRENCY,
    attempts: AttemptsOption = 2,
    engine: EngineOption = "local",
    ray_address: AddressOption = "auto",
    workers: WorkersOption = None,
    model: ModelOption = None,
    set_: SetOption = None,
    plugin: PluginOption = None,
    no_cache: NoCacheOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run a recipe on every row of a file; the same command goes on where it was stopped."""
    from gristmill.commands import read_inputs, read_overrides
    from gristmill_plugins.evaluation._batch import BatchOptions, run_batch
    from gristmill_plugins.evaluation._inputs import parse_pairs
    from gristmill_plugins.evaluation._print import print_note
    from gristmill_plugins.evaluation._progress import Progress
    from gristmill_plugins.evaluation._records import batch_record, keep, prepare

    with _kernel(plugin, cache=not no_cache) as kernel:
        overrides = read_overrides(kernel, recipe, model, set_)
        loaded = kernel.recipe(recipe, overrides=overrides)
        options = BatchOptions(
            columns=parse_pairs("--map", map_),
            constants=read_inputs(loaded, inputs or ()),
            overrides=overrides,
            effort=_effort(concurrency, attempts, engine, ray_address, workers),
            id_column=id_column,
            in_order=in_order,
            retry_failed=retry_failed,
            limit=limit,
        )
        prepare(kernel)
        try:
            with Progress("rows", quiet=quiet or as_json) as progress:
                done = run_batch(loaded, data, out, options, progress.update)
        except KeyboardInterrupt:
            print_note(["stopped: the same command goes on from here"])
            raise
        record = batch_record(data, out, done)
        keep(kernel, record)
    if as_json:
        told = {"out": str(out), "rows": done.n_rows, "before": done.n_before, "failed": done.n_failed}
        typer.echo(json.dumps(told | {"id": record["id"]}))
    else:
        before = f", {done.n_before:,} of them before" if done.n_before else ""
        kept = [] if quiet else [f"kept as {record['id']}"]
        print_note([f"{out}: {plural(done.n_rows, 'row')}{before}; {done.n_failed:,} failed", *kept])
    raise typer.Exit(1 if done.n_failed else 0)


eval_app = _app()
compare_app = _app()
MetricsOption = Annotated[
    str | None, typer.Option("--metrics", "-m", metavar="NAME,NAME", help="Metrics, with commas between them.")
]
RepeatsOption = Annotated[
    int | None, typer.Option(min=1, max=100, help="Run all rows so often, each time with other seeds.")
]
ExpectOption = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="The column of what is right; a list holds several.")
]
GroupOption = Annotated[str | None, typer.Option(metavar="COLUMN", help="Groups, for fairness.")]
RelevantOption = Annotated[str | None, typer.Option(metavar="COLUMN", help="Ids of what retrieval should find.")]
AnswerOption = Annotated[str | None, typer.Option(metavar="FIELD", help="The output's field that is the answer.")]
PassagesOption = Annotated[str | None, typer.Option(metavar="FIELD", help="Passages, such as steps.search.")]
FailIfOption = Annotated[
    list[str] | None,
    typer.Option(metavar="CONDITION", help="Exit with 1 where it holds: 'B.accuracy < A.accuracy - 0.02'."),
]
HtmlOption = Annotated[Path | None, typer.Option("--html", metavar="FILE.html", help="Write a report with pictures.")]
SliceOption = Annotated[
    list[str] | None, typer.Option("--slice", metavar="COLUMN", help="Show every figure for each of its values too.")
]


@eval_app.command("eval")
def evaluate(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe, or an evaluation file with `recipes:`.")],
    data: Annotated[Path | None, typer.Argument(metavar="[DATA]", help="Rows: .jsonl, .csv, .tsv or .parquet.")] = None,
    map_: MapOption = None,
    inputs: InputOption = None,
    expect: ExpectOption = None,
    metrics: MetricsOption = None,
    slices: SliceOption = None,
    group: GroupOption = None,
    relevant: RelevantOption = None,
    answer: AnswerOption = None,
    confidence: Annotated[str | None, typer.Option(metavar="FIELD", help="The output's confidence, 0 to 1.")] = None,
    passages: PassagesOption = None,
    repeats: RepeatsOption = None,
    limit: LimitOption = None,
    concurrency: ConcurrencyOption = CONCURRENCY,
    attempts: AttemptsOption = 2,
    engine: EngineOption = "local",
    ray_address: AddressOption = "auto",
    workers: WorkersOption = None,
    model: ModelOption = None,
    set_: SetOption = None,
    plugin: PluginOption = None,
    no_cache: NoCacheOption = False,
    as_json: JsonOption = False,
    html: HtmlOption = None,
    fail_if: FailIfOption = None,
    quiet: QuietOption = False,
) -> None:
    """Measure how good a recipe is on rows of data."""
    from gristmill_plugins.evaluation._session import Given, Show, run_evaluation

    given = Given(
        recipes=[recipe], data=data, map=map_, inputs=inputs, metrics=metrics, slices=slices, model=model, set=set_,
        options={"expect": expect, "group": group, "relevant": relevant, "answer": answer, "confidence": confidence,
                 "passages": passages, "repeats": repeats, "limit": limit},
    )  # fmt: skip
    with _kernel(plugin, cache=not no_cache) as kernel:
        code = run_evaluation(
            kernel,
            given,
            Show(as_json, html, quiet),
            effort=_effort(concurrency, attempts, engine, ray_address, workers),
            fail_if=fail_if or [],
            kind="eval",
        )
    raise typer.Exit(code)


@compare_app.command()
def compare(
    recipes: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE... DATA", help="Recipes (NAME=RECIPE too), then the data; or an evaluation file."
        ),
    ],
    map_: MapOption = None,
    inputs: InputOption = None,
    expect: ExpectOption = None,
    metrics: MetricsOption = None,
    slices: SliceOption = None,
    group: GroupOption = None,
    relevant: RelevantOption = None,
    answer: AnswerOption = None,
    passages: PassagesOption = None,
    repeats: RepeatsOption = None,
    all_pairs: Annotated[bool, typer.Option("--all-pairs", help="All with all, not each with the first.")] = False,
    limit: LimitOption = None,
    concurrency: ConcurrencyOption = CONCURRENCY,
    attempts: AttemptsOption = 2,
    engine: EngineOption = "local",
    ray_address: AddressOption = "auto",
    workers: WorkersOption = None,
    model: ModelOption = None,
    set_: SetOption = None,
    plugin: PluginOption = None,
    no_cache: NoCacheOption = False,
    as_json: JsonOption = False,
    html: HtmlOption = None,
    fail_if: FailIfOption = None,
    quiet: QuietOption = False,
) -> None:
    """Say which recipe is better on rows of data, by how much, and whether that is chance."""
    from gristmill_plugins.evaluation._session import Given, Show, run_evaluation

    data = Path(recipes[-1]) if len(recipes) > 1 else None
    given = Given(
        recipes=recipes[:-1] if data else recipes, data=data, map=map_, inputs=inputs, metrics=metrics, slices=slices,
        model=model, set=set_,
        options={"expect": expect, "group": group, "relevant": relevant, "answer": answer, "passages": passages,
                 "repeats": repeats, "limit": limit},
    )  # fmt: skip
    with _kernel(plugin, cache=not no_cache) as kernel:
        code = run_evaluation(
            kernel,
            given,
            Show(as_json, html, quiet),
            effort=_effort(concurrency, attempts, engine, ray_address, workers),
            fail_if=fail_if or [],
            kind="compare",
            all_pairs=all_pairs,
        )
    raise typer.Exit(code)


optimize_app = _app()


@optimize_app.command()
def optimize(
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="What to search: recipe, data, metrics, tune.")],
    concurrency: ConcurrencyOption = CONCURRENCY,
    attempts: AttemptsOption = 2,
    plugin: PluginOption = None,
    no_cache: NoCacheOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Search a recipe's choices on one part of the data, and confirm the best on the other."""
    from gristmill_plugins.evaluation._optimize import as_options, read_search
    from gristmill_plugins.evaluation._optimize import optimize as search_for
    from gristmill_plugins.evaluation._plain import jsonable
    from gristmill_plugins.evaluation._print import print_leanings, print_note, shown
    from gristmill_plugins.evaluation._records import keep, make_record, row_lines
    from gristmill_plugins.evaluation._runner import Effort
    from gristmill_plugins.evaluation._session import print_differences

    search = read_search(file)
    with _kernel(plugin, cache=not no_cache) as kernel:
        found = search_for(
            kernel, search, Effort(concurrency, attempts), lambda line: None if quiet or as_json else print_note([line])
        )
        more = {
            "setting": found.setting, "rounds": found.rounds, "rows_spent": found.rows_spent,
            "differences": [one.as_json() for one in found.differences],
        }  # fmt: skip
        record = jsonable(make_record("optimize", search, found.held_out, found.confirmed, **more))
        place = keep(kernel, record, row_lines(found.held_out, found.confirmed))
    if as_json:
        typer.echo(json.dumps(record, ensure_ascii=False))
        return
    n = len(found.held_out.rows)
    typer.echo(f"searched with {found.rows_spent:,} rows; on {plural(n, 'row')} that were held out:")
    for one in found.confirmed:
        figures = ", ".join(f"{name} {shown(figure)}" for name, figure in one.figures.items())
        typer.echo(f"  {one.name}: {figures}, {one.cost.tokens_per_row:,.0f} tokens/row")
    if found.setting:
        print_differences(found.differences)
        print_leanings(found.confirmed)
        typer.echo("\nbest setting: " + " ".join(as_options(found.setting)))
    else:
        typer.echo("the recipe as it is was the best")
    print_note([f"kept as {place.stem}"])


ladder_app = _app()


@ladder_app.command()
def ladder(
    file: Annotated[Path, typer.Argument(metavar="TASK.yaml", help="The task: data, columns, metrics, what it has.")],
    recipes: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the rungs' recipes go; by default beside the task.")
    ] = None,
    best: Annotated[Path | None, typer.Option(metavar="FILE.yaml", help="Copy the recipe to stop at to here.")] = None,
    concurrency: ConcurrencyOption = CONCURRENCY,
    attempts: AttemptsOption = 2,
    plugin: PluginOption = None,
    no_cache: NoCacheOption = False,
    as_json: JsonOption = False,
    html: HtmlOption = None,
    quiet: QuietOption = False,
) -> None:
    """Try one technique after another on a task; say what each gained and cost, and where to stop."""
    from gristmill.commands import print_table
    from gristmill_plugins.evaluation._ladder import check_places, climb, keep_best, read_ladder, table
    from gristmill_plugins.evaluation._plain import jsonable
    from gristmill_plugins.evaluation._print import print_leanings, print_note
    from gristmill_plugins.evaluation._progress import Progress
    from gristmill_plugins.evaluation._records import keep, make_record, row_lines
    from gristmill_plugins.evaluation._runner import Effort
    from gristmill_plugins.evaluation._session import picture_parts

    task = read_ladder(file)
    folder = recipes or file.with_name(f"{file.stem}.rungs")
    check_places(folder, best)
    if html is not None:
        from gristmill_plugins.evaluation._report import check_report, write_report

        check_report(html)
    silent = quiet or as_json
    with _kernel(plugin, cache=not no_cache) as kernel, Progress("rows", quiet=silent) as progress:
        climbed, data = climb(
            kernel, task, folder, Effort(concurrency, attempts), lambda line: None if silent else typer.echo(line),
            lambda _: progress.update,
        )  # fmt: skip
        parts = picture_parts(climbed.evaluated, climbed.against_first)
        record = jsonable(make_record("ladder", task, data, climbed.evaluated, **parts, skipped=climbed.skipped,
                                      stop_at=climbed.standing.name if climbed.standing else None))  # fmt: skip
        place = keep(kernel, record, row_lines(data, climbed.evaluated))
    if best is not None:
        keep_best(climbed, folder, best)
    if html is not None:
        write_report(html, record, climbed.evaluated)
    if as_json:
        typer.echo(json.dumps(record, ensure_ascii=False))
        return
    metrics = list(climbed.evaluated[0].figures)
    headings = ("rung", *metrics, f"{metrics[0]}, against the first", "p (Holm)", "tokens/row", "seconds", "")
    typer.echo("")
    print_table(headings, table(climbed))
    print_leanings(climbed.evaluated)
    print_note([f"the recipes are in {folder}", f"kept as {place.stem}"])
