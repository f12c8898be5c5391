"""The keys of a step: in which kinds of step each may stand, what it holds, and its help.

One table: the checker reads it, and the editor's schema is written from it. It checks nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gristmill._language._types import ANY, BOOLEAN, INTEGER, NUMBER, STRING, Type, list_of, type_of, union
from gristmill._models import Sampling
from gristmill._values import Message

Work = Literal["use", "generate", "recipe"]
ALL_WORK: tuple[Work, ...] = ("use", "generate", "recipe")
MARKS: Mapping[str, Work] = {"use": "use", "recipe": "recipe", "prompt": "generate", "messages": "generate"}
"""The key that says what a step does, and the kind of work it is."""

MESSAGES = list_of(type_of(Message))
EXAMPLES = list_of(Type("record", fields={"input": STRING, "output": STRING}))
ADAPTERS = union(STRING, list_of(STRING), Type("map", item=NUMBER)).or_null()
SAMPLING: Mapping[str, Type] = {
    name: type_of(info.annotation) for name, info in Sampling.model_fields.items() if name != "stop"
} | {"stop": union(STRING, list_of(STRING))}


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a step: in which kinds of step, what it holds, and one line of help."""

    work: tuple[Work, ...]
    type: Type
    help: str
    expressions: bool = True


_GENERATE: tuple[Work, ...] = ("generate",)
KEYS: Mapping[str, Key] = {
    "use": Key(("use",), STRING, "The plugin function to call: plugin.function.", expressions=False),
    "recipe": Key(("recipe",), STRING, "Another recipe to run: a name, or a path below this file.", expressions=False),
    "with": Key(("use", "recipe"), Type("map", item=ANY), "The arguments."),
    "prompt": Key(_GENERATE, STRING, "The user's message to the model."),
    "messages": Key(_GENERATE, MESSAGES, "The whole conversation: role and content, or a list to splice in."),
    "system": Key(_GENERATE, STRING, "The system message."),
    "examples": Key(_GENERATE, EXAMPLES, "Few-shot pairs of input and output, shown as earlier turns."),
    "model": Key(("use", "generate"), STRING, "A model of this recipe; the only one by default.", expressions=False),
    "adapters": Key(("use", "generate"), ADAPTERS, "LoRA adapters: a name, a list, or name to scale."),
    "samples": Key(_GENERATE, INTEGER, "How many answers to draw; the result is then a list."),
    "seed": Key(_GENERATE, INTEGER, "Seed of the first sample; sample i uses seed + i."),
    "choices": Key(_GENERATE, list_of(STRING), "Pick one of these by the model's log-probabilities."),
    "calibrate": Key(_GENERATE, BOOLEAN, "Weigh choices against their probability for the prompt N/A."),
    "schema": Key(_GENERATE, Type("map", item=ANY), "JSON Schema, or {field: type}, that the answer must satisfy.",
                  expressions=False),
    "top_logprobs": Key(_GENERATE, INTEGER, "Return log-probabilities, with this many alternatives."),
    **{name: Key(_GENERATE, kind, Sampling.model_fields[name].description or "") for name, kind in SAMPLING.items()},
    "if": Key(ALL_WORK, BOOLEAN, "Run only when true; a skipped step is null."),
    "for_each": Key(ALL_WORK, list_of(ANY), "Run once for each item; results in the same order."),
    "as": Key(ALL_WORK, STRING, "What the item is called; `item` by default.", expressions=False),
    "concurrency": Key(ALL_WORK, INTEGER, "How many items run at once.", expressions=False),
    "repeat": Key(ALL_WORK, Type("record", fields={"until": BOOLEAN, "max": INTEGER}), "Run until true, at most max."),
    "retry": Key(ALL_WORK, Type("record", fields={"attempts": INTEGER, "backoff_s": NUMBER}), "Try again on failure.",
                 expressions=False),
    "timeout_s": Key(ALL_WORK, NUMBER, "Seconds before the step fails; per item with for_each.", expressions=False),
    "on_error": Key(ALL_WORK, ANY, "fail, skip, or {value: ...}."),
    "needs": Key(ALL_WORK, union(STRING, list_of(STRING)), "Steps to wait for though nothing is read from them.",
                 expressions=False),
    "cache": Key(ALL_WORK, union(Type("string", literals=("auto", "off", "refresh")),
                                 Type("record", fields={"semantic": NUMBER})),
                 "Use the prompt cache, or not; {semantic: 0.97} also for a prompt that means the same.",
                 expressions=False),
}  # fmt: skip
