"""The `ensemble` plugin: several models, prompts, adapters or recipes answer as one.

Its functions are in mixins, one for each way of combining: whole answers (`_vote_functions`), next tokens and choices
(`_decode_functions`), a judge's comparisons (`_judge_functions`), and combiners that learn from data
(`_learned_functions`). They are imported when the plugin is first used, and not for the names of its commands, which
`gristmill --help` lists. Invariant: whatever belongs to a member (its weight, its usage, its share in a fitted model)
is bound to the member's name and never to its place in a list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._ask_member import MemberSpec as MemberSpec
    from ._plugin import EnsemblePlugin as EnsemblePlugin

__all__ = ["EnsemblePlugin", "MemberSpec"]


def __getattr__(name: str) -> Any:
    if name == "EnsemblePlugin":
        from ._plugin import EnsemblePlugin

        return EnsemblePlugin
    if name == "MemberSpec":
        from ._ask_member import MemberSpec

        return MemberSpec
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
