"""The values that cross a step: frozen, printable as JSON, and read back equal.

It does not know about models, recipes or plugins. Invariant: a value never changes after it was made, so a
step's result can be shared by any number of steps, kept in the cache, and compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field


class Value(BaseModel):
    """Base of every value that crosses a step. `text_field` names the field it renders as in a prompt."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")
    text_field: ClassVar[str | None] = None

    def as_text(self) -> str | None:
        """Return what stands for this value in a prompt, or None if only its JSON can."""
        value = None if self.text_field is None else getattr(self, self.text_field)
        return None if value is None else str(value)


class Usage(Value):
    """What a call or a run cost. Tokens are the model's own; `elapsed_s` is wall time in seconds."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Tokens (prompt and completion) that the prompt cache answered instead of a model."""
    calls: int = 0
    """Calls that reached a model; an answer from the cache is none."""
    elapsed_s: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            calls=self.calls + other.calls,
            elapsed_s=self.elapsed_s + other.elapsed_s,
        )

    @classmethod
    def total(cls, usages: Iterable[Usage]) -> Usage:
        """Add up many: one value is made, not one for each."""
        prompt = completion = cached = calls = 0
        elapsed_s = 0.0
        for usage in usages:
            prompt += usage.prompt_tokens
            completion += usage.completion_tokens
            cached += usage.cached_tokens
            calls += usage.calls
            elapsed_s += usage.elapsed_s
        return cls(
            prompt_tokens=prompt,
            completion_tokens=completion,
            cached_tokens=cached,
            calls=calls,
            elapsed_s=elapsed_s,
        )


class TokenLogprob(Value):
    """One generated token with its natural log-probability, and the most likely alternatives."""

    token: str
    logprob: float
    top: dict[str, float] = {}


class ToolCall(Value):
    """A call that a model asks for; whoever offered the tool makes it, or does not."""

    id: str
    """What the call's result is given back under."""
    name: str
    arguments: dict[str, Any] = {}
    wrong: str | None = None
    """What the model wrote instead of arguments, if it is no JSON object."""


class SemanticHit(Value):
    """An answer that was given to another prompt, which was taken to mean the same."""

    prompt: str
    """The user's message that it was given to."""
    score: float
    """Cosine of the two messages' vectors."""


class Completion(Value):
    """What a model wrote for one sample."""

    text_field = "text"

    text: str
    finish_reason: Literal["stop", "length"] = "stop"
    """"stop": the model ended or a stop string was met; "length": `max_tokens` or the context was full."""
    usage: Usage = Usage()
    value: Any = None
    """The parsed JSON, when the step has a `schema`."""
    tool_calls: tuple[ToolCall, ...] = ()
    """What the model wants called before it goes on, when the request offered tools."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    cached: bool = False
    semantic: SemanticHit | None = None
    """Set when the answer is another prompt's: only under `cache: {semantic: ...}`."""


class Choice(Value):
    """One of a closed list, picked by the model's own log-probabilities."""

    text_field = "text"

    text: str
    index: int
    """Position in the list that was asked for, from 0."""
    probabilities: dict[str, float]
    """A probability for each choice, in the order asked; they sum to 1."""
    usage: Usage = Usage()
    cached: bool = False


class Candidate(Value):
    """One answer that takes part in a vote, a ranking or a fusion."""

    text_field = "text"

    text: str
    source: str | None = None
    """The member that gave it; weights bind to this name, never to an order."""
    probabilities: dict[str, float] | None = None
    logprob: float | None = None
    """Natural logarithm of the probability of the whole text."""
    n_tokens: int | None = None
    """How many tokens `logprob` is the sum of."""
    found: bool = True
    """False: the text says something, but holds no answer of the kind that was asked for; in a vote it abstains."""


class Vote(Value):
    """The outcome of a vote over candidates."""

    text_field = "winner"

    winner: str | None
    """None: nobody voted, or the votes were tied and a tie was to decide nothing."""
    value: Any = None
    """The winner as what it was read as: a number, JSON, or the text itself."""
    tally: dict[str, float]
    """Answer to its votes, as the rule counts them, most first."""
    agreement: float = Field(ge=0, le=1)
    """The winner's share of all votes cast."""
    entropy: float = 0.0
    """Shannon entropy of the votes cast, in bits."""
    confidence: float = 0.0
    """From 0 to 1, how sure it is that this would also win among endlessly many such votes."""
    votes: dict[str, str] = {}
    """Member to the answer it voted for."""
    weights: dict[str, float] = {}
    """Member to what its vote counted."""
    abstained: tuple[str, ...] = ()
    """Members whose text holds no answer of the kind that was asked for."""
    tied: tuple[str, ...] = ()
    """The answers that shared the first place before the tie was broken; empty where one won outright."""
    rounds: tuple[dict[str, float], ...] = ()
    """The count of each round, for rules that have several."""
    n_asked: int = 0
    """How many answers were drawn for this vote."""
    n_saved: int = 0
    """How many more were allowed, and not needed."""
    usage: dict[str, Usage] = {}
    """Member to what it cost, where the vote asked it."""
    advice: str | None = None
    """Set when the numbers say that voting may do harm here."""


class Passage(Value):
    """A piece of a document, with where it came from and how well it matched."""

    text_field = "text"

    text: str
    source: str = ""
    """Path or identifier, with `#page=3` or `#L10-20` where it is known."""
    score: float = 0.0
    metadata: dict[str, Any] = {}


class Message(Value):
    """One turn of a conversation. The role is from a closed list: text can never become a role."""

    role: Literal["system", "user", "assistant"]
    content: str


_SCALARS = (str, int, float, bool)  # a tuple: `str | int` would be made anew for every value of every trace


def plain(value: Any) -> Any:
    """Return `value` as JSON-ready data: models become objects, tuples lists, paths text.

    Raises:
        TypeError: a value that has no JSON form.
    """
    if value is None or isinstance(value, _SCALARS):
        return value
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if hasattr(value, "__fspath__"):
        return str(value)
    raise TypeError(f"a {type(value).__name__} has no JSON form")
