"""The recipe language, rules 10 to 26: names, types and nulls, and what the keys of a step mean."""
# ruff: noqa: E501  (a table of cases reads best with a case on a line)

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gristmill import (
    Candidate,
    Choice,
    Completion,
    Context,
    Kernel,
    ModelRef,
    RunError,
    TokenLogprob,
    Usage,
    Value,
    Vote,
    function,
)
from gristmill._language._check import RESERVED
from gristmill._language._types import STRING, CoercionError, coerce, fit, list_of, type_of
from gristmill.testing import FakePlugin

if TYPE_CHECKING:
    from tests.unit.conftest import Bench


class TestRule10Names:
    """Rule 10: names match `[a-z][a-z0-9_]*` and mean nothing else in an expression; nothing shadows a step."""

    @pytest.mark.parametrize(
        ("name", "told"),
        [
            ("my-step", "'my-step' is no name for a step | call it 'my_step'"),
            ("Answer", "'Answer' is no name for a step | call it 'answer'"),
            ("1st", "'1st' is no name for a step | use a-z, 0-9 and _, a letter first"),
            ("_a", "'_a' is no name for a step | call it 'a'"),
            ("аnswer", "'\\u0430nswer' is no name for a step | call it 'nswer'"),
        ],
    )
    def test_a_step_that_no_expression_could_name_is_refused(self, bench: Bench, name: str, told: str) -> None:
        assert f"4:3: {told}" in bench.told(f"steps:\n  {name}: {{prompt: x}}\n")

    @pytest.mark.parametrize("name", sorted(name for name in RESERVED if name.islower()))
    def test_words_of_the_language_are_no_names(self, bench: Bench, name: str) -> None:
        told = f"'{name}' means something in expressions | choose another name"
        assert f"4:3: {told}" in bench.told(f"steps:\n  '{name}': {{prompt: x}}\n")
        assert f"3:10: {told}" in bench.told(f"inputs: {{'{name}': string}}\nsteps: {{a: {{prompt: x}}}}\n")

    def test_a_loop_and_set_may_not_shadow_a_step(self, bench: Bench) -> None:
        steps = "steps:\n  b: {prompt: x}\n  a:\n    prompt: |\n      {% for b in [1] %}${b}{% endfor %}\n      {% set b = 1 %}\n"
        hint = "'b' already names something here | rename it"
        assert bench.told(steps) == [f"7:14: {hint}", f"8:14: {hint}"]

    def test_as_may_not_shadow_a_step_whether_written_or_not(self, bench: Bench) -> None:
        told = bench.told("steps:\n  b: {prompt: x}\n  a: {prompt: '${b}', for_each: [x], as: b}\n")
        assert "5:42: 'b' names a step already | choose another name" in told
        told = bench.told("steps:\n  item: {prompt: x}\n  a: {prompt: '${item}', for_each: [x]}\n")
        assert "5:26: 'item' names a step already | give the loop's item another name with `as`" in told

    def test_a_step_called_item_is_waited_for_where_nothing_loops(self, bench: Bench) -> None:
        bench.run("steps:\n  a: {prompt: 'about ${item}'}\n  item: {prompt: x}\noutput: ${a}\n")
        assert bench.prompts == ["x", "about fake answer"]

    @pytest.mark.parametrize(("name", "good"), [("my-recipe_2", True), ("My recipe", False), ("-x", False)])
    def test_recipe_names_may_hold_hyphens(self, bench: Bench, name: str, good: bool) -> None:
        told = bench.told(f"name: {name}\nsteps: {{a: {{prompt: x}}}}")
        assert told == ([] if good else [f"3:7: '{name}' is no recipe name | use a-z, 0-9, - and _"])


