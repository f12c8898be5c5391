"""Checks the steps of a recipe: their keys, what they wait for, their types, and what they call.

`KEYS` is the one table of a step's keys; `schema` is written from it too. Steps are parsed in the order of the file
and typed in the order of their dependencies. Invariant: after `run`, every Step is complete or an error was reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import ValidationError

from gristmill._errors import PluginError, UsageError, nearest, suggest
from gristmill._language._check_nested import nested_references
from gristmill._language._check_order import order_collections
from gristmill._language._check_tools import ToolChecker
from gristmill._language._diagnostics import shorten_path
from gristmill._language._inference import Scope, narrowed_by
from gristmill._language._recipe import (
    Constant,
    Data,
    Expression,
    FunctionCall,
    Generation,
    OnError,
    Recipe,
    RecipeCall,
    Retry,
    Splice,
    Step,
    Turn,
    digest_of,
)
from gristmill._language._types import (
    ANY,
    BOOLEAN,
    CHOICE,
    COMPLETION,
    INTEGER,
    NUMBER,
    STRING,
    CoercionError,
    Type,
    list_of,
    shorten,
    type_of,
    type_of_schema,
    union,
)
from gristmill._language._yaml import ListNode, MapNode, Node, Scalar
from gristmill._models import Sampling
from gristmill._plugins import FunctionSpec, Parameter, RefKind
from gristmill._values import Message
from gristmill.schemas.jsonschema import read_schema

if TYPE_CHECKING:
    from gristmill._language._check import _RecipeChecker

Work = Literal["use", "generate", "recipe"]
ALL_WORK: tuple[Work, ...] = ("use", "generate", "recipe")
MARKS: Mapping[str, Work] = {"use": "use", "recipe": "recipe", "prompt": "generate", "messages": "generate"}
"""The key that says what a step does, and the kind of work it is."""

MESSAGES = list_of(type_of(Message))
EXAMPLES = list_of(Type("record", fields={"input": STRING, "output": STRING}))
ADAPTERS = union(STRING, list_of(STRING), Type("map", item=NUMBER)).or_null()
SAMPLING: Mapping[str, Type] = {
    name: type_of(info.annotation) for name, info in Sampling.model_fields.items() if name != "stop"
} | {"stop": union(STRING, list_of(STRING))}


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a step: in which kinds of step, what it holds, and one line of help."""

    work: tuple[Work, ...]
    type: Type
    help: str
    expressions: bool = True


