"""Checks a step that calls a function or a recipe: that it is there, and its arguments.

Invariant: a call without a problem names something that exists, gives it all that it needs and nothing else, and every
recipe that an argument names is checked and kept in the step.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from gristmill._errors import PluginError, UsageError, suggest
from gristmill._language._check_models import ModelNames
from gristmill._language._check_nested import nested_references, texts_in
from gristmill._language._check_tools import ToolChecker
from gristmill._language._diagnostics import shorten_path
from gristmill._language._inference import Scope
from gristmill._language._recipe import Constant, Data, FunctionCall, Recipe, RecipeCall, Step
from gristmill._language._step_keys import KEYS
from gristmill._language._types import ANY, CoercionError, Type, shorten
from gristmill._language._yaml import MapNode, Node
from gristmill._plugins import FunctionSpec, Parameter, RefKind

if TYPE_CHECKING:
    from gristmill._language._check_steps import StepChecker


class CallChecker:
    """Checks a step with `use` or `recipe`."""

    def __init__(self, steps: StepChecker, step: Step, node: MapNode) -> None:
        self.owner, self.recipe = steps.owner, steps.recipe
        self.step, self.node = step, node
        self.models = ModelNames(steps, step, node)

    def function(self, *, quiet: bool = False) -> FunctionSpec | None:
        node = self.node.entries["use"][1]
        before = len(self.owner.document.diagnostics)
        found = self._find_function(str(self.owner.literal(node)), node)
        if quiet:
            del self.owner.document.diagnostics[before:]
        return found

    def check_function(self, scope: Scope) -> Type:
        function = self.function()
        given = self._arguments()
        if function is None:
            for node in given.values():
                self.owner.infer(self.owner.data(node), scope)
            return ANY
        arguments: dict[str, Data] = {}
        for name, node in given.items():
            if name in function.parameters:
                arguments[name] = self._argument(function.parameters[name], node, scope)
            else:
                self._report_argument(function, name)
        self._model_argument(function, arguments)
        model = arguments.get("model")
        self.models.check_adapters(scope, str(model.value) if isinstance(model, Constant) else None)
        missing = [p.name for p in function.parameters.values() if p.required and p.name not in arguments]
        if missing:
            listed = " and ".join(repr(name) for name in missing)
            self.owner.report(
                self.node.entries["use"][1], f"{function.name} needs {listed}", code="missing",
                hint=f"add {missing[0]}: under `with:`",
            )  # fmt: skip
        self.step.work = FunctionCall(function, arguments)
        return function.returns

    def _arguments(self) -> dict[str, Node]:
        node = self.node.get("with")
        if node is None:
            return {}
        if not isinstance(node, MapNode):
            self.owner.report(node, "with is a mapping of arguments")
            return {}
        return {key: value for key, (_, value) in node.entries.items()}

    def _report_argument(self, function: FunctionSpec, name: str) -> None:
        key = cast(MapNode, self.node.entries["with"][1]).key(name)
        hint = suggest(name, function.parameters, most=40)
        if name in KEYS and "use" in KEYS[name].work:
            hint = f"it belongs to the step: move {name!r} out of `with:`, beside `use:`"
        self.owner.report(key, f"{function.name} has no argument {name!r}", hint=hint, code="unknown-argument")

    def _argument(self, parameter: Parameter, node: Node, scope: Scope) -> Data:
        data = self.owner.data(node)
        before = len(self.owner.document.diagnostics)
        self.owner.fits(node, data, parameter.type, scope, parameter.name)
        if isinstance(data, Constant) and len(self.owner.document.diagnostics) == before:
            try:
                parameter.accept(data.value)
            except CoercionError as error:
                self.owner.report(node, f"{parameter.name}: {error}", code="range")
        if parameter.ref == "tools":
            checker = ToolChecker(
                self.owner,
                scope,
                argument=self._argument,
                function=self._named_function,
                recipe=self._sub_recipe,
                only_model=self.models.only_model(),
            )
            checker.run(node)
        elif parameter.ref:
            for name, place in texts_in(node):
                self._check_reference(parameter.ref, name, place)
        for kind, name, place in nested_references(parameter.type, node):
            self._check_reference(kind, name, place)
        return data

    def _named_function(self, name: str, node: Node) -> FunctionSpec | None:
        """Return a function that an argument names, and keep it in the step: a lock pins it."""
        found = self._find_function(name, node)
        if found is not None:
            self.step.named_functions[name] = found
        return found

    def _find_function(self, name: str, node: Node) -> FunctionSpec | None:
        try:
            return self.owner.registry.function(name)
        except PluginError as error:
            self.owner.report(node, error.message, hint=error.hint or "", code="unknown-function")
            return None

    def _check_reference(self, kind: RefKind, name: str, node: Node) -> None:
        if kind in ("model", "embedder", "store"):
            self.models.check_declared(name, node, kind)
        elif kind == "function":
            self._named_function(name, node)
        elif kind == "recipe":
            self._sub_recipe(name, node)
        elif kind == "adapter":
            known = {adapter for model in self.recipe.models.values() for adapter in model.adapters}
            if name not in known:
                self.owner.report(
                    node, f"{name!r} is no adapter of a model here", hint=suggest(name, known), code="name"
                )

    def _model_argument(self, function: FunctionSpec, arguments: dict[str, Data]) -> None:
        """Fill the parameter `model` from the step's `model:`, or from the recipe's only model."""
        wants = function.parameters.get("model")
        node = self.node.get("model")
        if wants is None or wants.ref != "model":
            if node is not None:
                self.owner.report(self.node.key("model"), f"{function.name} uses no model", hint="delete it")
            return
        if node is not None:
            if "model" in arguments:
                self.owner.report(self.node.key("model"), "the model is given here and under `with:`", hint="keep one")
            name = self.owner.literal(node)
            self.models.check_declared(str(name), node, "model")
            arguments["model"] = Constant(str(name), node)
        elif "model" not in arguments and (only := self.models.only_model()):
            arguments["model"] = Constant(only, None)

    def check_recipe(self, scope: Scope) -> Type:
        node = self.node.entries["recipe"][1]
        given = self._arguments()
        recipe = self._sub_recipe(str(self.owner.literal(node)), node)
        arguments: dict[str, Data] = {}
        for name, value in given.items():
            data = self.owner.data(value)
            declared = recipe.inputs.get(name) if recipe else None
            if recipe is not None and declared is None:
                key = cast(MapNode, self.node.entries["with"][1]).key(name)
                hint = suggest(name, recipe.inputs)
                self.owner.report(
                    key, f"recipe {recipe.name!r} has no input {name!r}", hint=hint, code="unknown-argument"
                )
            self.owner.fits(value, data, declared.type if declared else ANY, scope, name)
            arguments[name] = data
        if recipe is None:
            return ANY
        missing = [i.name for i in recipe.inputs.values() if i.required and i.name not in arguments]
        if missing:
            self.owner.report(node, f"recipe {recipe.name!r} needs {' and '.join(missing)}", code="missing")
        self.step.work = RecipeCall(recipe, arguments)
        return recipe.output_type

    def _sub_recipe(self, name: str, node: Node) -> Recipe | None:
        """Check the recipe that is called; refuse what leads out of the folder or back to a caller."""
        path = self._recipe_path(name, node)
        if path is None:
            return None
        if path in self.owner.callers:
            ring = " -> ".join(caller.name for caller in (*self.owner.callers, path))
            self.owner.report(node, f"this recipe calls itself: {ring}", hint="use `repeat`", code="cycle")
            return None
        try:
            found = self.owner.checker.recipe(path, shorten_path(path), self.owner.callers)
            self.step.named_recipes[name] = found
            return found
        except UsageError as error:
            self.owner.report(node, error.message, hint=error.hint or "", code="recipe")
            return None

    def _recipe_path(self, name: str, node: Node) -> Path | None:
        if "/" not in name and not name.endswith((".yaml", ".yml")):
            try:
                return self.owner.checker.find(name).resolve()
            except UsageError as error:
                self.owner.report(node, error.message, hint=error.hint or "", code="unknown-recipe")
                return None
        folder = self.recipe.folder.resolve()
        try:
            path = (folder / name).resolve()
            is_file = path.is_file()
        except (OSError, ValueError) as error:  # too long, a loop of links, a NUL
            self.owner.report(node, f"{shorten(name)} is no path: {error}", code="path")
            return None
        if not path.is_relative_to(folder):
            hint = "a recipe calls only those below it, or by name"
            self.owner.report(node, f"{name!r} leads out of this recipe's folder", hint=hint, code="path")
            return None
        if not is_file:
            there = sorted(str(p.relative_to(folder)) for p in list(folder.glob("*.yaml"))[:50])
            self.owner.report(node, f"there is no file {name!r}", hint=suggest(name, there), code="unknown-recipe")
            return None
        return path
