# ruff: noqa: E501  (a table reads best with one case to a line)
"""The part of JSON Schema that recipes may use: what is in it, what is told about the rest, and the short form."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.schemas import jsonschema as _jsonschema
from gristmill.schemas.jsonschema import (
    ANNOTATIONS,
    SCHEMA_KEYWORDS,
    SchemaProblem,
    expand_short_form,
    is_json_schema,
    problems,
    read_schema,
)


def told(schema: Any) -> list[str]:
    return [str(problem) for problem in problems(schema)]


SOUND: list[Any] = [
    True,
    {},
    {"title": "Anything", "description": "d", "default": 1, "examples": [1], "$comment": "c"},
    {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "x", "type": "null"},
    {"type": ["string", "null"], "minLength": 1, "maxLength": 1000},
    {"pattern": "^[a-z]+$"},
    {"type": "string", "format": "date-time"},
    {"type": "integer", "minimum": 0, "exclusiveMaximum": 10},
    {"exclusiveMinimum": 0.5, "maximum": 0.75},
    {"type": "integer", "minimum": 10**20},
    {"enum": [1, "a", None, [1], {"a": 1}]},
    {"type": ["integer", "string"], "enum": [1, "a"]},
    {"const": {"a": [1, 2.5]}, "type": "object"},
    {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3},
    {"prefixItems": [{"type": "integer"}, {}], "items": False, "minItems": 2},
    {"properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False},
    {"type": "object", "additionalProperties": {"type": "integer"}},
    {"type": "object"},
    {"anyOf": [{"type": "string"}, {"type": "null"}], "title": "t", "default": None},
    {"oneOf": [{"type": "string"}, {"type": "integer"}]},
    {"oneOf": [{"enum": ["a", "b"]}, {"const": "c"}]},
    {
        "oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}],
        "$defs": {
            "cat": {"properties": {"kind": {"const": "cat"}}, "required": ["kind"]},
            "dog": {"properties": {"kind": {"enum": ["dog"]}}, "required": ["kind"]},
        },
    },
    {"$ref": "#/$defs/a~1b%20c", "$defs": {"a/b c": {"type": "null"}}},
    {"properties": {"x": {"$ref": "#/$defs/p"}, "y": {"$ref": "#/$defs/p"}}, "$defs": {"p": {"type": "number"}}},
]


@pytest.mark.parametrize("schema", SOUND, ids=str)
def test_a_schema_within_the_subset_has_no_problems(schema: Any) -> None:
    assert told(schema) == []


def test_every_keyword_of_the_subset_is_accepted_somewhere_and_none_is_an_annotation() -> None:
    used: set[str] = set()

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            used.update(value)
            for item in value.values():
                collect(item)
        elif isinstance(value, list):
            for item in value:
                collect(item)

    collect(SOUND)
    assert used >= SCHEMA_KEYWORDS | ANNOTATIONS
    assert not SCHEMA_KEYWORDS & ANNOTATIONS


LOOP = {"a": {"items": {"$ref": "#/$defs/b"}}, "b": {"properties": {"c": {"$ref": "#/$defs/a"}}}}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ("string", ["schema: a schema is a mapping, not a text"]),
        (None, ["schema: a schema is a mapping, not null"]),
        (False, ["schema: 'false' allows no value at all"]),
        ({"type": "text"}, ["type: 'type' wants one or several of string, integer, number, boolean, null, array, object, not 'text'"]),
        ({"type": []}, ["type: 'type' wants one or several of string, integer, number, boolean, null, array, object, not []"]),
        ({"type": "string", "minLenght": 3}, ["minLenght: 'minLenght' is not a keyword of JSON Schema; did you mean 'minLength'?"]),
        ({"type": "string", "not": {}}, ["not: the keyword 'not' is not supported"]),
        ({"allOf": [{}]}, ["allOf: the keyword 'allOf' is not supported: write the one schema that they amount to"]),
        ({"type": "integer", "multipleOf": 2}, ["multipleOf: the keyword 'multipleOf' is not supported: use type integer"]),
        ({"type": "array", "uniqueItems": True}, ["uniqueItems: the keyword 'uniqueItems' is not supported"]),
        ({1: "x"}, ["1: 1 is not a keyword of JSON Schema; there is: "]),
        ({"type": "string", "minLength": "3"}, ["minLength: 'minLength' wants a whole number from 0 to 1,000, not '3'"]),
        ({"type": "string", "maxLength": 5000}, ["maxLength: 'maxLength' wants a whole number from 0 to 1,000, not 5000"]),
        ({"type": "array", "minItems": True}, ["minItems: 'minItems' wants a whole number from 0 to 1,000, not True"]),
        ({"type": "string", "minLength": 3, "maxLength": 2}, ["maxLength: 'maxLength' is 2 and the least is 3: no value fits"]),
        ({"type": "array", "minItems": 3, "maxItems": 2}, ["maxItems: 'maxItems' is 2 and the least is 3: no value fits"]),
        ({"type": "array", "items": False, "minItems": 1}, ["items: no items are allowed, and 'minItems' is 1"]),
        ({"type": "array", "items": []}, ["items: 'items' wants a schema, true or false, not []"]),
        ({"type": "array", "prefixItems": []}, ["prefixItems: 'prefixItems' wants a list with at least one schema, not []"]),
        ({"type": "integer", "maxLength": 3}, ["maxLength: 'maxLength' says nothing about integer"]),
        ({"minLength": 1, "minItems": 1}, ["schema: it has keywords of string and of array: say which 'type' it is"]),
        ({"type": "integer", "minimum": 2.5, "maximum": 2.9}, ["minimum: no integer lies within the bounds"]),
        ({"type": "number", "exclusiveMinimum": 1, "maximum": 1}, ["exclusiveMinimum: no number lies within the bounds"]),
        ({"type": "number", "minimum": float("nan")}, ["minimum: 'minimum' wants a finite number of fewer than 30 digits, not nan"]),
        ({"type": "number", "minimum": "1"}, ["minimum: 'minimum' wants a finite number of fewer than 30 digits, not '1'"]),
        ({"type": "number", "minimum": 1e-20}, ["minimum: 1e-20 has more than 15 digits before or behind the point, which a number is not generated with"]),
        ({"type": "number", "maximum": 10**15}, ["maximum: 1000000000000000 has more than 15 digits before or behind the point"]),
        ({"type": "number", "maximum": 1e300}, ["maximum: 'maximum' wants a finite number of fewer than 30 digits, not 1e+300"]),
        ({"enum": []}, ["enum: 'enum' wants a list of 1 to 1,000 values, not []"]),
        ({"enum": [1, "a"], "type": "string"}, ["enum: 1 is not of type string"]),
        ({"const": float("inf")}, ["const: inf has no JSON form"]),
        ({"const": "\ud800"}, ["const: '\\ud800' has no JSON form"]),
        ({"enum": [1], "minimum": 0}, ["schema: beside 'enum' only 'type' is supported, and here is 'minimum'"]),
        ({"enum": [1], "const": 1}, ["schema: beside 'enum' only 'type' is supported, and here is 'const'"]),
        ({"anyOf": []}, ["anyOf: 'anyOf' wants a list with at least one schema, not []"]),
        ({"anyOf": [{}], "type": "string"}, ["schema: beside 'anyOf' nothing else is supported, and here is 'type'"]),
        ({"anyOf": [{}], "oneOf": [{}]}, ["schema: beside 'anyOf' nothing else is supported, and here is 'oneOf'"]),
        ({"anyOf": [{"type": "x"}]}, ["anyOf.0.type: 'type' wants one or several of string, integer, number, boolean, null, array, object, not 'x'"]),
        (
            {"oneOf": [{"type": "integer"}, {"type": "number"}]},
            ["oneOf: options 1 and 2 may both match: use 'anyOf', or give each a required property with another 'const'"],
        ),
        ({"$ref": "https://example.org/s"}, ["$ref: 'https://example.org/s' is in another document: copy it to '$defs'"]),
        ({"$ref": "#"}, ["$ref: '#' does not point into '$defs': only '#/$defs/NAME' is supported"]),
        ({"$ref": "#/properties/a"}, ["$ref: '#/properties/a' does not point into '$defs': only '#/$defs/NAME' is supported"]),
        ({"$ref": 3}, ["$ref: '$ref' wants a text, not 3"]),
        ({"$ref": "#/$defs/x"}, ["$ref: '#/$defs/x' is not defined; there is no '$defs'"]),
        ({"$ref": "#/$defs/nam", "$defs": {"name": {}}}, ["$ref: '#/$defs/nam' is not defined; did you mean 'name'?"]),
        ({"$ref": "#/$defs/a", "type": "string", "$defs": {"a": {}}}, ["$ref: beside '$ref' nothing else is supported, and here is 'type'"]),
        ({"$defs": []}, ["$defs: '$defs' wants a mapping, not []"]),
        ({"items": {"$defs": {}}}, ["items.$defs: '$defs' may stand at the top of the schema only"]),
        (
            {"$ref": "#/$defs/a", "$defs": LOOP},
            [
                "$defs.a: it refers to itself: a -> b -> a; recursion is not supported",
                "$defs.b: it refers to itself: b -> a -> b; recursion is not supported",
            ],
        ),
        ({"$defs": {"x": {"$ref": "#/$defs/x"}}}, ["$defs.x: it refers to itself: x -> x; recursion is not supported"]),
        ({"properties": []}, ["properties: 'properties' wants a mapping, not []"]),
        ({"properties": {1: {}}}, ["properties.1: a property's name is a text: write '1'"]),
        ({"properties": {"\ud800": {}}}, ["properties: the name '\\ud800' has no JSON form"]),
        ({"properties": {"a": {}}, "required": ["b"]}, ["required: it requires 'b', which 'properties' does not have; there is: a"]),
        ({"required": ["b"]}, ["required: it requires 'b', which 'properties' does not have; there are no 'properties'"]),
        ({"required": ["b", "b"]}, ["required: 'required' wants a list of different names, not ['b', 'b']"]),
        ({"properties": {"a": 3}}, ["properties.a: a schema is a mapping, not a number"]),
        ({"additionalProperties": "no"}, ["additionalProperties: 'additionalProperties' wants a schema, true or false, not 'no'"]),
        ({"format": "hostname"}, ["format: 'format' wants one of date, time, date-time, uuid, email, ipv4, not 'hostname'"]),
        ({"format": "date", "pattern": "a"}, ["pattern: 'pattern' and 'format' together are not supported"]),
        ({"format": "date", "maxLength": 5}, ["format: it describes texts of 10 to 10 characters: say the length in the pattern alone"]),
        ({"pattern": "a+", "maxLength": 5}, ["pattern: it describes texts of 1 or more characters: say the length in the pattern alone"]),
        ({"pattern": "(?=a)"}, ["pattern: the pattern '(?=a)' is not supported: '(?=' is not supported: only ( ) and (?: ) are (at character 1)"]),
        ({"pattern": 5}, ["pattern: 'pattern' wants a text, not 5"]),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_generated_is_told_with_its_place(schema: Any, expected: list[str]) -> None:
    found = told(schema)
    assert len(found) == len(expected)
    for message, start in zip(found, expected, strict=True):
        assert message.startswith(start)


def test_all_problems_are_told_at_once_in_the_schemas_order() -> None:
    schema = {"properties": {"a": {"type": "strin"}, "b": {"minLength": -1}}, "required": "a", "else": {}}
    assert [problem.path for problem in problems(schema)] == [
        ("else",),
        ("required",),
        ("properties", "a", "type"),
        ("properties", "b", "minLength"),
    ]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("a)", "')' without '(' (at character 2)"),
        ("(a", "'(' without ')' (at character 1)"),
        ("[a", "'[' without ']' (at character 1)"),
        ("[]", "the class is empty: write \\] for a bracket (at character 1)"),
        ("a]", "']' without its partner: write \\] (at character 2)"),
        ("a}", "'}' without its partner: write \\} (at character 2)"),
        ("*a", "'*' has nothing to repeat, or repeats a repetition (at character 1)"),
        ("a**", "'*' has nothing to repeat, or repeats a repetition (at character 3)"),
        ("a*+", "possessive quantifiers are not supported (at character 3)"),
        ("a{x}", "'{' wants {m}, {m,} or {m,n}: write \\{ for a brace (at character 2)"),
        ("a{3", "'{' wants {m}, {m,} or {m,n}: write \\{ for a brace (at character 2)"),
        ("a{3,2}", "{3,2} goes backwards (at character 2)"),
        ("a{2000}", "it repeats more than 1,000 times (at character 2)"),
        ("(a*)*", "what is repeated may be empty (at character 5)"),
        ("(|a)+", "what is repeated may be empty (at character 5)"),
        ("a^b", "'^' may stand at the ends of the pattern only (at character 2)"),
        ("(^a)", "'^' may stand at the ends of the pattern only (at character 2)"),
        ("a$b", "'$' may stand at the ends of the pattern only (at character 2)"),
        (r"\bword", "'\\b' is not supported (at character 1)"),
        (r"(a)\1", "'\\1' is not supported (at character 4)"),
        (r"\p{L}", "'\\p' is not supported (at character 1)"),
        (r"\x4", "'\\x' wants 2 hexadecimal digits (at character 1)"),
        (r"\u12g4", "'\\u' wants 4 hexadecimal digits (at character 1)"),
        ("a\\", "a backslash ends the pattern (at character 2)"),
        ("(?i)a", "'(?i' is not supported: only ( ) and (?: ) are (at character 1)"),
        ("(?P<n>a)", "'(?P' is not supported: only ( ) and (?: ) are (at character 1)"),
        ("[z-a]", "a range in a class goes backwards (at character 2)"),
        (r"[\d-z]", "a range in a class goes from one character to another (at character 2)"),
        ("[[a]", "'[' in a class: write \\[ (at character 2)"),
        ("[a&&b]", "'&' in a class: write \\& (at character 3)"),
        (r"\x00", "nothing that this stands for can be generated: control characters never are (at character 4)"),
        ("(" * 30 + "a" + ")" * 30, "groups nest deeper than 24 (at character 26)"),
        ("a" * 3000, "the pattern is longer than 2,000 characters (at character 2001)"),
    ],
)  # fmt: skip
def test_a_pattern_outside_the_subset_is_told_with_its_place(pattern: str, message: str) -> None:
    assert told({"type": "string", "pattern": pattern}) == [
        f"pattern: the pattern {pattern!r:.80} is not supported: {message}"
    ]


def doubling(depth: int) -> dict[str, Any]:
    names = {f"d{n}": {"prefixItems": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(depth)}
    return {"$ref": "#/$defs/d0", "$defs": {**names, f"d{depth}": {"type": "null"}}}


def aliased(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(depth):
        schema = {"type": "array", "prefixItems": [schema, schema]}
    return schema


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


def itself() -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "array"}
    schema["items"] = schema
    return schema


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (aliased(25), "the schema has more than 2,000 parts"),
        (nested(200), "the schema nests deeper than 32"),
        (itself(), "the schema nests deeper than 32"),
        ({"properties": {f"p{n}": {} for n in range(5000)}}, "the schema has more than 2,000 parts"),
        (
            {"prefixItems": [{"type": "string", "maxLength": 1000}] * 11},
            "its bounded repetitions sum up to more than 10,000",
        ),
        ({"prefixItems": [{"pattern": "(?:a{999}){9}"}] * 11}, "its bounded repetitions sum up to more than 10,000"),
        ({"enum": list(range(1001))}, "'enum' wants a list of 1 to 1,000 values"),
    ],
    ids=["aliases", "depth", "a loop of aliases", "properties", "lengths", "patterns", "enum"],
)
def test_a_schema_is_bounded_in_size(schema: Any, message: str) -> None:
    start = time.monotonic()
    found = told(schema)
    assert message in found[0]
    assert time.monotonic() - start < 60


def test_definitions_that_double_are_not_expanded() -> None:
    start = time.monotonic()
    assert told(doubling(100)) == []
    assert time.monotonic() - start < 60


KEYWORDS = st.sampled_from([*sorted(SCHEMA_KEYWORDS | ANNOTATIONS), "allOf", "not", "other", "a"])
SCALAR = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 2000), st.floats(), st.text(max_size=6),
    st.sampled_from([*_jsonschema.TYPES, "#/$defs/a", "#", "date", "^[a-z]{1,3}$"]),
)  # fmt: skip
ANYTHING = st.recursive(
    SCALAR, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYWORDS, inner, max_size=5))
)


@settings(max_examples=300, deadline=None)
@given(value=ANYTHING)
def test_no_value_makes_the_reader_fail(value: Any) -> None:
    assert all(isinstance(problem, SchemaProblem) for problem in problems(value))
    schema, found = read_schema(value)
    if not found:
        assert problems(schema) == []


# -- the short form ------------------------------------------------------------------------------------------------------


def test_the_short_form_is_an_object_with_all_its_fields_required() -> None:
    assert expand_short_form({"title": "string", "year": "integer"}) == {
        "type": "object",
        "properties": {"title": {"type": "string"}, "year": {"type": "integer"}},
        "required": ["title", "year"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    ("written", "expanded"),
    [
        ("string", {"type": "string"}),
        ("number", {"type": "number"}),
        ("boolean", {"type": "boolean"}),
        ("null", {"type": "null"}),
        ("string|null", {"type": ["string", "null"]}),
        ("integer | string", {"type": ["integer", "string"]}),
        ("low|medium|high", {"enum": ["low", "medium", "high"]}),
        ("yes|no|null", {"enum": ["yes", "no", None]}),
        (["string"], {"type": "array", "items": {"type": "string"}}),
        ([["a|b"]], {"type": "array", "items": {"type": "array", "items": {"enum": ["a", "b"]}}}),
        ([{"a": "null"}], {"type": "array", "items": expand_short_form({"a": "null"})}),
        ([1, 2, 3], {"enum": [1, 2, 3]}),
        (["red", "green"], {"enum": ["red", "green"]}),
        ({"street": "string"}, expand_short_form({"street": "string"})),
        ({"type": "integer", "minimum": 0}, {"type": "integer", "minimum": 0}),
        ([{"enum": ["a"]}], {"type": "array", "items": {"enum": ["a"]}}),
    ],
    ids=str,
)
def test_a_field_of_the_short_form(written: Any, expanded: dict[str, Any]) -> None:
    schema = expand_short_form({"field": written})
    assert schema["properties"] == {"field": expanded}
    assert problems(schema) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "schema: it names no fields"),
        ({"a": {}}, "a: it names no fields"),
        ({"a": "strng"}, "a: 'strng' is no type; did you mean 'string'?"),
        ({"a": ""}, "a: '' is no type; there is: boolean, integer, null, number, string"),
        ({"a": "x|"}, "a: 'x|' is no type; there is: boolean, integer, null, number, string"),
        ({"a": "string|low"}, "a: 'string|low' mixes the type string with texts: use anyOf in JSON Schema"),
        ({"a": 5}, "a: a number is no type: write a type, [type] for a list, a|b|c for one of several texts, or a mapping"),
        ({"a": None}, "a: null is no type: write a type"),
        ({"a": []}, "a: a list is no type: write a type"),
        ({"a": ["string", "null"]}, "a: a list is no type: write a type"),
        ({"a": [["b"]]}, "a.0.0: 'b' is no type; there is: boolean, integer, null, number, string"),
        ({1: "string"}, "1: a field's name is a text: write '1' in quotes"),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_short_form_is_told_with_its_place(fields: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        expand_short_form(fields)
    assert str(caught.value).startswith(message)
    assert str(read_schema(fields)[1][0]).startswith(message)


def test_a_short_form_that_nests_without_end_is_refused() -> None:
    fields: Any = "string"
    for _ in range(100):
        fields = {"a": fields}
    with pytest.raises(ValueError, match="it nests deeper than 32"):
        expand_short_form(fields)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"type": "object"}, True),
        ({"type": ["string", "null"]}, True),
        ({"properties": {}}, True),
        ({"enum": ["a"]}, True),
        ({"anyOf": [{}]}, True),
        ({"$ref": "#/$defs/a"}, True),
        ({"items": {"type": "string"}}, True),
        ({"allOf": [{}]}, True),
        ({"pattern": "a+"}, True),
        ({"minimum": 0}, True),
        ({"const": 3}, True),
        ({"required": ["a"]}, True),
        ({"type": "string", "name": "string"}, True),
        ({"title": "string"}, False),
        ({"description": "string", "default": "integer"}, False),
        ({"type": "cat|dog"}, False),
        ({"items": ["string"]}, False),
        ({"pattern": "string", "format": "integer"}, False),
        ({"required": "boolean"}, False),
        ({"name": "string"}, False),
        ({}, False),
        ("string", False),
        (None, False),
    ],
    ids=str,
)
def test_json_schema_is_told_from_the_short_form_by_its_keywords(value: Any, expected: bool) -> None:
    assert is_json_schema(value) is expected


def test_problems_of_a_written_schema_are_placed_where_they_were_written() -> None:
    written = {"a": {"type": "integer", "minimum": "x"}, "b": [{"c": {"enum": []}}]}
    assert [problem.path for problem in read_schema(written)[1]] == [("a", "minimum"), ("b", 0, "c", "enum")]
    assert read_schema({"type": "object", "properties": {"a": {"type": 1}}})[1][0].path == ("properties", "a", "type")
    assert str(read_schema([1])[1][0]) == "schema: a schema is a mapping, not a list"
