"""The static types of expressions: what `check` knows before anything runs.

It walks the parsed Jinja tree with the types of the names in scope, and reports what cannot work: unknown names and
fields, values that may be null where they must not be, operators and filters on the wrong kind. It evaluates nothing.
Invariant: whatever it cannot know is "any" and passes; what it reports would fail, or could fail for a null, at run.

Nulls: a step with `if` or `on_error: skip` may be null. A read is allowed where the path was narrowed: by
`x if x`, `x is not none`, `x and x.y`, `not x or x.y`, `{% if x %}`, or by the reading step's own `if`.

It is long because it has a rule for each node that an expression may hold.
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from jinja2 import nodes

from gristmill._errors import nearest, suggest
from gristmill._language._expressions import Template
from gristmill._language._filters import FILTERS, LOOP, MAPPABLE, TESTS
from gristmill._language._types import (
    ANY,
    ANY_LIST,
    BOOLEAN,
    INTEGER,
    NULL,
    NUMBER,
    STRING,
    Type,
    fit,
    list_of,
    type_of_value,
    union,
)

Report = Callable[[int, int, str, str], None]
"""Called with the offsets in the template, the message and the hint."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The names an expression may read, with their types, and the paths known not to be null."""

    names: Mapping[str, Type]
    narrowed: frozenset[str] = frozenset()
    inputs: Mapping[str, Type] | None = None
    """The recipe's inputs, to say `inputs.x` when someone writes `x`."""

    def narrow(self, paths: frozenset[str]) -> Scope:
        return replace(self, narrowed=self.narrowed | paths) if paths else self

    def bind(self, names: Mapping[str, Type]) -> Scope:
        kept = frozenset(path for path in self.narrowed if _root(path) not in names)
        return replace(self, names=ChainMap(dict(names), self.names), narrowed=kept)  # type: ignore[arg-type]


def _root(path: str) -> str:
    return path.split(".", 1)[0]


def infer(template: Template, scope: Scope, report: Report) -> Type:
    """Return the type of a template's value: native for one expression, else text."""
    inference = _Inference(template.source, report)
    if template.is_expression:
        return inference.expression(template.expression, scope)
    inference.body(template.body, scope)
    return STRING


def infer_text(template: Template, scope: Scope, report: Report) -> None:
    """Check a template whose value is text, as in `prompt`: every part of it must have one."""
    _Inference(template.source, report).body(template.body, scope)


def narrowed_by(template: Template) -> frozenset[str]:
    """Return the paths that are not null where this condition holds."""
    return _narrowing(template.expression)[0] if template.is_expression else frozenset()


def _path(node: nodes.Node) -> str | None:
    """Return "a.b" for the expression a.b or a["b"], the only shapes that can be narrowed."""
    if isinstance(node, nodes.Name):
        return node.name
    key: Any = None
    if isinstance(node, nodes.Getattr):
        key = node.attr
    elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        key = node.arg.value
    else:
        return None
    base = _path(node.node)
    return f"{base}.{key}" if base is not None else None


def _narrowing(node: nodes.Node) -> tuple[frozenset[str], frozenset[str]]:
    """Return the paths that are not null when the condition is true, and when it is false."""
    nothing: frozenset[str] = frozenset()
    if path := _path(node):
        return _prefixes(path), nothing
    if isinstance(node, nodes.Not):
        true, false = _narrowing(node.node)
        return false, true
    if isinstance(node, nodes.And):
        left, right = _narrowing(node.left), _narrowing(node.right)
        return left[0] | right[0], left[1] & right[1]
    if isinstance(node, nodes.Or):
        left, right = _narrowing(node.left), _narrowing(node.right)
        return left[0] & right[0], left[1] | right[1]
    if isinstance(node, nodes.Test) and node.name == "none" and (path := _path(node.node)):
        return nothing, _prefixes(path)
    if isinstance(node, nodes.Compare) and len(node.ops) == 1:
        other = node.ops[0].expr
        path = _path(node.expr)
        is_null = isinstance(other, nodes.Const) and other.value is None
        if path and is_null and node.ops[0].op in ("eq", "ne"):
            return (_prefixes(path), nothing) if node.ops[0].op == "ne" else (nothing, _prefixes(path))
    return nothing, nothing


def _prefixes(path: str) -> frozenset[str]:
    parts = path.split(".")
    return frozenset(".".join(parts[: n + 1]) for n in range(len(parts)))


_MOST_PARTS = 1000
_KEYS = {
    "list": ("a list is read by a whole number", "integer"),
    "string": ("a text is read by a whole number", "integer"),
    "map": ("a mapping is read by a text", "string"),
    "record": ("a mapping is read by a text", "string"),
}
_TOKEN = re.compile(r"""[\w.]+|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|.""", re.DOTALL)


