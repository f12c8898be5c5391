"""The plugin's prompts: a file each, with a version and where it comes from.

A file is `# version: N`, `# source: ...`, then turns headed `== system ==`, `== user ==` or `== assistant ==`; `{name}`
stands for what a caller fills in. Invariant: what is filled in is never read again, so a passage that holds
`{question}` or `== system ==` stays the text that it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, cast

from gristmill import Message

Role = Literal["system", "user", "assistant"]
_TURN = re.compile(r"^== (system|user|assistant) ==\n", re.MULTILINE)
_FIELD = re.compile(r"\{([a-z_]+)\}")
_FACT = re.compile(r"^# (version|source): (.+(?:\n#   .+)*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt, ready to be filled in."""

    name: str
    version: int
    source: str
    turns: tuple[tuple[Role, str], ...]

    @property
    def fields(self) -> frozenset[str]:
        """The names that `messages` must be given."""
        return frozenset(name for _, text in self.turns for name in _FIELD.findall(text))

    def messages(self, **values: str) -> tuple[Message, ...]:
        """Return the turns with every `{name}` replaced, once.

        Raises:
            KeyError: a name of the prompt is not given.
        """
        return tuple(
            Message(role=role, content=_FIELD.sub(lambda match: values[match[1]], text)) for role, text in self.turns
        )


@cache
def prompt(name: str) -> Prompt:
    """Return the prompt of that name from `_prompts/NAME.txt`."""
    text = (files(__package__) / f"{name}.txt").read_text(encoding="utf-8")
    head, *parts = _TURN.split(text)
    facts = dict(_FACT.findall(head))
    turns = tuple((cast("Role", role), body.strip()) for role, body in zip(parts[::2], parts[1::2], strict=True))
    return Prompt(name, int(facts["version"]), " ".join(facts["source"].replace("\n#", " ").split()), turns)
