"""Texts with `${...}` and `{% ... %}`: parsed once, evaluated many times, inside bounds.

The tree is Jinja's; evaluation is ours, node by node, so that a value keeps its native type, only data can be reached,
and loops, output and time are counted. Nothing is compiled to Python, folded or evaluated at parse time, and what was
rendered is never parsed again. Types are inferred elsewhere (`_inference`). Invariant: evaluating a template can
neither call anything but the filters of the allow-list nor run past its bounds.

It is long because it has a meaning for each node that an expression may hold.
"""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jinja2 import TemplateSyntaxError, nodes

from gristmill._errors import suggest
from gristmill._language._filters import (
    FILTERS,
    MOST_CHARS,
    TESTS,
    TESTS_WITH_ARGUMENT,
    EvaluationError,
    MissingError,
    data_of,
    member,
    to_text,
)
from gristmill._language._lexer import ExpressionSyntaxError, RecipeEnvironment, syntax_error
from gristmill._language._types import ANY, coerce

MOST_WORK = 1_000_000
"""Turns of loops, items and blocks of 4,096 characters that one evaluation may touch."""
MOST_SECONDS = 2.0
MOST_INTEGER = 10**18
MOST_DEPTH = 100
"""Nodes inside one another; what walks a tree takes a few Python frames for each."""

_ENVIRONMENT = RecipeEnvironment()

Names = Mapping[str, Any]
Evaluate = Callable[[Names, "Bounds"], Any]


class Bounds:
    """Counts what one evaluation uses; raises EvaluationError when it is too much."""

    __slots__ = ("deadline", "next_look", "work")

    def __init__(self) -> None:
        self.work = 0
        self.next_look = 1
        self.deadline: float | None = None

    def spend(self, amount: int = 1) -> None:
        """Count work: a turn of a loop, or the items or blocks of a value that is walked or copied."""
        self.work += amount
        if self.work < self.next_look:
            return
        if self.work > MOST_WORK:
            raise EvaluationError(f"this takes more than {MOST_WORK:,} steps")
        self.next_look = self.work + 256
        now = time.monotonic()
        if self.deadline is None:
            self.deadline = now + MOST_SECONDS
        elif now > self.deadline:
            raise EvaluationError(f"evaluating this took longer than {MOST_SECONDS:g} s")

    def hold(self, value: Any) -> Any:
        """Return a list or mapping that was just made, after counting what it would print: names can share parts."""
        chars, pending = 0, [value]
        while pending:
            part = pending.pop()
            chars += len(part) if isinstance(part, str) else 8
            if chars > MOST_CHARS or len(pending) > MOST_WORK:
                raise EvaluationError(f"this holds more than {MOST_CHARS:,} characters")
            if isinstance(part, list | tuple):
                self.spend(len(part))
                pending += part
            elif isinstance(part, dict):
                self.spend(len(part))
                pending += part.values()
        return value


class Template:
    """A parsed text. `is_expression`: it is one `${...}`, so it has a native value."""

    __slots__ = ("_native", "_text", "body", "is_expression", "references", "source")

    def __init__(self, source: str) -> None:
        """Parse `source`.

        Raises:
            ExpressionSyntaxError: with the offset in `source`.
        """
        self.source = source
        try:
            self.body: list[nodes.Node] = _ENVIRONMENT.parse(source).body
            for node in self.body:
                _check_allowed(node, 0)
            self.references = frozenset(_free_names(self.body, frozenset()))
        except TemplateSyntaxError as error:
            raise syntax_error(error) from error
        except RecursionError as error:
            raise ExpressionSyntaxError("this is nested too deeply", 0, len(source)) from error
        self.is_expression = _single_expression(self.body) is not None
        self._native: Evaluate | None = None
        self._text: Callable[[Names, Bounds], Iterator[str]] | None = None

    @property
    def expression(self) -> nodes.Expr:
        """The tree of the single expression."""
        found = _single_expression(self.body)
        assert found is not None
        return found

    def evaluate(self, names: Names) -> Any:
        """Return the native value of a single expression, or else the rendered text.

        Raises:
            EvaluationError: with the offset of the part that failed.
        """
        if not self.is_expression:
            return self.render(names)
        if self._native is None:
            self._native = _compile(self.expression)
        try:
            return self._native(names, Bounds())
        except RecursionError as error:
            raise EvaluationError("this is nested too deeply") from error

    def render(self, names: Names) -> str:
        """Return the text with every expression in its place."""
        if self._text is None:
            self._text = _compile_body(self.body)
        parts, size = [], 0
        scope = {name: names[name] for name in self.references if name in names}  # a run has names by the thousand
        try:
            for part in self._text(scope, Bounds()):
                parts.append(part)
                size += len(part)
                if size > MOST_CHARS:
                    raise EvaluationError(f"the text has more than {MOST_CHARS:,} characters")
        except RecursionError as error:
            raise EvaluationError("this is nested too deeply") from error
        return "".join(parts)


