"""Routing: assigning questions to members, asking those, and weighing what they say.

Invariant: members are asked only if they were assigned (or all, with `ask_all`), and weights bind to them by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gristmill import Candidate, Context, Embedder, FunctionError, Usage, Value

from ._ask_member import MemberSpec, Question, ask_members
from ._ballots_normalize import Normalize, normalizer
from ._gate import SHARPNESS, Assignment, FittedGate, assign, check_gate, likeness

Gate = FittedGate | Mapping[str, Sequence[str]]


class Routed(Value):
    """What the chosen members answer together."""

    text_field = "text"

    text: str
    members: dict[str, float]
    """Who was chosen, with the weight of each; the weights sum to 1."""
    probabilities: dict[str, float]
    """Of each choice, or the weight behind each different text; they sum to 1."""
    confidence: float
    """The probability of `text`."""
    answers: dict[str, Candidate]
    """What each member that was asked said."""
    scores: dict[str, float]
    """What the gate thinks of every member."""
    usage: dict[str, Usage] = {}
    embedding: tuple[float, ...] = ()
    """Of what the gate looked at; only with `ask_all`."""
    embedder: str | None = None


async def assign_texts(
    embedder: Embedder,
    texts: Sequence[str],
    gate: Gate,
    *,
    top_k: int = 1,
    balance: float = 0.0,
    capacity: float | Mapping[str, int] | None = None,
) -> list[Assignment]:
    """Return which members each text goes to.

    Raises:
        FunctionError: the gate was fitted on another embedder, or the members have no room.
    """
    if not texts:
        return []
    if isinstance(gate, FittedGate):
        check_gate(gate, gate.members, embedder.fingerprint)
        vectors = (await embedder.embed(list(texts))).tolist()
        scores = [gate.scores(vector) for vector in vectors]
        return assign(scores, top_k=top_k, balance=balance, capacity=capacity)
    if not any(gate.values()):  # nothing to tell members apart by: all alike
        even = {name: 1 / len(gate) for name in gate}
        return [Assignment(members=even, scores=dict.fromkeys(gate, 0.0)) for _ in texts]
    flat = [example for examples in gate.values() for example in examples]
    vectors = (await embedder.embed([*texts, *flat])).tolist()
    left = iter(vectors[len(texts) :])
    known = {name: [next(left) for _ in examples] for name, examples in gate.items()}
    scores = [likeness(vector, known) for vector in vectors[: len(texts)]]
    return assign(scores, top_k=top_k, balance=balance, capacity=capacity, sharpness=SHARPNESS)


def check_assignment(assignment: Assignment, members: Mapping[str, MemberSpec]) -> None:
    """Refuse an assignment to somebody who is no member, and a gate that knows other members.

    Raises:
        FunctionError: naming whom.
    """
    if odd := sorted(set(assignment.scores) ^ set(members)):
        raise FunctionError(
            f"the gate knows {', '.join(sorted(assignment.scores))}, and the members are {', '.join(sorted(members))}",
            hint=f"{odd[0]!r} is only on one side",
        )


async def ask_assigned(
    context: Context,
    members: Mapping[str, MemberSpec],
    question: Question,
    assignment: Assignment,
    *,
    normalize: Normalize = "text",
    ask_all: bool = False,
) -> Routed:
    """Ask the assigned members at once and weigh what they say."""
    asked = {name: spec for name, spec in members.items() if ask_all or name in assignment.members}
    replies = await ask_members(context, asked, question)
    answers = {name: reply.candidates[0] for name, reply in replies.items()}
    shares = weighed({name: answers[name] for name in assignment.members}, assignment.members, normalize)
    text = max(shares, key=lambda option: shares[option])
    return Routed(
        text=text, members=assignment.members, probabilities=shares, confidence=shares[text], answers=answers,
        scores=assignment.scores, usage={name: reply.usage for name, reply in replies.items()},
    )  # fmt: skip


def weighed(
    answers: Mapping[str, Candidate], weights: Mapping[str, float], normalize: Normalize = "text"
) -> dict[str, float]:
    """Return the weighted mean of members' probabilities, or, where not all have the same ones, of their votes.

    A text that holds no answer of the wanted kind counts as itself.
    """
    options = {frozenset(candidate.probabilities or ()) for candidate in answers.values()}
    shares: dict[str, float] = {}
    if len(options) == 1 and frozenset() not in options:
        for name, candidate in answers.items():
            for option, value in (candidate.probabilities or {}).items():
                shares[option] = shares.get(option, 0.0) + weights[name] * value
        return shares
    read = normalizer(normalize)
    spelled: dict[str, str] = {}
    for name, candidate in answers.items():
        answer = read(candidate.text)
        key, shown = (answer.key, answer.shown) if answer else (candidate.text, candidate.text)
        option = spelled.setdefault(key, candidate.text if normalize == "text" else shown)
        shares[option] = shares.get(option, 0.0) + weights[name]
    return shares
