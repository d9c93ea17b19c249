"""What an estimate says: memory by component and phase, throughput, and how sure we are. Bytes and seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ftadvise.estimator.cost import Cost
from ftadvise.estimator.loss_kernel import LossKernel
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
    peak_operation: str = ""
    """Who takes the storage that makes the peak, and in which module; empty where the peak is not one operation's."""
    peak_module: str = ""
    host_bytes: int = 0
    """In pinned host memory for each GPU, where a recipe offloads."""

    @property
    def fits(self) -> bool:
        """Whether the upper end of the interval fits the available memory."""
        return self.verdict != "does_not_fit"


@dataclass(frozen=True, slots=True)
class ThroughputEstimate:
    """Speed of training. `tokens_per_second` counts padded tokens of all GPUs; `low` and `high` bound it.

    `seconds_per_step` is one optimizer step (all micro batches of the accumulation). `shares`: of its time, by class of work
    (speed/step_time.py); `stretches`: of a micro batch's time on the device, forward, recomputation, backward. `mfu`: model FLOPs
    utilisation. `useful_share`: of the tokens, those that are not padding, where the data is known.
    """

    tokens_per_second: float
    seconds_per_step: float
    low: float
    high: float
    bound_by: Literal["compute", "memory", "overhead"]
    shares: dict[str, float] = field(default_factory=dict)
    stretches: dict[str, float] = field(default_factory=dict)
    mfu: float | None = None
    useful_share: float | None = None
    basis: Basis = "derived"
    notes: tuple[str, ...] = ()

    @property
    def useful_tokens_per_second(self) -> float | None:
        """Tokens that are not padding, where the data is known."""
        return None if self.useful_share is None else self.tokens_per_second * self.useful_share


