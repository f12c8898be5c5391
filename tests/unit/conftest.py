"""Unit tests: no network, no model but the fake one, and one short way to check or run the text of a recipe."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gristmill import GenerateRequest, Kernel, Message, RunError, function
from gristmill._events import RunResult
from gristmill._language._diagnostics import Diagnostic
from gristmill._language._recipe import Recipe
from gristmill.testing import FakeModel, FakePlugin

HEAD = "version: 1\nmodels: {main: {use: fake}}\n"
"""Stands before the steps of most recipes here, so that their first line is line 3."""


@pytest.fixture(autouse=True)
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections; pairs within the process, which event loops need, are let through."""

    def refuse(*_: Any) -> Any:
        raise AssertionError("a unit test opened a connection")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)


class Tools:
    """Small functions that recipes under test call."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    @function
    def echo(self, value: str) -> str:
        """Return the text."""
        self.calls.append(value)
        return value

    @function
    def count(self, items: list[str], least: int = 0) -> int:
        """Return how many there are."""
        return max(len(items), least)

    @function
    def fail(self, message: str = "it broke") -> str:
        """Fail."""
        self.calls.append(message)
        raise ValueError(message)

    @function
    def talk(self) -> list[Message]:
        """Return a short conversation."""
        return [Message(role="user", content="hello"), Message(role="assistant", content="hi")]

    @function(writes=True)
    def write(self, text: str) -> None:
        """Write somewhere."""
        self.calls.append(text)


class Bench:
    """A kernel with the fake model and the tools, and a folder for recipes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tools = Tools()
        self.plugin = FakePlugin()
        self.kernel = Kernel(plugins={"fake": self.plugin, "tools": self.tools}, cache=False)

    def write(self, text: str | bytes, name: str = "r.yaml") -> Path:
        """Write a recipe's file as it is."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def checked(self, text: str | bytes, name: str = "r.yaml") -> Recipe:
        """Check a file."""
        return self.kernel.check(self.write(text, name))

    def told(self, steps: str, *, warnings: bool = False) -> list[str]:
        """Check a recipe that begins with HEAD; return "line:column: message | hint" of each mistake."""
        recipe = self.checked(HEAD + steps)
        return [brief(d) for d in recipe.diagnostics if warnings or d.severity == "error"]

    def run(self, steps: str, **inputs: Any) -> RunResult:
        """Run a recipe that begins with HEAD."""
        return self.kernel.recipe(self.write(HEAD + steps)).run(inputs)

    def fails(self, steps: str, **inputs: Any) -> RunError:
        """Run a recipe that must fail; return its error."""
        with pytest.raises(RunError) as caught:
            self.run(steps, **inputs)
        return caught.value

    @property
    def model(self) -> FakeModel:
        """The model that the last run used."""
        return self.plugin.models["fake"]

    @property
    def asked(self) -> list[GenerateRequest]:
        """What it was asked to generate, in order."""
        return [request for request in self.model.requests if isinstance(request, GenerateRequest)]

    @property
    def prompts(self) -> list[str]:
        """The last message of every request that the model got."""
        return [request.messages[-1].content for request in self.model.requests]


def brief(diagnostic: Diagnostic) -> str:
    """Return a diagnostic as one line without the path."""
    hint = f" | {diagnostic.hint}" if diagnostic.hint else ""
    return f"{diagnostic.line}:{diagnostic.column}: {diagnostic.message}{hint}"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    with made.kernel:
        yield made