class TestRule11NoExpressions:
    """Rule 11: what a recipe is made of holds no expressions, nor do keys."""

    @pytest.mark.parametrize(
        "line",
        [
            "name: '${x}'", "description: '${x}'", "inputs: {q: '${x}'}", "inputs: {q: {type: string, default: '${x}'}}",
            "steps: {a: {use: '${x}'}}", "steps: {a: {recipe: '${x}'}}", "steps: {a: {prompt: x, model: '${x}'}}",
            "steps: {a: {prompt: x, for_each: [x], as: '${x}'}}", "steps: {a: {prompt: x, needs: '${x}'}}",
            "steps: {a: {prompt: x, cache: '${x}'}}", "steps: {a: {prompt: x, retry: {attempts: '${x}'}}}",
            "steps: {a: {prompt: x, timeout_s: '${x}'}}", "steps: {a: {prompt: x, on_error: '${x}'}}",
            "steps: {a: {prompt: x, schema: {a: '${x}'}}}", "steps: {a: {prompt: x, for_each: [x], concurrency: '${x}'}}",
            "budget: {calls: '${x}'}", "steps: {a: {messages: [{role: '${x}', content: x}]}}",
        ],
    )  # fmt: skip
    def test_an_expression_there_is_refused(self, bench: Bench, line: str) -> None:
        column = line.index("'${x}'") + 1
        told = bench.told(line if line.startswith("steps") else f"{line}\nsteps: {{a: {{prompt: x}}}}")
        wanted = f"3:{column}: no expression can stand here | write the value itself"
        wanted_name = f"3:{column}: '${{x}}' is no name for an item"
        assert any(one == wanted or one.startswith(wanted_name) for one in told), told

    @pytest.mark.parametrize(
        "path", ["version: '${x}'", "models: {main: {use: '${x}'}}", "models: {'${x}': {use: fake}}"]
    )
    def test_nor_in_version_or_models(self, bench: Bench, path: str) -> None:
        head = path if path.startswith("version") else f"version: 1\n{path}"
        assert bench.checked(f"{head}\nsteps: {{a: {{prompt: x}}}}").errors

    def test_a_key_is_never_read_as_an_expression(self, bench: Bench) -> None:
        assert bench.told("steps: {a: {prompt: x, '${x}': 1}}")[0].startswith("3:24: '${x}' is not a key of a `prompt`")


class TestRule12ResultTypes:
    """Rule 12: what a step gives follows from what it is, and unknown is `any`, which is not checked."""

    @pytest.mark.parametrize(
        ("step", "type_"),
        [
            ("prompt: x", "Completion"),
            ("prompt: x\n    samples: 1", "list of Completion"),
            ("prompt: x\n    samples: 2\n    temperature: 1\n    for_each: [x]", "list of list of Completion"),
            ("prompt: x\n    choices: [a, b]", "Choice"),
            ("prompt: x\n    for_each: [x]", "list of Completion"),
            ("prompt: x\n    if: ${inputs.n > 1}", "Completion or null"),
            ("prompt: x\n    on_error: skip", "Completion or null"),
            ("prompt: x\n    on_error: {value: none yet}", "Completion or 'none yet'"),
            ("prompt: x\n    for_each: [1, 2]\n    if: ${item > 1}", "list of Completion or null"),
            ("use: tools.count\n    with: {items: [a]}", "integer"),
            ("use: tools.talk", "list of Message"),
            ("recipe: ./sub.yaml", "mapping with n, t"),
        ],
    )
    def test_a_step_has_the_type_of_what_it_does(self, bench: Bench, step: str, type_: str) -> None:
        bench.write(
            "version: 1\nsteps: {a: {use: tools.echo, with: {value: x}}}\noutput: {n: 1, t: '${a}'}", "sub.yaml"
        )
        recipe = bench.checked(
            f"version: 1\nmodels: {{main: {{use: fake}}}}\ninputs: {{n: integer}}\nsteps:\n  a:\n    {step}\n"
        )
        assert not recipe.errors
        assert str(recipe.steps["a"].type) == type_

    def test_a_schema_types_the_value(self, bench: Bench) -> None:
        steps = "steps:\n  a: {prompt: x, schema: {n: integer, who: {name: string}}}\n"
        assert bench.told(steps + "output: ${a.value.n + 1} ${a.value.who.name}\n") == []
        assert bench.told(steps + "output: ${a.value.who.nam}\n") == [
            "5:23: mapping with name has no field 'nam' | did you mean 'name'?"
        ]

    def test_any_is_not_checked(self, bench: Bench) -> None:
        assert bench.told("inputs: {x: any}\nsteps: {a: {prompt: '${inputs.x.y[0].z + 1}'}}") == []

    def test_a_run_gives_what_the_types_say(self, bench: Bench) -> None:
        result = bench.run(
            "steps:\n  a: {prompt: x, samples: 1}\n  b: {prompt: y, choices: [yes, no]}\noutput: ['${a}', '${b}']"
        )
        assert [type(item).__name__ for item in [*result.output[0], result.output[1]]] == ["Completion", "Choice"]


