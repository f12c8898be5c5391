"""Chat answers, whole or in pieces, as gristmill's values.

It receives nothing itself. Invariant: an answer that is refused, filtered, cut off or not understood is a ModelError
that says what came, never an empty or shortened text.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from gristmill import CapabilityError, Completion, Delta, GenerateRequest, ModelError, TokenLogprob, Usage
from gristmill_plugins.chat._calls import CallPart, CallParts
from gristmill_plugins.chat._failures import printable
from gristmill_plugins.chat._options import ChatOptions
from gristmill_plugins.chat._wire import Ask

# What servers call the two ways an answer ends well.
_STOP = frozenset({"stop", "eos", "eos_token", "end_turn", "stop_sequence"})
_LENGTH = frozenset({"length", "max_tokens", "model_length"})
_CALLS = frozenset({"tool_calls", "function_call", "tool_use"})


class _Top(BaseModel):
    token: str
    logprob: float


class _Token(_Top):
    top_logprobs: list[_Top] | None = None


class _Logprobs(BaseModel):
    content: list[_Token] | None = None


class _Text(BaseModel):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[CallPart] | None = None


class _Choice(BaseModel):
    index: int = 0
    finish_reason: str | None = None
    message: _Text | None = None
    delta: _Text | None = None
    logprobs: _Logprobs | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Answer(BaseModel):
    choices: list[_Choice]
    usage: _Usage | None = None


@dataclass(slots=True)
class _Sample:
    """One choice as far as it has come."""

    text: list[str] = field(default_factory=list)
    refusal: list[str] = field(default_factory=list)
    tokens: list[TokenLogprob] = field(default_factory=list)
    has_logprobs: bool = False
    calls: CallParts = field(default_factory=CallParts)
    finish_reason: str | None = None
    n_pieces: int = 0


class Assembler:
    """Puts the choices of one chat request together and hands their pieces on."""

    def __init__(
        self, request: GenerateRequest, ask: Ask, options: ChatOptions, on_delta: Callable[[Delta], None] | None
    ) -> None:
        self._request = request
        self._ask = ask
        self._options = options
        self._on_delta = on_delta
        self._samples: dict[int, _Sample] = {}
        self._usage = _Usage()
        self.handed_on = False
        """Whether a caller has seen a part of this answer."""

    def take(self, data: Any) -> None:
        """Take a whole answer, or one event of a stream.

        Raises:
            ModelError: it is neither.
        """
        try:
            answer = _Answer.model_validate(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the answer"
            raise self._error(f"gave no chat answer: {where}: {printable(first['msg'], 100)}") from error
        if answer.usage is not None:
            self._usage = answer.usage
        for choice in answer.choices:
            if 0 <= choice.index < len(self._ask.samples):
                self._add(choice)

    def _add(self, choice: _Choice) -> None:
        sample = self._samples.setdefault(choice.index, _Sample())
        part = choice.message or choice.delta or _Text()
        sample.finish_reason = choice.finish_reason or sample.finish_reason
        sample.calls.add(part.tool_calls or ())
        sample.refusal += [part.refusal] if part.refusal else []
        tokens = choice.logprobs.content or [] if choice.logprobs else []
        sample.has_logprobs |= choice.logprobs is not None and choice.logprobs.content is not None
        sample.tokens += map(_token, tokens)
        if not part.content:
            return
        sample.text.append(part.content)
        sample.n_pieces += 1
        if self._on_delta is None:
            return
        self.handed_on = True
        for n, index in enumerate(self._ask.samples[choice.index]):
            n_tokens = (len(tokens) or 1) if n == 0 else 0
            self._on_delta(Delta(sample=index, text=part.content, n_tokens=n_tokens))

    def finished(self) -> dict[int, Completion]:
        """Return a completion for each sample index that was answered.

        Raises:
            ModelError: the answer was cut off, filtered, refused, or is empty.
            CapabilityError: log-probabilities were asked for and did not come.
        """
        if not self._samples:
            raise self._error("gave an answer without choices")
        shares = self._shares()
        completions: dict[int, Completion] = {}
        for position, sample in sorted(self._samples.items()):
            first = position == min(self._samples)
            usage = Usage(
                prompt_tokens=(self._usage.prompt_tokens or 0) if first else 0,
                completion_tokens=shares[position],
                calls=1 if first else 0,
            )
            completion = self._completion(sample, usage)
            index, *alike = self._ask.samples[position]
            completions[index] = completion
            completions |= dict.fromkeys(alike, completion.model_copy(update={"usage": Usage()}))
        return completions

    def _shares(self) -> dict[int, int]:
        """Share the tokens of the answer among its samples, by length: servers report only their sum."""
        counts = {position: sample.n_pieces for position, sample in self._samples.items()}
        # llama-server reports the tokens of one sample only; a piece holds one token or more.
        total = max(self._usage.completion_tokens or 0, sum(counts.values()))
        lengths = {position: sum(map(len, sample.text)) + 1 for position, sample in sorted(self._samples.items())}
        whole, before, given = sum(lengths.values()), 0, 0
        for position, length in lengths.items():
            before += length
            counts[position] = total * before // whole - given
            given += counts[position]
        return counts

    def _completion(self, sample: _Sample, usage: Usage) -> Completion:
        text = "".join(sample.text)
        reason = self._finish_reason(sample, text)
        if self._request.top_logprobs is not None and text and not sample.has_logprobs:
            raise CapabilityError(f"{self._options.base_url} was asked for log-probabilities and gave none")
        return Completion(
            text=text,
            finish_reason=reason,
            usage=usage,
            value=_parsed(text) if self._request.json_schema is not None and reason == "stop" else None,
            tool_calls=sample.calls.whole(),
            logprobs=None if self._request.top_logprobs is None else tuple(sample.tokens),
        )

    def _finish_reason(self, sample: _Sample, text: str) -> Literal["stop", "length"]:
        reason = sample.finish_reason
        if sample.refusal:
            raise self._error(f"says that the model refused: {printable(''.join(sample.refusal))}")
        if reason is None:
            raise self._error(f"broke its answer off after {len(text)} characters", "died")
        if reason == "content_filter":
            raise self._error("withheld the answer: its content filter was met")
        if sample.calls and (not self._request.tools or self._request.tool_choice == "none"):
            raise self._error("answered with a tool call, and no tool was offered")
        if reason in _CALLS and sample.calls:
            return "stop"
        if reason in _STOP and self._request.tool_choice == "required" and not sample.calls:
            raise self._error(f"answered with text where a tool call was required: {printable(text, 100)!r}")
        if reason in _STOP or reason in _LENGTH:
            return "stop" if reason in _STOP else "length"
        raise self._error(f"ended the answer for the reason {printable(reason, 60)!r}")

    def _error(self, text: str, cause: str = "request") -> ModelError:
        return ModelError(f"{self._options.base_url} {text}", model=self._options.model, cause=cause)


def _token(token: _Token) -> TokenLogprob:
    top = {other.token: other.logprob for other in token.top_logprobs or ()}
    return TokenLogprob(token=token.token, logprob=token.logprob, top=top)


def _parsed(text: str) -> Any:
    """Return the JSON value of an answer under a schema; None where it is none, which the kernel reports."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
