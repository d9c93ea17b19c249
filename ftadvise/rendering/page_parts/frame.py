"""The frame of a page: one file with everything in it. Nothing is loaded from anywhere, and the page's own policy forbids it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ftadvise.rendering.page_parts.elements import Child, document, el
from ftadvise.rendering.texts import text

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


class Section(NamedTuple):
    """A part of the page: its name in the address, its headline, and what stands there; without that it is left out."""

    name: str
    headline: str
    blocks: Sequence[Child]


class Tile(NamedTuple):
    """A figure that people ask for first."""

    head: str
    figure: str
    below: str


def page(title: str, header: Iterable[Child], sections: Iterable[Section], footer: Iterable[Child], *, mark: str, lang: str) -> str:
    """The whole page of HTML.

    Args:
        header: what stands under the title.
        mark: says that ftadvise made the page, and so may replace it.
    """
    shown = [section for section in sections if section.blocks]
    links = [el("a", section.headline, href=f"#{section.name}") for section in shown]
    bodies = [el("section", el("h2", section.headline), section.blocks, id=section.name) for section in shown]
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", name="generator", content=mark),
        el("title", title),
        el("style", style),
    )
    top = el("header", el("h1", title), header, el("nav", links, aria_label=text("page.contents", lang)))
    body = el("body", top, el("main", bodies), el("footer", footer))
    return document(el("html", head, body, lang="zh-CN" if lang == "zh" else "en"))


def tiles(figures: Iterable[Tile]) -> Child:
    """The figures side by side."""
    return el(
        "div",
        [el("div", el("span", each.head), el("b", each.figure), el("small", each.below), class_="tile") for each in figures],
        class_="tiles",
    )
