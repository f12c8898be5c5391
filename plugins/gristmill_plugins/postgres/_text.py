"""Text that PostgreSQL can keep: it has no NUL character.

Invariant: `unseal(seal(text)) == text` for every text, and texts that differ still do.
"""

from __future__ import annotations

_MARK = "\ue000"  # of the private use area: hardly any text has it
_NUL, _ITSELF = _MARK + "0", _MARK + "1"


def seal(text: str) -> str:
    """Return `text` without NUL characters."""
    if _MARK not in text and "\x00" not in text:
        return text
    return text.replace(_MARK, _ITSELF).replace("\x00", _NUL)


def unseal(text: str) -> str:
    """Return what was sealed."""
    return text.replace(_NUL, "\x00").replace(_ITSELF, _MARK) if _MARK in text else text
