"""Splits a recipe's text into Jinja tokens that know their offset.

Jinja2's own parser is used as it is; this replaces its lexer, because recipes need what it cannot give: `${...}` with
braces and strings nested inside, an exact offset on every node (it is put where Jinja keeps the line number), `\\r\\n`
that survives, `$${` for a literal `${`, and no white-space control inside `${...}`, where `${-q}` would print 3 for
q = -3. It knows no names and evaluates nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Generator, Iterator
from typing import Any

from jinja2 import Environment, TemplateSyntaxError
from jinja2.lexer import Token, TokenStream, operators

MOST_TOKENS = 20_000

_NEXT = re.compile(r"\$\$\{|\$\{|\{%#|\{%")
_RAW_BEGIN = re.compile(r"\{%[-+]?\s*raw\s*[-+]?%\}\n?")
_RAW_END = re.compile(r"\{%[-+]?\s*endraw\s*(-)?%\}\n?")
_SPACE = re.compile(r"\s+")
_NAME = re.compile(r"[^\W\d]\w*")
_NUMBER = re.compile(r"(?P<float>[0-9]+(?:\.[0-9]+(?:[eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+))|(?P<integer>[0-9]+)")
_STRING = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_OPERATOR = re.compile("|".join(re.escape(op) for op in sorted(operators, key=len, reverse=True)))
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([\s\S]))")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"', "0": "\0", "\n": ""}
"""As in Python; a backslash before anything else stays, so that `replace("\\d", "")` says what it means."""
_OPENING, _CLOSING = "([{", ")]}"


class ExpressionSyntaxError(ValueError):
    """Text that is no expression or block; `offset` and `end` say where."""

    def __init__(self, message: str, offset: int, end: int | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.offset = offset
        self.end = end if end is not None else offset + 1
        self.hint = hint


class RecipeEnvironment(Environment):
    """Jinja's parser over our lexer. Each node's `lineno` is its offset in the source."""

    def _tokenize(self, source: str, name: Any, filename: Any = None, _state: Any = None) -> TokenStream:
        return TokenStream(_Lexer(source).tokens(), name, filename)


class _Lexer:
    def __init__(self, source: str) -> None:
        self.source = source
        self.n_tokens = 0

    def tokens(self) -> Iterator[Token]:
        position, trim = 0, False
        source = self.source
        while position < len(source):
            match = _NEXT.search(source, position)
            end = match.start() if match else len(source)
            data = source[position:end]
            start = position
            if trim:
                trimmed, trim = _trim_newline(data), False
                start, data = start + len(data) - len(trimmed), trimmed
            if match is None:
                yield from self._data(start, data)
                return
            opening = match.group()
            if opening == "$${":
                yield from self._data(start, data + "${")
                position = match.end()
            elif opening == "${":
                yield from self._data(start, data)
                position = yield from self._expression(match.start())
            else:
                yield from self._data(start, self._strip_before(data, start, match.end()))
                position, trim = yield from self._block(match.start(), opening)

    def _strip_before(self, data: str, start: int, after: int) -> str:
        """Drop blanks between the line's start and a block (lstrip_blocks), or all white space for `{%-`."""
        control = self.source[after : after + 1]
        if control == "-":
            return data.rstrip()
        stripped = data.rstrip(" \t")
        at_line_start = stripped.endswith(("\n", "\r")) or (
            not stripped and (start == 0 or self._follows_newline(start))
        )
        return stripped if at_line_start and control != "+" else data

    def _follows_newline(self, start: int) -> bool:
        return self.source[start - 1 : start] in "\r\n"

    def _data(self, start: int, text: str) -> Iterator[Token]:
        if text:
            yield self._token(start, "data", text)

    def _token(self, offset: int, kind: str, value: Any) -> Token:
        self.n_tokens += 1
        if self.n_tokens > MOST_TOKENS:
            raise ExpressionSyntaxError(f"a text may hold {MOST_TOKENS:,} tokens at most", offset)
        return Token(offset, kind, value)

    def _block(self, start: int, opening: str) -> Generator[Token, None, tuple[int, bool]]:
        """Yield a block's tokens; return where it ends and whether the newline after it goes."""
        if opening == "{%#":
            end = self.source.find("#%}", start + 3)
            if end < 0:
                raise ExpressionSyntaxError("this comment is not closed", start, start + 3, "end it with #%}")
            return end + 3, True
        if raw := _RAW_BEGIN.match(self.source, start):
            end_raw = _RAW_END.search(self.source, raw.end())
            if end_raw is None:
                raise ExpressionSyntaxError(
                    "this raw block is not closed", start, raw.end(), "end it with {% endraw %}"
                )
            yield from self._data(raw.end(), self.source[raw.end() : end_raw.start()].rstrip(" \t"))
            return end_raw.end(), False
        yield self._token(start, "block_begin", "{%")
        position = start + 2 + (self.source[start + 2 : start + 3] in ("-", "+"))
        end = yield from self._inside(start, position, ("-%}", "+%}", "%}"))
        closing = self.source[end : end + 1]
        length = 2 if closing == "%" else 3
        yield self._token(end, "block_end", "%}")
        if closing == "-":
            return _skip_space(self.source, end + length), False
        return end + length, closing != "+"

    def _expression(self, start: int) -> Generator[Token, None, int]:
        """Yield the tokens of `${...}`; return where it ends."""
        first = self.source[start + 2 : start + 3]
        if first in ("-", "+"):
            raise ExpressionSyntaxError(
                f"${{{first} is white-space control in Jinja and an accident here",
                start,
                start + 3,
                f"put a blank between: ${{ {first}x }}",
            )
        yield self._token(start, "variable_begin", "${")
        end = yield from self._inside(start, start + 2, ("}",))
        if self.source[end - 1] in "-+" and end - 1 > start + 1:
            raise ExpressionSyntaxError("'-}' is not an end of an expression", end - 1, end + 1, "write a plain }")
        if not self.source[start + 2 : end].strip():
            raise ExpressionSyntaxError("this expression is empty", start, end + 1, "write $${ for the characters ${")
        yield self._token(end, "variable_end", "}")
        return end + 1

    def _inside(self, start: int, position: int, closers: tuple[str, ...]) -> Generator[Token, None, int]:
        """Yield the tokens up to the closer at bracket depth 0; return its offset."""
        source = self.source
        depth: list[str] = []
        while True:
            if space := _SPACE.match(source, position):
                position = space.end()
            if position >= len(source):
                what = "${" if closers == ("}",) else "{%"
                raise ExpressionSyntaxError(
                    f"{what} is not closed", start, start + 2, "write $${ for the characters ${" if what == "${" else ""
                )
            if not depth and source.startswith(closers, position):
                return position
            token = self._next_token(position)
            if token.type == "operator":
                self._balance(token, depth)
                yield self._token(position, operators[token.value], token.value)
                position += len(token.value)
            else:
                yield token
                position += self._length

    def _balance(self, token: Token, depth: list[str]) -> None:
        if token.value in _OPENING:
            depth.append(_CLOSING[_OPENING.index(token.value)])
        elif token.value in _CLOSING and (not depth or depth.pop() != token.value):
            raise ExpressionSyntaxError(f"this {token.value!r} closes nothing", token.lineno)

    def _next_token(self, position: int) -> Token:
        source = self.source
        if match := _NAME.match(source, position):
            self._length = len(match.group())
            return self._token(position, "name", match.group())
        if match := _NUMBER.match(source, position):
            return self._number(position, match)
        if match := _STRING.match(source, position):
            self._length = len(match.group())
            return self._token(position, "string", self._unescape(position, match.group()))
        if match := _OPERATOR.match(source, position):
            return Token(position, "operator", match.group())
        char = source[position]
        if char in "'\"":
            raise ExpressionSyntaxError("this text is not closed", position, position + 1, f"end it with {char}")
        raise ExpressionSyntaxError(f"{char!r} cannot stand in an expression", position)

    def _number(self, position: int, match: re.Match[str]) -> Token:
        text = match.group()
        self._length = len(text)
        if len(text) > 30 or math.isinf(float(text)):
            raise ExpressionSyntaxError("this number is too large", position, position + len(text))
        kind = "float" if match["float"] else "integer"
        value: Any = float(text) if kind == "float" else int(text)
        return self._token(position, kind, value)

    def _unescape(self, position: int, literal: str) -> str:
        def decode(match: re.Match[str]) -> str:
            if match[4]:
                return _ESCAPED.get(match[4], match.group())
            code = int(match[match.lastindex or 1], 16)
            if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
                at = position + 1 + match.start()
                raise ExpressionSyntaxError("there is no such character", at, at + len(match.group()))
            return chr(code)

        return _ESCAPE.sub(decode, literal[1:-1])


def _trim_newline(data: str) -> str:
    if data.startswith("\r\n"):
        return data[2:]
    return data[1:] if data[:1] in ("\n", "\r") else data


def _skip_space(source: str, position: int) -> int:
    match = _SPACE.match(source, position)
    return match.end() if match else position


def syntax_error(error: TemplateSyntaxError) -> ExpressionSyntaxError:
    """Turn Jinja's own error, whose line number is our offset, into one of ours."""
    message = (error.message or "this is not an expression").rstrip(".")
    for words, mark in (("token 'end of print statement'", "'}'"), ("'end of print statement'", "'}'"),
                        ("token 'end of statement block'", "'%}'"), ("'end of statement block'", "'%}'")):  # fmt: skip
        message = message.replace(words, mark)
    return ExpressionSyntaxError(message[:1].lower() + message[1:], error.lineno)
