"""What `ftadvise deploy` shows: what was made, the lines to type, and the memory of every form and way of serving."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ftadvise.estimator.inference import InferenceMemory
from ftadvise.estimator.tenants import Tenancy
from ftadvise.rendering.chinese import in_language
from ftadvise.rendering.sentence import Sentence
from ftadvise.rendering.texts import text
from ftadvise.rendering.units import gib
from ftadvise.runner.deploy.deployment import Deployment

_COMPONENTS = ("weights", "kv_cache", "activations", "context")
_SHOWN_FILES = 6


def show_deployment(deployment: Deployment, console: Console, lang: str) -> None:
    """Everything, in the order in which it is needed. Lines to type are never broken, so that they can be copied."""
    if deployment.folder is not None:
        named = [f"{name} ({gib(size)})" for name, size in deployment.files.items()]
        shown = ", ".join(named[:_SHOWN_FILES]) + (f" +{len(named) - _SHOWN_FILES}" if len(named) > _SHOWN_FILES else "")
        console.print(Sentence(text("deploy.wrote", lang, folder=deployment.folder, files=shown), style="bold"))
    if deployment.why is not None:
        console.print(Sentence(text("deploy.not_made", lang, why=in_language(deployment.why, lang)), style="yellow"))
    for command in deployment.commands:
        if command.what:
            console.print(Sentence(f"# {in_language(command.what, lang)}", style="dim"))
        console.print(Text(command.line), soft_wrap=True)
    for note in deployment.notes:
        console.print(Sentence(f"• {in_language(note, lang)}", style="yellow"))
    console.print()
    console.print(_memory_title(deployment, lang))
    console.print(_memory_table(deployment, lang))
    console.print(Sentence(text("deploy.marks", lang), style="dim"))
    if deployment.tenants:
        console.print()
        console.print(Text(text("deploy.tenants", lang, count=deployment.tenants[0].tenants), style="bold"))
        console.print(_tenants_table(deployment, lang))


def _memory_title(deployment: Deployment, lang: str) -> Text:
    serving = deployment.serving
    title = Text(text("deploy.memory", lang, count=serving.concurrent, tokens=f"{serving.context_tokens:,}"), style="bold")
    if deployment.available_bytes is not None:
        title.append("  " + text("deploy.card", lang, gpu=deployment.gpu, available=gib(deployment.available_bytes)), style="dim")
    return title


def _memory_table(deployment: Deployment, lang: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(text("deploy.form", lang), overflow="fold")
    table.add_column(text("deploy.runtime", lang), overflow="fold")
    for name in _COMPONENTS:
        table.add_column(text("component.context" if name == "context" else f"deploy.{name}", lang), justify="right", overflow="fold")
    table.add_column(text("deploy.total", lang), justify="right", overflow="fold")
    for memory in deployment.memory:
        chosen = memory.form == deployment.form
        over = deployment.available_bytes is not None and memory.total_bytes > deployment.available_bytes
        total = Text(gib(memory.total_bytes), style="bold red" if over else "bold" if chosen else "")
        cells = [_cell(memory, name) for name in _COMPONENTS]
        table.add_row(Text(("> " if chosen else "  ") + memory.form, style="bold" if chosen else ""), memory.runtime, *cells, total)
    return table


def _cell(memory: InferenceMemory, name: str) -> str:
    """Bytes and how sure they are; the weights hold the quantisation constants too."""
    size = memory.part(name) + (memory.part("quantization_constants") if name == "weights" else 0)
    rough = any(part.sureness == "rough" and part.size_bytes for part in memory.parts if part.name == name)
    return ("~" if rough else "") + gib(size)


def _tenants_table(deployment: Deployment, lang: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(text("deploy.way", lang), overflow="fold")
    for name in ("device", "further", "ram", *(("most_tenants", "most_sequences") if deployment.available_bytes is not None else ())):
        table.add_column(text(f"deploy.{name}", lang), justify="right", overflow="fold")
    for way in deployment.tenants:
        table.add_row(text(f"deploy.way.{way.way}", lang), *_tenant_cells(way, lang, fits=deployment.available_bytes is not None))
    return table


def _tenant_cells(way: Tenancy, lang: str, *, fits: bool) -> list[str]:
    cells = [gib(way.device_bytes), gib(way.per_tenant_bytes), gib(way.ram_bytes) if way.ram_bytes else "-"]
    if fits:
        cells.append(text("deploy.by_ram", lang) if way.most_tenants is None else f"{way.most_tenants:,}")
        cells.append("-" if way.most_sequences is None else f"{way.most_sequences:,}")
    return cells
