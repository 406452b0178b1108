"""Errors that a user can act on: each names the value, the limit and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TinyEngramError(Exception):
    """Something the user gave cannot be used; the message says what and how to mend it."""


def nearest(name: str, options: Iterable[str]) -> str:
    """Phrase that points from a misspelt name to what was probably meant.

    Args:
        name: What the user wrote.
        options: What could have been written.

    Returns:
        ``" Did you mean 'x'?"`` when one option is close, otherwise the list of options.

    Example:
        >>> nearest("lorra", ["lora", "engram"])
        " Did you mean 'lora'?"
    """
    known = sorted(options)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Choose one of: {', '.join(known)}." if known else ""
