"""For tests of recipes and plugins: fakes that are part of the public API, and the contract every plugin must pass.

    from gristmill.testing import FakePlugin, check_plugin

`FakeModel` answers from a script, without any engine, but with the real protocol: samples, seeds, deltas, choices,
cancellation. It is no place for behaviour that a real model lacks.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from gristmill._errors import ModelError, PluginError
from gristmill._language._types import CoercionError
from gristmill._models import Capability, Delta, GenerateRequest, Model, OnDelta, Relevance, ScoreRequest, Scores
from gristmill._plugins import FunctionSpec, PluginSpec, ProviderSpec, model_provider, read_plugin
from gristmill._values import Completion, Message, Usage, Value

if TYPE_CHECKING:
    import numpy as np

Answer = str | Sequence[str] | Callable[[GenerateRequest, int], str]


class FakeModel(Model):
    """A model that answers from a script.

    Args:
        answers: one text for every prompt; a list used in turn; a function of the request and the sample index; or
            a mapping from a part of the last user message to any of these (the first that occurs is used).
        delay_s: how long each call takes; a cancelled call ends at once.
        name: shown in messages and part of the fingerprint.

    `requests` holds every request that reached it, in order.
    """

    capabilities: frozenset[Capability] = frozenset(
        {"generate", "score", "embed", "rank", "schema", "adapters", "logprobs", "beam"}
    )

    def __init__(
        self, answers: Answer | Mapping[str, Answer] = "fake answer", *, delay_s: float = 0.0, name: str = "fake"
    ) -> None:
        self.answers = answers
        self.delay_s = delay_s
        self.requests: list[GenerateRequest | ScoreRequest] = []
        self.closed = False
        self._name = name
        self._turns: dict[int, int] = {}

    @property
    def name(self) -> str:
        return self._name

    @property
    def fingerprint(self) -> str:
        return f"fake:{self._name}"

    @property
    def context_tokens(self) -> int:
        return 4096

    @property
    def vocabulary_digest(self) -> str:
        return "fake"

    async def generate(self, request: GenerateRequest, on_delta: OnDelta | None = None) -> list[Completion]:
        """Answer each sample; tokens are the words of the answer."""
        self.requests.append(request)
        await asyncio.sleep(self.delay_s)
        completions = []
        for position, index in enumerate(request.sample_indices):
            text = self._answer(request, index)
            words = text.split(" ")
            cut = len(words) > request.sampling.max_tokens
            text = " ".join(words[: request.sampling.max_tokens])
            for n, word in enumerate(words[: request.sampling.max_tokens]):
                if on_delta is not None:
                    on_delta(Delta(sample=index, text=word if n == 0 else f" {word}"))
            usage = Usage(
                prompt_tokens=_count(request.messages) if position == 0 else 0, completion_tokens=len(text.split())
            )
            completions.append(Completion(text=text, finish_reason="length" if cut else "stop", usage=usage))
        return completions

    def _answer(self, request: GenerateRequest, index: int) -> str:
        answer: Any = self.answers
        if isinstance(answer, Mapping):
            prompt = next((m.content for m in reversed(request.messages) if m.role == "user"), "")
            found = next((value for part, value in answer.items() if part in prompt), None)
            if found is None:
                raise ModelError(f"FakeModel has no answer for {prompt[:60]!r}", model=self._name, cause="request")
            answer = found
        if callable(answer):
            return str(answer(request, index))
        if isinstance(answer, str):
            return answer
        turn = self._turns.get(id(answer), 0)
        self._turns[id(answer)] = turn + 1
        return str(answer[turn % len(answer)])

    async def score(self, request: ScoreRequest) -> Scores:
        """Prefer the choice that the script's answer names, or else the first."""
        self.requests.append(request)
        await asyncio.sleep(self.delay_s)
        wanted = self._answer(GenerateRequest(messages=request.messages), 0)
        return Scores(
            logprobs=tuple(-0.1 if choice == wanted else -3.0 - n for n, choice in enumerate(request.choices)),
            prompt_tokens=_count(request.messages),
        )

    async def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return `(n, 64) float32`, L2-normalised: one bucket for each word's hash."""
        return FakeEmbedder().vectors(texts)

    async def rank(self, query: str, texts: Sequence[str]) -> Relevance:
        """Score a text by the part of the query's words that it has, from 0 to 1."""
        await asyncio.sleep(self.delay_s)
        asked = set(query.lower().split())
        shared = [len(asked & set(text.lower().split())) for text in texts]
        return Relevance(
            scores=tuple(n / (len(asked) or 1) for n in shared),
            prompt_tokens=tuple(len(f"{query} {text}".split()) for text in texts),
        )

    async def count_tokens(self, text: str) -> int:
        return len(text.split())

    async def close(self) -> None:
        self.closed = True


def _count(messages: Sequence[Message]) -> int:
    return sum(len(message.content.split()) for message in messages)


