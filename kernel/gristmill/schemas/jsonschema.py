"""The part of JSON Schema (2020-12) that answers can be constrained to, independent of any model.

`problems` says at `check` what generation would stumble over: an unsupported keyword is an error, never ignored.
It does not validate answers (the jsonschema package does, at run time) and makes no grammar (engines do). Invariant:
a schema without problems describes at least one value of bounded nesting, and an engine can generate values that
validate against it from the facts this module hands out.

Narrower than JSON Schema, on purpose: `items`, `properties` and the like imply their type; a `pattern` always
describes the whole text, anchored or not; an object gets the declared properties only, in the order they are
declared; numbers have at most 15 digits before the point.

This is longer than 400 lines because the keywords, the short form and the limits are one language: who changes one
has to see the others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

from gristmill._errors import suggest
from gristmill.schemas import regex as _regex

Path = tuple[str | int, ...]
Schema = Mapping[str, Any]

TYPES = ("string", "integer", "number", "boolean", "null", "array", "object")
ANNOTATIONS = frozenset({"title", "description", "default", "examples", "$comment", "$schema", "$id"})
"""Keywords that are accepted and have no effect."""
_BY_TYPE: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
        "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
        "array": frozenset({"items", "prefixItems", "minItems", "maxItems"}),
        "object": frozenset({"properties", "required", "additionalProperties"}),
    }
)
_ALTERNATIVES = ("anyOf", "oneOf")
SCHEMA_KEYWORDS = frozenset({"type", "enum", "const", "$ref", "$defs", *_ALTERNATIVES}).union(*_BY_TYPE.values())
"""Keywords that are supported; each has an effect on what is generated."""
_UNSUPPORTED = frozenset(
    [
        "allOf",
        "not",
        "if",
        "then",
        "else",
        "dependentSchemas",
        "dependentRequired",
        "contains",
        "minContains",
        "maxContains",
        "uniqueItems",
        "patternProperties",
        "propertyNames",
        "minProperties",
        "maxProperties",
        "unevaluatedItems",
        "unevaluatedProperties",
        "multipleOf",
        "additionalItems",
        "definitions",
        "$anchor",
        "$dynamicRef",
        "$dynamicAnchor",
        "$vocabulary",
        "contentEncoding",
        "contentMediaType",
        "contentSchema",
        "readOnly",
        "writeOnly",
        "deprecated",
        "nullable",
        "discriminator",
    ]
)
_ADVICE: Mapping[str, str] = MappingProxyType(
    {
        "definitions": "write '$defs'",
        "nullable": "write type: [string, 'null'], or whatever the other type is",
        "allOf": "write the one schema that they amount to",
        "multipleOf": "use type integer",
        "patternProperties": "list the properties",
        "additionalItems": "write 'items' beside 'prefixItems'",
        "discriminator": "leave it out: oneOf with a const in each option says the same",
    }
)

_LEAP_PAIRS = "(?:0[48]|[2468][048]|[13579][26])"
_DATE = (
    r"[1-9]\d{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)"
    r"|02-(?:0[1-9]|1\d|2[0-8]))"
    rf"|(?:[1-9]\d{_LEAP_PAIRS}|(?:[2468][048]|[13579][26])00)-02-29"
)
_TIME = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:Z|[+\-](?:[01]\d|2[0-3]):[0-5]\d)"
_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
FORMATS: Mapping[str, str] = MappingProxyType(
    {
        "date": _DATE,
        "time": _TIME,
        "date-time": rf"(?:{_DATE})T{_TIME}",
        "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
        "email": r"[A-Za-z0-9_+\-]{1,20}(?:\.[A-Za-z0-9_+\-]{1,20}){0,2}"
        r"@[A-Za-z0-9](?:[A-Za-z0-9\-]{0,20}[A-Za-z0-9])?(?:\.[A-Za-z]{2,12}){1,3}",
        "ipv4": rf"{_OCTET}(?:\.{_OCTET}){{3}}",
    }
)
"""The formats that are enforced, as patterns of `_regex`'s subset that allow nothing outside the format."""

