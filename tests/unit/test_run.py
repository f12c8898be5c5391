"""Running a recipe: the graph, failures, retries, time limits, budgets, files, events, cache and resuming."""
# ruff: noqa: E501  (a recipe reads best as it stands)

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gristmill import (
    BudgetError,
    Context,
    GenerateRequest,
    Kernel,
    RunError,
    RunFinished,
    RunnableRecipe,
    StepCancelled,
    StepFinished,
    StepRetried,
    StepStarted,
    Token,
    UsageError,
    function,
)
from gristmill.testing import FakePlugin

if TYPE_CHECKING:
    from tests.unit.conftest import Bench

HEAD = "version: 1\nmodels: {main: {use: fake}}\n"


class Clock:
    """Functions that take time, block, or fail as they are told."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.calls: list[str] = []
        self.meeting = asyncio.Event()
        self.seen_cancelled: list[bool] = []
        self.ended = threading.Event()

    async def _during(self, name: str, seconds: float) -> str:
        self.calls.append(name)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.running -= 1
        return name

    @function
    async def wait(self, name: str, seconds: float = 0.02) -> str:
        """Take a while and return the name."""
        return await self._during(name, seconds)

    @function
    async def meet(self, name: str) -> str:
        """Return when two have come."""
        self.calls.append(name)
        if len(self.calls) == 2:
            self.meeting.set()
        await asyncio.wait_for(self.meeting.wait(), 60)
        return name

    @function
    async def fail_first(self, name: str, times: int, context: Context) -> int:
        """Fail a number of times, then return the seed."""
        self.calls.append(name)
        if self.calls.count(name) <= times:
            raise RuntimeError(f"{name} is not ready")
        return context.seed

    @function
    def block(self, context: Context) -> str:
        """Run in a thread until it is cancelled."""
        while not context.cancelled and not self.ended.wait(0.01):
            pass
        self.seen_cancelled.append(context.cancelled)
        return "ended"

    @function
    def read(self, path: Path) -> str:
        """Return a file's text."""
        return path.read_text()

    @function
    async def inner(self, function: str, arguments: dict[str, Any], context: Context) -> Any:
        """Call another function by name."""
        return await context.call(function, arguments)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def kernel(clock: Clock) -> Iterator[Kernel]:
    with Kernel(plugins={"fake": FakePlugin(), "clock": clock}, cache=False) as made:
        yield made


class Maker:
    """Writes recipes and hands them out ready to run."""

    def __init__(self, kernel: Kernel, folder: Path) -> None:
        self.kernel = kernel
        self.folder = folder

    def __call__(self, steps: str, name: str = "r.yaml") -> RunnableRecipe:
        (self.folder / name).write_text(HEAD + steps)
        return self.kernel.recipe(self.folder / name)


@pytest.fixture
def recipe(kernel: Kernel, tmp_path: Path) -> Maker:
    return Maker(kernel, tmp_path)


def failure(recipe: RunnableRecipe, **inputs: Any) -> RunError:
    with pytest.raises(RunError) as caught:
        recipe.run(inputs)
    return caught.value