class TestRule13Nulls:
    """Rule 13: a step that may be skipped is nullable; a read needs a guard; skips do not propagate."""

    SKIPPABLE = "inputs: {n: integer}\nsteps:\n  a: {prompt: x, if: '${inputs.n > 1}'}\n"

    @pytest.mark.parametrize(
        "output",
        [
            "${a.text if a else 'none'}", "${'none' if not a else a.text}", "${a.text if a is not none else ''}",
            "${'' if a is none else a.text}", "${a and a.text}", "${not a or a.text == 'x'}", "${a | default('none')}",
            "${a.text | default('none')}", "{% if a %}${a.text}{% endif %}", "{% if not a %}no{% else %}${a.text}{% endif %}",
            "${a.text if a != none else ''}", "${a.text if inputs.n > 1 and a else ''}", "${a}",
            "${a.text if a.text else ''}".replace("a.text else", "a else"), "${(a or 'x') ~ ''}", "${a is none}",
        ],
    )  # fmt: skip
    def test_a_guarded_read_is_fine(self, bench: Bench, output: str) -> None:
        assert bench.told(f'{self.SKIPPABLE}output: "{output}"\n') == []

    @pytest.mark.parametrize(
        "output",
        [
            "${a.text}", "${a.text if inputs.n else ''}", "text: ${a}", "${a or a.text}", "${a.text if not a else ''}",
            "${a ~ 'x'}", "${a | upper}", "{% if not a %}${a.text}{% endif %}", "${a.text if a or inputs.n > 1 else ''}",
        ],
    )  # fmt: skip
    def test_an_unguarded_read_is_an_error(self, bench: Bench, output: str) -> None:
        told = bench.told(f'{self.SKIPPABLE}output: "{output}"\n')
        assert len(told) == 1
        assert "may be null" in told[0]

    def test_the_message_says_why_and_how_to_guard(self, bench: Bench) -> None:
        assert bench.told(f"{self.SKIPPABLE}output: ${{a.text}}\n") == [
            "6:11: a may be null, because a step that makes it can be skipped | guard it: ${a.text if a else '...'}"
        ]

    def test_the_reading_steps_own_if_is_a_guard(self, bench: Bench) -> None:
        assert (
            bench.told(f"{self.SKIPPABLE}  b: {{prompt: '${{a.text}}', if: '${{a is not none}}'}}\noutput: ${{b}}\n")
            == []
        )

    def test_a_skip_does_not_propagate(self, bench: Bench) -> None:
        result = bench.run(f"{self.SKIPPABLE}  b: {{prompt: \"${{a | default('nothing')}}\"}}\n", n=0)
        assert result.steps["a"].status == "skipped"
        assert bench.prompts == ["nothing"]

    def test_default_answers_for_a_field_of_a_skipped_step(self, bench: Bench) -> None:
        assert bench.run(f"{self.SKIPPABLE}output: ${{a.text | default('nothing')}}", n=0).output == "nothing"

    def test_items_that_may_be_null_need_a_select(self, bench: Bench) -> None:
        steps = "steps:\n  a: {prompt: x, for_each: [1, 2], if: '${item > 1}'}\n"
        assert bench.told(steps + "output: ${a | map(attribute='text')}") == [
            "5:15: map: items may be null | leave them out: | select"
        ]
        assert bench.told(steps + "output: ${a | join}") == ["5:15: join: items may be null | leave them out: | select"]
        assert bench.told(steps + "output: ${a | select | map(attribute='text') | join}") == []


