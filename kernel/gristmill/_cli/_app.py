"""The commands. Each imports what it needs when it runs, so that `--help` and `check` start fast.

They hold no logic of their own: what they print comes from the kernel's values. With `--json`, standard output holds
one JSON document and nothing else; everything that is not the answer goes to standard error.

It is long because it is a list: one short function a command.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gristmill._cli._commands import CommandGroup
from gristmill._cli._memory import memory_app
from gristmill._cli._model_commands import model_app
from gristmill.commands import JsonOption, ModelOption, PluginOption, RecipeArgument, SetOption, plural

if TYPE_CHECKING:
    from gristmill._events import RunResult
    from gristmill._kernel import Kernel
    from gristmill._language._recipe import Recipe
    from gristmill._runnable import RunnableRecipe

app = typer.Typer(
    name="gristmill",
    cls=CommandGroup,
    help="Compose language-model techniques in a page of YAML that is checked before it runs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: importing rich takes a third of the time that `--help` takes
    context_settings={"help_option_names": ["-h", "--help"]},
)
cache_app = typer.Typer(help="Look after the prompt cache.", no_args_is_help=True)
new_app = typer.Typer(help="Start a recipe or a plugin.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")
app.add_typer(new_app, name="new")
app.add_typer(model_app, name="model")
app.add_typer(memory_app, name="memory")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"gristmill {version('gristmill')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Compose language-model techniques in a page of YAML that is checked before it runs."""


def _kernel(plugins: list[str] | None = None, *, cache: bool = True) -> Kernel:
    from gristmill._kernel import Kernel

    return Kernel(plugin_files=plugins or (), cache=cache)


@app.command()
def run(
    recipe: RecipeArgument,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", metavar="NAME=VALUE", help="An input; NAME=@FILE reads the value from a file."),
    ] = None,
    input_file: Annotated[Path | None, typer.Option(help="Inputs from a YAML or JSON file.")] = None,
    model: ModelOption = None,
    set_: SetOption = None,
    plugin: PluginOption = None,
    as_json: JsonOption = False,
    trace: Annotated[Path | None, typer.Option(help="Write the trace, as JSON Lines, to this file.")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither read nor write the prompt cache.")] = False,
    refresh: Annotated[bool, typer.Option("--refresh", help="Compute anew, and keep the new answers.")] = False,
    from_run: Annotated[
        str | None, typer.Option(metavar="ID", help="Use the finished steps of an earlier run again.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the output only.")] = False,
) -> None:
    """Run a recipe."""
    from gristmill._cli._inputs import read_inputs, read_overrides
    from gristmill._cli._live import make_view
    from gristmill._errors import RunError

    with _kernel(plugin, cache=not no_cache) as kernel:
        loaded = kernel.recipe(recipe, overrides=read_overrides(kernel, recipe, model, set_))
        _warn(loaded)
        values = read_inputs(loaded.recipe, inputs or [], input_file)
        view = make_view(loaded.recipe, quiet=quiet or as_json)
        try:
            with view:
                result = loaded.run_with(
                    values,
                    on_event=view.listener,
                    cache_mode="refresh" if refresh else None,
                    trace=trace,
                    record=True,
                    resume=from_run,
                )
        except RunError as error:
            if as_json:
                record = error.result.as_json() | {"error": error.message}
                typer.echo(json.dumps(record, ensure_ascii=False))
            resumable = any(step.status in ("done", "resumed") for step in error.result.steps.values())
            error.hint = f"finished steps are kept: --from-run {error.result.run_id}" if resumable else None
            raise
    _print_result(result, as_json)


def _warn(loaded: RunnableRecipe) -> None:
    for diagnostic in loaded.recipe.diagnostics:
        if diagnostic.severity == "warning":
            print(diagnostic.render(), file=sys.stderr)


def _print_result(result: RunResult, as_json: bool) -> None:
    from gristmill._events import jsonable
    from gristmill._values import Value

    if as_json:
        typer.echo(json.dumps(result.as_json(), ensure_ascii=False))
        return
    output = result.output
    text = output.as_text() if isinstance(output, Value) else output
    typer.echo(text if isinstance(text, str) else json.dumps(jsonable(output), ensure_ascii=False, indent=2))


