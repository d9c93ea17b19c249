"""What merging made, and how near it is to the adapter."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from ftadvise.profiles.units import gib
from ftadvise.rendering.texts import text
from ftadvise.runner.merge import Merged


def merge_view(merged: Merged, lang: str) -> RenderableType:
    """The folder, the agreement, and what to mind."""
    lines = [Text(text("merge.wrote", lang, folder=merged.folder, dtype=merged.dtype, size=gib(merged.weights_bytes)), style="bold")]
    shown = {"difference": f"{merged.difference:.2g}", "effect": f"{merged.effect:.2g}", "same": f"{100 * merged.same_tokens:.0f} %"}
    lines.append(Text(text("merge.agreement", lang, **shown)))
    if merged.trained_on != "none":
        lines.append(Text(text("merge.quantized", lang, quantization=merged.trained_on), style="yellow"))
    return Group(*lines)
