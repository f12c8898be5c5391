"""The Kernel: plugins, models, cache and runs behind one object.

Everything runs on one event loop in a thread of the kernel's own, whichever way it is called: `run` waits for it,
`arun` awaits it, `stream` listens to it. So models, locks and single flight live on one loop, and there is one code
path. It holds no global state: two kernels in one process share the files of the cache and nothing else. Invariant:
after `close` no engine, thread or file of this kernel is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from gristmill._cache import PromptCache
from gristmill._errors import RecipeError, UsageError
from gristmill._events import ModelLoading
from gristmill._language._check import check_recipe
from gristmill._language._recipe import ModelDeclaration, Recipe
from gristmill._library import RecipeLibrary
from gristmill._models import Embedder, Model, VectorStore
from gristmill._registry import Registry
from gristmill._residents import Residents
from gristmill._run import Services
from gristmill._runnable import Listener, ModelSource, RunnableRecipe
from gristmill._settings import Settings, load_settings
from gristmill._threads import Threads

if TYPE_CHECKING:
    from gristmill._memory import Memory
    from gristmill._semantic._index import SemanticIndex

LOOK_EVERY_S = 0.25
STOP_WITHIN_S = 5.0
"""How long an interrupted `run` waits for its engines to let go, and `close` for functions that are still at work."""


class Kernel:
    """Finds plugins, checks and runs recipes, and owns the models they use.

    Args:
        plugins: plugin objects, classes or modules beside the installed ones; a mapping names them.
        plugin_files: Python files that hold a plugin each, named by the file's stem.
        cache: False for none; a PromptCache; or by default the one of the settings.
        memory: a store of semantic memory, or the folder of the kernel's own; by default the one of the settings.
        settings: what `gristmill.toml` says, by default as found from the current folder.
    """

    def __init__(
        self,
        plugins: Mapping[str, Any] | Iterable[Any] = (),
        *,
        plugin_files: Iterable[str | Path] = (),
        cache: PromptCache | bool = True,
        memory: VectorStore | str | Path | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.settings = settings or load_settings()
        files = [*self.settings.plugin_files, *(Path(file).absolute() for file in plugin_files)]
        self.plugin_files = tuple(files)
        self.registry = Registry(plugins, files)
        if (snapshot := self.settings.tools_file) is not None and snapshot.is_file():
            self.registry.add_snapshot(snapshot, self.settings.plugin_tables.get("semantic_kernel", {}))
        self.library = RecipeLibrary()
        self.cache = self._make_cache(cache)
        self._memory_at = memory
        self._memory: Memory | None = None
        self._memories: dict[int, Memory] = {}
        self._semantic: SemanticIndex | None = None
        self._models: dict[str, Model] = {}
        self._residents = Residents(max_loaded=self.settings.max_loaded, idle_s=self.settings.idle_s)
        self.listeners: set[Listener] = set()
        """Of the runs under way: they are told of models that load."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._threads: Threads | None = None
        self._lock = threading.Lock()
        """Of starting and closing."""
        self._facing = threading.Lock()
        """Of the face for semantic-kernel, whose import takes a second in which models can be made."""
        self._making = threading.RLock()
        """Of what is made when it is first asked for, so that threads that ask at once get the same one."""
        self._closed = False
        self._face: Any = None

    def _make_cache(self, cache: PromptCache | bool) -> PromptCache | None:
        if isinstance(cache, PromptCache):
            return cache
        if not cache:
            return None
        return PromptCache(
            self.settings.cache_directory,
            size_limit_bytes=self.settings.cache_size_bytes,
            expire_s=self.settings.cache_expire_s,
        )

    @property
    def memory(self) -> Memory:
        """Semantic memory: `remember`, `recall` and the rest; nothing is opened before it is used."""
        with self._making:
            if self._memory is None:
                from gristmill._memory._open import open_memory

                self._memory = open_memory(self, self._memory_at)
            return self._memory

    def _semantic_index(self) -> SemanticIndex | None:
        """Return the earlier prompts of the prompt cache; None without one."""
        with self._making:
            if self.cache is not None and self._semantic is None:
                from gristmill._memory._open import DEFAULT_EMBEDDER
                from gristmill._semantic._index import SemanticIndex

                self._semantic = SemanticIndex(self.cache.directory, lambda: self.embedder(DEFAULT_EMBEDDER))
            return self._semantic

    def _memory_of(self, declared: ModelDeclaration | None) -> Memory:
        """Return semantic memory in a store that a recipe declares; equal declarations share one."""
        if declared is None:
            return self.memory
        from gristmill._memory._open import open_memory

        store: Any = self.model_of(declared)
        return self._memories.setdefault(id(store), open_memory(self, store))

    @property
    def semantic_kernel(self) -> Any:
        """This kernel as a `semantic_kernel.Kernel`: plugins, recipes, and models given by `add_model`.

        Made when first asked for, by whichever plugin is called `semantic_kernel`; the import takes a second.

        Raises:
            PluginError: semantic-kernel is not installed.
        """
        with self._facing:
            if self._face is None:
                self._face = self.registry.plugin("semantic_kernel").plugin.make_face(self)
            return self._face

    def embedder(self, provider: str, arguments: Mapping[str, Any] | None = None) -> Embedder:
        """Return an embedder by its provider, as under `models:` of a recipe. Loads nothing by itself.

        Raises:
            PluginError: there is no such provider.
            UsageError: it makes no embedder, or an argument is unknown, missing or of the wrong type.
        """
        from gristmill._memory._open import accept_arguments

        spec = self.registry.provider(provider)
        if spec.makes == "store":
            raise UsageError(f"{provider!r} makes a store, no embedder")
        return self.model_of(ModelDeclaration(provider, spec, accept_arguments(spec, arguments or {})))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def check(self, recipe: str | Path, *, overrides: Mapping[str, str] | None = None) -> Recipe:
        """Check a recipe by name or path; its `diagnostics` are all the mistakes. Loads no model.

        Raises:
            UsageError: there is no such recipe.
        """
        return check_recipe(self.library.find(recipe), self.registry, self.library.find, overrides=overrides)

    def recipe(self, recipe: str | Path, *, overrides: Mapping[str, str] | None = None) -> RunnableRecipe:
        """Return a recipe ready to run, by name or path.

        `overrides` changes the recipe before it is checked: `{"answer.temperature": "0.7"}` sets a step's key,
        `{"models.main.model": "/data/other.gguf"}` a model's argument; values are YAML.

        Raises:
            UsageError: there is no such recipe.
            RecipeError: it does not check; `diagnostics` has all the mistakes.
        """
        checked = self.check(recipe, overrides=overrides)
        if checked.errors:
            told = "\n".join(diagnostic.render() for diagnostic in checked.errors)
            raise RecipeError(told, checked.diagnostics)
        return RunnableRecipe(self, checked, overrides)

    def _sub_recipe(self, name: str) -> Recipe:
        return self.recipe(name).recipe

    def model_of(self, declaration: ModelDeclaration) -> Model:
        """Return the model that a recipe declares; equal declarations share one. Loads nothing by itself."""
        arguments = dict(declaration.arguments)
        key = json.dumps([declaration.provider.name, arguments], sort_keys=True, default=str)
        with self._making:
            if key not in self._models:
                model = declaration.provider.call(**arguments)
                if isinstance(model, Model):
                    self._residents.watch(model)
                    model.on_loading = lambda fraction: self._tell_loading(model.name, fraction)
                self._models[key] = model
            return self._models[key]

    def _tell_loading(self, name: str, fraction: float) -> None:
        for listener in list(self.listeners):
            listener(ModelLoading(0.0, name, fraction))

    def services(self, model_of: ModelSource | None = None) -> Services:
        """Return what a run uses of this kernel; its models come from `model_of`, if that is given."""
        self._start()
        assert self._threads is not None
        models = model_of or self.model_of
        return Services(
            self.registry,
            self.settings,
            self.cache,
            self._threads,
            models,
            self._sub_recipe,
            self._memory_of,
            self._semantic_index,
        )

    def _start(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._closed:
                raise UsageError("this kernel is closed", hint="make a new one, or use it inside its `with`")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="gristmill", daemon=True)
                self._thread.start()
                self._threads = Threads(self._loop, self.settings.steps_at_once, finish_within_s=STOP_WITHIN_S)
            return self._loop

    def on_loop(self) -> bool:
        """Tell whether the caller is on the kernel's own loop, where it awaits instead of waiting."""
        return threading.current_thread() is self._thread

    def submit(self, coroutine: Any) -> Future[Any]:
        """Start a coroutine on the kernel's loop."""
        try:
            loop = self._start()
            if threading.current_thread() is self._thread:
                raise UsageError("a run cannot wait for a run on the kernel's own loop", hint="await recipe.arun(...)")
        except UsageError:
            coroutine.close()
            raise
        return asyncio.run_coroutine_threadsafe(coroutine, loop)

    def wait(self, coroutine: Any) -> Any:
        """Run a coroutine on the kernel's loop and return its result; an interrupt cancels it first."""
        ended = threading.Event()

        async def observed() -> Any:
            try:
                return await coroutine
            finally:
                ended.set()

        try:
            future = self.submit(observed())
        except UsageError:
            coroutine.close()
            raise
        try:
            return _result(future)
        except BaseException:
            if not future.done():
                future.cancel()
                ended.wait(STOP_WITHIN_S)
            raise

    def close(self) -> None:
        """Stop all engines and the kernel's threads; idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            loop, thread, threads = self._loop, self._thread, self._threads
        if loop is not None and thread is not None and threads is not None:
            with contextlib.suppress(TimeoutError):  # engines that do not answer end with this process
                asyncio.run_coroutine_threadsafe(self._close_models(), loop).result(2 * STOP_WITHIN_S)
            threads.close()
            loop.call_soon_threadsafe(loop.stop)
            thread.join(STOP_WITHIN_S)
            if not thread.is_alive():
                loop.close()
        if self.cache is not None:
            self.cache.close()

    async def _close_models(self) -> None:
        current = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not current]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_WITHIN_S)
        closers = [model.close() for model in self._models.values() if isinstance(model, Model)]
        await asyncio.gather(*closers, return_exceptions=True)
        self._models.clear()
        holders = [*self._memories.values(), self._memory, self._semantic]
        await asyncio.gather(*(one.store.close() for one in holders if one is not None), return_exceptions=True)


def _result(future: Future[Any]) -> Any:
    """Return a future's result, waking now and then: an interrupt that the system hands to another thread than the main
    one is noted by Python, but ends no wait of the main thread.
    """
    while True:
        try:
            return future.result(LOOK_EVERY_S)
        except TimeoutError:
            if future.done():  # it ended just now, or its own error is a TimeoutError
                return future.result()
