"""Where the time of a step goes, and what would change it."""

from __future__ import annotations

from collections.abc import Iterable

from ftadvise.advisor.plan_types import Bottleneck
from ftadvise.advisor.texts import Text, message
from ftadvise.estimator.estimate_types import Estimate
from ftadvise.rendering.estimate_view import speed_line
from ftadvise.rendering.page_parts.bar import Segment, bar, legend
from ftadvise.rendering.page_parts.elements import Child, el, words
from ftadvise.rendering.texts import text
from ftadvise.rendering.units import duration

_LETTERS = {
    "matmul": ("M", "c1"),
    "adapters": ("A", "c3"),
    "attention": ("S", "c2"),
    "elementwise": ("E", "c6"),
    "dequantization": ("D", "c5"),
    "loss": ("L", "c7"),
    "optimizer": ("O", "c4"),
    "communication": ("N", "c8"),
    "launch": ("H", "n1"),
}
_SMALLEST_SHOWN = 0.0005


def step_time(estimate: Estimate, lang: str) -> list[Child]:
    """The line of the plan about speed, and the bar of the classes of work."""
    line = el("p", speed_line(estimate, lang).plain)
    speed = estimate.throughput
    if speed is None or not speed.shares:
        return [line]
    segments = [
        Segment(_name(name, lang), f"{100 * share:.1f} %", *_LETTERS.get(name, ("?", "n2")), share)
        for name, share in sorted(speed.shares.items(), key=lambda item: -item[1])
        if share >= _SMALLEST_SHOWN
    ]
    drawn = bar(segments, text("page.step", lang, step=duration(speed.seconds_per_step)))
    stretches = " · ".join(f"{text(f'page.stretch.{name}', lang)} {100 * share:.0f} %" for name, share in speed.stretches.items() if share)
    return [
        line,
        drawn,
        legend(segments),
        el("p", text("page.stretches", lang, stretches=stretches), class_="quiet") if stretches else None,
    ]


def bottleneck_words(bottleneck: Bottleneck, lang: str) -> list[Child]:
    """What bounds the step, and the changes that make it faster or smaller."""
    blocks: list[Child] = [el("p", bottleneck.bound.in_language(lang))]
    for key, sentences in (("plan.faster", bottleneck.faster), ("plan.smaller", bottleneck.smaller)):
        if sentences:
            blocks += [el("h3", text(key, lang)), sentence_list(sentences, lang)]
    return blocks


def sentence_list(sentences: Iterable[Text], lang: str) -> Child:
    """A list of sentences."""
    return el("ul", [el("li", words(each.in_language(lang))) for each in sentences])


def _name(share: str, lang: str) -> str:
    return message(f"work_{share}").in_language(lang)
