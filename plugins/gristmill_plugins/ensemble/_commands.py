"""The commands `gristmill ensemble fit`, `gristmill ensemble show` and `gristmill feedback`.

They read options and print; the work is in the modules they call, imported when a command runs. With `--json`, standard
output holds one JSON document and nothing else.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gristmill.commands import JsonOption, ModelOption, PluginOption, RecipeArgument, SetOption, plural, print_table

if TYPE_CHECKING:
    from gristmill_plugins.ensemble._learned_file import Kept

app = typer.Typer(help="Fit ensembles on labelled data.", no_args_is_help=True, rich_markup_mode=None)
feedback_app = typer.Typer(rich_markup_mode=None)


@app.command()
def fit(
    recipe: RecipeArgument,
    step: Annotated[str, typer.Argument(help="A step that uses ensemble.stack, ensemble.cascade or ensemble.route.")],
    data: Annotated[Path, typer.Option(help="Labelled rows, as JSON Lines: the recipe's inputs, and a label.")],
    out: Annotated[Path, typer.Option(help="Where the fitted file goes.")],
    label: Annotated[str, typer.Option(metavar="FIELD", help="The field of a row that says what is right.")] = "label",
    map_: Annotated[
        list[str] | None, typer.Option("--map", metavar="INPUT=FIELD", help="Which field an input of the recipe takes.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use the first so many rows.")] = None,
    normalize: Annotated[
        Literal["text", "number", "letter", "json"], typer.Option(help="As what answers are compared with labels.")
    ] = "text",
    meta: Annotated[Literal["logistic", "lda"], typer.Option(help="The meta-model of a stack.")] = "logistic",
    target_accuracy: Annotated[
        float | None, typer.Option(min=0, max=1, help="What a cascade must reach, as cheaply as can be.")
    ] = None,
    target_cost: Annotated[
        float | None, typer.Option(min=0, help="Tokens a question that a cascade may cost, at its most accurate.")
    ] = None,
    folds: Annotated[int, typer.Option(min=2, max=50, help="Parts of the cross-validation.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of the parts.")] = 0,
    concurrency: Annotated[int, typer.Option(min=1, max=1000, help="Rows under way together.")] = 8,
    model: ModelOption = None,
    set_: SetOption = None,
    plugin: PluginOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a recipe on labelled rows and fit one of its steps."""
    from gristmill import Kernel
    from gristmill.commands import read_overrides
    from gristmill_plugins.ensemble._cascade_fit import Target
    from gristmill_plugins.ensemble._learned_fit import FitOptions, fit_step

    options = FitOptions(
        label=label, fields=_pairs(map_), limit=limit, normalize=normalize, meta=meta, folds=folds, seed=seed,
        target=Target(accuracy=target_accuracy, cost=target_cost), at_once=concurrency,
    )  # fmt: skip
    with Kernel(plugin_files=plugin or ()) as kernel:
        overrides = read_overrides(kernel, recipe, model, set_)
        fitted = fit_step(kernel, recipe, step, data, out, options, overrides=overrides, told=_progress)
    _show(out, fitted, as_json=as_json)


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="A file that `fit` wrote.")],
    as_json: JsonOption = False,
) -> None:
    """Show what a fitted file was fitted on, and what it was worth there."""
    _show(file, _load_any(file), as_json=as_json)


@feedback_app.command()
def feedback(
    run: Annotated[
        str,
        typer.Argument(
            help="The run's id, as `gristmill run --json` says it; `last` is the latest that asked a learner."
        ),
    ],
    reward: Annotated[float, typer.Option(min=-1, max=1, help="How good its answer was.")],
    step: Annotated[str | None, typer.Option(help="The step, where several asked a learner.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Tell the learner behind a recorded run how good its answer was."""
    from gristmill import Kernel
    from gristmill_plugins.ensemble._learn import give_feedback
    from gristmill_plugins.ensemble._learn_runs import find_decisions

    with Kernel(cache=False) as kernel:
        decisions = find_decisions(kernel.settings.data_directory / "runs", run, step)
    told = [give_feedback(decision, reward) for decision in decisions]
    if as_json:
        typer.echo(json.dumps([one.model_dump(mode="json") for one in told], ensure_ascii=False))
        return
    last = told[-1]
    typer.echo(f"{', '.join(dict.fromkeys(one.member for one in told))}: {reward:g}; {plural(last.n, 'reward')} so far")
    means = {name: f"{value:.2f}" for name, value in last.mean_rewards.items()}
    rows = [(name, f"{share:.2f}", means.get(name, "-")) for name, share in last.policy.items()]
    print_table(("member", "chosen", "mean reward"), rows, right=(1, 2))


def _pairs(given: list[str] | None) -> dict[str, str]:
    from gristmill import UsageError

    fields = {}
    for pair in given or ():
        name, equals, value = pair.partition("=")
        if not (name and equals and value):
            raise UsageError(f"--map {pair!r} is not INPUT=FIELD")
        fields[name] = value
    return fields


def _progress(done: int, n: int) -> None:
    if sys.stderr.isatty() and (done == n or done % 5 == 0):
        typer.echo(f"\r{done} of {n} rows" + ("\n" if done == n else ""), err=True, nl=False)


def _load_any(file: Path) -> Kept:
    from gristmill import FunctionError
    from gristmill_plugins.ensemble._cascade import FittedCascade
    from gristmill_plugins.ensemble._gate import FittedGate
    from gristmill_plugins.ensemble._learned_file import kind_of, load
    from gristmill_plugins.ensemble._stack import FittedStack

    kinds: dict[str, type[Kept]] = {cls.kind: cls for cls in (FittedStack, FittedCascade, FittedGate)}
    kind = kind_of(file)
    if kind not in kinds:
        raise FunctionError(f"{file} holds {kind!r}, which nobody fitted", hint=f"these are: {', '.join(kinds)}")
    return load(file, kinds[kind])


def _show(file: Path, fitted: Kept, *, as_json: bool) -> None:
    content = fitted.model_dump(mode="json")
    evidence = content["evidence"]
    if as_json:
        typer.echo(json.dumps({"file": str(file), "kind": fitted.kind, **content}, ensure_ascii=False))
        return
    name = fitted.kind.partition(".")[2]
    typer.echo(
        f"{file}: {name}, fitted on {plural(evidence['n'], 'row')}, judged on {evidence['folds']} parts left out"
    )
    rows = [(member, f"{value:.3f}", "") for member, value in evidence["members"].items()]
    notes = []
    if "cost" in evidence:
        rows = [
            (m, value, f"answers {evidence['shares'][m]:.0%}, {content['costs'][m]:.0f} tokens") for m, value, _ in rows
        ]
        notes.append(f"{evidence['cost']:.0f} tokens a question")
    rows.append((name, f"{evidence['accuracy']:.3f}", "; ".join(notes)))
    print_table(("", "accuracy", ""), rows, right=(1,))
