"""The `wordllama` plugin: WordLlama's static embeddings, offline, from the files inside its package.

The package's own module is never imported: importing it installs a handler on the root logger, and its loader looks
for the tokenizer where the package does not ship it. Its two files are read instead, and pooled as it does: the mean
of the token vectors, L2-normalised (equal to its own `embed(norm=True)` to the last bits of a float32). Invariant:
nothing is fetched, and the same files give the same fingerprint and the same vectors.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.metadata
import importlib.util
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from gristmill import DoctorLine, Embedder, PluginError, model_provider

if TYPE_CHECKING:
    import numpy as np

INSTALL = 'pip install "gristmill[memory]"'
DIM = 256
WEIGHTS = "weights/l2_supercat_256.safetensors"
TOKENIZER = "tokenizers/l2_supercat_tokenizer_config.json"
_NEEDED = ("wordllama", "tokenizers", "safetensors", "numpy")
_INLINE = 16
"""Texts that are embedded on the loop itself: one takes 0.03 to 0.3 ms, about what handing it to a thread costs."""


class WordLlamaEmbedder:
    """256-dimensional static embeddings; `dim` keeps the first ones only, which costs little quality."""

    outruns_cache = True
    """A text takes 0.03 to 0.3 ms, a look into the prompt cache about as long."""

    def __init__(self, dim: int = DIM) -> None:
        self.dim = dim
        self._lock = threading.Lock()
        self._loaded: tuple[Any, np.ndarray] | None = None

    @cached_property
    def _files(self) -> tuple[Path, Path]:
        missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            raise PluginError(f"WordLlama's embeddings need {', '.join(missing)}", hint=INSTALL)
        spec = importlib.util.find_spec("wordllama")
        folder = Path((spec.submodule_search_locations or [""])[0]) if spec else Path()
        files = folder / WEIGHTS, folder / TOKENIZER
        for file in files:
            if not file.is_file():
                raise PluginError(f"the wordllama package has no {file.name}", hint=f"{INSTALL} --force-reinstall")
        return files

    @cached_property
    def fingerprint(self) -> str:
        """Version, dimensions and the digest of both files, 18 MB: some 50 ms, once."""
        digest = hashlib.sha256()
        for file in self._files:
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
        return f"wordllama {importlib.metadata.version('wordllama')} {self.dim}d {digest.hexdigest()[:16]}"

    async def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return `(len(texts), dim) float32`, rows L2-normalised; a text without tokens has the row 0."""
        if self._loaded is not None and len(texts) <= _INLINE and sum(map(len, texts)) < 4000:
            return self.vectors(texts)
        return await asyncio.to_thread(self.vectors, texts)

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Return what `embed` does, at once."""
        import numpy as np

        tokenizer, table = self._load()
        rows = np.zeros((len(texts), self.dim), np.float32)
        for row, text in zip(rows, texts, strict=True):
            tokens = tokenizer.encode(text, add_special_tokens=False).ids
            if tokens:
                np.sum(table[tokens], axis=0, out=row)
                row /= np.linalg.norm(row) or 1.0
        return rows

    def _load(self) -> tuple[Any, np.ndarray]:
        with self._lock:
            if self._loaded is None:
                weights, tokenizer_file = self._files  # says what is missing, before an import fails
                import numpy as np
                from safetensors.numpy import load_file
                from tokenizers import Tokenizer

                tokenizer = Tokenizer.from_file(str(tokenizer_file))
                tokenizer.no_padding()
                tokenizer.no_truncation()
                table = load_file(str(weights))["embedding.weight"][:, : self.dim]
                self._loaded = tokenizer, np.ascontiguousarray(table, dtype=np.float32)
            return self._loaded


class WordLlamaPlugin:
    """WordLlama's static embeddings: small, fast, offline."""

    @model_provider
    def wordllama(
        self, *, dim: Annotated[int, Field(ge=16, le=DIM, description="How many dimensions to keep.")] = DIM
    ) -> Embedder:
        """Static embeddings of 256 dimensions, from the wordllama package, without a network."""
        return WordLlamaEmbedder(dim)

    def doctor(self) -> list[DoctorLine]:
        """Say whether the embedder can be used."""
        try:
            return [DoctorLine(status="ok", what="embeddings", detail=WordLlamaEmbedder().fingerprint)]
        except PluginError as error:
            return [DoctorLine(status="note", what="embeddings", detail=error.message, mend=error.hint or "")]
