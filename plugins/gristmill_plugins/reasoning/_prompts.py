"""The prompts of the techniques: files with a version and a source, whose parts a recipe may replace.

    version: 1
    source: the paper, and the section the wording is from
    parts:
      ask: |
        {question}

A part's `{names}` are filled in once; what is filled in is never filled again, so a question that holds "{context}" is
only text. It asks no model. Invariant: a replaced part has the names of the original, all of them and no others, so
that a question is never lost silently.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Annotated, Any

from gristmill import FunctionError, Value, function, suggest

_NAME = re.compile(r"\{([a-z_]+)\}")

Replaced = Annotated[dict[str, str] | None, "Parts of the prompt in your own words; reasoning.prompt shows them."]


class Prompt(Value):
    """A technique's prompt: what the model is told, in parts."""

    name: str
    version: int
    source: str
    """Where the technique and the wording come from."""
    parts: dict[str, str]
    replaced: tuple[str, ...] = ()
    """The parts that the recipe replaced."""

    @property
    def label(self) -> str:
        """What a result says of its prompt: "self_refine version 1, critique replaced"."""
        changed = f", {' and '.join(self.replaced)} replaced" if self.replaced else ""
        return f"{self.name} version {self.version}{changed}"

    def fill(self, name: str, /, **values: Any) -> str:
        """Return a part with its names filled in."""
        return _NAME.sub(lambda hit: str(values[hit[1]]), self.parts[name]).strip()


class PromptFunctions:
    """Shows prompts."""

    @function(pure=True, version="1")
    async def prompt(
        self, technique: Annotated[str, "A function of this plugin that asks a model, such as self_refine."]
    ) -> Prompt:
        """Return a technique's prompt: its version, its source, and the parts that a recipe may replace."""
        return load(technique)


def load(name: str, replaced: Mapping[str, str] | None = None) -> Prompt:
    """Return the prompt of a technique, with parts replaced.

    Raises:
        FunctionError: there is no such prompt or part, or a part's names differ from the original's.
    """
    if name not in _names():
        raise FunctionError(f"no prompt is called {name!r}", hint=suggest(name, _names()))
    original = _read(name)
    for part, text in (replaced or {}).items():
        if part not in original.parts:
            raise FunctionError(f"the prompt of {name} has no part {part!r}", hint=suggest(part, original.parts))
        wanted, given = set(_NAME.findall(original.parts[part])), set(_NAME.findall(text))
        if strange := sorted(given - wanted):
            told = ", ".join(f"{{{one}}}" for one in sorted(wanted)) or "none"
            raise FunctionError(f"part {part!r} of {name} knows no {{{strange[0]}}}", hint=f"its names: {told}")
        if missing := sorted(wanted - given):
            raise FunctionError(f"part {part!r} of {name} has lost {{{missing[0]}}}", hint="say where it belongs")
    if not replaced:
        return original
    parts = {**original.parts, **replaced}
    return original.model_copy(update={"parts": parts, "replaced": tuple(sorted(replaced))})


@cache
def _names() -> tuple[str, ...]:
    return tuple(sorted(path.name.removesuffix(".yaml") for path in files(__package__).joinpath("prompts").iterdir()))


@cache
def _read(name: str) -> Prompt:
    import yaml

    text = files(__package__).joinpath("prompts", f"{name}.yaml").read_text(encoding="utf-8")
    return Prompt(name=name, **yaml.safe_load(text))
