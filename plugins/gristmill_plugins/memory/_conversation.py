"""Conversations that outlive a run: recent turns word for word, a summary of older ones, and those recalled by meaning.

A turn is one record of a collection: what the user said and what was answered. What no longer fits into the prompt is
to be summarised by a step of the recipe, whose text `summarise` keeps. Invariants: turns come in the order in which
they were kept; the summary never covers a turn that is shown word for word; nothing is summarised twice.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

from pydantic import Field

from gristmill import (
    CollectionRef,
    Context,
    Embedder,
    EmbedderRef,
    FunctionError,
    Memory,
    Message,
    Passage,
    StoredRecord,
    StoreRef,
    Value,
    function,
)

TURN, SUMMARY = "turn", "summary"
_AT_ONCE = 1000

Name = Annotated[CollectionRef, "The conversation: a collection of its own."]
Namespace = Annotated[str, "Keeps users apart: one sees nothing of another's."]
EmbedderName = Annotated[EmbedderRef | None, "One declared under models:, instead of WordLlama."]
StoreName = Annotated[StoreRef | None, "One declared under models:, instead of the kernel's own."]


class History(Value):
    """A conversation as far as a prompt needs it."""

    messages: tuple[Message, ...] = ()
    """The newest turns, oldest first; they go into `messages:` as they are."""
    summary: str = ""
    """What was summarised of the turns before them."""
    recalled: tuple[Passage, ...] = ()
    """Of the turns before them, those nearest to the query, best first."""
    unsummarised: tuple[str, ...] = ()
    """Turns that are neither in `messages` nor in the summary, oldest first."""
    until: str = ""
    """The id of the last of `unsummarised`: what `summarise` wants to know."""
    n_turns: int = 0


class ConversationFunctions:
    """Keeps what was said."""

    @function
    async def history(
        self,
        conversation: Name,
        context: Context,
        *,
        query: Annotated[str | None, "Recall older turns by this text, such as the new message."] = None,
        most_characters: Annotated[int, Field(ge=0, description="What the turns shown may have together.")] = 4000,
        top_k: Annotated[int, Field(ge=1, le=1000, description="How many older turns to recall.")] = 3,
        min_score: Annotated[float | None, "Recall only turns of this cosine or more."] = None,
        namespace: Namespace = "default",
        embedder: EmbedderName = None,
        store: StoreName = None,
    ) -> History:
        """Return the newest turns of a conversation, the summary of the older ones, and what it recalls of them."""
        memory = memory_of(context, store)
        turns = await _all(memory, conversation, namespace, {"kind": TURN})
        summaries = await _all(memory, conversation, namespace, {"kind": SUMMARY})
        shown = _fitting(turns, most_characters)
        older = turns[: len(turns) - len(shown)]
        summary = summaries[-1] if summaries else None
        until = str(summary.metadata["until"]) if summary else ""
        left = [record for record in older if record.id > until]
        recalled: list[Passage] = []
        if query and older:
            chosen = context.embedder(embedder) if embedder else None
            last = older[-1].id
            recalled = await _recalled(
                memory, conversation, namespace, query, chosen,
                last=last, n_newer=len(shown), top_k=top_k, min_score=min_score,
            )  # fmt: skip
        return History(
            messages=tuple(message for record in shown for message in _messages(record)),
            summary=summary.text if summary else "",
            recalled=tuple(recalled),
            unsummarised=tuple(record.text for record in left),
            until=left[-1].id if left else until,
            n_turns=len(turns),
        )

    @function(writes=True)
    async def add_turn(
        self,
        conversation: Name,
        user: Annotated[str, "What the user said."],
        assistant: Annotated[str, "What was answered."],
        context: Context,
        *,
        namespace: Namespace = "default",
        embedder: EmbedderName = None,
        store: StoreName = None,
    ) -> str:
        """Keep a turn of a conversation, and return its id."""
        if not user.strip() or not assistant.strip():
            raise FunctionError("a turn is what the user said and what was answered; neither is empty")
        facts = {"kind": TURN, "user": user, "assistant": assistant}
        id_ = f"{time.time_ns():020d}"
        await memory_of(context, store).aremember(
            conversation, f"User: {user}\nAssistant: {assistant}", metadata=facts, id=id_, namespace=namespace,
            embedder=context.embedder(embedder) if embedder else None,
        )  # fmt: skip
        return id_

    @function(writes=True)
    async def summarise(
        self,
        conversation: Name,
        text: Annotated[str, "The summary of all turns up to `until`."],
        until: Annotated[str, "The `until` of the history that was summarised."],
        context: Context,
        *,
        namespace: Namespace = "default",
        embedder: EmbedderName = None,
        store: StoreName = None,
    ) -> None:
        """Keep the summary of a conversation's older turns, in place of the one before."""
        memory = memory_of(context, store)
        before = await _all(memory, conversation, namespace, {"kind": SUMMARY})
        if before and str(before[-1].metadata["until"]) >= until:
            return  # another run has summarised as much already
        await memory.aremember(
            conversation, text, metadata={"kind": SUMMARY, "until": until}, id=SUMMARY, namespace=namespace,
            embedder=context.embedder(embedder) if embedder else None,
        )  # fmt: skip


def memory_of(context: Context, store: str | None) -> Memory:
    """Return memory in the store that a step names, or the kernel's own."""
    return context.memory if store is None else context.memory_in(store)


async def _all(memory: Memory, conversation: str, namespace: str, where: dict[str, Any]) -> list[StoredRecord]:
    records: list[StoredRecord] = []
    while part := await memory.alist(
        conversation, where=where, offset=len(records), limit=_AT_ONCE, namespace=namespace
    ):
        records += part
    return sorted(records, key=lambda record: record.id)


def _fitting(turns: list[StoredRecord], most_characters: int) -> list[StoredRecord]:
    """Return the newest turns that have no more characters together."""
    room, n = most_characters, 0
    for record in reversed(turns):
        room -= len(record.text)
        if room < 0:
            break
        n += 1
    return turns[len(turns) - n :]


def _messages(record: StoredRecord) -> list[Message]:
    return [
        Message(role="user", content=str(record.metadata["user"])),
        Message(role="assistant", content=str(record.metadata["assistant"])),
    ]


async def _recalled(
    memory: Memory,
    conversation: str,
    namespace: str,
    query: str,
    embedder: Embedder | None,
    *,
    last: str,
    n_newer: int,
    top_k: int,
    min_score: float | None,
) -> list[Passage]:
    """Return the turns up to `last` that are nearest; the newer ones are shown anyway and count for nothing."""
    found = await memory.arecall(
        conversation, query, top_k=top_k + n_newer, mode="dense", where={"kind": TURN}, min_score=min_score,
        namespace=namespace, embedder=embedder,
    )  # fmt: skip
    older = [record for record in found if record.id <= last][:top_k]
    return [Passage(text=r.text, source=r.id, score=r.score or 0.0, metadata={"created": r.created}) for r in older]
