"""Writes things to start from: a recipe with test cases, and a plugin package with tests.

What it writes works as it is: the recipe checks clean and runs on the bundled model, the package installs and its
tests pass. It asks nothing. Invariant: no file that was there is changed.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path

from gristmill._errors import UsageError
from gristmill._language._check import NAME
from gristmill._language._check_declarations import RECIPE_NAME
from gristmill._language._diagnostics import shorten_path
from gristmill._language._yaml import Scalar, parse_yaml
from gristmill._library import SUFFIXES
from gristmill._registry import Registry

_RECIPE = """\
# yaml-language-server: $schema=gristmill.schema.json
# Editors complete and check this file with that schema. Write it here with
#     gristmill schema --output gristmill.schema.json
# Find every mistake, see the steps, run them:
#     gristmill check @PATH@
#     gristmill graph @PATH@
#     gristmill run @PATH@ --input question="Why is the sky blue?"
version: 1
name: @NAME@
description: Draft an answer, then say it in one sentence.

inputs:
  # Types: string, integer, number, boolean, path, list, mapping. With `default:` it need not be given.
  question: {type: string, description: What to ask.}

models:
  # smollm2 is bundled. A path to a GGUF file works as well, and so does hf:owner/repository/file.gguf.
  main: {use: llama, model: smollm2, context_tokens: 2048}

steps:
  # A step with `prompt` asks the model. Inside ${...} it reads inputs and other steps.
  draft:
    system: You are a helpful assistant. Answer in two or three sentences.
    prompt: ${inputs.question}
    max_tokens: 200

  # This step reads `draft`, so it waits for it. Steps that do not read each other run at once.
  short:
    prompt: |
      Say this in one short sentence:
      ${draft}
    max_tokens: 60

# What the run returns. A step's answer has text, finish_reason and usage.
output: ${short.text}
"""

_CASES = """\
# gristmill test @PATH@           asks the recipe's model
# gristmill test @PATH@ --fake    answers from `answers`, without a model
cases:
  - name: a short answer
    inputs: {question: Why is the sky blue?}
    answers: # a part of the prompt, and what a fake model says to it
      Why is the sky blue: The air scatters sunlight, and blue light most of all. So blue comes from everywhere.
      Say this in one: Air scatters blue light most.
    expect:
      - expression: ${output | length > 0}
      - {step: draft, matches: "[a-z]"}
"""

_PYPROJECT = """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "@DISTRIBUTION@"
version = "0.1.0"
description = "A gristmill plugin: @NAME@."
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["gristmill>=@VERSION@"]

# This line makes it a plugin: recipes say `use: @NAME@.count`.
[project.entry-points."gristmill.plugins"]
@NAME@ = "@MODULE@:@CLASS@"

[dependency-groups]
dev = ["pytest>=8"]

[tool.hatch.build.targets.wheel]
packages = ["src/@MODULE@"]

[tool.pytest.ini_options]
testpaths = ["tests"]
"""

_MODULE = '''\
"""The gristmill plugin `@NAME@`."""

from __future__ import annotations

from typing import Annotated

from gristmill import Context, FunctionError, GenerateRequest, Message, ModelRef, Sampling, function
from pydantic import Field

__all__ = ["@CLASS@"]


class @CLASS@:
    """Counts words, and explains them with a model."""

    plugin_api = 1

    # Types, defaults and help are the contract: `gristmill check`, `schema` and editors know nothing else.
    # `pure` lets gristmill keep the result: the same arguments always give it. Raise `version` when they no longer do.
    @function(pure=True, version="1")
    def count(
        self,
        text: Annotated[str, "What to count."],
        *,
        at_least: Annotated[int, Field(ge=1, description="Count words of this many letters or more.")] = 1,
    ) -> int:
        """Return how many words a text has."""
        return sum(len(word) >= at_least for word in text.split())

    # `context` is handed in and is no argument of recipes; `model` comes from the step's `model:`, or is the only one.
    @function
    async def explain(
        self, word: Annotated[str, "One word."], context: Context, *, model: ModelRef, max_tokens: int = 60
    ) -> str:
        """Explain a word in one sentence."""
        if len(word.split()) != 1:
            raise FunctionError(f"word is one word, this is {word!r}")
        question = Message(role="user", content=f"Explain the word {word!r} in one sentence.")
        request = GenerateRequest(messages=(question,), sampling=Sampling(max_tokens=max_tokens))
        (answer,) = await context.model(model).generate(request)
        return answer.text
'''

_TESTS = '''\
"""The plugin keeps the contract of plugins, and recipes can use it."""

from __future__ import annotations

from pathlib import Path

import pytest
from gristmill import Kernel, RecipeError, RunError
from gristmill.testing import FakePlugin, check_plugin
from @MODULE@ import @CLASS@

RECIPE = """
version: 1
inputs: {text: string, word: string}
models:
  main: {use: fake}
