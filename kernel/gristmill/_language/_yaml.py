"""YAML as recipes use it: nodes that know where they stand, under the YAML 1.2 core schema.

It works on parser events, never on loaded values: no tag constructs anything, no merge key merges, an alias is the
anchored node itself. It knows nothing of recipes. Invariants: time and memory are bounded by the size of the file
(1 MB, 50 levels, and aliases that cannot multiply); every node's `start` and `end` are offsets into the decoded
text; `locate` maps an offset inside a scalar's value back to the file exactly, white space inside folds aside.

It is long because nodes, bounds and places are made in one walk over the events.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gristmill._language._diagnostics import Diagnostic, Severity, SourceText

MOST_BYTES = 1_000_000
MOST_DEPTH = 50
MOST_EXPANSION = 50_000
"""Nodes that aliases may add in all; an alias bomb adds millions."""
MOST_INTEGER = 10**18
MOST_REPORTED = 200
"""Mistakes told of one file; checking stops there, since each costs a search for the nearest name."""

# libyaml is 8 times faster here (0.1 s for 1,000 steps); its wheels cover the common machines.
_FAST: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(slots=True, eq=False)
class Node:
    """Base of the three kinds; compared by identity, since an aliased node is one node in two places."""

    start: int
    end: int


@dataclass(slots=True, eq=False)
class Scalar(Node):
    """`text` is the decoded value; `value` what it means: plain scalars may be null, boolean or number."""

    text: str
    style: str
    value: Any

    @property
    def plain(self) -> bool:
        return self.style == ""


@dataclass(slots=True, eq=False)
class ListNode(Node):
    items: list[Node] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class MapNode(Node):
    """Entries in the order of the file; keys are text scalars, unique."""

    entries: dict[str, tuple[Scalar, Node]] = field(default_factory=dict)

    def get(self, key: str) -> Node | None:
        entry = self.entries.get(key)
        return entry[1] if entry else None

    def key(self, key: str) -> Scalar:
        return self.entries[key][0]


_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEAN = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL_FLOAT = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_YAML_1_1 = (
    (re.compile(r"yes|Yes|YES|on|On|ON"), "true"),
    (re.compile(r"no|No|NO|off|Off|OFF"), "false"),
    (re.compile(r"[-+]?0[0-7_]+"), "an octal number"),
    (re.compile(r"[-+]?0b[01_]+"), "a binary number"),
    (re.compile(r"[-+]?[1-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"), "a number to base 60"),
    (re.compile(r"[-+]?[0-9][0-9_]*_[0-9_.]*"), "a number"),
    (re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?"), "a date"),
)


class YamlDocument:
    """One parsed file: `root` is None when it cannot be read; `diagnostics` says what is wrong."""

    def __init__(self, path: str, text: str) -> None:
        self.source = SourceText(path, text)
        self.root: Node | None = None
        self.diagnostics: list[Diagnostic] = []
        self.ambiguous: dict[int, Diagnostic] = {}
        """Warnings about plain scalars that YAML 1.1 reads differently, by where they start."""
        self._reported: dict[str, int] = {}
        self._positions: dict[int, list[int]] = {}

    @property
    def is_full(self) -> bool:
        """True when so many mistakes were told that looking for more helps nobody."""
        return self._reported.get("error", 0) >= MOST_REPORTED

    def report(self, node: Node, message: str, *, code: str, hint: str = "", warning: bool = False) -> None:
        """Add a diagnostic about a whole node."""
        self.report_at(node.start, node.end, message, code=code, hint=hint, warning=warning)

    def report_at(
        self, start: int, end: int, message: str, *, code: str, hint: str = "", warning: bool = False
    ) -> None:
        """Add a diagnostic about the characters from `start` to `end`."""
        severity: Severity = "warning" if warning else "error"
        count = self._reported[severity] = self._reported.get(severity, 0) + 1
        if count <= MOST_REPORTED:
            found = self.source.diagnostic(start, end, message, code=code, hint=hint, severity=severity)
            self.diagnostics.append(found)

    def locate(self, scalar: Scalar, offset: int) -> int:
        """Return the file offset of the character at `offset` of a scalar's value."""
        positions = self._positions.get(id(scalar))
        if positions is None:
            positions = self._positions[id(scalar)] = _find_positions(self.source.text, scalar)
        return positions[min(offset, len(scalar.text))]


