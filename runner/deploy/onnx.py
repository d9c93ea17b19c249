"""ONNX: the merged model as one graph through torch.onnx, checked against torch with onnxruntime; other exporters as lines to type.

The graph maps input_ids and attention_mask (batch x tokens) to logits. It has no KV cache: right for scoring, classification and short
answers; for long answers onnxruntime-genai's builder makes one with a cache. Optimum's exporter (optimum-onnx 0.1) wants transformers
below 4.58, so it needs an environment of its own.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ftadvise.estimator.weight_forms import weight_bytes
from ftadvise.profiles.errors import FtadviseError, InputError
from ftadvise.runner.deploy.deployment import Command, Request, Work, merge_command, shell
from ftadvise.runner.deploy.merged import check_mergeable, merged_folder
from ftadvise.runner.finished_run import load_run_tokenizer
from ftadvise.runner.quiet import ignoring, quiet_libraries

_NEEDED = ("onnx", "onnxscript")
_FORMS = {None: "onnx", "fp32": "onnx", "f32": "onnx", "int8": "onnx-int8"}
_CHATTER = (r"`isinstance\(treespec, LeafSpec\)` is deprecated", r"# The axis name: ")
"""Warnings of the exporter about itself."""
_SAMPLE = "The quick brown fox"
_COPIES = 2
"""Of the fp32 weights in RAM at most: torch's, and those of the session that checks the graph, or of the quantiser."""
_TOLERANCE = 1e-3
"""Of the largest logit: fp32 sums in another order differ by far less."""


def plan(request: Request) -> Work:
    """The graph in fp32, or with 8-bit weights; lines for the rest.

    Raises:
        InputError: another quantisation was asked for, or the adapter cannot be merged.
    """
    if request.quantization not in _FORMS:
        raise InputError(f"--to onnx makes fp32 or int8, not {request.quantization!r}", hint="fp16 and int4: with the printed lines")
    check_mergeable(request.run)
    form = _FORMS[request.quantization]
    missing = [name for name in (*_NEEDED, *(["onnxruntime"] if form == "onnx-int8" else [])) if importlib.util.find_spec(name) is None]
    commands = _by_hand(request)
    notes = ("the graph has no KV cache: each token of an answer reads the whole text again; onnxruntime-genai's has one",)
    if missing:
        install = Command("what the export here needs", 'pip install "ftadvise[onnx]"')
        return Work(form, (install, *commands), why=f"not installed: {', '.join(missing)}")
    size = weight_bytes(request.spec, "onnx").total + (weight_bytes(request.spec, "onnx-int8").total if form == "onnx-int8" else 0)

    def write(folder: Path) -> None:
        model = merged_folder(request.run, folder / "merged", say=request.say)
        tokenizer = load_run_tokenizer(request.run)
        with _quiet():
            request.say("exporting the graph")
            export(model, folder / "model.onnx", tokenizer)
            if form == "onnx-int8":
                request.say("quantising")
                _quantize(folder)
        tokenizer.save_pretrained(folder)
        shutil.rmtree(folder / "merged", ignore_errors=True)

    ram = _COPIES * weight_bytes(request.spec, "onnx").total
    return Work(form, commands, write=write, needs_bytes=size, ram_bytes=ram, merges=True, notes=notes)


def export(model_folder: Path, path: Path, tokenizer: Any) -> float | None:
    """Write the model as an ONNX graph; the largest difference of a logit from torch's, None without onnxruntime.

    Raises:
        InputError: torch cannot export this model.
        FtadviseError: the graph answers something else than the model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    class Logits(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits

    with quiet_libraries(), ignoring(*_CHATTER), torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(
            model_folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, attn_implementation="eager"
        ).eval()
        encoded = tokenizer([_SAMPLE, _SAMPLE + _SAMPLE], return_tensors="pt", padding=True)
        inputs = (encoded["input_ids"], encoded["attention_mask"])
        expected = model(input_ids=inputs[0], attention_mask=inputs[1]).logits
        batch, tokens = torch.export.Dim("batch", min=1), torch.export.Dim("tokens", min=1)
        shapes = {"input_ids": {0: batch, 1: tokens}, "attention_mask": {0: batch, 1: tokens}}
        try:
            torch.onnx.export(
                Logits(model).eval(),
                inputs,
                str(path),
                input_names=["input_ids", "attention_mask"],
                output_names=["logits"],
                dynamic_shapes=shapes,
                dynamo=True,
                external_data=True,
                verbose=False,
            )
        except (RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"torch cannot export this model ({reason})", hint="use one of the exporters that are printed") from None
    return _difference(path, inputs, expected)


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings in the log: the exporter and the quantiser talk about packages that nobody needs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _difference(path: Path, inputs: Any, expected: Any) -> float | None:
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"input_ids": inputs[0].numpy(), "attention_mask": inputs[1].numpy()})
    real = inputs[1].numpy().astype(bool)
    difference = float(np.abs(logits - expected.numpy())[real].max())
    if not difference <= _TOLERANCE * max(1.0, float(expected.abs().max())):
        raise FtadviseError(f"the ONNX graph does not answer like the model: logits differ by {difference:.3g}")
    return difference


def _quantize(folder: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(folder / "model.onnx", folder / "model-int8.onnx", weight_type=QuantType.QInt8, use_external_data_format=True)
    for name in ("model.onnx", "model.onnx.data"):
        (folder / name).unlink(missing_ok=True)


def _by_hand(request: Request) -> tuple[Command, ...]:
    merged, folder = request.merged, request.folder
    return (
        *merge_command(request),
        Command("with a KV cache, for generation: ONNX Runtime GenAI", "pip install onnxruntime-genai onnx onnx_ir torch transformers"),
        Command(
            "4 bits on the CPU (or -p fp16 -e cuda)",
            shell("python", "-m", "onnxruntime_genai.models.builder", "-i", merged, "-o", f"{folder}-genai", "-p", "int4", "-e", "cpu"),
        ),
        Command(
            "Optimum's exporter, in an environment of its own (it wants transformers < 4.58)", 'pip install "optimum-onnx[onnxruntime]"'
        ),
        Command("", shell("optimum-cli", "export", "onnx", "--model", merged, "--task", "text-generation-with-past", f"{folder}-optimum")),
    )
