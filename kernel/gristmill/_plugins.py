"""How a plugin says what it offers: the decorators, the reference types, and the specs read from signatures.

A function's typed signature is its contract: `check`, `schema`, the docs and other frameworks use nothing else.
Everything that can be checked is checked here, when a plugin is read, and the error names the plugin, the
function and the offending parameter. It imports no plugin (the registry does) and runs no function.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, overload

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from gristmill._context import Context
from gristmill._errors import PluginError
from gristmill._language._types import CoercionError, Type, coerce, shorten, type_of
from gristmill._models import Embedder, Model, VectorStore
from gristmill._values import Value

PLUGIN_API = 1
"""A plugin may declare `plugin_api = N`; another number than this is refused."""

RefKind = Literal["model", "embedder", "store", "recipe", "function", "collection", "adapter", "model_file", "tools"]


@dataclass(frozen=True, slots=True)
class Ref:
    """Marks a text parameter as a name that `check` resolves, `lock` pins and `schema` completes."""

    kind: RefKind


ModelRef = Annotated[str, Ref("model")]
EmbedderRef = Annotated[str, Ref("embedder")]
StoreRef = Annotated[str, Ref("store")]
RecipeRef = Annotated[str, Ref("recipe")]
FunctionRef = Annotated[str, Ref("function")]
CollectionRef = Annotated[str, Ref("collection")]
AdapterRef = Annotated[str, Ref("adapter")]
ModelFile = Annotated[str, Ref("model_file")]
"""A model file: a bundled name, a path (relative to the recipe), or `hf:owner/repo/file.gguf`."""
ToolList = Annotated[list[dict[str, Any]], Ref("tools")]
"""What an agent may call, as `tools:` of a recipe lists it; `Context.tools` makes it callable."""

REQUIRED: Any = inspect.Parameter.empty
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class _Mark:
    role: Literal["function", "provider"]
    name: str | None
    pure: bool
    version: str
    writes: bool


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument of a function or provider. `default` is REQUIRED when it has none."""

    name: str
    type: Type
    default: Any
    description: str
    ref: RefKind | None
    constraints: TypeAdapter[Any] | None = None
    """Set when the annotation holds a `pydantic.Field` with limits, such as `Field(ge=1)`."""

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    def accept(self, value: Any) -> Any:
        """Return the value as the parameter takes it.

        Raises:
            CoercionError: it is of another type, or outside its limits.
        """
        value = coerce(value, self.type)
        if self.constraints is not None:
            try:
                self.constraints.validate_python(value)
            except ValidationError as error:
                message = error.errors(include_url=False)[0]["msg"]
                raise CoercionError(f"{message[:1].lower()}{message[1:]}, this is {shorten(value)}") from error
        return value


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """A plugin's function, as recipes see it. `name` is "plugin.function"."""

    name: str
    summary: str
    parameters: Mapping[str, Parameter]
    returns: Type
    return_annotation: Any
    call: Callable[..., Any]
    is_async: bool
    context_parameter: str | None
    pure: bool
    version: str
    writes: bool


@dataclass(frozen=True, slots=True)
class ProviderSpec:
    """Something that makes a model, an embedder or a store from a declaration under `models:`."""

    name: str
    summary: str
    parameters: Mapping[str, Parameter]
    makes: Literal["model", "embedder", "store"]
    call: Callable[..., Any]


@dataclass(frozen=True, slots=True)
class PluginSpec:
    """All that one plugin offers."""

    name: str
    summary: str
    distribution: str
    functions: Mapping[str, FunctionSpec]
    providers: Mapping[str, ProviderSpec]
    plugin: Any
    """The plugin itself. It may have `doctor() -> list[DoctorLine]`, for `gristmill doctor`."""


class DoctorLine(Value):
    """One thing that `gristmill doctor` found. `mend` is the command, or the step, that puts it right."""

    status: Literal["ok", "note", "bad"]
    what: str
    detail: str
    mend: str = ""


@overload
def function(func: F) -> F: ...
@overload
def function(
    *, pure: bool = False, version: str = "1", writes: bool = False, name: str | None = None
) -> Callable[[F], F]: ...
def function(
    func: F | None = None, *, pure: bool = False, version: str = "1", writes: bool = False, name: str | None = None
) -> F | Callable[[F], F]:
    """Offer a method or function to recipes as `plugin.name`.

    An `async def` runs on the kernel's event loop and must not block; a `def` runs in a worker thread.

    Args:
        pure: the result depends on the arguments alone, so the kernel may cache it.
        version: part of the cache key; raise it when the same arguments give another result.
        writes: it has an effect outside the run, so a step that uses it is never "unused" and never cached.
        name: what recipes call it; the Python name by default.
    """

    def mark(target: F) -> F:
        target.__gristmill__ = _Mark("function", name, pure and not writes, version, writes)  # type: ignore[attr-defined]
        return target

    return mark if func is None else mark(func)


@overload
def model_provider(func: F) -> F: ...
@overload
def model_provider(*, name: str | None = None) -> Callable[[F], F]: ...
def model_provider(func: F | None = None, *, name: str | None = None) -> F | Callable[[F], F]:
    """Offer a method that makes a Model, an Embedder or a VectorStore to the `models:` of recipes.

    A provider named like its plugin is `use: plugin`; any other is `use: plugin.provider`. It is called with the
    declaration's arguments when a run first needs it, and must be cheap: weights load at the first call.
    """

    def mark(target: F) -> F:
        target.__gristmill__ = _Mark("provider", name, False, "1", False)  # type: ignore[attr-defined]
        return target

    return mark if func is None else mark(func)


