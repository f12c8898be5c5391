"""Gristmill's models as semantic-kernel chat completion services.

Messages are handed to the model as they are, never through semantic-kernel's template XML, which loses the role of a
text with a control character. The cache, the usage and the trace are the kernel's: each request is a run of one step.
Invariant: cancelling the awaiting task, or leaving a stream early, stops the model's work.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, ClassVar, Literal

from pydantic import Field, PrivateAttr
from semantic_kernel.connectors.ai.chat_completion_client_base import ChatCompletionClientBase
from semantic_kernel.connectors.ai.completion_usage import CompletionUsage
from semantic_kernel.connectors.ai.function_calling_utils import update_settings_from_function_call_configuration
from semantic_kernel.connectors.ai.function_choice_type import FunctionChoiceType
from semantic_kernel.connectors.ai.prompt_execution_settings import PromptExecutionSettings
from semantic_kernel.contents import (
    ChatHistory,
    ChatMessageContent,
    FunctionCallContent,
    FunctionResultContent,
    StreamingChatMessageContent,
    TextContent,
)
from semantic_kernel.contents.utils.author_role import AuthorRole
from semantic_kernel.contents.utils.finish_reason import FinishReason

from gristmill import (
    Completion,
    FunctionError,
    GenerateRequest,
    GristmillError,
    Message,
    RunError,
    Sampling,
    StepFinished,
    Token,
)
from gristmill.interop import asking
from gristmill_plugins.semantic_kernel._tools import answer_schema, call_text, result_text, with_tools

_ROLES: dict[AuthorRole, Literal["system", "user", "assistant"]] = {
    AuthorRole.SYSTEM: "system",
    AuthorRole.DEVELOPER: "system",
    AuthorRole.USER: "user",
    AuthorRole.ASSISTANT: "assistant",
    AuthorRole.TOOL: "user",
}


class GristmillSettings(PromptExecutionSettings):
    """What a request may set; the names and limits are those of a recipe's step."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    beam_width: int | None = None
    max_tokens: int | None = None
    stop: list[str] | str | None = None
    seed: int = 0
    samples: int = Field(default=1, ge=1, le=10_000)
    """How many answers: each is a message of its own."""
    json_schema: dict[str, Any] | None = None
    """The answer is decoded under this JSON Schema, so that it always parses."""
    adapters: dict[str, float] = {}
    cache: Literal["auto", "off", "refresh"] = "auto"
    tools: list[dict[str, Any]] | None = Field(default=None, exclude=True)
    tool_choice: Any = Field(default=None, exclude=True)

    def sampling(self) -> Sampling:
        """Return what was set of the sampling, checked by gristmill's limits."""
        given = {name: getattr(self, name, None) for name in Sampling.model_fields}
        return Sampling(**{name: value for name, value in given.items() if value is not None})


class GristmillChat(ChatCompletionClientBase):
    """A model of a gristmill kernel."""

    SUPPORTS_FUNCTION_CALLING: ClassVar[bool] = False
    _kernel: Any = PrivateAttr()
    _declaration: Any = PrivateAttr()

    @classmethod
    def of(cls, kernel: Any, declaration: Any) -> GristmillChat:
        """Return the service of a declared model; where its output can be constrained, it calls functions."""
        model = kernel.model_of(declaration)
        kind = GristmillToolChat if "schema" in model.capabilities else cls
        service = kind(ai_model_id=model.name, service_id=declaration.name)
        service._kernel, service._declaration = kernel, declaration
        return service

    def get_prompt_execution_settings_class(self) -> type[GristmillSettings]:
        return GristmillSettings

    async def _inner_get_chat_message_contents(
        self, chat_history: ChatHistory, settings: PromptExecutionSettings
    ) -> list[ChatMessageContent]:
        request, tools = _request(chat_history, settings)
        runnable = asking(self._kernel, self._declaration, request, cache=settings.cache)
        try:
            completions = (await runnable.arun()).output
        except RunError as error:
            raise _cause(error) from error
        return [self._message(completion, bool(tools)) for completion in completions]

    def _message(self, completion: Completion, may_call: bool) -> ChatMessageContent:
        call = completion.value if may_call else None
        if isinstance(call, dict) and "function" in call:
            item: Any = FunctionCallContent(
                id=f"call_{uuid.uuid4().hex[:12]}",
                name=call["function"],
                arguments=json.dumps(call["arguments"], ensure_ascii=False),
            )
            reason = FinishReason.TOOL_CALLS
        else:
            item = TextContent(text=completion.text if call is None else call["answer"])
            reason = FinishReason(completion.finish_reason)
        return ChatMessageContent(
            role=AuthorRole.ASSISTANT,
            items=[item],
            ai_model_id=self.ai_model_id,
            finish_reason=reason,
            metadata=_metadata(completion),
        )

    async def _inner_get_streaming_chat_message_contents(
        self, chat_history: ChatHistory, settings: PromptExecutionSettings, function_invoke_attempt: int = 0
    ) -> AsyncGenerator[list[StreamingChatMessageContent], Any]:
        request, tools = _request(chat_history, settings)
        if tools:  # half a call is of no use to anybody: it comes whole
            for index, message in enumerate(await self._inner_get_chat_message_contents(chat_history, settings)):
                yield [self._piece(index, function_invoke_attempt, message.items, message)]
            return
        runnable = asking(self._kernel, self._declaration, request, cache=settings.cache)
        begun: set[int] = set()
        completions: list[Completion] = []
        try:
            async with aclosing(runnable.stream()) as events:
                async for event in events:
                    if isinstance(event, Token):
                        begun.add(event.sample)
                        yield [self._piece(event.sample, function_invoke_attempt, _text(event.text, event.sample))]
                    elif isinstance(event, StepFinished):
                        completions = event.output
        except RunError as error:
            raise _cause(error) from error
        for index, completion in enumerate(completions):  # an answer from the cache comes whole
            items = [] if index in begun else _text(completion.text, index)
            yield [self._piece(index, function_invoke_attempt, items, self._message(completion, False))]

    def _piece(
        self, index: int, attempt: int, items: list[Any], whole: ChatMessageContent | None = None
    ) -> StreamingChatMessageContent:
        return StreamingChatMessageContent(
            role=AuthorRole.ASSISTANT,
            choice_index=index,
            items=items,
            ai_model_id=self.ai_model_id,
            finish_reason=whole.finish_reason if whole else None,
            metadata=whole.metadata if whole else {},
            function_invoke_attempt=attempt,
        )


