"""Memory by component against the card: what is used, what is free, what cannot be had, and how sure that is."""

from __future__ import annotations

import dataclasses

from ftadvise.estimator.estimate_types import PHASES, Estimate
from ftadvise.rendering.page_parts.bar import Segment, bar, gone, interval, legend, limit, over
from ftadvise.rendering.page_parts.elements import Child, el
from ftadvise.rendering.texts import text
from ftadvise.rendering.units import gib

_LETTERS = {
    "weights": ("W", "c1"),
    "quantization_constants": ("Q", "c2"),
    "adapters": ("A", "c3"),
    "gradients": ("G", "c4"),
    "optimizer_state": ("O", "c5"),
    "activations": ("V", "c6"),
    "loss": ("L", "c7"),
    "workspace": ("T", "c8"),
    "reserve": ("R", "n1"),
    "context": ("C", "n2"),
}
_SMALLEST_SHOWN = 1 << 18


def memory_bar(estimate: Estimate, lang: str) -> list[Child]:
    """The bar, its key, the components and the phases."""
    memory, on_gpu = estimate.memory, bool(estimate.hardware.gpus)
    total = estimate.hardware.gpus[0].memory_bytes if on_gpu else estimate.hardware.ram_bytes
    scale = max(total, memory.available_bytes, memory.high_bytes, memory.device_used_bytes)
    segments = _segments(estimate, scale, lang)
    words = text("memory.of", lang, used=gib(memory.device_used_bytes), available=gib(memory.available_bytes))
    drawn = bar(
        segments,
        words,
        gone(max(memory.available_bytes, memory.device_used_bytes) / scale, total / scale),
        over(memory.available_bytes / scale, memory.high_bytes / scale),
        limit(memory.available_bytes / scale),
        *interval(memory.low_bytes / scale, memory.high_bytes / scale),
    )
    free = memory.available_bytes - memory.high_bytes
    key = [
        _key("interval", text("page.interval", lang, low=gib(memory.low_bytes), high=gib(memory.high_bytes))),
        _key("limit", text("page.available", lang, available=gib(memory.available_bytes))),
        _key("free", text("page.free", lang, free=gib(free))) if free >= 0 else _key("over", text("page.over", lang, missing=gib(-free))),
        _key("gone", text("page.gone" if on_gpu else "page.gone_cpu", lang, gone=gib(total - memory.available_bytes), total=gib(total)))
        if total > max(memory.available_bytes, memory.device_used_bytes)
        else None,
    ]
    return [drawn, el("p", key, class_="key"), legend(segments), _phases(estimate, lang)]


def _segments(estimate: Estimate, scale: int, lang: str) -> list[Segment]:
    memory, on_gpu = estimate.memory, bool(estimate.hardware.gpus)
    sizes = dataclasses.asdict(memory.components)
    context = sizes.pop("context")
    sizes |= {"reserve": memory.peak_reserved_bytes - memory.peak_allocated_bytes, "context": context}
    segments = []
    for name, size in sizes.items():
        if size >= _SMALLEST_SHOWN:
            letter, color = _LETTERS[name]
            key = "component.context_cpu" if name == "context" and not on_gpu else f"component.{name}"
            segments.append(Segment(text(key, lang), gib(size), letter, color, size / scale))
    return segments


def _key(shape: str, words: str) -> Child:
    return el("span", el("i", class_=f"mark {shape}", aria_hidden="true"), words)


def _phases(estimate: Estimate, lang: str) -> Child:
    """The highest moment of each phase, in the order of a training."""
    memory = estimate.memory
    parts = [f"{text(f'phase.{phase}', lang)} {gib(memory.phases[phase])}" for phase in PHASES if memory.phases.get(phase)]
    peak = text(f"phase.{memory.peak_phase}", lang)
    where = " ".join(filter(None, (memory.peak_operation, memory.peak_module)))
    if where:
        peak = text("page.where", lang, phase=peak, where=where)
    sentence = text("page.phases", lang, peak=peak, phases=" · ".join(parts))
    return el("p", sentence, class_="quiet")