def read_plugin(name: str, source: Any, distribution: str) -> PluginSpec:
    """Return the spec of a plugin: a class (made without arguments), an instance, or a module.

    Raises:
        PluginError: it breaks a rule of the plugin API; the message names the function and the parameter.
    """
    plugin = source() if isinstance(source, type) else source
    wanted = getattr(plugin, "plugin_api", PLUGIN_API)
    if wanted != PLUGIN_API:
        raise PluginError(
            f"plugin {name!r} ({distribution}) is built for plugin API {wanted!r}; this gristmill has {PLUGIN_API}",
            hint="install the release of the plugin, or of gristmill, that matches",
        )
    functions: dict[str, FunctionSpec] = {}
    providers: dict[str, ProviderSpec] = {}
    for attribute in sorted(dir(plugin)):
        member = inspect.getattr_static(plugin, attribute, None)
        mark = getattr(getattr(member, "__func__", member), "__gristmill__", None)
        if not isinstance(mark, _Mark):
            continue
        bound, short = getattr(plugin, attribute), mark.name or attribute
        full = name if mark.role == "provider" and short == name else f"{name}.{short}"
        if mark.role == "function":
            functions[full] = _read_function(full, bound, mark, distribution)
        else:
            providers[full] = _read_provider(full, bound, distribution)
    if not functions and not providers:
        raise PluginError(
            f"plugin {name!r} ({distribution}) offers nothing",
            hint="mark its methods with @gristmill.function or @gristmill.model_provider",
        )
    return PluginSpec(name, _summary(plugin), distribution, functions, providers, plugin)


def _summary(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").strip().split("\n", 1)[0]


def _read_function(name: str, call: Callable[..., Any], mark: _Mark, distribution: str) -> FunctionSpec:
    parameters, hints, context_parameter = _read_signature(name, call, distribution)
    if "return" not in hints:
        raise PluginError(
            f"{name} ({distribution}): the return type is missing",
            hint="recipes are checked against it: annotate it",
        )
    if not _summary(call):
        raise PluginError(f"{name} ({distribution}): the one-line docstring is missing", hint="it is the user's help")
    return FunctionSpec(
        name=name,
        summary=_summary(call),
        parameters=parameters,
        returns=type_of(hints["return"]),
        return_annotation=hints["return"],
        call=call,
        is_async=inspect.iscoroutinefunction(call),
        context_parameter=context_parameter,
        pure=mark.pure,
        version=mark.version,
        writes=mark.writes,
    )


def _read_provider(name: str, call: Callable[..., Any], distribution: str) -> ProviderSpec:
    parameters, hints, context_parameter = _read_signature(name, call, distribution)
    made = hints.get("return")
    kinds: dict[Any, Literal["model", "embedder", "store"]] = {Embedder: "embedder", VectorStore: "store"}
    if isinstance(made, type) and issubclass(made, Model):
        makes: Literal["model", "embedder", "store"] = "model"
    elif made in kinds:
        makes = kinds[made]
    else:
        raise PluginError(
            f"{name} ({distribution}): a provider returns Model, Embedder or VectorStore, not {made!r}",
            hint="annotate its return type with one of them",
        )
    if context_parameter:
        raise PluginError(f"{name} ({distribution}): a provider takes no Context, there is no run when it is called")
    return ProviderSpec(name, _summary(call), parameters, makes, call)


def _read_signature(
    name: str, call: Callable[..., Any], distribution: str
) -> tuple[dict[str, Parameter], dict[str, Any], str | None]:
    try:
        hints = _hints(call)
    except Exception as error:
        raise PluginError(f"{name} ({distribution}): its annotations cannot be read: {error}") from error
    parameters: dict[str, Parameter] = {}
    context_parameter = None
    for parameter in inspect.signature(call).parameters.values():
        where = f"{name} ({distribution}): parameter {parameter.name!r}"
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise PluginError(f"{where} cannot be named in a recipe", hint="no *args, no **kwargs, no positional-only")
        if parameter.name not in hints:
            raise PluginError(f"{where} has no type", hint="recipes are checked against it: annotate it")
        if hints[parameter.name] is Context:
            context_parameter = parameter.name
            continue
        parameters[parameter.name] = _read_parameter(parameter, hints[parameter.name])
    return parameters, hints, context_parameter


def _hints(call: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations; `Model` and the like may have been imported for type checkers only."""
    try:
        return typing.get_type_hints(call, include_extras=True)
    except NameError:
        known = {"Context": Context, "Embedder": Embedder, "Model": Model, "VectorStore": VectorStore}
        return typing.get_type_hints(call, localns=known, include_extras=True)


def _read_parameter(parameter: inspect.Parameter, annotation: Any) -> Parameter:
    ref: RefKind | None = None
    description, constrained = "", False
    for extra in _annotated_extras(annotation):
        if isinstance(extra, Ref):
            ref = extra.kind
        elif isinstance(extra, str):
            description = extra
        elif isinstance(extra, FieldInfo):
            description, constrained = extra.description or description, constrained or bool(extra.metadata)
    adapter = TypeAdapter(annotation) if constrained else None
    return Parameter(parameter.name, type_of(annotation), parameter.default, description, ref, adapter)


def _annotated_extras(annotation: Any) -> list[Any]:
    """Return the metadata of `Annotated`, also where it sits inside `X | None`."""
    if typing.get_origin(annotation) is Annotated:
        base, *extras = typing.get_args(annotation)
        return [*_annotated_extras(base), *extras]
    return [extra for argument in typing.get_args(annotation) for extra in _annotated_extras(argument)]
