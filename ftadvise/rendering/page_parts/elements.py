"""HTML as a tree of elements. Text goes in as text and is escaped when the tree is written, so no name can become markup."""

from __future__ import annotations

import re
from collections.abc import Iterable
from xml.etree import ElementTree  # builds and writes only; nothing is parsed

from ftadvise.profiles.printable import printable

Child = ElementTree.Element | str | None

_SPECIAL = re.compile(r"(?P<address>https?://[^\s<>\"'，；。、（）]+)|(?P<flag>(?<![\w-])--[a-z][\w-]*)")


def el(tag: str, *children: Child | Iterable[Child], **attributes: str | float | None) -> ElementTree.Element:
    """An element. `class_="x"` stands for class, `_` in other names for `-`; attributes and children that are None are left out."""
    element = ElementTree.Element(tag)
    for name, value in attributes.items():
        if value is not None:
            element.set(name.rstrip("_").replace("_", "-"), printable(value if isinstance(value, str) else f"{value:g}"))
    for child in children:
        for each in [child] if child is None or isinstance(child, (str, ElementTree.Element)) else child:
            _append(element, each)
    return element


def words(sentence: str) -> list[Child]:
    """The sentence with the addresses in it as links, and flags of the command line as code, which is not broken at its hyphens."""
    parts: list[Child] = []
    end = 0
    for match in _SPECIAL.finditer(sentence):
        found = match.group().rstrip(".,;:)")
        element = el("a", found, href=found, rel="noreferrer") if match["address"] else el("code", found, class_="flag")
        parts += [sentence[end : match.start()], element]
        end = match.start() + len(found)
    return [*parts, sentence[end:]]


def document(root: ElementTree.Element) -> str:
    """The whole page."""
    return "<!DOCTYPE html>\n" + ElementTree.tostring(root, encoding="unicode", method="html") + "\n"


def _append(parent: ElementTree.Element, child: Child) -> None:
    if child is None:
        return
    if isinstance(child, ElementTree.Element):
        parent.append(child)
    elif len(parent):
        parent[-1].tail = (parent[-1].tail or "") + printable(child)
    else:
        parent.text = (parent.text or "") + printable(child)
