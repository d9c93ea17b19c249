"""One priced recipe: the recipe in a line, memory, speed."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from ftadvise.estimator.estimate_types import Estimate
from ftadvise.estimator.lengths import LengthStats
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.hardware import Hardware
from ftadvise.rendering.chinese import in_language
from ftadvise.rendering.cost_view import cost_lines
from ftadvise.rendering.memory_view import memory_view
from ftadvise.rendering.sentence import Sentence
from ftadvise.rendering.texts import text
from ftadvise.rendering.units import count, duration, gib, rate


def estimate_view(estimate: Estimate, lang: str, lengths: LengthStats | None = None) -> RenderableType:
    """Everything one estimate says; `lengths` of the data that it was made for."""
    title = Text(text("plan.title", lang, model=estimate.model.id, device=device_name(estimate.hardware, lang)), style="bold")
    return Group(title, recipe_line(estimate.recipe, lang), Text(), *figures(estimate, lang, lengths))


def figures(estimate: Estimate, lang: str, lengths: LengthStats | None = None) -> list[RenderableType]:
    """Memory, speed, cost, trained parameters, notes, the data's lengths."""
    device = "cuda" if estimate.hardware.gpus else "cpu"
    return [
        memory_view(estimate.memory, lang, device=device),
        _headed(text("speed.title", lang), speed_line(estimate, lang)),
        *(_headed(head, words) for head, words in cost_lines(estimate, lang)),
        _headed(text("trains.title", lang), Text(trained_words(estimate, lang), style="not bold")),
        *(_headed(text("note.title", lang), Text(in_language(note, lang), style="not bold")) for note in estimate.memory.notes),
        *([_headed(text("data.title", lang), data_line(lengths, estimate.recipe, lang))] if lengths else []),
    ]


def trained_words(estimate: Estimate, lang: str) -> str:
    """How many parameters are trained, and of how many."""
    percent = 100 * estimate.trainable_parameters / max(1, estimate.model.total_params)
    share = f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"
    return text("trains.line", lang, count=count(estimate.trainable_parameters), share=share, total=count(estimate.model.total_params))


def device_name(hardware: Hardware, lang: str) -> str:
    """A machine in a few words: "2 x RTX 4090 (24.0 GiB each)", or the CPU with its RAM."""
    gpus = hardware.gpus
    if not gpus:
        return text("device.cpu", lang, name=hardware.cpu.name, ram=gib(hardware.ram_bytes))
    size = gib(gpus[0].memory_bytes)
    return text("device.gpus" if len(gpus) > 1 else "device.gpu", lang, count=len(gpus), name=gpus[0].name, size=size)


def recipe_line(recipe: Recipe, lang: str) -> Text:
    """The recipe as an expert would say it."""
    line = Sentence(in_language(recipe.label, lang), style="bold cyan")
    parts = []
    if recipe.quantization != "none":
        parts.append(recipe.quantization + (" + double quantisation" if recipe.double_quantization and lang == "en" else ""))
        if recipe.double_quantization and lang == "zh":
            parts[-1] += " + 双重量化"
    if recipe.method != "full":
        parts.append(text("recipe.rank", lang, rank=recipe.rank, alpha=recipe.alpha))
        parts.append(", ".join(recipe.target_modules))
    parts.append(recipe.compute_dtype)
    parts.append(text("recipe.batch", lang, micro=recipe.micro_batch, accumulation=recipe.gradient_accumulation))
    parts.append(text("recipe.tokens", lang, count=f"{recipe.seq_len:,}"))
    parts.append(text("recipe.checkpointing" if recipe.gradient_checkpointing else "recipe.no_checkpointing", lang))
    parts += [recipe.attention, text("recipe.loss", lang, loss=recipe.loss), recipe.optimizer, f"lr {recipe.learning_rate:g}"]
    line.append("  " + " · ".join(parts), style="not bold default")
    return line


def _headed(head: str, body: Text) -> Text:
    line = Sentence(head, style="bold")
    line.append("  ")
    return line.append_text(body)


def data_line(lengths: LengthStats, recipe: Recipe, lang: str) -> Text:
    """How long the examples of the data are, and what that means for batches."""
    how = text("data.measured" if lengths.measured else "data.estimated", lang)
    shortest, longest = f"{lengths.lengths[0]:,}", f"{lengths.longest:,}"
    words = text(
        "data.line", lang, examples=f"{lengths.examples:,}", shortest=shortest, longest=longest, mean=f"{lengths.mean:,.0f}", how=how
    )
    line = Text(words, style="not bold")
    semicolon = "；" if lang == "zh" else "; "
    if recipe.micro_batch > 1 and not recipe.packing:
        length = f"{lengths.batch_length(recipe):,.0f}"
        line.append(semicolon + text("data.padded", lang, sequences=recipe.micro_batch, length=length), style="dim")
    if cut := lengths.truncated(recipe.seq_len):
        line.append(semicolon + text("data.truncated", lang, count=f"{cut:,}", seq_len=f"{recipe.seq_len:,}"), style="yellow")
    return line


def speed_line(estimate: Estimate, lang: str) -> Text:
    """Tokens per second with the interval, the time of a step, and what bounds it."""
    speed = estimate.throughput
    if speed is None:
        return Text(text("speed.unknown", lang), style="not bold")
    words = text(
        "speed.line",
        lang,
        speed=rate(speed.tokens_per_second),
        low=rate(speed.low),
        high=rate(speed.high),
        step=duration(speed.seconds_per_step),
    )
    line = Text(words, style="not bold")
    comma = "，" if lang == "zh" else ", "
    line.append(comma.join(["", text(f"bound.{speed.bound_by}", lang), text(f"basis.{speed.basis}", lang)]), style="dim")
    return line
