"""Where something came from, said exactly enough to get the same again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from tinyengram.errors import TinyEngramError


class SourceError(TinyEngramError):
    """A base, data set or question set cannot be had or is not what it should be."""


class Provenance(BaseModel):
    """Origin of a base, data set or question set.

    Attributes:
        name: As the study names it.
        kind: How it was found.
        revision: Commit on the Hub, or version of the package.
        sha256: Of the file it was read from, where there is one.
        note: What else a reader should know.
    """

    name: str
    kind: Literal["embedded", "local", "hub", "generated"]
    revision: str | None = None
    sha256: str | None = None
    note: str | None = None

    @property
    def public_name(self) -> str:
        """The name for pages, which others read: of a local file or folder its own, without those that it lies in."""
        return Path(self.name).name or self.name if self.kind == "local" else self.name


def cache_dir() -> Path:
    """Folder for what was fetched: ``$TINYENGRAM_CACHE``, else ``~/.cache/tinyengram``."""
    chosen = os.environ.get("TINYENGRAM_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "tinyengram"
