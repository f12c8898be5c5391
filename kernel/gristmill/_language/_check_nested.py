"""Names of models, recipes and functions deep inside an argument, found by the types of the fields they stand in.

It walks a literal and the type that is wanted of it side by side, and resolves nothing. Invariant: a value that is an
expression is nobody's name before the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gristmill._language._types import Type
from gristmill._language._yaml import ListNode, MapNode, Node, Scalar

if TYPE_CHECKING:
    from gristmill._plugins import RefKind


def nested_references(wanted: Type, node: Node) -> Iterator[tuple[RefKind, str, Node]]:
    """Yield the kind, the name and the place of every reference in the fields of records within `node`."""
    if wanted.kind == "union":
        for option in wanted.options:
            yield from nested_references(option, node)
    elif isinstance(node, ListNode) and wanted.kind == "list" and wanted.item is not None:
        for item in node.items:
            yield from nested_references(wanted.item, item)
    elif isinstance(node, MapNode) and wanted.kind == "map" and wanted.item is not None:
        for _, value in node.entries.values():
            yield from nested_references(wanted.item, value)
    elif isinstance(node, MapNode) and wanted.kind == "record":
        for name, (_, value) in node.entries.items():
            kind = _reference_kind(wanted, name)
            if kind is not None:
                yield from ((kind, text, place) for text, place in texts_in(value))
            elif name in wanted.fields:
                yield from nested_references(wanted.fields[name], value)


def texts_in(node: Node) -> Iterator[tuple[str, Node]]:
    """Yield the texts that a node is, or that a list holds, but no expression."""
    if isinstance(node, ListNode):
        for item in node.items:
            yield from texts_in(item)
    elif isinstance(node, Scalar) and isinstance(node.value, str) and "${" not in node.value:
        yield node.value, node


def _reference_kind(record: Type, name: str) -> RefKind | None:
    """Return what a field of a pydantic model refers to, if it is annotated as a reference."""
    from gristmill._plugins import Ref, _annotated_extras

    info = getattr(record.python, "model_fields", {}).get(name)
    if info is None:
        return None
    extras = [*info.metadata, *_annotated_extras(info.annotation)]
    return next((extra.kind for extra in extras if isinstance(extra, Ref)), None)