def _single_expression(body: list[nodes.Node]) -> nodes.Expr | None:
    """Return the one expression that a text is, one trailing newline ignored."""
    if len(body) != 1 or not isinstance(body[0], nodes.Output):
        return None
    first, *rest = body[0].nodes
    if isinstance(first, nodes.TemplateData):
        return None
    trailing = [node.data for node in rest if isinstance(node, nodes.TemplateData)]
    return first if len(trailing) == len(rest) and "".join(trailing) in ("", "\n", "\r\n") else None


_STATEMENTS = (nodes.Output, nodes.If, nodes.For, nodes.Assign)
_EXPRESSIONS = (
    nodes.TemplateData, nodes.Name, nodes.Const, nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Keyword,
    nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Filter, nodes.Test, nodes.CondExpr, nodes.Compare, nodes.Operand,
    nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Pos, nodes.Concat,
    nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod,
)  # fmt: skip
_ADVICE: Mapping[type[nodes.Node], tuple[str, str]] = {
    nodes.Call: ("nothing can be called in an expression", "use a filter: ${value | upper}"),
    nodes.Pow: ("** is not part of recipes", ""),
    nodes.Macro: ("macros are not part of recipes", "use a step, or a recipe step"),
    nodes.CallBlock: ("macros are not part of recipes", "use a step, or a recipe step"),
    nodes.Include: ("include is not part of recipes", "use a recipe step"),
    nodes.Import: ("import is not part of recipes", "use a recipe step"),
    nodes.FromImport: ("import is not part of recipes", "use a recipe step"),
    nodes.Extends: ("extends is not part of recipes", "use a recipe step"),
}


def _check_allowed(node: nodes.Node, depth: int) -> None:
    if depth > MOST_DEPTH:
        raise ExpressionSyntaxError(f"this is nested deeper than {MOST_DEPTH} levels", node.lineno)
    if not isinstance(node, _STATEMENTS + _EXPRESSIONS):
        what = "this block" if isinstance(node, nodes.Stmt) else type(node).__name__.lower()
        message, hint = _ADVICE.get(type(node), (f"{what} is not part of recipes", ""))
        raise ExpressionSyntaxError(message, node.lineno or 0, hint=hint)  # some of Jinja's own blocks have no place
    if isinstance(node, nodes.For) and node.recursive:
        raise ExpressionSyntaxError("recursive loops are not part of recipes", node.lineno)
    if isinstance(node, nodes.For) and any(not isinstance(n, nodes.Name) for n in node.target.iter_child_nodes()):
        raise ExpressionSyntaxError("a loop unpacks one level only", node.target.lineno)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Tuple):
        raise ExpressionSyntaxError("one key or slice at a time", node.arg.lineno)
    if isinstance(node, nodes.Filter | nodes.Test) and (node.dyn_args or node.dyn_kwargs):
        raise ExpressionSyntaxError("* and ** are not part of recipes", node.lineno)
    if isinstance(node, nodes.Filter) and node.node is None:
        raise ExpressionSyntaxError("filter blocks are not part of recipes", node.lineno)
    if isinstance(node, nodes.Filter) and node.name not in FILTERS:
        _refuse_name("filter", node, suggest(node.name, FILTERS, most=50))
    if isinstance(node, nodes.Test) and node.name not in (*TESTS, "defined"):
        _refuse_name("test", node, suggest(node.name, (*TESTS, "defined"), most=50))
    if isinstance(node, nodes.Test) and (node.kwargs or len(node.args) != (node.name in TESTS_WITH_ARGUMENT)):
        what = "one argument" if node.name in TESTS_WITH_ARGUMENT else "no argument"
        raise ExpressionSyntaxError(f"the test {node.name!r} takes {what}", node.lineno, node.lineno + len(node.name))
    if isinstance(node, nodes.Assign) and not isinstance(node.target, nodes.Name):
        raise ExpressionSyntaxError("set one name at a time", node.lineno)
    for child in node.iter_child_nodes():
        _check_allowed(child, depth + 1)