class TestGraph:
    def test_independent_steps_run_at_the_same_time(self, recipe: Maker) -> None:
        result = recipe(
            "steps:\n  a: {use: clock.meet, with: {name: a}}\n  b: {use: clock.meet, with: {name: b}}\noutput: ['${a}', '${b}']"
        ).run()
        assert result.output == ["a", "b"]

    def test_a_step_waits_for_what_it_reads_however_they_are_written(self, recipe: Maker, clock: Clock) -> None:
        recipe(
            "steps:\n  c: {use: clock.wait, with: {name: '${b}c'}}\n  b: {use: clock.wait, with: {name: '${a}b'}}\n  a: {use: clock.wait, with: {name: a}}"
        ).run()
        assert clock.calls == ["a", "ab", "abc"]

    def test_needs_orders_what_no_reference_shows(self, recipe: Maker, clock: Clock) -> None:
        recipe(
            "steps:\n  b: {use: clock.wait, with: {name: b, seconds: 0}, needs: a}\n  a: {use: clock.wait, with: {name: a}}"
        ).run()
        assert clock.calls == ["a", "b"]

    def test_no_more_run_at_once_than_the_limit(self, clock: Clock, tmp_path: Path) -> None:
        (tmp_path / "gristmill.toml").write_text("[limits]\nsteps_at_once = 3\n")
        from gristmill._settings import load_settings

        steps = "".join(f"  s{i}: {{use: clock.wait, with: {{name: n{i}, seconds: 0.002}}}}\n" for i in range(12))
        (tmp_path / "r.yaml").write_text(f"version: 1\nsteps:\n{steps}")
        with Kernel(plugins={"clock": clock}, cache=False, settings=load_settings(tmp_path)) as kernel:
            kernel.recipe(tmp_path / "r.yaml").run()
        assert clock.most == 3

    def test_a_chain_of_a_thousand_steps_needs_no_depth(self, recipe: Maker) -> None:
        steps = "".join(f"  s{i}: {{prompt: 'x', needs: [{f's{i - 1}' if i else ''}]}}\n" for i in range(1000))
        assert len(recipe(f"steps:\n{steps}").run().steps) == 1000


class TestFailure:
    STEPS = (
        "steps:\n  bad: {use: clock.fail_first, with: {name: bad, times: 9}}\n  after: {use: clock.wait, with: {name: 'n${bad}'}}\n"
        "  later: {use: clock.wait, with: {name: x}, needs: after}\n  good: {use: clock.wait, with: {name: good}}\n"
        "  worse: {use: clock.fail_first, with: {name: worse, times: 9}, needs: good}\noutput: ['${later}', '${worse}', '${good}']"
    )

    def test_it_cancels_what_depends_on_it_and_nothing_else(self, recipe: Maker) -> None:
        error = failure(recipe(self.STEPS))
        assert {name: step.status for name, step in error.result.steps.items()} == {
            "bad": "failed", "after": "cancelled", "later": "cancelled", "good": "done", "worse": "failed",
        }  # fmt: skip

    def test_all_that_failed_is_told_and_what_finished_is_kept(self, recipe: Maker) -> None:
        error = failure(recipe(self.STEPS))
        assert set(error.failures) == {"bad", "worse"}
        assert str(error) == (
            "recipe 'r' failed:\n  step 'bad': RuntimeError: bad is not ready\n  step 'worse': RuntimeError: worse is not ready"
        )
        assert error.result.steps["good"].value == "good"
        assert error.result.output is None

    def test_the_trace_says_why_a_step_was_cancelled(self, recipe: Maker) -> None:
        events = [event for event in failure(recipe(self.STEPS)).result.trace if isinstance(event, StepCancelled)]
        assert {event.step: event.because for event in events} == {
            "after": "step 'bad' failed",
            "later": "step 'bad' failed",
        }

    def test_an_output_that_fails_keeps_every_step(self, recipe: Maker) -> None:
        error = failure(recipe("inputs: {x: any}\nsteps: {a: {prompt: x}}\noutput: '${inputs.x.y} ${a}'"), x={})
        assert set(error.failures) == {"output"}
        assert error.result.steps["a"].status == "done"

    def test_an_on_error_value_that_fails_is_a_failure(self, recipe: Maker) -> None:
        steps = "inputs: {x: any}\nsteps: {a: {use: clock.fail_first, with: {name: a, times: 9}, on_error: {value: '${inputs.x.y}'}}}"
        assert "there is no key 'y'" in str(failure(recipe(steps), x={}))


