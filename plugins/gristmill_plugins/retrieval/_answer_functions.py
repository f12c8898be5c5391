"""The reading half of the `retrieval` plugin: from a question to texts to search with, from passages to an answer.

It opens no index: every function takes passages, or makes what a search takes. Invariant: passages are never changed
in place, and what a model made up to search with is never offered as a passage.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gristmill import Context, Embedder, EmbedderRef, FunctionError, ModelRef, Passage, PluginError, function
from gristmill_plugins.retrieval._answer import NOT_FOUND, Answer, Reading
from gristmill_plugins.retrieval._answer import answer as read_and_answer
from gristmill_plugins.retrieval._check import Checked
from gristmill_plugins.retrieval._check import check as check_sentences
from gristmill_plugins.retrieval._cite import Cited
from gristmill_plugins.retrieval._cite import cite as turn_marks
from gristmill_plugins.retrieval._compress import compress as keep_sentences
from gristmill_plugins.retrieval._decompose import decompose as split_question
from gristmill_plugins.retrieval._hyde import Hypothetical, hypothesise
from gristmill_plugins.retrieval._llama_index_parts import Parts
from gristmill_plugins.retrieval._multi_query import merge as fuse_ranks
from gristmill_plugins.retrieval._multi_query import rewordings
from gristmill_plugins.retrieval._rerank import rerank as put_in_order
from gristmill_plugins.retrieval._rerank_elsewhere import rerank_elsewhere

Question = Annotated[str, "What is asked."]
Passages = Annotated[list[Passage], "Best first, as retrieval.search gives them."]
AnswerModel = Annotated[ModelRef, "The model that reads and writes."]
EmbedderName = Annotated[EmbedderRef | None, "One declared under models:, instead of WordLlama."]
Temperature = Annotated[float, Field(ge=0, le=100, description="0 takes the most likely token; higher draws.")]
Tokens = Annotated[int, Field(ge=1, le=1_000_000, description="The most tokens a text may have.")]


class AnswerFunctions:
    """Queries from questions, and answers from passages. `parts` is the plugin's."""

    parts: Parts

    @function
    async def hyde(
        self,
        question: Question,
        context: Context,
        *,
        model: AnswerModel,
        samples: Annotated[int, Field(ge=1, le=64, description="How many documents to make up.")] = 4,
        genre: Annotated[str, "What kind of text the documents are."] = "a short passage",
        temperature: Temperature = 0.7,
        max_tokens: Tokens = 80,
    ) -> Hypothetical:
        """Make up documents that answer a question, to search with (HyDE, Gao et al. 2022)."""
        return await hypothesise(
            question, context, model, n=samples, genre=genre, temperature=temperature, max_tokens=max_tokens
        )

    @function
    async def multi_query(
        self,
        question: Question,
        context: Context,
        *,
        model: AnswerModel,
        samples: Annotated[int, Field(ge=1, le=64, description="How many other wordings to draw.")] = 3,
        temperature: Temperature = 0.7,
        max_tokens: Tokens = 60,
    ) -> list[str]:
        """Return a question and other wordings of it; search with each, and `merge` what they find."""
        return await rewordings(question, context, model, n=samples, temperature=temperature, max_tokens=max_tokens)

    @function
    async def decompose(
        self,
        question: Question,
        context: Context,
        *,
        model: AnswerModel,
        most: Annotated[int, Field(ge=1, le=10, description="How many questions at most.")] = 4,
        max_tokens: Tokens = 200,
    ) -> list[str]:
        """Split a question that needs several facts into simple ones, in the order in which they build on another."""
        return await split_question(question, context, model, most=most, max_tokens=max_tokens)

    @function(pure=True)
    async def merge(
        self,
        results: Annotated[list[list[Passage]], "What several searches found, each best first."],
        *,
        top_k: Annotated[int, Field(ge=1, le=10_000, description="How many passages at most.")] = 5,
    ) -> list[Passage]:
        """Return the passages of several searches as one list, by reciprocal rank fusion (Cormack et al. 2009)."""
        return fuse_ranks(results, top_k)

    @function
    async def rerank(
        self,
        question: Question,
        passages: Passages,
        context: Context,
        *,
        model: AnswerModel,
        method: Annotated[
            Literal["likelihood", "relevance", "listwise", "cross_encoder"],
            "How likely the question is after a passage; how likely Yes is; one prompt that asks for the order; or "
            "the score of a reranker, such as bge-reranker.",
        ] = "likelihood",
        top_k: Annotated[int | None, Field(ge=1, description="Keep only the best; by default all.")] = None,
        weight: Annotated[
            float | None,
            Field(ge=0, le=1, description="The model's share in the score; default: the half, all for cross_encoder."),
        ] = None,
    ) -> list[Passage]:
        """Put passages in the order in which a model finds them relevant; `score` is then from 0 to 1."""
        return (await put_in_order(question, passages, context, model, method, weight))[:top_k]

    @function
    async def rerank_with(
        self,
        reranker: Annotated[str, "A LlamaIndex reranker registered by name, such as a cross-encoder."],
        question: Question,
        passages: Passages,
        context: Context,
        *,
        top_k: Annotated[int | None, Field(ge=1, description="Keep only the best; by default all it returns.")] = None,
    ) -> list[Passage]:
        """Put passages in the order of a reranker of your own; `score` is the reranker's."""
        part = self.parts.get(reranker, "reranker", context.settings)
        return (await rerank_elsewhere(part, reranker, question, passages))[:top_k]

    @function
    async def compress(
        self,
        question: Question,
        passages: Passages,
        context: Context,
        *,
        model: Annotated[ModelRef, "Whose tokens are counted."],
        tokens: Annotated[int, Field(ge=1, description="How many tokens the sentences may have together.")] = 512,
        embedder: EmbedderName = None,
    ) -> list[Passage]:
        """Shorten passages to the sentences that matter most for a question, within a number of tokens."""
        chosen = _embedder(context, embedder)
        return await keep_sentences(question, passages, context.model(model), tokens, chosen)

    @function
    async def answer(
        self,
        question: Question,
        passages: Passages,
        context: Context,
        *,
        model: AnswerModel,
        max_tokens: Tokens = 160,
        temperature: Temperature = 0.0,
        not_found: Annotated[str, "What to say when the passages do not hold the answer."] = NOT_FOUND,
        grounded: Annotated[
            float, Field(ge=0, le=1, description="Not found, if less of the answer's own words stand in the passages.")
        ] = 0.5,
        match: Annotated[
            bool, "Mend the marks of sentences that agree with another passage than the model cites."
        ] = True,
        order: Annotated[
            Literal["ends", "rank"], "Best passages at both ends (Liu et al. 2023), or in their order."
        ] = "ends",
        fence: Annotated[
            Literal["quoted", "plain"], "Quote every line of a passage with >, or show it as it is."
        ] = "quoted",
        context_tokens: Annotated[int | None, Field(ge=1, description="Use less of the model's window.")] = None,
    ) -> Answer:
        """Answer a question from passages, with citations; say so when they do not hold the answer."""
        if not not_found.strip():
            raise FunctionError("not_found is what to say when there is no answer, and it is empty")
        how = Reading(
            max_tokens=max_tokens, temperature=temperature, order=order, fence=fence, not_found=not_found,
            grounded=grounded, match=match, window=context_tokens, seed=context.seed,
        )  # fmt: skip
        return await read_and_answer(question, passages, context, model, how)

    @function
    async def check(
        self,
        text: Annotated[str, "What to check, such as an answer; marks like [1] are left aside."],
        passages: Annotated[list[Passage], "What the text must follow from."],
        context: Context,
        *,
        model: AnswerModel,
        embedder: EmbedderName = None,
    ) -> Checked:
        """Say of each sentence of a text whether passages support it, contradict it, or do neither, with scores."""
        return await check_sentences(text, passages, context, model, _embedder(context, embedder))

    @function(pure=True)
    async def cite(
        self,
        text: Annotated[str, "A text with marks such as [1] or [2, 3]."],
        passages: Annotated[list[Passage], "What [1], [2], ... stand for, in this order."],
        *,
        match: Annotated[bool, "Mend marks: sentences get that of the passage which has their words."] = False,
    ) -> Cited:
        """Turn the marks of a text into the passages they stand for; numbers without one are `unknown`."""
        return turn_marks(text, passages, match=match)


def _embedder(context: Context, name: str | None) -> Embedder | None:
    """Return the embedder of that name, or the default one where it is installed."""
    if name is not None:
        return context.embedder(name)
    default = context.memory.embedder
    try:
        _ = default.fingerprint  # reads its files: what is missing shows here
    except PluginError as error:
        context.note(f"by words only, not by meaning: {error}")
        return None
    return default
