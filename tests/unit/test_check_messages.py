"""Every mistake that `check` knows: its exact words, its place, and what to do about it."""
# ruff: noqa: E501  (a table of cases reads best with a case on a line)

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import pytest
from pydantic import Field

from gristmill import (
    AdapterRef,
    FunctionRef,
    Kernel,
    Model,
    ModelFile,
    ModelRef,
    RecipeRef,
    UsageError,
    function,
    model_provider,
)
from gristmill._language._types import STRING, coerce, fit, type_of, type_of_schema

if TYPE_CHECKING:
    from tests.unit.conftest import Bench

HEAD = "version: 1\nmodels: {main: {use: fake}}\n"
TYPED = (
    "inputs: {q: string, n: integer, xs: [string], d: any}\nsteps:\n  a: {prompt: x}\n"
    "  maybe: {prompt: x, if: '${inputs.n > 1}'}\n  many: {prompt: x, for_each: [x]}\noutput: "
)


class More:
    """Functions whose parameters are references, limited, or one of a few words."""

    @function
    def refs(
        self, model: ModelRef, function: FunctionRef = "tools.talk", recipe: RecipeRef = "x", adapter: AdapterRef = "x"
    ) -> str:
        """Name things."""
        return f"{model}{function}{recipe}{adapter}"

    @function
    def limited(self, n: Annotated[int, Field(ge=1, le=9)]) -> str:
        """Take a small number."""
        return str(n)

    @function
    def mode(self, mode: Literal["fast", "exact"]) -> str:
        """Take a word."""
        return mode


class Need:
    """A provider that needs an argument."""

    @model_provider
    def need(self, file: ModelFile) -> Model:
        """Make nothing."""
        raise NotImplementedError(file)


def told(bench: Bench, text: str) -> list[str]:
    """Check a whole recipe with more plugins; return its errors."""
    with Kernel(
        plugins={"fake": bench.plugin, "tools": bench.tools, "more": More(), "need": Need()}, cache=False
    ) as kernel:
        recipe = kernel.check(bench.write(text))
    shown = (f"{d.line}:{d.column}: {d.message}" + (f" | {d.hint}" if d.hint else "") for d in recipe.errors)
    installed = r"there is: .*(\b(need|text\.join)\b.*|and \d+ more)"
    return [re.sub(installed, "there is: (what is installed)", one) for one in shown]


ROOT = [
    ('', ['1:1: the recipe is empty | it needs `steps:` at least']),
    ('# only a comment', ['1:1: the recipe is empty | it needs `steps:` at least']),
    ('- a', ['1:1: the recipe is not a mapping | it needs `steps:` at least']),
    ('text', ['1:1: the recipe is not a mapping | it needs `steps:` at least']),
    ('steps: {a: {prompt: x}}', ['1:1: version is missing | write version: 1', "1:9: step 'a' has no model | declare one: models: {main: {use: llama, model: smollm2}}"]),
    ('version: 1\nfoo: 1\nstep: {a: {prompt: x}}', ['1:1: the recipe has no steps | steps: {answer: {prompt: ...}}', "2:1: 'foo' is not a key of a recipe | there is: budget, description, inputs, models, name, output, steps, version", "3:1: 'step' is not a key of a recipe | did you mean 'steps'?"]),
    ('version: 1\nname: [x]\nsteps: {a: {use: tools.talk}}', ["2:7: name is text, this is ['x'] | quote it"]),
    ('version: 1\nname: 3\nsteps: {a: {use: tools.talk}}', ['2:7: name is text, this is 3 | quote it']),
    ('version: 1\nname: x', ['2:1: the recipe has no steps | steps: {answer: {prompt: ...}}']),
    ('version: 1\nsteps: [a]', ['2:8: steps is a mapping from names to steps | steps: {answer: {prompt: ...}}']),
    ('version: 1\nsteps: {}', ['2:8: the recipe has no steps | steps: {answer: {prompt: ...}}']),
    ('version: 1\nsteps:\n', ['2:7: the recipe has no steps | steps: {answer: {prompt: ...}}']),
]  # fmt: skip