def _refuse_name(what: str, node: nodes.Filter | nodes.Test, hint: str) -> None:
    end = node.lineno + len(node.name)
    raise ExpressionSyntaxError(f"{node.name!r} is not a {what} of recipes", node.lineno, end, hint)


def _targets(node: nodes.Node) -> frozenset[str]:
    return frozenset(name.name for name in ([node] if isinstance(node, nodes.Name) else node.find_all(nodes.Name)))


def _free_names(body: list[Any], bound: frozenset[str]) -> Iterator[str]:
    """Yield the names that come from outside: what loops and `set` bind is not among them."""
    for node in body:
        if isinstance(node, nodes.Assign):
            yield from _free_names([node.node], bound)
            bound |= _targets(node.target)
        elif isinstance(node, nodes.For):
            yield from _free_names([node.iter], bound)
            inner = bound | _targets(node.target) | {"loop"}
            yield from _free_names([*([node.test] if node.test else []), *node.body], inner)
            yield from _free_names(node.else_, bound)
        elif isinstance(node, nodes.Name):
            if node.name not in bound:
                yield node.name
        else:
            yield from _free_names(list(node.iter_child_nodes()), bound)


def _compile_body(body: list[nodes.Node]) -> Callable[[Names, Bounds], Iterator[str]]:
    parts = [_compile_statement(node) for node in body]

    def run(names: Names, bounds: Bounds) -> Iterator[str]:
        scope = dict(names)
        for part in parts:
            yield from part(scope, bounds)

    return run


def _compile_statement(node: nodes.Node) -> Callable[[dict[str, Any], Bounds], Iterator[str]]:
    if isinstance(node, nodes.Output):
        return _compile_output(node)
    if isinstance(node, nodes.If):
        return _compile_if(node)
    if isinstance(node, nodes.For):
        return _compile_for(node)
    assert isinstance(node, nodes.Assign)
    assert isinstance(node.target, nodes.Name)
    name, value = node.target.name, _compile(node.node)

    def assign(scope: dict[str, Any], bounds: Bounds) -> Iterator[str]:
        scope[name] = value(scope, bounds)
        return iter(())

    return assign


def _compile_output(node: nodes.Output) -> Callable[[dict[str, Any], Bounds], Iterator[str]]:
    parts: list[tuple[str | None, Evaluate | None, int]] = [
        (part.data, None, 0) if isinstance(part, nodes.TemplateData) else (None, _compile(part), part.lineno)
        for part in node.nodes
    ]

    def output(scope: dict[str, Any], bounds: Bounds) -> Iterator[str]:
        for text, evaluate, offset in parts:
            if evaluate is None:
                yield text or ""
                continue
            yield _text_at(evaluate(scope, bounds), offset)

    return output


def _text_at(value: Any, offset: int) -> str:
    try:
        return to_text(value)
    except EvaluationError as error:
        raise _at(error, offset) from error
    except TypeError as error:
        raise EvaluationError(str(error), offset) from error


def _at(error: EvaluationError, offset: int, end: int = 0) -> EvaluationError:
    if not error.offset:
        error.offset, error.end = offset, end
    return error


def _compile_if(node: nodes.If) -> Callable[[dict[str, Any], Bounds], Iterator[str]]:
    branches = [(_compile(part.test), _compile_scoped(part.body)) for part in (node, *node.elif_)]
    otherwise = _compile_scoped(node.else_)

    def run(scope: dict[str, Any], bounds: Bounds) -> Iterator[str]:
        for test, body in branches:
            if test(scope, bounds):
                return body(scope, bounds)
        return otherwise(scope, bounds)

    return run


def _compile_scoped(body: list[nodes.Node]) -> Callable[[dict[str, Any], Bounds], Iterator[str]]:
    """Compile a branch: as in Jinja, what an `if` sets stays set after it."""
    parts = [_compile_statement(node) for node in body]

    def run(scope: dict[str, Any], bounds: Bounds) -> Iterator[str]:
        for part in parts:
            yield from part(scope, bounds)

    return run


