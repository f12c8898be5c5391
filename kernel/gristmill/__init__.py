"""gristmill: compose language-model techniques in a page of YAML that is checked before it runs.

    from gristmill import Kernel
    with Kernel() as kernel:
        print(kernel.recipe("quickstart").run(question="What is a gristmill?").output)

Names are imported when first used, so that `import gristmill` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gristmill._cache import MISS as MISS
    from gristmill._cache import PromptCache as PromptCache
    from gristmill._context import Context as Context
    from gristmill._context import ModelHandle as ModelHandle
    from gristmill._context import Tool as Tool
    from gristmill._errors import BudgetError as BudgetError
    from gristmill._errors import BusyError as BusyError
    from gristmill._errors import CapabilityError as CapabilityError
    from gristmill._errors import FunctionError as FunctionError
    from gristmill._errors import GristmillError as GristmillError
    from gristmill._errors import ModelError as ModelError
    from gristmill._errors import PluginError as PluginError
    from gristmill._errors import RecipeError as RecipeError
    from gristmill._errors import RunError as RunError
    from gristmill._errors import StoreError as StoreError
    from gristmill._errors import UsageError as UsageError
    from gristmill._errors import suggest as suggest
    from gristmill._events import Event as Event
    from gristmill._events import ModelCalled as ModelCalled
    from gristmill._events import ModelLoading as ModelLoading
    from gristmill._events import RunFinished as RunFinished
    from gristmill._events import RunResult as RunResult
    from gristmill._events import RunStarted as RunStarted
    from gristmill._events import StepCancelled as StepCancelled
    from gristmill._events import StepFailed as StepFailed
    from gristmill._events import StepFinished as StepFinished
    from gristmill._events import StepNoted as StepNoted
    from gristmill._events import StepResult as StepResult
    from gristmill._events import StepRetried as StepRetried
    from gristmill._events import StepStarted as StepStarted
    from gristmill._events import Token as Token
    from gristmill._kernel import Kernel as Kernel
    from gristmill._language._diagnostics import Diagnostic as Diagnostic
    from gristmill._memory import Memory as Memory
    from gristmill._memory import SqliteStore as SqliteStore
    from gristmill._models import Capability as Capability
    from gristmill._models import CollectionInfo as CollectionInfo
    from gristmill._models import CollectionName as CollectionName
    from gristmill._models import Combine as Combine
    from gristmill._models import Delta as Delta
    from gristmill._models import Embedder as Embedder
    from gristmill._models import GenerateRequest as GenerateRequest
    from gristmill._models import Hit as Hit
    from gristmill._models import Member as Member
    from gristmill._models import Model as Model
    from gristmill._models import OnDelta as OnDelta
    from gristmill._models import Relevance as Relevance
    from gristmill._models import Sampling as Sampling
    from gristmill._models import ScoreRequest as ScoreRequest
    from gristmill._models import Scores as Scores
    from gristmill._models import Session as Session
    from gristmill._models import StoredRecord as StoredRecord
    from gristmill._models import StoreQuery as StoreQuery
    from gristmill._models import ToolExchange as ToolExchange
    from gristmill._models import ToolSpec as ToolSpec
    from gristmill._models import VectorStore as VectorStore
    from gristmill._plugins import AdapterRef as AdapterRef
    from gristmill._plugins import CollectionRef as CollectionRef
    from gristmill._plugins import DoctorLine as DoctorLine
    from gristmill._plugins import EmbedderRef as EmbedderRef
    from gristmill._plugins import FunctionRef as FunctionRef
    from gristmill._plugins import ModelFile as ModelFile
    from gristmill._plugins import ModelRef as ModelRef
    from gristmill._plugins import RecipeRef as RecipeRef
    from gristmill._plugins import StoreRef as StoreRef
    from gristmill._plugins import ToolList as ToolList
    from gristmill._plugins import function as function
    from gristmill._plugins import model_provider as model_provider
    from gristmill._runnable import RunnableRecipe as RunnableRecipe
    from gristmill._values import Candidate as Candidate
    from gristmill._values import Choice as Choice
    from gristmill._values import Completion as Completion
    from gristmill._values import Message as Message
    from gristmill._values import Passage as Passage
    from gristmill._values import SemanticHit as SemanticHit
    from gristmill._values import TokenLogprob as TokenLogprob
    from gristmill._values import ToolCall as ToolCall
    from gristmill._values import Usage as Usage
    from gristmill._values import Value as Value
    from gristmill._values import Vote as Vote

_HOMES = {
    "_cache": "MISS PromptCache",
    "_context": "Context ModelHandle Tool",
    "_language._diagnostics": "Diagnostic",
    "_errors": "BudgetError BusyError CapabilityError FunctionError GristmillError ModelError PluginError RecipeError "
    "RunError StoreError UsageError suggest",
    "_events": "Event ModelCalled ModelLoading RunFinished RunResult RunStarted StepCancelled StepFailed StepFinished "
    "StepNoted StepResult StepRetried StepStarted Token",
    "_kernel": "Kernel",
    "_runnable": "RunnableRecipe",
    "_memory": "Memory SqliteStore",
    "_models": "Capability CollectionInfo CollectionName Combine Delta Embedder GenerateRequest Hit Member Model "
    "OnDelta Relevance Sampling ScoreRequest Scores Session StoreQuery StoredRecord ToolExchange ToolSpec VectorStore",
    "_plugins": "AdapterRef CollectionRef DoctorLine EmbedderRef FunctionRef ModelFile ModelRef RecipeRef StoreRef "
    "ToolList function model_provider",
    "_values": "Candidate Choice Completion Message Passage SemanticHit TokenLogprob ToolCall Usage Value Vote",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605  (one list of names, in _HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = getattr(importlib.import_module(f"gristmill.{_HOME_OF[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'gristmill' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "testing"]