@app.command()
def check(
    recipes: Annotated[list[str], typer.Argument(help="Recipes by name or path.", show_default=False)],
    plugin: PluginOption = None,
    as_json: JsonOption = False,
    github: Annotated[bool, typer.Option("--github", help="Print GitHub workflow annotations.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Treat warnings as errors.")] = False,
) -> None:
    """Find every mistake in recipes, without loading a model."""
    from gristmill._language._diagnostics import sort_unique

    kernel = _kernel(plugin, cache=False)
    found = sort_unique(diagnostic for recipe in recipes for diagnostic in kernel.check(recipe).diagnostics)
    n_errors = sum(diagnostic.severity == "error" for diagnostic in found)
    if as_json:
        typer.echo(json.dumps({"diagnostics": [d.as_json() for d in found], "errors": n_errors}, ensure_ascii=False))
    else:
        for diagnostic in found:
            typer.echo(diagnostic.as_github() if github else diagnostic.render())
        n_warnings = len(found) - n_errors
        summary = f"{plural(n_errors, 'error')}, {plural(n_warnings, 'warning')}" if found else "no mistakes found"
        print(f"{plural(len(recipes), 'recipe')}: {summary}", file=sys.stderr)
    raise typer.Exit(2 if n_errors or (strict and found) else 0)


@app.command()
def graph(
    recipe: RecipeArgument,
    form: Annotated[str, typer.Option("--format", "-f", help="text, mermaid or svg.")] = "text",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")] = None,
    plugin: PluginOption = None,
) -> None:
    """Draw a recipe's pipeline."""
    from gristmill._errors import UsageError, suggest
    from gristmill._tools._graph import draw_mermaid, draw_svg, draw_text

    drawers = {"text": draw_text, "mermaid": draw_mermaid, "svg": draw_svg}
    if form not in drawers:
        raise UsageError(f"{form!r} is no format", hint=suggest(form, drawers))
    picture = drawers[form](_kernel(plugin, cache=False).recipe(recipe).recipe)
    if output is None:
        typer.echo(picture)
    else:
        output.write_text(picture + "\n", encoding="utf-8")


@app.command()
def schema(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")] = None,
    plugin: PluginOption = None,
) -> None:
    """Print the JSON Schema of recipes, for editors."""
    from gristmill._tools._schema import recipe_schema

    text = json.dumps(recipe_schema(_kernel(plugin, cache=False).registry), indent=2, ensure_ascii=False)
    if output is None:
        typer.echo(text)
    else:
        output.write_text(text + "\n", encoding="utf-8")
        print(f"wrote {output}", file=sys.stderr)


@app.command("list")
def list_recipes(as_json: JsonOption = False) -> None:
    """List the installed recipes with their inputs."""
    kernel = _kernel(cache=False)
    found = [(name, kernel.check(path)) for name, path in kernel.library.files().items()]
    if as_json:
        typer.echo(json.dumps([_recipe_record(name, recipe) for name, recipe in found], ensure_ascii=False))
        return
    width = max((len(name) for name, _ in found), default=0)
    for name, recipe in found:
        typer.echo(f"{name:<{width}}  {recipe.description}")
        for declared in recipe.inputs.values():
            mark = "" if declared.required else " (optional)"
            typer.echo(f"{'':<{width}}    {declared.name}: {declared.type}{mark}  {declared.description}".rstrip())


def _recipe_record(name: str, recipe: Recipe) -> dict[str, Any]:
    inputs = {
        declared.name: {"type": str(declared.type), "required": declared.required, "description": declared.description}
        for declared in recipe.inputs.values()
    }
    return {"name": name, "description": recipe.description, "inputs": inputs, "path": str(recipe.path)}


plugins_app = typer.Typer(help="List the installed plugins and what they offer.", invoke_without_command=True)
app.add_typer(plugins_app, name="plugins")


