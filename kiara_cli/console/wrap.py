"""Text that comes in pieces, broken into lines between words for a terminal of any width.

In: pieces of text, cut anywhere. Out: the same text with line breaks in place of blanks, held back as long as a word
may still grow. Between wide characters, such as Chinese ones, a line may end too; a word longer than a line is cut.
"""

from __future__ import annotations

from collections.abc import Callable

from prompt_toolkit.utils import get_cwidth

TAB = 8
EMOJI_STYLE, JOINER = "\ufe0f", "\u200d"
NEVER_FIRST = frozenset("、。，．：；！？）」』】〉》〕｝’”…ー々")  # on a line
NEVER_LAST = frozenset("（「『【〈《〔｛‘“")


class Wrapper:
    """One reply in the making. `width` is asked for each word, as windows change; `column` is where it begins."""

    def __init__(self, width: Callable[[], int], column: int = 0) -> None:
        self._width, self._column = width, column
        self._blanks, self._word = "", ""  # held back

    def push(self, text: str) -> str:
        """Take more text; return what may be shown now."""
        out = ""
        for character in text:
            if character == "\n":
                out += self._place() + "\n"
                self._blanks, self._column = "", 0
            elif character in " \t":
                out += self._place()
                self._blanks += character
            else:
                if breaks(self._word, character):
                    out += self._place()
                self._word += character
                if width_of(self._word) > self._width():
                    out += self._cut()
        return out

    def end(self) -> str:
        """Return what was held back."""
        return self._place()

    def _cut(self) -> str:
        """Return as much of a word that is too long as a line holds; the rest is held back for the next line."""
        start = len(self._word) - 1
        while start > 0 and _one(self._word[start - 1], self._word[start]):
            start -= 1
        rest = self._word[start or 1 :]
        self._word = self._word[: start or 1]
        out = self._place() + "\n"
        self._word, self._column = rest, 0
        return out

    def _place(self) -> str:
        """Return the word that is held back, on this line or the next."""
        if not self._word:
            return ""
        word, width = self._word, self._width()
        blanks = "".join(" " * (TAB - self._column % TAB) if blank == "\t" else " " for blank in self._blanks)
        self._blanks, self._word = "", ""
        out = blanks
        if self._column and self._column + len(blanks) + width_of(word) > width:
            out, self._column = "\n", 0
        else:
            self._column += len(blanks)
        for character in word:
            wide = width_of(character)
            if wide and self._column and self._column + wide > width:
                out, self._column = out + "\n", 0
            out, self._column = out + character, self._column + wide
        return out


def breaks(word: str, character: str) -> bool:
    """Say whether a line may end between a word and the character that follows it."""
    if not word or character in NEVER_FIRST or word[-1] in NEVER_LAST or _one(word[-1], character):
        return False
    base = next((one for one in reversed(word) if get_cwidth(one)), word[-1])
    return get_cwidth(base) == 2 or get_cwidth(character) == 2 or word[-1] == EMOJI_STYLE


def width_of(text: str) -> int:
    """Return how many columns a text may take: joined emoji count one by one, as many a terminal shows them so."""
    return sum(1 if character == EMOJI_STYLE else get_cwidth(character) for character in text)


def _one(first: str, second: str) -> bool:
    """Say whether two characters make one sign: letter and accent, hand and colour, the two halves of a flag."""
    joined = first == JOINER or second == EMOJI_STYLE or not get_cwidth(second)
    return joined or "🏻" <= second <= "🏿" or ("🇦" <= first <= "🇿" and "🇦" <= second <= "🇿")
