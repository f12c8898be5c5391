"""Running a cascade: one member after the other, until one is sure enough.

How sure an answer is comes from the answer itself: the probability of a choice, or the share of several samples that
agree. Invariant: what a stage records is what its member said and cost, whether or not it was taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from gristmill import Candidate, Context, FunctionError

from ._ask_member import MemberSpec, Question, Reply, ask_member
from ._ballots_normalize import Normalize, Reader, normalizer
from ._cascade import Cascaded, FittedCascade, Stage


async def run_cascade(
    context: Context,
    members: Mapping[str, MemberSpec],
    question: Question,
    thresholds: Sequence[float],
    *,
    normalize: Normalize,
    fitted: FittedCascade | None,
    ask_all: bool,
) -> Cascaded:
    """Ask members in their order; `ask_all` goes on after the answer is there, and changes nothing else.

    Raises:
        FunctionError: an answer says nothing about how sure it is.
    """
    stages: list[Stage] = []
    read = normalizer(normalize)
    taken: Stage | None = None
    for name, threshold in zip(members, [*thresholds, None], strict=True):
        reply = await ask_member(context, name, members[name], question)
        text, confidence = confidence_of(reply, read, last=threshold is None)
        stage = Stage(
            member=name, text=text, confidence=confidence, threshold=threshold, usage=reply.usage,
            calibrated=fitted.calibrated(name, confidence) if fitted else None,
        )  # fmt: skip
        stages.append(stage)
        if taken is None and (threshold is None or _sureness(stage) >= threshold):
            taken = stage
        if taken is not None and not ask_all:
            break
    assert taken is not None  # the last one's threshold is None
    return Cascaded(
        text=taken.text, member=taken.member, confidence=_sureness(taken), asked=len(stages), stages=tuple(stages),
        usage={stage.member: stage.usage for stage in stages},
    )  # fmt: skip


def _sureness(stage: Stage) -> float:
    return stage.confidence if stage.calibrated is None else stage.calibrated


def confidence_of(reply: Reply, read: Reader, *, last: bool) -> tuple[str, float]:
    """Return what a member says on the whole, and how sure that is, from 0 to 1.

    Raises:
        FunctionError: it is one text without probabilities, and another member waits for its confidence.
    """
    first = reply.candidates[0]
    if len(reply.candidates) > 1:
        return _agreement(reply.candidates, read)
    if first.probabilities:
        return first.text, first.probabilities.get(first.text, max(first.probabilities.values()))
    if last:
        return first.text, 0.5
    raise FunctionError(
        f"member {reply.member!r} does not say how sure it is",
        hint="give `choices`, or `samples: 5` with a temperature, or let it be a recipe whose output is a vote",
    )


def _agreement(candidates: Sequence[Candidate], read: Reader) -> tuple[str, float]:
    """Return the commonest answer, of equal ones the first, and its share; a text without one agrees with nobody."""
    found = (candidate for candidate in candidates if candidate.found)
    answers = [answer for candidate in found if (answer := read(candidate.text)) is not None]
    if not answers:
        return candidates[0].text, 0.0
    winner, n = Counter(answer.key for answer in answers).most_common(1)[0]
    return next(answer.shown for answer in answers if answer.key == winner), n / len(candidates)