@plugins_app.command("sync")
def sync_plugins() -> None:
    """Ask the MCP servers and OpenAPI documents of gristmill.toml what they offer, so that recipes can be checked."""
    from gristmill._errors import UsageError

    with _kernel(cache=False) as kernel:
        path = kernel.settings.tools_file
        if path is None:
            raise UsageError("there is no gristmill.toml that names servers", hint="write one in this folder")
        table = kernel.settings.plugin_tables.get("semantic_kernel", {})
        found = kernel.wait(kernel.registry.plugin("semantic_kernel").plugin.sync(table, path))
    for name, n in found.items():
        typer.echo(f"{name}: {plural(n, 'tool')}")
    typer.echo(f"wrote {path}")


@plugins_app.callback()
def plugins(context: typer.Context, plugin: PluginOption = None, as_json: JsonOption = False) -> None:
    """List the installed plugins and what they offer."""
    if context.invoked_subcommand is not None:
        return
    rows = _kernel(plugin, cache=False).registry.status()
    if as_json:
        typer.echo(json.dumps([_plugin_record(row) for row in rows], ensure_ascii=False))
        return
    for row in rows:
        typer.echo(f"{row.name}  ({row.distribution})  {row.spec.summary if row.spec else ''}".rstrip())
        if row.error is not None:
            typer.echo(f"  broken: {row.error}")
            continue
        assert row.spec is not None
        for provider in row.spec.providers.values():
            typer.echo(f"  {provider.name}: makes a {provider.makes}. {provider.summary}")
        for function in row.spec.functions.values():
            arguments = ", ".join(p.name if p.required else f"{p.name}=" for p in function.parameters.values())
            typer.echo(f"  {function.name}({arguments}) -> {function.returns}. {function.summary}")


def _plugin_record(row: Any) -> dict[str, Any]:
    return {
        "name": row.name,
        "distribution": row.distribution,
        "error": row.error.message if row.error else None,
        "functions": {name: spec.summary for name, spec in row.spec.functions.items()} if row.spec else {},
        "providers": {name: spec.summary for name, spec in row.spec.providers.items()} if row.spec else {},
    }


@app.command()
def lock(recipe: RecipeArgument, plugin: PluginOption = None) -> None:
    """Pin a recipe's models, adapters and called recipes."""
    from gristmill._lock import write_lock

    with _kernel(plugin, cache=False) as kernel:
        path = write_lock(kernel.recipe(recipe).recipe, kernel.model_of)
    typer.echo(f"wrote {path}")


