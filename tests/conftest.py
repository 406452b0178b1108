"""The tests ask no hub for anything: a name that is nowhere is refused at once, not after a minute of retries."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # Read when huggingface_hub is imported, so before any test is.
