"""Jinja2 for templates nobody here wrote: no attribute reaches Python, and time, memory and output are bounded.

It knows nothing about chats. Chat templates are written for Hugging Face's environment (trim_blocks, lstrip_blocks,
loop controls, `raise_exception`, `strftime_now`, `tojson`), and that is what they get, less what none of them needs.
Invariant: whatever the source, `render` returns a text or raises TemplateFailure, within MAX_STEPS steps and
MAX_SECONDS of processor time; no operation allocates more than about MAX_TEXT characters or MAX_ITEMS values at once.

How: the parsed template is rewritten before it is compiled. Every loop's sequence, literal, filter result and printed
piece passes through this module, which counts; operators and calls do so through Jinja's own sandbox hooks.
"""

from __future__ import annotations

import itertools
import json
import re
import time
import traceback
import types
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateSyntaxError, Undefined, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.ext import loopcontrols as LoopControls
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MAX_SOURCE = 256 << 10
MAX_TEXT = 1 << 20
"""Characters of any one text, and of all that is printed. The messages' own texts are not among them."""
MAX_ITEMS = 100_000
MAX_STEPS = 400_000
MAX_SECONDS = 5.0
MAX_BITS = 256
_FILE = "<chat template>"

_FILTERS = """
abs capitalize count d default dictsort first float int items join last length list lower map max min reject
rejectattr replace reverse round safe select selectattr sort string title tojson trim unique upper
"""
_GLOBALS = frozenset({"range", "dict", "namespace"})
_TEXT_METHODS = """
capitalize count endswith find index isalnum isalpha isdigit islower isnumeric isspace isupper join lower lstrip
partition removeprefix removesuffix replace rfind rindex rpartition rsplit rstrip split splitlines startswith strip
swapcase title upper
"""
_METHODS: tuple[tuple[type, frozenset[str]], ...] = (
    (str, frozenset(_TEXT_METHODS.split())),
    (dict, frozenset({"get", "items", "keys", "values"})),
    (list, frozenset({"count", "index"})),
    (tuple, frozenset({"count", "index"})),
)
_REFUSED_NODES = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends, nodes.Block)


