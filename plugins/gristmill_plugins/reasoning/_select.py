"""`select_examples`: which worked examples to show for a question.

`similarity` takes the nearest by meaning (Liu et al. 2022, What Makes Good In-Context Examples for GPT-3?, section 3);
`diversity` weighs nearness against likeness to those already taken (maximal marginal relevance, Carbonell and Goldstein
1998); `fixed` takes the first. The nearest stands last, next to the question, where models heed it most (Lu et al.
2022, Fantastically Ordered Prompts; Liu et al., section 5). Invariants: no example twice; the result is the same in
every run; an example whose input is the question itself is never shown, for its answer would be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from gristmill import CollectionRef, Context, EmbedderRef, FunctionError, Hit, StoredRecord, function
from gristmill_plugins.reasoning._chains import Example

MOST_RECALLED = 10_000


class SelectFunctions:
    """Chooses examples."""

    @function
    async def select_examples(
        self,
        query: Annotated[str, "The question that the examples are for."],
        run: Context,
        *,
        examples: Annotated[list[Example] | None, "The pool: {input, output, reasoning}."] = None,
        collection: Annotated[
            CollectionRef | None, "Or a collection of memory: the text is the input, metadata has output and reasoning."
        ] = None,
        n: Annotated[int, Field(ge=1, le=1000, description="How many to choose at most.")] = 4,
        by: Annotated[
            Literal["similarity", "diversity", "fixed"], "The nearest, the nearest that differ, or the first."
        ] = "similarity",
        relevance: Annotated[float, Field(ge=0, le=1, description="For diversity: the weight of nearness.")] = 0.5,
        embedder: Annotated[EmbedderRef | None, "One declared under models:, instead of WordLlama."] = None,
        namespace: Annotated[str, "Of the collection: keeps users apart."] = "default",
    ) -> list[Example]:
        """Return the examples to show for a question, the nearest last."""
        if (examples is None) == (collection is None):
            raise FunctionError("reasoning.select_examples takes either `examples` or `collection`")
        if collection is not None:
            examples = await _recalled(run, collection, query, namespace, embedder)
        pool = [one for one in _distinct(examples or ()) if one.input.strip() != query.strip()]
        if by == "fixed" or not pool:
            return pool[:n]
        return await _nearest(run, pool, query, n, relevance if by == "diversity" else 1.0, embedder)


def _distinct(examples: Sequence[Example]) -> list[Example]:
    return list({(one.input, one.output): one for one in reversed(examples)}.values())[::-1]


async def _recalled(run: Context, collection: str, query: str, namespace: str, embedder: str | None) -> list[Example]:
    """Return the examples of a collection, those that match best first; by words alone where it has no vectors."""
    chosen = run.embedder(embedder) if embedder else None
    records = await run.memory.arecall(
        collection, query, top_k=MOST_RECALLED, mode="dense", namespace=namespace, embedder=chosen
    )
    return [_as_example(record) for record in records]


def _as_example(record: StoredRecord) -> Example:
    output = record.metadata.get("output")
    if not isinstance(output, str | int | float):
        raise FunctionError(
            f"record {record.id!r} has no `output` in its metadata, so it is no example",
            hint="keep examples with memory.remember: {text: the input, metadata: {output: ...}}",
        )
    return Example(input=record.text, output=str(output), reasoning=str(record.metadata.get("reasoning") or ""))


async def _nearest(
    run: Context, pool: Sequence[Example], query: str, n: int, relevance: float, embedder: str | None
) -> list[Example]:
    from gristmill.ranking import diversify

    chosen = run.embedder(embedder) if embedder else run.memory.embedder
    vectors = await chosen.embed([query, *(one.input for one in pool)])
    scores = vectors[1:] @ vectors[0]
    hits = [
        (Hit(StoredRecord(id=str(place), text=""), vector=vector), float(score))
        for place, (vector, score) in enumerate(zip(vectors[1:], scores, strict=True))
    ]
    if relevance == 1.0:
        taken = sorted(hits, key=lambda pair: -pair[1])[:n]
    else:
        taken = diversify(sorted(hits, key=lambda pair: -pair[1]), n, relevance)
    taken = sorted(taken, key=lambda pair: pair[1])
    return [pool[int(hit.record.id)] for hit, _ in taken]