INPUTS = [
    ('inputs: [q]', ['2:9: inputs is a mapping from names to types | question: {type: string}']),
    ('inputs: {q: strin}', ["2:13: 'strin' is not the type of an input | did you mean 'string'?"]),
    ('inputs: {q: {type: string, defalt: x}}', ["2:28: 'defalt' is not a key of an input | did you mean 'default'?"]),
    ('inputs: {q: {type: string, choices: a}}', ['2:37: choices is a list of texts']),
    ('inputs: {q: {choices: [a, b], default: c}}', ["2:40: the default of 'q': 'c' is not one of 'a', 'b'"]),
    ("inputs: {q: {type: integer, default: 'x'}}", ["2:38: the default of 'q': an integer is wanted, this is 'x' | leave out the quotes"]),
    ('inputs: {q: {type: boolean, default: yes}}', ["2:38: the default of 'q': a boolean is wanted, this is 'yes' | YAML 1.2 knows true and false"]),
    ('inputs: {q: {type: {a: strng}}}', ["2:24: 'strng' is not the type of an input | did you mean 'string'?"]),
    ('inputs: {q: [strng]}', ["2:14: 'strng' is not the type of an input | did you mean 'string'?"]),
]  # fmt: skip

MODELS = [
    ('models: [x]', ['2:9: models is a mapping from names to declarations | main: {use: llama}']),
    ('models: {m: fake}', ["2:13: model 'm' is a mapping with `use:` | {use: llama, model: smollm2}"]),
    ('models: {m: {}}', ["2:13: model 'm' needs `use:` | there is: (what is installed)"]),
    ("models: {'A b': {use: fake}}", ["2:10: 'A b' is no name for a model | use a-z, 0-9, - and _"]),
    ('models: {m: {use: fak}}', ["2:19: 'fak' makes no models | did you mean 'fake'?"]),
    ('models: {m: {use: fake, answer: x}}', ["2:25: fake has no argument 'answer' | did you mean 'answers'?"]),
    ('models: {m: {use: fake, name: 3}}', ['2:31: name: a string is wanted, this is 3']),
    ('models: {m: {use: need}}', ['2:19: need needs file | add file: beside `use:`']),
]  # fmt: skip

BUDGET = [
    ('budget: 3', ['2:9: budget is a mapping | {tokens: 10000, calls: 50, seconds: 60}']),
    ('budget: {token: 1}', ["2:10: 'token' is not a key of a budget | did you mean 'tokens'?"]),
    ('budget: {tokens: 0}', ['2:18: tokens is a whole number above 0, this is 0']),
    ('budget: {tokens: 1.5}', ['2:18: tokens is a whole number above 0, this is 1.5']),
    ('budget: {seconds: fast}', ["2:19: seconds is a number above 0, this is 'fast'"]),
    ('budget: {calls: true}', ['2:17: calls is a whole number above 0, this is True']),
]  # fmt: skip

