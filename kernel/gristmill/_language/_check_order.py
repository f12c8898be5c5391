"""Which steps wait for one another because they use the same collection of memory.

A step that reads a collection waits for the steps of its recipe that write to it, so that a recipe finds what it has
just kept, unless such a step waits for the reading one already: then what is kept comes after. It holds where both
name collection and namespace literally. Invariant: it never makes a cycle.
"""

from __future__ import annotations

from collections.abc import Mapping

from gristmill._language._recipe import Constant, FunctionCall, Step


def order_collections(steps: Mapping[str, Step]) -> None:
    """Let each step that reads a collection need those that write to it."""
    used = {name: place for name, step in steps.items() if (place := _place(step)) is not None}
    for reader, place in used.items():
        for writer, other in used.items():
            writes_first = place == other and _writes(steps[writer]) and not _writes(steps[reader])
            if writes_first and not _waits_for(steps, writer, reader):
                steps[reader].needs = tuple(dict.fromkeys((*steps[reader].needs, writer)))


def _writes(step: Step) -> bool:
    return isinstance(step.work, FunctionCall) and step.work.function.writes


def _place(step: Step) -> tuple[str, str] | None:
    """Return namespace and collection, if the step's function takes a collection and both are literal."""
    if not isinstance(step.work, FunctionCall):
        return None
    parameters = step.work.function.parameters
    collection = next((p.name for p in parameters.values() if p.ref == "collection"), None)
    if collection is None:
        return None
    namespace = parameters.get("namespace")
    found = [step.work.arguments.get(collection)]
    if namespace is not None:
        found.append(step.work.arguments.get("namespace", Constant(namespace.default, None)))
    values = [data.value for data in found if isinstance(data, Constant)]
    return (str(values[-1]), str(values[0])) if len(values) == len(found) else None


def _waits_for(steps: Mapping[str, Step], name: str, other: str) -> bool:
    """Return whether `name` comes after `other` already."""
    seen, waiting = set(), [name]
    while waiting:
        for before in steps[waiting.pop()].waits_for:
            if before == other:
                return True
            if before in steps and before not in seen:
                seen.add(before)
                waiting.append(before)
    return False