_GENERATE: tuple[Work, ...] = ("generate",)
KEYS: Mapping[str, Key] = {
    "use": Key(("use",), STRING, "The plugin function to call: plugin.function.", expressions=False),
    "recipe": Key(("recipe",), STRING, "Another recipe to run: a name, or a path below this file.", expressions=False),
    "with": Key(("use", "recipe"), Type("map", item=ANY), "The arguments."),
    "prompt": Key(_GENERATE, STRING, "The user's message to the model."),
    "messages": Key(_GENERATE, MESSAGES, "The whole conversation: role and content, or a list to splice in."),
    "system": Key(_GENERATE, STRING, "The system message."),
    "examples": Key(_GENERATE, EXAMPLES, "Few-shot pairs of input and output, shown as earlier turns."),
    "model": Key(("use", "generate"), STRING, "A model of this recipe; the only one by default.", expressions=False),
    "adapters": Key(("use", "generate"), ADAPTERS, "LoRA adapters: a name, a list, or name to scale."),
    "samples": Key(_GENERATE, INTEGER, "How many answers to draw; the result is then a list."),
    "seed": Key(_GENERATE, INTEGER, "Seed of the first sample; sample i uses seed + i."),
    "choices": Key(_GENERATE, list_of(STRING), "Pick one of these by the model's log-probabilities."),
    "calibrate": Key(_GENERATE, BOOLEAN, "Weigh choices against their probability for the prompt N/A."),
    "schema": Key(_GENERATE, Type("map", item=ANY), "JSON Schema, or {field: type}, that the answer must satisfy.",
                  expressions=False),
    "top_logprobs": Key(_GENERATE, INTEGER, "Return log-probabilities, with this many alternatives."),
    **{name: Key(_GENERATE, kind, Sampling.model_fields[name].description or "") for name, kind in SAMPLING.items()},
    "if": Key(ALL_WORK, BOOLEAN, "Run only when true; a skipped step is null."),
    "for_each": Key(ALL_WORK, list_of(ANY), "Run once for each item; results in the same order."),
    "as": Key(ALL_WORK, STRING, "What the item is called; `item` by default.", expressions=False),
    "concurrency": Key(ALL_WORK, INTEGER, "How many items run at once.", expressions=False),
    "repeat": Key(ALL_WORK, Type("record", fields={"until": BOOLEAN, "max": INTEGER}), "Run until true, at most max."),
    "retry": Key(ALL_WORK, Type("record", fields={"attempts": INTEGER, "backoff_s": NUMBER}), "Try again on failure.",
                 expressions=False),
    "timeout_s": Key(ALL_WORK, NUMBER, "Seconds before the step fails; per item with for_each.", expressions=False),
    "on_error": Key(ALL_WORK, ANY, "fail, skip, or {value: ...}."),
    "needs": Key(ALL_WORK, union(STRING, list_of(STRING)), "Steps to wait for though nothing is read from them.",
                 expressions=False),
    "cache": Key(ALL_WORK, union(Type("string", literals=("auto", "off", "refresh")),
                                 Type("record", fields={"semantic": NUMBER})),
                 "Use the prompt cache, or not; {semantic: 0.97} also for a prompt that means the same.",
                 expressions=False),
}  # fmt: skip


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
            self._read_flow(self.recipe.steps[name], self.nodes[name])
        for name in self.nodes:
            self._find_references(self.recipe.steps[name], self.nodes[name])
        self.names |= dict.fromkeys(node.entries, ANY)
        for name in self._in_order():
            if self.owner.document.is_full:
                return
            step = self.recipe.steps[name]
            if step.until is not None:
                del self.names[name]
            _StepTyper(self, step, self.nodes[name], self.work[name]).run()
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

    def _read_flow(self, step: Step, node: MapNode) -> None:
        """Read what stands around the work: conditions, loops, retries, order."""
        flow = _Flow(self.owner, step, node)
        flow.read(self.recipe.steps)

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


