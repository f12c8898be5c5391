"""The plugin's class: all functions of `ensemble`, from a mixin for each way of combining."""

from __future__ import annotations

from ._decode_functions import _DecodeFunctions
from ._judge_functions import _JudgeFunctions
from ._learned_functions import _LearnedFunctions
from ._vote_functions import _VoteFunctions


class EnsemblePlugin(_VoteFunctions, _DecodeFunctions, _JudgeFunctions, _LearnedFunctions):
    """Several models, prompts, adapters or recipes answer as one."""

    plugin_api = 1
