"""Objects with semantic-kernel's `@kernel_function` methods are plugins as they are, without semantic-kernel."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any

import pytest

from gristmill import Kernel, PluginError, UsageError, function
from gristmill.interop import calling
from gristmill.testing import FakePlugin


def kernel_function(*, name: str | None = None, description: str | None = None) -> Callable[[Any], Any]:
    """Leave on a function what semantic-kernel 1.45's decorator leaves."""

    def mark(method: Any) -> Any:
        method.__kernel_function__ = True
        method.__kernel_function_name__ = name or method.__name__
        method.__kernel_function_description__ = description or method.__doc__
        return method

    return mark


class Weather:
    """Knows the weather."""

    calls = 0

    @kernel_function(name="forecast", description="Say what the weather will be.")
    async def look_ahead(self, city: Annotated[str, "Where."], days: Annotated[int, "How far ahead."] = 1) -> str:
        self.calls += 1
        return f"{city}: rain for {days}"

    @kernel_function()
    def bare(self, text):  # type: ignore[no-untyped-def]
        return [text]

    @kernel_function(description="Count down.")
    async def count_down(self, start: int) -> AsyncIterator[int]:
        for number in range(start, 0, -1):
            yield number

    @kernel_function(description="Add twice, and remember.")
    @function(pure=True)
    def twice(self, number: int) -> int:
        """Add a number to itself."""
        self.calls += 1
        return 2 * number

    def hidden(self) -> None:
        """Not offered."""


RECIPE = """\
version: 1
inputs: {city: string}
steps:
  ahead:
    use: weather.forecast
    with: {city: "${inputs.city}", days: 3}
output: ${ahead | upper}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "weather.yaml"
    path.write_text(RECIPE)
    return path


def test_the_signature_is_the_contract() -> None:
    with Kernel(plugins={"weather": Weather()}, cache=False) as kernel:
        spec = kernel.registry.function("weather.forecast")
        assert spec.summary == "Say what the weather will be."
        assert spec.is_async
        assert not spec.pure
        assert [(p.name, str(p.type), p.description, p.required) for p in spec.parameters.values()] == [
            ("city", "string", "Where.", True),
            ("days", "integer", "How far ahead.", False),
        ]
        assert str(spec.returns) == "string"


def test_only_marked_methods_are_offered_and_the_class_gives_the_summary() -> None:
    with Kernel(plugins={"weather": Weather}, cache=False) as kernel:
        spec = kernel.registry.plugin("weather")
        assert spec.summary == "Knows the weather."
        assert sorted(spec.functions) == ["weather.bare", "weather.count_down", "weather.forecast", "weather.twice"]


def test_a_recipe_runs_such_a_function(recipe: Path) -> None:
    with Kernel(plugins={"weather": Weather()}, cache=False) as kernel:
        assert kernel.recipe(recipe).run(city="Bern").output == "BERN: RAIN FOR 3"


def test_check_finds_a_wrong_argument(recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("days: 3", "dais: 3"))
    with Kernel(plugins={"weather": Weather()}, cache=False) as kernel:
        assert "did you mean 'days'?" in kernel.check(recipe).errors[0].render()


def test_methods_without_annotations_take_and_return_anything() -> None:
    with Kernel(plugins={"weather": Weather()}, cache=False) as kernel:
        assert kernel.registry.function("weather.bare").summary == "bare."
        assert calling(kernel, "weather.bare", {"text": {"a": 1}}, {}).run().output == [{"a": 1}]


def test_a_stream_becomes_a_list() -> None:
    with Kernel(plugins={"weather": Weather()}, cache=False) as kernel:
        assert calling(kernel, "weather.count_down", {"start": 3}, {}).run().output == [3, 2, 1]


def test_nothing_is_cached_unless_it_is_said_to_be_pure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    weather = Weather()
    with Kernel(plugins={"weather": weather}) as kernel:
        for _ in range(2):
            calling(kernel, "weather.forecast", {"city": "Bern"}, {}).run()
        assert weather.calls == 2
        for _ in range(2):
            assert calling(kernel, "weather.twice", {"number": 4}, {}).run().output == 8
        assert weather.calls == 3


def test_a_parameter_that_semantic_kernel_would_fill_in_is_refused_by_name() -> None:
    class Inside:
        @kernel_function(description="Look inside.")
        def look(self, kernel: Any) -> str:
            return "never"

    with Kernel(plugins={"inside": Inside()}, cache=False) as kernel:
        with pytest.raises(PluginError) as caught:
            kernel.registry.plugin("inside")
        assert "inside.look: semantic-kernel fills in 'kernel', and a recipe cannot" in str(caught.value)


def test_an_object_that_offers_nothing_is_still_refused() -> None:
    with Kernel(plugins={"empty": object()}, cache=False) as kernel, pytest.raises(PluginError, match="offers nothing"):
        kernel.registry.plugin("empty")


def test_a_call_names_what_is_missing_and_what_is_unknown() -> None:
    with Kernel(plugins={"weather": Weather()}, cache=False) as kernel:
        with pytest.raises(UsageError, match=r"weather\.forecast needs 'city'"):
            calling(kernel, "weather.forecast", {}, {})
        with pytest.raises(UsageError, match="did you mean 'city'"):
            calling(kernel, "weather.forecast", {"citi": "Bern"}, {})


def test_checking_listing_and_offering_import_neither_library() -> None:
    code = """
import sys
from gristmill import Kernel
from gristmill.interop import function_offers
kernel = Kernel(cache=False)
kernel.registry.status(), list(function_offers(kernel, {})), kernel.check("quickstart")
import gristmill_plugins.semantic_kernel
assert not {"semantic_kernel", "mcp"} & set(sys.modules), "imported"
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_without_the_extra_the_error_is_the_command_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    from gristmill_plugins.semantic_kernel import SemanticKernelPlugin

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    plugin: Any = SemanticKernelPlugin()
    with Kernel(plugins={"fake": FakePlugin()}, cache=False) as kernel:
        for use in (plugin.make_face, plugin.serve):
            with pytest.raises(PluginError) as caught:
                use(kernel)
            assert 'pip install "gristmill[semantic-kernel]"' in str(caught.value)
