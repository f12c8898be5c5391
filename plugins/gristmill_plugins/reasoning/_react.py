"""`react`: an agent that thinks, calls a tool, sees what came of it, and goes on until it can answer.

Yao et al. 2022 (ReAct), with one difference: a turn is decoded under a JSON Schema (`_react_schema`), so that the
choice of a tool and its arguments always parse. Tools are what the recipe lists: functions, recipes, tools of an MCP
server, functions of semantic-kernel. Invariants: a tool's result comes back as a user's turn, cut to a length, never as
the system's; a tool that fails is told to the model and does not fail the agent; a call that was made before is not
made again; turns, tokens and seconds have limits; what outgrows the model's window is cut, the oldest results first
(`_react_window`), and the result says so.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from gristmill import (
    BudgetError,
    Candidate,
    Context,
    FunctionError,
    Message,
    ModelRef,
    Tool,
    ToolList,
    Usage,
    Value,
    function,
    suggest,
)
from gristmill_plugins.reasoning._asking import Given, Question, assistant, user, write
from gristmill_plugins.reasoning._prompts import Prompt, Replaced, load
from gristmill_plugins.reasoning._react_schema import describe, most_tokens, turn_schema
from gristmill_plugins.reasoning._react_window import Conversation

Stopped = Literal["answered", "turns", "repeated", "tokens", "seconds"]

MaxTurns = Annotated[int, Field(ge=1, le=100, description="The most turns; then the model must answer.")]
Tokens = Annotated[int | None, Field(ge=1, description="Stop once the agent's models used so many tokens.")]
Seconds = Annotated[float | None, Field(gt=0, description="Stop after so many seconds, wherever it stands.")]


class AgentTurn(Value):
    """One turn: what the model thought, what it called, and what came of it."""

    thought: str = ""
    tool: str | None = None
    """None in the turn that answers."""
    arguments: dict[str, Any] = {}
    result: str = ""
    """What the model was told of the tool's result, or the answer."""
    failed: bool = False


class Trajectory(Value):
    """A worked example of an agent: a question, the turns that called tools, and the answer."""

    text_field = "question"

    question: str
    turns: tuple[AgentTurn, ...] = ()
    answer: str
    thought: str = ""
    """What was thought before the answer."""


class Agent(Candidate):
    """What an agent answered, and how it came to it. `text` is the answer; empty if it was stopped before it."""

    stopped: Stopped
    """Why it ended: it answered, or which limit made it answer or end."""
    turns: tuple[AgentTurn, ...]
    trimmed: tuple[int, ...] = ()
    """Turns, from 1, that the model saw no more, or only the beginning of, since its window was full."""
    prompt: str = ""


@dataclass(frozen=True, slots=True)
class AgentRequest:
    """Everything an agent is given."""

    question: str
    context: str | Sequence[str] | None
    tools: Sequence[Mapping[str, Any]]
    model: str
    max_turns: int
    tokens: int | None
    seconds: float | None
    thoughts: bool
    required: Sequence[str]
    result_length: int
    answer_length: int
    examples: Sequence[Trajectory]
    prompt: Prompt


class ReactFunctions:
    """Agents."""

    @function
    async def react(
        self,
        question: Question,
        tools: Annotated[ToolList, "What the model may call: - {use: plugin.function, with: {...}, as: name}."],
        run: Context,
        *,
        model: ModelRef,
        context: Given = None,
        max_turns: MaxTurns = 6,
        tokens: Tokens = None,
        seconds: Seconds = None,
        thoughts: Annotated[bool, "Think in words before each call."] = True,
        required: Annotated[list[str] | None, "Tools that it must have called before it may answer."] = None,
        examples: Annotated[list[Trajectory] | None, "Worked examples: {question, turns, answer}."] = None,
        result_length: Annotated[int, Field(ge=1, description="Characters of a result that the model sees.")] = 1000,
        answer_length: Annotated[int, Field(ge=1, le=1000, description="Characters that an answer has at most.")] = 400,
        prompts: Replaced = None,
    ) -> Agent:
        """Answer with the help of tools, a call at a time, each seeing what came of those before."""
        request = AgentRequest(
            question, context, tools, model, max_turns, tokens, seconds, thoughts, required or (), result_length,
            answer_length, examples or (), load("react", prompts),
        )  # fmt: skip
        return await run_agent(run, request)


async def run_agent(run: Context, request: AgentRequest) -> Agent:
    """Return what an agent came to within its limits."""
    agent = _Agent(run, request)
    try:
        async with asyncio.timeout(request.seconds) as limit:
            await agent.go()
    except TimeoutError:
        if not limit.expired():
            raise
        agent.stop("seconds")
    return Agent(
        text=agent.answer, stopped=agent.stopped, turns=tuple(agent.turns), trimmed=agent.conversation.trimmed,
        prompt=request.prompt.label,
    )  # fmt: skip


