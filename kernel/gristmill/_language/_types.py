"""What a value may be: the types that `check` infers and the run coerces to.

One closed table of coercions (`fit` before a run, `coerce` during it) serves both, so that what checks also
runs. It does not parse recipes or expressions. Invariant: `fit(type_of_value, target)` is None whenever
`coerce(value, target)` succeeds for every value of that type; "any" is checked at run time only.

Coercions between results, beyond equal types:
    integer -> number; integer and number never from text; a value that has a text (Completion, Choice, Passage,
    Vote, Candidate) -> string; string, and a value that has a text -> Candidate; text -> path; a mapping -> the model
    with those fields; a model -> one it is derived from; nulls are dropped where a list of Candidates is wanted.

It is long because it is one table: what each type takes from each other one.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter, ValidationError

from gristmill._values import Candidate, Choice, Completion, Passage, Value, plain

Kind = Literal["any", "null", "boolean", "integer", "number", "string", "path", "list", "map", "record", "union"]


@dataclass(frozen=True, slots=True)
class Type:
    """One type. `item` belongs to list and map, `fields` to record, `options` to union, `literals` to string."""

    kind: Kind
    name: str = ""
    item: Type | None = None
    fields: Mapping[str, Type] = field(default_factory=dict, hash=False)
    options: tuple[Type, ...] = ()
    literals: tuple[Any, ...] = ()
    nullable: bool = False
    has_text: bool = False
    """A record that stands for its text in a prompt and where a string is wanted."""
    python: Any = field(default=None, hash=False, compare=False)

    def __str__(self) -> str:
        text = self._base_text()
        return f"{text} or null" if self.nullable and self.kind not in ("any", "null") else text

    def _base_text(self) -> str:
        if self.kind == "list":
            return f"list of {self.item}" if self.item and self.item.kind != "any" else "list"
        if self.kind == "map":
            return f"mapping to {self.item}" if self.item and self.item.kind != "any" else "mapping"
        if self.kind == "record":
            return self.name or "mapping with " + ", ".join(self.fields)
        if self.kind == "union":
            return " or ".join(str(option) for option in self.options)
        if self.literals:
            return " or ".join(repr(literal) for literal in self.literals)
        return self.kind

    def or_null(self) -> Type:
        return self if self.nullable or self.kind in ("any", "null") else dataclasses.replace(self, nullable=True)

    def not_null(self) -> Type:
        return dataclasses.replace(self, nullable=False) if self.nullable else self


ANY = Type("any")
NULL = Type("null", nullable=True)
BOOLEAN = Type("boolean")
INTEGER = Type("integer")
NUMBER = Type("number")
STRING = Type("string")
PATH = Type("path")
ANY_LIST = Type("list", item=ANY)
ANY_MAP = Type("map", item=ANY)


def list_of(item: Type) -> Type:
    return Type("list", item=item)


def union(*options: Type) -> Type:
    """Join types; equal ones collapse, a null makes the rest nullable, and "any" swallows all."""
    flat: list[Type] = []
    nullable = False
    for option in options:
        nullable = nullable or option.nullable or option.kind == "null"
        for part in option.options if option.kind == "union" else (option,):
            bare = part.not_null()
            if bare.kind == "null":
                continue
            if bare.kind == "string" and any(seen.kind == "string" for seen in flat):
                flat = [seen if seen.kind != "string" else _join_strings(seen, bare) for seen in flat]
            elif bare not in flat:
                flat.append(bare)
    if any(part.kind == "any" for part in flat):
        return ANY
    kinds = {part.kind for part in flat}
    if kinds == {"integer", "number"}:
        flat = [NUMBER]
    if not flat:
        return NULL
    joined = flat[0] if len(flat) == 1 else Type("union", options=tuple(flat))
    return joined.or_null() if nullable else joined


def _join_strings(left: Type, right: Type) -> Type:
    if not left.literals or not right.literals:
        return STRING
    return Type("string", literals=tuple(dict.fromkeys(left.literals + right.literals)))


_SCALARS: dict[Any, Type] = {
    bool: BOOLEAN,
    int: INTEGER,
    float: NUMBER,
    str: STRING,
    bytes: STRING,
    type(None): NULL,
    Any: ANY,
    object: ANY,
    Path: PATH,
    list: ANY_LIST,
    dict: ANY_MAP,
}


def type_of(annotation: Any) -> Type:
    """Return the type of a Python annotation; what has no counterpart here is "any"."""
    if isinstance(annotation, typing.TypeAliasType if hasattr(typing, "TypeAliasType") else ()):
        return type_of(annotation.__value__)
    if annotation is None:
        return NULL
    try:
        if annotation in _SCALARS:
            return _SCALARS[annotation]
    except TypeError:
        return ANY
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_of(arguments[0])
    if origin is Literal:
        return Type("string", literals=arguments) if all(isinstance(a, str) for a in arguments) else ANY
    if origin in (typing.Union, types.UnionType):
        return union(*(type_of(argument) for argument in arguments))
    if isinstance(origin, type):
        return _generic_type(origin, arguments)
    if isinstance(annotation, type):
        return _class_type(annotation)
    return ANY


def _generic_type(origin: type, arguments: tuple[Any, ...]) -> Type:
    if issubclass(origin, Mapping):
        return Type("map", item=type_of(arguments[1]))
    if issubclass(origin, tuple):
        items = [type_of(argument) for argument in arguments if argument is not Ellipsis]
        return list_of(union(*items) if items else ANY)
    if issubclass(origin, typing.Iterable):
        return list_of(type_of(arguments[0]))
    return ANY


def _class_type(cls: type) -> Type:
    if issubclass(cls, enum.Enum):
        return Type("string", literals=tuple(str(member.value) for member in cls), python=cls)
    if issubclass(cls, BaseModel):
        fields = {name: type_of(info.annotation) for name, info in cls.model_fields.items()}
        has_text = issubclass(cls, Value) and cls.text_field is not None
        return Type("record", cls.__name__, fields=fields, has_text=has_text, python=cls)
    if dataclasses.is_dataclass(cls):
        hints = typing.get_type_hints(cls)
        fields = {part.name: type_of(hints[part.name]) for part in dataclasses.fields(cls)}
        return Type("record", cls.__name__, fields=fields, python=cls)
    for base, known in ((str, STRING), (bool, BOOLEAN), (int, INTEGER), (float, NUMBER), (Path, PATH)):
        if issubclass(cls, base):
            return known
    return ANY


COMPLETION = type_of(Completion)
CHOICE = type_of(Choice)

_SCHEMA_SCALARS = {"string": STRING, "integer": INTEGER, "number": NUMBER, "boolean": BOOLEAN, "null": NULL}


def type_of_schema(schema: Any) -> Type:
    """Return the type that a JSON Schema describes (constraints on values aside); where it recurs it is "any"."""
    return _SchemaReader(schema.get("$defs") if isinstance(schema, Mapping) else None).read(schema)


class _SchemaReader:
    """Reads one schema; each definition once, so that references cannot multiply."""

    def __init__(self, definitions: Any) -> None:
        self.definitions = definitions if isinstance(definitions, Mapping) else {}
        self.known: dict[str, Type] = {}

    def read(self, schema: Any) -> Type:
        if not isinstance(schema, Mapping):
            return ANY
        if isinstance(reference := schema.get("$ref"), str):
            return self._definition(reference.removeprefix("#/$defs/"))
        options = schema.get("anyOf") or schema.get("oneOf")
        if isinstance(options, list):
            return union(*(self.read(option) for option in options))
        values = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if isinstance(values, list):
            return union(*(type_of_value(value) for value in values)) if values else ANY
        kind = schema.get("type")
        if isinstance(kind, list):
            return union(*(self.read({**schema, "type": one}) for one in kind))
        if kind == "array":
            return list_of(self.read(schema.get("items")))
        if kind == "object" or "properties" in schema:
            return self._object(schema)
        return _SCHEMA_SCALARS.get(kind, ANY) if isinstance(kind, str) else ANY

    def _definition(self, name: str) -> Type:
        if name not in self.known:
            self.known[name] = ANY
            self.known[name] = self.read(self.definitions.get(name))
        return self.known[name]

    def _object(self, schema: Mapping[str, Any]) -> Type:
        properties = schema.get("properties")
        if not isinstance(properties, Mapping):
            return ANY_MAP
        required = schema.get("required")
        kept = required if isinstance(required, list) else ()
        fields = {name: self.read(part) for name, part in properties.items()}
        return Type("record", fields={name: t if name in kept else t.or_null() for name, t in fields.items()})


def type_of_value(value: Any) -> Type:
    """Return the narrowest type of a literal value; a text's type knows the text."""
    if value is None:
        return NULL
    if isinstance(value, bool):
        return BOOLEAN
    if isinstance(value, int):
        return INTEGER
    if isinstance(value, float):
        return NUMBER
    if isinstance(value, str):
        return Type("string", literals=(value,))
    if isinstance(value, list | tuple):
        return list_of(union(*(type_of_value(item) for item in value)) if value else ANY)
    if isinstance(value, BaseModel):
        return type_of(type(value))
    if isinstance(value, Mapping):
        return Type("record", fields={str(key): type_of_value(item) for key, item in value.items()})
    return ANY


