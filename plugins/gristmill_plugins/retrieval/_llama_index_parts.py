"""A user's own LlamaIndex retriever, reader, reranker or vector store, by a registered name.

A recipe names a part and never an import path. Parts are registered in three places, and a name that is in two of them
is refused:

- Python: `RetrievalPlugin(parts={"mine": MyRetriever})`;
- a package: the entry point group `gristmill.llama_index`, `mine = "my_package:make_retriever"`;
- `gristmill.toml`: `[plugin.retrieval.parts]`, `mine = "my_package:make_retriever"`.

A part is an object, or a class or function without arguments that makes one; it is made once. Invariant: what is handed
out has the method that its use needs.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Mapping
from typing import Any, Literal

from gristmill import FunctionError, PluginError

GROUP = "gristmill.llama_index"
Kind = Literal["retriever", "reader", "reranker", "store"]
_METHODS: Mapping[str, tuple[str, ...]] = {
    "retriever": ("retrieve",),
    "reader": ("load_data",),
    "reranker": ("postprocess_nodes",),
    "store": ("query",),
}


class Parts:
    """The parts that are registered, made when they are first used."""

    def __init__(self, given: Mapping[str, Any] | None = None) -> None:
        self._given = dict(given or {})
        self._made: dict[str, Any] = {}

    def get(self, name: str, kind: Kind, settings: Mapping[str, Any]) -> Any:
        """Return the part of a name, to be used as a `kind`.

        Raises:
            FunctionError: there is none of that name, or it is of another kind.
            PluginError: it cannot be imported or made, or two are called so.
        """
        part = self._part(name, settings)
        if kind_of(part) != kind:
            wanted = _METHODS[kind][0]
            raise FunctionError(f"{name!r} is no {kind}: it has no method {wanted!r}", hint=f"it is a {kind_of(part)}")
        return part

    def any_of(self, name: str, kinds: tuple[Kind, ...], settings: Mapping[str, Any]) -> tuple[Kind, Any]:
        """Return the part of a name and which of some kinds it is.

        Raises:
            FunctionError: there is none of that name, or it is of another kind.
            PluginError: it cannot be imported or made, or two are called so.
        """
        part = self._part(name, settings)
        for kind in kinds:
            if kind_of(part) == kind:
                return kind, part
        raise FunctionError(f"{name!r} is no {' and no '.join(kinds)}", hint=f"it is a {kind_of(part)}")

    def _part(self, name: str, settings: Mapping[str, Any]) -> Any:
        if name not in self._made:
            self._made[name] = _make(name, self._found(name, settings))
        return self._made[name]

    def _found(self, name: str, settings: Mapping[str, Any]) -> Any:
        table = settings.get("parts", {})
        packaged = importlib.metadata.entry_points(group=GROUP)
        places: dict[str, Any] = {}
        if name in self._given:
            places["Python"] = self._given[name]
        if name in table:
            places["gristmill.toml"] = table[name]
        for point in packaged.select(name=name):
            places[point.dist.name if point.dist else "a package"] = point.value
        if len(places) > 1:
            raise PluginError(f"{name!r} is registered by {' and by '.join(places)}", hint="give one another name")
        if not places:
            known = sorted({*self._given, *table, *packaged.names})
            raise FunctionError(
                f"no LlamaIndex part is registered as {name!r}",
                hint=f"there is: {', '.join(known)}" if known else f"register it: entry point group {GROUP}",
            )
        return next(iter(places.values()))


def kind_of(part: Any) -> str:
    """Return the kind of a part, by its methods."""
    kinds = (kind for kind, methods in _METHODS.items() if all(hasattr(part, method) for method in methods))
    return next(kinds, type(part).__name__)


def _make(name: str, found: Any) -> Any:
    try:
        part = _imported(found) if isinstance(found, str) else found
        is_maker = isinstance(part, type) or (callable(part) and kind_of(part) not in _METHODS)
        return part() if is_maker else part
    except Exception as error:
        raise PluginError(f"the LlamaIndex part {name!r} cannot be made: {type(error).__name__}: {error}") from error


def _imported(place: str) -> Any:
    module, _, attribute = place.partition(":")
    part = importlib.import_module(module)
    for word in attribute.split(".") if attribute else ():
        part = getattr(part, word)
    return part
