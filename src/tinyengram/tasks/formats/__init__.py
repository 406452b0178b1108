"""Formats of chat data, a module each: a row becomes a conversation, or is refused by name.

A format is a module with ``read(row)`` and an entry in :data:`READERS`; :mod:`detection` tells it by its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from tinyengram.errors import nearest
from tinyengram.sources import Row
from tinyengram.tasks.conversations import Conversation
from tinyengram.tasks.errors import TaskError
from tinyengram.tasks.formats import (
    glaive,
    glaive_experiment,
    hermes,
    instruction,
    openai,
    sharegpt,
    toolace,
    xlam,
)
from tinyengram.tasks.formats.detection import detect, formats_of
from tinyengram.tasks.formats.values import LeftOutError, MalformedError

__all__ = [
    "ALIASES",
    "FORMATS",
    "READERS",
    "LeftOutError",
    "MalformedError",
    "Reader",
    "detect",
    "formats_of",
    "known_format",
]

Reader = Callable[[Row], Conversation]

READERS: Mapping[str, Reader] = MappingProxyType(
    {
        "openai": openai.read,
        "sharegpt": sharegpt.read,
        "hermes": hermes.read,
        "xlam": xlam.read,
        "toolace": toolace.read,
        "glaive": glaive.read,
        "glaive-experiment": glaive_experiment.read,
        "instruction": instruction.read,
    }
)
FORMATS = ("auto", *READERS, "bfcl")
ALIASES: Mapping[str, str] = MappingProxyType({"messages": "openai", "transformers": "openai", "trl": "openai"})


def known_format(format: str) -> str:
    """The format that a study names, older names included.

    Raises:
        TaskError: There is none of that name.
    """
    found = ALIASES.get(format, format)
    if found not in FORMATS:
        raise TaskError(f"Data format {format!r} is unknown.{nearest(format, [*FORMATS, *ALIASES])}")
    return found