STEPS = [
    ('steps:\n  a: x\n', ["4:6: step 'a' is a mapping | {prompt: ...} or {use: plugin.function}"]),
    ('steps:\n  a: [x]\n', ["4:6: step 'a' is a mapping | {prompt: ...} or {use: plugin.function}"]),
    ('{prmpt: x}', ["4:3: step 'a' does nothing | did you mean 'prompt'?"]),
    ('{system: x}', ["4:3: step 'a' does nothing | it needs one of: use, prompt, messages, recipe"]),
    ('{prompt: x, use: tools.talk}', ["4:7: a step has 'use' or 'prompt', not both | make two steps"]),
    ('{prompt: x, tmperature: 1}', ["4:18: 'tmperature' is not a key of a `prompt` step | did you mean 'temperature'?"]),
    ('{prompt: x, for_each: [x], as: [y]}', ['4:37: `as` is a name']),
    ('{prompt: x, repeat: 3}', ["4:26: repeat is a mapping | {until: '${...}', max: 3}"]),
    ('{prompt: x, repeat: {util: x}}', ["4:18: repeat needs 'max'", "4:18: repeat needs 'until'", "4:27: 'util' is not a key of repeat | did you mean 'until'?"]),
    ("{prompt: x, repeat: {until: '${1 > 2}', max: 0}}", ['4:51: max is a whole number from 1, this is 0']),
    ('{prompt: x, retry: many}', ['4:25: retry is a mapping | {attempts: 3, backoff_s: 1}']),
    ('{prompt: x, retry: {attempts: 0, backof_s: 1}}', ['4:36: attempts is a whole number from 1, this is 0', "4:39: 'backof_s' is not a key of retry | did you mean 'backoff_s'?"]),
    ('{prompt: x, retry: {backoff_s: -1}}', ['4:37: backoff_s is a number of seconds, this is -1']),
    ('{prompt: x, timeout_s: 0}', ['4:29: timeout_s is a number above 0, this is 0']),
    ('{prompt: x, timeout_s: soon}', ["4:29: timeout_s is a number above 0, this is 'soon'"]),
    ('{prompt: x, for_each: [x], concurrency: 1.5}', ['4:46: concurrency is a whole number above 0, this is 1.5']),
    ('{prompt: x, cache: never}', ["4:25: cache cannot be 'never' | write auto, off, refresh, or {semantic: 0.97}"]),
    ('{prompt: x, needs: 3}', ['4:25: 3 is not a step | there is: a']),
    ("steps:\n  a: {prompt: '${b.text}'}\n  b: {prompt: '${c.text}'}\n  c: {prompt: '${a.text}'}\n", ['4:3: these steps wait for each other: a -> b -> c -> a | break the ring, or make it one step with `repeat`']),
]  # fmt: skip

USE = [
    ('{use: tools.talk, with: [x]}', ['4:30: with is a mapping of arguments']),
    ('{use: tools.count}', ["4:12: tools.count needs 'items' | add items: under `with:`"]),
    ('{use: tools.echo, with: {value: x, valu: y}}', ["4:41: tools.echo has no argument 'valu' | did you mean 'value'?"]),
    ('{use: tools.echo, with: {value: [x]}}', ["4:38: value: a string is wanted, this is ['x']"]),
    ("{use: tools.count, with: {items: ['${inputs}', 3]}}", ['4:40: items: a string is wanted, this is an inputs', '4:53: items: a string is wanted, this is 3']),
    ('{use: nowhere.talk}', ["4:12: 'nowhere.talk' is not a function of any installed plugin | there is: (what is installed)"]),
    ('{use: tols.talk}', ["4:12: 'tols.talk' is not a function of any installed plugin | did you mean 'tools.talk'?"]),
    ('{use: tools}', ["4:12: 'tools' is not a function of plugin 'tools' | did you mean 'tools.talk'?"]),
    ('{use: 3}', ["4:12: '3' is not a function of any installed plugin | there is: (what is installed)"]),
    ('{use: tools.echo, with: {value: x}, model: main}', ['4:42: tools.echo uses no model | delete it']),
    ('{use: more.refs, with: {model: mian, function: tools.tlk, recipe: ./x.yaml, adapter: x}}', ["4:37: 'mian' is no model of this recipe | did you mean 'main'?", "4:53: 'tools.tlk' is not a function of plugin 'tools' | did you mean 'tools.talk'?", "4:72: there is no file './x.yaml' | did you mean 'r.yaml'?", "4:91: 'x' is no adapter of a model here | there are none"]),
    ('{use: more.refs, model: main, with: {model: main}}', ['4:23: the model is given here and under `with:` | keep one']),
    ('{use: more.limited, with: {n: 12}}', ['4:36: n: input should be less than or equal to 9, this is 12']),
    ('{use: more.mode, with: {mode: slow}}', ["4:36: mode: 'slow' is not one of 'fast', 'exact'"]),
    ("{use: nowhere.talk, with: {x: '${nobody}'}}", ["4:12: 'nowhere.talk' is not a function of any installed plugin | there is: (what is installed)", "4:39: 'nobody' is not a step, an input or a loop variable here | there is: a, inputs"]),
]  # fmt: skip