class TestRetry:
    def test_each_attempt_has_another_seed_and_a_longer_wait(self, recipe: Maker) -> None:
        started = time.perf_counter()
        result = recipe(
            "steps: {a: {use: clock.fail_first, with: {name: a, times: 2}, retry: {attempts: 3, backoff_s: 0.02}}}"
        ).run()
        assert time.perf_counter() - started >= 0.06
        assert result.output != 0
        assert [event.attempt for event in result.trace if isinstance(event, StepRetried)] == [1, 2]

    def test_the_last_failure_is_the_steps(self, recipe: Maker, clock: Clock) -> None:
        assert "a is not ready" in str(
            failure(recipe("steps: {a: {use: clock.fail_first, with: {name: a, times: 9}, retry: 2}}"))
        )
        assert clock.calls == ["a", "a"]

    def test_a_retried_prompt_is_asked_with_another_seed(self, bench: Bench) -> None:
        answers = iter(["no json", '{"n": 1}'])
        bench.plugin.answers = lambda *_: next(answers)
        bench.run("steps: {a: {prompt: x, temperature: 1, schema: {n: integer}, retry: 2}}")
        first, second = bench.asked
        assert first.seed != second.seed


class TestTimeout:
    def test_it_fails_the_step_and_the_model_stays_usable(self, tmp_path: Path) -> None:
        plugin = FakePlugin(delay_s=0.2)
        (tmp_path / "r.yaml").write_text(HEAD + "steps: {a: {prompt: x, timeout_s: 0.02}}")
        with Kernel(plugins={"fake": plugin}, cache=False) as kernel:
            assert "it took longer than its timeout_s of 0.02 s" in str(failure(kernel.recipe(tmp_path / "r.yaml")))
            plugin.models["fake"].delay_s = 0
            assert kernel.recipe(tmp_path / "r.yaml").run().output.text == "fake answer"

    def test_it_holds_for_each_item(self, recipe: Maker) -> None:
        step = "{use: clock.wait, with: {name: '${item}', seconds: '${0.03 if item == \"fast\" else 5}'}, for_each: [fast, slow, fast], concurrency: 1, timeout_s: 0.5, on_error: {value: late}}"
        assert recipe(f"steps: {{a: {step}}}").run().output == ["fast", "late", "fast"]

    def test_a_function_in_a_thread_is_told(self, recipe: Maker, clock: Clock) -> None:
        failure(recipe("steps: {a: {use: clock.block, timeout_s: 0.05}}"))
        for _ in range(200):
            if clock.seen_cancelled:
                break
            time.sleep(0.01)
        assert clock.seen_cancelled == [True]


class TestForEach:
    @pytest.mark.parametrize(("concurrency", "most"), [(1, 1), (3, 3)])
    def test_it_runs_at_most_so_many_at_once_in_the_items_order(
        self, recipe: Maker, clock: Clock, concurrency: int, most: int
    ) -> None:
        step = f"{{use: clock.wait, with: {{name: '${{item}}', seconds: '${{0.02 if loop.index == 1 else 0.002}}'}}, for_each: [d, a, c, b], concurrency: {concurrency}}}"
        assert recipe(f"steps: {{a: {step}}}").run().output == ["d", "a", "c", "b"]
        assert clock.most == most

    def test_an_empty_list_gives_an_empty_list(self, recipe: Maker) -> None:
        assert (
            recipe("inputs: {xs: [string]}\nsteps: {a: {prompt: '${item}', for_each: '${inputs.xs}'}}")
            .run(xs=[])
            .output
            == []
        )

    def test_one_failing_item_fails_the_step_and_stops_the_rest(self, recipe: Maker, clock: Clock) -> None:
        step = "{use: clock.fail_first, with: {name: '${item}', times: \"${9 if item == 'b' else 0}\"}, for_each: [a, b, c, d], concurrency: 1}"
        assert "b is not ready" in str(failure(recipe(f"steps: {{a: {step}}}")))
        assert clock.calls == ["a", "b"]

    def test_the_trace_holds_the_inputs_of_every_item(self, recipe: Maker) -> None:
        result = recipe("steps: {a: {use: clock.wait, with: {name: '${item}', seconds: 0}, for_each: [x, y]}}").run()
        (finished,) = [event for event in result.trace if isinstance(event, StepFinished)]
        assert [item["name"] for item in finished.inputs["items"]] == ["x", "y"]


