"""Reads what stands around a step's work: its condition, loops, retries, limits, order and cache.

It infers no types; expressions are kept for `_check_work`. Invariant: what is wrong is reported, and the step keeps the
default of that key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

from gristmill._errors import suggest
from gristmill._language._recipe import OnError, Retry, Step
from gristmill._language._types import shorten
from gristmill._language._yaml import ListNode, MapNode, Scalar

if TYPE_CHECKING:
    from gristmill._language._check import _RecipeChecker


class FlowReader:
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
