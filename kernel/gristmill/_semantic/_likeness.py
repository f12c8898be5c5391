"""Whether two prompts may share an answer, as far as their words can tell: what an embedding cannot see.

An embedding hardly sees a negation, a swapped pair, another number or name, or one word of ten that turned into its
opposite. So these must be the same in both prompts, in the same order: numbers, signs, code, names, negations, and
words that have an opposite. What else they say may differ, but not the order of what they share, and not by one word
in the place of one other, which is how a question turns into another one. It knows no embedding and no cache.
Invariant: it only ever refuses; what it lets through may still mean something else, which is why semantic answers are
off by default. The lists are English; other languages are held to the rest.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

_TOKEN = re.compile(
    r"```.*?```|`[^`]*`|\"[^\"]*\"|https?://\S+|[^\W\d_]+(?:['’][^\W\d_]+)*|\d+(?:[.,:]\d+)*|[^\w\s]|_", re.DOTALL
)
_COUNT = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen twenty
"""
_NUMBERS = {word: str(n) for n, word in enumerate(_COUNT.split())}
_CONTRACTIONS = {
    "can't": "can not", "cannot": "can not", "won't": "will not", "shan't": "shall not", "let's": "let us",
    "dont": "do not", "doesnt": "does not", "didnt": "did not", "isnt": "is not", "cant": "can not",
}  # fmt: skip
_TAILS = {"n't": " not", "'re": " are", "'ve": " have", "'ll": " will", "'m": " am", "'d": " would"}
# Whatever turns a question into another: negations, quantities, times and places, opposites, persons, what is asked.
_TURNING = """
not no never none nobody nothing neither nor nowhere without hardly barely scarcely seldom rarely except unless lack
fail avoid exclude instead false wrong unable impossible stop quit refuse deny decline cancel
hundred thousand million billion half quarter double triple twice thrice dozen both first second third fourth fifth
last next previous single pair all any some every each only most more less least fewer few many much little even odd
was were did had been will before after until since during early earlier late later now then today tomorrow yesterday
always sometimes often day night morning evening above below over under up down in out on off from to left right north
south east west inside outside top bottom front back here there near far
old older new newer young fast faster slow slower big bigger large larger small smaller high higher low lower long
longer short shorter good better best bad worse worst hot cold warm cool cheap expensive begin start end open close
add remove insert delete create destroy enable disable allow forbid accept reject increase decrease raise reduce buy
sell send receive give take lend borrow push pull import export encode decode encrypt decrypt upload download read
write win lose love hate like dislike positive negative true safe dangerous legal illegal maximum minimum max min
average mean sum difference pros cons advantage disadvantage benefit drawback risk cause effect rich poor strong weak
heavy light dark bright wet dry full empty hard soft easy difficult public private formal informal active passive
black white
male female man woman men women boy girl he she his her him i me my mine you your yours we our us they them their
mother father husband wife son daughter
why how when where who whose which what and or but if than vs versus against between
"""
_TURNS = frozenset(_TURNING.split())
_SAYS_NOTHING = "a an the please kindly is are am be do does has have of s"
_EMPTY = frozenset(_SAYS_NOTHING.split())
_ENDINGS = ("ing", "ies", "ied", "ed", "es", "ly", "s")


class Said(NamedTuple):
    """What a prompt says."""

    fixed: tuple[str, ...]
    """What must be the same, in order."""
    content: tuple[str, ...]
    """The stems of everything else, in order."""
    opening: frozenset[str]
    """Those of `content` that were capitalised because a sentence began, and may be names."""
    whole: tuple[str, ...]
    """Both, in order."""


def may_share(one: str, other: str) -> bool:
    """Tell whether nothing in two prompts says that their answers differ."""
    left, right = said(one), said(other)
    if left.whole == right.whole:
        return True
    if left.fixed != right.fixed:
        return False
    shared = set(left.whole) & set(right.whole)
    if [word for word in left.whole if word in shared] != [word for word in right.whole if word in shared]:
        return False
    mine = [word for word in left.content if word not in shared]
    theirs = [word for word in right.content if word not in shared]
    if set(mine) & left.opening or set(theirs) & right.opening:
        return False
    return not (len(mine) <= 1 and len(theirs) <= 1)


@lru_cache(maxsize=4096)
def said(text: str) -> Said:
    """Read a prompt."""
    whole: list[str] = []
    fixed: list[str] = []
    opening: set[str] = set()
    begins = True
    for token in _TOKEN.findall(text.replace("’", "'")):
        if not token[0].isalpha() or "://" in token:
            begins = token in ".!?:;(*-"
            if token not in ".,;:!?'()":
                fixed.append(token.replace(",", "") if token[0].isdigit() else token)
                whole.append(fixed[-1])
            continue
        for word in _parts(token):
            is_name = not (token.islower() or token.istitle() or "'" in token) or (token[0].isupper() and not begins)
            if word in _EMPTY:
                continue
            stem = word if is_name and word not in _TURNS else _stem(word)
            if word in _TURNS or word in _NUMBERS or is_name:
                fixed.append(_NUMBERS.get(word, stem))
                whole.append(fixed[-1])
                continue
            if token[0].isupper():
                opening.add(stem)
            whole.append(stem)
        begins = False
    kept = set(fixed)
    content = tuple(word for word in whole if word not in kept)
    return Said(tuple(fixed), content, frozenset(opening), tuple(whole))


def _parts(token: str) -> list[str]:
    """Return what a word says: of a contraction, both its words."""
    word = _CONTRACTIONS.get(token.lower(), token.lower())
    for tail, full in _TAILS.items():
        word = word.removesuffix(tail) + full if word.endswith(tail) else word
    return word.removesuffix("'s").split()


def _stem(word: str) -> str:
    """Return a word without its ending: enough to see that two forms are one word."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 4 and not word.endswith("ss"):
            return word[: -len(ending)]
    return word