def parse_yaml(path: str, data: bytes) -> YamlDocument:
    """Parse one file; never raises for what the file holds."""
    document = YamlDocument(path, "")
    if len(data) > MOST_BYTES:
        document.report_at(0, 0, f"the file has {len(data):,} bytes, the most is {MOST_BYTES:,}", code="too-large")
        return document
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        encoding = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else f"not UTF-8 (byte {error.start})"
        document.report_at(0, 0, f"the file is {encoding}", code="encoding", hint="save it as UTF-8")
        return document
    document = YamlDocument(path, text)
    if not _report_characters(document):
        _Composer(document).run()
    return document


def read_yaml(path: Path, shown: str) -> YamlDocument:
    """Read and parse a file; `shown` is how messages call it. Raises OSError."""
    with path.open("rb") as file:
        return parse_yaml(shown, file.read(MOST_BYTES + 1))


_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")


def _report_characters(document: YamlDocument) -> bool:
    for match in _FORBIDDEN.finditer(document.source.text):
        line_end = match.group() in "\x85\u2028\u2029"
        document.report_at(
            match.start(),
            match.end(),
            f"the character U+{ord(match.group()):04X} "
            + ("ends a line for some YAML tools and not for others" if line_end else "cannot stand in YAML"),
            code="character",
            hint=f'in a double-quoted text write it as "\\u{ord(match.group()):04x}"',
        )
        return True
    return False


def _end_of(event: Any) -> int:
    return int(event.end_mark.index)


