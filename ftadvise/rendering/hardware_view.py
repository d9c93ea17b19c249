"""The machine, and what `doctor` found."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ftadvise.doctor import Check
from ftadvise.profiles.hardware import Gpu, Hardware
from ftadvise.rendering.texts import text
from ftadvise.rendering.units import gib


def hardware_view(hardware: Hardware, lang: str) -> RenderableType:
    """GPUs with their memory and processes, the driver, RAM, CPU, and the probe's notes."""
    blocks: list[RenderableType] = []
    if hardware.gpus:
        blocks.append(Text(text("probe.gpus", lang), style="bold"))
        for gpu in hardware.gpus:
            blocks += _gpu(gpu, lang)
        if hardware.driver_version:
            cuda = hardware.cuda_version or text("word.unknown", lang)
            blocks.append(Text(text("probe.driver", lang, driver=hardware.driver_version, cuda=cuda), style="dim"))
    else:
        blocks.append(Text(text("probe.no_gpu", lang), style="bold"))
    blocks += [Text(note, style="dim") for note in hardware.notes]
    cpu = hardware.cpu
    flags = {"bf16": cpu.supports_bf16, "amx": cpu.supports_amx, "avx512": cpu.supports_avx512}
    words = {name: text("word.yes" if value else "word.no", lang) for name, value in flags.items()}
    blocks.append(Text(cpu.name, style="bold"))
    blocks.append(Text("  " + text("probe.cpu", lang, cores=cpu.physical_cores, logical=cpu.logical_cores, **words)))
    ram = text("probe.ram", lang, available=gib(hardware.ram_available_bytes), total=gib(hardware.ram_bytes))
    blocks.append(Text("  " + ram))
    return Group(*blocks)


def _gpu(gpu: Gpu, lang: str) -> list[RenderableType]:
    line = Text(f"  {gpu.index if gpu.index is not None else '-'}  {gpu.name}", style="cyan")
    free = gpu.memory_bytes if gpu.free_bytes is None else gpu.free_bytes
    line.append("  " + text("probe.memory", lang, free=gib(free), total=gib(gpu.memory_bytes)), style="default")
    if gpu.compute_capability:
        line.append("  sm {}.{}".format(*gpu.compute_capability), style="dim")
    if gpu.mig:
        line.append("  MIG", style="dim")
    rows: list[RenderableType] = [line]
    for process in gpu.processes:
        memory = text("word.unknown", lang) if process.memory_bytes is None else gib(process.memory_bytes)
        rows.append(Text("       " + text("probe.process", lang, pid=process.pid, name=process.name or "?", memory=memory), style="dim"))
    return rows


def checks_view(checks: list[Check], lang: str) -> RenderableType:
    """One line per check; a failed one with the command that mends it."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    for check in checks:
        table.add_row(Text("ok" if check.ok else "!!", style="green" if check.ok else "bold red"), check.name, check.finding)
        if check.remedy:
            table.add_row("", "", Text(check.remedy, style="yellow"))
    return table
