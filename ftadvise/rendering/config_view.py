"""What `ftadvise estimate --config` says beside the estimate: what was read, what was assumed, what we would change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text as Line

from ftadvise.advisor.importing import Imported
from ftadvise.advisor.texts import Text
from ftadvise.rendering.texts import text


def reading_view(path: Path, imported: Imported, assumed: Sequence[Text], lang: str) -> RenderableType:
    """Whose configuration it is, what was taken for what it does not say, and the keys that are not in the price."""
    lines: list[RenderableType] = [Line(text("config.read", lang, path=path, trainer=imported.trainer, stack=imported.stack), style="bold")]
    lines += [Line(f"  • {each.in_language(lang)}") for each in assumed]
    if imported.unread:
        lines.append(
            Line("  • " + text("config.unread", lang, count=len(imported.unread), keys=", ".join(imported.unread)), style="yellow")
        )
    return Group(*lines, Line())


def advice_view(found: Sequence[Text], *, fits: bool, lang: str) -> RenderableType:
    """What we would change."""
    if not found:
        return Group(Line(), Line(text("config.nothing" if fits else "config.no_way", lang), style="dim"))
    head = Line(text("config.faster" if fits else "config.to_fit", lang), style="bold")
    return Group(Line(), head, *(Line(f"  • {each.in_language(lang)}") for each in found))