class _Composer:
    """Builds nodes from events, with the bounds; reports and goes on where it can."""

    def __init__(self, document: YamlDocument) -> None:
        self.document = document
        self.anchors: dict[str, Node | None] = {}
        self.sizes: dict[int, int] = {}
        self.expansion = 0

    def run(self) -> None:
        events: Iterator[Any] = iter(yaml.parse(self.document.source.text, Loader=_FAST))
        try:
            for event in events:
                if isinstance(event, yaml.DocumentStartEvent):
                    if self.document.root is not None:
                        end = _end_of(event)
                        self.document.report_at(end - 3, end, "a second document", code="yaml", hint="one per file")
                        return
                    self.document.root = self._node(next(events), events, 0)
        except _Stop:
            self.document.root = None
        except yaml.YAMLError as error:
            self.document.root = None
            self._report_syntax(error)

    def _node(self, event: Any, events: Iterator[Any], depth: int) -> Node:
        start, end = event.start_mark.index, event.end_mark.index
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, start, end)
        if depth > MOST_DEPTH:
            self.document.report_at(start, end, f"nested deeper than {MOST_DEPTH} levels", code="too-deep")
            raise _Stop
        start = self._skip_properties(event, start)
        if event.anchor:
            if event.anchor in self.anchors:
                at, name = event.start_mark.index, f"&{event.anchor}"
                self.document.report_at(at, at + len(name), f"the anchor {name} is set twice", code="anchor")
            self.anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node: Node = self._scalar(event, start, end)
            size = 1
        elif isinstance(event, yaml.SequenceStartEvent):
            node, size = self._list(events, start, depth)
        else:
            node, size = self._map(events, start, depth)
        self.sizes[id(node)] = size
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def _skip_properties(self, event: Any, start: int) -> int:
        """Return where the value itself begins: the parser's mark stands before an anchor and a tag."""
        tag = getattr(event, "tag", None)
        if tag and tag != "!":
            self.document.report_at(
                start, start + 1, f"the tag {tag!r} is not part of recipes", code="tag", hint="leave it out"
            )
        if not event.anchor and not tag:
            return int(start)
        match = re.compile(r"(?:[&!][^\s]*\s+)+").match(self.document.source.text, start)
        return match.end() if match else int(start)

    def _alias(self, event: Any, start: int, end: int) -> Node:
        if event.anchor not in self.anchors:
            self.document.report_at(start, end, f"no anchor &{event.anchor} stands before this", code="alias")
            raise _Stop
        node = self.anchors[event.anchor]
        if node is None:
            self.document.report_at(start, end, f"*{event.anchor} stands inside what it names", code="alias")
            raise _Stop
        self.expansion += self.sizes[id(node)]
        if self.expansion > MOST_EXPANSION:
            self.document.report_at(
                start, end, f"aliases add more than {MOST_EXPANSION:,} values to this file", code="alias-bomb"
            )
            raise _Stop
        return node

    def _list(self, events: Iterator[Any], start: int, depth: int) -> tuple[ListNode, int]:
        items: list[Node] = []
        size = 1
        for event in events:
            if isinstance(event, yaml.SequenceEndEvent):
                return ListNode(start, _end_of(event), items), size
            items.append(self._node(event, events, depth + 1))
            size += self.sizes[id(items[-1])]
        raise _Stop  # the parser always ends what it began

    def _map(self, events: Iterator[Any], start: int, depth: int) -> tuple[MapNode, int]:
        entries: dict[str, tuple[Scalar, Node]] = {}
        size = 1
        for event in events:
            if isinstance(event, yaml.MappingEndEvent):
                return MapNode(start, _end_of(event), entries), size
            key = self._node(event, events, depth + 1)
            value = self._node(next(events), events, depth + 1)
            size += self.sizes[id(key)] + self.sizes[id(value)]
            self._add_entry(entries, key, value)
        raise _Stop  # the parser always ends what it began

    def _add_entry(self, entries: dict[str, tuple[Scalar, Node]], key: Node, value: Node) -> None:
        if isinstance(key, MapNode) and self.document.source.text[key.start - 1 : key.start + 1] == "{{":
            self.document.report_at(
                key.start - 1, key.end + 1, "{{ }} is not an expression here", code="key", hint="write ${name}"
            )
            return
        if not isinstance(key, Scalar) or (key.plain and not isinstance(key.value, str)):
            shown = repr(key.text) if isinstance(key, Scalar) else "a list or mapping"
            self.document.report(key, f"a key is text, this is {shown}", code="key", hint="quote it")
            return
        if key.plain and key.text == "<<":
            self.document.report(key, "merge keys (<<) are not part of YAML 1.2", code="merge-key", hint="write it out")
            return
        if key.text in entries:
            line, _ = self.document.source.position(entries[key.text][0].start)
            self.document.report(
                key, f"the key {key.text!r} stands twice", code="duplicate-key", hint=f"first on line {line}"
            )
            return
        entries[key.text] = (key, value)

    def _scalar(self, event: Any, start: int, end: int) -> Scalar:
        style = event.style or ""
        node = Scalar(start, end, event.value, style, event.value)
        if style == "" and getattr(event, "tag", None) != "!":
            node.value = self._resolve(node)
            if isinstance(node.value, str):
                self._report_lost_end(node)
        return node

    def _resolve(self, node: Scalar) -> Any:
        """Read a plain scalar by the YAML 1.2 core schema; say where 1.1 tools read it differently."""
        text = node.text
        if text in _NULL:
            return None
        if text in _BOOLEAN:
            return _BOOLEAN[text]
        if len(text) > 400:
            return text
        for pattern, reading in _YAML_1_1:
            if pattern.fullmatch(text):
                what = "a number" if _INTEGER.fullmatch(text) else "text"
                self.document.ambiguous[node.start] = self.document.source.diagnostic(
                    node.start,
                    node.end,
                    f"{text!r} is {what} in YAML 1.2, but {reading} to YAML 1.1 tools",
                    code="yaml-1.1",
                    hint="quote it if text is meant",
                    severity="warning",
                )
                break
        if _INTEGER.fullmatch(text):
            number = int(text, 0) if text[:2] in ("0o", "0x") else int(text)
            if abs(number) >= MOST_INTEGER:
                self.document.report(node, "this number is too large", code="number", hint="quote it if text is meant")
                return 0
            return number
        if _SPECIAL_FLOAT.fullmatch(text) or (_FLOAT.fullmatch(text) and not math.isfinite(float(text))):
            self.document.report(node, f"{text!r} is not a finite number", code="number")
            return 0.0
        return float(text) if _FLOAT.fullmatch(text) else text

    def _report_lost_end(self, node: Scalar) -> None:
        """Report `prompt: Fix issue #${n}`: YAML takes the rest for a comment."""
        text = self.document.source.text
        rest = re.compile(r"[ \t]+(#[^\r\n]*)").match(text, node.end)
        if rest and "${" in rest.group(1):
            self.document.report_at(
                rest.start(1),
                rest.end(1),
                "YAML takes this for a comment: the value ends before it",
                code="comment",
                hint="quote the whole value if this belongs to it",
                warning=True,
            )

    def _report_syntax(self, error: yaml.YAMLError) -> None:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        offset = min(mark.index, len(self.document.source.text)) if mark else 0
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        line, _ = self.document.source.position(offset)
        if any(d.code == "key" and line - 1 <= d.line for d in self.document.diagnostics):
            return  # `{{ x }} and more`: told already
        hint, start = _advise(self.document.source, offset)
        self.document.report_at(start, start + 1, f"this is not YAML: {problem}", code="yaml", hint=hint)