MAX_NODES = 2000
MAX_DEPTH = 32
MAX_LENGTH = 1000
"""The largest minLength, maxLength, minItems or maxItems."""
MAX_REPEATS = 10_000
"""The sum of all bounded repetitions in one schema."""
MAX_ENUM = 1000
NUMBER_DIGITS = 15
FRACTION_DIGITS = 6
"""The most digits behind the point that a `number` with bounds has, unless its bounds have nearly as many."""


@dataclass(frozen=True, slots=True)
class SchemaProblem:
    """What is wrong with a schema; `path` leads to it through the schema as it was written."""

    path: Path
    message: str

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.path)) or 'schema'}: {self.message}"


# -- facts that `problems` checks and engines generate from ------------------------------------------------------------


def types_of(schema: Schema) -> tuple[str, ...]:
    """Return the types a schema allows, written or implied; all of them when it says nothing."""
    written = schema.get("type")
    if isinstance(written, str):
        return (written,)
    if isinstance(written, list):
        return tuple(written)
    implied = tuple(kind for kind, keywords in _BY_TYPE.items() if keywords & schema.keys())
    return implied or TYPES


def is_anything(schema: Any) -> bool:
    """Whether a schema allows every value: `true`, or nothing but annotations."""
    return schema is True or (isinstance(schema, Mapping) and not schema.keys() - ANNOTATIONS - {"$defs"})


def reference(schema: Schema, root: Schema) -> Any:
    """Return the schema that `$ref` means, or None: only `#/$defs/NAME` means anything."""
    target, definitions = schema["$ref"], root.get("$defs")
    if not isinstance(target, str) or not target.startswith("#/$defs/") or not isinstance(definitions, Mapping):
        return None
    return definitions.get(_definition_name(target))


def _definition_name(target: str) -> str:
    return unquote(target.removeprefix("#/$defs/")).replace("~1", "/").replace("~0", "~")


def text_pattern(schema: Schema) -> _regex.Pattern | None:
    """Return what a string schema's `pattern` or `format` describes, or None when it has neither.

    Raises:
        PatternError: the pattern is not in the subset.
    """
    if "format" in schema:
        return _regex.parse(FORMATS[schema["format"]])
    return _regex.parse(schema["pattern"]) if "pattern" in schema else None


def scaled_bounds(schema: Schema, *, digits: int) -> tuple[int | None, int | None]:
    """Return the least and the greatest value that the bounds allow, in units of 10**-digits; None is no bound."""

    def bound(inclusive: str, exclusive: str, rounding: str, step: int) -> int | None:
        found: list[int] = []
        for key, shift in ((inclusive, 0), (exclusive, step)):
            if key in schema:
                exact = Decimal(str(schema[key])).scaleb(digits)
                whole = exact.to_integral_value(rounding=rounding)
                found.append(int(whole) + (shift if whole == exact else 0))
        return (max(found) if step > 0 else min(found)) if found else None

    return (
        bound("minimum", "exclusiveMinimum", ROUND_CEILING, 1),
        bound("maximum", "exclusiveMaximum", ROUND_FLOOR, -1),
    )


