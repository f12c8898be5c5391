"""The `retrieval` plugin: a folder of documents becomes passages, and passages become answers that cite them.

    steps:
      passages:
        use: retrieval.search
        with: {documents: "${inputs.documents}", query: "${inputs.question}"}

Everything is local: nothing is downloaded, LlamaIndex's defaults are never used, and the index lies in the data folder.
LlamaIndex is imported when a file has to be split, or is a PDF or DOCX; a search of what is indexed does without.
"""

from __future__ import annotations

from gristmill_plugins.retrieval._answer_functions import AnswerFunctions
from gristmill_plugins.retrieval._index_functions import IndexFunctions


class RetrievalPlugin(IndexFunctions, AnswerFunctions):
    """Documents become passages: indexed, searched, answered from and checked."""

    plugin_api = 1
