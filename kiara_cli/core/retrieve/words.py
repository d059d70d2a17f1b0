"""A text as the terms by which it is found.

In: a text in any language. Out: its terms in order: words in lower case without a plural's ending, the parts of names
such as `max_steps` and `OrderedDict`, and pairs of characters where a script has no spaces (Han, kana, Hangul).
"""

from __future__ import annotations

import functools
import re

LONGEST = 64  # characters of a term: longer ones are data rather than words
REMEMBERED = 1 << 18  # spellings whose terms are kept
WORD = re.compile(r"[^\W_]+")
UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]+")
CAMEL = re.compile("[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


class Words:
    """Splits texts; what a spelling becomes is worked out once."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, ...]] = {}

    def terms(self, text: str) -> list[str]:
        """Return the terms of a text in order."""
        known, found = self._known, list[str]()
        for word in WORD.findall(text):
            terms = known.get(word)
            if terms is None:
                if len(known) >= REMEMBERED:
                    known.clear()
                terms = known[word] = terms_of(word)
            found += terms
        return found

    def asked(self, question: str) -> list[str]:
        """Return the terms of a question that say what it is about: all, if there are only words such as `how do I`.

        In few technical documents such words are rare, and would outweigh the others.
        """
        terms = self.terms(question)
        return [term for term in terms if term not in function_words()] or terms


@functools.cache
def function_words() -> frozenset[str]:
    """Return English words that say nothing alone, as terms; empty where bm25s, which lists them, is missing."""
    try:
        from bm25s.stopwords import STOPWORDS_EN_PLUS
    except ImportError:
        return frozenset()
    return frozenset(singular(word) for word in STOPWORDS_EN_PLUS)


def terms_of(word: str) -> tuple[str, ...]:
    """Return the terms of one word: itself and, of a name in camel case, its parts; of Han and the like, pairs."""
    if UNSPACED.search(word):
        runs = UNSPACED.findall(word)
        pairs = [run[at : at + 2] for run in runs for at in range(max(1, len(run) - 1))]
        rest = [part for part in UNSPACED.split(word) if part]
        return (*pairs, *(term for part in rest for term in terms_of(part)))
    word = word[:LONGEST]
    whole = singular(word.lower())
    if word.islower() or word[1:].islower() or word.isupper() or not word.isascii():
        return (whole,)
    parts = [singular(part.lower()) for part in CAMEL.findall(word)]
    return (whole, *parts) if len(parts) > 1 else (whole,)


def singular(word: str) -> str:
    """Drop a plural's ending (Harman, How effective is suffixing?, 1991: the S stemmer)."""
    if len(word) < 4 or not word.endswith("s"):
        return word
    if word.endswith("ies") and word[-4] not in "ae":
        return word[:-3] + "y"
    if word.endswith("es") and word[-3] not in "aeo":
        return word[:-1]
    return word if word[-2] in "us" else word[:-1]
