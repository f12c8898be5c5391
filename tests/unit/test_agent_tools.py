"""An agent's `tools`: what `check` says of them, what the model may set, and what a call does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from gristmill import Candidate, Context, FunctionError, Kernel, ModelRef, RunError, ToolList, function
from gristmill._tools._schema import recipe_schema
from gristmill.schemas.jsonschema import problems
from gristmill.testing import FakePlugin

HEAD = "version: 1\ninputs: {file: path}\nmodels: {main: {use: fake}}\nsteps:\n  a:\n    use: desk.agent\n    with:\n"


class Told(Candidate):
    """A candidate with something of its own."""

    why: str = ""


class Desk:
    """An agent that calls its first tool with what it was given, and tools for it."""

    def __init__(self) -> None:
        self.schemas: dict[str, Any] = {}
        self.said: dict[str, str] = {}

    @function
    async def agent(
        self, tools: Annotated[ToolList, "What it may call."], context: Context, *, set: dict[str, Any] | None = None
    ) -> Any:
        """Call the first tool."""
        made = context.tools(tools)
        self.schemas = {tool.name: tool.schema for tool in made}
        self.said = {tool.name: tool.summary for tool in made}
        return await made[0].call(set or {})

    @function
    def look(
        self,
        path: Path,
        query: Annotated[str, Field(min_length=1, max_length=40, description="What to look for.")],
        top_k: int = 3,
    ) -> str:
        """Look something up in a file."""
        return f"{query} in {path.name}, {top_k} times"

    @function
    async def ask(self, question: str, *, model: ModelRef) -> str:
        """Ask a model."""
        return f"{model}: {question}"

    @function
    def store(self, record: dict[str, Any], anything: Any = None) -> str:
        """Keep a record."""
        return f"{record} {anything}"

    @function
    def told(self) -> list[Told]:
        """Tell."""
        return [Told(text="a", why="b")]

    @function
    def count(self, candidates: list[Candidate]) -> int:
        """Count."""
        return len(candidates)


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def kernel(desk: Desk) -> Any:
    with Kernel(plugins={"desk": desk, "fake": FakePlugin()}, cache=False) as made:
        yield made


def told(kernel: Kernel, folder: Path, tools: str) -> list[str]:
    path = folder / "r.yaml"
    path.write_text(HEAD + tools)
    return [f"{d.line}:{d.column}: {d.message} | {d.hint}" for d in kernel.check(path).errors]


def run(kernel: Kernel, folder: Path, tools: str) -> Any:
    (folder / "r.yaml").write_text(HEAD + tools)
    (folder / "notes.txt").write_text("x")
    return kernel.recipe(folder / "r.yaml").run(file=folder / "notes.txt").output


def test_what_with_binds_is_hidden_from_the_model_and_added_to_its_call(
    kernel: Kernel, desk: Desk, tmp_path: Path
) -> None:
    tools = "      tools: [{use: desk.look, with: {path: '${inputs.file}'}, as: search}]\n      set: {query: rye}\n"
    assert run(kernel, tmp_path, tools) == "rye in notes.txt, 3 times"
    assert list(desk.schemas["search"]["properties"]) == ["query"]
    assert desk.schemas["search"]["properties"]["query"]["maxLength"] == 40
    assert desk.said["search"] == "Look something up in a file."
    assert problems(desk.schemas["search"]) == []


def test_a_schema_says_which_arguments_the_model_sets_and_narrows_them(
    kernel: Kernel, desk: Desk, tmp_path: Path
) -> None:
    tools = (
        "      tools:\n        - {use: desk.look, with: {path: notes.txt}, description: Finds., "
        "schema: {query: rye|oats, top_k: integer}}\n      set: {query: oats, top_k: 1}\n"
    )
    assert run(kernel, tmp_path, tools) == "oats in notes.txt, 1 times"
    assert desk.schemas["look"]["properties"] == {"query": {"enum": ["rye", "oats"]}, "top_k": {"type": "integer"}}
    assert desk.said["look"] == "Finds."


def test_a_recipe_is_a_tool_whose_inputs_the_model_sets(kernel: Kernel, desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "sub.yaml").write_text(
        "version: 1\nname: grind-it\ndescription: Grinds.\ninputs: {what: string, how: {type: string, default: fine}}\n"
        "models: {m: {use: fake}}\nsteps: {s: {prompt: '${inputs.what}'}}\n"
        "output: ${inputs.what} ${inputs.how}\n"
    )
    tools = "      tools: [{recipe: ./sub.yaml, with: {how: coarse}}]\n      set: {what: rye}\n"
    assert run(kernel, tmp_path, tools) == "rye coarse"
    assert list(desk.schemas) == ["grind_it"]
    assert desk.said == {"grind_it": "Grinds."}


def test_the_only_model_is_filled_in_and_never_offered(kernel: Kernel, desk: Desk, tmp_path: Path) -> None:
    assert run(kernel, tmp_path, "      tools: [{use: desk.ask}]\n      set: {question: why}\n") == "main: why"
    assert list(desk.schemas["ask"]["properties"]) == ["question"]


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ("${inputs.file}", "8:14: tools are listed in the recipe itself | - {use: plugin.function, with: {...}, as:"),
        ("[]", "8:14: tools are listed in the recipe itself"),
        ("[desk.look]", "8:15: a tool is {use: plugin.function} or {recipe: name} | "),
        ("[{use: desk.lok, with: {path: a}}]", "8:21: 'desk.lok' is not a function of plugin 'desk' | did you mean"),
        ("[{as: x}]", "8:15: a tool has either `use` or `recipe` | "),
        ("[{use: desk.look, recipe: quickstart}]", "8:15: a tool has either `use` or `recipe`"),
        ("[{recipe: quickstrat}]", "8:24: no recipe is called 'quickstrat' | did you mean 'quickstart'?"),
        ("[{use: desk.look, with: {path: a}, nmae: x}]", "8:49: 'nmae' is not a key of a tool"),
        ("[{use: desk.look}]", "8:21: the model cannot set 'path': it is a path | bind it under `with:`"),
        ("[{use: desk.look, with: {path: a, qury: b}}]", "8:48: desk.look has no argument 'qury'"),
        ("[{use: desk.look, with: {path: 3}}]", "8:45: path: a path is wanted, this is 3"),
        ("[{use: desk.look, with: {path: a}, as: My Tool}]", "8:53: 'My Tool' is no name for a tool"),
        (
            "[{use: desk.look, with: {path: a}, as: x}, {use: desk.ask, as: x}]",
            "8:77: two tools are called 'x' | give one another name with `as:`",
        ),
        ("[{use: desk.store}]", "8:21: the model cannot set 'record': a mapping has no fields | bind it under `with:`"),
        (
            "[{use: desk.look, with: {path: a, query: b}, schema: {query: string}}]",
            "8:67: 'query' is bound under `with:`, so the model cannot set it",
        ),
        (
            "[{use: desk.look, schema: {path: string, query: string}}]",
            "8:40: the model cannot set 'path': it is a path | bind it under `with:`",
        ),
        ("[{use: desk.look, with: {path: a}, schema: {top_k: integer}}]", "8:57: desk.look needs 'query' | bind it"),
        ("[{use: desk.look, with: {path: a}, schema: {topk: integer}}]", "8:57: desk.look has no argument 'topk'"),
        ("[{use: desk.look, with: {path: a}, schema: {query: text}}]", "8:57: schema: query: 'text' is no type"),
        ("[{use: desk.look, with: {path: a}, schema: {type: string}}]", "8:57: schema: it describes the arguments as"),
        ("[{use: desk.look, with: a}]", "8:38: with is a mapping of arguments"),
        ("[{use: desk.agent}]", "8:21: the model cannot set 'tools': it is a list of tools"),
        ("[{use: desk.look, with: {path: '${inputs.fil}'}}]", "8:55: inputs has no field 'fil' | did you mean 'file'?"),
    ],
)  # fmt: skip
def test_check_says_what_is_wrong_with_a_tool(kernel: Kernel, tmp_path: Path, tools: str, message: str) -> None:
    found = told(kernel, tmp_path, f"      tools: {tools}\n")
    assert any(line.startswith(message) for line in found), found


@pytest.mark.parametrize(
    ("set_", "message"),
    [
        ("{query: a, top_k: 5}", "tool 'look' has no argument 'top_k'"),
        ("{query: a, path: /etc/passwd}", "tool 'look' has no argument 'path'"),
        ("{}", "tool 'look' needs 'query'"),
    ],
)
def test_a_call_beyond_a_tools_schema_is_refused(kernel: Kernel, tmp_path: Path, set_: str, message: str) -> None:
    with pytest.raises(RunError, match=message):
        run(kernel, tmp_path, f"      tools: [{{use: desk.look, with: {{path: notes.txt}}}}]\n      set: {set_}\n")


def test_a_bound_path_outside_the_folder_is_refused_when_it_is_called(kernel: Kernel, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="outside what this recipe may read"):
        run(kernel, tmp_path, "      tools: [{use: desk.look, with: {path: /etc/passwd}}]\n      set: {query: a}\n")


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ([{"use": "desk.look", "at": 1}], "'at' is not a key of a tool"),
        ([{}], "a tool has either `use` or `recipe`"),
        ([{"use": "desk.look"}], "tool 'desk.look': the model cannot set 'path'"),
        ([{"use": "desk.ask"}, {"use": "desk.look", "with": {"path": "a"}, "as": "ask"}], "two tools are called 'ask'"),
    ],
)
def test_a_list_that_no_recipe_wrote_obeys_the_same_rules(kernel: Kernel, tools: list[Any], message: str) -> None:
    from gristmill.interop import calling, declare

    models = {"main": declare(kernel, "main", "fake")}
    with pytest.raises(RunError, match=message) as caught:
        calling(kernel, "desk.agent", {"tools": tools}, models).run()
    assert isinstance(caught.value.failures["call"], FunctionError)


def test_the_editors_schema_knows_the_keys_of_a_tool(kernel: Kernel) -> None:
    schema = recipe_schema(kernel.registry)["$defs"]["with.desk.agent"]["properties"]["tools"]
    assert set(schema["items"]["properties"]) == {"use", "recipe", "with", "as", "description", "schema"}
    assert "desk.look" in schema["items"]["properties"]["use"]["enum"]


def test_a_value_is_accepted_where_the_one_it_is_derived_from_is_wanted(kernel: Kernel, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "version: 1\nsteps:\n  a: {use: desk.told}\n  b: {use: desk.count, with: {candidates: '${a}'}}\n"
        "output: ${b} ${a[0].why}\n"
    )
    assert kernel.recipe(path).run().output == "1 b"


def test_a_recipe_that_is_a_tool_is_checked_and_pinned_with_the_one_that_names_it(
    kernel: Kernel, tmp_path: Path
) -> None:
    from gristmill._lock import make_lock

    sub = "version: 1\nname: sub\ninputs: {q: string}\nmodels: {m: {use: fake}}\nsteps: {s: {prompt: '${inputs.q}'}}\n"
    (tmp_path / "sub.yaml").write_text(sub)
    tools = "      tools: [{recipe: ./sub.yaml}]\n"
    assert told(kernel, tmp_path, tools) == []
    checked = kernel.check(tmp_path / "r.yaml")
    assert list(checked.sub_recipes()) == ["a../sub.yaml"]
    assert (
        make_lock(checked, kernel.model_of)["pins"]["steps.a../sub.yaml.recipe"]
        == checked.sub_recipes()["a../sub.yaml"].digest
    )
    (tmp_path / "sub.yaml").write_text(sub.replace("inputs.q", "inputs.p"))
    assert any("inputs has no field 'p'" in line for line in told(kernel, tmp_path, tools))