class _Agent:
    """An agent on its way: its conversation, its turns, and the calls it has made."""

    def __init__(self, run: Context, request: AgentRequest) -> None:
        self.run = run
        self.request = request
        self.prompt = request.prompt
        self.tools = {tool.name: tool for tool in run.tools(request.tools)}
        if unknown := [name for name in request.required if name not in self.tools]:
            raise FunctionError(f"required: no tool is called {unknown[0]!r}", hint=suggest(unknown[0], self.tools))
        self.called: dict[str, str] = {}
        """Each call that was made, as canonical JSON, to its result."""
        self.turns: list[AgentTurn] = []
        self.answer = ""
        self.stopped: Stopped = "answered"
        self.usage_before = run.usage
        self.conversation = Conversation(self._beginning())

    def _beginning(self) -> list[Message]:
        thought = {"thought": "..."} if self.request.thoughts else {}
        shape = json.dumps({**thought, "tool": "its name", "arguments": {}})
        system = self.prompt.fill("system", tools=describe(list(self.tools.values())), shape=shape)
        given = self.request.context
        text = given if isinstance(given, str) else "\n\n".join(given or ())
        asked = user(text, self.prompt.fill("ask", question=self.request.question))
        shown = [message for example in self.request.examples for message in self._shown(example)]
        return [Message(role="system", content=system), *shown, asked]

    def _shown(self, example: Trajectory) -> list[Message]:
        """Return a worked example as the conversation that it would have been."""
        said = [user(self.prompt.fill("ask", question=example.question))]
        for turn in example.turns:
            said.append(self._said(turn.thought, {"tool": turn.tool, "arguments": turn.arguments}))
            said.append(user(self.prompt.fill("observation", result=_cut(turn.result, self.request.result_length))))
        return [*said, self._said(example.thought, {"answer": example.answer})]

    def _said(self, thought: str, rest: dict[str, Any]) -> Message:
        written = {"thought": thought, **rest} if self.request.thoughts else rest
        return assistant(json.dumps(written, ensure_ascii=False))

    def stop(self, why: Stopped) -> None:
        self.stopped = why
        self.run.note(f"stopped: {why}")

    async def go(self) -> None:
        """Take turns until there is an answer or a limit."""
        for n in range(1, self.request.max_turns + 1):
            if self._spent_tokens():
                return self.stop("tokens")
            if await self._turn(n):
                return None
        if self._spent_tokens():
            return self.stop("tokens")
        self.stop("turns")
        self._tell(self.prompt.fill("conclude"))
        return await self._conclude(self.request.max_turns + 1)

    def _spent_tokens(self) -> bool:
        limit = self.request.tokens
        return limit is not None and _n_tokens(self.run.usage) - _n_tokens(self.usage_before) >= limit

    async def _turn(self, n: int) -> bool:
        """Take one turn; return whether there is an answer."""
        may_answer = set(self.request.required) <= {turn.tool for turn in self.turns}
        written = await self._write(n, list(self.tools.values()), may_answer=may_answer)
        if "answer" in written:
            self._finish(n, written)
            return True
        call = json.dumps([written["tool"], written["arguments"]], sort_keys=True)
        if call in self.called:
            self.run.note(f"turn {n}: {written['tool']} again with the same arguments")
            self.stop("repeated")
            self._tell(self.prompt.fill("repeated", tool=written["tool"], result=self.called[call]))
            await self._conclude(n + 1)
            return True
        await self._call(n, written, call)
        return False

    async def _write(self, n: int, tools: Sequence[Tool], *, may_answer: bool) -> dict[str, Any]:
        """Let the model write one turn, and add it to the conversation."""
        schema = turn_schema(
            tools, thoughts=self.request.thoughts, answer_length=self.request.answer_length if may_answer else None
        )
        part = self.run.apart(f"turn {n}")
        model, most = part.model(self.request.model), most_tokens(schema)
        # Most is a token for each byte of the longest turn, four for each character; texts take one for each at most.
        if cut := await self.conversation.fit(model, most // 4):
            self.run.note(f"turn {n}: the model's window is full: {cut}")
        completion = (await write(part, model, self.conversation.messages, max_tokens=most, schema=schema))[0]
        self.conversation.say(n, assistant(completion.text))
        written: dict[str, Any] = completion.value
        return written

    async def _conclude(self, n: int) -> None:
        self._finish(n, await self._write(n, (), may_answer=True))

    def _finish(self, n: int, written: Mapping[str, Any]) -> None:
        self.answer = str(written["answer"]).strip()
        self.turns.append(AgentTurn(thought=written.get("thought", ""), result=self.answer))
        self.run.note(f"turn {n}: answer: {self.answer}")

    async def _call(self, n: int, written: Mapping[str, Any], call: str) -> None:
        tool, arguments = self.tools[written["tool"]], written["arguments"]
        failed = False
        try:
            result = _as_text(await tool.call(arguments))
        except BudgetError:
            raise  # the run's budget ends the run, not the call
        except Exception as error:  # noqa: BLE001  (a tool may fail in any way; the model is told, and the turn says so)
            failed, result = True, str(error) or type(error).__name__
        result = _cut(result, self.request.result_length)
        self.called[call] = result
        part, names = ("failure", {"error": result}) if failed else ("observation", {"result": result})
        self._tell(self.prompt.fill(part, tool=tool.name, **names))
        self.turns.append(
            AgentTurn(
                thought=written.get("thought", ""), tool=tool.name, arguments=arguments, result=result, failed=failed
            )
        )
        shown = ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in arguments.items())
        self.run.note(f"turn {n}: {tool.name}({shown}) {'failed' if failed else '->'} {_cut(result, 120)}")

    def _tell(self, text: str) -> None:
        self.conversation.tell(user(text))


def _n_tokens(usage: Usage) -> int:
    return usage.prompt_tokens + usage.completion_tokens + usage.cached_tokens


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _as_text(value: Any) -> str:
    """Return a tool's result as the model sees it: a text as it is, anything else as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, Value) and (text := value.as_text()) is not None:
        return text
    if isinstance(value, list | tuple) and all(isinstance(one, str | Value) for one in value):
        return "\n".join(_as_text(one) for one in value) or "nothing"
    return json.dumps(_plain(value), ensure_ascii=False)


def _plain(value: Any) -> Any:
    """Return JSON data; what has no JSON form becomes its text."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(part) for part in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
