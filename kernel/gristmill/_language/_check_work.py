"""Finds the type of a step's result: of its work, and of what its loops and conditions make of that.

What the work itself may be is checked in `_check_calls` and `_check_generation`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from gristmill._language._check_calls import CallChecker
from gristmill._language._check_generation import GenerationChecker
from gristmill._language._inference import Scope, narrowed_by
from gristmill._language._recipe import Expression, Step
from gristmill._language._step_keys import Work
from gristmill._language._types import ANY, BOOLEAN, INTEGER, Type, list_of, union
from gristmill._language._yaml import MapNode

if TYPE_CHECKING:
    from gristmill._language._check_steps import StepChecker


class WorkChecker:
    """Checks what one step does against what it calls, and finds the type of its result."""

    def __init__(self, steps: StepChecker, step: Step, node: MapNode, work: Work) -> None:
        self.steps = steps
        self.owner = steps.owner
        self.step = step
        self.node = node
        self.work = work
        self.calls = CallChecker(steps, step, node)
        self.generation = GenerationChecker(steps, step, node)

    def run(self) -> None:
        step = self.step
        outer = self.steps.scope()
        inner = self._item_scope(outer)
        if step.condition is not None:
            self.owner.fits(
                self.node.entries["if"][1], step.condition, BOOLEAN, inner if step.condition_per_item else outer, "if"
            )
            if isinstance(step.condition, Expression):
                inner = inner.narrow(narrowed_by(step.condition.template))
        result = self._result_type()
        arguments_scope = inner
        if step.until is not None:
            arguments_scope = inner.bind({step.name: result.or_null()})
        result = self._check_work(arguments_scope)
        if step.until is not None:
            until = cast(MapNode, self.node.entries["repeat"][1]).entries["until"][1]
            self.owner.fits(until, step.until, BOOLEAN, inner.bind({step.name: result}), "until")
        step.type = self._around(result, inner)

    def _item_scope(self, outer: Scope) -> Scope:
        if self.step.for_each is None:
            return outer
        node = self.node.entries["for_each"][1]
        found = self.owner.infer(self.step.for_each, outer)
        if found.nullable and found.kind != "any":
            self.owner.report(node, "for_each: this may be null", hint="use `default([])`", code="type")
        elif found.kind not in ("list", "any"):
            self.owner.report(node, f"for_each needs a list, this is {found}", code="type")
        item = (found.item or ANY) if found.kind == "list" else ANY
        loop = Type("record", "loop", fields={"index": INTEGER, "index0": INTEGER, "length": INTEGER})
        return outer.bind({self.step.item_name: item, "loop": loop})

    def _around(self, result: Type, inner: Scope) -> Type:
        """Wrap the type of one piece of work in what the step's flow makes of it."""
        step = self.step
        if step.on_error.mode == "value" and step.on_error.value is not None:
            result = union(result, self.owner.infer(step.on_error.value, inner))
        may_be_null = step.on_error.mode == "skip" or (step.condition is not None and step.condition_per_item)
        result = result.or_null() if may_be_null else result
        if step.for_each is not None:
            result = list_of(result)
        if step.condition is not None and not step.condition_per_item:
            result = result.or_null()
        return result

    def _result_type(self) -> Type:
        """Return the type of the work before its arguments are checked (for a step that repeats)."""
        if self.work == "generate":
            return self.generation.type_of_result(self.generation.schema())
        if self.work == "use":
            function = self.calls.function(quiet=True)
            return function.returns if function else ANY
        return ANY

    def _check_work(self, scope: Scope) -> Type:
        if self.work == "use":
            return self.calls.check_function(scope)
        return self.generation.check(scope) if self.work == "generate" else self.calls.check_recipe(scope)
