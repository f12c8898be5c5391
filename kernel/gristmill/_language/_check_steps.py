"""Checks the steps of a recipe: what each is, what it waits for, and in which order they are looked at.

Steps are parsed in the order of the file and typed in the order of their dependencies; their keys are in `_step_keys`,
what stands around their work is read by `_check_flow`, and the work is checked by `_check_work`. Invariant: after
`run`, every Step is complete or an error was reported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gristmill._errors import nearest, suggest
from gristmill._language._check_flow import FlowReader
from gristmill._language._check_order import order_collections
from gristmill._language._check_work import WorkChecker
from gristmill._language._inference import Scope
from gristmill._language._recipe import Recipe, Step, digest_of
from gristmill._language._step_keys import KEYS, MARKS, Work
from gristmill._language._types import ANY, Type
from gristmill._language._yaml import ListNode, MapNode, Node, Scalar

if TYPE_CHECKING:
    from gristmill._language._check import _RecipeChecker


class StepChecker:
    """Checks `steps:`; holds what is shared between them while it runs."""

    def __init__(self, owner: _RecipeChecker) -> None:
        self.owner = owner
        self.recipe: Recipe = owner.recipe
        self.nodes: dict[str, MapNode] = {}
        self.work: dict[str, Work] = {}
        self.input_type = Type("record", "inputs", fields={i.name: i.type for i in self.recipe.inputs.values()})
        self.names: dict[str, Type] = {"inputs": self.input_type}
        """What the step that is being checked may read; each step's type is put in once it is known."""

    def run(self, root: MapNode) -> None:
        node = root.get("steps")
        if not isinstance(node, MapNode) or not node.entries:
            where = node or root.entries.get("name", (root, root))[0]
            is_empty = node is None or (isinstance(node, MapNode) and not node.entries)
            is_empty = is_empty or (isinstance(node, Scalar) and node.value is None)
            what = "the recipe has no steps" if is_empty else "steps is a mapping from names to steps"
            self.owner.report(where, what, hint="steps: {answer: {prompt: ...}}")
            return
        for name, (key, value) in node.entries.items():
            if self.owner.name_is_free(key, "a step"):
                self._open(name, key, value)
        for name in self.nodes:
            FlowReader(self.owner, self.recipe.steps[name], self.nodes[name]).read(self.recipe.steps)
        for name in self.nodes:
            self._find_references(self.recipe.steps[name], self.nodes[name])
        self.names |= dict.fromkeys(node.entries, ANY)
        for name in self._in_order():
            if self.owner.document.is_full:
                return
            step = self.recipe.steps[name]
            if step.until is not None:
                del self.names[name]
            WorkChecker(self, step, self.nodes[name], self.work[name]).run()
            self.names[name] = step.type
        order_collections(self.recipe.steps)

    def _open(self, name: str, key: Scalar, node: Node) -> None:
        if not isinstance(node, MapNode):
            self.owner.report(node, f"step {name!r} is a mapping", hint="{prompt: ...} or {use: plugin.function}")
            return
        work = self._work_of(name, key, node)
        if work is None:
            return
        self.nodes[name] = node
        self.work[name] = work
        self.recipe.steps[name] = Step(name, key, digest=digest_of(_plain(node)))
        self._report_keys(node, work)

    def _work_of(self, name: str, key: Scalar, node: MapNode) -> Work | None:
        found = [mark for mark in MARKS if mark in node.entries]
        if not found:
            near = next((near for other in node.entries if (near := nearest(other, MARKS))), None)
            hint = f"did you mean {near!r}?" if near else "it needs one of: use, prompt, messages, recipe"
            self.owner.report(key, f"step {name!r} does nothing", hint=hint, code="step")
            return None
        if len(found) > 1:
            self.owner.report(
                node.key(found[1]), f"a step has {found[0]!r} or {found[1]!r}, not both", hint="make two steps",
                code="step",
            )  # fmt: skip
            return None
        return MARKS[found[0]]

    def _report_keys(self, node: MapNode, work: Work) -> None:
        allowed = [key for key, spec in KEYS.items() if work in spec.work]
        for key in node.entries:
            if key in allowed:
                continue
            at, hint = node.key(key), suggest(key, allowed, most=40)
            if key in KEYS and work == "use":
                hint = f"if the function takes it, it belongs under `with:`; a `prompt` step has {key!r} itself"
            elif key in KEYS and work == "recipe":
                hint = "set it in the recipe that is called, or pass it under `with:` as an input"
            elif key == "with":
                hint = "a `prompt` step takes these keys itself, beside `prompt`"
            self.owner.report(at, f"{key!r} is not a key of a `{_mark(node)}` step", hint=hint, code="unknown-key")

    def _find_references(self, step: Step, node: MapNode) -> None:
        names = _references(self.owner, node) - ({step.item_name} if step.for_each is not None else set())
        own = step.name in names
        step.references = frozenset(name for name in names if name in self.recipe.steps and name != step.name)
        if own and step.until is None:
            self.owner.report(
                step.node, f"step {step.name!r} reads itself", hint="only a step with `repeat` sees its last turn",
                code="cycle",
            )  # fmt: skip

    def _in_order(self) -> list[str]:
        """Return the steps so that each comes after those it waits for; report cycles."""
        order: list[str] = []
        state: dict[str, int] = {}

        for root in self.nodes:
            stack = [(root, iter(sorted(self.recipe.steps[root].waits_for)))] if root not in state else []
            if stack:
                state[root] = 1
            while stack:
                name, waiting = stack[-1]
                following = next(waiting, None)
                if following is None:
                    state[name] = 2
                    order.append(name)
                    stack.pop()
                elif state.get(following) == 1:
                    self._report_cycle([part for part, _ in stack], following)
                elif following in self.nodes and following not in state:
                    state[following] = 1
                    stack.append((following, iter(sorted(self.recipe.steps[following].waits_for))))
        return order

    def _report_cycle(self, path: list[str], again: str) -> None:
        ring = [*path[path.index(again) :], again]
        step = self.recipe.steps[again]
        self.owner.report(
            step.node, f"these steps wait for each other: {' -> '.join(ring)}", code="cycle",
            hint="break the ring, or make it one step with `repeat`",
        )  # fmt: skip
        last = self.recipe.steps[path[-1]]
        last.references -= {again}
        last.needs = tuple(name for name in last.needs if name != again)

    def scope(self) -> Scope:
        """Return the names that may be read: inputs and steps, but for the step that is being checked."""
        return Scope(self.names, inputs=self.input_type.fields)


def _plain(node: Node) -> Any:
    """Return the bare data under a node, for its digest."""
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, ListNode):
        return [_plain(item) for item in node.items]
    assert isinstance(node, MapNode)
    return {key: _plain(value) for key, (_, value) in node.entries.items()}


def _mark(node: MapNode) -> str:
    return next(mark for mark in ("use", "recipe", "prompt", "messages") if mark in node.entries)


def _references(owner: _RecipeChecker, node: MapNode) -> frozenset[str]:
    """Return every name that the expressions of a step read."""
    found: set[str] = set()
    for key, (_, value) in node.entries.items():
        if key not in KEYS or KEYS[key].expressions:
            found |= owner.data(value).references
    return frozenset(found)
