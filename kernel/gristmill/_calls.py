"""A step's calls of a model: through the cache, under the budget, into the trace.

It decides what is part of a cache key and what is kept; it does not know how an answer is made (the model does) or
stored (the cache does). Invariant: a call that reaches the model is counted against every budget above it before it
starts and after it ends; an answer from the cache costs no call.
"""

from __future__ import annotations

import asyncio
import functools
import json
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from gristmill._cache import MISS
from gristmill._cache._key import KeyPrefix
from gristmill._errors import CapabilityError, FunctionError
from gristmill._models import Delta, GenerateRequest, Model, ScoreRequest, Session
from gristmill._spending import CallLog, Spending
from gristmill._values import Choice, Completion, Message, Usage

if TYPE_CHECKING:
    import numpy as np

    from gristmill._cache import PromptCache
    from gristmill._semantic._index import SemanticIndex

T = TypeVar("T")
CacheMode = Literal["auto", "off", "refresh"]
CONTENT_FREE = "N/A"
KEY_VERSION = 1
"""Raise it when the same request means something else to gristmill itself."""
Called = Callable[[str, int, int, Usage, float], None]
"""Told of each call: model, samples, how many came from the cache, usage, seconds."""


@dataclass(slots=True)
class StepModel:
    """One model as one step uses it: the `ModelHandle` that plugins are given."""

    model: Model
    cache: PromptCache | None
    mode: CacheMode
    spending: Spending
    log: CallLog
    adapters: dict[str, float]
    called: Called
    on_delta: Callable[[Delta], None] | None = None
    semantic: SemanticIndex | None = None
    """Where prompts that mean the same are looked for, if the step asks for it."""
    threshold: float = 1.0
    note: Callable[[str], None] = lambda _: None

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        """Return one completion for each sample index, from the cache where it holds them."""
        if (request.tools or request.exchanges) and "tools" not in self.model.capabilities:
            raise CapabilityError(f"{self.model.name} cannot be offered tools", hint="reasoning.react works with any")
        if self.adapters and not request.adapters:
            request = request.model_copy(update={"adapters": self.adapters})
        wanted = request.sample_indices
        if request.sampling.temperature == 0:  # greedy: seed and index change nothing, so one answer serves all
            request = request.model_copy(update={"sample_indices": (0,), "seed": 0})
        started = time.perf_counter()
        answers = await self._answers(request)
        completions = [_completion(value, cached) for value, cached in answers]
        self._record(len(completions), [c.cached for c in completions], [c.usage for c in completions], started)
        return completions * len(wanted) if len(completions) < len(wanted) else completions

    async def _answers(self, request: GenerateRequest) -> list[tuple[Any, bool]]:
        async def compute(indices: Sequence[int]) -> list[dict[str, Any]]:
            return await self._generate(request.model_copy(update={"sample_indices": tuple(indices)}))

        shared = request.model_dump(mode="json", exclude={"sample_indices"})
        samples = {index: {"sample": index} for index in request.sample_indices}
        whole = functools.partial(_is_whole, max_tokens=request.sampling.max_tokens)
        index = self.semantic if self.mode == "auto" else None
        if self.cache is None or index is None or (text := index.varied(request)) is None:
            return await self._through_cache("generate", shared, samples, compute, keep=whole)
        prefix = KeyPrefix(self._identity("generate", shared))
        known = self.cache.get_many([prefix.key(part) for part in samples.values()])
        if MISS not in known:
            return [(value, True) for value in known]
        if (alike := await self._shared_answers(self.cache, index, request, text)) is not None:
            return alike
        answers = await self._through_cache("generate", shared, samples, compute, keep=whole)
        await index.keep(self._place(index, request), text)
        return answers

    async def _through_cache(
        self,
        kind: str,
        shared: Any,
        parts: Mapping[T, Mapping[str, Any]],
        compute: Callable[[Sequence[T]], Awaitable[list[Any]]],
        *,
        keep: Callable[[Any], bool] = lambda _: True,
    ) -> list[tuple[Any, bool]]:
        """Return an answer for each part, and whether it was in the cache; what is missing is computed together.

        `parts` maps what `compute` is given to what tells its key from the others'.
        """
        if self.cache is None or self.mode == "off":
            return [(value, False) for value in await compute(list(parts))]
        prefix = KeyPrefix(self._identity(kind, shared))
        by_key = {prefix.key(told): part for part, told in parts.items()}
        if self.mode == "refresh":
            values = await compute(list(by_key.values()))
            kept = [(key, value) for key, value in zip(by_key, values, strict=True) if keep(value)]
            await asyncio.to_thread(self.cache.set_many, kept)
            return [(value, False) for value in values]

        async def compute_missing(keys: Sequence[str]) -> list[Any]:
            return await compute([by_key[key] for key in keys])

        return [*await self.cache.get_or_compute_many(list(by_key), compute_missing, keep=keep)]

    def _identity(self, kind: str, shared: Any) -> dict[str, Any]:
        """Return all that can change an answer, one sample's own number aside."""
        return {"version": KEY_VERSION, "model": self.model.fingerprint, kind: shared}

    def _place(self, index: SemanticIndex, request: GenerateRequest) -> str:
        """Return what all requests have in common that differ in nothing but the last message."""
        shared = index.with_last(request, "").model_dump(mode="json", exclude={"sample_indices"})
        return index.place(self._identity("generate", shared))

    async def _shared_answers(
        self, cache: PromptCache, index: SemanticIndex, request: GenerateRequest, text: str
    ) -> list[tuple[Any, bool]] | None:
        """Return the answers of an earlier prompt that means the same, if the cache still has all of them."""
        for alike in await index.find(self._place(index, request), text, self.threshold):
            earlier = index.with_last(request, alike.text).model_dump(mode="json", exclude={"sample_indices"})
            prefix = KeyPrefix(self._identity("generate", earlier))
            values: list[Any] = cache.get_many([prefix.key({"sample": n}) for n in request.sample_indices])
            if MISS not in values:
                self.note(f"semantic hit, cosine {alike.score:.3f}: {alike.text}")
                hit = {"prompt": alike.text, "score": alike.score}
                return [({**value, "semantic": hit}, True) for value in values]
        return None

    async def _generate(self, request: GenerateRequest) -> list[dict[str, Any]]:
        self.spending.start_call()
        completions = await self.model.generate(request, self.on_delta)
        self.spending.add_tokens(sum(c.usage.prompt_tokens + c.usage.completion_tokens for c in completions))
        if request.json_schema is not None:
            completions = [validated(completion, request.json_schema) for completion in completions]
        return [completion.model_dump(mode="json", exclude={"cached", "semantic"}) for completion in completions]

    def _record(self, n_answers: int, cached: list[bool], usages: list[Usage], started: float) -> None:
        elapsed_s = time.perf_counter() - started
        usage = Usage.total(usages)
        calls = 0 if all(cached) else 1
        usage = usage.model_copy(update={"calls": calls, "elapsed_s": elapsed_s})
        self.log.add(usage, n_answers, sum(cached))
        self.called(self.model.name, n_answers, sum(cached), usage, elapsed_s)

    async def choose(self, messages: Sequence[Message], choices: Sequence[str], *, calibrate: bool = False) -> Choice:
        """Return the choice with the highest log-probability, and every probability.

        Contextual calibration (Zhao et al. 2021, Calibrate Before Use, section 5): each choice's probability is
        divided by its probability when the last user message is "N/A", and they are normalised again. The paper
        averages over several content-free inputs, and takes the first token of each choice; here it is one input,
        and the whole choice.
        """
        scored, usage, cached = await self._choose_once(messages, choices)
        if calibrate:
            # The same for every question of a template: after the first it comes from the cache.
            empty, more, empty_cached = await self._choose_once(content_free(messages), choices)
            scored = [own - other for own, other in zip(scored, empty, strict=True)]
            usage, cached = usage + more, cached and empty_cached
        return choice_of(tuple(choices), scored, usage=usage, cached=cached)

    async def logprobs(self, messages: Sequence[Message], choices: Sequence[str]) -> list[float]:
        """Return the natural log-probability of each whole choice as the assistant's answer, in the order asked."""
        return (await self._choose_once(messages, choices))[0]

    async def _choose_once(
        self, messages: Sequence[Message], choices: Sequence[str]
    ) -> tuple[list[float], Usage, bool]:
        """Return the choices' log-probabilities, what they cost, and whether they came from the cache."""
        request = ScoreRequest(messages=tuple(messages), choices=tuple(choices), adapters=self.adapters)
        started = time.perf_counter()
        value, cached = await self._scores(request)
        prompt_tokens = value["prompt_tokens"]
        usage = Usage(cached_tokens=prompt_tokens) if cached else Usage(prompt_tokens=prompt_tokens)
        self._record(1, [cached], [usage], started)
        return list(value["logprobs"]), usage, cached

    async def _scores(self, request: ScoreRequest) -> tuple[Any, bool]:
        async def compute(_: Sequence[None]) -> list[dict[str, Any]]:
            self.spending.start_call()
            scores = await self.model.score(request)
            self.spending.add_tokens(scores.prompt_tokens)
            return [scores.model_dump(mode="json")]

        return (await self._through_cache("score", request.model_dump(mode="json"), {None: {}}, compute))[0]

    async def rank(self, query: str, texts: Sequence[str]) -> list[float]:
        """Return how relevant each text is to the query; every pair of the two is kept by itself."""
        if self.adapters:
            raise CapabilityError("adapters have no part in ranking", hint="leave out `adapters`")

        async def compute(missing: Sequence[str]) -> list[dict[str, Any]]:
            self.spending.start_call()
            found = await self.model.rank(query, missing)
            self.spending.add_tokens(sum(found.prompt_tokens))
            pairs = zip(found.scores, found.prompt_tokens, strict=True)
            return [{"score": score, "prompt_tokens": n_tokens} for score, n_tokens in pairs]

        if not texts:
            return []
        started = time.perf_counter()
        parts = {text: {"text": text} for text in texts}
        answers = dict(zip(parts, await self._through_cache("rank", query, parts, compute), strict=True))
        usages = [
            Usage(cached_tokens=value["prompt_tokens"]) if cached else Usage(prompt_tokens=value["prompt_tokens"])
            for value, cached in answers.values()
        ]
        self._record(len(answers), [cached for _, cached in answers.values()], usages, started)
        return [answers[text][0]["score"] for text in texts]

    async def count_tokens(self, text: str) -> int:
        """Return how many tokens `text` is to this model."""
        return await self.model.count_tokens(text)

    async def open_session(self, request: GenerateRequest) -> Session:
        """Step one sequence under the caller's control; its tokens count against the budget, nothing is cached."""
        if self.adapters and not request.adapters:
            request = request.model_copy(update={"adapters": self.adapters})
        self.spending.start_call()
        return _SpendingSession(await self.model.open_session(request), self)


