"""Ollama: a GGUF file and the Modelfile that names it, its chat layout and where answers end."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ftadvise.estimator.gguf_layout import check_gguf_kind
from ftadvise.estimator.plan_file import write_text_atomically
from ftadvise.runner.deploy import gguf
from ftadvise.runner.deploy.chat_layout import ChatLayout, chat_layout
from ftadvise.runner.deploy.deployment import Command, Request, Work, shell
from ftadvise.runner.deploy.gguf_file import WRITABLE
from ftadvise.runner.finished_run import load_run_tokenizer

_QUANTIZES = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k")
"""What `ollama create --quantize` makes of a 16-bit file (Ollama's docs/import.md)."""


def plan(request: Request) -> Work:
    """A GGUF file as `gguf.plan` makes it, with a Modelfile; a mixture that is not made here is left to `ollama create`.

    Raises:
        InputError: unknown quantisation.
    """
    kind = check_gguf_kind(request.quantization or gguf.DEFAULT)
    by_ollama = kind not in WRITABLE and kind in _QUANTIZES and gguf.find_tool("llama-quantize") is None
    made = "bf16" if by_ollama else kind
    inner = gguf.plan(dataclasses.replace(request, quantization=made))
    file = f"{request.name}-{made}.gguf"
    text, notes = _modelfile(request, file)
    create = ["ollama", "create", request.name, "-f", request.folder / "Modelfile"]
    create += ["--quantize", kind.upper()] if by_ollama else []
    commands: tuple[Command, ...] = (
        Command("make the model known to Ollama", shell(*create)),
        Command("talk to it", shell("ollama", "run", request.name)),
    )
    commands += _adapter_commands(request)
    inner_write = inner.write
    if inner_write is None:
        by_hand = tuple(each for each in inner.commands if not each.line.startswith("llama-server"))
        shown = Command("write this as " + str(request.folder / "Modelfile"), text)
        return dataclasses.replace(inner, form=f"gguf:{kind}", commands=(*by_hand, shown, *commands), notes=inner.notes + notes)

    def write(folder: Path) -> None:
        inner_write(folder)
        write_text_atomically(folder / "Modelfile", text)

    return dataclasses.replace(inner, form=f"gguf:{kind}", commands=commands, write=write, notes=inner.notes + notes)


def _modelfile(request: Request, file: str) -> tuple[str, tuple[str, ...]]:
    """The Modelfile, and what should be known about it."""
    tokenizer, notes = load_run_tokenizer(request.run), []
    lines = [f"# {request.name}, written by ftadvise deploy", f"FROM ./{file}"]
    layout = chat_layout(tokenizer)
    template = go_template(layout) if layout is not None else None
    if layout is None or template is None:
        notes.append("the chat template is more than fixed texts around each turn: Ollama reads it from the GGUF file itself")
    else:
        lines.append(f'TEMPLATE """{template}"""')
        if layout.default_system and '"""' not in layout.default_system:
            lines.append(f'SYSTEM """{layout.default_system}"""')
    lines += [f"PARAMETER stop {_quoted(stop)}" for stop in _stops(tokenizer, layout)]
    lines.append(f"PARAMETER num_ctx {request.serving.context_tokens}")
    return "\n".join(lines) + "\n", tuple(notes)


def go_template(layout: ChatLayout) -> str | None:
    """The layout in the language of Ollama's templates, for one turn; None when a piece cannot be written in it."""
    before, after, user_before, user_after, answer_before, answer_after = pieces = dataclasses.astuple(layout)[:6]
    if answer_before.strip() or any("{{" in piece or "}}" in piece or '"""' in piece for piece in pieces):
        return None
    system = f"{{{{ if .System }}}}{before}{{{{ .System }}}}{after}{{{{ end }}}}" if layout.takes_system else ""
    return f"{system}{user_before}{{{{ .Prompt }}}}{user_after}{{{{ .Response }}}}{answer_after}"


def _stops(tokenizer: Any, layout: ChatLayout | None) -> list[str]:
    """Where an answer ends: the end token, and what the layout writes after an answer or before the next question."""
    found = [tokenizer.eos_token]
    if layout is not None:
        found += [layout.answer_after.strip(), layout.user_before.strip()]
    return [stop for stop in dict.fromkeys(found) if stop and stop.isprintable() and len(stop) < 100]


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _adapter_commands(request: Request) -> tuple[Command, ...]:
    """The adapter on its base instead of a merged copy: a Modelfile of two lines for each tenant."""
    adapter = request.run.adapter
    if adapter is None or request.run.recipe.method != "lora":
        return ()
    file = request.folder / f"{request.name}-lora-f16.gguf"
    convert = shell("python", "llama.cpp/convert_lora_to_gguf.py", adapter, "--base", request.base, "--outfile", file, "--outtype", "f16")
    second = request.folder / "Modelfile.adapter"
    lines = shell("printf", "%s\\n", f"FROM {request.base.absolute()}", f"ADAPTER ./{file.name}") + f" > {shell(second)}"
    return (
        Command("several tenants on one base instead: the adapter as GGUF", convert),
        Command("a Modelfile for it", lines),
        Command("make it known", shell("ollama", "create", f"{request.name}-adapter", "-f", second)),
    )