class TestBudget:
    ASKS = "steps:\n  a: {prompt: one two}\n  b: {prompt: 'three ${a}'}\n  c: {prompt: 'four ${b}'}\n"

    @pytest.mark.parametrize(("budget", "resource"), [("{calls: 2}", "calls"), ("{tokens: 5}", "tokens")])
    def test_it_stops_cleanly_and_keeps_what_was_done(self, bench: Bench, budget: str, resource: str) -> None:
        error = bench.fails(f"budget: {budget}\n{self.ASKS}")
        (spent,) = error.failures.values()
        assert isinstance(spent, BudgetError)
        assert spent.resource == resource
        assert error.result.steps["a"].status == "done"
        assert error.result.usage.calls == len(bench.asked) == 2

    def test_seconds_stop_what_is_under_way(self, recipe: Maker) -> None:
        steps = "budget: {seconds: 0.05}\nsteps:\n  a: {use: clock.wait, with: {name: a, seconds: 0}}\n  b: {use: clock.wait, with: {name: '${a}', seconds: 30}}\n"
        started = time.perf_counter()
        error = failure(recipe(steps))
        assert time.perf_counter() - started < 60
        assert error.result.steps["a"].status == "done"
        assert error.result.steps["b"].status == "cancelled"
        assert "the budget of 0.05 seconds is spent" in str(error)

    def test_a_called_recipe_spends_its_callers_budget(self, bench: Bench) -> None:
        bench.write(HEAD + self.ASKS, "sub.yaml")
        error = bench.fails("budget: {calls: 2}\nsteps: {s: {recipe: ./sub.yaml}}")
        assert len(bench.asked) == 2
        assert "the budget of 2 calls is spent" in str(error)

    def test_on_error_does_not_answer_for_a_spent_budget(self, bench: Bench) -> None:
        assert "budget of 1 calls" in str(
            bench.fails("budget: {calls: 1}\nsteps: {a: {prompt: x, for_each: [1, 2, 3], on_error: skip}}")
        )


