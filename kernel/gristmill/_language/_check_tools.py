"""Checks `tools:` of a step: what an agent may call, by the rules of `_tool_list`.

It checks bound arguments as those of a step. Invariant: a list without problems names functions and recipes there are,
under names that differ, and leaves the model only what it may set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from gristmill._errors import suggest
from gristmill._language._inference import Scope
from gristmill._language._recipe import Recipe
from gristmill._language._tool_list import TOOL_KEYS, ToolTarget, tool_schema
from gristmill._language._yaml import ListNode, MapNode, Node, Scalar
from gristmill._plugins import FunctionSpec, Parameter

if TYPE_CHECKING:
    from gristmill._language._check import _RecipeChecker

CheckArgument = Callable[[Parameter, Node, Scope], object]
"""Checks one argument against its parameter, as in a step's `with:`."""


class ToolChecker:
    """Checks one list of tools."""

    def __init__(
        self,
        owner: _RecipeChecker,
        scope: Scope,
        *,
        argument: CheckArgument,
        function: Callable[[str, Node], FunctionSpec | None],
        recipe: Callable[[str, Node], Recipe | None],
        only_model: str | None,
    ) -> None:
        self.owner = owner
        self.scope = scope
        self.argument = argument
        self.function = function
        self.recipe = recipe
        self.only_model = only_model
        self.names: set[str] = set()

    def run(self, node: Node) -> None:
        """Report everything that is wrong with the list."""
        if not isinstance(node, ListNode) or not node.items:
            hint = "- {use: plugin.function, with: {...}, as: name}"
            self.owner.report(node, "tools are listed in the recipe itself", hint=hint, code="tools")
            return
        for item in node.items:
            if isinstance(item, MapNode):
                self._item(item)
            else:
                self.owner.report(item, "a tool is {use: plugin.function} or {recipe: name}", code="tools")

    def _item(self, item: MapNode) -> None:
        self.owner.unknown_keys(item, TOOL_KEYS, "a tool")
        target = self._target(item)
        self._name(item, target)
        given = self._given(item)
        if target is None:
            for node in given.values():
                self.owner.infer(self.owner.data(node), self.scope)
            return
        for name, node in given.items():
            if name in target.parameters:
                self.argument(target.parameters[name], node, self.scope)
            else:
                key = cast(MapNode, item.entries["with"][1]).key(name)
                hint = suggest(name, target.parameters, most=40)
                self.owner.report(key, f"{target.name} has no argument {name!r}", hint=hint, code="unknown-argument")
        model = target.parameters.get("model")
        filled = {"model"} if model is not None and model.ref == "model" and self.only_model else set()
        schema = item.get("schema")
        written = None if schema is None else self.owner.literal(schema)
        for problem in tool_schema(target, {*given, *filled}, written)[1]:
            where = item.get(problem.key) or item.get("recipe") or item
            self.owner.report(where, problem.message, hint=problem.hint, code="tools")

    def _target(self, item: MapNode) -> ToolTarget | None:
        use, recipe = item.get("use"), item.get("recipe")
        if (use is None) == (recipe is None):
            self.owner.report(item, "a tool has either `use` or `recipe`", code="tools")
            return None
        if recipe is not None:
            found = self.recipe(str(self.owner.literal(recipe)), recipe)
            return None if found is None else ToolTarget.of_recipe(found)
        assert use is not None
        function = self.function(str(self.owner.literal(use)), use)
        return None if function is None else ToolTarget.of_function(function)

    def _name(self, item: MapNode, target: ToolTarget | None) -> None:
        node = item.get("as")
        if node is not None and not (isinstance(node, Scalar) and self.owner.name_is_free(node, "a tool")):
            return
        name = node.text if isinstance(node, Scalar) else target.short_name if target else ""
        if name and name in self.names:
            where = node or item.get("use") or item.get("recipe") or item
            self.owner.report(where, f"two tools are called {name!r}", hint="give one another name with `as:`")
        self.names.add(name)

    def _given(self, item: MapNode) -> dict[str, Node]:
        node = item.get("with")
        if node is not None and not isinstance(node, MapNode):
            self.owner.report(node, "with is a mapping of arguments", code="tools")
        return {key: value for key, (_, value) in node.entries.items()} if isinstance(node, MapNode) else {}