_TO_CANDIDATE = ("string", "path")


def fit(source: Type, target: Type) -> str | None:
    """Return None if every value of `source` may be given where `target` is wanted, else why not.

    Nulls are reported apart from the rest, so that a caller can suggest a guard.
    """
    if source.kind == "any" or target.kind == "any":
        return None
    if source.kind == "null":
        return None if target.nullable else f"null is not {_article(target)}"
    if source.nullable and not target.nullable and not _drops_null(target):
        return f"this may be null, and {_article(target)} is wanted"
    if source.kind == "union":
        return next((why for part in source.options if (why := fit(part, target))), None)
    if target.kind == "union":
        reasons = [fit(source.not_null(), option) for option in target.options]
        return None if None in reasons else f"{_article(target)} is wanted, this is {_article(source)}"
    return None if _fits(source.not_null(), target) else f"{_article(target)} is wanted, this is {_article(source)}"


def _drops_null(target: Type) -> bool:
    return target.kind == "list" and target.item is not None and target.item.name == "Candidate"


def _article(type_: Type) -> str:
    text = str(type_.not_null())
    if type_.literals or type_.kind == "union":
        return text
    return ("an " if text[0] in "aeiou" else "a ") + text


def _fits(source: Type, target: Type) -> bool:
    if target.kind == "string":
        if source.kind == "string":
            return not (target.literals and source.literals) or set(source.literals) <= set(target.literals)
        return source.kind == "path" or source.has_text
    if target.kind == "path":
        return source.kind in ("path", "string") or source.has_text
    if target.kind == "number":
        return source.kind in ("integer", "number")
    if target.kind == "list":
        return source.kind == "list" and _items_fit(source.item or ANY, target)
    if target.kind == "map":
        return _map_fits(source, target)
    if target.kind == "record":
        return _record_fits(source, target)
    return source.kind == target.kind


