"""Checks a step with `prompt` or `messages`: its conversation, its sampling and what the answer must be.

Invariant: a request without a problem says nothing that its model would ignore.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from gristmill._language._check_models import ModelNames
from gristmill._language._inference import Scope
from gristmill._language._recipe import Constant, Data, Generation, Splice, Step, Turn
from gristmill._language._step_keys import KEYS, MESSAGES, SAMPLING
from gristmill._language._types import CHOICE, COMPLETION, Type, list_of, shorten, type_of_schema
from gristmill._language._yaml import ListNode, MapNode, Node, Scalar
from gristmill._models import Sampling
from gristmill.schemas.jsonschema import read_schema

if TYPE_CHECKING:
    from gristmill._language._check_steps import StepChecker


class GenerationChecker:
    """Checks a step that asks a model."""

    def __init__(self, steps: StepChecker, step: Step, node: MapNode) -> None:
        self.owner, self.recipe = steps.owner, steps.recipe
        self.step, self.node = step, node
        self.models = ModelNames(steps, step, node)

    def check(self, scope: Scope) -> Type:
        model = self._generation_model()
        schema = self.schema()
        self.models.check_adapters(scope, model)
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
        return self.type_of_result(schema)

    def type_of_result(self, schema: dict[str, Any] | None) -> Type:
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
            if only := self.models.only_model():
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
        self.models.check_declared(str(name), node, "model")
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

    def schema(self) -> dict[str, Any] | None:
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


def _descend(node: Node, path: tuple[str | int, ...]) -> Node:
    """Return the node at a path, or the deepest there is on the way (a short form has other paths)."""
    for part in path:
        if isinstance(node, MapNode) and isinstance(part, str) and part in node.entries:
            node = node.entries[part][1]
        elif isinstance(node, ListNode) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
    return node
