"""The commands of `gristmill memory`. They hold no logic: what they print comes from the kernel's memory.

With `--json`, standard output holds one JSON document and nothing else. Invariant: vectors are never printed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from gristmill._kernel import Kernel
    from gristmill._models import Embedder, StoredRecord

memory_app = typer.Typer(help="Keep texts, and find them by meaning and by words.", no_args_is_help=True)

Collection = Annotated[str, typer.Argument(metavar="COLLECTION", help="Any name.", show_default=False)]
Namespace = Annotated[str, typer.Option(help="Keeps users apart: one sees nothing of another's.")]
EmbedderName = Annotated[
    str | None, typer.Option("--embedder", metavar="NAME", help="As `use:` under `models:` of a recipe.")
]
Setting = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An argument of the embedder; VALUE is YAML.")
]
Where = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Metadata that must hold; VALUE is YAML: a value, a list, {min: ...}."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
PluginFile = Annotated[
    list[str] | None, typer.Option("--plugin", metavar="FILE.py", help="Use a plugin that is not installed.")
]


def _kernel(plugins: list[str] | None) -> Kernel:
    from gristmill._kernel import Kernel

    return Kernel(plugin_files=plugins or ())


def _embedder(kernel: Kernel, name: str | None, settings: list[str] | None) -> Embedder | None:
    from gristmill._errors import UsageError

    if name is None:
        if settings:
            raise UsageError("--set means nothing without --embedder")
        return None
    return kernel.embedder(name, _pairs(settings, "--set"))


def _pairs(given: list[str] | None, option: str) -> dict[str, Any]:
    """Read KEY=VALUE options, whose values are YAML 1.2."""
    from gristmill._cli._inputs import _parse
    from gristmill._errors import UsageError

    pairs = {}
    for item in given or ():
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise UsageError(f"{option} takes KEY=VALUE, this is {item!r}")
        pairs[key] = _parse(f"{option} {key}", value)
    return pairs


@memory_app.command()
def add(
    collection: Collection,
    text: Annotated[str, typer.Argument(help="What to keep; - reads it from standard input.", show_default=False)],
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Data to filter by; VALUE is YAML.")
    ] = None,
    id: Annotated[str | None, typer.Option(help="A record of that id is replaced.")] = None,
    expires_s: Annotated[float | None, typer.Option(help="Seconds after which it is not found any more.")] = None,
    namespace: Namespace = "default",
    embedder: EmbedderName = None,
    set_: Setting = None,
    plugin: PluginFile = None,
) -> None:
    """Keep a text."""
    with _kernel(plugin) as kernel:
        ids = kernel.memory.remember(
            collection, sys.stdin.read() if text == "-" else text, metadata=_pairs(metadata, "--metadata"), id=id,
            expires_s=expires_s, namespace=namespace, embedder=_embedder(kernel, embedder, set_),
        )  # fmt: skip
        infos = kernel.memory.collections(namespace=namespace)
    typer.echo(ids[0])
    if any(info.name == collection and info.embedder is None for info in infos):
        print('kept without a vector: it is found by words only; pip install "gristmill[memory]"', file=sys.stderr)


@memory_app.command()
def search(
    collection: Collection,
    query: Annotated[str, typer.Argument(help="Any text.", show_default=False)],
    mode: Annotated[str, typer.Option(help="hybrid, dense (by meaning) or lexical (by words).")] = "hybrid",
    top_k: Annotated[int, typer.Option(help="How many records at most.")] = 5,
    where: Where = None,
    mmr: Annotated[float | None, typer.Option(help="Below 1, results are less alike.")] = None,
    min_score: Annotated[float | None, typer.Option(help="Leave out what scores less.")] = None,
    namespace: Namespace = "default",
    embedder: EmbedderName = None,
    set_: Setting = None,
    plugin: PluginFile = None,
    as_json: AsJson = False,
) -> None:
    """Find the records that match best."""
    with _kernel(plugin) as kernel:
        _must_exist(kernel, collection, namespace)
        mode_: Any = mode  # recall says what the modes are
        records = kernel.memory.recall(
            collection, query, top_k=top_k, mode=mode_, where=_pairs(where, "--where"), mmr=mmr, min_score=min_score,
            namespace=namespace, embedder=_embedder(kernel, embedder, set_),
        )  # fmt: skip
    _print(records, as_json, ("id", "text", "score", "metadata"))


def _records(n: int) -> str:
    return "1 record" if n == 1 else f"{n} records"


def _must_exist(kernel: Kernel, collection: str, namespace: str) -> None:
    from gristmill._errors import UsageError, suggest

    names = [info.name for info in kernel.memory.collections(namespace=namespace)]
    if collection not in names:
        raise UsageError(f"there is no collection {collection!r}", hint=suggest(collection, names))


def _print(records: list[StoredRecord], as_json: bool, fields: tuple[str, ...]) -> None:
    if as_json:
        rows = [{name: getattr(record, name) for name in fields} for record in records]
        typer.echo(json.dumps(rows, ensure_ascii=False))
        return
    for record in records:
        score = "" if record.score is None else f"  {record.score:.3f}"
        facts = f"  {json.dumps(record.metadata, ensure_ascii=False)}" if record.metadata else ""
        typer.echo(f"{record.id}{score}  {' '.join(record.text.split())}{facts}")


@memory_app.command("list")
def list_(
    collection: Annotated[str | None, typer.Argument(help="By default, which collections there are.")] = None,
    where: Where = None,
    limit: Annotated[int, typer.Option(help="How many records at most.")] = 100,
    offset: Annotated[int, typer.Option(help="How many records to pass over.")] = 0,
    namespace: Namespace = "default",
    plugin: PluginFile = None,
    as_json: AsJson = False,
) -> None:
    """List the collections, or the records of one."""
    with _kernel(plugin) as kernel:
        if collection is not None:
            _must_exist(kernel, collection, namespace)
            records = kernel.memory.list(
                collection, where=_pairs(where, "--where"), limit=limit, offset=offset, namespace=namespace
            )
            _print(records, as_json, ("id", "text", "metadata", "created", "expires"))
            return
        infos = kernel.memory.collections(namespace=namespace)
    if as_json:
        typer.echo(json.dumps([info.model_dump() for info in infos], ensure_ascii=False))
        return
    for info in infos:
        typer.echo(f"{info.name}  {_records(info.n_records)}  {info.embedder or 'no vectors'}")


@memory_app.command("export")
def export(
    collection: Collection,
    file: Annotated[Path, typer.Argument(help="The JSON Lines file to write.", show_default=False)],
    namespace: Namespace = "default",
) -> None:
    """Write a collection as JSON Lines, without its vectors."""
    with _kernel(None) as kernel:
        n = kernel.memory.export(collection, file, namespace=namespace)
    typer.echo(f"wrote {_records(n)} to {file}")


@memory_app.command("import")
def import_(
    collection: Collection,
    file: Annotated[Path, typer.Argument(help="JSON Lines: each has `text`, perhaps `id` and `metadata`.")],
    namespace: Namespace = "default",
    embedder: EmbedderName = None,
    set_: Setting = None,
    plugin: PluginFile = None,
) -> None:
    """Add the records of a JSON Lines file."""
    with _kernel(plugin) as kernel:
        n = kernel.memory.import_(collection, file, namespace=namespace, embedder=_embedder(kernel, embedder, set_))
    typer.echo(f"kept {_records(n)}")


@memory_app.command()
def forget(
    collection: Collection,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID...", help="The records to forget.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Forget the collection and everything in it.")] = False,
    namespace: Namespace = "default",
) -> None:
    """Forget records, or a whole collection."""
    from gristmill._errors import UsageError

    if bool(ids) == all_:
        raise UsageError("name the records to forget, or give --all for everything in the collection")
    with _kernel(None) as kernel:
        _must_exist(kernel, collection, namespace)
        n = kernel.memory.forget(collection, ids or None, all=all_, namespace=namespace)
    typer.echo(f"forgot {_records(n)}")


@memory_app.command("re-embed")
def re_embed(
    collection: Collection,
    embedder: EmbedderName = None,
    set_: Setting = None,
    namespace: Namespace = "default",
    plugin: PluginFile = None,
) -> None:
    """Make all vectors of a collection anew, by another embedder."""
    with _kernel(plugin) as kernel:
        n = kernel.memory.re_embed(collection, _embedder(kernel, embedder, set_), namespace=namespace)
    typer.echo(f"made {n} vector{'' if n == 1 else 's'}")


@memory_app.command("index")
def index(collection: Collection, namespace: Namespace = "default") -> None:
    """Make an approximate index of a collection of 50,000 records or more, so that searches need not scan it."""
    with _kernel(None) as kernel:
        typer.echo(f"indexed {_records(kernel.memory.index(collection, namespace=namespace))}")