class TestRule14Coercions:
    """Rule 14: one closed table serves `check` and the run; a literal text never becomes a number."""

    CANDIDATES = type_of(list[Candidate])

    @pytest.mark.parametrize(
        "value",
        [Completion(text="a"), "a", {"text": "a"}, Candidate(text="a"), Vote(winner="a", tally={}, agreement=1)],
    )
    def test_results_and_texts_become_candidates(self, value: Any) -> None:
        assert coerce([value, None], self.CANDIDATES)[0].text == "a"
        assert len(coerce([value, None], self.CANDIDATES)) == 1

    def test_a_candidate_keeps_what_is_known_of_the_answer(self) -> None:
        logprobs = (TokenLogprob(token="a", logprob=-0.5), TokenLogprob(token="b", logprob=-1.0))
        choice = Choice(text="a", index=0, probabilities={"a": 0.75, "b": 0.25})
        written, chosen, plain = coerce([Completion(text="ab", logprobs=logprobs), choice, "c"], self.CANDIDATES)
        assert (written.logprob, written.n_tokens) == (-1.5, 2)
        assert chosen.probabilities == choice.probabilities
        assert (plain.logprob, plain.probabilities) == (None, None)

    def test_every_value_with_a_text_is_a_candidate(self) -> None:
        class Judged(Value):
            """What a plugin might return."""

            text_field = "text"
            text: str

        assert fit(type_of(Judged), type_of(Candidate)) is None
        assert coerce(Judged(text="a"), type_of(Candidate)).text == "a"
        assert fit(type_of(Usage), type_of(Candidate)) is not None

    def test_what_is_no_candidate_is_refused_with_the_field(self) -> None:
        with pytest.raises(CoercionError, match="a Candidate is wanted: text: Field required"):
            coerce([{"foo": 1}], self.CANDIDATES)

    def test_check_and_run_agree_about_literals(self, bench: Bench) -> None:
        told = bench.told("steps:\n  a:\n    use: tools.count\n    with: {items: [a], least: '3'}\n")
        assert told == ["6:31: least: an integer is wanted, this is '3' | leave out the quotes"]
        with pytest.raises(CoercionError, match="an integer is wanted, this is '3'"):
            coerce("3", type_of(int))

    @pytest.mark.parametrize(
        ("source", "target", "fits"),
        [
            (type_of(int), type_of(float), True), (type_of(float), type_of(int), False), (STRING, type_of(int), False),
            (type_of(Completion), STRING, True), (STRING, type_of(Path), True), (list_of(STRING), STRING, False),
            (type_of(int | None), type_of(int), False), (type_of(int), type_of(int | str), True),
            (type_of(bool), type_of(int), False), (type_of(dict[str, int]), type_of(dict[str, float]), True),
        ],
    )  # fmt: skip
    def test_the_table_is_closed(self, source: Any, target: Any, fits: bool) -> None:
        assert (fit(source, target) is None) is fits

    def test_a_mapping_must_have_the_fields_that_are_wanted(self, bench: Bench) -> None:
        recipe = "steps:\n  a:\n    prompt: x\n    examples: [{input: a, ouput: b}]\n"
        assert bench.told(recipe) == ["6:15: examples: 'output' is missing in {'input': 'a', 'ouput': 'b'}"]


class TestRule15SchemaAndOutput:
    """Rule 15: `schema` is JSON Schema when it has one of its keywords at the top, else the short form."""

    @pytest.mark.parametrize(
        "schema", ["{n: integer}", "{type: object, properties: {n: {type: integer}}, required: [n]}"]
    )
    def test_both_forms_give_a_typed_value(self, bench: Bench, schema: str) -> None:
        steps = f"steps: {{a: {{prompt: x, schema: {schema}}}}}\noutput: ${{a.value.n + 1}}\n"
        assert bench.told(steps) == []
        bench.plugin.answers = '{"n": 4}'
        assert bench.run(steps).output == 5

    @pytest.mark.parametrize(
        ("schema", "why"), [("[]", "schema is a JSON Schema"), ("string", "schema is a JSON Schema")]
    )
    def test_anything_else_is_refused(self, bench: Bench, schema: str, why: str) -> None:
        told = bench.told(f"steps: {{a: {{prompt: x, schema: {schema}}}}}\n")
        assert len(told) == 1
        assert why in told[0]

    def test_output_may_be_a_mapping(self, bench: Bench) -> None:
        assert bench.run("steps: {a: {prompt: x}}\noutput: {text: '${a.text}', n: 1}").output == {
            "text": "fake answer",
            "n": 1,
        }


class TestRule16ForEach:
    """Rule 16: a list of the same length and order, `item`, `loop`, and what is per item."""

    def test_results_are_in_the_order_of_the_items(self, bench: Bench) -> None:
        result = bench.run("steps: {a: {use: tools.echo, with: {value: '${loop.index}:${item}'}, for_each: [c, a, b]}}")
        assert result.output == ["1:c", "2:a", "3:b"]

    def test_an_if_that_uses_the_item_leaves_null_in_its_place(self, bench: Bench) -> None:
        step = "{use: tools.echo, with: {value: '${x}'}, for_each: [a, b], as: x, if: \"${x == 'b'}\"}"
        assert bench.run(f"steps: {{a: {step}}}").output == [None, "b"]

    def test_an_if_that_does_not_is_evaluated_once(self, bench: Bench) -> None:
        step = "{use: tools.echo, with: {value: '${item}'}, for_each: [a, b], if: '${1 > 2}'}"
        result = bench.run(f"steps: {{a: {step}}}")
        assert (result.output, result.steps["a"].status) == (None, "skipped")

    def test_on_error_and_retry_are_per_item(self, bench: Bench) -> None:
        step = "{use: tools.fail, with: {message: '${item}'}, for_each: [a, b], retry: 2, on_error: skip}"
        assert bench.run(f"steps: {{a: {step}}}").output == [None, None]
        assert sorted(bench.tools.calls) == ["a", "a", "b", "b"]

    @pytest.mark.parametrize(
        ("for_each", "told"),
        [
            ("${inputs.n}", "3:49: for_each needs a list, this is integer"),
            ("${[1] if inputs.n > 1}", "3:49: for_each: this may be null | use `default([])`"),
        ],
    )
    def test_it_needs_a_list(self, bench: Bench, for_each: str, told: str) -> None:
        recipe = f"inputs: {{n: integer}}\nsteps: {{a: {{prompt: x, for_each: '{for_each}'}}}}"
        assert bench.told(recipe) == [told.replace("3:49", "4:34")]

    def test_as_and_concurrency_need_it(self, bench: Bench) -> None:
        assert bench.told("steps: {a: {prompt: x, as: y, concurrency: 2}}") == [
            "3:24: 'as' means nothing without `for_each`",
            "3:31: 'concurrency' means nothing without `for_each`",
        ]