def number_range(schema: Schema, *, integer: bool) -> tuple[int, int, int]:
    """Return (least, greatest, digits) of what is generated for a bounded number, in units of 10**-digits."""
    digits = 0 if integer else _fraction_digits(schema)
    low, high = scaled_bounds(schema, digits=digits)
    most = 10**NUMBER_DIGITS - 1
    # A bound beyond what is generated anyway moves the other end: "at least 10**20" still describes something.
    ceiling = max(most, 10 * abs(low or 0) // 10**digits) * 10**digits
    floor = -max(most, 10 * abs(high or 0) // 10**digits) * 10**digits
    return (floor if low is None else low), (ceiling if high is None else high), digits


def _fraction_digits(schema: Schema) -> int:
    bounds = [schema[key] for key in _BY_TYPE["number"] if key in schema]
    written = max(map(_digits_behind_point, bounds))
    # Two more than the bounds have, so that something lies between 1e-9 and 2e-9; and with the digits before the
    # point no more than 15, or a numeral just inside a bound is read as the bound itself.
    wanted = max(FRACTION_DIGITS, written, min(written + 2, NUMBER_DIGITS))
    return min(wanted, max(0, NUMBER_DIGITS - max(map(_digits_before_point, bounds))))


def _digits_before_point(value: Any) -> int:
    return len(str(int(abs(value)))) if abs(value) >= 1 else 0


def _digits_behind_point(value: Any) -> int:
    exponent = Decimal(str(value)).normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


# -- the short form ----------------------------------------------------------------------------------------------------


def is_json_schema(value: Any) -> bool:
    """Whether a mapping is JSON Schema rather than the short form.

    It is when it has one of JSON Schema's keywords with a value of that keyword's kind at the top. Annotations do not
    tell: `{title: string}` is the short form of an object with a title; nor does `{items: [string]}`.
    """
    if not isinstance(value, Mapping):
        return False
    if any(key in value for key in ("$ref", "$defs", "$schema", "$id", "$comment")):
        return True
    return any(key in SCHEMA_KEYWORDS | _UNSUPPORTED and _tells(key, item) for key, item in value.items())


def _tells(key: str, value: Any) -> bool:
    if key == "type":
        return value in TYPES if isinstance(value, str) else _is_type_list(value)
    if key in ("properties", "items", "not", "if", "then", "else", "contains", "patternProperties", "definitions"):
        return isinstance(value, Mapping)
    if key in ("required", "enum", "anyOf", "oneOf", "allOf", "prefixItems"):
        return (isinstance(value, list) and key != "required") or _is_name_list(value)
    if key in ("pattern", "format"):
        return isinstance(value, str) and value not in TYPES
    if key == "const":
        return not isinstance(value, str | Mapping | list)
    return isinstance(value, bool | int | float)


def _is_type_list(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(item in TYPES for item in value if isinstance(item, str))


def _is_name_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) and item not in TYPES for item in value)


def read_schema(written: Any) -> tuple[dict[str, Any], list[SchemaProblem]]:
    """Return the JSON Schema that a recipe's `schema` means and everything wrong with it, at the paths as written."""
    if not isinstance(written, Mapping):
        return {}, [SchemaProblem((), f"a schema is a mapping, not {_kind(written)}")]
    if is_json_schema(written):
        return dict(written), problems(written)
    found: list[SchemaProblem] = []
    schema = _expand_fields(written, (), found)
    if not found:
        found = [SchemaProblem(_as_written(written, each.path), each.message) for each in problems(schema)]
    return schema, found


def _as_written(written: Any, path: Path) -> Path:
    """Return where a place in the expanded schema stands in the short form."""
    if not path or is_json_schema(written):
        return path
    if isinstance(written, Mapping) and path[0] == "properties" and len(path) > 1:
        return (path[1], *_as_written(written.get(path[1]), path[2:]))
    if isinstance(written, list) and path[0] == "items":
        return (0, *_as_written(written[0], path[1:]))
    return ()


def expand_short_form(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON Schema of a short form: an object with these fields, all required, no others allowed.

    A field is written as
        string, integer, number, boolean, null      a value of that type
        string|null, integer|string, ...            one of several types
        low|medium|high                             one of these texts (`null` among them is null)
        [string]                                    a list of them; the item is anything written here
        [1, 2, 3]                                   one of these values: two or more, texts other than types or numbers
        {street: string, city: string}              an object, in the short form
        {type: integer, minimum: 0}                 JSON Schema, told as by `is_json_schema`

    Raises:
        ValueError: a field is none of these; the text lists every such field.
    """
    found: list[SchemaProblem] = []
    schema = _expand_fields(fields, (), found)
    if found:
        raise ValueError("; ".join(map(str, found)))
    return schema


def _expand_fields(fields: Mapping[str, Any], path: Path, found: list[SchemaProblem]) -> dict[str, Any]:
    if not fields:
        found.append(SchemaProblem(path, "it names no fields"))
    if len(path) > MAX_DEPTH:
        found.append(SchemaProblem(path, f"it nests deeper than {MAX_DEPTH}"))
        return {}
    properties: dict[str, Any] = {}
    for name, written in fields.items():
        if isinstance(name, str):
            properties[name] = _expand(written, (*path, name), found)
        else:
            found.append(SchemaProblem((*path, str(name)), f"a field's name is a text: write {str(name)!r} in quotes"))
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _expand(written: Any, path: Path, found: list[SchemaProblem]) -> Any:
    if isinstance(written, str):
        return _expand_text(written, path, found)
    if isinstance(written, Mapping):
        return dict(written) if is_json_schema(written) else _expand_fields(written, path, found)
    if isinstance(written, list) and len(written) == 1:
        return {"type": "array", "items": _expand(written[0], (*path, 0), found)}
    if isinstance(written, list) and len(written) > 1 and _is_literal_list(written):
        return {"enum": list(written)}
    expected = "write a type, [type] for a list, a|b|c for one of several texts, or a mapping"
    found.append(SchemaProblem(path, f"{_kind(written)} is no type: {expected}"))
    return {}


def _is_literal_list(values: list[Any]) -> bool:
    return all(
        isinstance(value, bool | int | float) or (isinstance(value, str) and value not in TYPES) for value in values
    )


def _expand_text(written: str, path: Path, found: list[SchemaProblem]) -> dict[str, Any]:
    scalars = TYPES[:5]
    parts = [part.strip() for part in written.split("|")]
    if all(part in scalars for part in parts):
        return {"type": parts[0] if len(parts) == 1 else parts}
    if len(parts) == 1 or not all(parts):
        found.append(SchemaProblem(path, f"{written!r} is no type; {suggest(written, scalars)}"))
    elif mixed := [part for part in parts if part in scalars and part != "null"]:
        found.append(SchemaProblem(path, f"{written!r} mixes the type {mixed[0]} with texts: use anyOf in JSON Schema"))
    else:
        return {"enum": [None if part == "null" else part for part in parts]}
    return {}


# -- problems ----------------------------------------------------------------------------------------------------------


def problems(schema: Any) -> list[SchemaProblem]:
    """Return everything in a JSON Schema that an answer cannot be constrained to, in the schema's order."""
    checker = _Checker(schema if isinstance(schema, Mapping) else {})
    found = list(checker.node(schema, ()))
    if not found and checker.repeats > MAX_REPEATS:
        found.append(SchemaProblem((), f"its bounded repetitions sum up to more than {MAX_REPEATS:,}"))
    return found


class _Checker:
    def __init__(self, root: Schema) -> None:
        self.root = root
        self.n_nodes = 0
        self.repeats = 0

    def node(self, schema: Any, path: Path) -> Iterator[SchemaProblem]:
        self.n_nodes += 1
        if self.n_nodes > MAX_NODES:
            if self.n_nodes == MAX_NODES + 1:
                yield SchemaProblem(path, f"the schema has more than {MAX_NODES:,} parts")
            return
        if len(path) > 2 * MAX_DEPTH:
            yield SchemaProblem(path, f"the schema nests deeper than {MAX_DEPTH}")
            return
        if schema is False:
            yield SchemaProblem(path, "'false' allows no value at all")
        elif schema is not True and not isinstance(schema, Mapping):
            yield SchemaProblem(path, f"a schema is a mapping, not {_kind(schema)}")
        elif schema is not True:
            yield from self._mapping(schema, path)

    def _mapping(self, schema: Schema, path: Path) -> Iterator[SchemaProblem]:
        wrong = [*self._keywords(schema, path), *self._values(schema, path)]
        yield from wrong
        for index, (name, inner) in enumerate(_subschemas(schema)):
            if index < MAX_NODES:
                yield from self.node(inner, (*path, *name))
        if wrong:
            return  # what the keywords mean together is only asked of keywords that mean something
        yield from self._definitions(schema, path)
        if "$ref" in schema:
            yield from self._reference(schema, path)
        elif "enum" in schema or "const" in schema:
            yield from _literal_problems(schema, path)
        elif any(key in schema for key in _ALTERNATIVES):
            yield from self._alternatives(schema, path)
        else:
            yield from self._typed(schema, path)

    def _keywords(self, schema: Schema, path: Path) -> Iterator[SchemaProblem]:
        for key in schema:
            if key in SCHEMA_KEYWORDS or key in ANNOTATIONS:
                continue
            where = (*path, key if isinstance(key, str) else str(key))
            if key in _UNSUPPORTED:
                advice = f": {_ADVICE[key]}" if key in _ADVICE else ""
                yield SchemaProblem(where, f"the keyword {key!r} is not supported{advice}")
            else:
                known = suggest(str(key), SCHEMA_KEYWORDS)
                yield SchemaProblem(where, f"{key!r} is not a keyword of JSON Schema; {known}")

    def _values(self, schema: Schema, path: Path) -> Iterator[SchemaProblem]:
        for key, value in schema.items():
            if key in _VALUE_KINDS and (expected := _VALUE_KINDS[key](value)):
                yield SchemaProblem((*path, key), f"{key!r} wants {expected}, not {_shown(value)}")

    def _definitions(self, schema: Schema, path: Path) -> Iterator[SchemaProblem]:
        if "$defs" not in schema:
            return
        if path:
            yield SchemaProblem((*path, "$defs"), "'$defs' may stand at the top of the schema only")
            return
        for name in schema["$defs"]:
            if loop := _loop_through(name, self.root):
                yield SchemaProblem(
                    ("$defs", name), f"it refers to itself: {' -> '.join(loop)}; recursion is not supported"
                )

    def _reference(self, schema: Schema, path: Path) -> Iterator[SchemaProblem]:
        where, target = (*path, "$ref"), schema["$ref"]
        if beside := sorted(schema.keys() - ANNOTATIONS - {"$ref", "$defs"}):
            yield SchemaProblem(where, f"beside '$ref' nothing else is supported, and here is {beside[0]!r}")
        elif not target.startswith("#"):
            yield SchemaProblem(where, f"{target!r} is in another document: copy it to '$defs'")
        elif not target.startswith("#/$defs/"):
            yield SchemaProblem(where, f"{target!r} does not point into '$defs': only '#/$defs/NAME' is supported")
        elif reference(schema, self.root) is None:
            names = self.root.get("$defs")
            known = (
                suggest(_definition_name(target), map(str, names))
                if isinstance(names, Mapping)
                else "there is no '$defs'"
            )
            yield SchemaProblem(where, f"{target!r} is not defined; {known}")

    def _alternatives(self, schema: Schema, path: Path) -> Iterator[SchemaProblem]:
        key = next(key for key in _ALTERNATIVES if key in schema)
        if beside := sorted(schema.keys() - ANNOTATIONS - {key, "$defs"}):
            yield SchemaProblem(path, f"beside {key!r} nothing else is supported, and here is {beside[0]!r}")
        elif key == "oneOf" and (pair := _overlapping(schema[key], self.root)):
            yield SchemaProblem(
                (*path, key),
                f"options {pair[0] + 1} and {pair[1] + 1} may both match: use 'anyOf', or give each a required "
                "property with another 'const'",
            )

    def _typed(self, schema: Schema, path: Path) -> Iterator[SchemaProblem]:
        kinds = types_of(schema)
        implied = [kind for kind, keywords in _BY_TYPE.items() if keywords & schema.keys()]
        if "type" not in schema and len(implied) > 1:
            yield SchemaProblem(path, f"it has keywords of {' and of '.join(implied)}: say which 'type' it is")
            return
        for kind in implied:
            if kind not in kinds and not (kind == "number" and "integer" in kinds):
                keyword = next(key for key in schema if key in _BY_TYPE[kind])
                yield SchemaProblem((*path, keyword), f"{keyword!r} says nothing about {' or '.join(kinds)}")
        if "string" in implied:
            yield from self._string(schema, path)
        if "number" in implied:
            for kind in {"integer", "number"} & set(kinds):
                yield from _range_problems(schema, path, integer=kind == "integer")
        if "array" in implied:
            yield from self._array(schema, path)
        if "object" in implied:
            yield from _object_problems(schema, path)

    def _string(self, schema: Schema, path: Path) -> Iterator[SchemaProblem]:
        low, high = schema.get("minLength", 0), schema.get("maxLength")
        yield from self._length(low, high, "maxLength", path)
        if "pattern" in schema and "format" in schema:
            yield SchemaProblem((*path, "pattern"), "'pattern' and 'format' together are not supported")
            return
        key = "format" if "format" in schema else "pattern"
        try:
            pattern = text_pattern(schema)
        except _regex.PatternError as error:
            yield SchemaProblem((*path, "pattern"), f"the pattern {schema['pattern']!r:.80} is not supported: {error}")
            return
        if pattern is None:
            return
        self.repeats += _repeats(pattern)
        least, most = _regex.length_range(pattern)
        if least < low or (high is not None and (most is None or most > high)):
            span = f"{least} to {most}" if most is not None else f"{least} or more"
            yield SchemaProblem(
                (*path, key), f"it describes texts of {span} characters: say the length in the pattern alone"
            )

    def _array(self, schema: Schema, path: Path) -> Iterator[SchemaProblem]:
        low, high = schema.get("minItems", 0), schema.get("maxItems")
        yield from self._length(low, high, "maxItems", path)
        if schema.get("items") is False and low > len(schema.get("prefixItems", ())):
            yield SchemaProblem((*path, "items"), f"no items are allowed, and 'minItems' is {low}")

    def _length(self, low: int, high: int | None, key: str, path: Path) -> Iterator[SchemaProblem]:
        self.repeats += high if high is not None else low
        if high is not None and low > high:
            yield SchemaProblem((*path, key), f"{key!r} is {high} and the least is {low}: no value fits")


def _subschemas(schema: Schema) -> Iterator[tuple[Path, Any]]:
    for key in ("properties", "$defs"):
        if isinstance(schema.get(key), Mapping):
            for name, inner in schema[key].items():
                yield (key, name if isinstance(name, str) else str(name)), inner
    for key in ("anyOf", "oneOf", "prefixItems"):
        if isinstance(schema.get(key), list):
            for index, inner in enumerate(schema[key]):
                yield (key, index), inner
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), Mapping):
            yield (key,), schema[key]