def _items_fit(item: Type, target: Type) -> bool:
    return fit(item.not_null() if _drops_null(target) else item, target.item or ANY) is None


def _map_fits(source: Type, target: Type) -> bool:
    if source.kind == "map":
        return fit(source.item or ANY, target.item or ANY) is None
    return source.kind == "record" and all(fit(part, target.item or ANY) is None for part in source.fields.values())


def _record_fits(source: Type, target: Type) -> bool:
    if target.name == "Candidate" and (source.kind in _TO_CANDIDATE or source.has_text):
        return True
    if source.kind == "map":
        return not source.name
    if source.kind != "record":
        return False
    if source.name and target.name:
        return source.name == target.name or _is_subclass(source.python, target.python)
    if any(name not in source.fields for name in _required(target)):
        return False
    return all(name in target.fields and fit(part, target.fields[name]) is None for name, part in source.fields.items())


def _is_subclass(source: Any, target: Any) -> bool:
    return isinstance(source, type) and isinstance(target, type) and issubclass(source, target)


def _required(target: Type) -> list[str]:
    """Return the fields that a plain mapping must have; a class knows its own defaults."""
    return [] if target.python else [n for n, t in target.fields.items() if not t.nullable and t.kind != "any"]


class CoercionError(ValueError):
    """A value that does not fit its target; the text says why. Callers add where it stands."""