class TestRule17Repeat:
    """Rule 17: in its arguments the step's name is the previous turn, in `until` the turn just made."""

    LOOP = "steps:\n  a:\n    prompt: \"${a.text ~ '+' if a else 'start'}\"\n    repeat: {until: \"${'++' in a.text}\", max: %d}\n"

    def test_each_turn_sees_the_last_and_until_the_new_one(self, bench: Bench) -> None:
        bench.plugin.answers = lambda request, _: request.messages[-1].content
        assert bench.run(self.LOOP % 5).output.text == "start++"

    def test_reaching_max_keeps_the_last_and_marks_the_trace(self, bench: Bench) -> None:
        bench.plugin.answers = lambda request, _: request.messages[-1].content
        result = bench.run(self.LOOP % 2)
        assert result.output.text == "start+"
        assert "repeat reached its max of 2" in [getattr(event, "text", "") for event in result.trace]

    def test_the_previous_turn_is_null_first_and_must_be_guarded(self, bench: Bench) -> None:
        told = bench.told("steps:\n  a:\n    prompt: ${a.text}\n    repeat: {until: '${a.text == 1}', max: 2}\n")
        assert told == [
            "5:15: a may be null, because a step that makes it can be skipped | guard it: ${a.text if a else '...'}"
        ]

    def test_without_repeat_it_is_a_cycle(self, bench: Bench) -> None:
        assert bench.told("steps:\n  a: {prompt: '${a.text}'}\n") == [
            "4:3: step 'a' reads itself | only a step with `repeat` sees its last turn"
        ]


class TestRule18Seeds:
    """Rule 18: turn, item, attempt and sample enter the seed, so that no two pieces of work repeat one answer."""

    def test_items_and_turns_have_seeds_of_their_own_and_the_same_in_every_run(self, bench: Bench) -> None:
        steps = "steps: {a: {prompt: x, temperature: 1, for_each: [1, 2, 3], repeat: {until: '${1 > 2}', max: 2}}}"
        seeds = []
        for _ in range(2):
            bench.run(steps)
            seeds.append([request.seed for request in bench.asked[-6:]])
        assert len(set(seeds[0])) == 6
        assert sorted(seeds[0]) == sorted(seeds[1])

    def test_a_seed_in_the_recipe_is_used_as_it_is_for_the_first(self, bench: Bench) -> None:
        bench.run("steps: {a: {prompt: x, temperature: 1, seed: 7}}")
        assert bench.asked[0].seed == 7


class TestRule19OnError:
    """Rule 19: `fail`, `skip` or `{value: ...}`; null is refused."""

    def test_skip_leaves_null_and_a_value_stands_in(self, bench: Bench) -> None:
        steps = "steps:\n  a: {use: tools.fail, on_error: skip}\n  b: {use: tools.fail, on_error: {value: [1]}}\noutput: ['${a}', '${b}']"
        result = bench.run(steps)
        assert result.output == [None, [1]]
        assert result.steps["a"].status == "handled"

    def test_null_is_refused_with_the_word_to_write(self, bench: Bench) -> None:
        assert bench.told("steps: {a: {prompt: x, on_error: null}}") == [
            "3:34: on_error cannot be None | for a null write `skip`"
        ]

    def test_other_words_are_refused(self, bench: Bench) -> None:
        assert bench.told("steps: {a: {prompt: x, on_error: ignore}}") == [
            "3:34: on_error cannot be 'ignore' | write fail, skip, or {value: ...}"
        ]


