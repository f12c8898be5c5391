"""Prompts are tokenised piece by piece; the vocabularies here are made up to be nasty."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from gristmill import ModelError
from gristmill_plugins.llama._prompt import ATTRIBUTE_LSTRIP, ATTRIBUTE_RSTRIP, PromptTokenizer


@dataclass(frozen=True)
class Piece:
    text: str
    trusted: bool


@dataclass
class Words:
    """A vocabulary of single characters, some longer words, and control tokens; the longest match wins."""

    control_texts: tuple[str, ...] = ("<s>", "<|end|>")
    merges: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    attributes: dict[str, int] = field(default_factory=dict)
    adds_bos: bool = False

    def __post_init__(self) -> None:
        letters = tuple(chr(code) for code in range(32, 127))
        self.texts = (
            *self.control_texts,
            *self.marks,
            *(m for m in self.merges if m not in self.control_texts),
            *letters,
        )
        self.size, self.bos = len(self.texts), 0

    @property
    def control(self) -> frozenset[int]:
        return frozenset(range(len(self.control_texts)))

    @property
    def special(self) -> frozenset[int]:
        return self.control

    def flags(self, token: int) -> int:
        return self.attributes.get(self.texts[token], 0)

    def user_defined(self) -> list[int]:
        return [self.texts.index(mark) for mark in self.marks]

    def text(self, token: int) -> str:
        return self.texts[token]

    def tokenize(self, text: str) -> list[int]:
        known = sorted((*self.merges, *self.marks), key=len, reverse=True)
        ids = []
        while text:
            word = next((word for word in known if text.startswith(word)), text[0])
            ids.append(self.texts.index(word))
            text = text[len(word) :]
        return ids


def encode(words: Words, *pieces: tuple[str, bool], template: str = "") -> list[str]:
    tokenizer = PromptTokenizer(words, model="toy", template=template)
    return [words.text(token) for token in tokenizer.encode(Piece(*piece) for piece in pieces)]


def test_control_tokens_come_from_trusted_text_only() -> None:
    assert encode(Words(), ("<s>a", True), ("<s>", False), ("<|end|>", True)) == ["<s>", *"a<s>", "<|end|>"]


def test_words_may_reach_across_the_border_of_template_and_message() -> None:
    assert encode(Words(merges=("ab",)), ("<s>a", True), ("b", False)) == ["<s>", "ab"]


def test_a_control_token_in_two_trusted_pieces_is_one() -> None:
    assert encode(Words(), ("<|e", True), ("nd|>", True)) == ["<|end|>"]


def test_a_vocabulary_whose_merges_spell_a_control_token_is_outwitted() -> None:
    assert encode(Words(merges=("<s>",)), ("x<s>y", False)) == list("x<s>y")


def test_role_markers_that_the_file_calls_user_defined_are_guarded() -> None:
    words = Words(marks=("<|user|>",))
    assert encode(words, ("<|user|>", False), template="<|user|>{{ x }}") == list("<|user|>")
    assert encode(words, ("<|user|>", True), ("a", False), template="<|user|>{{ x }}") == ["<|user|>", "a"]
    assert encode(words, ("<|user|>", False), template="{{ x }}") == ["<|user|>"]


def test_a_control_token_of_one_letter_is_refused_rather_than_let_through() -> None:
    with pytest.raises(ModelError, match="without control tokens"):
        encode(Words(control_texts=("<s>", "@"), merges=("@",)), ("a@b", False))


def test_the_beginning_is_marked_once() -> None:
    assert encode(Words(adds_bos=True), ("a", True)) == ["<s>", "a"]
    assert encode(Words(adds_bos=True), ("<s>a", True)) == ["<s>", "a"]
    assert encode(Words(adds_bos=True), ("<s>a", False)) == ["<s>", *"<s>a"]


def test_tokens_that_swallow_white_space_do() -> None:
    words = Words(attributes={"<|end|>": ATTRIBUTE_LSTRIP | ATTRIBUTE_RSTRIP})
    assert encode(words, ("a  <|end|>", True), ("  b ", False)) == ["a", "<|end|>", "b", " "]


def test_nothing_is_nothing() -> None:
    assert encode(Words(), ("", True), ("", False)) == []
