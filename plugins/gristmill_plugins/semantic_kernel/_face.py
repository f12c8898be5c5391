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
from gristmill_plugins.semantic_kernel._vectors import GristmillEmbedding, GristmillVectorStore

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

    def add_embedder(self, name: str, use: str = "wordllama", **arguments: Any) -> GristmillEmbedding:
        """Add an embedder as the embedding service `name`, declared as under `models:`; nothing is loaded.

        Raises:
            PluginError: there is no such provider.
            UsageError: it makes no embedder, or an argument is unknown, missing or of the wrong type.
        """
        service = GristmillEmbedding.of(self._kernel, name, self._kernel.embedder(use, arguments))
        self.add_service(service, overwrite=True)
        return service

    def memory_store(
        self, *, namespace: str = "default", embedder: GristmillEmbedding | None = None
    ) -> GristmillVectorStore:
        """Return gristmill's memory as a vector store; its collections are made by their first record.

        Args:
            namespace: keeps users apart.
            embedder: makes the vectors of fields that are given as text; by default WordLlama.
        """
        chosen = embedder or GristmillEmbedding.of(self._kernel, "wordllama", self._kernel.embedder("wordllama"))
        return GristmillVectorStore.of(self._kernel.memory.store, namespace, chosen)

    def _serve(self, declaration: Any) -> GristmillChat:
        service = GristmillChat.of(self._kernel, declaration)
        self.add_service(service, overwrite=True)
        self._models[declaration.name] = declaration
        return service
