"""Remote models: any server that speaks OpenAI's chat protocol, over httpx.

Importing this package imports neither httpx nor numpy and opens no connection. Invariant: declaring a model is cheap
and sends nothing; a key is read from the environment when a request is sent, and is kept nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from gristmill import Context, Message, ModelRef, Sampling, ToolList, function, model_provider
from gristmill_plugins.chat._converse import Conversation, converse

if TYPE_CHECKING:
    from gristmill import Model

__all__ = ["ChatPlugin"]


class ChatPlugin:
    """Asks models that run behind an OpenAI-compatible server: vLLM, llama-server, Ollama, a hosted one."""

    @function
    async def call_tools(
        self,
        question: Annotated[str, "What the user asks."],
        tools: Annotated[ToolList, "What the model may call: - {use: plugin.function, with: {...}, as: name}."],
        run: Context,
        *,
        model: ModelRef,
        system: Annotated[str | None, "What the model is told first."] = None,
        max_turns: Annotated[int, Field(ge=1, le=100, description="How often the model is asked at most.")] = 8,
        max_tokens: Annotated[int, Field(ge=1, description="Of each turn.")] = 512,
        temperature: Annotated[float, Field(ge=0, le=100, description="0 takes the most likely token.")] = 0.0,
        result_length: Annotated[int, Field(ge=1, description="Characters of a result that the model sees.")] = 4000,
    ) -> Conversation:
        """Let a model call tools over its server's own protocol until it answers."""
        begun = [Message(role="system", content=system)] if system else []
        return await converse(
            run, model, [*begun, Message(role="user", content=question)], tools, max_turns=max_turns,
            sampling=Sampling(temperature=temperature, max_tokens=max_tokens), result_length=result_length,
        )  # fmt: skip

    @model_provider
    def chat(
        self,
        *,
        base_url: Annotated[str, Field(description="Where the protocol begins, such as http://127.0.0.1:8080/v1")],
        model: Annotated[str, Field(description="What the server calls the model")],
        dialect: Annotated[
            Literal["openai", "llama_cpp", "vllm"],
            Field(description="What the server understands besides OpenAI's protocol"),
        ] = "openai",
        api_key_env: Annotated[
            str | None, Field(description="The environment variable that holds the key; never the key itself")
        ] = None,
        revision: Annotated[
            str, Field(description="Any text; change it when the server has other weights under the same name")
        ] = "",
        context_tokens: Annotated[int | None, Field(ge=16, description="The longest prompt plus answer")] = None,
        timeout_s: Annotated[
            float, Field(gt=0, le=86400, description="For one try of a request, answer included")
        ] = 300.0,
        read_timeout_s: Annotated[
            float | None, Field(gt=0, description="The longest silence of a server; default: timeout_s")
        ] = None,
        connect_timeout_s: Annotated[float, Field(gt=0, description="For opening a connection")] = 10.0,
        retries: Annotated[
            int, Field(ge=0, le=20, description="More tries when the server is busy, ill, or not reached")
        ] = 2,
        concurrency: Annotated[int, Field(ge=1, le=1024, description="Requests under way together")] = 8,
        extra_body: Annotated[
            Mapping[str, Any] | None,
            Field(description="Merged into every chat request; null leaves a key out"),
        ] = None,
    ) -> Model:
        """A model behind an OpenAI-compatible server."""
        from gristmill_plugins.chat._model import ChatModel
        from gristmill_plugins.chat._options import ChatOptions

        return ChatModel(
            ChatOptions(
                base_url=base_url,
                model=model,
                dialect=dialect,
                api_key_env=api_key_env,
                revision=revision,
                context_tokens=context_tokens,
                timeout_s=timeout_s,
                read_timeout_s=read_timeout_s,
                connect_timeout_s=connect_timeout_s,
                retries=retries,
                concurrency=concurrency,
                extra_body=dict(extra_body or {}),
            )
        )
