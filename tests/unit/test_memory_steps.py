"""Memory from recipes and from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gristmill import Context, Embedder, FunctionError, GristmillError, Kernel, RunError, UsageError, function
from gristmill import model_provider as provider
from gristmill._cli import _memory as commands
from gristmill.testing import FakeEmbedder, FakePlugin, check_plugin
from gristmill_plugins.memory import MemoryPlugin


class Others:
    """Another embedder for recipes, and a step that must not run too early."""

    @provider(name="vectors")
    def vectors(self, *, turned: bool = False) -> Embedder:
        """A bag of words."""
        embedder = FakeEmbedder()
        embedder.fingerprint = f"others {turned}"
        return embedder

    @function
    async def count(self, collection: str, context: Context) -> int:
        """Return how many records a collection has, through the context."""
        return len(await context.memory.alist(collection))


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    plugins = {"memory": MemoryPlugin(), "others": Others(), "fake": FakePlugin("yes")}
    with Kernel(plugins=plugins, memory=tmp_path / "memory", cache=False) as made:
        made.registry._scanned = True  # these plugins and no installed ones
        made.memory._default = FakeEmbedder
        yield made


Run = Callable[..., Any]


@pytest.fixture
def run(kernel: Kernel, tmp_path: Path) -> Run:
    def run(text: str, **inputs: Any) -> Any:
        path = tmp_path / "r.yaml"
        path.write_text("version: 1\n" + text)
        return kernel.recipe(path).run(inputs)

    return run


def test_the_plugin_keeps_the_contract() -> None:
    check_plugin("memory", MemoryPlugin())


def test_a_recipe_remembers_and_a_later_run_recalls(run: Run) -> None:
    kept = run(
        "steps:\n"
        "  keep:\n    use: memory.remember\n"
        "    with:\n      collection: notes\n      text: [the mill, the stone]\n      metadata: {kind: place}\n"
        "output: ${keep}\n"
    ).output
    assert (kept.collection, len(kept.ids)) == ("notes", 2)
    result = run(
        "inputs: {q: {type: string}}\n"
        "models: {m: {use: fake}}\n"
        "steps:\n"
        "  found:\n    use: memory.recall\n"
        "    with:\n      collection: notes\n      query: ${inputs.q}\n      top_k: 1\n      where: {kind: place}\n"
        "  answer:\n    prompt: |\n      ${found | join('\\n', attribute='text')}\n"
        "output:\n  text: ${found[0].text}\n  id: ${found[0].source}\n  score: ${found[0].score}\n"
        "  kind: ${found[0].metadata.kind}\n  answer: ${answer.text}\n",
        q="a mill",
    )
    assert result.output == {"text": "the mill", "id": kept.ids[0], "score": 1.0, "kind": "place", "answer": "yes"}


def test_an_embedder_of_the_recipe_is_used(run: Run, kernel: Kernel) -> None:
    head = "models: {v: {use: others.vectors, turned: true}}\nsteps:\n  x:\n"
    run(head + "    use: memory.remember\n    with: {collection: c, text: a, embedder: v}\noutput: ${x}\n")
    assert kernel.memory.collections()[0].embedder == "others True"
    recall = head + "    use: memory.recall\n    with: {collection: c, query: a, embedder: v}\noutput: ${x}\n"
    assert [passage.text for passage in run(recall).output] == ["a"]
    with pytest.raises(RunError, match="are by 'others True', 'fake-embedder' makes others"):
        run(recall.replace(", embedder: v", ""))


def test_a_step_forgets(run: Run, kernel: Kernel) -> None:
    ids = kernel.memory.remember("c", ["a", "b"])
    forget = "steps:\n  x:\n    use: memory.forget\n    with: {collection: c, WHAT}\noutput: ${x}\n"
    assert run(forget.replace("WHAT", f"ids: [{ids[0]!r}]")).output == 1
    assert run(forget.replace("WHAT", "all: true")).output == 1
    with pytest.raises(RunError) as caught:
        run(forget.replace(", WHAT", ""))
    (error,) = caught.value.failures.values()
    assert isinstance(error, FunctionError)
    assert str(error) == "memory.forget takes `ids`, or `all: true` for everything in the collection"


def test_other_plugins_reach_memory_through_the_context(run: Run, kernel: Kernel) -> None:
    kernel.memory.remember("c", ["a", "b"])
    assert run("steps:\n  n:\n    use: others.count\n    with: {collection: c}\noutput: ${n}\n").output == 2


SAME_COLLECTION = (
    "steps:\n"
    "  found:\n    use: memory.recall\n    with: {collection: c, query: the mill}\n"
    "  keep:\n    use: memory.remember\n    with: {collection: c, text: the mill}\n"
    "output: ${found}\n"
)


def test_a_recall_waits_for_what_the_recipe_remembers_in_the_same_collection(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("version: 1\n" + SAME_COLLECTION)
    assert kernel.check(tmp_path / "r.yaml").steps["found"].waits_for == {"keep"}


@pytest.mark.parametrize(
    "change",
    [
        ("text: the mill}", "text: '${found[0].text}'}"),  # what is kept was recalled: the other way round
        ("text: the mill}", "text: the mill}\n    needs: found"),
        ("collection: c, text", "collection: d, text"),
        ("collection: c, text", "namespace: ada, collection: c, text"),
    ],
)
def test_a_recall_does_not_wait_for_what_comes_after_it_or_lies_elsewhere(
    kernel: Kernel, tmp_path: Path, change: tuple[str, str]
) -> None:
    (tmp_path / "r.yaml").write_text("version: 1\n" + SAME_COLLECTION.replace(*change))
    recipe = kernel.check(tmp_path / "r.yaml")
    assert recipe.errors == []
    assert recipe.steps["found"].waits_for == frozenset()


# the command line


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    class Offered(Others):
        pass

    def make(plugins: list[str] | None) -> Kernel:
        made = Kernel(plugins={"others": Offered()}, plugin_files=plugins or (), cache=False, memory=tmp_path / "m")
        made.memory._default = FakeEmbedder
        return made

    monkeypatch.setattr(commands, "_kernel", make)

    def call(*arguments: str, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(commands.memory_app, arguments, input=stdin)
        if isinstance(result.exception, GristmillError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result

    return call


def test_a_text_is_added_searched_listed_and_forgotten(cli: Callable[..., Result]) -> None:
    first = cli(
        "add", "notes", "error GM-2041:\nthe belt", "--metadata", "n=3", "--metadata", "kind=error"
    ).stdout.strip()
    assert cli("add", "notes", "-", "--id", "two", stdin="the mill\n").stdout == "two\n"
    found = json.loads(cli("search", "notes", "GM-2041", "--mode", "lexical", "--json").stdout)
    assert [set(record) for record in found] == [{"id", "text", "score", "metadata"}]
    assert (found[0]["id"], found[0]["metadata"]) == (first, {"n": 3, "kind": "error"})
    assert cli("search", "notes", "belt", "--top-k", "1").stdout == (
        f'{first}  1.000  error GM-2041: the belt  {{"n": 3, "kind": "error"}}\n'
    )
    assert len(json.loads(cli("search", "notes", "the", "--where", "n={min: 2}", "--json").stdout)) == 1
    assert json.loads(cli("search", "notes", "?", "--min-score", "2", "--json").stdout) == []
    assert cli("list").stdout == "notes  2 records  fake-embedder\n"
    assert [info["n_records"] for info in json.loads(cli("list", "--json").stdout)] == [2]
    assert [record["id"] for record in json.loads(cli("list", "notes", "--json").stdout)] == [first, "two"]
    assert cli("list", "notes", "--offset", "1").stdout == "two  the mill\n"
    assert cli("forget", "notes", "two", "none").stdout == "forgot 1 record\n"
    assert cli("forget", "notes", "--all").stdout == "forgot 1 record\n"
    assert cli("list").stdout == ""


def test_namespaces_are_kept_apart(cli: Callable[..., Result]) -> None:
    cli("add", "notes", "secret", "--namespace", "ada")
    assert cli("list").stdout == ""
    with pytest.raises(UsageError, match="there is no collection 'notes'\n  there are none"):
        cli("search", "notes", "secret")
    assert len(json.loads(cli("search", "notes", "secret", "--namespace", "ada", "--json").stdout)) == 1


def test_a_collection_is_exported_and_imported(cli: Callable[..., Result], tmp_path: Path) -> None:
    cli("add", "notes", "one")
    file = str(tmp_path / "notes.jsonl")
    assert cli("export", "notes", file).stdout == f"wrote 1 record to {file}\n"
    assert cli("import", "copy", file).stdout == "kept 1 record\n"
    assert "one" in cli("list", "copy").stdout


def test_the_embedder_is_changed_and_named(cli: Callable[..., Result]) -> None:
    cli("add", "notes", "one")
    named = ("--embedder", "others.vectors", "--set", "turned=true")
    assert cli("re-embed", "notes", *named).stdout == "made 1 vector\n"
    assert cli("list").stdout == "notes  1 record  others True\n"
    assert "one" in cli("search", "notes", "one", *named).stdout
    with pytest.raises(UsageError, match="'fake-embedder' makes others"):
        cli("search", "notes", "one")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("search", "note", "x"), "there is no collection 'note'\n  did you mean 'notes'"),
        (("list", "note"), "there is no collection 'note'"),
        (("forget", "note", "--all"), "there is no collection 'note'"),
        (("forget", "notes"), "name the records to forget, or give --all for everything in the collection"),
        (("forget", "notes", "x", "--all"), "name the records to forget, or give --all"),
        (("add", "notes", "x", "--metadata", "kind"), "--metadata takes KEY=VALUE, this is 'kind'"),
        (("add", "notes", "x", "--set", "a=b"), "--set means nothing without --embedder"),
        (("add", "notes", "x", "--embedder", "vector"), "'vector' makes no models"),
        (
            ("add", "notes", "x", "--embedder", "others.vectors", "--set", "turn=1"),
            "others.vectors has no argument 'turn'",
        ),
        (("add", "notes", "x", "--embedder", "others.vectors", "--set", "turned=maybe"), "others.vectors: "),
        (("search", "notes", "x", "--mode", "fuzzy"), "'fuzzy' is no mode"),
    ],
)
def test_wrong_use_is_told(cli: Callable[..., Result], arguments: tuple[str, ...], told: str) -> None:
    cli("add", "notes", "one")
    with pytest.raises(GristmillError, match=told):
        cli(*arguments)


def test_what_is_kept_without_a_vector_is_said(cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gristmill._memory._api.Memory._installed", lambda _: None)
    result = cli("add", "notes", "one")
    assert result.stderr == 'kept without a vector: it is found by words only; pip install "gristmill[memory]"\n'
    assert cli("list").stdout == "notes  1 record  no vectors\n"


def test_providers_that_make_no_embedder_or_lack_arguments_are_refused(tmp_path: Path) -> None:
    from gristmill import SqliteStore, VectorStore

    class Stores:
        """Stores."""

        @provider
        def place(self, path: str) -> VectorStore:
            """A store."""
            return SqliteStore(path)

        @provider
        def vectors(self, size: int) -> Embedder:
            """Vectors."""
            del size
            return FakeEmbedder()

    with Kernel(plugins={"s": Stores()}, cache=False, memory=tmp_path) as kernel:
        with pytest.raises(UsageError, match=r"'s.place' makes a store, no embedder"):
            kernel.embedder("s.place", {"path": "x"})
        with pytest.raises(UsageError, match=r"s.vectors needs size\n  --set size=..."):
            kernel.embedder("s.vectors")


HEAVY = """
import sys
from gristmill import Kernel
kernel = Kernel(cache=False)
from gristmill._cli import _memory
kernel.memory
assert not {"numpy", "tokenizers", "safetensors", "wordllama"} & set(sys.modules), "too early"
"""
LEXICAL = """
import sys
sys.modules["numpy"] = None
from gristmill import Kernel, PluginError
with Kernel(cache=False, memory=sys.argv[1]) as kernel:
    def none(): raise PluginError("none")
    kernel.memory._default = none
    kernel.memory.remember("c", ["the mill", "the belt"], metadata=[{"n": 1}, {"n": 2}])
    assert [r.text for r in kernel.memory.recall("c", "mill", mode="lexical", where={"n": 1})] == ["the mill"]
    assert kernel.memory.forget("c", all=True) == 2
"""


def test_numpy_is_imported_by_the_first_vector_and_words_need_none(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", HEAVY], check=True)
    subprocess.run([sys.executable, "-W", "error", "-c", LEXICAL, str(tmp_path)], check=True)