class _Stop(Exception):
    """Parsing cannot go on; the reason is in the diagnostics."""


_PLAIN_VALUE = re.compile(r"^\s*(?:- +)?(?:[^\s#:'\"][^:]*:|-)\s+(?P<value>[^'\"|>\s].*)$")
_FLOW_EXPRESSION = re.compile(r"[\[{,:]\s*(\$\{)")


def _advise(source: SourceText, offset: int) -> tuple[str, int]:
    """Return the advice for a syntax error, from what stands on its line and the line before, and where."""
    line, _ = source.position(offset)
    for number in (line, line - 1):
        if number < 1:
            continue
        text = source.line(number)
        start = offset - source.position(offset)[1] + 1 if number == line else None
        if text.startswith("\t") or re.match(r" *\t", text):
            return "indent with blanks, not tabs", offset
        match = _PLAIN_VALUE.match(text)
        value = match["value"] if match else ""
        if value.startswith("{{"):
            return "expressions are ${name} here, not {{ name }}", offset
        if value.startswith(("{%", "@", "`", "%")):
            return "a text that begins so needs a block: write `|` and put it on the next line", offset
        if not value.startswith(("{", "[")) and (": " in value or value.endswith(":")):
            return "a text that holds ': ' needs quotes, or a block: write `|` and put it on the next line", offset
        flow = _FLOW_EXPRESSION.search(text)
        if flow and (value.startswith(("{", "[")) or number == line):
            at = start + flow.start(1) if start is not None else offset
            return 'inside { } and [ ] an expression needs quotes: "${...}"', at
    return "", offset


_LINE_END = re.compile(r"\r\n|\n|\r")
_UNITS = {
    '"': re.compile(r"\\(?:\r\n|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[\s\S])|\S"),
    "'": re.compile(r"''|\S"),
}
"""One match for each character of a value that is not white space (and for escapes that are)."""
_WHITE_ESCAPES = frozenset("\r\n\t tnvfrN_LP")


def _find_positions(text: str, scalar: Scalar) -> list[int]:
    """Return where each character of a value stands in the file, and last where the value ends.

    Value and file hold the same characters in the same order, white space aside: decoding folds, indents and drops
    that only. So the n-th that is not white is the n-th that is not white, and white space is put after it.
    """
    start, end = scalar.start, scalar.end
    if scalar.style in ("|", ">"):
        header_end = _LINE_END.search(text, start)
        start = min(end, header_end.end()) if header_end else end
    elif scalar.style:
        start, end = start + 1, end - 1
    units = re.compile(r"\S") if scalar.style not in _UNITS else _UNITS[scalar.style]
    found = (match.span() for match in units.finditer(text, start, end) if not _is_white_escape(match.group()))
    positions, after = [], start
    for char in scalar.text:
        if char.isspace():
            positions.append(after)
            after = min(after + 1, end)
        else:
            first, after = next(found, (end, end))
            positions.append(first)
    return [*positions, min(after, end)]


def _is_white_escape(unit: str) -> bool:
    if len(unit) < 2 or unit[0] != "\\":
        return False
    return unit[1] in _WHITE_ESCAPES or (len(unit) > 3 and chr(int(unit[2:], 16)).isspace())
