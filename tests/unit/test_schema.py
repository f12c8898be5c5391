"""The JSON Schema of recipes: it accepts whatever `check` accepts, and names the mistake where it does not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from jsonschema import Draft202012Validator
from pydantic import Field

import gristmill_recipes
from gristmill import Candidate, Context, FunctionRef, Kernel, ModelRef, function
from gristmill._language._check import RECIPE_KEYS
from gristmill._language._check_declarations import INPUT_TYPES
from gristmill._language._check_steps import _plain
from gristmill._language._step_keys import KEYS
from gristmill._language._type_schema import of_type
from gristmill._language._types import type_of
from gristmill._language._yaml import parse_yaml
from gristmill._tools._schema import recipe_schema
from gristmill.testing import FakePlugin

FOLDER = Path(gristmill_recipes.__path__[0])
SHIPPED = sorted(set(FOLDER.glob("*.yaml")) - set(FOLDER.glob("*.test.yaml")))
HEAD = "version: 1\nmodels:\n  main: {use: fake}\n"


class ManyPlugin:
    """Functions with every sort of parameter."""

    @function
    def mix(
        self,
        text: Annotated[str, "What to mix."],
        *,
        top_k: Annotated[int, Field(ge=1, le=9, description="How many.")] = 4,
        ratio: float = 0.5,
        fast: bool = False,
        mode: Literal["hybrid", "dense"] = "dense",
        either: int | Literal["auto"] = "auto",
        parts: list[str] | None = None,
        table: dict[str, int] | None = None,
        path: Path | None = None,
        candidates: list[Candidate] | None = None,
        with_function: FunctionRef | None = None,
        anything: Any = None,
    ) -> str:
        """Mix it all."""
        return text

    @function
    async def ask(self, question: str, context: Context, model: ModelRef) -> str:
        """Ask a model."""
        return question + model + context.step


class BrokenPlugin:
    """Its function has no types."""

    @function
    def bad(self, x):  # type: ignore[no-untyped-def]
        """Cannot be read."""


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    return Kernel(plugins={"fake": FakePlugin(), "many": ManyPlugin(), "broken": BrokenPlugin()}, cache=False)


@pytest.fixture(scope="module")
def schema(kernel: Kernel) -> dict[str, Any]:
    return recipe_schema(kernel.registry)


def mistakes(schema: dict[str, Any], text: str) -> list[str]:
    """Return what the schema finds wrong with a recipe, deepest causes included."""
    document = parse_yaml("recipe.yaml", text.encode())
    assert document.root is not None
    errors = list(Draft202012Validator(schema).iter_errors(_plain(document.root)))
    return [error.message for top in errors for error in (top, *(top.context or ()))]


STEP_EXAMPLES = {
    "use": ["use: many.mix, with: {text: x}"],
    "recipe": ["recipe: other, with: {q: '${1 + 1}'}", "recipe: other"],
    "with": [
        "use: many.mix, with: {text: '${[1] | tojson}', top_k: '${3}', ratio: 1, fast: true, mode: hybrid, either: 3}",
        "use: many.mix, with: {text: '', either: auto, parts: ['a', '${\"b\"}'], table: {a: 1, b: '${2}'}, path: ./x}",
        "use: many.mix, with: {text: '{% if true %}a{% endif %}', parts: '${[\"a\"]}', fast: '${true}'}",
        "use: many.mix, with: {text: x, table: '${{\"a\": 1}}'}",
        "use: many.mix, with: {text: x, parts: null, candidates: [a, {text: b}], anything: {a: [1]}}",
        "use: many.mix, with: {text: x, with_function: many.ask}",
    ],
    "prompt": ["prompt: hello", "prompt: 12", "prompt: true", "prompt: '${1}'"],
    "messages": [
        "messages: [{role: system, content: x}, {role: user, content: 5}]",
        "messages: ['${inputs.turns}', {role: user, content: '${1}'}]",
        "messages: '${inputs.turns}'",
    ],
    "system": ["prompt: x, system: 3"],
    "examples": ["prompt: x, examples: [{input: a, output: b}, {input: '${\"b\"}', output: c}]"],
    "model": ["prompt: x, model: main", "use: many.ask, model: main, with: {question: x}"],
    "adapters": ["prompt: x, adapters: null"],
    "samples": ["prompt: x, samples: 3, temperature: 1", "prompt: x, samples: '${2}', temperature: 0.5"],
    "seed": ["prompt: x, seed: 7"],
    "choices": ["prompt: x, choices: [a, b]", "prompt: x, choices: '${[\"a\", \"b\"]}'"],
    "calibrate": ["prompt: x, choices: [a, b], calibrate: true", "prompt: x, choices: [a, b], calibrate: '${1 > 2}'"],
    "schema": ["prompt: x, schema: {answer: string}", "prompt: x, schema: {type: array, items: {type: integer}}"],
    "top_logprobs": ["prompt: x, top_logprobs: 5"],
    "temperature": ["prompt: x, temperature: 0", "prompt: x, temperature: 1.5"],
    "top_k": ["prompt: x, top_k: 40"],
    "top_p": ["prompt: x, top_p: 0.9"],
    "min_p": ["prompt: x, min_p: 0"],
    "typical_p": ["prompt: x, typical_p: 1"],
    "repeat_penalty": ["prompt: x, repeat_penalty: 1.1"],
    "presence_penalty": ["prompt: x, presence_penalty: -2"],
    "frequency_penalty": ["prompt: x, frequency_penalty: '${1}'"],
    "logit_bias": ["prompt: x, logit_bias: {'50256': -100}"],
    "beam_width": ["prompt: x, beam_width: 4"],
    "max_tokens": ["prompt: x, max_tokens: 10"],
    "stop": ["prompt: x, stop: END", "prompt: x, stop: [END, '${\"a\"}']"],
    "if": ["prompt: x, if: true", "prompt: x, if: '${1 > 2}'"],
    "for_each": ["prompt: x, for_each: [1, {a: b}]", "prompt: '${item}', for_each: '${inputs.turns}'"],
    "as": ["prompt: '${n}', for_each: ['a'], as: n"],
    "concurrency": ["prompt: x, for_each: [1], concurrency: 2"],
    "repeat": ["prompt: x, repeat: {until: '${s.text == \"y\"}', max: 3}", "prompt: x, repeat: {until: false, max: 1}"],
    "retry": ["prompt: x, retry: 3", "prompt: x, retry: {attempts: 2, backoff_s: 0.5}", "prompt: x, retry: {}"],
    "timeout_s": ["prompt: x, timeout_s: 0.5"],
    "on_error": ["prompt: x, on_error: fail", "prompt: x, on_error: skip", "prompt: x, on_error: {value: '${1}'}"],
    "needs": ["prompt: x, needs: other", "prompt: x, needs: [other]"],
    "cache": ["prompt: x, cache: off", "prompt: x, cache: refresh", "use: many.mix, cache: auto, with: {text: x}"],
}  # fmt: skip

WHOLE = [
    "name: a-b_2\ndescription: Says x.\nbudget: {tokens: 10, calls: 2, seconds: 0.5}",
    "output: {a: '${s}', b: [1, null]}",
    "inputs: {q: string, n: [integer], r: {type: {a: string, b: [number]}}, l: {type: [path]}}",
    "inputs: {q: {type: string, default: x, description: y}, c: {choices: [a, b], default: a}}",
    "inputs: {n: {type: integer, default: null}, c: {type: integer, choices: [a], default: a}}",
    "inputs: {m: {type: messages, default: [{role: user, content: x}]}}",
]
TYPED_DEFAULTS = {
    "string": "x", "integer": "1", "number": "1", "boolean": "false", "path": "./x", "list": "[1, a]",
    "mapping": "{a: 1}", "messages": "[{role: user, content: x}]", "any": "[null]",
}  # fmt: skip


def step(flow: str) -> str:
    return (
        f"{HEAD}inputs: {{turns: {{type: messages, default: []}}}}\n"
        f"steps:\n  other: {{prompt: x}}\n  s: {{{flow}}}\noutput: ['${{other}}', '${{s}}']\n"
    )


VALID = [
    *(step(flow) for flows in STEP_EXAMPLES.values() for flow in flows),
    *(f"{HEAD}{text}\nsteps: {{s: {{prompt: x}}}}" for text in WHOLE),
    *(
        f"{HEAD}inputs: {{x: {{type: {name}, default: {text}}}}}\nsteps: {{s: {{prompt: x}}}}"
        for name, text in TYPED_DEFAULTS.items()
    ),
]


def test_the_corpus_of_valid_recipes_covers_every_key_and_input_type() -> None:
    assert set(STEP_EXAMPLES) == set(KEYS)
    assert set(TYPED_DEFAULTS) == set(INPUT_TYPES)
    assert all(any(f"{key}:" in text for text in VALID) for key in RECIPE_KEYS)


@pytest.mark.parametrize("text", VALID)
def test_what_check_accepts_the_schema_accepts(
    kernel: Kernel, schema: dict[str, Any], text: str, tmp_path: Path
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text.replace("recipe: other", "recipe: other.yaml"), encoding="utf-8")
    (tmp_path / "other.yaml").write_text(
        f"{HEAD}inputs: {{q: {{type: any, default: 1}}}}\nsteps: {{s: {{prompt: x}}}}", encoding="utf-8"
    )
    assert [diagnostic.render() for diagnostic in kernel.check(path).errors] == []
    assert mistakes(schema, text) == []


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid(schema: dict[str, Any], path: Path) -> None:
    assert mistakes(schema, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (HEAD + "steps: {s: {prompt: x}}\nouput: x", "'ouput' was unexpected"),
        ("steps: {s: {prompt: x}}", "'version' is a required property"),
        ("version: 2\nsteps: {s: {prompt: x}}", "1 was expected"),
        (HEAD + "steps: {}", "{} should be non-empty"),
        (HEAD + "steps: {my-step: {prompt: x}}", "'my-step' does not match"),
        (HEAD + "steps: {inputs: {prompt: x}}", "'inputs' should not be valid under"),
        (HEAD + "name: A B\nsteps: {s: {prompt: x}}", "'A B' does not match"),
        (HEAD + "inputs: {q: sting}\nsteps: {s: {prompt: x}}", "'sting' is not one of"),
        (HEAD + "inputs: {q: {type: integer, default: x}}\nsteps: {s: {prompt: x}}", "'x' is not of type 'integer'"),
        (HEAD + "inputs: {q: {typ: string}}\nsteps: {s: {prompt: x}}", "'typ' was unexpected"),
        (HEAD + "steps: {s: {prompt: x}}\nbudget: {tokens: 0}", "0 is less than or equal to the minimum of 0"),
        ("version: 1\nmodels: {m: {use: lama}}\nsteps: {s: {prompt: x}}", "'lama' is not one of ["),
        ("version: 1\nmodels: {m: {use: fake, nam: x}}\nsteps: {s: {prompt: x}}", "'nam' was unexpected"),
        ("version: 1\nmodels: {m: {use: fake, name: 3}}\nsteps: {s: {prompt: x}}", "3 is not of type 'string'"),
        ("version: 1\nmodels: {m: {name: x}}\nsteps: {s: {prompt: x}}", "'use' is a required property"),
        (step("promt: x"), "'promt' was unexpected"),
        (step("prompt: x, tempature: 1"), "'tempature' was unexpected"),
        (step("prompt: x, with: {a: 1}"), "'with' was unexpected"),
        (step("prompt: x, use: many.mix"), "'prompt' was unexpected"),
        (step("prompt: x, messages: []"), "'messages' was unexpected"),
        (step("messages: '${inputs.turns}', system: x"), "'system' was unexpected"),
        (step("messages: [{role: robot, content: x}]"), "'robot' is not one of"),
        (step("messages: [{role: user}]"), "'content' is a required property"),
        (step("prompt: x, temperature: hot"), "'hot' does not match"),
        (step("prompt: x, temperature: -1"), "-1 is less than the minimum of 0"),
        (step("prompt: x, samples: [1]"), "[1] is not of type 'integer', 'string'"),
        (step("prompt: x, cache: no"), "'no' is not one of ['auto', 'off', 'refresh']"),
        (step("prompt: x, repeat: {max: 3}"), "'until' is a required property"),
        (step("prompt: x, retry: {attempts: '${3}'}"), "'${3}' is not of type 'integer'"),
        (step("prompt: x, timeout_s: 0"), "0 is less than or equal to the minimum of 0"),
        (step("prompt: x, on_error: null"), "None is not one of ['fail', 'skip']"),
        (step("prompt: x, for_each: 3"), "3 is not of type 'array', 'string'"),
        (step("prompt: x, examples: [{input: a}]"), "'output' is a required property"),
        (step("use: many.mx, with: {text: x}"), "'many.mx' is not one of"),
        (step("use: many.mix"), "'with' is a required property"),
        (step("use: many.mix, with: {}"), "'text' is a required property"),
        (step("use: many.mix, with: {text: x, topk: 3}"), "'topk' was unexpected"),
        (step("use: many.mix, with: {text: x}, samples: 3"), "'samples' was unexpected"),
        (step("use: many.mix, with: {text: 3}"), "3 is not of type 'string'"),
        (step("use: many.mix, with: {text: x, top_k: four}"), "'four' does not match"),
        (step("use: many.mix, with: {text: x, top_k: 10}"), "10 is greater than the maximum of 9"),
        (step("use: many.mix, with: {text: x, mode: sparse}"), "'sparse' is not one of ['hybrid', 'dense']"),
        (step("use: many.mix, with: {text: x, parts: [1]}"), "1 is not of type 'string'"),
        (step("use: many.mix, with: {text: x, fast: 1}"), "1 is not of type 'boolean', 'string'"),
        (step("use: many.mix, with: {text: x, with_function: many.mx}"), "'many.mx' is not one of"),
        (step("use: many.ask, with: {question: x, context: y}"), "'context' was unexpected"),
    ],
)  # fmt: skip
def test_typical_mistakes_are_named(schema: dict[str, Any], text: str, told: str) -> None:
    assert any(told in message for message in mistakes(schema, text)), mistakes(schema, text)


def test_it_is_a_json_schema_of_2020_12_and_json(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)
    assert json.loads(json.dumps(schema)) == schema
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_every_reference_leads_somewhere(schema: dict[str, Any]) -> None:
    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
            return own + [found for part in value.values() for found in references(part)]
        return [found for part in value for found in references(part)] if isinstance(value, list) else []

    assert {reference.removeprefix("#/$defs/") for reference in references(schema)} <= schema["$defs"].keys()


def test_broken_plugins_are_left_out(schema: dict[str, Any]) -> None:
    assert "many.mix" in schema["$defs"]["key.use"]["enum"]
    assert not [name for name in schema["$defs"]["key.use"]["enum"] if name.startswith("broken")]


def test_functions_and_arguments_carry_their_help(schema: dict[str, Any]) -> None:
    use, arguments = schema["$defs"]["key.use"], schema["$defs"]["with.many.mix"]
    assert use["enumDescriptions"][use["enum"].index("many.mix")] == "Mix it all."
    assert arguments["description"] == "Mix it all. Returns: string."
    assert arguments["properties"]["text"]["description"] == "What to mix."
    assert arguments["properties"]["top_k"] | {"pattern": "", "patternErrorMessage": ""} == {
        "type": ["integer", "string"], "minimum": 1, "maximum": 9, "default": 4, "description": "How many.",
        "pattern": "", "patternErrorMessage": "",
    }  # fmt: skip
    assert arguments["required"] == ["text"]


def test_every_key_has_a_description(schema: dict[str, Any]) -> None:
    assert all(schema["properties"][key]["description"] for key in RECIPE_KEYS)
    assert all(schema["$defs"][f"key.{key}"]["description"] == KEYS[key].help for key in KEYS)


def test_one_mistake_is_one_error(schema: dict[str, Any]) -> None:
    assert len(mistakes(schema, step("use: many.mix, with: {text: x, topk: 3}"))) == 1


def test_a_union_is_one_schema_where_its_types_differ() -> None:
    assert of_type(type_of(int | None)) == {"type": ["integer", "null"]}
    assert of_type(type_of(str | list[int])) == {"type": ["string", "array"], "items": {"type": "integer"}}
    assert of_type(type_of(dict[str, int] | dict[str, str])) == {
        "anyOf": [
            {"type": "object", "additionalProperties": {"type": "integer"}},
            {"type": "object", "additionalProperties": {"type": "string"}},
        ]
    }
    assert of_type(type_of(Any), expressions=True) == {}


def test_check_jsonschema_agrees(schema: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(json.dumps(schema), encoding="utf-8")
    good = [tmp_path / f"good{i}.yaml" for i in range(len(VALID))]
    for path, text in zip(good, VALID, strict=True):
        path.write_text(text, encoding="utf-8")
    bad = tmp_path / "bad.yaml"
    bad.write_text(step("use: many.mix, with: {text: x, topk: 3}"), encoding="utf-8")

    def run(*paths: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "check_jsonschema", "--schemafile", str(tmp_path / "schema.json")]
        return subprocess.run([*command, *map(str, paths)], capture_output=True, text=True, check=False)

    assert run(*good, *SHIPPED).stdout.strip() == "ok -- validation done"
    refused = run(bad)
    assert refused.returncode == 1
    assert "'topk' was unexpected" in refused.stdout