def _loop_through(name: str, root: Schema) -> list[str] | None:
    """Return the names on the shortest way from a definition back to itself, or None."""
    came: dict[str, str] = {}
    waiting = [name]
    for current in waiting:
        for target in _references(root["$defs"].get(current)):
            if target == name:
                way = [name]
                while current != name:
                    way.append(current)
                    current = came[current]
                return [name, *reversed(way)]
            if target not in came and len(came) < MAX_NODES:
                came[target] = current
                waiting.append(target)
    return None


def _references(schema: Any) -> Iterator[str]:
    waiting, seen = [schema], 0
    while waiting and seen < MAX_NODES:
        seen += 1
        current = waiting.pop()
        if not isinstance(current, Mapping):
            continue
        if isinstance(target := current.get("$ref"), str) and target.startswith("#/$defs/"):
            yield _definition_name(target)
        waiting.extend(inner for _, inner in _subschemas(current))


def _repeats(pattern: _regex.Pattern) -> int:
    if isinstance(pattern, _regex.Characters):
        return 0
    if isinstance(pattern, _regex.Repeat):
        return max(pattern.low, pattern.high or 0) + _repeats(pattern.part)
    return sum(map(_repeats, pattern.parts if isinstance(pattern, _regex.Sequence) else pattern.options))