def _compile_for(node: nodes.For) -> Callable[[dict[str, Any], Bounds], Iterator[str]]:
    iterable, body, otherwise = _compile(node.iter), _compile_body(node.body), _compile_scoped(node.else_)
    test = _compile(node.test) if node.test else None
    bind = _compile_target(node.target)

    def run(scope: dict[str, Any], bounds: Bounds) -> Iterator[str]:
        items = iterable(scope, bounds)
        if isinstance(items, Mapping):
            items = list(items)
        if not isinstance(items, list | tuple):
            raise EvaluationError("a loop needs a list", node.iter.lineno)
        bounds.spend(len(items))
        kept = [item for item in items if test is None or test({**scope, **bind(item)}, bounds)]
        for index, item in enumerate(kept):
            bounds.spend()
            loop = {
                "index": index + 1,
                "index0": index,
                "first": index == 0,
                "last": index == len(kept) - 1,
                "length": len(kept),
            }
            yield from body({**scope, **bind(item), "loop": loop}, bounds)
        if not kept:
            yield from otherwise(scope, bounds)

    return run


def _compile_target(target: nodes.Node) -> Callable[[Any], dict[str, Any]]:
    if isinstance(target, nodes.Name):
        single = target.name
        return lambda item: {single: item}
    names = [part.name for part in target.find_all(nodes.Name)]

    def unpack(item: Any) -> dict[str, Any]:
        if not isinstance(item, list | tuple) or len(item) != len(names):
            raise EvaluationError(f"this loop takes {len(names)} values a turn", target.lineno)
        return dict(zip(names, item, strict=True))

    return unpack


def _compile(node: nodes.Node) -> Evaluate:
    compiler = _COMPILERS.get(type(node))
    assert compiler is not None, type(node)
    return compiler(node)


def _compile_name(node: nodes.Name) -> Evaluate:
    name, offset = node.name, node.lineno

    def load(names: Names, _: Bounds) -> Any:
        try:
            return names[name]
        except KeyError:
            raise MissingError(f"{name!r} has no value here", offset, offset + len(name)) from None

    return load


def _compile_const(node: nodes.Const) -> Evaluate:
    value = node.value
    return lambda _names, _bounds: value


def _compile_list(node: nodes.List | nodes.Tuple) -> Evaluate:
    items = [_compile(item) for item in node.items]
    return lambda names, bounds: bounds.hold([item(names, bounds) for item in items])


def _compile_dict(node: nodes.Dict) -> Evaluate:
    pairs = [(_compile(pair.key), _compile(pair.value)) for pair in node.items]

    def make(names: Names, bounds: Bounds) -> Any:
        made = {_text_at(key(names, bounds), node.lineno): value(names, bounds) for key, value in pairs}
        return bounds.hold(made)

    return make


def _compile_getattr(node: nodes.Getattr) -> Evaluate:
    start = node.lineno + 1  # after the dot
    return _compile_member(_compile(node.node), lambda _names, _bounds: node.attr, start, start + len(node.attr))


def _compile_getitem(node: nodes.Getitem) -> Evaluate:
    if isinstance(node.arg, nodes.Slice):
        return _compile_slice(node, node.arg)
    return _compile_member(_compile(node.node), _compile(node.arg), node.arg.lineno)


def _compile_member(subject: Evaluate, key: Evaluate, offset: int, end: int = 0) -> Evaluate:
    def get(names: Names, bounds: Bounds) -> Any:
        try:
            return member(subject(names, bounds), key(names, bounds))
        except EvaluationError as error:
            raise _at(error, offset, end) from None

    return get


def _compile_slice(node: nodes.Getitem, part: nodes.Slice) -> Evaluate:
    subject = _compile(node.node)
    edges = [_compile(edge) if edge else None for edge in (part.start, part.stop, part.step)]

    def cut(names: Names, bounds: Bounds) -> Any:
        value = data_of(subject(names, bounds))
        numbers = [edge(names, bounds) if edge else None for edge in edges]
        if not isinstance(value, str | list | tuple) or not all(n is None or type(n) is int for n in numbers):
            raise EvaluationError("only a text or a list can be cut, by whole numbers", node.lineno)
        if numbers[2] == 0:
            raise EvaluationError("the step of a slice is not 0", node.lineno)
        return value[slice(*numbers)]

    return cut