GENERATE = [
    ('{prompt: [x]}', ['4:15: prompt is text | write `|` and put it on the next lines']),
    ('{prompt: }', ['4:15: prompt is text | write `|` and put it on the next lines']),
    ('{prompt: null}', ['4:15: prompt is text | write `|` and put it on the next lines']),
    ('{prompt: " "}', ['4:15: prompt is text | write `|` and put it on the next lines']),
    ('{prompt: x, model: mian}', ["4:25: 'mian' is no model of this recipe | did you mean 'main'?"]),
    ('{prompt: x, temperature: 101}', ['4:31: temperature: input should be less than or equal to 100, this is 101']),
    ('{prompt: x, temperature: hot}', ["4:31: temperature: a number is wanted, this is 'hot'"]),
    ('{prompt: x, top_k: 1.5}', ['4:25: top_k: an integer is wanted, this is 1.5']),
    ("{prompt: x, stop: ''}", ["4:24: stop: string should have at least 1 character, this is ''"]),
    ('{prompt: x, max_tokens: 0}', ['4:30: max_tokens: input should be greater than or equal to 1, this is 0']),
    ('{prompt: x, beam_width: 65}', ['4:30: beam_width: input should be less than or equal to 64, this is 65']),
    ('{prompt: x, samples: 0}', ['4:27: samples is from 1 to 10,000, this is 0']),
    ('{prompt: x, top_logprobs: 65}', ['4:32: top_logprobs is from 0 to 64, this is 65']),
    ('{prompt: x, choices: [a]}', ['4:27: choices are at least two different texts, none of them empty']),
    ('{prompt: x, choices: [a, a]}', ['4:27: choices are at least two different texts, none of them empty']),
    ('{prompt: x, choices: [a, b], schema: {a: string}, samples: 2, top_logprobs: 1, temperature: 1}', ["4:35: 'schema' means nothing beside 'choices' | delete one", "4:56: 'samples' means nothing beside 'choices' | delete one", "4:68: 'top_logprobs' means nothing beside 'choices' | delete one", "4:85: 'temperature' means nothing beside 'choices': nothing is sampled | delete it"]),
    ('{prompt: x, calibrate: true}', ["4:18: 'calibrate' means nothing without 'choices' | delete it"]),
    ('{messages: [{role: user, content: x}], system: y}', ["4:45: 'system' goes with `prompt` | make it the first message"]),
    ('{prompt: x, schema: {a: strng}}', ["4:30: schema: 'strng' is no type; did you mean 'string'?"]),
    ('{prompt: x, schema: {type: object, properties: {a: {type: strng}}}}', ["4:64: schema: 'type' wants one or several of string, integer, number, boolean, null, array, object, not 'strng'"]),
    ('{prompt: x, schema: {type: array, items: {type: string, minLenght: 3}}}', ["4:73: schema: 'minLenght' is not a keyword of JSON Schema; did you mean 'minLength'?"]),
    ('{prompt: x, examples: [{input: a}]}', ["4:28: examples: 'output' is missing in {'input': 'a'}"]),
    ('{prompt: x, examples: x}', ["4:28: examples: a list of mapping with input, output is wanted, this is 'x'"]),
]  # fmt: skip

