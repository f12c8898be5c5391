"""What llama-server and vLLM offer beside OpenAI's protocol: exact scores of whole choices, and token counts.

A chat answer shows the likeliest few tokens only, so a choice cannot be scored over the protocol itself. Invariant: a
score is the sum of the model's own log-probabilities of the choice's tokens after the server's own chat template, as
the llama plugin computes it; what cannot be exact is an error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

from gristmill import CapabilityError, Message, ModelError, ScoreRequest, Scores
from gristmill_plugins.chat._options import ChatOptions
from gristmill_plugins.chat._tasks import all_of
from gristmill_plugins.chat._transport import Transport

Tokens = tuple[int, ...]
_FORCING = 1000.0
"""Added to a token's logit so that it is the one drawn; the log-probability reported is the one before."""


class Native(Protocol):
    """A server's own endpoints."""

    async def count(self, text: str) -> int:
        """Return the number of tokens of a text."""
        ...

    async def prompt(self, messages: Sequence[Message]) -> Tokens:
        """Return the tokens of messages under the server's template, up to where an answer begins."""
        ...

    async def choice(self, text: str) -> Tokens:
        """Return the tokens of a text that is no control token."""
        ...

    async def end(self) -> Tokens:
        """Return the token that ends an answer."""
        ...

    async def logprobs(self, prompt: Tokens, choices: Sequence[Tokens]) -> list[float]:
        """Return the log-probability of each sequence of tokens after the prompt."""
        ...


def native(options: ChatOptions, transport: Transport) -> Native | None:
    """Return the server's own endpoints, if its dialect has any."""
    if options.dialect == "openai":
        return None
    return LlamaServer(options, transport) if options.dialect == "llama_cpp" else VllmServer(options, transport)


async def score(server: Native, request: ScoreRequest, options: ChatOptions) -> Scores:
    """Return the log-probability of every choice.

    Where one choice begins another, the token that ends an answer counts too: it is what tells them apart.
    """
    prompt, *choices = await all_of([server.prompt(request.messages), *map(server.choice, request.choices)])
    for text, tokens in zip(request.choices, choices, strict=True):
        if not tokens:
            raise ModelError(f"the choice {text!r} has no tokens", model=options.model, cause="request")
    if _any_begins_another(choices):
        end = await server.end()
        choices = [choice + end for choice in choices]
    logprobs = await server.logprobs(prompt, choices)
    return Scores(logprobs=tuple(logprobs), prompt_tokens=len(prompt))


def _any_begins_another(choices: Sequence[Tokens]) -> bool:
    return any(a == b[: len(a)] for i, a in enumerate(choices) for j, b in enumerate(choices) if i != j)


class _Server:
    """What both servers share: where they are, and how an answer that makes no sense is reported."""

    def __init__(self, options: ChatOptions, transport: Transport) -> None:
        self._options = options
        self._transport = transport

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        return await self._transport.json(f"{self._options.root_url}{path}", body)

    def _tokens(self, answer: Any) -> Tokens:
        tokens = answer.get("tokens") if isinstance(answer, dict) else None
        if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
            raise self._strange("/tokenize")
        return tuple(tokens)

    def _strange(self, path: str) -> ModelError:
        options = self._options
        return ModelError(
            f"{options.root_url}{path} did not answer as a server of the dialect {options.dialect} does",
            model=options.model,
            cause="request",
            hint="declare the dialect that the server has",
        )


class LlamaServer(_Server):
    """llama.cpp's llama-server (https://github.com/ggml-org/llama.cpp, tools/server/README.md)."""

    async def count(self, text: str) -> int:
        return len(await self.choice(text))

    async def prompt(self, messages: Sequence[Message]) -> Tokens:
        turns = [message.model_dump() for message in messages]
        answer = await self._post("/apply-template", {"messages": turns})
        if not isinstance(answer, dict) or not isinstance(answer.get("prompt"), str):
            raise self._strange("/apply-template")
        return await self._encoded(answer["prompt"], special=True)

    async def choice(self, text: str) -> Tokens:
        return await self._encoded(text, special=False)

    async def _encoded(self, text: str, *, special: bool) -> Tokens:
        body = {"content": text, "add_special": special, "parse_special": special}
        return self._tokens(await self._post("/tokenize", body))

    async def end(self) -> Tokens:
        answer = await self._transport.json(f"{self._options.root_url}/props", None, method="GET")
        text = answer.get("eos_token") if isinstance(answer, dict) else None
        if not isinstance(text, str) or not text:
            raise self._strange("/props")
        return self._tokens(
            await self._post("/tokenize", {"content": text, "add_special": False, "parse_special": True})
        )

    async def logprobs(self, prompt: Tokens, choices: Sequence[Tokens]) -> list[float]:
        """Ask for one token at a time, each forced; tokens that choices share are asked for once."""
        places = sorted({(choice[:n], token) for choice in choices for n, token in enumerate(choice)})
        first, *rest = places
        found = {first: await self._logprob(prompt, *first)}  # alone, so that the rest find the prompt in the cache
        values = await all_of([self._logprob(prompt, *place) for place in rest])
        found |= dict(zip(rest, values, strict=True))
        return [math.fsum(found[choice[:n], token] for n, token in enumerate(choice)) for choice in choices]

    async def _logprob(self, prompt: Tokens, before: Tokens, token: int) -> float:
        answer = await self._post(
            "/completion",
            {
                "prompt": [*prompt, *before],
                "n_predict": 1,
                "n_probs": 1,
                "temperature": 0.0,
                "logit_bias": [[token, _FORCING]],
                "cache_prompt": True,
            },
        )
        try:
            drawn = answer["completion_probabilities"][0]
            if drawn["id"] == token:
                return float(drawn["logprob"])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise self._strange("/completion") from error
        raise self._strange("/completion")


class VllmServer(_Server):
    """vLLM's server: `/tokenize`, and `prompt_logprobs` of `/v1/completions` (docs.vllm.ai, its OpenAI server)."""

    async def count(self, text: str) -> int:
        return len(await self.choice(text))

    async def prompt(self, messages: Sequence[Message]) -> Tokens:
        turns = [message.model_dump() for message in messages]
        return self._tokens(await self._post("/tokenize", {"model": self._options.model, "messages": turns}))

    async def choice(self, text: str) -> Tokens:
        body = {"model": self._options.model, "prompt": text, "add_special_tokens": False}
        return self._tokens(await self._post("/tokenize", body))

    async def end(self) -> Tokens:
        raise CapabilityError(
            f"{self._options.model} cannot score choices of which one begins another: vLLM does not say what ends an "
            "answer",
            hint="write choices that differ before the shorter one ends",
        )

    async def logprobs(self, prompt: Tokens, choices: Sequence[Tokens]) -> list[float]:
        return await all_of([self._logprob(prompt, choice) for choice in choices])

    async def _logprob(self, prompt: Tokens, choice: Tokens) -> float:
        answer = await self._transport.json(
            f"{self._options.base_url}/completions",
            {
                "model": self._options.model,
                "prompt": [*prompt, *choice],
                "max_tokens": 1,
                "temperature": 0.0,
                "prompt_logprobs": 1,
            },
        )
        try:
            rows = answer["choices"][0]["prompt_logprobs"][-len(choice) :]
            return math.fsum(row[str(token)]["logprob"] for row, token in zip(rows, choice, strict=True))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise self._strange("/v1/completions") from error
