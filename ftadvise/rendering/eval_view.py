"""An evaluation: base beside trained model, the difference with its interval, and a few answers."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ftadvise.profiles.printable import one_line, printable
from ftadvise.rendering.chinese import in_language
from ftadvise.rendering.texts import text
from ftadvise.runner.evaluate.evaluation import Evaluation
from ftadvise.runner.evaluate.paired import Measure

_SHOWN_CHARACTERS = 400
_NAMES = {"bleu": "BLEU", "rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}


def eval_view(evaluation: Evaluation, lang: str) -> RenderableType:
    """The table of measures, how they were counted, what was skipped and why, and samples."""
    data = evaluation.data
    title = text("eval.title", lang, label=evaluation.recipe, model=one_line(evaluation.model))
    counts = {"evaluated": f"{data['evaluated']:,}", "rows": f"{data['rows']:,}"}
    blocks: list[RenderableType] = [Text(title, style="bold")]
    blocks.append(Text(text("eval.data", lang, path=one_line(str(data["path"])), **counts)))
    if data["trained_on"]:
        blocks.append(Text(text("eval.trained_on", lang), style="yellow"))
    if data["left_out"]:
        blocks.append(Text(text("eval.left_out", lang, count=data["left_out"], seq_len=evaluation.settings["seq_len"]), style="yellow"))
    if evaluation.measures:
        blocks.append(_table(evaluation.measures, lang))
        blocks += [Text(line, style="dim") for line in dict.fromkeys(_how(measure, lang) for measure in evaluation.measures)]
    for metric, why in evaluation.skipped.items():
        blocks.append(Text(text("eval.skipped", lang, metric=metric, why=one_line(in_language(why, lang))), style="dim"))
    blocks += [Text(one_line(note), style="yellow") for note in evaluation.notes]
    if evaluation.samples:
        blocks += [Text(), _samples(evaluation, lang)]
    return Group(*blocks)


def _table(measures: tuple[Measure, ...], lang: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(text("eval.metric", lang))
    for key in ("base", "tuned", "difference", "interval"):
        table.add_column(text(f"eval.{key}", lang), justify="right")
    for measure in measures:
        values = [_number(value) for value in (measure.base, measure.tuned)]
        interval = (
            "-"
            if measure.low is None or measure.high is None
            else f"{_number(measure.low, sign=True)} … {_number(measure.high, sign=True)}"
        )
        name = _NAMES.get(measure.name) or text(f"eval.{measure.name}", lang)
        table.add_row(name, *values, Text(_number(measure.difference, sign=True), style=_style(measure)), interval)
    return table


def _style(measure: Measure) -> str:
    """Green for clearly better, red for clearly worse; nothing where the interval holds zero."""
    if not measure.is_clear:
        return ""
    return "green" if (measure.difference < 0) == measure.lower_is_better else "red"


def _number(value: float, *, sign: bool = False) -> str:
    digits = ".3g" if abs(value) >= 10_000 else ".1f" if abs(value) >= 100 else ".2f" if abs(value) >= 10 else ".3f"
    return f"{value:{'+' if sign else ''}{digits}}"


def _how(measure: Measure, lang: str) -> str:
    group = "ROUGE" if measure.name.startswith("rouge") else _NAMES.get(measure.name) or text(f"eval.{measure.name}", lang)
    return f"{group}: {in_language(measure.how, lang)}"


def _samples(evaluation: Evaluation, lang: str) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for place, sample in enumerate(evaluation.samples):
        if place:
            table.add_row("", "")
        table.add_row(text("report.prompt", lang), _cut(sample.prompt))
        table.add_row(text("eval.reference", lang), _cut(sample.reference))
        table.add_row(text("eval.base", lang), Text(_cut(sample.base).plain, style="dim"))
        table.add_row(text("eval.tuned", lang), _cut(sample.tuned))
    return table


def _cut(words: str) -> Text:
    shown = printable(words)
    return Text(shown if len(shown) <= _SHOWN_CHARACTERS else shown[: _SHOWN_CHARACTERS - 1] + "…")