class FakeEmbedder:
    """Bag-of-words vectors: texts that share words are close. Deterministic and offline."""

    fingerprint = "fake-embedder"

    async def embed(self, texts: Sequence[str]) -> np.ndarray:
        return self.vectors(texts)

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Return `(len(texts), 64) float32`, rows L2-normalised."""
        import numpy as np

        rows = np.zeros((len(texts), 64), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().split():
                row[hashlib.sha256(word.encode()).digest()[0] % 64] += 1.0
            row /= np.linalg.norm(row) or 1.0
        return rows


class FakePlugin:
    """Makes FakeModels for recipes: `models: {main: {use: fake, answers: ...}}`.

    `Kernel(plugins={"fake": FakePlugin()})`; `models` holds those that were made, by name.
    """

    def __init__(self, answers: Answer | Mapping[str, Answer] | None = None, *, delay_s: float = 0.0) -> None:
        self.answers = answers
        self.delay_s = delay_s
        self.models: dict[str, FakeModel] = {}

    @model_provider
    def fake(
        self,
        *,
        answers: Annotated[Any, "A text, a list, or a mapping from part of a prompt to them."] = "fake answer",
        name: Annotated[str, "What the model is called."] = "fake",
        adapters: Annotated[dict[str, str] | None, "Adapters by name."] = None,
    ) -> Model:
        """A model that answers from a script."""
        chosen = answers if self.answers is None else self.answers
        model = FakeModel(chosen, delay_s=self.delay_s, name=name)
        self.models[name] = model
        return model


class RecordedModel(Model):
    """Answers from a file of recorded answers, or records a real model's into it.

    With `inner` it asks the real model and remembers; without, it only replays and refuses what it has not heard.
    """

    def __init__(self, path: Path, inner: Model | None = None) -> None:
        self.path = path
        self.inner = inner
        self.recorded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        self.capabilities = inner.capabilities if inner else frozenset({"generate", "score", "rank", "schema"})

    @property
    def name(self) -> str:
        return self.inner.name if self.inner else f"recorded ({self.path.name})"

    @property
    def fingerprint(self) -> str:
        return self.inner.fingerprint if self.inner else f"recorded:{self.path}"

    async def generate(self, request: GenerateRequest, on_delta: OnDelta | None = None) -> list[Completion]:
        answers = []
        for index in request.sample_indices:
            one = request.model_copy(update={"sample_indices": (index,)})
            answers.append(Completion.model_validate(await self._answer(one, on_delta)))
        return answers

    async def score(self, request: ScoreRequest) -> Scores:
        return Scores.model_validate(await self._answer(request, None))

    async def rank(self, query: str, texts: Sequence[str]) -> Relevance:
        key = "rank:" + hashlib.sha256(json.dumps([query, *texts]).encode()).hexdigest()
        if key not in self.recorded:
            if self.inner is None:
                raise self._unheard(query)
            self.recorded[key] = (await self.inner.rank(query, texts)).model_dump(mode="json")
        return Relevance.model_validate(self.recorded[key])

    def _unheard(self, prompt: str) -> ModelError:
        return ModelError(
            f"no answer was recorded for the prompt {prompt[:80]!r}", model=self.name, cause="request",
            hint="record it with the real model: gristmill test --record",
        )  # fmt: skip

    async def _answer(self, request: GenerateRequest | ScoreRequest, on_delta: OnDelta | None) -> Any:
        key = hashlib.sha256(request.model_dump_json().encode()).hexdigest()
        if key not in self.recorded:
            if self.inner is None:
                raise self._unheard(request.messages[-1].content if request.messages else "")
            if isinstance(request, ScoreRequest):
                answer: Value = await self.inner.score(request)
            else:
                answer = (await self.inner.generate(request, on_delta))[0]
            self.recorded[key] = answer.model_dump(mode="json")
        return self.recorded[key]

    @property
    def context_tokens(self) -> int:
        if self.inner is not None:
            self.recorded["context_tokens"] = self.inner.context_tokens
        return int(self.recorded.get("context_tokens", 4096))

    async def count_tokens(self, text: str) -> int:
        key = "tokens:" + hashlib.sha256(text.encode()).hexdigest()
        if self.inner is not None:
            self.recorded[key] = await self.inner.count_tokens(text)
        return int(self.recorded.get(key, len(text.split())))

    def save(self) -> None:
        """Write what was recorded, whole or not at all."""
        partial = self.path.with_name(self.path.name + ".part")
        partial.write_text(json.dumps(self.recorded, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        partial.replace(self.path)

    async def close(self) -> None:
        if self.inner is not None:
            await self.inner.close()


def check_plugin(name: str, plugin: Any) -> PluginSpec:
    """Check a plugin against the contract; use it in a plugin's own tests.

    It can be read; every function and provider has help; every default fits its own type; every parameter's help is
    one line; a function that says it is pure writes nothing.

    Raises:
        PluginError: naming the function, the parameter and what is wrong.
    """
    spec = read_plugin(name, plugin, "under test")
    everything: list[FunctionSpec | ProviderSpec] = [*spec.functions.values(), *spec.providers.values()]
    for offered in everything:
        if not offered.summary.endswith("."):
            raise PluginError(f"{offered.name}: the docstring's first line is a sentence, this is {offered.summary!r}")
        for parameter in offered.parameters.values():
            if "\n" in parameter.description:
                raise PluginError(f"{offered.name}: the help of {parameter.name!r} is more than one line")
            if parameter.required:
                continue
            try:
                parameter.accept(parameter.default)
            except CoercionError as error:
                raise PluginError(f"{offered.name}: the default of {parameter.name!r}: {error}") from error
    for function in spec.functions.values():
        if function.returns.kind == "any" and not inspect.iscoroutinefunction(function.call):
            annotation = function.return_annotation
            if annotation is not Any:
                raise PluginError(f"{function.name}: recipes cannot know what a {annotation!r} is", hint="use a Value")
    return spec
