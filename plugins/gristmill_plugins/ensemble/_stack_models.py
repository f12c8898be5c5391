"""Which models a stack was fitted on: the same members asked of another model are other members.

It reads digests and asks no model. Invariant: a model counts by its files, adapters included, or, where it has none, by
its fingerprint; a new version of the engine, or another length of context, is no other model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from gristmill import Context, FunctionError, Model, suggest

from ._learned_file import AGAIN
from ._stack import FittedStack

SHOWN = 12
"""Digits of a digest in a message."""


def digest_of(model: Model) -> str:
    """Return the SHA-256 of what a lock file pins of a model, or of its fingerprint where that is nothing."""
    pins = model.pins()
    text = json.dumps(dict(pins), sort_keys=True) if pins else model.fingerprint
    return hashlib.sha256(text.encode()).hexdigest()


def stacked_models(
    context: Context, members: Sequence[str], models: Mapping[str, str], model: str | None
) -> dict[str, str]:
    """Return member to the digest of its model: that of `models`, or else `model`; none where there is neither.

    Raises:
        FunctionError: `models` names nobody.
    """
    if unknown := sorted(set(models) - set(members)):
        raise FunctionError(f"models: no member is called {unknown[0]!r}", hint=suggest(unknown[0], members))
    names = {member: models.get(member, model) for member in members}
    return {member: digest_of(context.model(name).model) for member, name in names.items() if name is not None}


def check_models(fitted: FittedStack, models: Mapping[str, str]) -> None:
    """Refuse members that are asked of other models than when the stack was fitted.

    Raises:
        FunctionError: naming each, with both digests; or a member whose model is not said any more.
    """
    known = fitted.models
    if unsaid := sorted(set(known) - set(models)):
        raise FunctionError(
            f"the stack was fitted on the models of {', '.join(map(repr, unsaid))}, and this step does not say which "
            "these are",
            hint=f"write `models: {{{unsaid[0]}: NAME}}` beside `candidates`, or `model: NAME` for all",
        )
    changed = [member for member in sorted(known) if known[member] != models[member]]
    if changed:
        told = "; ".join(f"{one!r} was {known[one][:SHOWN]}, and is {models[one][:SHOWN]}" for one in changed)
        raise FunctionError(f"the stack was fitted on other models: {told}", hint=AGAIN)