class _Flow:
    """Reads the keys that every kind of step has."""

    def __init__(self, owner: _RecipeChecker, step: Step, node: MapNode) -> None:
        self.owner = owner
        self.step = step
        self.node = node

    def read(self, steps: Mapping[str, Step]) -> None:
        step = self.step
        for key, target in (("if", "condition"), ("for_each", "for_each"), ("adapters", "adapters")):
            if (node := self.node.get(key)) is not None:
                setattr(step, target, self.owner.data(node))
        self._item_name(steps)
        if step.condition is not None and step.for_each is not None:
            step.condition_per_item = bool({step.item_name, "loop"} & step.condition.references)
        self._repeat()
        step.needs = self._needs(steps)
        step.concurrency = self._number("concurrency", whole=True)
        step.timeout_s = self._number("timeout_s", whole=False)
        step.retry = self._retry()
        step.on_error = self._on_error()
        step.cache = self._cache()

    def _item_name(self, steps: Mapping[str, Step]) -> None:
        for key in ("as", "concurrency"):
            if key in self.node.entries and "for_each" not in self.node.entries:
                self.owner.report(self.node.key(key), f"{key!r} means nothing without `for_each`", code="step")
        node = self.node.get("as")
        if node is None and "item" in steps and "for_each" in self.node.entries:
            hint = "give the loop's item another name with `as`"
            self.owner.report(self.node.key("for_each"), "'item' names a step already", hint=hint, code="name")
        if isinstance(node, Scalar) and self.owner.name_is_free(node, "an item", steps):
            self.step.item_name = node.text
        elif node is not None and not isinstance(node, Scalar):
            self.owner.report(node, "`as` is a name")

    def _repeat(self) -> None:
        node = self.node.get("repeat")
        if node is None:
            return
        if not isinstance(node, MapNode):
            self.owner.report(node, "repeat is a mapping", hint="{until: '${...}', max: 3}")
            return
        self.owner.unknown_keys(node, ("until", "max"), "repeat")
        for key in ("until", "max"):
            if key not in node.entries:
                self.owner.report(self.node.key("repeat"), f"repeat needs {key!r}", code="missing")
        if (until := node.get("until")) is not None:
            self.step.until = self.owner.data(until)
        if (most := node.get("max")) is not None:
            value = self.owner.literal(most)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                self.owner.report(most, f"max is a whole number from 1, this is {shorten(value)}", code="type")
            else:
                self.step.most_turns = value

    def _needs(self, steps: Mapping[str, Step]) -> tuple[str, ...]:
        node = self.node.get("needs")
        if node is None:
            return ()
        names = []
        for item in node.items if isinstance(node, ListNode) else [node]:
            name = self.owner.literal(item)
            if name not in steps:
                self.owner.report(item, f"{shorten(name)} is not a step", hint=suggest(str(name), steps), code="name")
            elif name == self.step.name:
                self.owner.report(item, f"step {name!r} needs itself", code="cycle")
            else:
                names.append(str(name))
        return tuple(names)

    def _number(self, key: str, *, whole: bool) -> Any:
        node = self.node.get(key)
        if node is None:
            return None
        value = self.owner.literal(node)
        if isinstance(value, int if whole else int | float) and not isinstance(value, bool) and value > 0:
            return value
        what = "a whole number" if whole else "a number"
        self.owner.report(node, f"{key} is {what} above 0, this is {shorten(value)}", code="type")
        return None

    def _retry(self) -> Retry:
        node = self.node.get("retry")
        if node is None:
            return Retry()
        value = self.owner.literal(node)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            return Retry(attempts=value)
        if not isinstance(node, MapNode):
            self.owner.report(node, "retry is a mapping", hint="{attempts: 3, backoff_s: 1}")
            return Retry()
        self.owner.unknown_keys(node, ("attempts", "backoff_s"), "retry")
        attempts, backoff = value.get("attempts", 2), value.get("backoff_s", 0)
        if not isinstance(attempts, int) or isinstance(attempts, bool) or attempts < 1:
            at = node.get("attempts") or node
            self.owner.report(at, f"attempts is a whole number from 1, this is {shorten(attempts)}", code="type")
            attempts = 1
        if not isinstance(backoff, int | float) or isinstance(backoff, bool) or backoff < 0:
            at = node.get("backoff_s") or node
            self.owner.report(at, f"backoff_s is a number of seconds, this is {shorten(backoff)}", code="type")
            backoff = 0
        return Retry(attempts, float(backoff))

    def _on_error(self) -> OnError:
        node = self.node.get("on_error")
        if node is None:
            return OnError()
        if isinstance(node, MapNode) and tuple(node.entries) == ("value",):
            return OnError("value", self.owner.data(node.entries["value"][1]))
        value = self.owner.literal(node)
        if value in ("fail", "skip"):
            return OnError(value)
        hint = "for a null write `skip`" if value is None else "write fail, skip, or {value: ...}"
        self.owner.report(node, f"on_error cannot be {shorten(value)}", hint=hint, code="type")
        return OnError()

    def _cache(self) -> Literal["auto", "off", "refresh"]:
        node = self.node.get("cache")
        if node is None:
            return "auto"
        if isinstance(node, Scalar):  # `off` is unmistakable here, whatever YAML 1.1 makes of it
            self.owner.document.ambiguous.pop(node.start, None)
        value = self.owner.literal(node)
        if isinstance(node, MapNode):
            self._semantic(node, value)
        elif value in ("auto", "off", "refresh"):
            return cast(Literal["auto", "off", "refresh"], value)
        else:
            hint = "write auto, off, refresh, or {semantic: 0.97}"
            self.owner.report(node, f"cache cannot be {shorten(value)}", hint=hint, code="type")
        return "auto"

    def _semantic(self, node: MapNode, value: Any) -> None:
        """Read `cache: {semantic: 0.97}`, which only a prompt without choices can have."""
        self.owner.unknown_keys(node, ("semantic",), "`cache`")
        threshold = value.get("semantic") if isinstance(value, Mapping) else None
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0.5 <= threshold <= 1:
            hint = "0.97 is careful, 0.85 finds more"
            told = f"semantic is a cosine from 0.5 to 1, this is {shorten(threshold)}"
            self.owner.report(node.get("semantic") or node, told, hint=hint, code="type")
        elif not {"prompt", "messages"} & self.node.entries.keys() or "choices" in self.node.entries:
            told = "only a prompt without `choices` can be answered by meaning"
            self.owner.report(node, told, hint="write cache: auto", code="type")
        else:
            self.step.semantic = float(threshold)


