"""The filters and tests of recipe expressions: the whole allow-list, each with its types.

A filter is a plain function whose annotated signature is its contract for the checker. It has no access to names,
objects' methods or anything outside its arguments. Invariant: no filter makes more than it was given times its
arguments, and what could grow says so first (`_bounded`).

It is long because it is a table: each filter with its arguments and its type.
"""

from __future__ import annotations

import inspect
import json
import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gristmill._language._types import ANY, BOOLEAN, INTEGER, STRING, Type, list_of, type_of, union
from gristmill._values import Value, plain

MOST_CHARS = 10_000_000
"""The longest text that an expression may make."""


class EvaluationError(ValueError):
    """An expression that failed; `offset` is set where it is known."""

    def __init__(self, message: str, offset: int = 0, end: int = 0) -> None:
        super().__init__(message)
        self.offset = offset
        self.end = end


class MissingError(EvaluationError):
    """A key or field that is not there: what `default` and `is defined` forgive."""


def to_text(value: Any) -> str:
    """Return what a value looks like in a prompt.

    Raises:
        EvaluationError: null, which has no text.
    """
    if type(value) is str:
        return value
    if value is None:
        raise EvaluationError("this is null, and null has no text: use `default`, or a condition")
    if isinstance(value, Value) and (text := value.as_text()) is not None:
        return text
    return str(value) if isinstance(value, str) else to_json(value)


def to_json(value: Any, indent: int | None = None) -> str:
    """Return JSON with non-ASCII letters kept."""
    return json.dumps(plain(value), ensure_ascii=False, indent=indent)


def data_of(value: Any) -> Any:
    """Return the text of a value that has one, so that `answer == "yes"` and `answer | upper` mean its text."""
    return value.as_text() if isinstance(value, Value) and value.text_field is not None else value


_KEYS = (str, int, float)  # tuples: a union would be made anew for every value that is looked up
_ORDERED = (list, tuple, str)


def member(value: Any, key: Any) -> Any:
    """Return `value.key`: a mapping's entry, a model's declared field, or a list's item; never a method.

    Raises:
        MissingError: there is none.
    """
    if not isinstance(key, _KEYS):
        raise MissingError(f"a key is text or a whole number, this is a {type(key).__name__}")
    if isinstance(value, Mapping):
        if key in value:
            return value[key]
        names = ", ".join(map(str, list(value)[:12])) or "nothing"
        raise MissingError(f"there is no key {key!r}: there is {names}")
    if isinstance(value, Value) or hasattr(type(value), "model_fields"):
        fields = type(value).model_fields
        if key in fields:
            return getattr(value, str(key))
        raise MissingError(f"{type(value).__name__} has no field {key!r}: it has {', '.join(fields)}")
    if isinstance(value, _ORDERED) and isinstance(key, int) and not isinstance(key, bool):
        if -len(value) <= key < len(value):
            return value[key]
        raise MissingError(f"there is no item {key}: there are {len(value)}")
    if hasattr(type(value), "__dataclass_fields__") and key in type(value).__dataclass_fields__:
        return getattr(value, str(key))
    if value is None:
        raise MissingError(f"null has no field {key!r}")
    raise MissingError(f"a {type(value).__name__} has no field {key!r}")


def _bounded(n_chars: int) -> None:
    if n_chars > MOST_CHARS:
        raise EvaluationError(f"the text would have more than {MOST_CHARS:,} characters")


def _default(value: Any, default: Any = "") -> Any:
    return default if value is None else value


def _join(value: list[Any], separator: str = "", attribute: str | None = None) -> str:
    parts = [to_text(item if attribute is None else _attribute(item, attribute)) for item in value]
    _bounded(sum(map(len, parts)) + len(separator) * len(parts))
    return separator.join(parts)


def _attribute(item: Any, path: str) -> Any:
    for key in path.split("."):
        item = member(item, int(key) if key.isdecimal() else key)
    return item


def _replace(value: str, old: str, new: str, count: int = -1) -> str:
    hits = value.count(old) if count < 0 else min(count, value.count(old))
    _bounded(len(value) + hits * max(0, len(new) - len(old)))
    return value.replace(old, new, count)


