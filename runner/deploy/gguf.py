"""GGUF for llama.cpp and what is built on it: through llama.cpp's own converter where it is installed, else with the gguf package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from ftadvise.estimator.gguf_layout import check_gguf_kind
from ftadvise.estimator.weight_forms import weight_bytes
from ftadvise.profiles.errors import InputError
from ftadvise.runner.deploy.deployment import Command, Request, Work, merge_command, shell
from ftadvise.runner.deploy.gguf_file import WRITABLE, check_writable, write_gguf
from ftadvise.runner.deploy.gguf_tokenizer import NotConvertibleError, gguf_vocabulary
from ftadvise.runner.deploy.merged import merged_folder
from ftadvise.runner.finished_run import load_run_tokenizer

DEFAULT = "q8_0"
"""Half of 16 bits, and nearly as good (llama.cpp's own figures); the smallest that needs no llama.cpp to make."""
_CONVERTER, _QUANTIZER = "convert_hf_to_gguf.py", "llama-quantize"
_CONVERTER_MAKES = ("f32", "f16", "bf16", "q8_0")
_FOLDER_VARIABLE = "LLAMA_CPP_DIR"
_GET_LLAMA_CPP = (
    Command("get llama.cpp and what its converter needs", "git clone --depth 1 https://github.com/ggml-org/llama.cpp"),
    Command("", "pip install -r llama.cpp/requirements/requirements-convert_hf_to_gguf.txt"),
)


def plan(request: Request) -> Work:
    """How the model becomes a GGUF file here.

    Raises:
        InputError: unknown quantisation.
    """
    kind = check_gguf_kind(request.quantization or DEFAULT)
    file = f"{request.name}-{kind}.gguf"
    notes = _adapter_notes(request)
    commands = serve_commands(request, request.folder / file) + _tenant_commands(request)
    converter, quantizer = find_tool(_CONVERTER), find_tool(_QUANTIZER)
    try:
        intermediate, why = _route(request, kind, converter, quantizer)
    except NotConvertibleError as error:
        return Work(f"gguf:{kind}", _by_hand(request, kind, file) + commands, why=str(error), notes=notes)
    if intermediate is None:
        return Work(f"gguf:{kind}", _by_hand(request, kind, file) + commands, why=why, notes=notes)
    size = weight_bytes(request.spec, f"gguf:{kind}").total + weight_bytes(request.spec, f"gguf:{intermediate}").total

    def write(folder: Path) -> None:
        _convert(request, merged_folder(request.run, folder / "merged", say=request.say), folder, file, kind, intermediate)
        shutil.rmtree(folder / "merged", ignore_errors=True)

    ram = 2 * 4 * request.spec.vocab_size * request.spec.hidden_size  # the largest matrix in fp32, and what it is turned into
    return Work(f"gguf:{kind}", commands, write=write, needs_bytes=size, ram_bytes=ram, merges=True, notes=notes)


def find_tool(name: str) -> Path | None:
    """A program of llama.cpp: in the folder that LLAMA_CPP_DIR names, or on the path."""
    folder = os.environ.get(_FOLDER_VARIABLE)
    if folder:
        for place in (Path(folder), Path(folder) / "build" / "bin"):
            if (place / name).is_file():
                return place / name
    found = shutil.which(name)
    return Path(found) if found else None


def serve_commands(request: Request, file: Path) -> tuple[Command, ...]:
    """The lines that answer from a GGUF file."""
    serving = request.serving
    total = serving.context_tokens * serving.concurrent
    return (
        Command(
            "serve it with llama.cpp (all layers on the GPU)",
            shell("llama-server", "-m", file, "-c", total, "-np", serving.concurrent, "-ngl", 99),
        ),
    )


def _route(request: Request, kind: str, converter: Path | None, quantizer: Path | None) -> tuple[str | None, str | None]:
    """(the quantisation of the file that is converted first, None) or (None, why there is no way)."""
    if kind in _CONVERTER_MAKES and converter is not None:
        return kind, None
    if kind in WRITABLE:
        _check_ours(request, kind)
        return kind, None
    if quantizer is None:
        return None, f"{kind} is made by llama.cpp's {_QUANTIZER}, which is not on the path nor in {_FOLDER_VARIABLE}"
    if converter is None:
        _check_ours(request, "bf16")
    return "bf16", None


def _check_ours(request: Request, kind: str) -> None:
    check_writable(request.base, kind)
    gguf_vocabulary(load_run_tokenizer(request.run), request.spec.vocab_size)


def _convert(request: Request, model: Path, folder: Path, file: str, kind: str, intermediate: str) -> None:
    target = folder / (file if intermediate == kind else f"{intermediate}.gguf")
    converter = find_tool(_CONVERTER)
    request.say(f"writing {file}")
    if converter is not None and intermediate in _CONVERTER_MAKES:
        _run([sys.executable, str(converter), str(model), "--outfile", str(target), "--outtype", intermediate])
    else:
        write_gguf(model, target, intermediate, load_run_tokenizer(request.run), name=request.name)
    if intermediate != kind:
        _run([str(find_tool(_QUANTIZER)), str(target), str(folder / file), kind.upper()])
        target.unlink()


def _run(words: list[str]) -> None:
    """Run a program of llama.cpp to its end.

    Raises:
        InputError: it failed; the last line of what it said.
    """
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()] or ["no message"]
        last = "".join(letter if letter.isprintable() else " " for letter in said[-1])[:200]
        raise InputError(f"{Path(words[1] if words[0] == sys.executable else words[0]).name} failed: {last}")