@dataclass(frozen=True, slots=True)
class Stack:
    """The training code that executes a recipe, and what it does to memory. docs/stacks.md has the tensors of each kernel.

    `defaults` are recipe fields that the stack sets where the user did not, `quantized_defaults` those that differ on a quantised base.
    The dtype "compute" among them is the recipe's compute dtype.
    """

    name: str
    versions: dict[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    quantized_defaults: Mapping[str, Any] = field(default_factory=dict)
    autocast: bool = True
    """Products run in the compute dtype whatever they read; else each reads and makes the dtype of its input (pure 16-bit training)."""
    kbit_upcast: Literal["none", "norms", "all"] = "none"
    """On a quantised base, what becomes fp32: the weights of norms (whose outputs then are fp32), or all that is not quantised."""
    full_dtype: Literal["compute", "fp32"] = "compute"
    """Full fine-tuning: dtype of the trained weights, and so of gradients and moments; autocast casts them for each product."""
    model_code: Literal["transformers", "litgpt"] = "transformers"
    """Whose layers run: transformers' modules, or the stack's own."""
    masks_padding: bool = True
    """Attention is told which tokens are padding, by a mask; else it is only causal, and needs none."""
    keeps_4bit_inputs: bool = False
    """A 4-bit layer keeps its input, whether a checkpoint saves it or not, until the graph goes."""
    expands_4bit_to_fp16: bool = False
    """4-bit weights were quantised from fp16 and are expanded to it; for another compute dtype a cast copy is made beside."""
    quantizes_head: bool = False
    """The output head is quantised like every other linear layer."""
    fused: tuple[str, ...] = ()
    """Kernels that save less than the modules of transformers: "norm", "rope", "mlp", "lora"."""
    fused_quantized: tuple[str, ...] = ()
    """Further ones on a quantised base."""
    quantizes_subclasses: bool = True
    """Linear layers of a class derived from torch's (Falcon's) are quantised like others; else they stay as they are."""
    expert_modules: bool = False
    """Each expert is a module of linear layers, which quantisers and adapters reach (transformers 4); else fused 3-D parameters."""
    constant_ranks: bool = False
    """AdaLoRA's rank is a constant in the adapter's dtype; PEFT by itself trains it wherever it moves it to another device or dtype."""
    losses: Mapping[str, LossKernel] = field(default_factory=dict)
    """The implementation behind each value of `Recipe.loss`."""
    keeps_logits: bool = False
    """Full or kept logits: the caller holds the model's output, in the compute dtype, through backward and the optimizer step."""
    keeps_last_step: bool = False
    """The caller's names hold loss and logits of one step until the next forward pass has made new ones."""
    offloads_checkpoints: bool = False
    """Each checkpointed layer's input lives in host memory, except the last layer's; one buffer of that size comes back in backward."""
    reentrant_checkpoints: bool = False
    """A layer is recomputed to its end before its backward begins; else recomputing stops at the last tensor that backward needs."""
    pads_to_multiple: int = 1
    """Batches are padded to the next multiple of this many tokens."""
    packs_into_one_row: bool = False
    """A micro batch of packed sequences is one row, and attention is told where each begins (TRL's padding-free packing)."""
    eval_micro_batch: int = 0
    """Sequences per forward pass in evaluation; 0: as in training."""
    empty_cache_steps: int = 0
    """The allocator's cache is emptied after so many optimizer steps; 0: never."""

    @property
    def upcasts_kbit(self) -> bool:
        """`prepare_model_for_kbit_training`: embeddings, head and norms in fp32."""
        return self.kbit_upcast == "all"

    @property
    def default_loss(self) -> str:
        """Value of `Recipe.loss` that this stack computes."""
        return str(self.defaults.get("loss", "fused"))

    @property
    def default_adapter_dtype(self) -> str:
        """Of the adapters on a base that is not quantised: a dtype, or "compute"."""
        return str(self.defaults.get("adapter_dtype", "fp32"))

    def loss_kernel(self, loss: str) -> LossKernel:
        """How this stack computes a value of `Recipe.loss`."""
        return self.losses.get(loss) or LossKernel()

    def kernels(self, *, quantized: bool) -> frozenset[str]:
        """Names of the fused kernels that run."""
        return frozenset(self.fused + (self.fused_quantized if quantized else ()))

    def recipe_defaults(self, *, quantized: bool, compute_dtype: str) -> dict[str, Any]:
        """Recipe fields as this stack sets them. 16-bit adapters other than the compute dtype's do not occur: fp16 scales gradients,
        which needs fp32 parameters.
        """
        values = {**self.defaults, **(self.quantized_defaults if quantized else {})}
        dtype = values.get("adapter_dtype")
        if dtype == "compute":
            values["adapter_dtype"] = compute_dtype
        elif dtype == "bf16" and compute_dtype != "bf16":
            values["adapter_dtype"] = "fp32"
        return values


@dataclass(frozen=True, slots=True)
class Estimate:
    """Memory, time and parameter counts of one recipe on one machine with one stack.

    `cost` is the whole training's, where its length is known, `cost_per_million_tokens` by padded tokens; `cost.with_cost` sets both.
    """

    model: ModelSpec
    hardware: Hardware
    stack: Stack
    recipe: Recipe
    memory: MemoryEstimate
    throughput: ThroughputEstimate | None
    trainable_parameters: int
    basis: Basis = "derived"
    cost: Cost | None = None
    cost_per_million_tokens: Cost | None = None

    def to_json(self) -> dict[str, Any]:
        """The stable document `ftadvise.estimate/1` (bytes and seconds; every Recipe field)."""
        gpu: Gpu | None = self.hardware.gpu
        memory = self.memory
        throughput = None
        if self.throughput is not None:
            useful = self.throughput.useful_tokens_per_second
            throughput = {
                "tokens_per_second": round(self.throughput.tokens_per_second, 2),
                "seconds_per_step": round(self.throughput.seconds_per_step, 5),
                "low": round(self.throughput.low, 2),
                "high": round(self.throughput.high, 2),
                "bound_by": self.throughput.bound_by,
                "shares": {name: round(share, 4) for name, share in self.throughput.shares.items()},
                "stretches": {name: round(share, 4) for name, share in self.throughput.stretches.items()},
                "mfu": None if self.throughput.mfu is None else round(self.throughput.mfu, 4),
                "useful_tokens_per_second": None if useful is None else round(useful, 2),
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
                "peak_operation": memory.peak_operation,
                "peak_module": memory.peak_module,
                "host_bytes": memory.host_bytes,
                "basis": memory.basis,
                "phases": {phase: memory.phases.get(phase, 0) for phase in PHASES},
                "components": dataclasses.asdict(memory.components),
                "notes": list(memory.notes),
            },
            "throughput": throughput,
            "cost": self.cost.to_json() if self.cost else None,
            "cost_per_million_tokens": self.cost_per_million_tokens.to_json() if self.cost_per_million_tokens else None,
            "trainable_parameters": self.trainable_parameters,
        }
