"""What the author of a VectorStore needs, so that every store means the same by a filter, a word and an embedder.

    from gristmill.stores import batch_of, conditions_of, facts_of, query_words, same_embedder, unit_rows, words_of

It keeps nothing. Invariant: a store that uses these finds the same records as the kernel's own, for any filter and any
text; what is given is compared as data, and never becomes part of a query language.
"""

from __future__ import annotations

from gristmill._memory._rules import Batch, batch_of, same_dim, same_embedder, unit_rows
from gristmill._memory._tests import MOST_VALUES, Condition, conditions_of, fact_of, facts_of
from gristmill._memory._threads import in_thread
from gristmill._memory._tokens import query_words, words_of

__all__ = [
    "MOST_VALUES",
    "Batch",
    "Condition",
    "batch_of",
    "conditions_of",
    "fact_of",
    "facts_of",
    "in_thread",
    "query_words",
    "same_dim",
    "same_embedder",
    "unit_rows",
    "words_of",
]
