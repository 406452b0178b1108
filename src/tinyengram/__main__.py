"""``python -m tinyengram``."""

from __future__ import annotations

from tinyengram.cli import main

if __name__ == "__main__":
    main()