def _truncate(value: str, length: int = 255, killwords: bool = False, end: str = "…") -> str:
    if len(value) <= length:
        return value
    cut = value[: max(0, length - len(end))]
    return (cut if killwords else cut.rsplit(" ", 1)[0]) + end


def _indent(value: str, width: int = 4, first: bool = False) -> str:
    if not 0 <= width <= 100:
        raise EvaluationError("indent: width is from 0 to 100")
    _bounded(len(value) + width * value.count("\n"))
    pad = " " * width
    text = f"\n{pad}".join(value.split("\n"))
    return pad + text if first else text


def _int(value: str | float, default: int | None = None) -> int:
    try:
        return int(value) if not isinstance(value, str) else int(value.strip().replace(",", ""))
    except (ValueError, OverflowError):
        if default is not None:
            return default
        raise EvaluationError(f"int: {value!r} is no whole number; give a default: int(default=0)") from None


def _float(value: str | float, default: float | None = None) -> float:
    try:
        number = float(value) if not isinstance(value, str) else float(value.strip().replace(",", ""))
    except ValueError:
        number = math.nan
    if math.isfinite(number):
        return number
    if default is not None:
        return default
    raise EvaluationError(f"float: {value!r} is no number; give a default: float(default=0)")


def _round(value: float, precision: int = 0) -> float:
    return round(value, max(-20, min(20, precision)))


def _first(value: list[Any]) -> Any:
    return member(value, 0)


def _last(value: list[Any]) -> Any:
    return member(value, -1)


def _sort(value: list[Any], attribute: str | None = None, reverse: bool = False) -> list[Any]:
    def sort_key(item: Any) -> Any:
        return data_of(item if attribute is None else _attribute(item, attribute))

    try:
        return sorted(value, key=sort_key, reverse=reverse)
    except TypeError as error:
        raise EvaluationError(f"sort: these cannot be compared: {error}") from error


def _unique(value: list[Any], attribute: str | None = None) -> list[Any]:
    seen: dict[str, Any] = {}
    for item in value:
        seen.setdefault(to_json(item if attribute is None else _attribute(item, attribute)), item)
    return list(seen.values())


def _reverse(value: list[Any]) -> list[Any]:
    return list(reversed(value))


def _sum(value: list[Any], attribute: str | None = None, start: float = 0) -> float:
    numbers = [item if attribute is None else _attribute(item, attribute) for item in value]
    if not all(isinstance(number, int | float) for number in numbers):
        raise EvaluationError("sum: all items must be numbers")
    return sum(numbers, start)


def _extreme(choose: Callable[..., Any]) -> Callable[..., Any]:
    def extreme(value: list[Any], attribute: str | None = None) -> Any:
        if not value:
            raise EvaluationError(f"{choose.__name__}: the list is empty")
        try:
            return choose(value, key=lambda item: data_of(item if attribute is None else _attribute(item, attribute)))
        except TypeError as error:
            raise EvaluationError(f"{choose.__name__}: these cannot be compared: {error}") from error

    return extreme


def _map(value: list[Any], name: str | None = None, attribute: str | None = None) -> list[Any]:
    if (name is None) == (attribute is None):
        raise EvaluationError("map: give a filter's name, or attribute=")
    if attribute is not None:
        return [_attribute(item, attribute) for item in value]
    if name not in MAPPABLE:
        raise EvaluationError(f"map: {name!r} is not one of {', '.join(sorted(MAPPABLE))}")
    call = FILTERS[str(name)].call
    return [call(data_of(item)) for item in value]


def _select(value: list[Any], test: str = "true", argument: Any = None) -> list[Any]:
    return [item for item in value if _passes(item, test, argument)]


def _reject(value: list[Any], test: str = "true", argument: Any = None) -> list[Any]:
    return [item for item in value if not _passes(item, test, argument)]


