"""A GenerateRequest as the bodies of chat requests, in the server's dialect.

It sends nothing. Invariant: a body says everything that the request does; what the dialect cannot say is a
CapabilityError that names it, and is never left out in silence.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any

from gristmill import CapabilityError, GenerateRequest, ModelError, Sampling, ToolSpec
from gristmill_plugins.chat._options import ChatOptions, Dialect

MOST_SAMPLES = 16
"""Samples asked for in one request; larger requests become several, so that one failure loses less."""
_MOST_TOP = {"openai": 20}
# A sampling parameter's name in each dialect, and the value that turns it off there: a server's own default may not.
_NAMES: dict[Dialect, dict[str, tuple[str, Any]]] = {
    "openai": {},
    "llama_cpp": {
        "top_k": ("top_k", 0),
        "min_p": ("min_p", 0.0),
        "typical_p": ("typical_p", 1.0),
        "repeat_penalty": ("repeat_penalty", 1.0),
    },
    "vllm": {
        "top_k": ("top_k", -1),
        "min_p": ("min_p", 0.0),
        "repeat_penalty": ("repetition_penalty", 1.0),
    },
}
_HINT = "leave it out, use the llama plugin, or declare the server's dialect: llama_cpp or vllm"


@dataclass(frozen=True, slots=True)
class Ask:
    """One chat request: choice i of its answer is `samples[i]`, which several sample indices may share."""

    samples: tuple[tuple[int, ...], ...]
    seed: int

    def singly(self, answered: Container[int] = ()) -> Iterator[Ask]:
        """Yield a request of its own for each sample that is not answered yet."""
        for offset, sample in enumerate(self.samples):
            if sample[0] not in answered:
                yield Ask((sample,), self.seed + offset)


def asks(request: GenerateRequest, *, together: bool) -> list[Ask]:
    """Split a request's samples over chat requests; sample i has the seed `seed + i`.

    Greedy samples are all alike and asked for once. `together`: neighbours share a request, whose server derives the
    seed of choice i as `seed + i` (vLLM does) or as it likes.
    """
    indices = request.sample_indices
    if request.sampling.temperature == 0:
        return [Ask((indices,), request.seed)] if indices else []
    most = MOST_SAMPLES if together else 1
    runs: list[list[int]] = []
    for index in indices:
        if runs and len(runs[-1]) < most and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return [Ask(tuple((index,) for index in run), request.seed + run[0]) for run in runs]


def check(request: GenerateRequest, options: ChatOptions) -> None:
    """Refuse what cannot be asked of this server.

    Raises:
        CapabilityError: naming what its dialect does not have.
        ModelError: a text is no Unicode, or there is no message.
    """
    name = f"{options.model} (chat, dialect {options.dialect})"
    for what, given in (("adapters", request.adapters), ("members", request.members)):
        if given:
            raise CapabilityError(f"{name} has no {what}", hint="use the llama plugin for them")
    neutral, known = Sampling(), _NAMES[options.dialect]
    for key in ("beam_width", "top_k", "min_p", "typical_p", "repeat_penalty"):
        value = getattr(request.sampling, key)
        if value != getattr(neutral, key) and key not in known:
            hint = "no chat server has beam search: use the llama plugin" if key == "beam_width" else _HINT
            raise CapabilityError(f"{name} has no {key}, and {key}={value!r} was asked for", hint=hint)
    most = _MOST_TOP.get(options.dialect)
    if most is not None and (request.top_logprobs or 0) > most:
        raise CapabilityError(f"{name} gives at most {most} top_logprobs, {request.top_logprobs} were asked for")
    results = (result for exchange in request.exchanges for result in exchange.results)
    check_texts([*(m.content for m in request.messages), *request.sampling.stop, *results], options)
    if not request.messages:
        raise ModelError("the prompt is empty", model=options.model, cause="request")


def check_texts(texts: list[str], options: ChatOptions) -> None:
    """Refuse half characters, which JSON could carry and no server could read."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ModelError(
                f"the text holds {text[error.start]!r} at position {error.start}, half of a character",
                model=options.model,
                cause="request",
                hint="decode the input with errors='replace', or mend where it comes from",
            ) from error


def body(request: GenerateRequest, ask: Ask, options: ChatOptions, *, stream: bool) -> dict[str, Any]:
    """Return the body of one chat request."""
    made: dict[str, Any] = {
        "model": options.model,
        "messages": [*(message.model_dump() for message in request.messages), *_exchanged(request)],
        "max_tokens": request.sampling.max_tokens,
        "temperature": request.sampling.temperature,
        **_sampling(request.sampling, options.dialect),
    }
    if request.sampling.temperature > 0:
        made["seed"] = ask.seed % 2**31  # some servers keep 32 bits, with a sign
    if len(ask.samples) > 1:
        made["n"] = len(ask.samples)
    if request.top_logprobs is not None:
        made |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    if request.json_schema is not None:
        made["response_format"] = _response_format(request.json_schema)
    if request.tools:
        made |= {"tools": [_tool(tool) for tool in request.tools], "tool_choice": request.tool_choice}
    if stream:
        made |= {"stream": True, "stream_options": {"include_usage": True}}
    if options.dialect == "llama_cpp":
        made["cache_prompt"] = True
    made |= options.extra_body
    return {key: value for key, value in made.items() if value is not None}


def _tool(tool: ToolSpec) -> dict[str, Any]:
    return {"type": "function", "function": tool.model_dump()}


def _exchanged(request: GenerateRequest) -> Iterator[dict[str, Any]]:
    """Yield the turns of calls that were made, and of their results."""
    for exchange in request.exchanges:
        calls = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.wrong or json.dumps(call.arguments)},
            }
            for call in exchange.calls
        ]
        yield {"role": "assistant", "content": exchange.text or None, "tool_calls": calls}
        for call, result in zip(exchange.calls, exchange.results, strict=True):
            yield {"role": "tool", "tool_call_id": call.id, "content": result}


def _sampling(sampling: Sampling, dialect: Dialect) -> dict[str, Any]:
    """Return the sampling parameters that are not neutral; beyond OpenAI's also those that are."""
    neutral, made = Sampling(), dict[str, Any]()
    for key in ("top_p", "presence_penalty", "frequency_penalty"):
        value = getattr(sampling, key)
        if dialect != "openai" or value != getattr(neutral, key):
            made[key] = value
    for key, (theirs, off) in _NAMES[dialect].items():
        value = getattr(sampling, key)
        made[theirs] = off if value == getattr(neutral, key) else value
    if sampling.stop:
        made["stop"] = list(sampling.stop)
    if sampling.logit_bias:
        made["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    return made


def _response_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema, "strict": _can_be_strict(schema)},
    }


def _can_be_strict(schema: Any) -> bool:
    """Whether OpenAI's strict mode takes a schema: every object is closed and needs all of its properties."""
    if isinstance(schema, list):
        return all(map(_can_be_strict, schema))
    if not isinstance(schema, dict):
        return True
    if schema.get("type") == "object" or "properties" in schema:
        properties = schema.get("properties", {})
        if schema.get("additionalProperties") is not False or set(schema.get("required", ())) != set(properties):
            return False
        return all(map(_can_be_strict, itertools.chain(properties.values(), schema.get("$defs", {}).values())))
    return all(map(_can_be_strict, schema.values()))
