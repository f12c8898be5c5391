"""Puts what `--set` and `--model` say into a parsed recipe, before it is checked.

Invariant: a mistake in an override is told at the place in the file that it changes.
"""

from __future__ import annotations

from collections.abc import Mapping

from gristmill._errors import UsageError, suggest
from gristmill._language._yaml import ListNode, MapNode, Node, Scalar, YamlDocument, parse_yaml


def apply_overrides(document: YamlDocument, overrides: Mapping[str, str]) -> None:
    """Put the values of `--set` and `--model` into the parsed file; mistakes in them point at the step or model.

    Raises:
        UsageError: an override names nothing in the file, or is no YAML.
    """
    for path, text in overrides.items():
        *parents, last = path.split(".") if path.startswith("models.") else ["steps", *path.split(".")]
        node = document.root
        for part in parents:
            child = node.get(part) if isinstance(node, MapNode) else None
            if child is None:
                there = node.entries if isinstance(node, MapNode) else ()
                raise UsageError(f"{path}={text}: there is no {part!r} in the recipe", hint=suggest(part, there))
            node = child
        value = parse_yaml(f"--set {path}", text.encode())
        if value.root is None or not isinstance(node, MapNode):
            raise UsageError(f"{path}={text}: the value is no YAML", hint="quote it twice: --set 'step.key=\"text\"'")
        at = node.start
        node.entries[last] = (Scalar(at, at, last, "", last), _moved(value.root, at))


def _moved(node: Node, at: int) -> Node:
    """Give a parsed override the place of what it changes."""
    node.start = node.end = at
    for child in node.items if isinstance(node, ListNode) else ():
        _moved(child, at)
    for key, child in node.entries.values() if isinstance(node, MapNode) else ():
        key.start = key.end = at
        _moved(child, at)
    return node
