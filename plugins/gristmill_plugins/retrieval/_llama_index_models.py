"""A gristmill model as a LlamaIndex `LLM`, and an embedder as a LlamaIndex `BaseEmbedding`.

    llm = make_llm(context.model("main"))          # for LlamaIndex code that asks a model
    embedding = make_embedding(context.embedder("e"))

LlamaIndex's own defaults (`Settings.llm`, `Settings.embed_model`) are OpenAI's and are never touched: both objects are
handed over by name. Their plain methods wait for the kernel's loop and so belong in another thread; their `a` methods
are awaited on it. Invariant: every answer takes the path of a step's: cache, budget, trace.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from gristmill import CapabilityError, Embedder, GenerateRequest, Message, ModelHandle, Sampling

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.llms import LLM

R = TypeVar("R")
_BATCH = 512


def waited(coroutine: Coroutine[Any, Any, R], loop: asyncio.AbstractEventLoop) -> R:
    """Run a coroutine on the kernel's loop, from another thread, and return its result."""
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is loop:
        coroutine.close()
        raise RuntimeError("this would wait for itself: call the `a` method, or call this from another thread")
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result()


def make_embedding(embedder: Embedder, loop: asyncio.AbstractEventLoop | None = None) -> BaseEmbedding:
    """Return an embedder as a LlamaIndex embedding; its vectors are those of `embedder`.

    `loop` is the kernel's, by default the running one, as in a function of a plugin.
    """
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from pydantic import PrivateAttr

    class GristmillEmbedding(BaseEmbedding):
        """An embedder of gristmill's."""

        _embedder: Embedder = PrivateAttr()
        _loop: asyncio.AbstractEventLoop = PrivateAttr()

        @classmethod
        def class_name(cls) -> str:
            return "GristmillEmbedding"

        async def _rows(self, texts: Sequence[str]) -> list[list[float]]:
            rows: list[list[float]] = (await self._embedder.embed(list(texts))).tolist()
            return rows

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return (await self._rows([query]))[0]

        async def _aget_text_embedding(self, text: str) -> list[float]:
            return (await self._rows([text]))[0]

        async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            return await self._rows(texts)

        def _get_query_embedding(self, query: str) -> list[float]:
            return waited(self._rows([query]), self._loop)[0]

        def _get_text_embedding(self, text: str) -> list[float]:
            return waited(self._rows([text]), self._loop)[0]

        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            return waited(self._rows(texts), self._loop)

    made = GristmillEmbedding(model_name=embedder.fingerprint, embed_batch_size=_BATCH)
    made._embedder, made._loop = embedder, loop or asyncio.get_running_loop()
    return made


def make_llm(
    handle: ModelHandle,
    loop: asyncio.AbstractEventLoop | None = None,
    *,
    sampling: Sampling | None = None,
    seed: int = 0,
) -> LLM:
    """Return a model as a LlamaIndex LLM: `complete` and `chat`, and their streams as one piece.

    `loop` is the kernel's, by default the running one, as in a function of a plugin. A turn whose role is neither
    system, user nor assistant is refused: there is none such in gristmill.
    """
    from llama_index.core.llms import ChatMessage, ChatResponse, CompletionResponse, CustomLLM, LLMMetadata
    from pydantic import PrivateAttr

    class GristmillLLM(CustomLLM):
        """A model of gristmill's."""

        _handle: ModelHandle = PrivateAttr()
        _loop: asyncio.AbstractEventLoop = PrivateAttr()
        _sampling: Sampling = PrivateAttr()
        _seed: int = PrivateAttr()

        @classmethod
        def class_name(cls) -> str:
            return "GristmillLLM"

        @property
        def metadata(self) -> Any:
            model = self._handle.model
            return LLMMetadata(
                model_name=model.name,
                context_window=_window(model),
                num_output=self._sampling.max_tokens,
                is_chat_model=True,
            )

        async def _answer(self, messages: Sequence[Message]) -> str:
            request = GenerateRequest(messages=tuple(messages), sampling=self._sampling, seed=self._seed)
            return (await self._handle.generate(request))[0].text

        async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
            return CompletionResponse(text=await self._answer([Message(role="user", content=prompt)]))

        async def achat(self, messages: Sequence[Any], **kwargs: Any) -> Any:
            text = await self._answer([_message(message) for message in messages])
            return ChatResponse(message=ChatMessage(role="assistant", content=text))

        def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
            return waited(self.acomplete(prompt), self._loop)

        def chat(self, messages: Sequence[Any], **kwargs: Any) -> Any:
            return waited(self.achat(messages), self._loop)

        def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
            answer = self.complete(prompt)
            yield CompletionResponse(text=answer.text, delta=answer.text)

    made = GristmillLLM()
    made._handle, made._loop = handle, loop or asyncio.get_running_loop()
    made._sampling, made._seed = sampling or Sampling(), seed
    return made


def _window(model: Any) -> int:
    try:
        return int(model.context_tokens)
    except CapabilityError:
        return 4096  # LlamaIndex needs a number to fit prompts into; 3900 is its own guess


def _message(turn: Any) -> Message:
    return Message(role=turn.role.value, content=turn.content or "")