class _Inference:
    """One walk over one template."""

    def __init__(self, source: str, report: Report) -> None:
        self.source = source
        self.report = report

    def body(self, body: list[Any], scope: Scope) -> Scope:
        for node in body:
            if isinstance(node, nodes.Output):
                for part in node.nodes:
                    if not isinstance(part, nodes.TemplateData):
                        self._text_part(part, scope)
            elif isinstance(node, nodes.If):
                self._if(node, scope)
            elif isinstance(node, nodes.For):
                self._for(node, scope)
            elif isinstance(node, nodes.Assign):
                value = self.expression(node.node, scope)
                assert isinstance(node.target, nodes.Name)
                self._check_shadowing(node.target, scope)
                scope = scope.bind({node.target.name: value})
        return scope

    def _text_part(self, node: nodes.Expr, scope: Scope) -> None:
        found = self.expression(node, scope)
        if found.nullable:
            self._report_null(node, found)

    def _report_null(self, node: nodes.Node, found: Type, read: nodes.Node | None = None) -> None:
        """Report a value that may be null; `read` is the field of it that the expression wants."""
        path = _path(node)
        start, end = self.span(node)
        if found.kind == "null":
            self.report(start, end, "this is null, and null has no text", "")
            return
        name = path or "this"
        self.report(
            start,
            end,
            f"{name} may be null, because a step that makes it can be skipped" if path else "this may be null",
            f"guard it: ${{{(read and _path(read)) or name} if {name} else '...'}}" if path else "use `default('...')`",
        )

    def _if(self, node: nodes.If, scope: Scope) -> None:
        for branch in (node, *node.elif_):
            self.expression(branch.test, scope)
            true, false = _narrowing(branch.test)
            self.body(branch.body, scope.narrow(true))
            scope = scope.narrow(false)
        self.body(node.else_, scope)

    def _for(self, node: nodes.For, scope: Scope) -> None:
        item = self._item_type(node.iter, scope)
        if isinstance(node.target, nodes.Name):
            self._check_shadowing(node.target, scope)
            bound = {node.target.name: item}
        else:
            names = list(node.target.find_all(nodes.Name))
            for name in names:
                self._check_shadowing(name, scope)
            part = (item.item or ANY) if item.kind == "list" else ANY
            if item.kind not in ("list", "any", "union"):
                start, end = self.span(node.iter)
                self.report(start, end, f"this loop unpacks lists, the items are {item}", "")
            bound = {name.name: part for name in names}
        inner = scope.bind({**bound, "loop": LOOP})
        if node.test is not None:
            self.expression(node.test, inner)
            inner = inner.narrow(_narrowing(node.test)[0])
        self.body(node.body, inner)
        self.body(node.else_, scope)

    def _item_type(self, node: nodes.Node, scope: Scope) -> Type:
        iterable = self.expression(node, scope)
        start, end = self.span(node)
        if iterable.nullable and iterable.kind != "any":
            self._report_null(node, iterable)
            iterable = iterable.not_null()
        if iterable.kind == "list":
            return iterable.item or ANY
        if iterable.kind in ("map", "record") and not iterable.name:
            return STRING
        if iterable.kind != "any":
            self.report(start, end, f"a loop needs a list, this is {iterable}", "")
        return ANY

    def _check_shadowing(self, name: nodes.Name, scope: Scope) -> None:
        if name.name in scope.names and name.name != "loop":
            self.report(
                name.lineno, name.lineno + len(name.name), f"{name.name!r} already names something here", "rename it"
            )

    def span(self, node: nodes.Node) -> tuple[int, int]:
        """Return where a node stands: names exactly, the rest by its first token."""
        start: int = node.lineno
        if isinstance(node, nodes.Name):
            return start, start + len(node.name)
        if isinstance(node, nodes.Getattr):
            base = self.span(node.node)[0]
            return base, self._attribute_span(node)[1]
        if isinstance(node, nodes.Filter) and node.node is not None:
            return self.span(node.node)[0], start + len(node.name)
        match = _TOKEN.match(self.source, start)
        return start, match.end() if match else start + 1

    def _attribute_span(self, node: nodes.Getattr) -> tuple[int, int]:
        match = re.compile(r"\.\s*").match(self.source, node.lineno)
        start = match.end() if match else node.lineno
        return start, start + len(node.attr)

    def expression(self, node: nodes.Node, scope: Scope) -> Type:
        """Return the type of one expression, after reporting what is wrong inside it."""
        handler = _HANDLERS.get(type(node))
        return handler(self, node, scope) if handler else ANY

    def name(self, node: nodes.Name, scope: Scope) -> Type:
        found = scope.names.get(node.name)
        if found is None:
            hint = suggest(node.name, scope.names)
            if scope.inputs is not None and (near := nearest(node.name, scope.inputs)):
                hint = f"did you mean inputs.{near}?"
            start, end = self.span(node)
            shown = ascii(node.name)
            self.report(start, end, f"{shown} is not a step, an input or a loop variable here", hint)
            return ANY
        return found.not_null() if node.name in scope.narrowed else found

    def const(self, node: nodes.Const, _: Scope) -> Type:
        return type_of_value(node.value)

    def sequence(self, node: nodes.List | nodes.Tuple, scope: Scope) -> Type:
        items = [self.expression(item, scope) for item in node.items]
        return _bounded(list_of(union(*items))) if items else ANY_LIST

    def mapping(self, node: nodes.Dict, scope: Scope) -> Type:
        fields = {}
        for pair in node.items:
            value = self.expression(pair.value, scope)
            if isinstance(pair.key, nodes.Const):
                fields[str(pair.key.value)] = value
            else:
                self.expression(pair.key, scope)
        return _bounded(Type("record", fields=fields))

    def getattr(self, node: nodes.Getattr, scope: Scope) -> Type:
        base = self.expression(node.node, scope)
        return self._member(node, base, node.attr, self._attribute_span(node), scope)

    def getitem(self, node: nodes.Getitem, scope: Scope) -> Type:
        return self._item(node, self.expression(node.node, scope), self._key(node, scope), scope)

    def _key(self, node: nodes.Getitem, scope: Scope) -> Type:
        if not isinstance(node.arg, nodes.Slice):
            return self.expression(node.arg, scope)
        for edge in node.arg.iter_child_nodes():
            found = self.expression(edge, scope)
            if found.kind not in ("integer", "any") or found.nullable:
                self.report(*self.span(edge), f"a slice takes whole numbers, this is {found}", "")
        return ANY

    def _item(self, node: nodes.Getitem, base: Type, key: Type, scope: Scope) -> Type:
        start, end = self.span(node if isinstance(node.arg, nodes.Slice) else node.arg)
        if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
            return self._member(node, base, node.arg.value, (start, end), scope)
        if base.nullable and base.kind != "any":
            self._report_null(node.node, base)
            base = base.not_null()
        if base.kind in ("any", "union", "null"):
            return ANY
        if isinstance(node.arg, nodes.Slice):
            if base.kind not in ("list", "string") and not base.has_text:
                self.report(start, end, f"{base} cannot be cut", "")
            return base if base.kind == "list" else STRING
        what, wanted = _KEYS.get(base.kind, ("", ""))
        if not wanted:
            self.report(start, end, f"{base} has no items", "")
        elif key.kind not in (wanted, "any") or key.nullable:
            self.report(start, end, f"{what}, this is {key}", "")
        return base.item or (STRING if base.kind == "string" else ANY)

    def _member(self, node: Any, base: Type, name: str, span: tuple[int, int], scope: Scope) -> Type:
        if base.nullable and base.kind != "any":
            self._report_null(node.node, base, node)
            base = base.not_null()
        found = self._field(base, name)
        if found is None:
            self._report_no_field(base, name, span)
            return ANY
        path = _path(node)
        return found.not_null() if path in scope.narrowed else found

    def _field(self, base: Type, name: str) -> Type | None:
        if base.kind == "any":
            return ANY
        if base.kind == "map":
            return base.item or ANY
        if base.kind == "union":
            parts = [self._field(part, name) for part in base.options]
            return None if None in parts else union(*(part for part in parts if part))
        return base.fields.get(name) if base.kind == "record" else None

    def _report_no_field(self, base: Type, name: str, span: tuple[int, int]) -> None:
        if base.kind == "list" and base.item and base.item.kind == "record" and name in base.item.fields:
            hint = f"it is a list of {base.item}: read one with [0].{name}, or all with | map(attribute={name!r})"
        elif base.kind == "record":
            hint = suggest(name, base.fields)
        else:
            hint = "it has no fields"
        self.report(*span, f"{base} has no field {name!r}", hint)

    def filter(self, node: nodes.Filter, scope: Scope) -> Type:
        assert node.node is not None
        spec = FILTERS[node.name]
        muted = node.name in ("default", "d")
        subject = self._forgiving(node.node, scope) if muted else self.expression(node.node, scope)
        start, end = node.lineno, node.lineno + len(node.name)
        if subject.nullable and not muted and subject.kind != "any":
            self._report_null(node.node, subject)
        elif not muted and (why := fit(subject.not_null(), spec.subject)):
            self.report(start, end, f"{node.name}: {why}", "")
        names = list(spec.arguments)
        given: dict[str, Any] = {}
        if len(node.args) > len(names):
            most = f"at most {len(names)} arguments: {', '.join(names)}" if names else "no arguments"
            self.report(start, end, f"{node.name} takes {most}", "")
        for name, value in zip(names, node.args, strict=False):
            self._argument(node, name, value, given, scope)
        for pair in node.kwargs:
            self._argument(node, str(pair.key), pair.value, given, scope)
        missing = [name for name, (_, required) in spec.arguments.items() if required and name not in given]
        if missing:
            self.report(start, end, f"{node.name} needs {' and '.join(missing)}", "")
        self._check_names(node, subject, given)
        return spec.result(subject.not_null(), given)

    def _check_names(self, node: nodes.Filter, subject: Type, given: Mapping[str, Any]) -> None:
        """Check what a filter's texts name: a test, another filter, or a field of each item."""
        start, end = node.lineno, node.lineno + len(node.name)
        item, attribute = subject.item or ANY, given.get("attribute")
        for argument, known in (("test", TESTS), ("name", MAPPABLE)):
            named = given.get(argument)
            if isinstance(named, str) and named not in known:
                what = "test" if argument == "test" else "filter without arguments"
                self.report(start, end, f"{node.name}: {named!r} is not a {what}", suggest(named, known, most=40))
        if subject.kind != "list" or node.name in ("select", "reject"):
            return
        if item.nullable and item.kind != "any" and (attribute is not None or node.name == "join"):
            self.report(start, end, f"{node.name}: items may be null", "leave them out: | select")
        for key in attribute.split(".") if isinstance(attribute, str) else ():
            found = ANY if key.isdecimal() else self._field(item.not_null(), key)
            if found is None:
                hint = suggest(key, item.fields) if item.fields else "it has no fields"
                self.report(start, end, f"{node.name}: {item} has no field {key!r}", hint)
            item = found or ANY

    def _forgiving(self, node: nodes.Node, scope: Scope) -> Type:
        """Infer what `default` is applied to: a null or a missing key in it is no mistake."""
        if not isinstance(node, nodes.Getattr | nodes.Getitem):
            return self.expression(node, scope)
        base = self._forgiving(node.node, scope)
        quiet = _Inference(self.source, lambda *_: None)
        if isinstance(node, nodes.Getattr):
            return quiet._member(node, base, node.attr, (0, 0), scope)
        return quiet._item(node, base, self._key(node, scope), scope)

    def _argument(self, node: nodes.Filter, name: str, value: nodes.Node, given: dict[str, Any], scope: Scope) -> None:
        arguments = FILTERS[node.name].arguments
        found = self.expression(value, scope)
        start, end = self.span(value)
        if name not in arguments:
            self.report(start, end, f"{node.name} has no argument {name!r}", suggest(name, arguments))
        elif name in given:
            self.report(start, end, f"{node.name} is given {name!r} twice", "")
        elif why := fit(found, arguments[name][0]):
            self.report(start, end, f"{node.name}: {name}: {why}", "")
        given[name] = value.value if isinstance(value, nodes.Const) else None
        given[f"{name}:type"] = found

    def test(self, node: nodes.Test, scope: Scope) -> Type:
        if node.name == "defined":
            self._forgiving(node.node, scope)
        else:
            self.expression(node.node, scope)
        for argument in node.args:
            self.expression(argument, scope)
        return BOOLEAN

    def condition(self, node: nodes.CondExpr, scope: Scope) -> Type:
        self.expression(node.test, scope)
        true, false = _narrowing(node.test)
        then = self.expression(node.expr1, scope.narrow(true))
        otherwise = self.expression(node.expr2, scope.narrow(false)) if node.expr2 is not None else NULL
        return union(then, otherwise)

    def and_(self, node: nodes.And, scope: Scope) -> Type:
        left = self.expression(node.left, scope)
        right = self.expression(node.right, scope.narrow(_narrowing(node.left)[0]))
        return BOOLEAN if left.kind == right.kind == "boolean" else union(left, right)

    def or_(self, node: nodes.Or, scope: Scope) -> Type:
        left = self.expression(node.left, scope)
        right = self.expression(node.right, scope.narrow(_narrowing(node.left)[1]))
        return BOOLEAN if left.kind == right.kind == "boolean" else union(left.not_null(), right)

    def not_(self, node: nodes.Not, scope: Scope) -> Type:
        self.expression(node.node, scope)
        return BOOLEAN

    def concat(self, node: nodes.Concat, scope: Scope) -> Type:
        for part in node.nodes:
            self._text_part(part, scope)
        return STRING

    def compare(self, node: nodes.Compare, scope: Scope) -> Type:
        left = self.expression(node.expr, scope)
        for link in node.ops:
            right = self.expression(link.expr, scope)
            if link.op in ("lt", "lteq", "gt", "gteq"):
                self._check_order(node, left, right)
            elif link.op in ("in", "notin"):
                self._check_inside(link, left, right)
            left = right
        return BOOLEAN

    def _check_inside(self, link: nodes.Operand, left: Type, right: Type) -> None:
        if right.kind in ("integer", "number", "boolean", "null", "path"):
            self.report(*self.span(link.expr), f"`in` looks inside a list, a mapping or a text, not {right}", "")
        elif right.nullable and right.kind != "any":
            self._report_null(link.expr, right)
        elif right.kind in ("string", "map", "record") and (
            _order_kind(left) not in ("string", "any") or left.nullable
        ):
            self.report(*self.span(link.expr), f"only a text can be in {right}, this is {left}", "")

    def _check_order(self, node: nodes.Compare, left: Type, right: Type) -> None:
        for side in (left, right):
            if side.nullable and side.kind != "any":
                self.report(
                    *self.span(node.expr), "this may be null, and null cannot be ordered", "guard it with `and`"
                )
                return
        kinds = {_order_kind(left), _order_kind(right)} - {"any"}
        if len(kinds) > 1 or kinds & {"other"}:
            self.report(*self.span(node.expr), f"{left} and {right} cannot be ordered", "")

    def arithmetic(self, node: nodes.BinExpr, scope: Scope) -> Type:
        left, right = self.expression(node.left, scope), self.expression(node.right, scope)
        for side, part in ((left, node.left), (right, node.right)):
            if side.nullable and side.kind != "any":
                self._report_null(part, side)
                return ANY
        if "any" in (left.kind, right.kind):
            return ANY
        numbers = {left.kind, right.kind} <= {"integer", "number"}
        if isinstance(node, nodes.Add) and not numbers:
            texts = _order_kind(left) == _order_kind(right) == "string"
            if texts or left.kind == right.kind == "list":
                return STRING if texts else list_of(union(left.item or ANY, right.item or ANY))
        if not numbers:
            self.report(
                *self.span(node), f"this works on numbers, not on {left} and {right}", "~ joins texts, as in ${a ~ b}"
            )
            return ANY
        whole = left.kind == right.kind == "integer" and not isinstance(node, nodes.Div)
        return INTEGER if whole else NUMBER

    def sign(self, node: nodes.UnaryExpr, scope: Scope) -> Type:
        found = self.expression(node.node, scope)
        if found.kind not in ("integer", "number", "any"):
            self.report(*self.span(node), f"a sign works on numbers, not on {found}", "")
            return ANY
        return found


