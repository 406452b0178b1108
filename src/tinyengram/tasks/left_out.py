"""What was given and is not learnt, counted by kind and reason with the first place where it was met."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict

What = Literal["rows", "turns", "calls", "texts"]


class LeftOut(BaseModel):
    """Something that was given and is not learnt.

    Attributes:
        what: ``rows``; or in rows that could be read ``turns`` of the assistant, ``calls``, those of such turns among
            them, or ``texts``: parts of turns that are learnt otherwise.
        reason: Why; a chat template's own words where it refuses.
        count: How many for this reason.
        first: Where the first stands, ``file:line`` or ``name[index]``.
    """

    model_config = ConfigDict(frozen=True)

    what: What
    reason: str
    count: int
    first: str


@dataclass
class LeftOutCounts:
    """A running account of it."""

    _counted: dict[tuple[What, str], tuple[int, str]] = field(default_factory=dict)

    def add(self, what: What, reason: str, where: str, count: int = 1) -> None:
        """Note ``count`` more; none leaves no trace."""
        if count:
            before, first = self._counted.get((what, reason), (0, where))
            self._counted[what, reason] = (before + count, first)

    def add_all(self, others: Iterable[LeftOut]) -> None:
        """Note what was counted elsewhere."""
        for one in others:
            self.add(one.what, one.reason, one.first, one.count)

    def listed(self) -> list[LeftOut]:
        """By kind and reason, in the order in which they were met."""
        return [
            LeftOut(what=what, reason=reason, count=count, first=first)
            for (what, reason), (count, first) in self._counted.items()
        ]
