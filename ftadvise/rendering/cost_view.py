"""What a training costs: time, money with what the price rests on, energy."""

from __future__ import annotations

from collections.abc import Callable

from rich.text import Text

from ftadvise.estimator.cost import Cost, Span
from ftadvise.estimator.estimate_types import Estimate
from ftadvise.profiles.gpu_prices import list_prices
from ftadvise.profiles.hardware import Hardware
from ftadvise.rendering.texts import text
from ftadvise.rendering.units import dollars, duration, kwh


def cost_lines(estimate: Estimate, lang: str) -> list[tuple[str, Text]]:
    """Head and words of each line: of the whole training, or of a million tokens where its length is not known; none without a speed."""
    cost = estimate.cost or estimate.cost_per_million_tokens
    if cost is None:
        return []
    time = _spanned(cost.hours, lambda hours: duration(3600 * hours), lang)
    if cost.steps is None:
        time += text("cost.per_million", lang)
    else:
        time = text("cost.steps", lang, steps=f"{cost.steps:,}") + time
    lines = [(text("cost.time", lang), _plain(time))]
    price = _price(cost, estimate.hardware, lang)
    if cost.usd is not None:
        line = _plain(_spanned(cost.usd, dollars, lang))
        line.append(price, style="dim")
        lines.append((text("cost.title", lang), line))
    elif cost.price_usd_per_gpu_hour is not None:
        lines.append((text("cost.title", lang), _plain(text("cost.no_power", lang))))
    elif estimate.hardware.gpus:
        lines.append((text("cost.title", lang), _plain(text("cost.no_price", lang))))
    if cost.energy_kwh is not None:
        line = _plain(_spanned(cost.energy_kwh, kwh, lang))
        line.append(text("cost.energy_of", lang), style="dim")
        lines.append((text("cost.energy", lang), line))
    return lines


def _plain(words: str) -> Text:
    return Text(words, style="not bold")


def _spanned(span: Span, words: Callable[[float], str], lang: str) -> str:
    """The figure with its interval; a figure without one alone."""
    if span.low == span.high:
        return words(span.value)
    return text("cost.span", lang, value=words(span.value), low=words(span.low), high=words(span.high))


def _price(cost: Cost, hardware: Hardware, lang: str) -> str:
    """The price per hour and where it is from."""
    if cost.price_usd_per_gpu_hour is None:
        return ""
    price = dollars(cost.price_usd_per_gpu_hour)
    words = text("cost.price_each" if cost.gpus > 1 else "cost.price", lang, price=price, gpus=cost.gpus)
    if cost.electricity_usd_per_kwh:
        words += text("cost.electricity", lang, price=dollars(cost.electricity_usd_per_kwh))
    listed = list_prices(hardware.gpus[0]) if cost.price_basis == "list" else None
    if cost.price_basis == "given":
        return words + text("cost.given", lang)
    if listed is None:
        return words + text("cost.listed", lang)
    if listed.points == 1:
        words += text("cost.one_list_price", lang)
    else:
        words += text("cost.list_prices", lang, points=listed.points, low=dollars(listed.low), high=dollars(listed.high))
    if listed.as_of is None:
        return words + text("cost.undated", lang)
    return words + text("cost.dated", lang, dated=listed.dated, date=listed.as_of)