def _selectattr(value: list[Any], attribute: str, test: str = "true", argument: Any = None) -> list[Any]:
    return [item for item in value if _passes(_attribute(item, attribute), test, argument)]


def _rejectattr(value: list[Any], attribute: str, test: str = "true", argument: Any = None) -> list[Any]:
    return [item for item in value if not _passes(_attribute(item, attribute), test, argument)]


def _passes(value: Any, test: str, argument: Any) -> bool:
    if test not in TESTS:
        raise EvaluationError(f"{test!r} is not a test: there is {', '.join(sorted(TESTS))}")
    try:
        return bool(TESTS[test](data_of(value), argument))
    except TypeError as error:
        raise EvaluationError(f"{test}: these cannot be compared: {error}") from error


def _batch(value: list[Any], size: int) -> list[list[Any]]:
    if size < 1:
        raise EvaluationError("batch: size is 1 or more")
    return [value[start : start + size] for start in range(0, len(value), size)]


def _length(value: str | list[Any] | dict[str, Any]) -> int:
    if isinstance(value, str | list | tuple | Mapping):
        return len(value)
    raise EvaluationError(f"length: a {type(value).__name__} has none")


def _items(value: dict[str, Any]) -> list[list[Any]]:
    return [[key, item] for key, item in value.items()]


def _abs(value: float) -> float:
    return abs(value)


def _string(value: Any) -> str:
    return to_text(value)


def _list(value: str | list[Any] | dict[str, Any]) -> list[Any]:
    if isinstance(value, Mapping | list | tuple | str):
        return list(value)
    raise EvaluationError(f"list: a {type(value).__name__} is no list")


def _tojson(value: Any, indent: int | None = None) -> str:
    return to_json(value, None if indent is None else max(0, min(8, indent)))


def _text(call: Callable[[str], Any]) -> Callable[..., Any]:
    def text(value: str) -> str:
        return str(call(value))

    return text


def _wordcount(value: str) -> int:
    return len(value.split())


def _lines(value: str) -> list[str]:
    return value.splitlines()


def _trim(value: str, chars: str | None = None) -> str:
    return value.strip(chars)


@dataclass(frozen=True, slots=True)
class Filter:
    """One filter: what it takes (`subject`, then `arguments` by name), what it gives, and what runs."""

    call: Callable[..., Any]
    subject: Type
    arguments: Mapping[str, tuple[Type, bool]]
    """Name to type and whether it is required."""
    result: Callable[[Type, Mapping[str, Any]], Type]
    takes_text: bool


def _declare(call: Callable[..., Any], result: Callable[[Type, Mapping[str, Any]], Type] | None = None) -> Filter:
    hints = typing.get_type_hints(call)
    subject, *rest = inspect.signature(call).parameters.values()
    arguments = {part.name: (type_of(hints[part.name]), part.default is inspect.Parameter.empty) for part in rest}
    returned = type_of(hints["return"])
    return Filter(
        call,
        type_of(hints[subject.name]),
        arguments,
        result or (lambda _subject, _arguments: returned),
        takes_text=type_of(hints[subject.name]).kind in ("string", "union"),
    )


def _same(subject: Type, _: Mapping[str, Any]) -> Type:
    return subject


def _selected(subject: Type, arguments: Mapping[str, Any]) -> Type:
    drops_null = subject.item is not None and arguments.get("test", "true") == "true"
    return list_of(subject.item.not_null()) if subject.item and drops_null else subject


def _item(subject: Type, _: Mapping[str, Any]) -> Type:
    return (subject.item or ANY) if subject.kind == "list" else ANY


def _mapped(subject: Type, arguments: Mapping[str, Any]) -> Type:
    attribute = arguments.get("attribute")
    item = subject.item or ANY
    if isinstance(attribute, str) and item.kind == "record" and "." not in attribute:
        return list_of(item.fields.get(attribute, ANY))
    return list_of(STRING if arguments.get("name") in ("trim", "upper", "lower", "string", "tojson") else ANY)


def _defaulted(subject: Type, arguments: Mapping[str, Any]) -> Type:
    default = arguments.get("default:type")
    return union(subject.not_null(), default) if isinstance(default, Type) else ANY


