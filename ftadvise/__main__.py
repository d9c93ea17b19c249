"""`python -m ftadvise`."""

from __future__ import annotations

from ftadvise.cli import main

if __name__ == "__main__":
    main()
