"""The two consoles: answers go to stdout, progress and hints to stderr. NO_COLOR, pipes and narrow terminals are rich's business."""

from __future__ import annotations

from rich.console import Console


def out_console() -> Console:
    """For answers."""
    return Console(highlight=False)


def err_console() -> Console:
    """For progress and hints."""
    return Console(stderr=True, highlight=False)
