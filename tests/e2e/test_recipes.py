"""Every recipe that ships checks, fits the schema, and does what it says on the real bundled model."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from gristmill import Kernel
from gristmill._library import RecipeLibrary
from gristmill._tools._schema import recipe_schema
from gristmill_plugins.llama import LlamaPlugin
from gristmill_plugins.llama._files import resolve

pytest.importorskip("llama_cpp", reason="the recipes that ship run on the extra gristmill[llama]")

NAMES = sorted(RecipeLibrary().files())
MEETING = (
    "The committee met on Tuesday for three hours in the old town hall, discussed the budget for the new library at "
    "length, and finally decided, after many interruptions, to postpone the vote until the spring session."
)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        with Kernel(cache=False) as kernel:
            yield kernel


def _as_data(path: Path) -> Any:
    from gristmill._language._yaml import ListNode, MapNode, Node, Scalar, parse_yaml

    def data(node: Node) -> Any:
        if isinstance(node, Scalar):
            return node.value
        if isinstance(node, ListNode):
            return [data(item) for item in node.items]
        assert isinstance(node, MapNode)
        return {key: data(value) for key, (_, value) in node.entries.items()}

    root = parse_yaml(str(path), path.read_bytes()).root
    assert root is not None
    return data(root)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_checks_without_a_warning_and_fits_the_schema(kernel: Kernel, name: str) -> None:
    recipe = kernel.check(name)
    assert recipe.diagnostics == []
    assert recipe.name == name
    assert recipe.description
    schema = recipe_schema(kernel.registry)
    errors = [error.message for error in Draft202012Validator(schema).iter_errors(_as_data(recipe.path))]
    assert errors == []


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_says_what_it_is_for_and_what_it_printed(kernel: Kernel, name: str) -> None:
    header = kernel.library.find(name).read_text().split("version:", 1)[0]
    for part in ("# Purpose:", "# Source:", "# Needs:", "# Printed:"):
        assert part in header


def test_quickstart_answers(kernel: Kernel) -> None:
    assert "eight" in kernel.recipe("quickstart").run(question="How many legs does a spider have?").output


def test_few_shot_tells_praise_from_blame(kernel: Kernel) -> None:
    recipe = kernel.recipe("few_shot")
    praise = recipe.run(text="I loved the music and the ending.").output
    blame = recipe.run(text="A boring, ugly mess. I walked out.").output
    assert praise["sentiment"] == "positive"
    assert blame["probabilities"]["negative"] > praise["probabilities"]["negative"]
    assert sum(blame["probabilities"].values()) == pytest.approx(1)


def test_compose_runs_its_steps_on_one_engine(kernel: Kernel) -> None:
    result = kernel.recipe("compose").run(text="Le service était lent, mais le dessert était excellent.")
    assert result.output["translation"]
    assert result.output["summary"]
    assert result.output["sentiment"] in ("positive", "negative")
    assert len({id(kernel.model_of(model)) for model in kernel.check("compose").models.values()}) == 1


def test_map_reduce_summarises_every_part(kernel: Kernel, tmp_path: Path) -> None:
    document = tmp_path / "long.txt"
    document.write_text("\n\n".join(f"Part {n}. The mill has {n} stones, and they grind rye." for n in range(1, 5)))
    result = kernel.recipe("map_reduce").run(document=document, words_per_part=11)
    assert result.output["n_parts"] == len(result.steps["notes"].value) == 4
    assert result.output["summary"]


def test_branch_takes_the_branch_that_fits(kernel: Kernel) -> None:
    result = kernel.recipe("branch").run(message="My parcel arrived broken, and I am angry.")
    assert result.output["kind"] == "complaint"
    assert result.steps["apology"].status == "done"
    assert result.steps["reply"].status == "skipped"
    assert result.output["answer"]


def test_refine_stops_when_the_text_is_short_enough_or_after_four_turns(kernel: Kernel) -> None:
    result = kernel.recipe("refine").run(text=MEETING, words=30)
    assert result.output["words"] <= 30
    assert len([event for event in result.trace if type(event).__name__ == "ModelCalled"]) <= 4


def test_model_pull_fetches_a_file_that_a_recipe_then_names(tmp_path: Path) -> None:
    """The hub's real protocol, against a server on loopback that holds the bundled model."""
    source = resolve("smollm2")
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    folder = tmp_path / "hub" / "owner" / "repo" / "resolve" / "main"
    folder.mkdir(parents=True)
    (folder / "tiny.gguf").symlink_to(source)
    handler = functools.partial(_Quiet, directory=str(tmp_path / "hub"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        pulled = _pull(f"http://127.0.0.1:{server.server_port}", digest)
        wrong = _pull(f"http://127.0.0.1:{server.server_port}", "0" * 64)
    finally:
        server.shutdown()
        server.server_close()
    assert pulled.returncode == 0, pulled.stderr
    assert Path(pulled.stdout.strip()).stat().st_size == source.stat().st_size
    assert wrong.returncode == 1
    assert digest[:12] in wrong.stderr
    done = subprocess.run(
        [sys.executable, "-m", "gristmill", "run", "few_shot", "--json", "--input", "text=Fine.",
         "--model", "hf:owner/repo/tiny.gguf"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert json.loads(done.stdout)["output"]["sentiment"] in ("positive", "negative"), done.stderr


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        return None


def _pull(endpoint: str, sha256: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gristmill", "model", "pull", "hf:owner/repo/tiny.gguf", "--sha256", sha256],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HF_ENDPOINT": endpoint},
        check=False,
    )


def test_the_llama_plugin_passes_the_contract() -> None:
    from gristmill.testing import check_plugin

    assert "llama" in check_plugin("llama", LlamaPlugin()).providers