def _by_hand(request: Request, kind: str, file: str) -> tuple[Command, ...]:
    """The lines that make the file where llama.cpp is installed."""
    made = request.folder / file
    first = kind if kind in _CONVERTER_MAKES else "bf16"
    between = made if first == kind else request.folder / f"{request.name}-{first}.gguf"
    lines = [
        *_GET_LLAMA_CPP,
        *merge_command(request),
        Command("make the folder", shell("mkdir", "-p", request.folder)),
        Command(
            "convert",
            shell("python", f"llama.cpp/{_CONVERTER}", request.merged, "--outfile", between, "--outtype", first),
        ),
    ]
    if first != kind:
        lines.append(
            Command("build the quantiser", "cmake -S llama.cpp -B llama.cpp/build && cmake --build llama.cpp/build --target llama-quantize")
        )
        lines.append(Command("quantise", shell(f"llama.cpp/build/bin/{_QUANTIZER}", between, made, kind.upper())))
    return tuple(lines)


def _tenant_commands(request: Request) -> tuple[Command, ...]:
    """One base and several adapters: each adapter a small GGUF file of its own."""
    if request.run.adapter is None or request.run.recipe.method != "lora" or request.tenants < 2:
        return ()
    file, base = request.folder / f"{request.name}-lora-f16.gguf", request.folder / "base-q8_0.gguf"
    return (
        *_GET_LLAMA_CPP,
        Command(
            "several tenants: the base once",
            shell("python", f"llama.cpp/{_CONVERTER}", request.base, "--outfile", base, "--outtype", "q8_0"),
        ),
        Command(
            "and the adapter of each tenant",
            shell("python", "llama.cpp/convert_lora_to_gguf.py", request.run.adapter, "--base", request.base, "--outfile", file)
            + " --outtype f16",
        ),
        Command(
            'serve all of them (repeat --lora; each request names its adapter under "lora")',
            shell("llama-server", "-m", base, "--lora-init-without-apply", "--lora", file, "-ngl", 99),
        ),
    )


def _adapter_notes(request: Request) -> tuple[str, ...]:
    notes = []
    if request.tenants > 1 and request.run.adapter is not None and request.run.recipe.method != "lora":
        notes.append("llama.cpp applies LoRA adapters only; other methods are merged, a copy for each tenant")
    return tuple(notes)
