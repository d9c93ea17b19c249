"""The answer to `--gpu any`: which GPUs can do it, time against money."""

from __future__ import annotations

from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from ftadvise.advisor.limits import limit_words
from ftadvise.advisor.offers import Offer, Offers
from ftadvise.estimator.recipe import Recipe
from ftadvise.rendering.texts import text
from ftadvise.rendering.units import dollars, duration, gib, rate

_NAMED = 12


def offers_view(offers: Offers, lang: str) -> RenderableType:
    """The GPUs with a price that keep the limits, cheapest first, the Pareto front marked; the others by name."""
    if not offers.found:
        return Group(Text(text("offers.none", lang)), *_others("offers.too_small", offers.too_small, lang))
    within = [offer for offer in offers.found if offer.within_limits]
    priced = [offer for offer in within if offer.usd is not None]
    shown = priced or within
    request = offers.request
    count = f"{request.examples:,}" if request.examples else "?"
    epochs = f"{offers.found[0].estimate.recipe.epochs:g}"
    key, length = ("offers.per_million" if offers.per_million_tokens else "offers.whole"), f"{offers.seq_len:,}"
    lines = [
        Text(text(key, lang, examples=count, epochs=epochs, seq_len=length), style="dim"),
        Text(text("offers.front", lang), style="dim"),
    ]
    over = [offer.gpu.name for offer in offers.found if not offer.within_limits]
    lines += _others("offers.over", over, lang, limit=limit_words(request).in_language(lang))
    lines += _others("offers.no_price", [offer.gpu.name for offer in within if offer not in shown], lang)
    lines += _others("offers.too_small", offers.too_small, lang)
    title = text("offers.title", lang, model=offers.model.id, count=len(offers.found))
    return Group(Text(title, style="bold"), _Offers(tuple(shown), lang), *lines)


@dataclass(frozen=True, slots=True)
class _Offers:
    """The table; a narrow terminal leaves out what matters least."""

    offers: tuple[Offer, ...]
    lang: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        columns = [key for key, least in _COLUMNS.items() if width >= least]
        table = Table(box=box.SIMPLE_HEAD if width >= 60 else None, pad_edge=False, padding=(0, 2 if width >= 60 else 1, 0, 0))
        table.add_column("", no_wrap=True)
        for key in columns:
            left = key in ("gpu", "recipe")
            table.add_column(text(f"offers.{key}", self.lang), justify="left" if left else "right", no_wrap=not left, overflow="fold")
        for offer in self.offers:
            cells = _cells(offer, self.lang)
            table.add_row("*" if offer.pareto else "", *(cells[key] for key in columns), style="bold" if offer.pareto else "")
        yield table


_COLUMNS = {"gpu": 0, "recipe": 70, "memory": 60, "speed": 95, "time": 0, "cost": 0}
"""Columns and the width from which they are shown."""


def _cells(offer: Offer, lang: str) -> dict[str, str]:
    memory, speed = offer.estimate.memory, offer.estimate.throughput
    return {
        "gpu": offer.gpu.name,
        "recipe": recipe_words(offer.estimate.recipe, lang),
        "memory": ("~" if memory.verdict == "tight" else "") + gib(memory.device_used_bytes),
        "speed": rate(speed.tokens_per_second) if speed else "-",
        "time": duration(3600 * offer.hours) if offer.hours is not None else "-",
        "cost": dollars(offer.usd) if offer.usd is not None else "-",
    }


def best_offer(offers: Offers) -> Offer | None:
    """The one to name first: the cheapest that keeps the limits."""
    return next(iter(offers.found), None)


def recipe_words(recipe: Recipe, lang: str) -> str:
    """The recipe in a few words: "QLoRA, 2 × 8, ckpt"."""
    parts = [recipe.label, f"{recipe.micro_batch} × {recipe.gradient_accumulation}"]
    if recipe.gradient_checkpointing:
        parts.append(text("offers.checkpointing", lang))
    return ("，" if lang == "zh" else ", ").join(parts)


def _others(key: str, names: list[str] | tuple[str, ...], lang: str, **values: str) -> list[Text]:
    """One line with the first names of a group; nothing for an empty one."""
    if not names:
        return []
    listed = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    return [Text(text(key, lang, count=len(names), names=listed, **values), style="dim")]