class TestFiles:
    @pytest.fixture
    def reading(self, recipe: Maker, tmp_path: Path) -> RunnableRecipe:
        (tmp_path / "in.txt").write_text("inside")
        return recipe(
            "inputs: {p: string, given: {type: path, default: ./in.txt}}\nsteps: {a: {use: clock.read, with: {path: '${inputs.p}'}}}"
        )

    def test_a_file_below_the_recipe_may_be_read(self, reading: RunnableRecipe) -> None:
        assert reading.run(p="./in.txt").output == "inside"

    @pytest.mark.parametrize(
        "path", ["../secret.txt", "/etc/hostname", "./a/../../secret.txt", "link.txt", "folder/secret.txt"]
    )
    def test_nothing_outside_it(self, reading: RunnableRecipe, tmp_path: Path, path: str) -> None:
        secret = tmp_path.parent / "secret.txt"
        secret.write_text("secret")
        (tmp_path / "link.txt").symlink_to(secret)
        (tmp_path / "folder").symlink_to(tmp_path.parent)
        assert "is outside what this recipe may read" in str(failure(reading, p=path))

    def test_what_is_given_as_a_path_input_may_be_read(self, recipe: Maker, tmp_path: Path) -> None:
        given = tmp_path.parent / "given.txt"
        given.write_text("given")
        reading = recipe("inputs: {p: path}\nsteps: {a: {use: clock.read, with: {path: '${inputs.p}'}}}")
        assert reading.run(p=given).output == "given"

    def test_a_function_called_by_another_obeys_the_same_boundary(self, recipe: Maker) -> None:
        steps = "steps: {a: {use: clock.inner, with: {function: clock.read, arguments: {path: /etc/hostname}}}}"
        assert "is outside what this recipe may read" in str(failure(recipe(steps)))

    def test_a_called_recipe_obeys_its_callers_boundary(self, recipe: Maker, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        (tmp_path / "in.txt").write_text("inside")
        sub = "inputs: {p: string}\nsteps: {a: {use: clock.read, with: {path: '${inputs.p}'}}}"
        recipe(sub, "sub/sub.yaml")
        calling = recipe("inputs: {p: string}\nsteps: {s: {recipe: ./sub/sub.yaml, with: {p: '${inputs.p}'}}}")
        assert calling.run(p="in.txt").output == "inside"
        assert "is outside" in str(failure(calling, p="../x"))


class TestThreeFaces:
    STEPS = "steps:\n  a: {prompt: '${inputs.q}', temperature: 1, samples: 3}\n  b: {prompt: '${a[0]} again'}\n"

    def test_sync_async_and_stream_give_equal_results(self, bench: Bench) -> None:
        bench.plugin.answers = lambda request, index: f"{request.messages[-1].content}/{index}"
        ready = bench.kernel.recipe(bench.write(f"{HEAD}inputs: {{q: string}}\n{self.STEPS}"))

        async def others() -> tuple[Any, Any, list[Any]]:
            result = await ready.arun(q="x")
            events = [event async for event in ready.stream(q="x")]
            return result.output, next(e.output for e in events if isinstance(e, RunFinished)), events

        sync = ready.run(q="x").output
        later, streamed, events = asyncio.run(others())
        assert sync == later == streamed
        assert "".join(e.text for e in events if isinstance(e, Token) and e.step == "b") == streamed.text
        assert [e.step for e in events if isinstance(e, StepStarted)] == ["a", "b"]

    def test_a_caller_on_the_kernels_own_loop_awaits_runs_there(self, bench: Bench) -> None:
        bench.plugin.answers = lambda request, _: request.messages[-1].content
        ready = bench.kernel.recipe(bench.write(f"{HEAD}inputs: {{q: string}}\n{self.STEPS}"))

        async def both() -> list[str]:
            results = await asyncio.gather(*(ready.arun(q=text) for text in "xy"))
            return [result.output.text for result in results]

        assert bench.kernel.wait(both()) == ["x again", "y again"]

    def test_a_cancelled_await_stops_the_run(self, recipe: Maker, clock: Clock) -> None:
        ready = recipe("steps: {a: {use: clock.wait, with: {name: a, seconds: 30}}}")

        async def cancel() -> None:
            task = asyncio.create_task(ready.arun())
            while not clock.calls:
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while clock.running:
                await asyncio.sleep(0.005)

        asyncio.run(asyncio.wait_for(cancel(), 60))
        assert recipe("steps: {b: {use: clock.wait, with: {name: b}}}").run().output == "b"

    def test_leaving_a_stream_early_stops_the_run(self, recipe: Maker, clock: Clock) -> None:
        ready = recipe("steps: {a: {use: clock.wait, with: {name: a, seconds: 30}}}")

        async def leave() -> None:
            events = ready.stream()
            async for event in events:
                if isinstance(event, StepStarted) and clock.calls:
                    break
                if isinstance(event, StepStarted):
                    await asyncio.sleep(0.05)
                    break
            await events.aclose()
            while clock.running:
                await asyncio.sleep(0.005)

        asyncio.run(asyncio.wait_for(leave(), 60))

    def test_a_stream_of_a_failing_run_ends_with_its_error(self, recipe: Maker) -> None:
        ready = recipe("steps: {a: {use: clock.fail_first, with: {name: a, times: 9}}}")
        seen: list[Any] = []

        async def listen() -> None:
            async for event in ready.stream():
                seen.append(event)

        with pytest.raises(RunError):
            asyncio.run(listen())
        assert isinstance(seen[-1], RunFinished)
        assert seen[-1].status == "failed"

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            ({}, "recipe 'r' needs 'q'"),
            ({"q": "x", "z": 1}, "recipe 'r' has no input 'z'"),
            ({"q": 3}, "input 'q' of recipe 'r': a string is wanted, this is 3"),
        ],
    )
    def test_wrong_inputs_are_refused_before_anything_runs(
        self, bench: Bench, inputs: dict[str, Any], message: str
    ) -> None:
        ready = bench.kernel.recipe(bench.write(f"{HEAD}inputs: {{q: string}}\nsteps: {{a: {{prompt: x}}}}"))
        with pytest.raises(UsageError) as caught:
            ready.run(inputs)
        assert caught.value.message == message


