"""The `retrieval` plugin: a folder of documents becomes passages, and passages become answers that cite them.

    steps:
      passages:
        use: retrieval.search
        with: {documents: "${inputs.documents}", query: "${inputs.question}"}

Everything is local: nothing is downloaded, LlamaIndex's defaults are never used, and the index lies in the data folder.
`make_llm` and `make_embedding` are for plugins of your own: a model and an embedder of gristmill's for LlamaIndex code.
LlamaIndex is imported when a file has to be split, or is a PDF or DOCX; a search of what is indexed does without.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util

from gristmill import DoctorLine
from gristmill_plugins.retrieval._answer_functions import AnswerFunctions
from gristmill_plugins.retrieval._index_functions import IndexFunctions
from gristmill_plugins.retrieval._llama_index_models import make_embedding, make_llm
from gristmill_plugins.retrieval._readers import INSTALL, READERS

__all__ = ["RetrievalPlugin", "make_embedding", "make_llm"]

_NEEDED = ("llama_index", "pypdf", "docx2txt")


class RetrievalPlugin(IndexFunctions, AnswerFunctions):
    """Documents become passages: indexed, searched, answered from and checked."""

    plugin_api = 1

    def doctor(self) -> list[DoctorLine]:
        """Say whether documents of every kind can be read."""
        missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            told = f"{', '.join(missing)} not installed: long texts, PDF and DOCX cannot be indexed"
            return [DoctorLine(status="note", what="documents", detail=told, mend=INSTALL)]
        version = importlib.metadata.version("llama-index-core")
        return [DoctorLine(status="ok", what="documents", detail=f"llama-index-core {version}: {' '.join(READERS)}")]