class _SpendingSession:
    """A session whose tokens count: against the budget at once, in the step's usage when it is closed."""

    def __init__(self, inner: Session, owner: StepModel) -> None:
        self._inner = inner
        self._owner = owner
        self._n_accepted = 0
        self._started: float | None = time.perf_counter()
        owner.spending.add_tokens(inner.prompt_tokens)

    @property
    def ends(self) -> frozenset[int]:
        return self._inner.ends

    @property
    def prompt_tokens(self) -> int:
        return self._inner.prompt_tokens

    async def next_logprobs(self) -> np.ndarray:
        return await self._inner.next_logprobs()

    async def accept(self, token: int) -> str:
        spending = self._owner.spending
        spending.check_tokens()
        text = await self._inner.accept(token)
        self._n_accepted += 1
        spending.add_tokens(1)
        return text

    async def close(self) -> None:
        started, self._started = self._started, None
        if started is not None:
            usage = Usage(prompt_tokens=self._inner.prompt_tokens, completion_tokens=self._n_accepted)
            self._owner._record(1, [False], [usage], started)
        await self._inner.close()


def validated(completion: Completion, schema: dict[str, Any]) -> Completion:
    """Return the completion with its parsed `value`, so that nothing invalid is ever cached or handed on.

    Raises:
        FunctionError: the text is cut off, no JSON, or breaks the schema.
    """
    from jsonschema import Draft202012Validator  # 0.1 s, and only steps with a schema need it

    if completion.finish_reason == "length":
        raise FunctionError("the answer was cut off before its JSON was complete", hint="raise max_tokens")
    try:
        value = json.loads(completion.text)
    except ValueError as error:
        raise FunctionError(f"the model's answer is no JSON: {error}: {completion.text[:80]!r}") from error
    broken = next(iter(Draft202012Validator(schema).iter_errors(value)), None)
    if broken is not None:
        raise FunctionError(f"the model's answer breaks the schema at {broken.json_path}: {broken.message}")
    return completion.model_copy(update={"value": value})