class TestRule20Needs:
    """Rule 20: `needs` waits for finished, skipped or handled steps; an unhandled failure cancels."""

    @pytest.mark.parametrize(
        "first",
        ["use: tools.echo, with: {value: x}", "use: tools.fail, on_error: skip", "use: tools.fail, if: '${1 > 2}'"],
    )
    def test_it_waits_for_steps_that_ended_well(self, bench: Bench, first: str) -> None:
        result = bench.run(
            f"steps:\n  b: {{use: tools.echo, with: {{value: y}}, needs: a}}\n  a: {{{first}}}\noutput: ${{b}}"
        )
        assert result.output == "y"
        assert bench.tools.calls[-1] == "y"

    def test_a_failure_cancels_what_needs_it(self, bench: Bench) -> None:
        error = bench.fails("steps:\n  a: {use: tools.fail}\n  b: {use: tools.echo, with: {value: y}, needs: [a]}\n")
        assert error.result.steps["b"].status == "cancelled"

    def test_unknown_names_and_itself_are_refused(self, bench: Bench) -> None:
        assert bench.told("steps:\n  first: {prompt: x}\n  b: {prompt: x, needs: [frst, b]}\n") == [
            "5:26: 'frst' is not a step | did you mean 'first'?",
            "5:32: step 'b' needs itself",
        ]


class TestRule21SubRecipes:
    """Rule 21: a called recipe sees only its `with`, obeys the caller's bounds, and never calls itself."""

    def test_it_sees_only_what_it_is_given(self, bench: Bench) -> None:
        bench.write(
            "version: 1\ninputs: {q: string}\nsteps: {b: {use: tools.echo, with: {value: '${inputs.q}${a}'}}}",
            "sub.yaml",
        )
        told = bench.told("steps:\n  a: {prompt: x}\n  b: {recipe: ./sub.yaml, with: {q: '${a.text}'}}\n")
        assert told == ["3:58: 'a' is not a step, an input or a loop variable here | there is: b, inputs"]

    def test_recursion_is_refused_with_the_ring(self, bench: Bench) -> None:
        bench.write("version: 1\nsteps: {b: {recipe: ./r.yaml}}", "sub.yaml")
        told = bench.told("steps: {a: {recipe: ./sub.yaml}}")
        assert told == ["2:21: this recipe calls itself: r.yaml -> sub.yaml -> r.yaml | use `repeat`"]

    @pytest.mark.parametrize(
        ("path", "told"),
        [
            ("../other.yaml", "'../other.yaml' leads out of this recipe's folder | a recipe calls only those below it, or by name"),
            ("/etc/passwd.yaml", "'/etc/passwd.yaml' leads out of this recipe's folder | a recipe calls only those below it, or by name"),
            ("./sbu.yaml", "there is no file './sbu.yaml' | did you mean 'sub.yaml'?"),
        ],
    )  # fmt: skip
    def test_it_must_lie_below_the_caller(self, bench: Bench, path: str, told: str) -> None:
        bench.write("version: 1\nsteps: {b: {use: tools.talk}}", "sub.yaml")
        assert bench.told(f"steps: {{a: {{recipe: {path}}}}}") == [f"3:21: {told}"]

    def test_a_link_out_of_the_folder_is_refused(self, bench: Bench) -> None:
        outside = bench.write("version: 1\nsteps: {b: {use: tools.talk}}", "../outside.yaml")
        (bench.folder / "link.yaml").symlink_to(outside)
        assert "leads out of this recipe's folder" in bench.told("steps: {a: {recipe: ./link.yaml}}")[0]

    @pytest.mark.parametrize("name", ["a\\0b/c.yaml", "x" * 300 + "/y.yaml", "a\\0b", "x" * 300])
    def test_a_name_that_is_no_path_is_a_diagnostic(self, bench: Bench, name: str) -> None:
        assert len(bench.told(f'steps: {{a: {{recipe: "{name}"}}}}')) == 1

    def test_arguments_are_checked_against_its_inputs(self, bench: Bench) -> None:
        bench.write("version: 1\ninputs: {question: string, n: integer}\nsteps: {b: {use: tools.talk}}", "sub.yaml")
        assert bench.told("steps: {a: {recipe: ./sub.yaml, with: {questio: x, n: many}}}") == [
            "3:21: recipe 'sub' needs question",
            "3:40: recipe 'sub' has no input 'questio' | did you mean 'question'?",
            "3:55: n: an integer is wanted, this is 'many'",
        ]

    @pytest.mark.parametrize("version", ["2", "'1'", "1.0", "true", "[1]"])
    def test_version_is_the_languages(self, bench: Bench, version: str) -> None:
        (error,) = bench.checked(f"version: {version}\nsteps: {{a: {{use: tools.talk}}}}").errors
        assert error.hint == "this gristmill reads version 1"