def _compile_filter(node: nodes.Filter) -> Evaluate:
    assert node.node is not None
    subject, offset = _compile(node.node), node.lineno
    spec = FILTERS[node.name]
    arguments = {name: _compile(value) for name, value in zip(spec.arguments, node.args, strict=False)}
    arguments |= {str(pair.key): _compile(pair.value) for pair in node.kwargs}
    forgiving = node.name in ("default", "d")

    def run(names: Names, bounds: Bounds) -> Any:
        try:
            value = subject(names, bounds)
        except MissingError:
            if not forgiving:
                raise
            value = None
        if spec.takes_text:
            value = data_of(value)
        elif isinstance(value, tuple):
            value = list(value)
        _check_subject(spec.subject.kind, value, node.name, offset)
        given = {name: data_of(argument(names, bounds)) for name, argument in arguments.items()}
        bounds.spend(1 + (len(value) if isinstance(value, list | Mapping) else _blocks(value)))
        try:
            result = spec.call(
                value, **{name: coerce(part, spec.arguments.get(name, (ANY,))[0]) for name, part in given.items()}
            )
            bounds.spend(len(result) if isinstance(result, list) else _blocks(result))
            return result
        except EvaluationError as error:
            raise _at(error, offset) from error
        except (TypeError, ValueError, ArithmeticError) as error:
            raise EvaluationError(f"{node.name}: {error}", offset, offset + len(node.name)) from error

    return run


def _blocks(value: Any) -> int:
    return len(value) // 4096 if isinstance(value, str) else 0


def _check_subject(kind: str, value: Any, name: str, offset: int) -> None:
    """Refuse what the checker could not see: a value of type "any" that the filter does not take."""
    fits = (
        isinstance(value, str) if kind == "string"
        else isinstance(value, list) if kind == "list"
        else isinstance(value, Mapping) if kind == "map"
        else isinstance(value, int | float) and not isinstance(value, bool) if kind == "number"
        else True
    )  # fmt: skip
    if not fits:
        shown = "null" if value is None else f"a {type(value).__name__}"
        wanted = {"string": "text", "list": "a list", "map": "a mapping", "number": "a number"}[kind]
        raise EvaluationError(f"{name} takes {wanted}, this is {shown}", offset, offset + len(name))


def _compile_test(node: nodes.Test) -> Evaluate:
    subject, offset, name = _compile(node.node), node.lineno, node.name
    argument = _compile(node.args[0]) if node.args else None
    call = TESTS.get(name)

    def run(names: Names, bounds: Bounds) -> bool:
        try:
            value = subject(names, bounds)
        except MissingError:
            if call is None:
                return False
            raise
        if call is None:
            return True
        try:
            return bool(call(data_of(value), data_of(argument(names, bounds)) if argument else None))
        except (TypeError, ArithmeticError) as error:
            raise EvaluationError(f"{name}: {error}", offset, offset + len(name)) from error

    return run


def _compile_condition(node: nodes.CondExpr) -> Evaluate:
    test, then = _compile(node.test), _compile(node.expr1)
    otherwise: Evaluate = _compile(node.expr2) if node.expr2 is not None else (lambda _names, _bounds: None)
    return lambda names, bounds: then(names, bounds) if test(names, bounds) else otherwise(names, bounds)


def _compile_and(node: nodes.And) -> Evaluate:
    left, right = _compile(node.left), _compile(node.right)
    return lambda names, bounds: left(names, bounds) and right(names, bounds)


def _compile_or(node: nodes.Or) -> Evaluate:
    left, right = _compile(node.left), _compile(node.right)
    return lambda names, bounds: left(names, bounds) or right(names, bounds)


def _compile_not(node: nodes.Not) -> Evaluate:
    inner = _compile(node.node)
    return lambda names, bounds: not inner(names, bounds)