class TestClose:
    def test_it_closes_models_and_threads_and_refuses_more(self, bench: Bench) -> None:
        bench.run("steps: {a: {prompt: x}}")
        before = {thread.name for thread in threading.enumerate()}
        bench.kernel.close()
        bench.kernel.close()
        assert bench.model.closed
        assert "gristmill" in before
        assert not any(thread.name.startswith("gristmill") and thread.is_alive() for thread in threading.enumerate())
        with pytest.raises(UsageError, match="this kernel is closed"):
            bench.run("steps: {a: {prompt: x}}")

    def test_two_kernels_share_no_models(self, tmp_path: Path) -> None:
        (tmp_path / "r.yaml").write_text(HEAD + "steps: {a: {prompt: x}}")
        plugins = [FakePlugin(), FakePlugin()]
        for plugin in plugins:
            with Kernel(plugins={"fake": plugin}, cache=False) as kernel:
                kernel.recipe(tmp_path / "r.yaml").run()
        assert len(plugins[0].models["fake"].requests) == len(plugins[1].models["fake"].requests) == 1


class TestCache:
    @pytest.fixture
    def cached(self, tmp_path: Path) -> Iterator[tuple[Maker, FakePlugin]]:
        plugin = FakePlugin()
        plugin.answers = lambda request, index: f"{request.messages[-1].content}/{index}"
        with Kernel(plugins={"fake": plugin}) as kernel:
            yield Maker(kernel, tmp_path), plugin

    def test_a_second_run_asks_no_model_and_gives_the_same(self, cached: tuple[Maker, FakePlugin]) -> None:
        recipe, plugin = cached
        ready = recipe(
            "steps:\n  a: {prompt: x}\n  b: {prompt: '${a} y', choices: ['1', '2']}\noutput: ['${a}', '${b}']"
        )
        first, second = ready.run(), ready.run()
        assert [item.text for item in first.output] == [item.text for item in second.output]
        assert len(plugin.models["fake"].requests) == 2
        assert second.usage.calls == 0
        assert all(step.cached for step in second.steps.values())

    def test_twelve_samples_after_eight_compute_four(self, cached: tuple[Maker, FakePlugin]) -> None:
        recipe, plugin = cached
        for samples in (8, 12):
            texts = [
                c.text for c in recipe(f"steps: {{a: {{prompt: x, temperature: 1, samples: {samples}}}}}").run().output
            ]
            assert texts == [f"x/{index}" for index in range(samples)]
        asked = [r.sample_indices for r in plugin.models["fake"].requests if isinstance(r, GenerateRequest)]
        assert asked == [tuple(range(8)), tuple(range(8, 12))]

    def test_identical_requests_under_way_compute_once(self, cached: tuple[Maker, FakePlugin]) -> None:
        recipe, plugin = cached
        plugin.delay_s = 0.05
        steps = "".join(f"  s{i}: {{prompt: same}}\n" for i in range(5))
        recipe(f"steps:\n{steps}output: {json.dumps([f'${{s{i}}}' for i in range(5)])}").run()
        assert len(plugin.models["fake"].requests) == 1

    @pytest.mark.parametrize(("mode", "asked"), [("off", 2), ("refresh", 2), ("auto", 1)])
    def test_a_step_may_leave_the_cache_out(self, cached: tuple[Maker, FakePlugin], mode: str, asked: int) -> None:
        recipe, plugin = cached
        ready = recipe(f"steps: {{a: {{prompt: x, cache: {mode}}}}}")
        ready.run()
        ready.run()
        assert len(plugin.models["fake"].requests) == asked

    def test_an_answer_with_all_the_tokens_it_was_allowed_is_kept(self, cached: tuple[Maker, FakePlugin]) -> None:
        recipe, plugin = cached
        plugin.answers = "one two three four five"
        for max_tokens, asked in ((3, 1), (3, 1), (4, 2)):
            result = recipe(f"steps: {{a: {{prompt: x, max_tokens: {max_tokens}}}}}").run()
            assert (result.output.finish_reason, len(result.output.text.split())) == ("length", max_tokens)
            assert len(plugin.models["fake"].requests) == asked

    def test_a_retried_and_repeated_answer_is_not_the_cached_one(self, cached: tuple[Maker, FakePlugin]) -> None:
        recipe, plugin = cached
        recipe("steps: {a: {prompt: x, temperature: 1, repeat: {until: '${1 > 2}', max: 3}}}").run()
        assert len(plugin.models["fake"].requests) == 3


