"""`least_to_most`: take a question apart, answer the parts in order, and answer the whole with them in sight.

Zhou et al. 2022. The list of parts is decoded under a schema, so it is always a list. Invariant: each part is asked
with all earlier parts and their answers before it, in one conversation.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gristmill import Candidate, Context, Message, ModelRef, Value, function
from gristmill_plugins.reasoning._asking import (
    Given,
    MaxTokens,
    Question,
    assistant,
    given_text,
    user,
    write,
)
from gristmill_plugins.reasoning._chains import AnswerKind
from gristmill_plugins.reasoning._extract import extract
from gristmill_plugins.reasoning._prompts import Replaced, load

LEAST_PART = 12
MOST_PART = 200
"""Characters of one part of a question; without the least, a small model lists "A" and "B"."""


class PartAnswer(Value):
    """One part of a question and what the model answered."""

    question: str
    answer: str


class Solution(Candidate):
    """The answer, and the parts that led to it. `text` is the answer, or all of the last turn where none was found."""

    reasoning: str
    """What the model wrote in the last turn."""
    parts: tuple[PartAnswer, ...]
    prompt: str = ""


class LeastToMostFunctions:
    """Takes questions apart."""

    @function
    async def least_to_most(
        self,
        question: Question,
        run: Context,
        *,
        model: ModelRef,
        context: Given = None,
        max_parts: Annotated[int, Field(ge=1, le=20, description="The most parts that the question is cut into.")] = 4,
        kind: AnswerKind = "auto",
        max_tokens: MaxTokens = 160,
        prompts: Replaced = None,
    ) -> Solution:
        """Take a question apart, answer the simpler questions in order, and then the whole."""
        prompt = load("least_to_most", prompts)
        handle, text = run.model(model), given_text(prompt, context)
        schema = {
            "type": "object",
            "properties": {
                "parts": {
                    "type": "array", "minItems": 1, "maxItems": max_parts,
                    "items": {"type": "string", "minLength": LEAST_PART, "maxLength": MOST_PART},
                }
            },
            "required": ["parts"],
        }  # fmt: skip
        asked = [user(text, prompt.fill("decompose", question=question))]
        # Every character may be four tokens, and JSON adds few: the list is never cut off.
        listed = await write(run, handle, asked, max_tokens=4 * MOST_PART * max_parts + 64, schema=schema)
        parts = list(dict.fromkeys(part.strip() for part in listed[0].value["parts"] if part.strip()))
        messages: list[Message] = []
        answered: list[PartAnswer] = []
        for part in parts:
            first = user(text, prompt.fill("ask", question=question, part=part))
            messages.append(user(prompt.fill("next", part=part)) if messages else first)
            answer = (await write(run, handle, messages, max_tokens=max_tokens))[0].text.strip()
            messages.append(assistant(answer))
            answered.append(PartAnswer(question=part, answer=answer))
            run.note(f"part {len(answered)}: {part} -> {answer}")
        last = user(text if not messages else None, prompt.fill("last", question=question))
        written = (await write(run, handle, [*messages, last], max_tokens=max_tokens))[0].text.strip()
        found = extract(written, kind)
        return Solution(
            text=found.text if found.found else written,
            reasoning=written,
            found=found.found,
            parts=tuple(answered),
            prompt=prompt.label,
        )