FILTERS: Mapping[str, Filter] = {
    "abs": _declare(_abs, _same),
    "batch": _declare(_batch, lambda subject, _: list_of(subject)),
    "capitalize": _declare(_text(str.capitalize)),
    "count": _declare(_length),
    "d": _declare(_default, _defaulted),
    "default": _declare(_default, _defaulted),
    "first": _declare(_first, _item),
    "float": _declare(_float),
    "indent": _declare(_indent),
    "int": _declare(_int),
    "items": _declare(_items),
    "join": _declare(_join),
    "last": _declare(_last, _item),
    "length": _declare(_length),
    "lines": _declare(_lines),
    "list": _declare(_list, lambda subject, _: subject if subject.kind == "list" else list_of(ANY)),
    "lower": _declare(_text(str.lower)),
    "map": _declare(_map, _mapped),
    "max": _declare(_extreme(max), _item),
    "min": _declare(_extreme(min), _item),
    "reject": _declare(_reject, _same),
    "rejectattr": _declare(_rejectattr, _same),
    "replace": _declare(_replace),
    "reverse": _declare(_reverse, _same),
    "round": _declare(_round),
    "select": _declare(_select, _selected),
    "selectattr": _declare(_selectattr, _same),
    "sort": _declare(_sort, _same),
    "string": _declare(_string),
    "sum": _declare(_sum),
    "title": _declare(_text(str.title)),
    "tojson": _declare(_tojson),
    "trim": _declare(_trim),
    "truncate": _declare(_truncate),
    "unique": _declare(_unique, _same),
    "upper": _declare(_text(str.upper)),
    "wordcount": _declare(_wordcount),
}

MAPPABLE = frozenset(
    name for name, spec in FILTERS.items() if not any(required for _, required in spec.arguments.values())
) - {"map", "d", "default", "select", "reject"}


def _is_number(value: Any, _: Any = None) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _remainder(value: Any, divisor: Any) -> Any:
    if not (_is_number(value) and _is_number(divisor)):
        raise TypeError("only numbers can be divided")  # % on a text would format it
    return value % divisor


TESTS: Mapping[str, Callable[[Any, Any], Any]] = {
    "none": lambda value, _: value is None,
    "true": lambda value, _: bool(value),
    "false": lambda value, _: not value,
    "string": lambda value, _: isinstance(value, str),
    "number": _is_number,
    "integer": lambda value, _: isinstance(value, int) and not isinstance(value, bool),
    "boolean": lambda value, _: isinstance(value, bool),
    "mapping": lambda value, _: isinstance(value, Mapping),
    "sequence": lambda value, _: isinstance(value, list | tuple),
    "even": lambda value, _: _remainder(value, 2) == 0,
    "odd": lambda value, _: _remainder(value, 2) == 1,
    "divisibleby": lambda value, argument: _remainder(value, argument) == 0,
    "eq": lambda value, argument: value == argument,
    "==": lambda value, argument: value == argument,
    "ne": lambda value, argument: value != argument,
    "!=": lambda value, argument: value != argument,
    "lt": lambda value, argument: value < argument,
    "<": lambda value, argument: value < argument,
    "le": lambda value, argument: value <= argument,
    "<=": lambda value, argument: value <= argument,
    "gt": lambda value, argument: value > argument,
    ">": lambda value, argument: value > argument,
    "ge": lambda value, argument: value >= argument,
    ">=": lambda value, argument: value >= argument,
    "in": lambda value, argument: value in argument,
}
"""Tests by name, also for `is`; `defined` is the evaluator's, since its subject may be missing."""
TESTS_WITH_ARGUMENT = frozenset(
    ["divisibleby", "eq", "==", "ne", "!=", "lt", "<", "le", "<=", "gt", ">", "ge", ">=", "in"]
)

LOOP = Type(
    "record",
    "loop",
    fields={"index": INTEGER, "index0": INTEGER, "first": BOOLEAN, "last": BOOLEAN, "length": INTEGER},
)
