"""Recipe: one complete training configuration, frozen and hashable.

The advisor proposes it, the estimator prices it, the runner executes it, exporters translate it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

from ftadvise.profiles.errors import InputError, did_you_mean

Method = Literal["lora", "dora", "adalora", "ia3", "prefix", "prompt", "adapter", "full"]
Quantization = Literal["none", "nf4", "fp4", "int8"]
Dtype = Literal["fp32", "fp16", "bf16"]
Attention = Literal["eager", "sdpa", "flash_attention_2"]
Loss = Literal["full", "chunked", "fused"]
Optimizer = Literal[
    "adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit", "adafactor", "sgd", "lion_32bit", "lion_8bit"
]
Sharding = Literal["none", "ddp", "zero1", "zero2", "zero3", "fsdp"]
Offload = Literal["none", "optimizer", "parameters", "all"]

LATER_FIELDS = frozenset({"rslora"})
"""Fields that files of earlier versions lack; the default is what those versions did."""

DTYPE_BYTES: dict[str, int] = {"fp32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True, slots=True)
class Recipe:
    """One training configuration; every field is priced, executed and exported.

    `rslora` scales LoRA by alpha / sqrt(rank) in place of alpha / rank (arXiv 2312.03732).
    Lengths are tokens, `micro_batch` sequences per GPU and forward pass. `max_steps` is optimizer steps; 0 means `epochs` decides.
    Raises InputError on construction when a value is out of range or two fields contradict each other.
    """

    method: Method = "lora"
    quantization: Quantization = "none"
    double_quantization: bool = False
    compute_dtype: Dtype = "bf16"
    adapter_dtype: Dtype = "fp32"
    rank: int = 16
    alpha: int = 32
    rslora: bool = False
    dropout: float = 0.05
    target_modules: tuple[str, ...] = ("all-linear",)
    high_precision_modules: tuple[str, ...] = ()
    micro_batch: int = 1
    gradient_accumulation: int = 16
    seq_len: int = 1024
    packing: bool = False
    gradient_checkpointing: bool = True
    attention: Attention = "sdpa"
    loss: Loss = "fused"
    optimizer: Optimizer = "adamw_torch"
    sharding: Sharding = "none"
    offload: Offload = "none"
    learning_rate: float = 2e-4
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    warmup_ratio: float = 0.03
    max_grad_norm: float = 1.0
    epochs: float = 3.0
    max_steps: int = 0
    seed: int = 42

    def __post_init__(self) -> None:
        _check_types(self)
        for name in ("rank", "alpha", "micro_batch", "gradient_accumulation", "seq_len"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.seq_len > 10_000_000:
            raise InputError(f"seq_len {self.seq_len} is beyond any model (limit 10,000,000 tokens)")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout must be in [0, 1), not {self.dropout}")
        if not 0 < self.learning_rate < 10:
            raise InputError(f"learning_rate must be in (0, 10), not {self.learning_rate}")
        if not self.target_modules:
            raise InputError("target_modules is empty: nothing would be trained", hint="use all-linear, or names such as q_proj,v_proj")
        if not 0 <= self.warmup_ratio < 1:
            raise InputError(f"warmup_ratio is a share of all steps, in [0, 1), not {self.warmup_ratio}")
        if self.max_grad_norm < 0:
            raise InputError(f"max_grad_norm must be at least 0 (0 switches clipping off), not {self.max_grad_norm}")
        if self.max_steps < 0 or self.epochs <= 0:
            raise InputError("max_steps must be >= 0 and epochs > 0")
        if self.rslora and self.method not in ("lora", "dora"):
            raise InputError(f"rslora is a scaling of LoRA and DoRA, not of {self.method}", hint="use method lora, or rslora: false")
        if self.method == "full" and self.quantization != "none":
            raise InputError(
                f"full fine-tuning cannot train a {self.quantization} base: quantised weights have no gradient",
                hint="use --method lora with --quantization nf4 (QLoRA), or --quantization none",
            )
        if self.double_quantization and self.quantization not in ("nf4", "fp4"):
            raise InputError(f"double_quantization needs nf4 or fp4, not {self.quantization}")

    @property
    def label(self) -> str:
        """The name people use: "QLoRA" for LoRA on a 4-bit base, "LoRA", "full", ..."""
        names = {"lora": "LoRA", "dora": "DoRA", "adalora": "AdaLoRA", "ia3": "IA3", "prefix": "prefix tuning"}
        names |= {"prompt": "prompt tuning", "adapter": "bottleneck adapter", "full": "full fine-tuning"}
        name = names[self.method]
        if self.rslora:
            return f"{dataclasses.replace(self, rslora=False).label} (rank-stabilised)"
        if self.quantization in ("nf4", "fp4"):
            return ("Q" + name) if self.method in ("lora", "dora") else f"{name} on {self.quantization}"
        return f"{name} on int8" if self.quantization == "int8" else name

    @property
    def sequences_per_step(self) -> int:
        """Sequences that one optimizer step sees on one GPU."""
        return self.micro_batch * self.gradient_accumulation

    def replace(self, **changes: Any) -> Recipe:
        """A copy with some fields changed; validated like a new one."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Every field as JSON- and YAML-ready values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any], *, where: str = "recipe") -> Recipe:
        """The inverse of `to_dict`; also of what versions wrote that had fewer fields.

        Raises:
            InputError: unknown or missing key, or a value of the wrong type or out of range; names `where`.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise InputError(f"{where}: unknown key {key!r}", hint=did_you_mean(str(key), known) or f"known keys: {', '.join(known)}")
        missing = [name for name in known if name not in values and name not in LATER_FIELDS]
        if missing:
            raise InputError(f"{where}: missing {', '.join(missing)}")
        try:
            fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
            return cls(**fields)
        except InputError as error:
            raise InputError(f"{where}: {error}", hint=error.hint) from None


@functools.cache
def _hints() -> tuple[tuple[str, Any, tuple[Any, ...]], ...]:
    """Name, declared type and permitted values of each field."""
    return tuple((name, hint, get_args(hint)) for name, hint in get_type_hints(Recipe).items())


def _check_types(recipe: Recipe) -> None:
    """Raise InputError when a field does not have the declared type (values may come from an edited file)."""
    for name, hint, choices in _hints():
        value = getattr(recipe, name)
        if hint is bool:
            ok, wanted = isinstance(value, bool), "true or false"
        elif hint is int:
            ok, wanted = isinstance(value, int) and not isinstance(value, bool), "a whole number"
        elif hint is float:
            ok, wanted = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value), "a number"
        elif hint == tuple[str, ...]:
            ok, wanted = isinstance(value, tuple) and all(isinstance(v, str) for v in value), "a list of names"
        else:
            ok, wanted = value in choices, "one of " + ", ".join(map(str, choices))
        if not ok:
            hint_text = did_you_mean(value, choices) if isinstance(value, str) and choices and choices[-1] is not Ellipsis else None
            raise InputError(f"{name} must be {wanted}, not {value!r}", hint=hint_text)