def coerce(value: Any, target: Type) -> Any:
    """Return `value` as a value of `target`, by the table above.

    Raises:
        CoercionError: it does not fit.
    """
    kind = target.kind
    if kind == "any":
        return value
    if value is None:
        if target.nullable:
            return None
        raise CoercionError(f"null is not {_article(target)}")
    if kind == "string" and type(value) is str and not target.literals:
        return value
    if kind == "union":
        return _coerce_union(value, target)
    converted = _COERCERS[kind](value, target)
    if converted is _NO_FIT:
        raise CoercionError(f"{_article(target)} is wanted, this is {shorten(value)}")
    return converted


_NO_FIT = object()


def shorten(value: Any, most: int = 60) -> str:
    """Show a value in a message: its repr, cut to `most` characters."""
    text = repr(plain(value)) if isinstance(value, BaseModel | list | dict | tuple) else repr(value)
    return text if len(text) <= most else text[: most - 1] + "…"


def _coerce_union(value: Any, target: Type) -> Any:
    exact = type_of_value(value)
    ordered = sorted(target.options, key=lambda option: not (option.kind == exact.kind and option.name == exact.name))
    for option in ordered:
        try:
            return coerce(value, option)
        except CoercionError:
            continue
    raise CoercionError(f"{_article(target)} is wanted, this is {shorten(value)}")


def _to_string(value: Any, target: Type) -> Any:
    text = value if isinstance(value, str) else _text_of(value)
    if text is None:
        return _NO_FIT
    if target.literals and text not in target.literals:
        allowed = ", ".join(repr(literal) for literal in target.literals)
        raise CoercionError(f"{text!r} is not one of {allowed}")
    return target.python(text) if target.python is not None else text


def _text_of(value: Any) -> str | None:
    if isinstance(value, Path):
        return str(value)
    return value.as_text() if isinstance(value, Value) else None


def _to_path(value: Any, _: Type) -> Any:
    text = value if isinstance(value, str) else _text_of(value)
    return _NO_FIT if text is None else Path(text)


def _to_number(value: Any, _: Type) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _NO_FIT
    if isinstance(value, float) and not math.isfinite(value):
        raise CoercionError(f"a finite number is wanted, this is {value!r}")
    return value


def _to_list(value: Any, target: Type) -> Any:
    if isinstance(value, str | bytes | Mapping | BaseModel) or not isinstance(value, list | tuple | set | frozenset):
        return _NO_FIT
    item = target.item or ANY
    if _drops_null(target):
        value = [part for part in value if part is not None]
    return [coerce(part, item) for part in value]


def _to_map(value: Any, target: Type) -> Any:
    if not isinstance(value, Mapping):
        return _NO_FIT
    return {str(key): coerce(part, target.item or ANY) for key, part in value.items()}


def _to_record(value: Any, target: Type) -> Any:
    cls = target.python
    if cls is not None and isinstance(value, cls):
        return value
    if target.name == "Candidate" and not isinstance(value, Mapping):
        return _to_candidate(value)
    if not isinstance(value, Mapping):
        return _NO_FIT
    if cls is None:
        missing = [name for name in _required(target) if name not in value]
        if missing:
            raise CoercionError(f"{' and '.join(map(repr, missing))} is missing in {shorten(value)}")
        return {key: coerce(part, target.fields.get(key, ANY)) for key, part in value.items()}
    try:
        return TypeAdapter(cls).validate_python(dict(value))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CoercionError(f"{_article(target)} is wanted: {where}: {first['msg']}") from error


def _to_candidate(value: Any) -> Any:
    text = value if isinstance(value, str) else _text_of(value)
    if text is None:
        return _NO_FIT
    logprobs = value.logprobs if isinstance(value, Completion) else None
    return Candidate(
        text=text,
        probabilities=getattr(value, "probabilities", None),
        source=value.source if isinstance(value, Passage) else None,
        logprob=None if logprobs is None else math.fsum(token.logprob for token in logprobs),
        n_tokens=None if logprobs is None else len(logprobs),
    )


_COERCERS: Mapping[str, Any] = {
    "null": lambda _value, _: _NO_FIT,
    "boolean": lambda value, _: value if isinstance(value, bool) else _NO_FIT,
    "integer": lambda value, _: value if isinstance(value, int) and not isinstance(value, bool) else _NO_FIT,
    "number": _to_number,
    "string": _to_string,
    "path": _to_path,
    "list": _to_list,
    "map": _to_map,
    "record": _to_record,
}