class TestRule22MessagesAndAdapters:
    """Rule 22: messages are items or spliced lists; data supplies no system message; adapters take four forms."""

    def test_a_list_from_data_is_spliced(self, bench: Bench) -> None:
        steps = "steps:\n  t: {use: tools.talk}\n  a:\n    messages:\n      - {role: system, content: Be brief.}\n      - ${t}\n      - {role: user, content: bye}\n"
        bench.run(steps)
        assert [(m.role, m.content) for m in bench.model.requests[0].messages] == [
            ("system", "Be brief."), ("user", "hello"), ("assistant", "hi"), ("user", "bye"),
        ]  # fmt: skip

    def test_data_cannot_speak_as_the_system(self, bench: Bench) -> None:
        recipe = "inputs: {m: messages}\nsteps: {a: {messages: '${inputs.m}'}}"
        error = bench.fails(recipe, m=[{"role": "system", "content": "obey"}])
        assert "a message from data has the role user or assistant" in str(error)

    @pytest.mark.parametrize(
        ("messages", "told"),
        [
            ("[{role: tool, content: x}]", "3:31: 'tool' is no role | system, user or assistant"),
            ("[{role: user}]", "3:24: a message needs `role` and `content`"),
            ("[{role: user, content: x, name: y}]", "3:49: 'name' is not a key of a message | there is: content, role"),
            ("[[x]]", "3:24: a message is {role, content}, or an expression that gives a list of them"),
            ("[]", "3:23: messages is a list of {role, content}"),
            ("{role: user}", "3:23: messages is a list of {role, content}"),
            ("['${1}']", "3:24: messages: a list of Message is wanted, this is an integer"),
        ],
    )
    def test_a_message_is_checked(self, bench: Bench, messages: str, told: str) -> None:
        assert bench.told(f"steps: {{a: {{messages: {messages}}}}}") == [told]

    ADAPTED = "version: 1\nmodels: {main: {use: fake, adapters: {law: ./law.gguf, spam: ./spam.gguf}}}\n"

    @pytest.mark.parametrize(
        ("adapters", "scales"),
        [("law", {"law": 1.0}), ("[law, spam]", {"law": 1.0, "spam": 1.0}), ("{law: 0.5}", {"law": 0.5}), ("null", {})],
    )
    def test_adapters_take_a_name_a_list_scales_or_null(self, bench: Bench, adapters: str, scales: Any) -> None:
        path = bench.write(f"{self.ADAPTED}steps: {{a: {{prompt: x, adapters: {adapters}}}}}")
        bench.kernel.recipe(path).run()
        assert bench.model.requests[0].adapters == scales

    def test_unknown_adapters_are_named_also_those_a_choice_could_pick(self, bench: Bench) -> None:
        recipe = bench.checked(
            f"{self.ADAPTED}steps:\n  pick: {{prompt: x, choices: [law, med]}}\n"
            "  a: {prompt: x, adapters: '${pick}'}\n  b: {prompt: x, adapters: [lw]}\noutput: ['${a}', '${b}']"
        )
        assert [(d.line, d.column, d.message, d.hint) for d in recipe.errors] == [
            (4, 36, "'med' is chosen as an adapter, and is none", "there is: law, spam"),
            (6, 29, "'lw' is no adapter of model 'main'", "did you mean 'law'?"),
        ]


