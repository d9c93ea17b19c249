"""The memory meter: what a training step really holds, by phase and by component. Imports torch: import this module late.

On the CPU there is no allocator to ask, so the first steps run under a `StorageRecorder`, which sees every tensor. On CUDA the
caching allocator counts for us (`max_memory_allocated`, `max_memory_reserved`) and NVML says what the process takes.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from transformers import TrainerCallback

from ftadvise.estimator.estimate_types import Components, Phase
from ftadvise.estimator.storage_recorder import Moment, StorageRecorder, local_part

METERED_STEPS = 2
"""The first optimizer step creates the optimizer state; the second shows it together with the activations."""

_DEFINITIONS = {
    "cpu": "allocated = bytes of live tensors seen by a dispatch-mode meter in the {steps} metered optimizer steps; "
    "device used = peak resident memory of the process",
    "cuda": "allocated = torch.cuda.max_memory_allocated, reserved = max_memory_reserved of the {steps} metered optimizer steps; "
    "device used = NVML's figure for this process",
}


@dataclass(frozen=True, slots=True)
class MeasuredMemory:
    """Bytes measured. `components` is the breakdown at the peak; on CUDA activations are what is left after the static parts.

    `peak_reserved_bytes` is None on the CPU (no caching allocator).
    """

    peak_allocated_bytes: int
    peak_reserved_bytes: int | None
    device_used_bytes: int | None
    phases: dict[Phase, int]
    components: Components
    peak_phase: Phase
    definition: str
    metered_steps: int
    padded_tokens: tuple[int, int] = (0, 0)
    """(sequences, padded length) of the largest metered batch."""
    notes: tuple[str, ...] = field(default_factory=tuple)


class Meter:
    """Meters one model on one device. Use `watch` around the forward passes and `step` around each optimizer step.

    Args:
        model: the (PEFT-wrapped) model, already on its device.
        device: "cpu" or "cuda".
        load_peak_bytes: the peak while loading, when the caller metered it.
    """

    def __init__(self, model: torch.nn.Module, device: str, *, load_peak_bytes: int = 0) -> None:
        self.device = device
        self.steps = 0
        self.batch = (0, 0)
        self._model = model
        self._recorder = StorageRecorder(device) if device == "cpu" else None
        self._phases: dict[Phase, int] = {"load": load_peak_bytes}
        self._handles: list[Any] = []
        self._optimizer_state_bytes = 0
        self._reserved_bytes = 0
        self._gradient_bytes = 0

    @contextmanager
    def step(self, optimizer_of: Any) -> Iterator[None]:
        """One optimizer step: all forward and backward passes and the update. `optimizer_of()` returns the optimizer."""
        self._begin()
        try:
            yield
        finally:
            self._end(optimizer_of())

    def _begin(self) -> None:
        self._hook_phases()
        if self._recorder is None:
            torch.cuda.reset_peak_memory_stats()
            return
        recorder = self._recorder
        for name, tensor in _named_static(self._model):
            recorder.adopt([tensor], _static_label(name, tensor))
        self.enter("forward")
        recorder.__enter__()

    def _end(self, optimizer: Any) -> None:
        self._close_phase()
        if self._recorder is not None:
            self._recorder.__exit__(None, None, None)
            self._recorder.adopt(_optimizer_tensors(optimizer), "optimizer_state")
        self._optimizer_state_bytes = _storage_bytes(_optimizer_tensors(optimizer), self.device)
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.steps += 1

    def enter(self, phase: Phase) -> None:
        """From now on, what is allocated belongs to `phase`."""
        self._close_phase()
        self._current_phase = phase
        if self._recorder is not None:
            self._recorder.phase = phase
            self._recorder.label = "workspace" if phase == "optimizer_step" else "activations"

    def before_update(self) -> None:
        """Gradients are complete: name them, and enter the optimizer step."""
        gradients = [p.grad for p in self._model.parameters() if p.grad is not None]
        self._gradient_bytes = _storage_bytes(gradients, self.device)
        if self._recorder is not None:
            self._recorder.adopt(gradients, "gradients")
        self.enter("optimizer_step")

    def _close_phase(self) -> None:
        phase = getattr(self, "_current_phase", None)
        if phase is None or self._recorder is not None:
            return
        self._phases[phase] = max(self._phases.get(phase, 0), torch.cuda.max_memory_allocated())
        self._reserved_bytes = max(self._reserved_bytes, torch.cuda.max_memory_reserved())
        torch.cuda.reset_peak_memory_stats()  # else the next phase would repeat this one's peak

    def _hook_phases(self) -> None:
        """Follow forward, loss and backward through module hooks on the model and its decoder stack."""
        whole = self._model
        base = whole.get_base_model() if hasattr(whole, "get_base_model") else whole
        decoder = getattr(base, "base_model", base)

        def forward_begins(_module: Any, _args: Any, kwargs: Any) -> None:
            self.enter("forward")
            ids = kwargs.get("input_ids")
            if ids is not None:
                self.batch = max(self.batch, (ids.shape[0], ids.shape[1]), key=lambda shape: shape[0] * shape[1])

        def decoder_ends(_module: Any, _args: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output.last_hidden_state
            if self._recorder is None:
                return
            self._recorder.label = "loss"
            if hidden.requires_grad:
                hidden.register_hook(self._loss_is_done)

        def forward_ends(_module: Any, _args: Any, _output: Any) -> None:
            label = self._recorder.label if self._recorder is not None else None
            self.enter("backward")
            if self._recorder is not None and label == "loss":
                self._recorder.label = label

        self._handles += [
            whole.register_forward_pre_hook(forward_begins, with_kwargs=True),
            decoder.register_forward_hook(decoder_ends),
            whole.register_forward_hook(forward_ends),
        ]

    def _loss_is_done(self, gradient: torch.Tensor) -> None:
        if self._recorder is not None:
            self._recorder.label = "activations"

    def result(self) -> MeasuredMemory:
        """What was measured so far.

        Raises:
            RuntimeError: no step was metered.
        """
        if self.steps == 0:
            raise RuntimeError("no step was metered")
        definition = _DEFINITIONS[self.device].format(steps=self.steps)
        if self._recorder is not None:
            return self._cpu_result(definition)
        return self._cuda_result(definition)

    def _cpu_result(self, definition: str) -> MeasuredMemory:
        assert self._recorder is not None  # noqa: S101 - narrows the type
        moments: dict[str, Moment] = self._recorder.peaks()
        phase, moment = max(moments.items(), key=lambda item: item[1].total_bytes)
        names = {f.name for f in fields(Components)}
        phases = self._phases | {name: peak.total_bytes for name, peak in moments.items()}
        return MeasuredMemory(
            peak_allocated_bytes=moment.total_bytes,
            peak_reserved_bytes=None,
            device_used_bytes=peak_resident_bytes(),
            phases=phases,  # type: ignore[arg-type]
            components=Components(**{k: v for k, v in moment.by_label.items() if k in names}),
            peak_phase=phase,  # type: ignore[arg-type]
            definition=definition,
            metered_steps=self.steps,
            padded_tokens=self.batch,
        )

    def _cuda_result(self, definition: str) -> MeasuredMemory:
        peak_phase = max((p for p in self._phases if p != "load"), key=lambda p: self._phases[p])
        peak = self._phases[peak_phase]
        static: dict[str, int] = {}
        for label, tensors in _group(_named_static(self._model)).items():
            static[label] = _storage_bytes(tensors, "cuda")
        static["gradients"] = self._gradient_bytes
        static["optimizer_state"] = self._optimizer_state_bytes
        used, note = nvml_process_bytes()
        return MeasuredMemory(
            peak_allocated_bytes=peak,
            peak_reserved_bytes=self._reserved_bytes,
            device_used_bytes=used,
            phases=self._phases,
            components=Components(**static, activations=max(0, peak - sum(static.values()))),
            peak_phase=peak_phase,
            definition=definition + "; activations = peak allocated minus the static parts",
            metered_steps=self.steps,
            padded_tokens=self.batch,
            notes=(note,) if note else (),
        )


class MeterCallback(TrainerCallback):  # type: ignore[misc]
    """Hangs a `Meter` into a transformers Trainer for the first `METERED_STEPS` optimizer steps."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self._running: Any = None
        self._optimizer: Any = None

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        """Start metering before the first micro batch of the step."""
        self._optimizer = optimizer
        if self.meter.steps < METERED_STEPS:
            self._running = self.meter.step(lambda: self._optimizer)
            self._running.__enter__()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The gradients are complete and clipped; the update follows."""
        if self._running is not None:
            self.meter.before_update()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The update is done and the gradients are released."""
        self.close()

    def close(self) -> None:
        """Stop metering the current step, if any; also after an error, so that no dispatch mode stays behind."""
        if self._running is not None:
            running, self._running = self._running, None
            running.__exit__(None, None, None)