class _StepTyper:
    """Checks what one step does against what it calls, and finds the type of its result."""

    def __init__(self, steps: StepChecker, step: Step, node: MapNode, work: Work) -> None:
        self.steps = steps
        self.owner = steps.owner
        self.recipe = steps.recipe
        self.step = step
        self.node = node
        self.work = work

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
            return self._generation_type(self._schema())
        if self.work == "use":
            function = self._function(quiet=True)
            return function.returns if function else ANY
        return ANY

    def _check_work(self, scope: Scope) -> Type:
        if self.work == "use":
            return self._check_function(scope)
        return self._check_generation(scope) if self.work == "generate" else self._check_recipe(scope)

    # use

    def _function(self, *, quiet: bool = False) -> FunctionSpec | None:
        node = self.node.entries["use"][1]
        before = len(self.owner.document.diagnostics)
        name = self.owner.literal(node)
        try:
            return self.owner.registry.function(str(name))
        except PluginError as error:
            self.owner.report(node, error.message, hint=error.hint or "", code="unknown-function")
            return None
        finally:
            if quiet:
                del self.owner.document.diagnostics[before:]

    def _check_function(self, scope: Scope) -> Type:
        function = self._function()
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
        self._adapters(scope, str(model.value) if isinstance(model, Constant) else None)
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
                self.owner, scope, argument=self._argument, recipe=self._sub_recipe, only_model=self._only_model()
            )
            checker.run(node)
        elif parameter.ref and isinstance(data, Constant) and isinstance(data.value, str):
            self._check_reference(parameter.ref, data.value, node)
        for kind, name, place in nested_references(parameter.type, node):
            self._check_reference(kind, name, place)
        return data

    def _check_reference(self, kind: RefKind, name: str, node: Node) -> None:
        registry = self.owner.registry
        if kind in ("model", "embedder", "store"):
            self._check_declared(name, node, kind)
        elif kind == "function":
            try:
                registry.function(name)
            except PluginError as error:
                self.owner.report(node, error.message, hint=error.hint or "", code="unknown-function")
        elif kind == "recipe":
            self._sub_recipe(name, node)
        elif kind == "adapter":
            known = {adapter for model in self.recipe.models.values() for adapter in model.adapters}
            if name not in known:
                self.owner.report(
                    node, f"{name!r} is no adapter of a model here", hint=suggest(name, known), code="name"
                )

    def _check_declared(self, name: str, node: Node, kind: str) -> None:
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
            self._check_declared(str(name), node, "model")
            arguments["model"] = Constant(str(name), node)
        elif "model" not in arguments and (only := self._only_model()):
            arguments["model"] = Constant(only, None)

    def _only_model(self) -> str | None:
        names = [model.name for model in self.recipe.models.values() if model.provider.makes == "model"]
        return names[0] if len(names) == 1 else None

    # generate

    def _check_generation(self, scope: Scope) -> Type:
        model = self._generation_model()
        schema = self._schema()
        self._adapters(scope, model)
        keys = ("examples", "samples", "choices", "calibrate", "top_logprobs", "seed")
        parts = {key: self._field(key, scope) for key in keys}
        sampling = {key: data for key in SAMPLING if (data := self._field(key, scope)) is not None}
        self._check_combination()
        self.step.work = Generation(
            model=model or "",
            messages=self._messages(scope),
            examples=parts["examples"],
            sampling=sampling,
            seed=parts["seed"] or Constant(0),
            samples=parts["samples"],
            choices=parts["choices"],
            json_schema=schema,
            top_logprobs=parts["top_logprobs"],
            calibrate=parts["calibrate"],
        )
        return self._generation_type(schema)

    def _generation_type(self, schema: dict[str, Any] | None) -> Type:
        if "choices" in self.node.entries:
            return CHOICE
        result = COMPLETION
        if schema is not None:
            fields = {**COMPLETION.fields, "value": type_of_schema(schema)}
            result = Type("record", "Completion", fields=fields, has_text=True, python=COMPLETION.python)
        return list_of(result) if "samples" in self.node.entries else result

    def _generation_model(self) -> str | None:
        node = self.node.get("model")
        if node is None:
            if only := self._only_model():
                return only
            names = [model.name for model in self.recipe.models.values()]
            root = self.owner.document.root
            if names or not (isinstance(root, MapNode) and "models" in root.entries):
                hint = (
                    f"add model: {names[0]}" if names else "declare one: models: {main: {use: llama, model: smollm2}}"
                )
                self.owner.report(self.step.node, f"step {self.step.name!r} has no model", hint=hint, code="missing")
            return None
        name = self.owner.literal(node)
        self._check_declared(str(name), node, "model")
        return str(name)

    def _field(self, key: str, scope: Scope) -> Data | None:
        node = self.node.get(key)
        if node is None:
            return None
        data = self.owner.data(node)
        before = len(self.owner.document.diagnostics)
        self.owner.fits(node, data, KEYS[key].type, scope, key)
        if isinstance(data, Constant) and len(self.owner.document.diagnostics) == before:
            self._check_literal(key, data.value, node)
        return data

    def _check_literal(self, key: str, value: Any, node: Node) -> None:
        """Check a literal's range, where a type cannot say it."""
        if key in SAMPLING:
            try:
                Sampling.model_validate({key: value})
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                message = first["msg"].removeprefix("Value error, ")
                self.owner.report(
                    node, f"{key}: {message[:1].lower()}{message[1:]}, this is {shorten(value)}", code="range"
                )
        elif key == "samples" and not 1 <= value <= 10_000:
            self.owner.report(node, f"samples is from 1 to 10,000, this is {value}", code="range")
        elif key == "top_logprobs" and not 0 <= value <= 64:
            self.owner.report(node, f"top_logprobs is from 0 to 64, this is {value}", code="range")
        elif key == "choices" and (len(value) < 2 or len(set(value)) < len(value) or "" in value):
            self.owner.report(node, "choices are at least two different texts, none of them empty", code="range")

    def _check_combination(self) -> None:
        entries = self.node.entries
        for one, other in (("choices", "schema"), ("choices", "samples"), ("choices", "top_logprobs")):
            if one in entries and other in entries:
                self.owner.report(self.node.key(other), f"{other!r} means nothing beside {one!r}", hint="delete one")
        if "choices" in entries:
            for key in SAMPLING:
                if key in entries:
                    message = f"{key!r} means nothing beside 'choices': nothing is sampled"
                    self.owner.report(self.node.key(key), message, hint="delete it")
        elif "calibrate" in entries:
            self.owner.report(
                self.node.key("calibrate"), "'calibrate' means nothing without 'choices'", hint="delete it"
            )
        if "messages" in entries and "system" in entries:
            self.owner.report(self.node.key("system"), "'system' goes with `prompt`", hint="make it the first message")
        samples, temperature = self.node.get("samples"), self.node.get("temperature")
        greedy = temperature is None or (isinstance(temperature, Scalar) and temperature.value == 0)
        if isinstance(samples, Scalar) and samples.value != 1 and greedy:
            self.owner.report(
                self.node.key("samples"), "all samples are equal at temperature 0", hint="add temperature: 0.7",
                code="samples", warning=True,
            )  # fmt: skip

    def _schema(self) -> dict[str, Any] | None:
        node = self.node.get("schema")
        if node is None:
            return None
        before = len(self.owner.document.diagnostics)
        value = self.owner.literal(node)
        if not isinstance(value, dict) or not value:
            if not any(d.message.startswith("schema is") for d in self.owner.document.diagnostics):
                self.owner.report(node, "schema is a JSON Schema, or {field: type}", hint="schema: {answer: string}")
            return None
        if len(self.owner.document.diagnostics) > before:
            return None
        schema, found = read_schema(value)
        for problem in found:
            self.owner.report(_descend(node, problem.path), f"schema: {problem.message}", code="schema")
        return schema

    def _messages(self, scope: Scope) -> tuple[Turn | Splice, ...]:
        turns: list[Turn | Splice] = []
        if (system := self.node.get("system")) is not None:
            turns.append(Turn("system", self._content(system, scope, "system")))
        if (prompt := self.node.get("prompt")) is not None:
            turns.append(Turn("user", self._content(prompt, scope, "prompt")))
        messages = self.node.get("messages")
        if messages is None:
            return tuple(turns)
        if isinstance(messages, Scalar):
            return (*turns, self._splice(messages, scope))
        if not isinstance(messages, ListNode) or not messages.items:
            self.owner.report(messages, "messages is a list of {role, content}")
            return tuple(turns)
        return (*turns, *(turn for item in messages.items if (turn := self._message(item, scope))))

    def _content(self, node: Node, scope: Scope, what: str) -> Data:
        if not isinstance(node, Scalar) or node.value is None or not node.text.strip():
            self.owner.report(node, f"{what} is text", hint="write `|` and put it on the next lines", code="type")
            return Constant("")
        data = self.owner.data(node, as_text=True)
        self.owner.infer(data, scope)
        return data

    def _splice(self, node: Scalar, scope: Scope) -> Splice:
        data = self.owner.data(node)
        self.owner.fits(node, data, MESSAGES, scope, "messages")
        return Splice(data)

    def _message(self, node: Node, scope: Scope) -> Turn | Splice | None:
        if isinstance(node, Scalar):
            return self._splice(node, scope)
        if not isinstance(node, MapNode):
            self.owner.report(node, "a message is {role, content}, or an expression that gives a list of them")
            return None
        self.owner.unknown_keys(node, ("role", "content"), "a message")
        role_node, content = node.get("role"), node.get("content")
        if role_node is None or content is None:
            self.owner.report(node, "a message needs `role` and `content`", code="missing")
            return None
        role = self.owner.literal(role_node)
        if role not in ("system", "user", "assistant"):
            self.owner.report(role_node, f"{shorten(role)} is no role", hint="system, user or assistant", code="type")
            return None
        return Turn(role, self._content(content, scope, "content"))

    def _adapters(self, scope: Scope, model: str | None) -> None:
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

    # recipe

    def _check_recipe(self, scope: Scope) -> Type:
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


def _descend(node: Node, path: tuple[str | int, ...]) -> Node:
    """Return the node at a path, or the deepest there is on the way (a short form has other paths)."""
    for part in path:
        if isinstance(node, MapNode) and isinstance(part, str) and part in node.entries:
            node = node.entries[part][1]
        elif isinstance(node, ListNode) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
    return node
