"""Asking the member that a learner decided for. The decision, and what is learned from it, are `_learn`'s."""

from __future__ import annotations

from collections.abc import Mapping

from gristmill import Context

from ._ask_member import MemberSpec, Question, ask_member
from ._learn import Decision, Learned


async def ask_decided(
    context: Context,
    members: Mapping[str, MemberSpec],
    question: Question,
    decision: Decision,
    shares: Mapping[str, float],
) -> Learned:
    """Ask one member and return its answer with the decision, which feedback needs."""
    name = decision.member
    reply = await ask_member(context, name, members[name], question)
    answer = reply.candidates[0]
    return Learned(
        text=answer.text, member=name, policy=dict(shares), explored=shares[name] < max(shares.values()),
        decision=decision, probabilities=answer.probabilities, usage={name: reply.usage},
    )  # fmt: skip