def _literal_problems(schema: Schema, path: Path) -> Iterator[SchemaProblem]:
    key = "enum" if "enum" in schema else "const"
    if beside := sorted(schema.keys() - ANNOTATIONS - {key, "type", "$defs"}):
        yield SchemaProblem(path, f"beside {key!r} only 'type' is supported, and here is {beside[0]!r}")
        return
    for value in schema["enum"] if key == "enum" else [schema["const"]]:
        if not _is_plain(value):
            yield SchemaProblem((*path, key), f"{_shown(value)} has no JSON form")
        elif "type" in schema and not any(_has_type(value, kind) for kind in types_of(schema)):
            yield SchemaProblem((*path, key), f"{_shown(value)} is not of type {' or '.join(types_of(schema))}")


def _range_problems(schema: Schema, path: Path, *, integer: bool) -> Iterator[SchemaProblem]:
    bounds = {key: schema[key] for key in schema if key in _BY_TYPE["number"]}
    for keyword, bound in bounds.items():
        if not integer and (abs(bound) >= 10**NUMBER_DIGITS or _digits_behind_point(bound) > NUMBER_DIGITS):
            many = f"more than {NUMBER_DIGITS} digits before or behind the point"
            yield SchemaProblem((*path, keyword), f"{_shown(bound)} has {many}, which a number is not generated with")
            return
    low, high, _ = number_range(schema, integer=integer)
    if low > high:
        kind = "integer" if integer else "number"
        yield SchemaProblem((*path, next(iter(bounds))), f"no {kind} lies within the bounds")


