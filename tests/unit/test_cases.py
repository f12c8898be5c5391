"""The test cases of recipes: every expectation can hold and fail, every mistake in the file is told with its place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gristmill import Kernel, RecipeError, UsageError
from gristmill._tools._cases import CaseResult, Mode, run_cases
from gristmill.testing import FakeModel, FakePlugin

RECIPE = """
version: 1
name: greet
inputs:
  who: {type: string}
  mood: {type: string, default: calm}
models:
  main: {use: fake}
steps:
  hello: {prompt: "Greet ${inputs.who}."}
  facts: {prompt: "Facts about ${inputs.who}.", schema: {letters: integer}}
  shout: {if: "${inputs.mood == 'loud'}", prompt: "Shout at ${inputs.who}."}
output: {text: "${hello.text}", letters: "${facts.value.letters}", loud: "${shout}"}
"""
ANSWERS: dict[str, Any] = {"Greet": "Hello, Ada!", "Facts": '{"letters": 3}', "Shout": "ADA!"}


@pytest.fixture
def plugin() -> FakePlugin:
    return FakePlugin(ANSWERS)


@pytest.fixture
def kernel(plugin: FakePlugin) -> Iterator[Kernel]:
    with Kernel(plugins={"fake": plugin}, cache=False) as kernel:
        yield kernel


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "greet.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def write(recipe: Path, text: str) -> Path:
    path = recipe.with_name("greet.test.yaml")
    path.write_text(text, encoding="utf-8")
    return path


def run_one(kernel: Kernel, recipe: Path, expect: str, mode: Mode = "real", more: str = "") -> CaseResult:
    write(recipe, f"cases:\n  - inputs: {{who: Ada}}\n{more}    expect: {expect}\n")
    (result,) = run_cases(kernel, recipe, mode=mode)
    return result


def mistakes(kernel: Kernel, recipe: Path, text: str) -> list[str]:
    write(recipe, text)
    with pytest.raises(RecipeError) as caught:
        run_cases(kernel, recipe)
    return [f"{d.line}:{d.column}: {d.message}: {d.hint}" for d in caught.value.diagnostics]


@pytest.mark.parametrize(
    "expect",
    [
        "{contains: Hello}",
        "{contains: [Hello, Ada]}",
        "{step: hello, equals: 'Hello, Ada!'}",
        "{equals: {text: 'Hello, Ada!', letters: 3.0, loud: null}}",
        "{step: hello, matches: '^Hello, [A-Z]\\w+!$'}",
        "{step: facts, schema: {letters: integer}}",
        "{step: facts, equals: {letters: 3}}",
        "{schema: {type: object, required: [text, letters]}}",
        "{expression: \"${output.letters == 3 and steps.hello.text | length < 20 and inputs.mood == 'calm'}\"}",
        "{step: shout, equals: null}",
        "[{contains: Hello}, {step: hello, contains: Ada, matches: '!'}]",
    ],
)
def test_an_expectation_that_holds_passes(kernel: Kernel, recipe: Path, expect: str) -> None:
    result = run_one(kernel, recipe, expect)
    assert result.failures == ()
    assert result.passed
    assert result.name == "case 1"
    assert result.elapsed_s > 0


@pytest.mark.parametrize(
    ("expect", "place", "expected", "got"),
    [
        ("{contains: [Hello, Bob]}", "3:14: the output", "a text with 'Bob'", '"letters": 3'),
        ("{step: hello, equals: hello}", "3:27: step 'hello'", "'hello'", "'Hello, Ada!'"),
        ("{step: facts, equals: {letters: true}}", "3:27: step 'facts'", "{'letters': True}", "{'letters': 3}"),
        ("{step: hello, matches: '^Ada'}", "3:27: step 'hello'", "a match of '^Ada'", "'Hello, Ada!'"),
        ("{step: facts, schema: {letters: string}}", "3:27: step 'facts'", "$.letters: 3 is not of", "{'letters': 3}"),
        ("{expression: '${output.letters > 5}'}", "3:14: expression", "letters > 5} to be true", "'letters': 3"),
        ("{step: shout, contains: x}", "3:27: step 'shout'", "a text with 'x'", "''"),
        ("{contains: zebra, matches: y}", "3:14: the output", "a text with 'zebra'", "Ada"),
    ],
)  # fmt: skip
def test_a_failure_says_where_what_was_expected_and_what_came(
    kernel: Kernel, recipe: Path, expect: str, place: str, expected: str, got: str
) -> None:
    result = run_one(kernel, recipe, expect)
    head, second, third = result.failures[0].splitlines()
    assert not result.passed
    assert head.endswith(f"greet.test.yaml:{place}: not as expected")
    assert second.startswith("  expected: ")
    assert expected in second
    assert third.startswith("  got:      ")
    assert got in third


def test_every_failed_expectation_is_told(kernel: Kernel, recipe: Path) -> None:
    assert len(run_one(kernel, recipe, "[{contains: zebra, matches: zoo}, {step: hello, equals: z}]").failures) == 3


def test_an_endless_regular_expression_is_a_failure_soon(recipe: Path) -> None:
    main = FakePlugin("a" * 60 + "!")
    with Kernel(plugins={"fake": main}, cache=False) as slow:
        recipe.write_text("version: 1\nmodels: {main: {use: fake}}\nsteps: {s: {prompt: x}}", encoding="utf-8")
        write(recipe, "cases: [{expect: {matches: '^(a|a|aa)+$'}}]")
        (result,) = run_cases(slow, recipe)
    assert "took longer than 2 s" in result.failures[0]


def test_a_schema_never_fetches_what_it_refers_to(kernel: Kernel, recipe: Path) -> None:
    result = run_one(kernel, recipe, "{schema: {$ref: 'http://127.0.0.1:9/x.json'}}")
    assert "the schema refers to what is not there" in result.failures[0]


def test_an_expression_that_fails_is_a_failure(kernel: Kernel, recipe: Path) -> None:
    result = run_one(kernel, recipe, "{expression: \"${steps['hello'].value.x == 1}\"}")
    assert "failed" in result.failures[0]


def test_a_run_that_fails_is_a_failure_and_the_next_case_runs(recipe: Path) -> None:
    write(recipe, "cases: [{inputs: {who: Ada}, expect: {contains: x}}, {inputs: {who: Ada}, expect: {contains: x}}]")
    with Kernel(plugins={"fake": FakePlugin({"Greet": "hi"})}, cache=False) as kernel:
        results = run_cases(kernel, recipe)
    assert len(results) == 2
    assert all("step 'facts'" in result.failures[0] for result in results)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cases: [", "this is not YAML"),
        ("[]", "1:1: this is no file of cases"),
        ("cases: {}", "1:8: cases is a list"),
        ("case: []", "1:1: 'case' is not a key of a file of cases: did you mean 'cases'?"),
        ("recipe: ./other.yaml\ncases: [{inputs: {who: a}, expect: {contains: x}}]",
         "1:9: these cases are for './other.yaml', not for 'greet.yaml'"),
        ("recipe: other\ncases: [{inputs: {who: a}, expect: {contains: x}}]",
         "1:9: these cases are for recipe 'other', not for 'greet'"),
        ("recipe: [a]\ncases: [{inputs: {who: a}, expect: {contains: x}}]", "1:9: recipe is a name"),
        ("cases: [3]", "1:9: a case is a mapping"),
        ("cases: [{inputs: {who: a}, expects: {contains: x}}]",
         "1:28: 'expects' is not a key of a case: did you mean 'expect'?"),
        ("cases: [{inputs: {who: a}}]", "1:9: case 'case 1' expects nothing"),
        ("cases:\n- {name: a, inputs: {who: b}, expect: {equals: 1}}\n- {name: a, inputs: {who: a}, expect: {}}",
         "3:3: two cases are called 'a'"),
        ("cases: [{inputs: [a], expect: {contains: x}}]", "1:18: inputs is a mapping"),
        ("cases: [{expect: {contains: x}}]", "1:9: the input 'who' is missing"),
        ("cases: [{inputs: {who: a, mod: b}, expect: {contains: x}}]",
         "1:27: the recipe has no input 'mod': did you mean 'mood'?"),
        ("cases: [{inputs: {who: 3}, expect: {contains: x}}]", "1:24: who: a string is wanted, this is 3"),
        ("cases: [{inputs: {who: a}, answers: 3, expect: {contains: x}}]", "1:37: answers is a text, a list of texts"),
        ("cases: [{inputs: {who: a}, answers: {a: 3}, expect: {contains: x}}]", "1:37: answers is a text"),
        ("cases: [{inputs: {who: a}, expect: x}]", "1:36: an expectation is a mapping"),
        ("cases: [{inputs: {who: a}, expect: {contain: x}}]",
         "1:37: 'contain' is not a key of an expectation: did you mean 'contains'?"),
        ("cases: [{inputs: {who: a}, expect: {step: hello}}]", "1:36: this expects nothing"),
        ("cases: [{inputs: {who: a}, expect: {step: helo, contains: x}}]", "1:43: 'helo' is not a step: did you mean"),
        ("cases: [{inputs: {who: a}, expect: {contains: 3}}]", "1:47: contains is a text, or a list of them"),
        ("cases: [{inputs: {who: a}, expect: {matches: '('}}]", "1:46: this is no regular expression: missing )"),
        ("cases: [{inputs: {who: a}, expect: {schema: 3}}]", "1:45: schema: schema is a mapping"),
        ("cases: [{inputs: {who: a}, expect: {schema: {a: strin}}}]", "1:45: schema: a: 'strin' is no type"),
        ("cases: [{inputs: {who: a}, expect: {schema: {type: array, minItems: -1}}}]", "1:45: schema: -1 is less than"),
        ("cases: [{inputs: {who: a}, expect: {expression: 3}}]", "1:49: expression is a ${...}"),
        ("cases: [{inputs: {who: a}, expect: {expression: '${1 +}'}}]", "1:"),
        ("cases: [{inputs: {who: a}, expect: {expression: '${output.leters == 3}'}}]", "1:59: "),
        ("cases: [{inputs: {who: a}, expect: {expression: '${hello.text == \"x\"}'}}]", "1:52: "),
        ("cases: [{inputs: {who: a}, expect: {expression: '${output.text}'}}]", "1:49: expression: a boolean is"),
        ("cases: [{inputs: {who: a}, expect: {expression: 'true'}}]", "1:49: expression: a boolean is"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_file_is_told_with_its_place(kernel: Kernel, recipe: Path, text: str, told: str) -> None:
    assert any(told in mistake for mistake in mistakes(kernel, recipe, text)), mistakes(kernel, recipe, text)


def test_all_mistakes_are_told_at_once_and_nothing_runs(kernel: Kernel, recipe: Path, plugin: FakePlugin) -> None:
    text = "cases: [{inputs: {whom: a}, expect: {contain: x}}, {inputs: {who: a}, expect: {step: x, contains: a}}]"
    assert len(mistakes(kernel, recipe, text)) >= 4
    assert plugin.models == {}


def test_a_recipe_without_cases_says_where_they_would_stand(kernel: Kernel, recipe: Path) -> None:
    with pytest.raises(UsageError, match=r"has no cases: there is no .*greet\.test\.yaml") as caught:
        run_cases(kernel, recipe)
    assert "--cases" in str(caught.value)


def test_the_cases_file_leads_to_its_recipe(kernel: Kernel, recipe: Path) -> None:
    case = "cases: [{inputs: {who: Ada}, expect: {contains: Hello}}]"
    assert run_cases(kernel, write(recipe, case))[0].passed
    elsewhere = recipe.with_name("other.test.yaml")
    elsewhere.write_text(f"recipe: ./greet.yaml\n{case}", encoding="utf-8")
    assert run_cases(kernel, elsewhere)[0].passed
    assert run_cases(kernel, recipe, elsewhere)[0].passed


def test_paths_among_the_inputs_are_taken_from_the_cases_file(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "note.txt").write_text("from the note", encoding="utf-8")
    recipe = tmp_path / "read.yaml"
    recipe.write_text(
        "version: 1\ninputs: {file: path}\nsteps: {s: {use: text.read, with: {path: '${inputs.file}'}}}",
        encoding="utf-8",
    )
    cases = tmp_path / "tests" / "read.test.yaml"
    cases.write_text("cases: [{inputs: {file: note.txt}, expect: {equals: from the note}}]", encoding="utf-8")
    assert run_cases(kernel, recipe, cases)[0].failures == ()


def test_fake_answers_from_the_case_and_asks_no_model(kernel: Kernel, recipe: Path, plugin: FakePlugin) -> None:
    answers = "    answers: {Greet: Fake hello, Facts: '{\"letters\": 9}'}\n"
    assert run_one(kernel, recipe, "{contains: [Fake hello, '9']}", "fake", answers).passed
    assert plugin.models == {}


def test_fake_answers_in_turn(kernel: Kernel, tmp_path: Path) -> None:
    recipe = tmp_path / "greet.yaml"
    recipe.write_text(
        "version: 1\nmodels: {a: {use: fake}, b: {use: fake, name: other}}\nsteps:\n"
        "  one: {model: a, prompt: x}\n  two: {model: b, prompt: '${one}'}\noutput: ${one} ${two}",
        encoding="utf-8",
    )
    write(recipe, "cases: [{answers: [first, second], expect: {equals: first second}}]")
    assert run_cases(kernel, recipe, mode="fake")[0].failures == ()


def test_fake_without_answers_is_a_failure(kernel: Kernel, recipe: Path) -> None:
    result = run_one(kernel, recipe, "{contains: x}", "fake")
    assert result.failures == ("the case has no `answers` for a fake model to give",)


def test_what_was_recorded_is_replayed_without_a_model(kernel: Kernel, recipe: Path, plugin: FakePlugin) -> None:
    assert run_one(kernel, recipe, "{contains: Hello}", "record").passed
    recorded = json.loads(recipe.with_name("greet.answers.json").read_text(encoding="utf-8"))
    assert list(recorded) == ["main"]
    asked = len(plugin.models["fake"].requests)
    assert run_one(kernel, recipe, "{equals: {text: 'Hello, Ada!', letters: 3, loud: null}}", "replay").passed
    assert len(plugin.models["fake"].requests) == asked == 2


def test_recording_again_asks_the_model_again(kernel: Kernel, recipe: Path) -> None:
    run_one(kernel, recipe, "{contains: Hello}", "record")
    with Kernel(plugins={"fake": FakePlugin(ANSWERS | {"Greet": "Good day"})}, cache=False) as changed:
        assert run_one(changed, recipe, "{contains: Good day}", "record").passed
    assert run_one(kernel, recipe, "{contains: Good day}", "replay").passed


def test_the_same_prompt_to_two_models_is_recorded_apart(tmp_path: Path) -> None:
    called = tmp_path / "called.yaml"
    called.write_text("version: 1\nmodels: {a: {use: three}}\nsteps: {s: {prompt: same}}\noutput: ${s.text}")
    recipe = tmp_path / "greet.yaml"
    recipe.write_text(
        "version: 1\nmodels: {a: {use: one}, b: {use: two}}\nsteps:\n  x: {model: a, prompt: same}\n"
        "  y: {model: b, prompt: same}\n  z: {recipe: called.yaml}\noutput: ${x} ${y} ${z}"
    )
    write(recipe, "cases: [{expect: {equals: 1 2 3}}]")
    plugins = {name: SaysPlugin(name, text) for name, text in {"one": "1", "two": "2", "three": "3"}.items()}
    with Kernel(plugins={name: plugin.module for name, plugin in plugins.items()}, cache=False) as kernel:
        assert [run_cases(kernel, recipe, mode=mode)[0].failures for mode in ("record", "replay")] == [(), ()]
    recorded = json.loads((tmp_path / "greet.answers.json").read_text(encoding="utf-8"))
    assert sorted(recorded) == ["a", "b", "z/a"]


class SaysPlugin:
    """A provider under its own name that always says one thing."""

    def __init__(self, name: str, text: str) -> None:
        from gristmill import Model, model_provider

        def provide() -> Model:
            """Say one thing."""
            return FakeModel(text)

        self.module = type("Module", (), {name: staticmethod(model_provider(name=name)(provide))})


def test_a_prompt_that_was_not_recorded_says_how_to_record_it(kernel: Kernel, recipe: Path) -> None:
    run_one(kernel, recipe, "{contains: Hello}", "record")
    write(recipe, "cases: [{inputs: {who: Bob}, expect: {contains: Hello}}]")
    (result,) = run_cases(kernel, recipe, mode="replay")
    assert "no answer was recorded for the prompt 'Greet Bob.'" in result.failures[0]
    assert "gristmill test --record" in result.failures[0]


@pytest.mark.parametrize(
    ("text", "told"), [(None, "there is no recording"), ("{", "cannot be read"), ("[]", "no recording")]
)
def test_replay_without_a_sound_recording_is_a_usage_error(
    kernel: Kernel, recipe: Path, text: str | None, told: str
) -> None:
    if text is not None:
        recipe.with_name("greet.answers.json").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=told):
        run_one(kernel, recipe, "{contains: Hello}", "replay")


def test_a_damaged_recording_does_not_hinder_a_new_one(kernel: Kernel, recipe: Path) -> None:
    recipe.with_name("greet.answers.json").write_text("{", encoding="utf-8")
    assert run_one(kernel, recipe, "{contains: Hello}", "record").passed


def test_a_recipe_that_does_not_check_runs_no_case(kernel: Kernel, recipe: Path) -> None:
    recipe.write_text(RECIPE.replace('prompt: "Greet', 'promt: "Greet'), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"does nothing"):
        run_one(kernel, recipe, "{contains: Hello}")
