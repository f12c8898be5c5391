"""A question that needs several facts, split into questions that need one each.

It answers none of them. Invariant: there is always at least one question; when the model offers nothing usable, it
is the one that was asked.
"""

from __future__ import annotations

from typing import Any

from gristmill import Context, FunctionError, GenerateRequest, Sampling
from gristmill_plugins.retrieval._prompts import prompt

MOST_CHARS = 300
"""A question's length in the schema, so that a small model that never ends one still ends the list."""


async def decompose(question: str, context: Context, model: str, *, most: int, max_tokens: int) -> list[str]:
    """Return up to `most` simple questions, in the order in which they build on one another."""
    request = GenerateRequest(
        messages=prompt("decompose").messages(question=question),
        sampling=Sampling(max_tokens=max_tokens),
        json_schema=_schema(most),
    )
    try:
        (completion,) = await context.model(model).generate(request)
    except FunctionError as error:  # cut off: the model did not come to the end of its list
        context.note(f"the question was not split: {error}")
        return [question]
    parts = (" ".join(str(part).split()) for part in completion.value["questions"])
    return list(dict.fromkeys(part for part in parts if part)) or [question]


def _schema(most: int) -> dict[str, Any]:
    one = {"type": "string", "minLength": 1, "maxLength": MOST_CHARS}
    return {
        "type": "object",
        "properties": {"questions": {"type": "array", "items": one, "minItems": 1, "maxItems": most}},
        "required": ["questions"],
        "additionalProperties": False,
    }
