"""HyDE: search with what an answer would look like, instead of with the question (Gao et al. 2022).

It searches nothing. Invariant: the question itself is always the first of the texts, so that a search that takes one
text can never be worse off than without.
"""

from __future__ import annotations

from gristmill import Context, GenerateRequest, Sampling, Value
from gristmill_plugins.retrieval._prompts import prompt


class Hypothetical(Value):
    """A question with documents that a model made up for it: to search with, never to answer from."""

    text_field = "text"

    question: str
    documents: tuple[str, ...]
    texts: tuple[str, ...]
    """The question and then the documents: what the paper embeds and averages."""
    text: str
    """All of it as one query. With a bag-of-words embedding such as WordLlama's, the vector of it is their mean."""


async def hypothesise(
    question: str, context: Context, model: str, *, n: int, genre: str, temperature: float, max_tokens: int
) -> Hypothetical:
    """Write `n` hypothetical documents in one batch; equal ones are kept once.

    The paper draws 8 at temperature 0.7 and averages their vectors with the question's. Documents that were cut off
    at `max_tokens` serve as well: a vector needs no last sentence.
    """
    request = GenerateRequest(
        messages=prompt("hyde").messages(question=question, genre=genre),
        sampling=Sampling(temperature=temperature, max_tokens=max_tokens),
        seed=context.seed,
        sample_indices=tuple(range(n)),
    )
    completions = await context.model(model).generate(request)
    documents = tuple(dict.fromkeys(text for completion in completions if (text := completion.text.strip())))
    return Hypothetical(
        question=question, documents=documents, texts=(question, *documents), text="\n".join([question, *documents])
    )