def _object_problems(schema: Schema, path: Path) -> Iterator[SchemaProblem]:
    properties = schema.get("properties", {})
    for name in properties:
        if not isinstance(name, str):
            yield SchemaProblem((*path, "properties", str(name)), f"a property's name is a text: write {str(name)!r}")
        elif not _is_plain(name):
            yield SchemaProblem((*path, "properties"), f"the name {name!r} has no JSON form")
    for name in schema.get("required", ()):
        if name not in properties:
            known = suggest(name, map(str, properties)) if properties else "there are no 'properties'"
            yield SchemaProblem((*path, "required"), f"it requires {name!r}, which 'properties' does not have; {known}")


def _overlapping(options: list[Any], root: Schema) -> tuple[int, int] | None:
    for second in range(len(options)):
        for first in range(second):
            if not _disjoint(options[first], options[second], root):
                return first, second
    return None


def _disjoint(left: Any, right: Any, root: Schema, depth: int = 0) -> bool:
    """Whether two schemas surely share no value; False when that cannot be told."""
    if depth > 8:
        return False
    lefts, rights = _options(left, root, 0), _options(right, root, 0)
    return all(_disjoint_plain(one, other, root, depth) for one in lefts for other in rights)


def _options(schema: Any, root: Schema, depth: int) -> list[Any]:
    """Return the schemas that a schema is a choice of, references followed."""
    if not isinstance(schema, Mapping) or depth > 8:
        return [schema]
    if "$ref" in schema:
        return _options(reference(schema, root), root, depth + 1)
    for key in _ALTERNATIVES:
        if key in schema:
            return [each for option in schema[key] for each in _options(option, root, depth + 1)]
    return [schema]


