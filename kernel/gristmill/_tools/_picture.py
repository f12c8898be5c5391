"""What there is to draw of a checked recipe: boxes for inputs, steps and the output, and what each waits for.

It draws nothing (see `_graph` and `_graph_svg`) and runs nothing. Invariants: each input, step and the output is one
box, in an order in which each comes after those it waits for; every text is one short line of printable characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from jinja2 import nodes

from gristmill._language._expressions import Template
from gristmill._language._filters import to_json
from gristmill._language._recipe import (
    Constant,
    Data,
    Expression,
    FunctionCall,
    Generation,
    Input,
    ListData,
    MapData,
    Recipe,
    RecipeCall,
    Splice,
    Step,
)

Kind = Literal["input", "prompt", "function", "recipe", "output"]

OUTPUT = "$output"
"""The output's key; a step may be called `output`, none can be called this."""


@dataclass(frozen=True, slots=True)
class Box:
    """One node: what it is called, what it does, and what stands around that."""

    key: str
    kind: Kind
    title: str
    detail: str = ""
    marks: tuple[str, ...] = ()
    optional: bool = False
    """It may be skipped."""


@dataclass(frozen=True, slots=True)
class Picture:
    """Boxes in an order in which each comes after those it waits for; edges map (from, to) to "order only"."""

    boxes: dict[str, Box]
    edges: dict[tuple[str, str], bool]

    def sources(self, key: str) -> dict[str, bool]:
        return {source: order_only for (source, target), order_only in self.edges.items() if target == key}


def picture_of(recipe: Recipe) -> Picture:
    """Return what there is to draw."""
    edges: dict[tuple[str, str], bool] = {}
    for step in recipe.steps.values():
        inputs = _inputs_read(_data_of(step), recipe)
        edges |= {(source, step.name): False for source in (*inputs, *sorted(step.references))}
        for name in step.needs:
            edges.setdefault((name, step.name), True)
    used = sorted(recipe.output.references & recipe.steps.keys())
    edges |= {(source, OUTPUT): False for source in (*_inputs_read([recipe.output], recipe), *used)}
    boxes = {f"inputs.{declared.name}": _input_box(declared) for declared in recipe.inputs.values()}
    boxes |= {step.name: _step_box(step) for step in recipe.steps.values()}
    boxes[OUTPUT] = Box(OUTPUT, "output", "output", str(recipe.output_type))
    return Picture({key: boxes[key] for key in _in_order(recipe, edges)}, edges)


def _in_order(recipe: Recipe, edges: Iterable[tuple[str, str]]) -> list[str]:
    """Return the keys: steps in the file's order where their edges allow it, each input before its first reader."""
    before: dict[str, list[str]] = {name: [] for name in (*recipe.steps, OUTPUT)}
    for source, target in edges:
        before[target].append(source)
    order: dict[str, None] = {f"inputs.{name}": None for name in recipe.inputs}
    order = {key: None for key in order if not any(key in sources for sources in before.values())}
    for root in (*recipe.steps, OUTPUT):
        stack = [root]
        while stack:
            waiting = [source for source in before.get(stack[-1], ()) if source not in order]
            if waiting:
                stack += reversed(waiting)
            else:
                order.setdefault(stack.pop())
    return list(order)


def _input_box(declared: Input) -> Box:
    default = "" if declared.required else f" = {to_json(declared.default)}"
    return Box(f"inputs.{declared.name}", "input", declared.name, clean(f"{declared.type}{default}"))


def _step_box(step: Step) -> Box:
    work = step.work
    kind: Kind
    if isinstance(work, Generation):
        kind, detail = "prompt", f"prompt on {work.model or 'no model'}"
    elif isinstance(work, FunctionCall):
        model = work.arguments.get("model")
        on = f" on {model.value}" if isinstance(model, Constant) and work.function.parameters["model"].ref else ""
        kind, detail = "function", f"use {work.function.name}{on}"
    else:
        kind, detail = "recipe", f"recipe {work.recipe.name}" if isinstance(work, RecipeCall) else "nothing"
    optional = step.condition is not None
    return Box(step.name, kind, step.name, clean(detail), tuple(map(clean, _marks(step))), optional)


def _marks(step: Step) -> Iterator[str]:
    if step.condition is not None:
        yield f"if {_shown(step.condition)}"
    if step.for_each is not None:
        yield f"for each {step.item_name}"
    if step.until is not None:
        yield f"repeat up to {step.most_turns}"
    if isinstance(step.work, Generation):
        if isinstance(step.work.choices, Constant):
            yield f"{len(step.work.choices.value)} choices"
        elif step.work.choices is not None:
            yield "choices"
        if step.work.json_schema is not None:
            yield "schema"
        if step.work.samples is not None:
            yield f"{_shown(step.work.samples)} samples"
    if step.retry.attempts > 1:
        yield f"{step.retry.attempts} attempts"
    if step.timeout_s is not None:
        yield f"at most {step.timeout_s:g} s"
    if step.on_error.mode != "fail":
        yield "may fail"


def _shown(data: Data) -> str:
    if isinstance(data, Expression):
        return re.sub(r"^\$\{\s*(.*?)\s*\}$", r"\1", data.template.source.strip(), flags=re.DOTALL)
    return str(data.value) if isinstance(data, Constant) else "..."


def clean(text: str, most: int = 40) -> str:
    """Return one short line of printable characters: no control sequences, no text that changes direction."""
    line = "".join(char if char.isprintable() else "�" for char in " ".join(text.split()))
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def cells(text: str) -> int:
    """Return how many columns a text takes on a terminal."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else not unicodedata.combining(char) for char in text)


def _data_of(step: Step) -> list[Data | None]:
    work = step.work
    found = [step.condition, step.for_each, step.until, step.adapters, step.on_error.value]
    if isinstance(work, Generation):
        found += [part.data if isinstance(part, Splice) else part.content for part in work.messages]
        found += [work.examples, work.samples, work.choices, work.top_logprobs, work.seed, *work.sampling.values()]
    elif work is not None:
        found += work.arguments.values()
    return found


def _templates(data: Data | None) -> Iterator[Template]:
    if isinstance(data, Expression):
        yield data.template
    for part in (
        data.items if isinstance(data, ListData) else data.entries.values() if isinstance(data, MapData) else ()
    ):
        yield from _templates(part)


def _inputs_read(values: Iterable[Data | None], recipe: Recipe) -> list[str]:
    """Return the keys of the inputs that expressions read: `inputs.x` and `inputs["x"]`; a bare `inputs` is all."""
    read: set[str] = set()
    for node in (node for data in values for template in _templates(data) for node in template.body):
        members: list[nodes.Getattr | nodes.Getitem] = [*node.find_all(nodes.Getattr), *node.find_all(nodes.Getitem)]
        members = [member for member in members if _is_inputs(member.node)]
        names = {member.attr if isinstance(member, nodes.Getattr) else _constant(member.arg) for member in members}
        bare = sum(map(_is_inputs, node.find_all(nodes.Name))) > len(members)
        read |= set(recipe.inputs) if bare or None in names else names & recipe.inputs.keys()
    return [f"inputs.{name}" for name in recipe.inputs if name in read]


def _is_inputs(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Name) and node.name == "inputs"


def _constant(node: nodes.Node) -> Any:
    return node.value if isinstance(node, nodes.Const) else None
