# ruff: noqa: E501  (a table reads best with one case to a line)
"""llama.cpp's own parser reads every grammar that is made, and its sampler follows it.

A child process does the native work: a grammar that is not understood may take the process with it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from gristmill.schemas import jsonschema as _jsonschema
from gristmill_plugins.llama._files import BUNDLED, resolve
from gristmill_plugins.llama._grammar import regex_to_gbnf, to_gbnf

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None, reason="needs llama-cpp-python: pip install 'gristmill[llama]'"
)

CHILD = """
import ctypes, json, sys
import llama_cpp as native
quiet = native.llama_log_callback(lambda level, text, data: None)
native.llama_log_set(quiet, ctypes.c_void_p(0))
native.llama_backend_init()
parameters = native.llama_model_default_params()
parameters.vocab_only = True
model = native.llama_model_load_from_file(sys.argv[1].encode(), parameters)
assert bool(model)
vocabulary = native.llama_model_get_vocab(model)
size = native.llama_vocab_n_tokens(vocabulary)


def tokens(text):
    found = (native.llama_token * (len(text) + 8))()
    count = native.llama_tokenize(vocabulary, text, len(text), found, len(found), False, False)
    return list(found[:count])


def follows(grammar, text):
    "Whether the sampler allows these tokens, one after the other, and then the end."
    sampler = native.llama_sampler_init_grammar(vocabulary, grammar.encode(), b"root")
    if not bool(sampler):
        return None
    for token in [*tokens(text.encode()), native.llama_vocab_eos(vocabulary)]:
        data = (native.llama_token_data * 1)(native.llama_token_data(token, 0.0, 0.0))
        array = native.llama_token_data_array(data, 1, -1, False)
        native.llama_sampler_apply(sampler, ctypes.byref(array))
        if data[0].logit == float("-inf"):
            native.llama_sampler_free(sampler)
            return False
        native.llama_sampler_accept(sampler, token)
    native.llama_sampler_free(sampler)
    return True


print(json.dumps([follows(grammar, text) for grammar, text in json.load(sys.stdin)]))
"""


def followed(cases: list[tuple[str, str]]) -> list[bool | None]:
    """Return, for each grammar and text, whether llama.cpp's sampler lets the text through; None: not parsed."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(resolve(BUNDLED))],
        input=json.dumps(cases),
        env={**os.environ, "GGML_NO_BACKTRACE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return list(json.loads(done.stdout))


FIELDS: dict[str, tuple[Any, Any, Any]] = {
    # a schema, a value that fits, one that does not
    "text": ({"type": "string"}, 'é "quoted" \\ \n 😀', 3),
    "short": ({"type": "string", "minLength": 2, "maxLength": 4}, "abc", "abcde"),
    "long": ({"type": "string", "maxLength": 1000}, "a" * 900, "a" * 1001),
    "code": ({"pattern": r"^[A-Z]{2}-\d{3}$"}, "AB-123", "AB-12"),
    "day": ({"format": "date"}, "2024-02-29", "2023-02-29"),
    "age": ({"type": "integer", "minimum": 0, "maximum": 120}, 42, 121),
    "share": ({"type": "number", "minimum": 0, "maximum": 1}, 0.25, 1.25),
    "mood": ({"enum": ["good", "bad", None]}, "good", "ugly"),
    "tags": ({"items": {"type": "string"}, "minItems": 1, "maxItems": 3}, ["a", "b"], []),
    "many": ({"items": {"type": "integer"}, "maxItems": 1000}, list(range(300)), ["a"]),
    "pair": ({"prefixItems": [{"type": "boolean"}, {"type": "null"}], "items": False, "minItems": 2}, [True, None], [1]),
    "map": ({"additionalProperties": {"type": "integer"}, "type": "object"}, {"x": 1, "y": 2}, {"x": "1"}),
    "any": ({}, {"a": [1, {"b": None}]}, None),
    "nested": ({"properties": {"a": {"anyOf": [{"type": "null"}, {"type": "number"}]}}, "required": ["a"]}, {"a": 1}, {}),
}  # fmt: skip


def test_the_sampler_lets_what_fits_through_and_nothing_else() -> None:
    cases, expected = [], []
    for schema, fits, fails in FIELDS.values():
        assert _jsonschema.problems(schema) == []
        Draft202012Validator(schema).validate(fits)
        for value, verdict in ((fits, True), (fails, False)):
            if value is not None:
                cases.append((to_gbnf(schema), json.dumps(value, ensure_ascii=False)))
                expected.append(verdict)
    whole = {"properties": {name: field[0] for name, field in FIELDS.items()}, "required": list(FIELDS)}
    cases.append((to_gbnf(whole), json.dumps({name: field[1] for name, field in FIELDS.items()}, ensure_ascii=False)))
    assert followed(cases) == [*expected, True]


def test_patterns_are_followed_outside_json_as_well() -> None:
    cases = [(regex_to_gbnf(r"(?:yes|no)[.!]?"), text) for text in ("yes", "no!", "maybe", "yes..")]
    cases.append((regex_to_gbnf('[^a]+"\\\\'), 'b\n\t]-^"\\'))
    assert followed(cases) == [True, True, False, False, True]


LEAVES = st.sampled_from([field[0] for field in FIELDS.values()])
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options}),
        st.tuples(inner, st.integers(0, 3), st.integers(3, 9)).map(
            lambda each: {"items": each[0], "minItems": each[1], "maxItems": each[2]}
        ),
        st.lists(inner, min_size=1, max_size=4).map(lambda items: {"prefixItems": items, "items": False}),
        st.tuples(st.dictionaries(st.text('ab-"\\é', max_size=3), inner, max_size=4), st.booleans()).map(
            lambda each: {"properties": each[0], "required": list(each[0]) if each[1] else []}
        ),
    ),
    max_leaves=10,
)


def test_llama_cpp_parses_the_grammar_of_every_schema() -> None:
    grammars: list[str] = []

    @settings(max_examples=300, deadline=None, database=None)
    @seed(1)
    @given(schema=SCHEMAS)
    def collect(schema: Any) -> None:
        if not _jsonschema.problems(schema):
            grammars.append(to_gbnf(schema))

    collect()
    assert len(grammars) > 200
    assert None not in followed([(grammar, "x") for grammar in grammars])
