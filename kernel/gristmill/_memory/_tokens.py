"""The words of a text as SQLite's FTS5 finds them, for stores that have no FTS5.

It keeps no text: a table in memory takes each batch and forgets it. Invariant: the words are those of the kernel's own
word index (porter stems, accents removed), because the same tokenizer makes them.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence

TOKENIZER = "porter unicode61 remove_diacritics 2"
MOST_WORDS = 200
"""Of a query, the first ones count; a page of text as a query would otherwise rank every record."""
# English, since the stemmer is too. They are dropped from a query that has other words as well: nearly every text
# matches "the", each match is ranked, and what is in nearly every text tells next to nothing.
_STOP_WORDS = (
    "a about an and are as at be by can could did do does for from had has have how i if in is it its me my of on or"
    " our shall should so that the their them then there these they this to was we were what when where which who whom"
    " why will with would you your"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())
_ENDS = re.compile(r"[\W_]+")


def telling_words(text: str) -> list[str]:
    """Return what white space separates in a query, each once, without the words that tell nothing."""
    words = list(dict.fromkeys(re.sub(r"[\x00\ud800-\udfff]", " ", text).split()))
    words = [word for word in words if any(part for part in _ENDS.split(word))]
    telling = [word for word in words if _ENDS.sub("", word).lower() not in STOP_WORDS]
    return (telling or words)[:MOST_WORDS]


def query_words(text: str) -> list[tuple[str, ...]]:
    """Return the words of a query: each is a run of index words that stand next to one another.

    `GM-2041 mills` gives `("gm", "2041")` and `("mill",)`.
    """
    return [tuple(words) for words in words_of(telling_words(text)) if words]


def words_of(texts: Sequence[str]) -> list[list[str]]:
    """Return for each text its index words, in order."""
    found: list[list[str]] = [[] for _ in texts]
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute(f"CREATE VIRTUAL TABLE texts USING fts5(text, content='', tokenize='{TOKENIZER}')")
        connection.execute("CREATE VIRTUAL TABLE words USING fts5vocab(texts, 'instance')")
        rows = ((number, text.replace("\x00", " ")) for number, text in enumerate(texts))
        connection.executemany("INSERT INTO texts (rowid, text) VALUES (?, ?)", rows)
        for number, word in connection.execute("SELECT doc, term FROM words ORDER BY doc, offset"):
            found[number].append(word)
    finally:
        connection.close()
    return found
