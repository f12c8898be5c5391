"""A gristmill plugin in one module: functions, references to models and functions, and a provider."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

from gristmill import (
    Completion,
    Context,
    Delta,
    FunctionRef,
    GenerateRequest,
    Message,
    Model,
    ModelRef,
    Vote,
    function,
    model_provider,
)


class EchoModel(Model):
    """Answers with the prompt, louder."""

    capabilities = frozenset({"generate"})

    def __init__(self, mark: str) -> None:
        self.mark = mark

    @property
    def name(self) -> str:
        return "shout"

    @property
    def fingerprint(self) -> str:
        return f"shout:1:{self.mark}"

    async def generate(
        self, request: GenerateRequest, on_delta: Callable[[Delta], None] | None = None
    ) -> list[Completion]:
        text = request.messages[-1].content.upper() + self.mark
        if on_delta is not None:
            for index in request.sample_indices:
                on_delta(Delta(sample=index, text=text))
        return [Completion(text=text) for _ in request.sample_indices]

    async def count_tokens(self, text: str) -> int:
        return len(text.split())


class ShoutPlugin:
    """Says things louder."""

    plugin_api = 1

    @function(pure=True, version="2")
    def louder(self, text: str, *, mark: Annotated[str, "What to put at the end."] = "!") -> str:
        """Return the text in capitals."""
        return text.upper() + mark

    @function
    async def ask(self, question: str, context: Context, *, model: ModelRef, then: FunctionRef) -> str:
        """Ask a model, and hand its answer to another function."""
        request = GenerateRequest(messages=(Message(role="user", content=question),))
        (answer,) = await context.model(model).generate(request)
        context.note(f"asked {model}")
        return str(await context.call(then, {"text": answer.text}))

    @function(pure=True)
    def loudest(self, texts: Sequence[str]) -> Vote:
        """Pick the text with the most capitals."""
        winner = max(texts, key=lambda text: sum(map(str.isupper, text)))
        return Vote(winner=winner, tally={winner: 1.0}, agreement=1 / len(texts))

    @model_provider
    def shout(self, *, mark: Annotated[str, "What every answer ends with."] = "!") -> Model:
        """A model that answers with its prompt in capitals."""
        return EchoModel(mark)