def _bounded(found: Type) -> Type:
    """Return the type of a literal, or "any" when it has too many parts: `set` can double them with every line."""
    n_parts, pending = 0, [found]
    while pending and n_parts <= _MOST_PARTS:
        part = pending.pop()
        n_parts += 1
        pending += [*part.fields.values(), *part.options, *([part.item] if part.item else [])]
    return found if n_parts <= _MOST_PARTS else ANY


def _order_kind(found: Type) -> str:
    if found.kind in ("integer", "number"):
        return "number"
    if found.kind == "string" or found.has_text:
        return "string"
    return "any" if found.kind in ("any", "union") else "other"


_HANDLERS: Mapping[type[nodes.Node], Callable[[_Inference, Any, Scope], Type]] = {
    nodes.Name: _Inference.name,
    nodes.Const: _Inference.const,
    nodes.List: _Inference.sequence,
    nodes.Tuple: _Inference.sequence,
    nodes.Dict: _Inference.mapping,
    nodes.Getattr: _Inference.getattr,
    nodes.Getitem: _Inference.getitem,
    nodes.Filter: _Inference.filter,
    nodes.Test: _Inference.test,
    nodes.CondExpr: _Inference.condition,
    nodes.And: _Inference.and_,
    nodes.Or: _Inference.or_,
    nodes.Not: _Inference.not_,
    nodes.Concat: _Inference.concat,
    nodes.Compare: _Inference.compare,
    nodes.Neg: _Inference.sign,
    nodes.Pos: _Inference.sign,
    **dict.fromkeys((nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod), _Inference.arithmetic),
}