TYPES = [
    ('|\n  {% for x in inputs.n %}{% endfor %}', ['9:15: a loop needs a list, this is integer']),
    ('|\n  {% for x in maybe %}{% endfor %}', ['9:15: a loop needs a list, this is Completion', "9:15: maybe may be null, because a step that makes it can be skipped | guard it: ${maybe if maybe else '...'}"]),
    ('|\n  {% for x, y in inputs.xs %}${x.z}{% endfor %}', ['9:18: this loop unpacks lists, the items are string']),
    ('|\n  {% for x in inputs.xs if x.z %}{% endfor %}', ["9:30: string has no field 'z' | it has no fields"]),
    ("|\n  {% for k in {'a': 1} %}${k.z}{% endfor %}", ["9:30: string has no field 'z' | it has no fields"]),
    ("|\n  ${ {'a': 1}.b }", ["9:15: mapping with a has no field 'b' | there is: a"]),
    ('|\n  {% set a = inputs.n %}${a.x}', ["9:10: 'a' already names something here | rename it", "9:29: integer has no field 'x' | it has no fields"]),
    ('|\n  {% for x in inputs.xs %}{% else %}${x}{% endfor %}', ["9:39: 'x' is not a step, an input or a loop variable here | did you mean inputs.xs?"]),
    ('|\n  {% if inputs.z %}{% elif inputs.y %}{% else %}${inputs.x}{% endif %}', ["9:16: inputs has no field 'z' | there is: d, n, q, xs", "9:35: inputs has no field 'y' | there is: d, n, q, xs", "9:58: inputs has no field 'x' | did you mean 'xs'?"]),
    ('${q}', ["8:11: 'q' is not a step, an input or a loop variable here | did you mean inputs.q?"]),
    ('${inputs.qq}', ["8:18: inputs has no field 'qq' | did you mean 'q'?"]),
    ('${a.txt}', ["8:13: Completion has no field 'txt' | did you mean 'text'?"]),
    ('${many.text}', ["8:16: list of Completion has no field 'text' | it is a list of Completion: read one with [0].text, or all with | map(attribute='text')"]),
    ('${inputs.n.x}', ["8:20: integer has no field 'x' | it has no fields"]),
    ("${many['text']}", ["8:16: list of Completion has no field 'text' | it is a list of Completion: read one with [0].text, or all with | map(attribute='text')"]),
    ("${many['x' ~ 'y']}", ['8:16: a list is read by a whole number, this is string']),
    ("${a['txt']}", ["8:13: Completion has no field 'txt' | did you mean 'text'?"]),
    ('${none}x', ['8:11: this is null, and null has no text']),
    ('x${maybe.text}', ["8:12: maybe may be null, because a step that makes it can be skipped | guard it: ${maybe.text if maybe else '...'}"]),
    ("${maybe ~ ''}", ["8:11: maybe may be null, because a step that makes it can be skipped | guard it: ${maybe if maybe else '...'}"]),
    ('${inputs.q | upper | nope}', ["8:30: 'nope' is not a filter of recipes | there is: abs, batch, capitalize, count, d, default, first, float, indent, int, items, join, last, length, lines, list, lower, map, max, min, reject, rejectattr, replace, reverse, round, select, selectattr, sort, string, sum, title, tojson, trim, truncate, unique, upper, wordcount"]),
    ('${inputs.n | upper}', ['8:22: upper: a string is wanted, this is an integer']),
    ('${inputs.q | join}', ['8:22: join: a list is wanted, this is a string']),
    ('${inputs.q | upper(1)}', ['8:22: upper takes no arguments']),
    ("${inputs.q | replace('a')}", ['8:22: replace needs new']),
    ("${inputs.q | replace('a', neww='b')}", ['8:22: replace needs new', "8:40: replace has no argument 'neww' | did you mean 'new'?"]),
    ("${inputs.q | replace('a', 'b', old='c')}", ["8:44: replace is given 'old' twice"]),
    ("${inputs.q | truncate('x')}", ["8:31: truncate: length: an integer is wanted, this is 'x'"]),
    ("${inputs.xs | map('uper')}", ["8:23: map: 'uper' is not a filter without arguments | did you mean 'upper'?"]),
    ("${inputs.xs | select('oddd')}", ["8:23: select: 'oddd' is not a test | did you mean 'odd'?"]),
    ("${many | map(attribute='txt')}", ["8:18: map: Completion has no field 'txt' | did you mean 'text'?"]),
    ("${many | selectattr('txt') | list}", ["8:18: selectattr: Completion has no field 'txt' | did you mean 'text'?"]),
    ('${inputs.q + 1}', ['8:11: this works on numbers, not on string and integer | ~ joins texts, as in ${a ~ b}']),
    ('${inputs.n + maybe}', ["8:22: maybe may be null, because a step that makes it can be skipped | guard it: ${maybe if maybe else '...'}"]),
    ('${ -inputs.q }', ['8:12: a sign works on numbers, not on string']),
    ('${inputs.q < inputs.n}', ['8:11: string and integer cannot be ordered']),
    ('${maybe < 1}', ['8:11: this may be null, and null cannot be ordered | guard it with `and`']),
    ('${inputs.d < [1]}', ['8:11: any and list of integer cannot be ordered']),
    ('${[1] < [2]}', ['8:11: list of integer and list of integer cannot be ordered']),
    ("${inputs.xs in a}", ["8:24: only a text can be in Completion, this is list of string"]),
    ("${'a' in maybe}", ["8:18: maybe may be null, because a step that makes it can be skipped | guard it: ${maybe if maybe else '...'}"]),
    ("${inputs.n['a' ~ 'b']}${inputs.n[1:]}${inputs.q['a' ~ '']}", ["8:20: integer has no items", "8:41: integer cannot be cut", "8:57: a text is read by a whole number, this is string"]),
    ("${inputs.xs | map(attribute='k')}", ["8:23: map: string has no field 'k' | it has no fields"]),
    ('${1 in 2}', ['8:16: `in` looks inside a list, a mapping or a text, not integer']),
    ("${'a' in inputs.n}", ['8:18: `in` looks inside a list, a mapping or a text, not integer']),
    ('${inputs.xs[1:].x}', ["8:25: list of string has no field 'x' | it has no fields"]),
    ("${inputs.xs['a':nobody]}", ["8:21: a slice takes whole numbers, this is 'a'", "8:25: 'nobody' is not a step, an input or a loop variable here | there is: a, inputs, many, maybe"]),
    ("${inputs.xs[nobody] | default('x')}", ["8:21: 'nobody' is not a step, an input or a loop variable here | there is: a, inputs, many, maybe"]),
    ('${(a if inputs.n else inputs.q).text}', ["8:41: Completion or string has no field 'text' | it has no fields"]),
    ('${nobody is defined}', ["8:11: 'nobody' is not a step, an input or a loop variable here | there is: a, inputs, many, maybe"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "messages"), ROOT)
def test_a_file_that_is_no_recipe_is_told(bench: Bench, text: str, messages: list[str]) -> None:
    assert told(bench, text) == messages


@pytest.mark.parametrize(("text", "messages"), INPUTS + MODELS + BUDGET)
def test_a_mistake_in_the_head_is_told(bench: Bench, text: str, messages: list[str]) -> None:
    assert told(bench, f"version: 1\n{text}\nsteps: {{a: {{use: tools.talk}}}}\n") == messages


@pytest.mark.parametrize(("step", "messages"), STEPS + USE + GENERATE)
def test_a_mistake_in_a_step_is_told(bench: Bench, step: str, messages: list[str]) -> None:
    steps = step if step.startswith("steps:") else f"steps:\n  a: {step}\n"
    assert told(bench, HEAD + steps) == messages


@pytest.mark.parametrize(("output", "messages"), TYPES)
def test_a_mistake_in_an_expression_is_told(bench: Bench, output: str, messages: list[str]) -> None:
    assert told(bench, f"{HEAD}{TYPED}{output}\n") == messages


@pytest.mark.parametrize(
    "output",
    [
        "${inputs.zz is defined}", "${inputs.q + inputs.q}${inputs.xs + inputs.xs}", "${inputs.n / 2 + 1 | int}",
        "${inputs.xs | first}${inputs.xs | sort | last | upper}", "${a and a.text in inputs.xs}", "${inputs.d.x.y[0] < 3}",
        "|\n  {% for k, v in {'a': 1} | items %}${k}${v}{% endfor %}", "|\n  {% for x in inputs.xs if x != 'a' %}${x}{% endfor %}",
        "${[inputs.n, 2.5] | sum + 1}", "${(a if inputs.n > 1 else many[0]).text}", "${inputs.q[1:]}${a[0:3]}",
    ],
)  # fmt: skip
def test_what_would_work_is_not_told(bench: Bench, output: str) -> None:
    assert told(bench, f"{HEAD}{TYPED}{output}\n") == []


class TestWarnings:
    """Warnings do not make a recipe invalid, and say nothing while there are errors to mend first."""

    def test_equal_samples_are_a_warning(self, bench: Bench) -> None:
        assert bench.told("steps: {a: {prompt: x, samples: 3}}", warnings=True) == [
            "3:24: all samples are equal at temperature 0 | add temperature: 0.7"
        ]

    def test_unused_steps_are_a_warning_once_nothing_else_is_wrong(self, bench: Bench) -> None:
        steps = "steps:\n  a: {prompt: x}\n  b: {prompt: '${a}'}\n  c: {prompt: x}\n"
        unused = "nothing uses step '%s' | read it in `output` or in another step, or delete it"
        assert bench.told(steps, warnings=True) == [f"4:3: {unused % 'a'}", f"5:3: {unused % 'b'}"]
        assert bench.told(f"{steps}output: ${{d}}\n", warnings=True) == [
            "7:11: 'd' is not a step, an input or a loop variable here | there is: a, b, c, inputs"
        ]


class TestOverrides:
    """`--set` and `--model` change the parsed file; mistakes in them point at what they change."""

    PATH = "version: 1\nmodels: {main: {use: fake}}\nsteps:\n  a: {prompt: x}\n"

    def test_a_value_is_set_before_the_recipe_is_checked(self, bench: Bench) -> None:
        path = bench.write(self.PATH)
        overrides = {"a.prompt": "other", "a.max_tokens": "1", "models.main.answers": "[one two]"}
        assert bench.kernel.recipe(path, overrides=overrides).run().output.text == "one"
        assert bench.prompts == ["other"]

    def test_a_wrong_value_points_at_the_step(self, bench: Bench) -> None:
        recipe = bench.kernel.check(
            bench.write(self.PATH), overrides={"a.max_tokens": "many", "a.messages": "[{role: x}]"}
        )
        assert [(d.line, d.column, d.message) for d in recipe.errors] == [
            (4, 6, "a step has 'prompt' or 'messages', not both")
        ]
        recipe = bench.kernel.check(bench.write(self.PATH), overrides={"a.max_tokens": "many"})
        assert [(d.line, d.column, d.message) for d in recipe.errors] == [
            (4, 6, "max_tokens: an integer is wanted, this is 'many'")
        ]

    @pytest.mark.parametrize(
        ("path", "value", "message"),
        [
            ("b.prompt", "x", "b.prompt=x: there is no 'b' in the recipe\n  there is: a"),
            ("models.other.use", "x", "models.other.use=x: there is no 'other' in the recipe\n  there is: main"),
            ("a.prompt.x", "x", "a.prompt.x=x: the value is no YAML\n  quote it twice: --set 'step.key=\"text\"'"),
            ("a.prompt", "[", "a.prompt=[: the value is no YAML\n  quote it twice: --set 'step.key=\"text\"'"),
        ],
    )  # fmt: skip
    def test_one_that_means_nothing_is_refused(self, bench: Bench, path: str, value: str, message: str) -> None:
        with pytest.raises(UsageError) as caught:
            bench.kernel.check(bench.write(self.PATH), overrides={path: value})
        assert str(caught.value) == message


class TestPaths:
    """Files in a recipe are resolved against it; bundled and hub names stay as they are."""

    @pytest.mark.parametrize(
        ("file", "resolved"),
        [("smollm2", "smollm2"), ("hf:o/r/f.gguf", "hf:o/r/f.gguf"), ("./m.gguf", "{}/m.gguf"), ("m.gguf", "{}/m.gguf"), ("/m/x.gguf", "/m/x.gguf")],
    )  # fmt: skip
    def test_a_models_file_is_resolved(self, bench: Bench, file: str, resolved: str) -> None:
        path = bench.write(f"version: 1\nmodels: {{m: {{use: need, file: '{file}'}}}}\nsteps: {{a: {{prompt: x}}}}")
        with Kernel(plugins={"need": Need()}, cache=False) as kernel:
            assert kernel.check(path).models["m"].arguments["file"] == resolved.format(bench.folder)

    def test_adapters_are_resolved_in_both_their_forms(self, bench: Bench) -> None:
        path = bench.write("version: 1\nmodels: {m: {use: fake, adapters: {a: ./a.gguf}}}\nsteps: {a: {prompt: x}}")
        assert bench.kernel.check(path).models["m"].arguments["adapters"] == {"a": str(bench.folder / "a.gguf")}

    @pytest.mark.parametrize("path", ["nowhere.yaml", "x\0y.yaml", "y" * 5000 + ".yaml", "x\0y", "y" * 5000])
    def test_a_recipe_that_is_not_there_is_a_usage_error(self, bench: Bench, path: str) -> None:
        with pytest.raises(UsageError):
            bench.kernel.check(path)

    def test_a_folder_is_no_recipe(self, bench: Bench) -> None:
        with pytest.raises(UsageError, match="is a folder"):
            bench.kernel.check(Path(bench.folder))


class TestSchemaTypes:
    """The types that expressions see in a step's `schema`."""

    def test_a_schema_that_refers_to_itself_ends_in_any(self) -> None:
        loop = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}
        assert type_of_schema(loop).kind == "any"
        kids = {"type": "array", "items": {"$ref": "#/$defs/n"}}
        tree = {
            "$ref": "#/$defs/n",
            "$defs": {"n": {"type": "object", "properties": {"kids": kids}, "required": ["kids"]}},
        }
        assert str(type_of_schema(tree).fields["kids"]) == "list"

    def test_definitions_that_multiply_are_read_once(self) -> None:
        defs = {
            f"a{i}": {"properties": {"x": {"$ref": f"#/$defs/a{i + 1}"}, "y": {"$ref": f"#/$defs/a{i + 1}"}}}
            for i in range(60)
        }
        started = time.process_time()
        assert type_of_schema({"$ref": "#/$defs/a0", "$defs": defs}).kind == "record"
        assert time.process_time() - started < 0.5

    @pytest.mark.parametrize(
        ("schema", "shown"),
        [
            ({"type": "string"}, "string"), ({"enum": ["a", "b"]}, "'a' or 'b'"), ({"const": 3}, "integer"),
            ({"type": ["string", "null"]}, "string or null"), ({"anyOf": [{"type": "integer"}, {"type": "boolean"}]}, "integer or boolean"),
            ({"type": "array", "items": {"type": "number"}}, "list of number"), ({"type": "object"}, "mapping"), ({}, "any"),
            ({"properties": {"a": {"type": "string"}}}, "mapping with a"), (True, "any"), ({"type": "strange"}, "any"),
        ],
    )  # fmt: skip
    def test_every_form_has_a_type(self, schema: object, shown: str) -> None:
        assert str(type_of_schema(schema)) == shown

    def test_what_is_not_required_may_be_null(self, bench: Bench) -> None:
        schema = "{type: object, properties: {n: {type: integer}}}"
        assert (
            "may be null" in bench.told(f"steps: {{a: {{prompt: x, schema: {schema}}}}}\noutput: ${{a.value.n + 1}}")[0]
        )

    def test_what_fits_can_be_coerced(self) -> None:
        assert fit(STRING, type_of(Path)) is None
        assert coerce("a", type_of(Path)) == Path("a")


class TestSpeed:
    """Checking is linear in the size of the recipe."""

    def test_a_thousand_steps_are_checked_within_a_second(self, bench: Bench) -> None:
        steps = "".join(
            f"  s{i}: {{prompt: 'Answer ${{inputs.q}} {f'${{s{i - 1}.text}}' if i else ''}', temperature: 0.5}}\n"
            for i in range(1000)
        )
        started = time.process_time()
        assert bench.told(f"inputs: {{q: string}}\nsteps:\n{steps}") == []
        assert time.process_time() - started < 1
