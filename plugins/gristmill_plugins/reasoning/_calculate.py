"""`reasoning.calculate`: arithmetic that a model can be trusted with.

A reader of its own, not Python's: numbers, + - * / // % ^, parentheses, percent signs and a few functions. Whole
numbers and fractions are exact. Invariant: whatever the text, it ends in bounded time and memory: its length,
its depth, the digits of every result and every exponent have limits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Annotated

from pydantic import Field

from gristmill import FunctionError, function, suggest
from gristmill_plugins.reasoning._numbers import to_number

MOST_CHARACTERS = 200
MOST_DEPTH = 40
MOST_BITS = 4_000
"""Of a numerator or denominator: 1,200 decimal digits."""

_TOKEN = re.compile(r"\s*(?:(\d+(?:,\d{3})+(?:\.\d+)?|\d+\.?\d*|\.\d+)|([A-Za-z]+)|(\*\*|//|[-+*/%^(),]))")
_SPELLED = str.maketrans("×·÷−–[]", "**/--()", "$€£")


class CalculateFunctions:
    """Computes."""

    @function(pure=True, version="1")
    async def calculate(
        self,
        expression: Annotated[
            str, Field(max_length=MOST_CHARACTERS, description="Arithmetic: 3 * (2 + 4.5), 2^10, sqrt(2), 15% of 80.")
        ],
    ) -> int | float:
        """Compute an arithmetic expression and return the number."""
        value = evaluate(expression)
        try:
            return to_number(value)
        except OverflowError as error:
            raise FunctionError(f"{expression!r} cannot be computed: its result is too large") from error


def evaluate(expression: str) -> Fraction:
    """Return the exact value of an expression (functions such as sqrt as close as a float comes).

    Raises:
        FunctionError: it is no expression, divides by zero, or goes beyond the limits.
    """
    if len(expression) > MOST_CHARACTERS:
        raise FunctionError(f"an expression has {MOST_CHARACTERS} characters at most, this has {len(expression)}")
    reader = _Reader(expression)
    value = reader.sum(0)
    if reader.place < len(reader.tokens):
        raise reader.fail(f"{reader.tokens[reader.place]!r} is not expected here")
    return value


class _Reader:
    """Reads by precedence: sums, products, signs, powers, then numbers, functions and parentheses."""

    def __init__(self, expression: str) -> None:
        self.expression = expression
        self.tokens: list[str] = []
        self.place = 0
        text = expression.translate(_SPELLED).strip().rstrip("=").rstrip()
        text = re.sub(r"%\s*of\b", "/100*", text)
        at = 0
        while at < len(text):
            hit = _TOKEN.match(text, at)
            if hit is None:
                raise self.fail(f"{text[at:].strip()[:1]!r} is not arithmetic")
            self.tokens.append(hit.group().strip())
            at = hit.end()
        if not self.tokens:
            raise FunctionError("the expression is empty")

    def fail(self, why: str) -> FunctionError:
        return FunctionError(f"{self.expression!r} cannot be computed: {why}")

    def take(self, *wanted: str) -> str | None:
        if self.place < len(self.tokens) and self.tokens[self.place] in wanted:
            self.place += 1
            return self.tokens[self.place - 1]
        return None

    def sum(self, depth: int) -> Fraction:
        if depth > MOST_DEPTH:
            raise self.fail(f"it nests deeper than {MOST_DEPTH}")
        value = self.product(depth)
        while sign := self.take("+", "-"):
            other = self.product(depth)
            value = self.bounded(value + other if sign == "+" else value - other)
        return value

    def product(self, depth: int) -> Fraction:
        value = self.signed(depth)
        while operator := self.take("*", "/", "//", "%"):
            if operator == "%" and self._ends_percent():
                value /= 100
                continue
            other = self.signed(depth)
            if operator != "*" and other == 0:
                raise self.fail("it divides by zero")
            value = self.bounded(_PRODUCTS[operator](value, other))
        return value

    def _ends_percent(self) -> bool:
        """Whether a % means "per cent": nothing that could be divided by follows."""
        following = self.tokens[self.place] if self.place < len(self.tokens) else ")"
        return following in ("+", "-", "*", "/", "//", "%", ")", ",", "^", "**")

    def signed(self, depth: int) -> Fraction:
        negative = False
        while sign := self.take("+", "-"):
            negative ^= sign == "-"
        value = self.power(depth)
        return -value if negative else value

    def power(self, depth: int) -> Fraction:
        if depth > MOST_DEPTH:
            raise self.fail(f"it nests deeper than {MOST_DEPTH}")
        base = self.atom(depth)
        if self.take("^", "**"):
            negative = bool(self.take("-"))
            exponent = self.power(depth + 1)
            return self.raised(base, -exponent if negative else exponent)
        return base

    def raised(self, base: Fraction, exponent: Fraction) -> Fraction:
        if base == 0 and exponent < 0:
            raise self.fail("it divides by zero")
        if exponent.denominator != 1:
            if base < 0:
                raise self.fail("a negative number has no root here")
            return self.inexact(lambda: float(base) ** float(exponent))
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if bits * abs(exponent.numerator) > MOST_BITS and abs(base) not in (0, 1):
            raise self.fail("its result is too large")
        small = exponent.numerator % 2 if abs(base) == 1 else exponent.numerator
        return base**small if base else Fraction(int(exponent == 0))

    def atom(self, depth: int) -> Fraction:
        if self.take("("):
            value = self.sum(depth + 1)
            self.close()
            return value
        if self.place >= len(self.tokens):
            raise self.fail("it ends too early")
        token = self.tokens[self.place]
        self.place += 1
        if token[0].isalpha():
            return self.named(token.lower(), depth)
        if not (token[0].isdigit() or token[0] == "."):
            raise self.fail(f"{token!r} is not expected here")
        return Fraction(token.replace(",", "").rstrip("."))

    def close(self) -> None:
        if not self.take(")"):
            raise self.fail("a parenthesis is not closed")

    def named(self, name: str, depth: int) -> Fraction:
        if name in _CONSTANTS:
            return Fraction(_CONSTANTS[name])
        if name not in _FUNCTIONS:
            known = suggest(name, [*_CONSTANTS, *_FUNCTIONS], most=20)
            raise FunctionError(f"{self.expression!r} cannot be computed: {name!r} is no function", hint=known)
        if not self.take("("):
            raise self.fail(f"{name} needs its arguments in parentheses")
        arguments = [self.sum(depth + 1)]
        while self.take(","):
            arguments.append(self.sum(depth + 1))
        self.close()
        return self.inexact(lambda: _FUNCTIONS[name](*arguments))

    def inexact(self, compute: Callable[[], Fraction | float | int]) -> Fraction:
        try:
            return self.bounded(Fraction(compute()))
        except (ValueError, OverflowError, ZeroDivisionError, TypeError) as error:
            raise self.fail(str(error)) from error

    def bounded(self, value: Fraction) -> Fraction:
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > MOST_BITS:
            raise self.fail("its result is too large")
        return value


def _rounded(value: Fraction, digits: Fraction = Fraction(0)) -> Fraction:
    if digits.denominator != 1 or abs(digits) > 50:
        raise ValueError("round takes a number of digits from -50 to 50")
    return Fraction(round(value, int(digits)))


def _root(value: Fraction) -> Fraction | float:
    if value < 0:
        raise ValueError("a negative number has no root here")
    top, bottom = math.isqrt(value.numerator), math.isqrt(value.denominator)
    exact = top * top == value.numerator and bottom * bottom == value.denominator
    return Fraction(top, bottom) if exact else math.sqrt(value)


_CONSTANTS = {"pi": math.pi, "e": math.e}
_FUNCTIONS: dict[str, Callable[..., Fraction | float | int]] = {
    "abs": abs,
    "ceil": math.ceil,
    "exp": math.exp,
    "floor": math.floor,
    "ln": math.log,
    "log": lambda value, base=Fraction(10): math.log(value, base),
    "max": max,
    "min": min,
    "round": _rounded,
    "sqrt": _root,
}
_PRODUCTS: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "//": lambda a, b: Fraction(a // b),
    "%": lambda a, b: a % b,
}
