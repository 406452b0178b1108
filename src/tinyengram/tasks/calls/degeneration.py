"""Answers that are no language: loops, rules of punctuation, nothing at all."""

from __future__ import annotations

# Some four English words or seven Chinese characters: short enough for a looping sentence, and longer than what lists,
# code and licences repeat by nature. Of 4,614 stretches of code and of packages' metadata, 200 to 20,000 characters
# long, 11 are found degenerate, most of them boxes and rules; with pieces of 12 bytes 31.
_PIECE = 20
_MOST_REPEATED = 0.5
# Where generation ends in a loop it stays there, so the end of a long answer tells.
_LOOKED_AT = 20_000
# In writing and in code at least half of what is printed are letters and digits.
_FEWEST_LETTERS = 0.1
# Below, "1111" is a number and "Hmmmm" a word; above, pieces tell.
_SHORT = range(12, 100)
_REPEATS = 4


def is_degenerate(text: str) -> bool:
    """Whether an answer is hardly letters, or repeats itself for the most part.

    Word salad without repetition is not found: only a language model could tell it from prose.
    """
    text = " ".join(text[-_LOOKED_AT:].split())
    printed = len(text) - text.count(" ")
    letters = sum(map(str.isalnum, text))
    if letters < _FEWEST_LETTERS * printed or repeated_share(text) >= _MOST_REPEATED:
        return True
    return len(text) in _SHORT and (_is_one_phrase(text) or _is_one_phrase(text + " "))


def repeated_share(text: str) -> float:
    """Share of a text's pieces of 20 bytes that stood in it before.

    This is seq-rep-n of Welleck et al. (2020, "Neural Text Generation with Unlikelihood Training") on bytes instead of
    words, so that it means the same in scripts without spaces and for ``aaaa…``. Whatever is said twice stays below
    one half; what has 20 bytes or more and is said three times is above.
    """
    encoded = text.encode("utf-8", "surrogatepass")
    pieces = len(encoded) - _PIECE + 1
    if pieces <= 0:
        return 0.0
    return 1 - len({encoded[start : start + _PIECE] for start in range(pieces)}) / pieces


def _is_one_phrase(text: str) -> bool:
    """Whether a short text says one thing at least four times over and nothing else."""
    return any(text[period:] == text[:-period] for period in range(1, len(text) // _REPEATS + 1))
