"""Anybody's text on a page: nothing in it is lost, hidden or acts on what stands around it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

# Control characters by their pictures; what turns the direction of the text around it, by its code point.
_VISIBLE = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n"}
_VISIBLE |= {0x7F: "\N{SYMBOL FOR DELETE}"}
_VISIBLE |= {
    code: f"\N{LEFT-POINTING ANGLE BRACKET}U+{code:04X}\N{RIGHT-POINTING ANGLE BRACKET}"
    for code in (*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF)
}
_VISIBLE |= dict.fromkeys(range(0xD800, 0xE000), "\N{REPLACEMENT CHARACTER}")


@dataclass(frozen=True)
class Shown:
    """A text as a page shows it, and how many characters of it are left out at its end."""

    text: str
    left_out: int = 0

    def __str__(self) -> str:
        return f"{self.text} … ({self.left_out:,} more characters)" if self.left_out else self.text

    @property
    def size(self) -> int:
        """Bytes that it takes in HTML."""
        from markupsafe import escape

        return len(str(escape(str(self))).encode())


def shown(text: str, limit: int) -> Shown:
    """A text, cut behind ``limit`` characters unless hardly anything is left out by it."""
    keep = len(text) if len(text) <= limit + limit // 10 else limit
    return Shown(text[:keep].translate(_VISIBLE), len(text) - keep)


def as_json(value: Any, *, indent: int | None = None) -> str:
    """A value as it is written in JSON, letters of every script as they are."""
    return json.dumps(value, ensure_ascii=False, indent=indent)
