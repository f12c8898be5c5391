"""Several answers made into one by a model that reads them all.

After Jiang et al. 2023, LLM-Blender, section 4 (GenFuser: the best few answers and the question go into one prompt);
where they train a fuser, here any model is asked by a prompt. Invariant: it reads the answers in the order given, and
no more than it was told to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gristmill import Candidate, FunctionError, Message, Usage, Value

SYSTEM = "You write the best answer to a question from several drafts."
INSTRUCTION = (
    "Write one answer to the question. Keep what the drafts agree on and what is right in each, leave out what is "
    "wrong, and do not mention the drafts."
)


class Fused(Value):
    """One answer made of several."""

    text_field = "text"

    text: str
    sources: tuple[str, ...]
    """Names of the answers that the model read, in order."""
    usage: Usage = Usage()


def fuse_messages(
    question: str, candidates: Mapping[str, Candidate], *, top_k: int, instruction: str = INSTRUCTION
) -> tuple[Sequence[Message], tuple[str, ...]]:
    """Return what the model reads, and the names of the answers in it; of equal texts only the first is shown.

    Raises:
        FunctionError: there is no answer.
    """
    shown: dict[str, str] = {}
    for name, candidate in candidates.items():
        if candidate.text.strip() and candidate.text not in shown.values() and len(shown) < top_k:
            shown[name] = candidate.text
    if not shown:
        raise FunctionError("there is no answer to fuse")
    drafts = "\n\n".join(f"Draft {n}:\n{text}" for n, text in enumerate(shown.values(), start=1))
    content = f"Question:\n{question}\n\n{drafts}\n\n{instruction}"
    return (Message(role="system", content=SYSTEM), Message(role="user", content=content)), tuple(shown)
