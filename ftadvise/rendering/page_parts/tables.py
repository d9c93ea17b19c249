"""Tables of figures, and the recipe's settings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ftadvise.estimator.recipe import Recipe
from ftadvise.rendering.page_parts.elements import Child, el, words
from ftadvise.rendering.texts import text

_SETTINGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "method",
        ("method", "quantization", "double_quantization", "rank", "alpha", "rslora", "dropout", "target_modules", "high_precision_modules"),
    ),
    ("batch", ("micro_batch", "gradient_accumulation", "seq_len", "packing")),
    ("memory", ("gradient_checkpointing", "attention", "loss", "optimizer", "sharding", "offload", "compute_dtype", "adapter_dtype")),
    ("training", ("learning_rate", "schedule", "warmup_ratio", "max_grad_norm", "epochs", "max_steps", "seed")),
)
_NO_ADAPTER = ("rank", "alpha", "rslora", "rslora", "dropout", "target_modules", "adapter_dtype")


class Row(NamedTuple):
    """A line of a table. A figure is a word, or an element where it has a look of its own."""

    name: list[Child]
    figures: Sequence[Child]
    sentence: str | None = None


def table(heads: Sequence[str], rows: Iterable[Row]) -> Child:
    """A table of names, figures and perhaps a sentence; on a phone each row is a block, where `data-head` says what a figure is."""
    lines = []
    for row in rows:
        cells = [el("td", figure, data_head=head) for head, figure in zip(heads[1:], row.figures, strict=False)]
        sentence = None if row.sentence is None else el("td", words(row.sentence), class_="words")
        lines.append(el("tr", el("th", row.name, scope="row"), cells, sentence))
    head = el("tr", [el("th", each, scope="col") for each in heads])
    return el("div", el("table", el("thead", head), el("tbody", lines), class_="figures"), class_="wide")


def settings(recipe: Recipe, lang: str) -> Child:
    """Every field of the recipe, in groups."""
    boxes = []
    for group, names in _SETTINGS:
        pairs = [
            (name, value_words(getattr(recipe, name), lang)) for name in names if not (recipe.method == "full" and name in _NO_ADAPTER)
        ]
        boxes.append((text(f"page.settings.{group}", lang), pairs))
    return boxes_of_pairs(boxes)


def boxes_of_pairs(boxes: Iterable[tuple[str, Iterable[tuple[str, str]]]]) -> Child:
    """Groups of names and values side by side: (headline, pairs) each."""
    return el(
        "div",
        [
            el("div", el("h3", head), el("dl", [el("div", el("dt", name), el("dd", value)) for name, value in pairs]))
            for head, pairs in boxes
        ],
        class_="settings",
    )


def value_words(value: object, lang: str) -> str:
    """A value of a setting: on or off, names, numbers with separators."""
    if isinstance(value, bool):
        return text("page.on" if value else "page.off", lang)
    if isinstance(value, (tuple, list)):
        return ", ".join(map(str, value)) or "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else "–" if value is None else str(value)
