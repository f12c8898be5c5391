"""The kernel as a `semantic_kernel.Kernel`: plugins and recipes as its plugins, declared models as its services.

It holds no state of a run. Invariant: what is called through it goes through gristmill's executor; the gristmill
kernel stays the owner of models, cache and threads, so that closing it ends them.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import semantic_kernel
from pydantic import PrivateAttr

from gristmill import GristmillError, Kernel
from gristmill.interop import declare, function_offers, recipe_offer
from gristmill_plugins.semantic_kernel._chat import GristmillChat
from gristmill_plugins.semantic_kernel._functions import OfferedFunction, safe_name

RECIPES = "recipes"
"""The plugin whose functions are the recipes."""

_log = logging.getLogger("gristmill")


class GristmillKernel(semantic_kernel.Kernel):
    """A semantic-kernel kernel over a gristmill kernel; add to it what you would add to any."""

    _kernel: Any = PrivateAttr()
    _models: dict[str, Any] = PrivateAttr(default_factory=dict)

    @classmethod
    def of(cls, kernel: Kernel) -> GristmillKernel:
        """Return the face: every plugin that can be loaded, and every installed recipe that checks."""
        face = cls()
        face._kernel = kernel
        by_plugin: dict[str, list[OfferedFunction]] = {}
        for offer in function_offers(kernel, face._models):
            plugin, _, short = offer.name.partition(".")
            by_plugin.setdefault(plugin, []).append(OfferedFunction.of(offer, plugin, short))
        for plugin, functions in by_plugin.items():
            summary = kernel.registry.plugin(plugin).summary
            face.add_plugin(
                semantic_kernel.functions.KernelPlugin(name=safe_name(plugin), description=summary, functions=functions)
            )
        for name in kernel.library.files():
            try:
                face.add_recipe(name)
            except GristmillError as error:
                _log.warning("recipe %r is left out: %s", name, error.message.split("\n", 1)[0])
        return face

    def add_recipe(self, recipe: str | Path) -> OfferedFunction:
        """Add a recipe, by name or path, to the plugin `recipes`, and return it as a function.

        Raises:
            UsageError: there is no such recipe.
            RecipeError: it does not check.
        """
        offer = recipe_offer(self._kernel, recipe)
        function = OfferedFunction.of(offer, RECIPES, offer.name)
        self.add_functions(plugin_name=RECIPES, functions=[function])
        return function

    def add_model(self, name: str, use: str = "llama", **arguments: Any) -> GristmillChat:
        """Add a model as the chat service `name`, declared as under `models:` of a recipe; nothing is loaded.

        Functions of plugins that take a model may name it, too.

        Raises:
            PluginError: there is no such provider.
            UsageError: an argument is unknown, missing or of the wrong type.
        """
        return self._serve(declare(self._kernel, name, use, arguments))

    def add_models_of(self, recipe: str | Path) -> dict[str, GristmillChat]:
        """Add each model that a recipe declares, under its name there.

        Raises:
            UsageError: there is no such recipe.
            RecipeError: it does not check.
        """
        declared = self._kernel.recipe(recipe).recipe.models
        return {name: self._serve(model) for name, model in declared.items() if model.provider.makes == "model"}

    def _serve(self, declaration: Any) -> GristmillChat:
        service = GristmillChat.of(self._kernel, declaration)
        self.add_service(service, overwrite=True)
        self._models[declaration.name] = declaration
        return service
