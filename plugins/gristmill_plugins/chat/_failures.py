"""What went wrong with a server, said in one bounded, printable line that quotes the server itself.

It sends nothing. Invariant: no text of a server reaches an error unbounded, with control characters, or with the key
that it was sent.
"""

from __future__ import annotations

import email.utils
import json
import random
import time
from typing import Any

from gristmill import ModelError

MOST_QUOTED = 300
MOST_PAUSE_S = 60.0
"""Rather than wait longer than this for a server that asks for it, the call fails and says so."""
BUSY = frozenset({429, 503, 529})
ILL = frozenset({408, 500, 502, 504})


class Refused(ModelError):
    """A server's refusal of one request. `status` is its HTTP status."""

    def __init__(self, message: str, *, model: str, status: int, hint: str | None = None) -> None:
        super().__init__(message, model=model, cause="request", hint=hint)
        self.status = status


def printable(text: str, most: int = MOST_QUOTED) -> str:
    """Return text as one line without control characters, cut to a length."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * most]).split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def server_message(body: bytes) -> str:
    """Return what a server says in the body of an error: the forms of OpenAI, vLLM, Ollama, FastAPI, or as it is."""
    text = body.decode("utf-8", "replace")
    try:
        return message_in(json.loads(text)) or text
    except (ValueError, RecursionError):
        return text


def message_in(answer: Any) -> str | None:
    """Return the message in an error's JSON, or None."""
    for key in ("error", "message", "detail"):
        part = answer.get(key) if isinstance(answer, dict) else None
        if isinstance(part, str) and part:
            return part
        if isinstance(part, dict) and (inner := message_in(part)):
            return inner
        if part:
            return json.dumps(part)
    return None


def retry_after_s(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for, in either of its forms."""
    if value is None:
        return None
    try:
        return max(0.0, float(value)) if value.strip().isdigit() else _until(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _until(date: str) -> float:
    return max(0.0, email.utils.parsedate_to_datetime(date).timestamp() - time.time())


def pause_s(attempt: int, asked_s: float | None) -> float:
    """Return how long to wait before the next try: exponential with full jitter, and never less than asked."""
    # https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/: "full jitter".
    backoff_s = random.uniform(0, min(30.0, 0.5 * 2**attempt))
    return backoff_s if asked_s is None else asked_s + backoff_s / 10
