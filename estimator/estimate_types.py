"""What an estimate says: memory by component and phase, throughput, and how sure we are. Bytes and seconds."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.hardware import Gpu, Hardware
from ftadvise.profiles.model_spec import ModelSpec

Basis = Literal["derived", "traced", "calibrated", "measured"]
Phase = Literal["load", "forward", "backward", "optimizer_step", "evaluation"]
Verdict = Literal["fits", "tight", "does_not_fit"]
PHASES: tuple[Phase, ...] = ("load", "forward", "backward", "optimizer_step", "evaluation")


@dataclass(frozen=True, slots=True)
class Components:
    """Bytes by what they are for. All but `context` sum to the allocated bytes of the moment described."""

    weights: int = 0
    quantization_constants: int = 0
    adapters: int = 0
    gradients: int = 0
    optimizer_state: int = 0
    activations: int = 0
    loss: int = 0
    workspace: int = 0
    context: int = 0

    @property
    def allocated_bytes(self) -> int:
        """Sum of everything but the context."""
        return (
            self.weights
            + self.quantization_constants
            + self.adapters
            + self.gradients
            + self.optimizer_state
            + self.activations
            + self.loss
            + self.workspace
        )


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Peaks in bytes. `low_bytes` and `high_bytes` bound `device_used_bytes`; the verdict uses the upper end.

    On the CPU `peak_reserved_bytes` equals `peak_allocated_bytes` (no caching allocator) and `device_used_bytes` is the
    process's peak resident memory.
    """

    peak_allocated_bytes: int
    peak_reserved_bytes: int
    device_used_bytes: int
    low_bytes: int
    high_bytes: int
    available_bytes: int
    verdict: Verdict
    peak_phase: Phase
    phases: dict[Phase, int]
    components: Components
    basis: Basis = "derived"
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the upper end of the interval fits the available memory."""
        return self.verdict != "does_not_fit"


@dataclass(frozen=True, slots=True)
class ThroughputEstimate:
    """Speed of training. `tokens_per_second` counts padded tokens; `low` and `high` bound it.

    `seconds_per_step` is one optimizer step (all micro batches of the accumulation).
    """

    tokens_per_second: float
    seconds_per_step: float
    low: float
    high: float
    bound_by: Literal["compute", "memory", "overhead"]
    shares: dict[str, float] = field(default_factory=dict)
    basis: Basis = "derived"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stack:
    """The training code that executes a recipe, and its versions; memory depends on it."""

    name: str
    versions: dict[str, str] = field(default_factory=dict)
    upcasts_kbit: bool = False
    """`prepare_model_for_kbit_training`: embeddings, head and norms in fp32."""
    keeps_logits: bool = False
    """With full logits: the model's output outlives the forward pass (transformers 4; 5 drops it before backward)."""
    default_loss: str = "fused"
    default_adapter_dtype: str = "fp32"


@dataclass(frozen=True, slots=True)
class Estimate:
    """Memory, time and parameter counts of one recipe on one machine with one stack."""

    model: ModelSpec
    hardware: Hardware
    stack: Stack
    recipe: Recipe
    memory: MemoryEstimate
    throughput: ThroughputEstimate | None
    trainable_parameters: int
    basis: Basis = "derived"

    def to_json(self) -> dict[str, Any]:
        """The stable document `ftadvise.estimate/1` (bytes and seconds; every Recipe field)."""
        gpu: Gpu | None = self.hardware.gpu
        memory = self.memory
        throughput = None
        if self.throughput is not None:
            throughput = {
                "tokens_per_second": round(self.throughput.tokens_per_second, 2),
                "seconds_per_step": round(self.throughput.seconds_per_step, 5),
                "low": round(self.throughput.low, 2),
                "high": round(self.throughput.high, 2),
                "bound_by": self.throughput.bound_by,
                "basis": self.throughput.basis,
            }
        return {
            "schema": "ftadvise.estimate/1",
            "basis": self.basis,
            "model": {"id": self.model.id, "parameters": self.model.total_params},
            "gpu": {
                "name": gpu.name if gpu else self.hardware.cpu.name,
                "memory_bytes": gpu.memory_bytes if gpu else self.hardware.ram_bytes,
            },
            "device": "cuda" if gpu else "cpu",
            "stack": {"name": self.stack.name, "versions": dict(self.stack.versions)},
            "recipe": self.recipe.to_dict(),
            "memory": {
                "peak_allocated_bytes": memory.peak_allocated_bytes,
                "peak_reserved_bytes": memory.peak_reserved_bytes,
                "device_used_bytes": memory.device_used_bytes,
                "low_bytes": memory.low_bytes,
                "high_bytes": memory.high_bytes,
                "available_bytes": memory.available_bytes,
                "fits": memory.fits,
                "verdict": memory.verdict,
                "peak_phase": memory.peak_phase,
                "phases": {phase: memory.phases.get(phase, 0) for phase in PHASES},
                "components": dataclasses.asdict(memory.components),
                "notes": list(memory.notes),
            },
            "throughput": throughput,
            "trainable_parameters": self.trainable_parameters,
        }