def _is_whole(value: Mapping[str, Any], *, max_tokens: int) -> bool:
    """Tell whether an answer may be kept: it ended by itself, or has every token that it was allowed.

    `max_tokens` is part of the key, so the same request would be cut at the same place again. What something else cut
    off, a full context or a server's own limit, may be longer another time.
    """
    return bool(value["finish_reason"] == "stop" or value["usage"]["completion_tokens"] >= max_tokens)


def _completion(value: dict[str, Any], cached: bool) -> Completion:
    completion = Completion.model_validate(value)
    if not cached:
        return completion
    tokens = completion.usage.prompt_tokens + completion.usage.completion_tokens
    return completion.model_copy(update={"cached": True, "usage": Usage(cached_tokens=tokens)})


def content_free(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the messages with "N/A" in place of the last one of the user.

    Raises:
        FunctionError: the user says nothing in them.
    """
    for place in reversed(range(len(messages))):
        if messages[place].role == "user":
            empty = messages[place].model_copy(update={"content": CONTENT_FREE})
            return (*messages[:place], empty, *messages[place + 1 :])
    raise FunctionError("calibrate puts 'N/A' in place of the user's last message, and there is none")


def choice_of(choices: tuple[str, ...], logprobs: Sequence[float], *, usage: Usage, cached: bool) -> Choice:
    """Return the softmax of whole-choice log-probabilities as a Choice.

    Raises:
        FunctionError: the model gave no number for a choice.
    """
    if any(math.isnan(value) for value in logprobs):
        raise FunctionError("the model's log-probabilities are not numbers: its weights may be damaged")
    highest = max(logprobs)
    weights = [math.exp(value - highest) for value in logprobs]
    total = sum(weights)
    index = max(range(len(choices)), key=lambda i: logprobs[i])
    probabilities = {choice: weight / total for choice, weight in zip(choices, weights, strict=True)}
    return Choice(text=choices[index], index=index, probabilities=probabilities, usage=usage, cached=cached)
