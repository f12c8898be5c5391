"""Reads the conditions of `--fail-if`: comparisons of recipes' figures, and nothing that could do anything.

    B.accuracy < A.accuracy - 0.02          rag.f1.low < 0.5 or rag.seconds > 60

It is Python's grammar for comparisons, arithmetic, `and`, `or` and `not`; every other construct is refused before
anything is evaluated. Invariant: a condition can only read the names it is given.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from gristmill import UsageError, suggest

MOST_CHARS = 500
EXAMPLE = "such as 'B.accuracy < A.accuracy - 0.02'"
Figures = Mapping[str, Mapping[str, Any]]
"""Recipe, then figure: a number, a mapping of numbers (`low`, `high`), or None where it does not exist."""

_ARITHMETIC: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip
_COMPARISONS: dict[type[ast.AST], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}  # fmt: skip


class UndecidableError(UsageError):
    """A condition that says something of what has no value: a figure that does not exist, a division by zero."""


def holds(condition: str, figures: Figures) -> bool:
    """Say whether a condition is true of the figures.

    Raises:
        UndecidableError: it can be read, and has no answer for these figures.
        UsageError: it cannot be read, names what is not there, or is no comparison.
    """
    if len(condition) > MOST_CHARS:
        raise UsageError(f"a condition has at most {MOST_CHARS} characters, this has {len(condition)}")
    try:
        tree = ast.parse(condition.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(
            f"--fail-if {condition!r}: {error}", hint="such as 'B.accuracy < A.accuracy - 0.02'"
        ) from error
    value = _Reader(condition, figures).value(tree)
    if isinstance(value, bool):
        return value
    raise UsageError(f"--fail-if {condition!r} is no comparison", hint=EXAMPLE)


class _Reader:
    def __init__(self, condition: str, figures: Figures) -> None:
        self.condition = condition
        self.figures = figures

    def value(self, node: ast.AST) -> Any:
        if isinstance(node, ast.BoolOp):
            values = [self._truth(part) for part in node.values]
            return all(values) if isinstance(node.op, ast.And) else any(values)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return not self._truth(node.operand)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -self._number(node.operand)
        if isinstance(node, ast.Compare):
            return self._comparison(node)
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            try:
                return _ARITHMETIC[type(node.op)](self._number(node.left), self._number(node.right))
            except (ZeroDivisionError, OverflowError) as error:
                raise UndecidableError(f"--fail-if {self.condition!r}: {error}") from error
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
            return node.value
        if isinstance(node, ast.Attribute):
            return self._figure(node)
        raise UsageError(f"--fail-if {self.condition!r}: {ast.unparse(node)!r} means nothing here",
                         hint="numbers, NAME.METRIC, + - * /, comparisons, and, or, not; A, B, ... are the recipes, "
                         "whatever they are called")  # fmt: skip

    def _comparison(self, node: ast.Compare) -> bool:
        left = self._number(node.left)
        for operation, right_node in zip(node.ops, node.comparators, strict=True):
            if type(operation) not in _COMPARISONS:
                raise UsageError(f"--fail-if {self.condition!r}: only < <= > >= == != compare")
            right = self._number(right_node)
            if not _COMPARISONS[type(operation)](left, right):
                return False
            left = right
        return True

    def _truth(self, node: ast.AST) -> bool:
        value = self.value(node)
        if isinstance(value, bool):
            return value
        raise UsageError(f"--fail-if {self.condition!r}: {ast.unparse(node)!r} is neither true nor false")

    def _number(self, node: ast.AST) -> float:
        value = self.value(node)
        if isinstance(value, Mapping):
            value = value["value"]
        if isinstance(value, int | float) and not isinstance(value, bool) and value == value:
            return value
        raise UndecidableError(f"--fail-if {self.condition!r}: {ast.unparse(node)!r} has no value here")

    def _figure(self, node: ast.Attribute) -> Any:
        if isinstance(node.value, ast.Name):
            known = self.figures.get(node.value.id)
            if known is None:
                raise UsageError(f"--fail-if {self.condition!r}: no recipe is called {node.value.id!r}",
                                 hint=suggest(node.value.id, self.figures))  # fmt: skip
        else:
            known = self.value(node.value)
        if not isinstance(known, Mapping) or node.attr not in known:
            names = known if isinstance(known, Mapping) else ()
            raise UsageError(f"--fail-if {self.condition!r}: there is no {ast.unparse(node)!r}",
                             hint=suggest(node.attr, names))  # fmt: skip
        return known[node.attr]