def _disjoint_plain(left: Any, right: Any, root: Schema, depth: int) -> bool:
    if not isinstance(left, Mapping) or not isinstance(right, Mapping):
        return False
    left_values, right_values = _literals(left), _literals(right)
    if left_values is not None and right_values is not None:
        return not {_canonical(value) for value in left_values} & {_canonical(value) for value in right_values}
    for values, other in ((left_values, right), (right_values, left)):
        if values is not None:
            return not any(_has_type(value, kind) for value in values for kind in types_of(other))
    kinds, other_kinds = (
        {"number" if kind == "integer" else kind for kind in types_of(each)} for each in (left, right)
    )
    if not kinds & other_kinds:
        return True
    if kinds & other_kinds != {"object"}:
        return False
    shared = set(left.get("required", ())) & set(right.get("required", ()))
    return any(
        _disjoint(left["properties"].get(name), right["properties"].get(name), root, depth + 1) for name in shared
    )


def _literals(schema: Schema) -> list[Any] | None:
    if isinstance(schema.get("enum"), list):
        return list(schema["enum"])
    return [schema["const"]] if "const" in schema else None


def _canonical(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 1 and 1.0 are one value to JSON Schema
    return json.dumps(value, sort_keys=True)


def _has_type(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return kind in ("integer", "number")
    classes: dict[str, type | tuple[type, ...]] = {
        "string": str,
        "number": float,
        "null": type(None),
        "array": list,
        "object": Mapping,
    }
    return kind in classes and isinstance(value, classes[kind])


def _is_plain(value: Any) -> bool:
    """Whether a value has a JSON text that UTF-8 can carry."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError):
        return False
    return True


# -- what a keyword's value may be: None, or words for what it wants -------------------------------------------------


def _wants(expected: str, fits: Callable[[Any], bool]) -> Callable[[Any], str | None]:
    return lambda value: None if fits(value) else expected


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_LENGTH


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 10**30


def _is_types(value: Any) -> bool:
    if isinstance(value, str):
        return value in TYPES
    return _is_text_list(value) and bool(value) and set(value) <= set(TYPES)


def _is_text_list(value: Any) -> bool:
    texts = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return texts and len(set(value)) == len(value)


def _fits_enum(value: Any) -> bool:
    return isinstance(value, list) and 0 < len(value) <= MAX_ENUM


_COUNT = _wants(f"a whole number from 0 to {MAX_LENGTH:,}", _is_count)
_NUMBER = _wants("a finite number of fewer than 30 digits", _is_number)
_SOME_SCHEMAS = _wants("a list with at least one schema", lambda value: isinstance(value, list) and bool(value))
_MAPPING = _wants("a mapping", lambda value: isinstance(value, Mapping))
_SCHEMA_OR_BOOLEAN = _wants("a schema, true or false", lambda value: isinstance(value, Mapping | bool))
_VALUE_KINDS: Mapping[str, Callable[[Any], str | None]] = MappingProxyType(
    {
        "type": _wants(f"one or several of {', '.join(TYPES)}", _is_types),
        "enum": _wants(f"a list of 1 to {MAX_ENUM:,} values", _fits_enum),
        "$ref": _wants("a text", lambda value: isinstance(value, str)),
        "$defs": _MAPPING,
        "anyOf": _SOME_SCHEMAS,
        "oneOf": _SOME_SCHEMAS,
        "prefixItems": _SOME_SCHEMAS,
        "properties": _MAPPING,
        "required": _wants("a list of different names", _is_text_list),
        "additionalProperties": _SCHEMA_OR_BOOLEAN,
        "items": _SCHEMA_OR_BOOLEAN,
        "pattern": _wants("a text", lambda value: isinstance(value, str)),
        "format": _wants(f"one of {', '.join(FORMATS)}", lambda value: isinstance(value, str) and value in FORMATS),
    }
    | dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), _COUNT)
    | dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _NUMBER)
)


def _kind(value: Any) -> str:
    names: Iterable[tuple[type, str]] = (
        (bool, "true or false"),
        (int, "a number"),
        (float, "a number"),
        (str, "a text"),
        (list, "a list"),
        (Mapping, "a mapping"),
    )
    return next((name for kind, name in names if isinstance(value, kind)), "null" if value is None else "that")


def _shown(value: Any) -> str:
    return repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:60]}..."
