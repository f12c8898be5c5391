"""Render a model's chat template under limits of time and memory, in the engine process.

The sandbox itself is `_template`'s. Invariant: rendering ends within `RENDER_S` of processor time, with segments or
with a ModelError, or else the process does within `KILL_S` of the clock; a template can neither hang nor exhaust the
machine.
"""

from __future__ import annotations

import contextlib
import faulthandler
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from gristmill import Message, ModelError

if TYPE_CHECKING:
    from gristmill_plugins.llama._prompt import Segment
    from gristmill_plugins.llama._template import ChatTemplate

RENDER_S = 2.0
"""Of processor time: a machine with other work to do is no fault of the template's."""
KILL_S = 12.0
RENDER_BYTES = 256 << 20
STDERR = 2


class _TooSlow(BaseException):
    """Raised inside the template's code when its time is up; no `except Exception` there may swallow it."""


class PromptRenderer:
    """Messages to the segments of a prompt."""

    def __init__(self, template: str, *, bos: str, eos: str, model: str) -> None:
        self._source = template
        self._bos, self._eos = bos, eos
        self._model = model
        self._template: ChatTemplate | None = None

    def render(self, messages: Sequence[Message]) -> Sequence[Segment]:
        """Return the prompt in pieces, each the template's own text or a message's.

        Raises:
            ModelError: the template fails, or takes too much time or memory.
        """
        try:
            with _limited():
                if self._template is None:
                    from gristmill_plugins.llama._template import ChatTemplate

                    self._template = ChatTemplate(
                        self._source, bos=self._bos, eos=self._eos, name=Path(self._model).name
                    )
                return self._template.segments(messages)
        except _TooSlow as error:
            raise self._error(f"takes more than {RENDER_S:g} seconds of processor time") from error
        except MemoryError as error:
            raise self._error(f"takes more than {RENDER_BYTES >> 20} MB") from error
        except RecursionError as error:
            raise self._error("calls itself too deeply") from error

    def _error(self, what: str) -> ModelError:
        return ModelError(f"the chat template of {self._model} {what}", model=self._model, cause="file")


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Bound what runs inside in time and memory.

    The alarm needs the interpreter to come round; a single C call that never does is ended with the process.
    """

    def stop(_: int, __: FrameType | None) -> None:
        raise _TooSlow

    if not hasattr(signal, "SIGPROF"):
        yield  # Windows: the sandbox's own count of steps and seconds is all there is
        return
    before = signal.signal(signal.SIGPROF, stop)
    faulthandler.dump_traceback_later(KILL_S, exit=True, file=STDERR)
    signal.setitimer(signal.ITIMER_PROF, RENDER_S)
    try:
        with _limited_memory():
            yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGPROF, before)


@contextlib.contextmanager
def _limited_memory() -> Iterator[None]:
    """Let the process grow by `RENDER_BYTES` and no more, where the system can say how large it is."""
    if sys.platform != "linux":
        yield
        return
    import resource

    with open("/proc/self/statm", encoding="ascii") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = size + RENDER_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
