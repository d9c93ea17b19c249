"""GPTQ in 4 bits with GPTQModel, calibrated on the run's own data: a script with its data, run here where GPTQModel is installed.

AutoGPTQ (last release March 2024) and AutoAWQ (May 2025) are no longer maintained; GPTQModel and llm-compressor took their place.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from ftadvise.estimator.gguf_layout import inference_data
from ftadvise.estimator.plan_file import write_text_atomically
from ftadvise.estimator.weight_forms import weight_bytes
from ftadvise.profiles.errors import InputError
from ftadvise.runner.deploy.calibration_rows import calibration_file
from ftadvise.runner.deploy.deployment import Command, Request, Work, merge_command, shell
from ftadvise.runner.deploy.merged import check_mergeable, merged_folder

_SCRIPT, _DATA, _MODEL = "quantize.py", "calibration.jsonl", "model"
_TEXT = '''"""Quantise a merged model with GPTQ. Written by ftadvise deploy.

    python quantize.py MERGED_MODEL_FOLDER OUTPUT_FOLDER
"""

import json
import sys
from pathlib import Path

from gptqmodel import GPTQModel, QuantizeConfig

source, target = sys.argv[1:3]
lines = (Path(__file__).parent / "{data}").read_text(encoding="utf-8").splitlines()
rows = [json.loads(line) for line in lines]
model = GPTQModel.load(source, QuantizeConfig(bits={bits}, group_size={group_size}))
model.quantize(rows, batch_size=1)  # more is faster where the memory allows it
model.save(target)
'''
_OTHER_BYTES = 64 << 20


def plan(request: Request) -> Work:
    """Script and calibration data, and the quantised model where GPTQModel is installed.

    Raises:
        InputError: another quantisation was asked for, or the adapter cannot be merged.
    """
    settings = inference_data()["gptq"]
    if request.quantization not in (None, "gptq", f"{settings['bits']}bit"):
        raise InputError(f"--to gptq makes {settings['bits']} bits, not {request.quantization!r}", hint="leave --quantization out")
    check_mergeable(request.run)
    installed = importlib.util.find_spec("gptqmodel") is not None
    target = request.folder / _MODEL
    serve = Command("serve it with vLLM", shell("vllm", "serve", target, "--max-model-len", request.serving.context_tokens))
    by_hand = (
        Command("in an environment with torch and a GPU", "pip install gptqmodel"),
        *merge_command(request),
        Command("quantise", shell("python", request.folder / _SCRIPT, request.merged, target)),
        serve,
    )

    def write(folder: Path) -> None:
        request.say("writing the calibration data")
        write_text_atomically(folder / _DATA, calibration_file(request.run))
        write_text_atomically(folder / _SCRIPT, _TEXT.format(data=_DATA, bits=settings["bits"], group_size=settings["group_size"]))
        if installed:
            model = merged_folder(request.run, folder / "merged", say=request.say)
            request.say("quantising with GPTQModel")
            _run(folder / _SCRIPT, model, folder / _MODEL)
            shutil.rmtree(folder / "merged", ignore_errors=True)

    notes = ("AutoGPTQ and AutoAWQ are no longer maintained; vLLM and transformers read what GPTQModel writes",)
    why = None if installed else "GPTQModel is not installed; the script and its calibration data are written"
    size = _OTHER_BYTES + (weight_bytes(request.spec, "gptq").total if installed else 0)
    return Work("gptq", (serve,) if installed else by_hand, write=write, why=why, needs_bytes=size, merges=installed, notes=notes)


def _run(script: Path, source: Path, target: Path) -> None:
    words = [sys.executable, str(script), str(source), str(target)]
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        last = "".join(letter if letter.isprintable() else " " for letter in said[-1])[:200]
        raise InputError(f"GPTQModel failed: {last}", hint="try it on a machine with a GPU, with the script it would have run")