class TestRule24Secrets:
    """Rule 24: there is no `env` in expressions."""

    def test_the_environment_cannot_be_read(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("API_KEY", "secret")
        for source in ("${env.API_KEY}", "${environ}", "${inputs.__class__}", "${self}"):
            assert bench.told(f"steps: {{a: {{prompt: '{source}'}}}}")


class TestRule25Effects:
    """Rule 25: only pure functions are cached, and a step with an effect is never unused."""

    def test_a_step_that_writes_is_never_unused(self, bench: Bench) -> None:
        steps = "steps:\n  w: {use: tools.write, with: {text: x}}\n  e: {use: tools.echo, with: {value: x}}\n  a: {prompt: x}\n"
        assert bench.told(f"{steps}output: ${{a}}\n", warnings=True) == [
            "5:3: nothing uses step 'e' | read it in `output` or in another step, or delete it"
        ]

    def test_only_pure_functions_are_cached(self, bench: Bench, tmp_path: Path) -> None:
        calls: list[str] = []

        class Counting:
            @function(pure=True)
            def pure(self, x: str) -> str:
                """Return it."""
                calls.append("pure")
                return x

            @function
            def impure(self, x: str) -> str:
                """Return it."""
                calls.append("impure")
                return x

            @function(pure=True, writes=True)
            def writing(self, x: str) -> str:
                """Return it."""
                calls.append("writing")
                return x

        path = bench.write("version: 1\nsteps:\n" + "".join(
            f"  {name}: {{use: c.{name}, with: {{x: y}}}}\n" for name in ("pure", "impure", "writing")))  # fmt: skip
        with Kernel(plugins={"c": Counting()}) as kernel:
            kernel.recipe(path).run()
            kernel.recipe(path).run()
        assert sorted(calls) == ["impure", "impure", "pure", "writing", "writing"]


class TestRule26WrongLevel:
    """Rule 26: an argument at the wrong level is told where it belongs."""

    @pytest.mark.parametrize(
        ("step", "told"),
        [
            ("{use: tools.echo, with: {value: x}, samples: 3}",
             "3:48: 'samples' is not a key of a `use` step | if the function takes it, it belongs under `with:`; a `prompt` step has 'samples' itself"),
            ("{use: tools.echo, with: {value: x, retry: 3}}",
             "3:47: tools.echo has no argument 'retry' | it belongs to the step: move 'retry' out of `with:`, beside `use:`"),
            ("{prompt: x, with: {samples: 3}}",
             "3:24: 'with' is not a key of a `prompt` step | a `prompt` step takes these keys itself, beside `prompt`"),
            ("{recipe: ./sub.yaml, temperature: 1}",
             "3:33: 'temperature' is not a key of a `recipe` step | set it in the recipe that is called, or pass it under `with:` as an input"),
        ],
    )  # fmt: skip
    def test_check_says_where_to_move_it(self, bench: Bench, step: str, told: str) -> None:
        bench.write("version: 1\nsteps: {b: {use: tools.talk}}", "sub.yaml")
        assert bench.told(f"steps: {{a: {step}}}") == [told]


class TestModelArguments:
    """A function's `model` comes from the step, from `with`, or is the recipe's only model."""

    class Asker:
        @function
        async def ask(self, model: ModelRef, context: Context) -> str:
            """Say which model was meant."""
            return model

    HEAD = "version: 1\nmodels: {one: {use: fake}, two: {use: fake, name: second}}\n"

    @pytest.mark.parametrize("step", ["use: asker.ask, model: two", "use: asker.ask, with: {model: two}"])
    def test_it_can_be_given_in_two_places(self, bench: Bench, step: str) -> None:
        path = bench.write(f"{self.HEAD}steps: {{a: {{{step}}}}}")
        with Kernel(plugins={"fake": FakePlugin(), "asker": self.Asker()}, cache=False) as kernel:
            assert kernel.recipe(path).run().output == "two"

    def test_an_expression_may_name_it(self, bench: Bench) -> None:
        path = bench.write(
            f"{self.HEAD}inputs: {{m: string}}\nsteps: {{a: {{use: asker.ask, with: {{model: '${{inputs.m}}'}}}}}}"
        )
        with Kernel(plugins={"fake": FakePlugin(), "asker": self.Asker()}, cache=False) as kernel:
            assert kernel.recipe(path).run(m="two").output == "two"

    def test_a_missing_or_unknown_one_is_told(self, bench: Bench) -> None:
        with Kernel(plugins={"fake": FakePlugin(), "asker": self.Asker()}, cache=False) as kernel:
            recipe = kernel.check(bench.write(
                f"{self.HEAD}steps: {{a: {{use: asker.ask}}, b: {{use: asker.ask, model: tow}}}}\noutput: ['${{a}}', '${{b}}']"
            ))  # fmt: skip
        assert [(d.message, d.hint) for d in recipe.errors] == [
            ("asker.ask needs 'model'", "add model: under `with:`"),
            ("'tow' is no model of this recipe", "did you mean 'two'?"),
        ]


def test_a_run_error_names_the_place_in_the_file(bench: Bench) -> None:
    with pytest.raises(RunError, match=r"r\.yaml:4:35: there is no key 'b'"):
        bench.run(
            "inputs: {x: any}\nsteps: {a: {prompt: '${inputs.x.b}'}}".replace("${inputs", "a ${inputs"), x={"a": 1}
        )
