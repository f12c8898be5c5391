"""Checks the models and adapters that a step names.

Invariant: a name without a problem is declared under `models:` of the recipe, and makes what is wanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gristmill._errors import suggest
from gristmill._language._inference import Scope
from gristmill._language._recipe import Constant, Data, Step
from gristmill._language._step_keys import ADAPTERS
from gristmill._language._yaml import ListNode, MapNode, Node, Scalar

if TYPE_CHECKING:
    from gristmill._language._check_steps import StepChecker


class ModelNames:
    """The models and adapters of one step."""

    def __init__(self, steps: StepChecker, step: Step, node: MapNode) -> None:
        self.steps = steps
        self.owner = steps.owner
        self.recipe = steps.recipe
        self.step = step
        self.node = node

    def check_declared(self, name: str, node: Node, kind: str) -> None:
        makes = ("model", "embedder") if kind == "embedder" else (kind,)
        known = [model.name for model in self.recipe.models.values() if model.provider.makes in makes]
        root = self.owner.document.root
        declared = (
            isinstance(root, MapNode) and isinstance(models := root.get("models"), MapNode) and name in models.entries
        )
        if name not in known and (not declared or name in self.recipe.models):
            example = f"{name}: {{use: postgres, url: ...}}" if kind == "store" else "main: {use: llama}"
            hint = suggest(name, known) if known else f"declare one: models: {{{example}}}"
            self.owner.report(node, f"{name!r} is no {kind} of this recipe", hint=hint, code="unknown-model")

    def only_model(self) -> str | None:
        names = [model.name for model in self.recipe.models.values() if model.provider.makes == "model"]
        return names[0] if len(names) == 1 else None

    def check_adapters(self, scope: Scope, model: str | None) -> None:
        node, data = self.node.get("adapters"), self.step.adapters
        if node is None or data is None:
            return
        self.owner.fits(node, data, ADAPTERS, scope, "adapters")
        declared = self.recipe.models.get(model or "")
        if declared is None:
            return
        named: list[Node] = []
        if isinstance(node, MapNode):
            named = [key for key, _ in node.entries.values()]
        elif isinstance(node, ListNode):
            named = list(node.items)
        elif isinstance(data, Constant) and isinstance(data.value, str):
            named = [node]
        for part in named:
            name = part.text if isinstance(part, Scalar) else ""
            if "${" not in name and name not in declared.adapters:
                hint = (
                    suggest(name, declared.adapters) if declared.adapters else f"declare it: {model}: {{adapters: ...}}"
                )
                self.owner.report(part, f"{name!r} is no adapter of model {model!r}", hint=hint, code="name")
        self._check_choice_adapters(data, declared.adapters)

    def _check_choice_adapters(self, data: Data, known: tuple[str, ...]) -> None:
        """A step's `choices` that picks the adapter must offer only adapters there are."""
        for name in data.references:
            step = self.steps.nodes.get(name)
            choices = step.get("choices") if step else None
            for item in choices.items if isinstance(choices, ListNode) else ():
                value = item.value if isinstance(item, Scalar) else None
                if isinstance(value, str) and "${" not in value and value not in known:
                    self.owner.report(
                        item, f"{value!r} is chosen as an adapter, and is none", hint=suggest(value, known)
                    )
