"""The `ensemble` plugin: several models, prompts, adapters or recipes answer as one.

Its functions are in mixins, one for each way of combining: whole answers (`_vote_functions`), next tokens and choices
(`_decode_functions`), a judge's comparisons (`_judge_functions`), and combiners that learn from data
(`_learned_functions`). Invariant: whatever belongs to a member (its weight, its usage, its share in a fitted model) is
bound to the member's name and never to its place in a list.
"""

from __future__ import annotations

from ._ask_member import MemberSpec
from ._decode_functions import _DecodeFunctions
from ._judge_functions import _JudgeFunctions
from ._learned_functions import _LearnedFunctions
from ._vote_functions import _VoteFunctions

__all__ = ["EnsemblePlugin", "MemberSpec"]


class EnsemblePlugin(_VoteFunctions, _DecodeFunctions, _JudgeFunctions, _LearnedFunctions):
    """Several models, prompts, adapters or recipes answer as one."""

    plugin_api = 1