class GristmillToolChat(GristmillChat):
    """A model whose output can be constrained, so that it can call functions."""

    SUPPORTS_FUNCTION_CALLING: ClassVar[bool] = True

    def _update_function_choice_settings_callback(self) -> Callable[..., None]:
        update: Callable[..., None] = update_settings_from_function_call_configuration
        return update

    def _reset_function_choice_settings(self, settings: PromptExecutionSettings) -> None:
        settings.tools = settings.tool_choice = None

    def _verify_function_choice_settings(self, settings: PromptExecutionSettings) -> None:
        if settings.samples > 1:
            raise FunctionError(f"samples is 1 where functions may be called, this is {settings.samples}")


def _request(history: ChatHistory, settings: Any) -> tuple[GenerateRequest, list[dict[str, Any]]]:
    tools = (settings.tools or []) if settings.tool_choice != FunctionChoiceType.NONE else []
    messages = [_read(message, may_call=bool(tools)) for message in history.messages]
    schema = settings.json_schema
    if tools:
        required = settings.tool_choice == FunctionChoiceType.REQUIRED
        messages = with_tools(messages, tools, required=required)
        schema = answer_schema(tools, required=required)
    request = GenerateRequest(
        messages=tuple(messages),
        sampling=settings.sampling(),
        seed=settings.seed,
        sample_indices=tuple(range(settings.samples)),
        json_schema=schema,
        adapters=settings.adapters,
    )
    return request, tools


def _read(message: ChatMessageContent, *, may_call: bool) -> Message:
    """Return a message of ours; its role comes from the role alone, never from its text."""
    parts = []
    for item in message.items:
        if isinstance(item, TextContent):
            parts.append(item.text)
        elif isinstance(item, FunctionCallContent):
            parts.append(call_text(item.name or item.function_name, item.parse_arguments(), again=may_call))
        elif isinstance(item, FunctionResultContent):
            parts.append(result_text(item.name or item.function_name, item.result))
        else:
            raise FunctionError(f"the model reads text, and this message holds {item.content_type}")
    return Message(role=_ROLES[message.role], content="\n".join(parts))


def _text(text: str, index: int) -> list[Any]:
    from semantic_kernel.contents import StreamingTextContent

    return [StreamingTextContent(text=text, choice_index=index)]


def _metadata(completion: Completion) -> dict[str, Any]:
    """Return what semantic-kernel calls usage: an answer from the cache cost no tokens, and says what it saved."""
    usage = CompletionUsage(
        prompt_tokens=completion.usage.prompt_tokens, completion_tokens=completion.usage.completion_tokens
    )
    return {"usage": usage, "cached": completion.cached, "cached_tokens": completion.usage.cached_tokens}


def _cause(error: RunError) -> GristmillError:
    """Return the model's own error: that the request was a run of one step is nobody's business."""
    cause = next(iter(error.failures.values()))
    return cause if isinstance(cause, GristmillError) else error