class TestResume:
    STEPS = "inputs: {q: string}\nsteps:\n  a: {use: clock.wait, with: {name: '${inputs.q}'}}\n  b: {use: clock.fail_first, with: {name: '${a}!', times: 1}}\n  c: {use: clock.wait, with: {name: other}}\noutput: ['${b}', '${c}']"

    def first(self, recipe: Maker) -> str:
        with pytest.raises(RunError) as caught:
            recipe(self.STEPS).run_with({"q": "x"}, record=True)
        return caught.value.result.run_id

    def test_finished_steps_are_not_run_again(self, recipe: Maker, clock: Clock) -> None:
        run_id = self.first(recipe)
        clock.calls[:] = ["x!"]
        result = recipe(self.STEPS).run_with({}, resume=run_id)
        assert clock.calls == ["x!", "x!"]
        assert {name: step.status for name, step in result.steps.items()} == {
            "a": "resumed",
            "b": "done",
            "c": "resumed",
        }

    def test_a_changed_step_and_what_reads_it_run_again(self, recipe: Maker, clock: Clock) -> None:
        run_id = self.first(recipe)
        changed = self.STEPS.replace("with: {name: other}", "with: {name: another}")
        assert recipe(changed).run_with({}, resume=run_id).steps["c"].status == "done"
        assert clock.calls.count("x") == 1

    def test_a_changed_input_runs_everything_that_could_see_it(self, recipe: Maker, clock: Clock) -> None:
        run_id = self.first(recipe)
        clock.calls.append("y!")
        assert recipe(self.STEPS).run_with({"q": "y"}, resume=run_id).steps["a"].value == "y"

    def test_an_unknown_run_is_refused(self, recipe: Maker) -> None:
        with pytest.raises(UsageError, match="there is no record of a run 'nope'"):
            recipe(self.STEPS).run_with({"q": "x"}, resume="nope")

    def test_results_come_back_as_the_values_they_were(self, bench: Bench) -> None:
        path = bench.write(
            HEAD
            + "steps:\n  a: {prompt: x, samples: 2, temperature: 1, schema: {n: integer}}\n  b: {prompt: y, choices: ['1', '2']}\noutput: ['${a}', '${b}']"
        )
        bench.plugin.answers = '{"n": 3}'
        first = bench.kernel.recipe(path).run_with({}, record=True)
        again = bench.kernel.recipe(path).run_with({}, resume=first.run_id)
        assert again.output == first.output
        assert [step.status for step in again.steps.values()] == ["resumed", "resumed"]


class TestSubRecipes:
    def test_its_steps_are_part_of_the_trace_under_the_callers_name(self, bench: Bench) -> None:
        bench.write(HEAD + "inputs: {q: string}\nsteps: {inner: {prompt: '${inputs.q}'}}", "sub.yaml")
        result = bench.run(
            "steps: {outer: {recipe: ./sub.yaml, with: {q: '${item}'}, for_each: [x, y], concurrency: 1}}"
        )
        assert [e.step for e in result.trace if isinstance(e, StepStarted)] == [
            "outer",
            "outer[0]/inner",
            "outer[1]/inner",
        ]
        assert bench.prompts == ["x", "y"]
        assert result.usage.calls == 2

    def test_its_failure_is_its_callers(self, bench: Bench) -> None:
        bench.write("version: 1\nsteps: {inner: {use: tools.fail}}", "sub.yaml")
        assert "step 'outer'" in str(bench.fails("steps: {outer: {recipe: ./sub.yaml}}"))
