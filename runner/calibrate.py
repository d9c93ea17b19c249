"""`ftadvise calibrate`: measure this device, keep the figures, and check them with a few real steps. Imports torch inside functions."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftadvise.estimator.calibration import Device, DeviceCalibration, installed_version
from ftadvise.estimator.calibration_store import store_device
from ftadvise.estimator.data_settings import DataSettings
from ftadvise.estimator.plan_file import MadeFor, PlanFile
from ftadvise.estimator.recipe import Dtype, Recipe
from ftadvise.estimator.stack import trl_loss
from ftadvise.profiles.errors import FtadviseError, InputError, InterruptedRunError, OutOfMemoryError
from ftadvise.profiles.hardware import Hardware
from ftadvise.runner.cpu_process import share_cores
from ftadvise.runner.supported import check_installed, check_supported

if TYPE_CHECKING:
    from rich.console import Console

    from ftadvise.runner.bench_device import BenchDevice
    from ftadvise.runner.microbenchmark import Sizes

_PACKAGES = ("torch", "transformers", "peft", "trl", "bitsandbytes")
CHECK_MODEL = "ftadvise/random-llama"
CHECK_STEPS = 10
"""Two that are metered, which slows them down, and eight for the speed."""
_CHECK_CONFIGS = {
    # widths of a 135M and a 1B model, few layers, and a head that weighs a fifth of them, as it does there
    "cpu": {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 6144},
    "cuda": {"hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 24576},
}
_CHECK_BATCH: dict[str, dict[str, Any]] = {
    "cpu": {"micro_batch": 2, "seq_len": 96, "gradient_checkpointing": True},
    "cuda": {"micro_batch": 4, "seq_len": 1024, "gradient_checkpointing": True},
}


def calibrate(hardware: Hardware, *, console: Console, sizes: Sizes | None = None) -> DeviceCalibration:
    """Measure this machine's first GPU, or its CPU, store the figures, and return them.

    Args:
        hardware: this machine, probed.
        console: where progress goes.
        sizes: what is measured; by default what fits the device.

    Raises:
        InputError: the training libraries are not installed or cannot use the GPU, or the store cannot be written.
        OutOfMemoryError: other processes hold the GPU's memory.
    """
    check_installed()
    device = Device.of(hardware)
    if device is None:
        raise InputError("only the machine at hand can be measured", hint="ftadvise calibrate, without a GPU's name")
    if hardware.gpu is None:
        share_cores()
    import torch

    from ftadvise.runner.bench_device import bench_device

    if device.kind == "cuda" and not torch.cuda.is_available():
        raise InputError(f"torch {device.torch} cannot use {device.name}", hint="ftadvise doctor")
    bench = bench_device(device.kind, hardware.gpu.uuid if hardware.gpu else None)
    try:
        figures = _figures(bench, sizes, training_dtype(hardware), hardware, console)
    except torch.OutOfMemoryError:
        raise OutOfMemoryError(
            f"{device.name} has too little free memory to be measured", hint="ftadvise probe shows what holds it"
        ) from None
    calibration = DeviceCalibration(
        device,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions={name: found for name in _PACKAGES if (found := installed_version(name))},
        **figures,
    )
    store_device(calibration)
    return calibration


def check_recipes(hardware: Hardware) -> tuple[Recipe, ...]:
    """The recipes of the check: LoRA, QLoRA where bitsandbytes is installed, and full fine-tuning, each a few short steps."""
    dtype = training_dtype(hardware)
    shape = _CHECK_BATCH["cuda" if hardware.gpu else "cpu"]
    lora = Recipe(
        compute_dtype=dtype,
        adapter_dtype="fp32",
        gradient_accumulation=1,
        dropout=0.0,
        loss=trl_loss(version("trl")),  # type: ignore[arg-type]
        max_steps=CHECK_STEPS,
        **shape,
    )
    quantized = lora.replace(quantization="nf4", double_quantization=True, adapter_dtype="bf16" if dtype == "bf16" else "fp32")
    return (lora, quantized, lora.replace(method="full", learning_rate=1e-5))


def check_calibration(hardware: Hardware, *, console: Console) -> int:
    """Train a small model of random weights for a few steps with each of `check_recipes`; each is stored as a record of the calibration.

    A recipe that this machine cannot run is left out, with a line that says why. Returns the number of recipes that ran.

    Raises:
        InterruptedRunError: Ctrl-C.
    """
    from rich.console import Console

    from ftadvise.runner.supervisor import in_this_process, run_plan

    done, silent = 0, Console(quiet=True)
    for recipe in check_recipes(hardware):
        try:
            check_supported(recipe, hardware)
            console.print(f"{CHECK_STEPS} steps of {recipe.label} with random weights", highlight=False)
            with tempfile.TemporaryDirectory(prefix="ftadvise-calibrate-") as folder:
                plan = _check_plan(hardware, recipe, Path(folder))
                run_plan(
                    plan,
                    out_dir=Path(folder) / "run",
                    hardware=hardware,
                    rehearse=True,
                    max_steps=CHECK_STEPS,
                    console=silent,
                    kind="calibration",
                    start=in_this_process(hardware, silent),
                )
            done += 1
        except InterruptedRunError:
            raise InterruptedRunError("stopped while checking; the measured figures are stored") from None
        except FtadviseError as error:
            console.print(f"{recipe.label} is left out: {error}", markup=False, highlight=False)
    return done


def training_dtype(hardware: Hardware) -> Dtype:
    """bf16 where the device has it, else fp16 on a GPU and fp32 on a CPU."""
    if hardware.gpu is not None:
        return "bf16" if hardware.gpu.supports_bf16 else "fp16"
    return "bf16" if hardware.cpu.supports_bf16 or hardware.cpu.supports_amx else "fp32"


def _figures(bench: BenchDevice, sizes: Sizes | None, dtype: Dtype, hardware: Hardware, console: Console) -> dict[str, Any]:
    from ftadvise.runner import microbenchmark as measure
    from ftadvise.runner.host_time import host_seconds

    sizes = sizes or measure.SIZES[bench.name]
    figures: dict[str, Any] = {}
    began = time.perf_counter()

    def stages() -> Iterator[str]:
        yield "matrix products"
        figures["matmul_flops_per_s"] = rates = measure.matmul_rates(bench, sizes)
        yield "memory bandwidth"
        figures["bandwidth_bytes_per_s"] = measure.bandwidth(bench, sizes, dtype)
        yield "de-quantisation"
        figures["dequantize_bytes_per_s"] = measure.expansion_rates(bench, sizes, dtype)
        yield "attention"
        figures["attention_share"] = measure.attention_shares(bench, sizes, dtype, rates[dtype])
        yield "launch times"
        figures["kernel_s"] = bench.kernel_seconds()
        figures["host_s"] = host_seconds(bench, hardware, dtype, figures["kernel_s"])
        figures["processors"], figures["context_bytes"] = bench.processors(), bench.context_bytes()

    for stage in stages():
        console.print(f"{time.perf_counter() - began:5.1f} s  {stage}", highlight=False)
    return figures


def _check_plan(hardware: Hardware, recipe: Recipe, folder: Path) -> PlanFile:
    kind = "cuda" if hardware.gpu else "cpu"
    model = folder / "model"
    model.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": 4,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
        **_CHECK_CONFIGS[kind],
    }
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return PlanFile(
        model_id=CHECK_MODEL,
        parameters=1,
        local_path=str(model),
        made_for=MadeFor.of(hardware),
        stack={"name": "trl", "versions": {}},
        recipe=recipe,
        data=DataSettings(),
        predicted={"memory": {}, "throughput": None},
        ftadvise_version=installed_version("ftadvise") or "",
    )