def make_meter(model: torch.nn.Module, device: str, *, load_peak_bytes: int = 0) -> Meter:
    """A meter for `model` on "cpu" or "cuda"."""
    return Meter(model, device, load_peak_bytes=load_peak_bytes)


def peak_resident_bytes() -> int:
    """Peak resident memory of this process so far (`getrusage`: kibibytes on Linux, bytes on macOS)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def _named_static(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters, buffers, and the constants that bitsandbytes keeps beside a quantised weight."""
    for name, parameter in model.named_parameters():
        yield name, parameter.data
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            nested = getattr(state, "state2", None)
            for constants in (state, nested):
                if constants is not None:
                    for attribute in ("absmax", "code", "offset"):
                        tensor = getattr(constants, attribute, None)
                        if isinstance(tensor, torch.Tensor):
                            yield f"{name}.quant_state.{attribute}", tensor
        for attribute in ("SCB", "CB"):
            tensor = getattr(parameter, attribute, None)
            if isinstance(tensor, torch.Tensor):
                yield f"{name}.quant_state.{attribute}" if attribute == "SCB" else name, tensor
    yield from ((name, buffer) for name, buffer in model.named_buffers())


def _static_label(name: str, tensor: torch.Tensor) -> str:
    if ".quant_state." in name:
        return "quantization_constants"
    adapter = any(part in name for part in ("lora_", "modules_to_save", "prompt_encoder", "ia3_", "bottleneck_"))
    return "adapters" if adapter else "weights"