steps:
  words: {use: @NAME@.count, with: {text: "${inputs.text}", at_least: 3}}
  meaning: {use: @NAME@.explain, with: {word: "${inputs.word}"}}
output: {words: "${words}", meaning: "${meaning}"}
"""


@pytest.fixture
def kernel() -> Kernel:
    """A kernel that finds this plugin as it is installed, with a fake model beside it."""
    return Kernel(plugins={"fake": FakePlugin("A mill that grinds grain.")}, cache=False)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def test_it_keeps_the_contract_of_plugins() -> None:
    check_plugin("@NAME@", @CLASS@)


def test_short_words_are_not_counted_when_long_ones_are_wanted() -> None:
    assert @CLASS@().count("the mill is old") == 4
    assert @CLASS@().count("the mill is old", at_least=4) == 1


def test_a_recipe_uses_it(kernel: Kernel, recipe: Path) -> None:
    with kernel:
        result = kernel.recipe(recipe).run(text="the mill is old", word="gristmill")
    assert result.output == {"words": 3, "meaning": "A mill that grinds grain."}


def test_two_words_are_refused(kernel: Kernel, recipe: Path) -> None:
    with kernel, pytest.raises(RunError, match="word is one word"):
        kernel.recipe(recipe).run(text="", word="grist mill")


def test_a_wrong_argument_is_found_before_anything_runs(kernel: Kernel, recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("at_least: 3", "at_most: 3"), encoding="utf-8")
    with kernel, pytest.raises(RecipeError, match="at_most"):
        kernel.recipe(recipe)
'''

_README = """\
# @DISTRIBUTION@

A plugin for gristmill.

```yaml
steps:
  words: {use: @NAME@.count, with: {text: "${inputs.text}"}}
  meaning: {use: @NAME@.explain, with: {word: gristmill}}
```

Install it where gristmill is, then test it:

```sh
pip install --editable . pytest
gristmill plugins
pytest
```
"""


def new_recipe(path: Path, name: str) -> list[Path]:
    """Write a recipe called `name` at `path`, and test cases beside it; return the files.

    Raises:
        UsageError: the name or the path cannot be a recipe's, or a file is there already.
    """
    if not RECIPE_NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no recipe name", hint="use a-z, 0-9, - and _, a letter or digit first")
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{str(path)!r} is no file of a recipe", hint=f"call it {name}.yaml")
    shown = str(path) if path.is_absolute() else f"./{path}"
    words = {"NAME": _plain_yaml(name), "PATH": shown}
    return _write({path: _RECIPE, path.with_name(path.stem + ".test.yaml"): _CASES}, words)


def new_plugin(folder: Path, name: str) -> list[Path]:
    """Write a package `gristmill-NAME` in `folder`, with a plugin called `name`; return the files.

    Raises:
        UsageError: the name cannot be a plugin's or is taken, or the package's folder is there already.
    """
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name for a plugin", hint="use a-z, 0-9 and _, a letter first")
    if name in Registry().names():
        raise UsageError(f"a plugin called {name!r} is installed already", hint="choose another name")
    distribution, module = f"gristmill-{name.replace('_', '-')}", f"gristmill_{name}"
    root = folder / distribution
    if root.exists():
        raise UsageError(f"{shorten_path(root)} exists already", hint="move it away, or choose another name")
    words = {
        "NAME": name,
        "DISTRIBUTION": distribution,
        "MODULE": module,
        "CLASS": "".join(part.capitalize() for part in name.split("_")) + "Plugin",
        "VERSION": importlib.metadata.version("gristmill"),
    }
    files = {
        root / "pyproject.toml": _PYPROJECT,
        root / "README.md": _README,
        root / "src" / module / "__init__.py": _MODULE,
        root / "src" / module / "py.typed": "",
        root / "tests" / f"test_{name}.py": _TESTS,
    }
    return _write(files, words)


def _plain_yaml(name: str) -> str:
    """Return a name as YAML, in quotes where it would be read as something else (`on`, `12`)."""
    document = parse_yaml("name", name.encode())
    is_text = isinstance(document.root, Scalar) and document.root.value == name and not document.ambiguous
    return name if is_text else json.dumps(name)


def _write(templates: Mapping[Path, str], words: Mapping[str, str]) -> list[Path]:
    for path in templates:
        if path.exists():
            raise UsageError(f"{shorten_path(path)} exists already", hint="move it away, or choose another name")
    for path, text in templates.items():
        for word, value in words.items():
            text = text.replace(f"@{word}@", value)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise UsageError(f"{shorten_path(path)} cannot be written: {error.strerror or error}") from error
    return list(templates)
