"""Which extra of gristmill brings a library that is missing, as its own metadata say. It installs nothing."""

from __future__ import annotations

import importlib.metadata
import re
from collections import Counter

MODULES = {
    "absl": "rouge-score", "llama_cpp": "llama-cpp-python", "llama_index": "llama-index-core", "nltk": "rouge-score",
    "sklearn": "scikit-learn",
}  # fmt: skip
"""Modules whose distribution has another name."""
REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+).*;\s*extra\s*==\s*['\"]([a-z-]+)['\"]")


def extra_of(module: str) -> str | None:
    """Return the extra that installs a module, the smallest one; None if gristmill needs no such."""
    top = module.partition(".")[0]
    wanted = MODULES.get(top, top).replace("_", "-")
    matches = filter(None, map(REQUIREMENT.match, importlib.metadata.requires("gristmill") or ()))
    pairs = [(match[1].lower().replace("_", "-"), match[2]) for match in matches]
    sizes = Counter(extra for _, extra in pairs)
    return min(
        (extra for name, extra in pairs if name == wanted), key=lambda extra: (sizes[extra], extra), default=None
    )
