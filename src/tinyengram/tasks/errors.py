"""What is wrong with a task's data, said so that it can be mended."""

from __future__ import annotations

from tinyengram.errors import TinyEngramError


class TaskError(TinyEngramError):
    """Training data or questions cannot be used as they are."""