@app.command()
def test(
    recipe: RecipeArgument,
    cases: Annotated[Path | None, typer.Option(help="The cases; NAME.test.yaml beside the recipe by default.")] = None,
    fake: Annotated[bool, typer.Option("--fake", help="Answer from each case's `answers`, without a model.")] = False,
    record: Annotated[bool, typer.Option("--record", help="Keep the real model's answers for --replay.")] = False,
    replay: Annotated[bool, typer.Option("--replay", help="Answer from the recording, without a model.")] = False,
    plugin: PluginOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a recipe's test cases."""
    from tempfile import TemporaryDirectory

    from gristmill._errors import UsageError
    from gristmill._kernel import Kernel
    from gristmill._tools._cases import run_cases

    if fake + record + replay > 1:
        raise UsageError("--fake, --record and --replay exclude each other")
    mode: Any = "fake" if fake else "record" if record else "replay" if replay else "real"
    with (
        TemporaryDirectory() as memory,
        Kernel(plugin_files=plugin or (), memory=memory) as kernel,
    ):  # not the user's own
        results = run_cases(kernel, recipe, cases, mode)
    if as_json:
        rows = [{"name": r.name, "passed": r.passed, "failures": list(r.failures)} for r in results]
        typer.echo(json.dumps(rows, ensure_ascii=False))
    else:
        for result in results:
            typer.echo(f"{'passed' if result.passed else 'FAILED'}  {result.name}  ({result.elapsed_s:.2f} s)")
            for failure in result.failures:
                typer.echo("    " + failure.replace("\n", "\n    "))
        n_failed = sum(not result.passed for result in results)
        print(f"{len(results) - n_failed} passed, {n_failed} failed", file=sys.stderr)
    raise typer.Exit(0 if all(result.passed for result in results) else 1)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Say what this machine can do, and how to mend what it cannot."""
    from gristmill._cli._doctor import examine

    with _kernel() as kernel:
        lines = list(examine(kernel))
    if as_json:
        typer.echo(json.dumps([line.model_dump(mode="json") for line in lines], ensure_ascii=False))
    else:
        marks = {"ok": "ok  ", "note": "note", "bad": "BAD "}
        for line in lines:
            typer.echo(f"{marks[line.status]}  {line.what}: {line.detail}")
            if line.mend:
                typer.echo(f"      {line.mend}")
    raise typer.Exit(1 if any(line.status == "bad" for line in lines) else 0)


@app.command()
def mcp(
    recipes: Annotated[list[str] | None, typer.Argument(help="Recipes to serve; by default all.")] = None,
    plugin: PluginOption = None,
) -> None:
    """Serve recipes as tools of an MCP server, on standard input and output."""
    with _kernel(plugin) as kernel:
        kernel.registry.plugin("semantic_kernel").plugin.serve(kernel, recipes or ())


@cache_app.command("stats")
def cache_stats(as_json: JsonOption = False) -> None:
    """Say how many answers the cache holds."""
    from dataclasses import asdict

    with _kernel() as kernel:
        assert kernel.cache is not None
        record = {"directory": str(kernel.cache.directory), **asdict(kernel.cache.stats())}
    if as_json:
        typer.echo(json.dumps(record, default=str))
    else:
        for key, value in record.items():
            typer.echo(f"{key}: {value}")


@cache_app.command("verify")
def cache_verify(as_json: JsonOption = False) -> None:
    """Read every entry and set damaged ones aside."""
    from dataclasses import asdict

    with _kernel() as kernel:
        assert kernel.cache is not None
        report = kernel.cache.verify()
    if as_json:
        typer.echo(json.dumps(asdict(report), default=str))
    else:
        for key, value in asdict(report).items():
            typer.echo(f"{key}: {value}")
    raise typer.Exit(0 if report.ok else 1)


@cache_app.command("clear")
def cache_clear() -> None:
    """Forget every answer."""
    with _kernel() as kernel:
        assert kernel.cache is not None
        typer.echo(f"forgot {plural(kernel.cache.clear(), 'answer')}")
        if (directory := kernel.cache.directory / "semantic").is_dir():
            from gristmill._semantic._index import clear

            clear(directory.parent)


@cache_app.command("audit")
def cache_audit(
    pairs: Annotated[list[Path], typer.Argument(metavar="PAIRS.jsonl...", help="Labelled pairs.", show_default=False)],
    threshold: Annotated[list[float] | None, typer.Option(help="A cosine to try; several times for several.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how often `cache: {semantic: ...}` would be right and wrong on labelled pairs of prompts."""
    from gristmill._cli._cache_audit import print_audit

    with _kernel() as kernel:
        print_audit(kernel, pairs, threshold, as_json=as_json)


@new_app.command("recipe")
def new_recipe(path: Annotated[Path, typer.Argument(help="The file to write.", show_default=False)]) -> None:
    """Write a working recipe to start from."""
    from gristmill._tools._scaffold import new_recipe as write

    for written in write(path, path.stem):
        typer.echo(f"wrote {written}")
    typer.echo(f'try it: gristmill run ./{path} --input question="..."' if not path.is_absolute() else "")


@new_app.command("plugin")
def new_plugin(
    name: Annotated[str, typer.Argument(help="What recipes will call it.", show_default=False)],
    folder: Annotated[Path, typer.Option(help="Where to put its folder.")] = Path(),
) -> None:
    """Write a working plugin package, with tests."""
    from gristmill._tools._scaffold import new_plugin as write

    for written in write(folder, name):
        typer.echo(f"wrote {written}")
