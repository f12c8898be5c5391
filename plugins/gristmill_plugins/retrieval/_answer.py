"""One question, answered from passages, with its sources.

It finds no passages and judges no answer (`retrieval.search` and `retrieval.check` do). Invariants: without passages
no model is asked; every passage that was not read is named in `left_out`; a citation points to a passage that was
given.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gristmill import Completion, Context, FunctionError, GenerateRequest, Message, Passage, Sampling, Usage, Value
from gristmill_plugins.retrieval._answer_context import Fence, Order, Shown, fit, room_for_passages
from gristmill_plugins.retrieval._answer_text import content_words
from gristmill_plugins.retrieval._cite import Citation, cite, without_marks
from gristmill_plugins.retrieval._prompts import prompt

NOT_FOUND = "This is not in the documents."
# What models write in place of the sentence they were given.
_REFUSAL = re.compile(
    r"\b(?:passages?|documents?|texts?|quotes?|context)\b[^.!?]{0,40}\b(?:(?:do|does|did) ?n[o']t|don't|never)\b"
    r"[^.!?]{0,20}\b(?:hold|contain|mention|say|state|provide|include|specify|answer|give)"
    r"|\bnot\b[^.!?]{0,30}\b(?:in|by|from) the (?:given |provided )?(?:passages?|documents?|texts?|context)\b",
    re.IGNORECASE,
)


class Answer(Value):
    """An answer and where it is from."""

    text_field = "text"

    text: str
    found: bool
    """False: the model says that the passages do not hold the answer, or its words are not in them."""
    citations: tuple[Citation, ...] = ()
    unknown: tuple[int, ...] = ()
    """Numbers that the model cited and no passage has."""
    left_out: tuple[str, ...] = ()
    """Sources of the passages that did not fit into the model's window, and were not read."""
    cut: bool = False
    """Whether the one passage that was read was shortened to fit."""
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True)
class Reading:
    """How to read passages and answer."""

    max_tokens: int
    temperature: float
    order: Order
    fence: Fence
    not_found: str
    grounded: float
    match: bool
    window: int | None
    seed: int


async def answer(question: str, passages: Sequence[Passage], context: Context, model: str, how: Reading) -> Answer:
    """Ask the model the question over the passages that fit.

    Raises:
        FunctionError: not even the question fits into the window.
    """
    if not passages:
        return Answer(text=how.not_found, found=False)
    handle = context.model(model)
    bare = _messages(question, "", how)
    room = await room_for_passages(handle, bare, how.max_tokens, how.window)
    shown = await fit(passages, handle, room, order=how.order, fence=how.fence)
    if not shown.numbers:
        raise FunctionError(
            f"no passage fits: {room} tokens of the window are left beside the question and "
            f"max_tokens={how.max_tokens}",
            hint="raise the model's context_tokens, lower max_tokens, or shorten the passages with retrieval.compress",
        )
    if shown.left_out or shown.cut:
        context.note(_told(shown, len(passages)))
    messages = _messages(question, shown.text, how)
    sampling = Sampling(max_tokens=how.max_tokens, temperature=how.temperature)
    (completion,) = await handle.generate(GenerateRequest(messages=messages, sampling=sampling, seed=how.seed))
    return _read(completion, question, passages, shown, how)


def _messages(question: str, passages: str, how: Reading) -> tuple[Message, ...]:
    """Return the prompt; its examples quote as the passages do."""
    *examples, asked = prompt("answer").messages(passages=passages, question=question, not_found=how.not_found)
    if how.fence == "plain":
        examples = [one.model_copy(update={"content": one.content.replace("\n> ", "\n")}) for one in examples]
    return (*examples, asked)


def _told(shown: Shown, n_passages: int) -> str:
    if shown.cut:
        return f"passage 1 of {n_passages} was shortened to fit the model's window, and it is the only one read"
    return f"{len(shown.left_out)} of {n_passages} passages do not fit the model's window and were left out"


def _read(completion: Completion, question: str, passages: Sequence[Passage], shown: Shown, how: Reading) -> Answer:
    text = completion.text.strip()
    read = " ".join(passages[number - 1].text for number in shown.numbers)
    found = not refuses(text, how.not_found) and grounding(text, question, read) >= how.grounded
    cited = cite(text, passages, match=how.match and found)
    return Answer(
        text=cited.text if found else how.not_found,
        found=found,
        citations=cited.citations if found else (),
        unknown=cited.unknown,
        left_out=tuple(passages[number - 1].source for number in shown.left_out),
        cut=shown.cut,
        usage=completion.usage,
    )


def refuses(text: str, not_found: str) -> bool:
    """Tell whether an answer says that there is none: in the words that were asked for, or in those models use."""
    plain = _words(without_marks(text))
    return not plain or _words(not_found) in plain or _REFUSAL.search(text) is not None


def grounding(text: str, question: str, read: str) -> float:
    """Return the share of an answer's own words, those that the question does not have, that stand in what was read.

    1 where it has none of its own, as Yes has not: there is nothing to look for.
    """
    own = set(content_words(without_marks(text))) - set(content_words(question)) - {"yes", "no"}
    return len(own & set(content_words(read))) / len(own) if own else 1.0


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))
