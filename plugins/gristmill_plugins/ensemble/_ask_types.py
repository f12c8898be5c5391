"""Types and help of the arguments that several functions share, and the shape of what `ask` returns.

They are one copy of each, so that `gristmill plugins` and an editor say the same everywhere.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gristmill import Candidate, Usage, Value

from ._ask_member import MemberSpec
from ._votes_count import Ties, WeighBy

Members = Annotated[dict[str, MemberSpec], "Name to {model, prompt, system, adapters, ...} or {recipe, inputs}."]
MaybeMembers = Annotated[
    dict[str, MemberSpec] | None, "Name to {model, prompt, system, adapters, ...} or {recipe, inputs}."
]
Candidates = Annotated[list[Candidate] | dict[str, Candidate], "Answers: a list, or name to answer."]
MaybeCandidates = Annotated[list[Candidate] | dict[str, Candidate] | None, "Answers: a list, or name to answer."]
Prompt = Annotated[str | None, "What members without a prompt of their own are asked."]
System = Annotated[str | None, "The system message of members without one of their own."]
Weights = Annotated[dict[str, float] | None, "Member to weight, 0 or more; every member needs one."]
Temperature = Annotated[float, Field(ge=0, le=100, description="Of members that do not say it; 0 is greedy.")]
MaxTokens = Annotated[int, Field(ge=1, description="Of an answer, for members that do not say it.")]
MinAnswers = Annotated[int | None, Field(ge=1, description="How many members must answer; all by default.")]
Samples = Annotated[int, Field(ge=1, le=10_000, description="How many answers each member gives at most.")]
NormalizeAs = Annotated[
    Literal["text", "number", "letter", "json"], "What counts as the answer in a text, and when two are the same."
]
Options = Annotated[list[str] | None, "The only answers that count; by default any."]
Seed = Annotated[int, "Of the samples, and of random ties."]
TieRule = Annotated[Ties, "Who wins a tie: whom the first voted for, the surest, one by lot, or nobody."]
WeighedBy = Annotated[WeighBy, "What else a vote counts by: the probability of its text, of each token, of its choice."]
EarlyStops = Annotated[
    Literal["certain"] | float | None,
    "Stop drawing when the outcome cannot change, or is settled with this probability (above 0.5).",
]


class Asked(Value):
    """What all members said."""

    candidates: tuple[Candidate, ...]
    """One for each answer, in the order of the members; `source` is the member's name."""
    answers: dict[str, str]
    """Member to its text; of a member with several samples the others are "name#2" and so on."""
    failures: dict[str, str] = {}
    """Member to why it has no answer."""
    usage: dict[str, Usage] = {}
    """Member to what it cost."""