def _group(named: Iterator[tuple[str, torch.Tensor]]) -> dict[str, list[torch.Tensor]]:
    groups: dict[str, list[torch.Tensor]] = {}
    for name, tensor in named:
        groups.setdefault(_static_label(name, tensor), []).append(tensor)
    return groups


def _optimizer_tensors(optimizer: Any) -> list[torch.Tensor]:
    inner = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps the optimizer
    state = getattr(inner, "state", {})
    return [value for slot in state.values() for value in slot.values() if isinstance(value, torch.Tensor)]


def _storage_bytes(tensors: list[torch.Tensor], device: str) -> int:
    """Bytes of distinct storages on `device`."""
    storages = [local_part(tensor).untyped_storage() for tensor in tensors if tensor.device.type == device]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def nvml_process_bytes() -> tuple[int | None, str | None]:
    """What NVML says this process holds on the current GPU, or None and why not (containers hide it)."""
    import pynvml

    try:
        pynvml.nvmlInit()
        uuid = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode())
        mine = [p for p in pynvml.nvmlDeviceGetComputeRunningProcesses(handle) if p.pid == os.getpid()]
        if mine and mine[0].usedGpuMemory is not None:
            return int(mine[0].usedGpuMemory), None
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).used), "NVML hides processes here: device used is the whole GPU's"
    except pynvml.NVMLError as error:
        return None, f"NVML did not answer: {error}"
