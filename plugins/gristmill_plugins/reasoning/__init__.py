"""The `reasoning` plugin: what papers found to make models reason better, as steps.

    chain_of_thought, plan_and_solve, least_to_most     reason before answering
    self_refine, reflect                                judge, and do it better
    tree_of_thought                                     search among thoughts
    react                                               call tools
    extract_answer, select_examples, calculate, prompt  the parts between

Each technique names its paper in its module and in its prompt, a file under `prompts` whose parts a recipe may replace.
It knows no other plugin: models, memory, tools and recipes are reached through the context. Invariant: every result
that answers a question is a `Candidate`, so that votes, ranks and fusions take it as it is.
"""

from __future__ import annotations

from gristmill_plugins.reasoning._calculate import CalculateFunctions
from gristmill_plugins.reasoning._chains import ChainFunctions
from gristmill_plugins.reasoning._extract import ExtractFunctions
from gristmill_plugins.reasoning._least_to_most import LeastToMostFunctions
from gristmill_plugins.reasoning._prompts import PromptFunctions
from gristmill_plugins.reasoning._react import ReactFunctions
from gristmill_plugins.reasoning._refine import RefineFunctions
from gristmill_plugins.reasoning._reflect import ReflectFunctions
from gristmill_plugins.reasoning._select import SelectFunctions
from gristmill_plugins.reasoning._tree import TreeFunctions

__all__ = ["ReasoningPlugin"]


class ReasoningPlugin(
    ChainFunctions,
    LeastToMostFunctions,
    RefineFunctions,
    ReflectFunctions,
    TreeFunctions,
    ReactFunctions,
    ExtractFunctions,
    SelectFunctions,
    CalculateFunctions,
    PromptFunctions,
):
    """Makes models reason: chains of thought, trees, refinement, reflection, and agents with tools."""

    plugin_api = 1