def _compile_concat(node: nodes.Concat) -> Evaluate:
    parts = [_compile(part) for part in node.nodes]

    def join(names: Names, bounds: Bounds) -> str:
        texts, size = [], 0
        for part in parts:
            texts.append(_text_at(part(names, bounds), node.lineno))
            size += len(texts[-1])
            bounds.spend(1 + _blocks(texts[-1]))
            if size > MOST_CHARS:
                raise EvaluationError(f"the text has more than {MOST_CHARS:,} characters", node.lineno)
        return "".join(texts)

    return join


_COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "lteq": operator.le, "gt": operator.gt,
    "gteq": operator.ge, "in": lambda a, b: operator.contains(b, a), "notin": lambda a, b: not operator.contains(b, a),
}  # fmt: skip


def _compile_compare(node: nodes.Compare) -> Evaluate:
    first = _compile(node.expr)
    links = [(_COMPARE[link.op], _compile(link.expr)) for link in node.ops]

    def run(names: Names, bounds: Bounds) -> bool:
        left = data_of(first(names, bounds))
        for compare, evaluate in links:
            right = data_of(evaluate(names, bounds))
            try:
                if not compare(left, right):
                    return False
            except TypeError:
                kinds = " and ".join("null" if side is None else type(side).__name__ for side in (left, right))
                raise EvaluationError(f"{kinds} cannot be compared so", node.lineno) from None
            left = right
        return True

    return run


_ARITHMETIC: Mapping[type[nodes.Node], tuple[str, Callable[[Any, Any], Any]]] = {
    nodes.Add: ("+", operator.add), nodes.Sub: ("-", operator.sub), nodes.Mul: ("*", operator.mul),
    nodes.Div: ("/", operator.truediv), nodes.FloorDiv: ("//", operator.floordiv), nodes.Mod: ("%", operator.mod),
}  # fmt: skip


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _compile_arithmetic(node: nodes.BinExpr) -> Evaluate:
    symbol, compute = _ARITHMETIC[type(node)]
    left, right = _compile(node.left), _compile(node.right)

    def run(names: Names, bounds: Bounds) -> Any:
        a, b = data_of(left(names, bounds)), data_of(right(names, bounds))
        joinable = symbol == "+" and type(a) is type(b) and isinstance(a, str | list)
        if not joinable and not (_is_number(a) and _is_number(b)):
            kinds = " and ".join("null" if side is None else type(side).__name__ for side in (a, b))
            raise EvaluationError(f"{symbol} works on numbers, not on {kinds}; ~ joins texts", node.lineno)
        try:
            result = _checked(compute(a, b), node.lineno)
            return bounds.hold(result) if isinstance(result, list) else result
        except ArithmeticError as error:
            raise EvaluationError(str(error), node.lineno) from error

    return run


def _is_finite_float(value: float) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _checked(value: Any, offset: int) -> Any:
    if isinstance(value, str) and len(value) > MOST_CHARS:
        raise EvaluationError(f"the text has more than {MOST_CHARS:,} characters", offset)
    if isinstance(value, int | float) and not -MOST_INTEGER < value < MOST_INTEGER and not _is_finite_float(value):
        raise EvaluationError("the number is too large", offset)
    return value


def _compile_sign(node: nodes.UnaryExpr) -> Evaluate:
    inner = _compile(node.node)
    sign = -1 if isinstance(node, nodes.Neg) else 1

    def run(names: Names, bounds: Bounds) -> Any:
        value = inner(names, bounds)
        if not _is_number(value):
            raise EvaluationError("a sign works on numbers only", node.lineno)
        return sign * value

    return run


_COMPILERS: Mapping[type[nodes.Node], Callable[[Any], Evaluate]] = {
    nodes.Name: _compile_name,
    nodes.Const: _compile_const,
    nodes.List: _compile_list,
    nodes.Tuple: _compile_list,
    nodes.Dict: _compile_dict,
    nodes.Getattr: _compile_getattr,
    nodes.Getitem: _compile_getitem,
    nodes.Filter: _compile_filter,
    nodes.Test: _compile_test,
    nodes.CondExpr: _compile_condition,
    nodes.And: _compile_and,
    nodes.Or: _compile_or,
    nodes.Not: _compile_not,
    nodes.Neg: _compile_sign,
    nodes.Pos: _compile_sign,
    nodes.Concat: _compile_concat,
    nodes.Compare: _compile_compare,
    **dict.fromkeys(_ARITHMETIC, _compile_arithmetic),
}