class TemplateFailure(Exception):
    """A template that cannot be used, or refused its input. `line` is the template's own."""

    def __init__(self, reason: str, line: int | None, *, by_template: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line
        self.by_template = by_template
        """It called `raise_exception` itself, so `reason` is its author's text."""


class _Raised(Exception):
    """The template called `raise_exception`."""


class SandboxedTemplate:
    """One compiled template. Not safe to render from two threads at once."""

    def __init__(self, source: str) -> None:
        if len(source) > MAX_SOURCE:
            raise TemplateFailure(f"it is {len(source):,} characters long; {MAX_SOURCE:,} are read", None)
        self._environment = _Environment()
        try:
            tree = self._environment.parse(source, filename=_FILE)
            self.names = frozenset(name.name for name in tree.find_all(nodes.Name))
            _refuse_nodes(tree)
            code = self._environment.compile(_Rewriter().rewrite(tree), filename=_FILE)
        except TemplateSyntaxError as error:
            raise TemplateFailure(error.message or "it has a syntax error", error.lineno) from None
        except (SyntaxError, RecursionError, MemoryError, ValueError, OverflowError) as error:
            raise TemplateFailure(f"it cannot be compiled: {error or type(error).__name__}", None) from None
        self._template = self._environment.template_class.from_code(
            self._environment, code, self._environment.make_globals(None)
        )

    def render(self, values: Mapping[str, Any], now: datetime) -> str:
        """Return the rendered text.

        Raises:
            TemplateFailure: it failed, took too long, or reached for what it may not have.
        """
        self._environment.begin(now)
        context = self._template.new_context(dict(values))
        try:
            return "".join(self._template.root_render_func(context))
        except Exception as error:  # noqa: BLE001  (a template may make any of Python's operations fail, in any way)
            raise TemplateFailure(_words(error), self._line(error), by_template=isinstance(error, _Raised)) from None

    def _line(self, error: Exception) -> int | None:
        lines = [
            number for frame, number in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == _FILE
        ]
        return self._template.get_corresponding_lineno(lines[-1]) if lines else None


def _words(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it calls itself without end"
    return str(error) or type(error).__name__


def _refuse_nodes(tree: nodes.Template) -> None:
    for node in tree.find_all(_REFUSED_NODES):
        raise TemplateSyntaxError(f"'{type(node).__name__.lower()}' is not allowed in a chat template", node.lineno)


class _Generation(Extension):
    """`{% generation %}` marks the assistant's words for training; for a prompt it is its body."""

    tags = {"generation"}  # Jinja's own declaration

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.If(nodes.Const(True), body, [], [], lineno=line)


class _Rewriter:
    """Puts the counting in: see the module's docstring."""

    def rewrite(self, node: nodes.Template) -> nodes.Template:
        self._children(node)
        return node

    def _children(self, node: nodes.Node) -> None:
        for name in node.fields:
            value = getattr(node, name)
            if isinstance(value, list):
                setattr(node, name, [self._replaced(each, node) for each in value])
            elif isinstance(value, nodes.Node):
                setattr(node, name, self._replaced(value, node))

    def _replaced(self, node: Any, parent: nodes.Node) -> Any:
        if not isinstance(node, nodes.Node):
            return node
        self._children(node)
        if isinstance(node, nodes.For):
            node.iter = self._through("each_", node.iter)
        elif isinstance(node, nodes.TemplateData):
            return nodes.Const(node.data, lineno=node.lineno)  # so that `finalize` counts it on every turn
        elif isinstance(node, nodes.Concat):
            node.nodes = [self._through("text_", part) for part in node.nodes]
            return self._through("bounded_", node)
        elif self._makes_values(node, parent):
            return self._through("bounded_", node)
        return node

    @staticmethod
    def _makes_values(node: nodes.Node, parent: nodes.Node) -> bool:
        if isinstance(node, nodes.Filter):
            return not (isinstance(parent, nodes.FilterBlock) and parent.filter is node)
        if isinstance(node, nodes.Getitem):
            return isinstance(node.arg, nodes.Slice)
        return isinstance(node, nodes.List | nodes.Dict) or (isinstance(node, nodes.Tuple) and node.ctx == "load")

    @staticmethod
    def _through(name: str, node: nodes.Node) -> nodes.Filter:
        return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # nothing is evaluated before `begin` has set the bounds
            finalize=_finalize,
            extensions=[LoopControls, _Generation],
        )
        self.filters = {name: self.filters[name] for name in _FILTERS.split() if name in self.filters}
        self.filters |= {"each_": self._each, "text_": self._text, "bounded_": self._bounded, "join": self._join}
        self.filters |= {"replace": self._replace, "string": self._text, "safe": self._text, "tojson": self._tojson}
        self.globals = {name: self.globals[name] for name in _GLOBALS}
        self.globals |= {"raise_exception": _raise, "strftime_now": self._strftime_now}
        self.begin(datetime.min)

    def begin(self, now: datetime) -> None:
        self._now = now
        self._steps = 0
        self._printed = 0
        self._deadline = time.thread_time() + MAX_SECONDS

    # -- counting ----------------------------------------------------------------------------------------------

    def _charge(self, steps: int) -> None:
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise SecurityError(f"it takes more than {MAX_STEPS:,} steps")
        if time.thread_time() > self._deadline:
            raise SecurityError(f"it takes more than {MAX_SECONDS:g} seconds of processor time")

    def _bounded(self, value: Any) -> Any:
        """Return the value, a list where it was a generator; refuse it when it is too large."""
        if isinstance(value, types.GeneratorType | map | filter | zip | reversed | enumerate):
            value = list(itertools.islice(value, MAX_ITEMS + 1))
        self._charge(self._weigh(value))
        return value

    def _weigh(self, value: Any) -> int:
        # A list of lists of lists can be exponentially larger than what holds it: every reference counts.
        weight, waiting = 0, [value]
        while waiting:
            item = waiting.pop()
            weight += 1
            if isinstance(item, str):
                if len(item) > MAX_TEXT:
                    raise SecurityError(f"it makes a text of more than {MAX_TEXT:,} characters")
                weight += len(item) // 64
            elif isinstance(item, int) and item.bit_length() > MAX_BITS:
                raise SecurityError(f"it makes a number of more than {MAX_BITS} bits")
            elif isinstance(item, Mapping):
                waiting.extend(itertools.chain.from_iterable(item.items()))
            elif isinstance(item, list | tuple):
                waiting.extend(item)
            elif isinstance(item, Namespace) and item is not value:
                raise SecurityError("it puts a namespace into a list")
            if weight + len(waiting) > MAX_ITEMS:
                raise SecurityError(f"it makes a list of more than {MAX_ITEMS:,} values")
        return weight

    def _each(self, sequence: Iterable[Any]) -> list[Any]:
        found = list(itertools.islice(sequence, MAX_ITEMS + 1))
        self._charge(len(found) + 1)
        return found

    def _text(self, value: Any) -> str:
        """Return what a value prints as; objects, whose text nobody bounded, print as nothing but an error."""
        if isinstance(value, Undefined):
            return str(value)
        if value is not None and not isinstance(value, str | int | float | list | tuple | Mapping):
            raise SecurityError(f"it prints a {type(value).__name__}")
        self._charge(self._weigh(value))
        return value if isinstance(value, str) else str(value)

    def print_(self, value: Any) -> str:
        text = self._text(value)
        self._printed += len(text)
        if self._printed > MAX_TEXT:
            raise SecurityError(f"it prints more than {MAX_TEXT:,} characters")
        return text

    # -- operators, calls and attributes: Jinja's hooks --------------------------------------------------------

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or (operator == "%" and isinstance(left, str)):
            raise SecurityError(f"it uses the operator '{operator}'")
        if operator == "*" and not (isinstance(left, int | float) and isinstance(right, int | float)):
            count, repeated = (left, right) if isinstance(left, int) else (right, left)
            if not isinstance(count, int) or not isinstance(repeated, str) or count * len(repeated) > MAX_TEXT:
                raise SecurityError("it multiplies what is not a number")
        return self._bounded(super().call_binop(context, operator, left, right))

    def call(self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        self._charge(1)
        if isinstance(owner, str) and name == "replace":
            return self._replace(owner, *args)
        if isinstance(owner, str) and name == "join":
            return self._join(args[0] if args else (), owner)
        return self._bounded(super().call(__context, __obj, *args, **kwargs))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if attr.startswith("_"):
            return False
        if isinstance(obj, Namespace | LoopContext | Macro):
            return super().is_safe_attribute(obj, attr, value)
        return any(isinstance(obj, owner) and attr in allowed for owner, allowed in _METHODS)

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        # Stock Jinja returns an undefined value here, which prints as nothing: failing open.
        raise SecurityError(f"it reaches for the attribute {attribute!r} of a {type(obj).__name__}")

    def wrap_str_format(self, value: Any) -> None:
        # Stock Jinja hands out a guarded `str.format`, which still pads to any width.
        if isinstance(getattr(value, "__self__", None), str) and value.__name__ in ("format", "format_map"):
            self.unsafe_undefined(value.__self__, value.__name__)

    # -- filters whose result can be much larger than what they are given ---------------------------------------

    def _replace(self, text: Any, old: str, new: str, count: int = -1) -> str:
        text, old, new = self._text(text), self._text(old), self._text(new)
        if len(text) + text.count(old) * len(new) > MAX_TEXT:
            raise SecurityError(f"it makes a text of more than {MAX_TEXT:,} characters")
        self._charge(1 + len(text) // 64)
        return str(text).replace(old, new, -1 if count is None else count)

    def _join(self, items: Iterable[Any], separator: str = "", attribute: str | None = None) -> str:
        found = [self._text(item if attribute is None else self.getitem(item, attribute)) for item in self._each(items)]
        separator = self._text(separator)
        if sum(map(len, found)) + len(found) * len(separator) > MAX_TEXT:
            raise SecurityError(f"it makes a text of more than {MAX_TEXT:,} characters")
        return separator.join(found)

    def _tojson(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        # Hugging Face's tojson, not Jinja's: nothing is escaped for HTML.
        self._bounded(value)
        if indent is not None and not (isinstance(indent, int) and 0 <= indent <= 16):
            raise SecurityError(f"it indents by {indent!r}")
        if separators is not None and sum(len(self._text(separator)) for separator in separators) > 16:
            raise SecurityError("it separates with long texts")
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def _strftime_now(self, form: str) -> str:
        # C's strftime pads to any width it is asked for: only plain directives pass.
        if not isinstance(form, str) or not re.fullmatch(r"(?:[^%]|%-?[a-zA-Z%]){0,200}", form):
            raise SecurityError(f"it formats the date as {form!r:.60}")
        return self._now.strftime(form)


@pass_context
def _finalize(context: Context, value: Any) -> str:
    environment = context.environment
    assert isinstance(environment, _Environment)
    return environment.print_(value)


def _raise(message: Any = "") -> NoReturn:
    raise _Raised(str(message)[:2000])


__all__ = ["SandboxedTemplate", "TemplateFailure"]
