"""One published measurement as neutral settings, from which every adapter takes what its tool understands.

Independent of how ftadvise maps the same rows (benchmarks/accuracy): the raw columns are read here, with the same choices where the source
is silent. What was filled in, and what of the run no tool has a setting for, is named in `remarks`, which end up in the note.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

Metric = Literal["allocated", "reserved", "unnamed"]
Attention = Literal["eager", "sdpa", "flash_attention_2"]

ATTENTION_ROLES = ("q", "k", "v", "o")
MLP_ROLES = ("gate", "up", "down")
ALL_ROLES = ATTENTION_ROLES + MLP_ROLES

_ROLES = {
    **dict.fromkeys(("q", "q_proj", "query"), ("q",)),
    **dict.fromkeys(("k", "k_proj", "key"), ("k",)),
    **dict.fromkeys(("v", "v_proj", "value"), ("v",)),
    **dict.fromkeys(("o_proj", "output_proj", "projection"), ("o",)),
    **dict.fromkeys(("mlp", "mlp (w1,w2,w3)"), MLP_ROLES),
    "gate_proj": ("gate",),
    "up_proj": ("up",),
    "down_proj": ("down",),
    **dict.fromkeys(("head", "lm_head (output)"), ("head",)),
}
# Qwen v1: one matrix for q, k, v; both output projections are named c_proj; w1 and w2 are the two halves of the gated MLP.
_QWEN1_ROLES = {"c_attn": ("q", "k", "v"), "c_proj": ("o", "down"), "w1": ("up",), "w2": ("gate",)}
_QUANTIZED = {
    "nf4": "nf4",
    "4-bit": "nf4",
    "4-bit (bnb)": "nf4",
    "int4 (GPTQ)": "gptq-int4",
    "int8 (GPTQ)": "gptq-int8",
    "int4 (AWQ)": "awq-int4",
    "2-bit AQLM": "aqlm-2bit",
}
_PRECISION = {"bf16": "bf16", "bfloat16": "bf16", "fp16": "fp16", "float16": "fp16"}
# Nominal GiB of the cards in the table.
_CARD_GIB = {"L40S": 48, "4090": 24, "A10G": 24, "40GB": 40, "80G": 80}
# What a framework does about checkpointing when the row does not say: the recipes' own setting (torchtune), the default (LLaMA-Factory),
# and lit-gpt's fine-tuning scripts, which have none.
_CHECKPOINTING_BY_FRAMEWORK = {"torchtune": True, "LLaMA-Factory": True, "lit-gpt": False}
# torchtune's tutorials train on Alpaca without a limit; litgpt's tables give the longest sample with the same tokenizer and template.
_LONGEST_ALPACA_TOKENS = 1304
_UNNAMED_CARD = "A100-80GB"
# Training code for which no tool has a setting: (column, part of its text, remark).
_FOREIGN = (
    ("acceleration", "foak", "fused kernels not expressible"),
    ("acceleration", "padding-free", "padding-free batches not expressible"),
    ("acceleration", "accelerated-peft", "k-bit base without the usual casts not expressible"),
    ("id", "Unsloth", "Unsloth's kernels not expressible"),
    ("id", "swift-tuner", "memory summed over an unstated number of GPUs"),
    ("optimizer", "DeepSpeed", "DeepSpeed's optimizer not expressible"),
)


class NoPredictionError(Exception):
    """The tool cannot price this row; the message is the reason."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What the tools ask about a model, from our model cards. `intermediate_size` is the effective MLP width."""

    id: str
    family: str
    hidden_size: int
    num_layers: int
    num_attention_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tie_word_embeddings: bool
    total_params: int
    max_position: int
    num_experts: int = 1
    experts_per_token: int = 1


@dataclass(frozen=True, slots=True)
class Case:
    """Settings of one run. `quantization` "none" means weights in `precision`; `targets` are roles (q, k, v, o, gate, up, down, head)."""

    id: str
    model: ModelShape
    method: str
    quantization: str
    double_quant: bool
    precision: str
    adapter_dtype: str
    rank: int
    alpha: int
    dropout: float
    targets: tuple[str, ...]
    modules_to_save: tuple[str, ...]
    micro_batch: int
    grad_accum: int
    seq_len: int
    checkpointing: bool
    attention: Attention
    optimizer: str
    fused_loss: bool
    card: str
    card_gib: int
    metric: Metric
    remarks: tuple[str, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether every setting was published and is one that estimators know, and the metric is named."""
        return not self.remarks and self.metric != "unnamed"


def case_from_json(fields: dict[str, Any]) -> Case:
    """The Case that `dataclasses.asdict` and JSON made lists and dicts of."""
    lists = {name: tuple(fields[name]) for name in ("targets", "modules_to_save", "remarks")}
    return Case(**{**fields, **lists, "model": ModelShape(**fields["model"])})


def case_from_row(row: dict[str, str], model: ModelShape) -> Case:
    """Settings of a row of memory_measurements.csv."""
    remarks: list[str] = []
    card = row["gpu"] or _UNNAMED_CARD
    quantization = _QUANTIZED.get(row["base_dtype"], "none")
    return Case(
        id=row["id"],
        model=model,
        method=_method(row),
        quantization=quantization,
        double_quant=_double_quant(row, quantization, remarks),
        precision=_precision(row, remarks),
        adapter_dtype=_adapter_dtype(row),
        rank=int(row["rank"] or 0),
        alpha=int(row["alpha"] or 0),
        dropout=float(row["lora_dropout"] or 0),
        targets=target_roles(row["target_modules"], model.family),
        modules_to_save=tuple(json.loads(row["modules_to_save"] or "[]")),
        micro_batch=int(row["micro_batch_size"]),
        grad_accum=int(row["grad_accum"] or 1),
        seq_len=int(row["seq_len"] or _LONGEST_ALPACA_TOKENS),
        checkpointing=_checkpointing(row, remarks),
        attention=_attention(row["attention"]),
        optimizer=_optimizer(row, remarks),
        fused_loss="liger" in row["acceleration"],
        card=card,
        card_gib=next(gib for name, gib in _CARD_GIB.items() if name in card),
        metric=metric_of(row["metric"]),
        remarks=(*_foreign(row), *remarks, *_left_open(row)),
    )


def metric_of(text: str) -> Metric:
    """What the row's main figure is; of rows with both torch's peak and nvidia-smi's the main one is torch's."""
    if "max_memory_allocated" in text or "torch peak allocated" in text:
        return "allocated"
    return "reserved" if "max_memory_reserved" in text else "unnamed"


def target_roles(text: str, family: str) -> tuple[str, ...]:
    """Roles of the adapted layers in the order q, k, v, o, gate, up, down, head; names that hit no layer of the model are left out."""
    if not text:
        return ()
    known = {**_ROLES, **(_QWEN1_ROLES if family == "qwen" else {})}
    if text.lower().startswith("all"):
        names: set[str] = set(ALL_ROLES)
    elif text.startswith("DEFAULT"):  # ms-swift: the fused or separate q, k, v
        names = {"q", "k", "v"}
    elif text.startswith("["):
        names = {role for name in json.loads(text) for role in known.get(name, ())}
    else:
        names = set()
    return tuple(role for role in (*ALL_ROLES, "head") if role in names)


def length_is_known(row: dict[str, str]) -> bool:
    """Whether the longest batch really had `seq_len` tokens per sequence, instead of at most so many."""
    return row["seq_len_kind"].startswith(("packed", "inputs of this length", "actual longest", "fixed context"))


def _method(row: dict[str, str]) -> str:
    """The method; ms-swift's GaLore and LISA runs are listed as full fine-tuning, and only the id tells."""
    _, _, variant = row["id"].partition("swift-tuner-")
    return variant if "galore" in variant or "lisa" in variant else row["method"]


def _foreign(row: dict[str, str]) -> list[str]:
    return [remark for column, part, remark in _FOREIGN if part in row[column]]


def _left_open(row: dict[str, str]) -> list[str]:
    found = [] if row["gpu"] else [f"GPU not named, {_UNNAMED_CARD} taken"]
    if not row["seq_len"]:
        return [*found, f"length not stated, Alpaca's longest sample ({_LONGEST_ALPACA_TOKENS} tokens) taken"]
    return found if length_is_known(row) else [*found, "length is an upper limit"]


def _double_quant(row: dict[str, str], quantization: str, remarks: list[str]) -> bool:
    if quantization == "nf4" and not row["double_quant"]:
        remarks.append("double quantisation not stated, the framework's default (on) taken")
        return True
    return row["double_quant"] == "True"


def _precision(row: dict[str, str], remarks: list[str]) -> str:
    """Dtype of unquantised weights and of the computation."""
    if row["base_dtype"].startswith("fp32"):
        remarks.append("mixed precision: priced as fp32")
        return "fp32"
    return next((_PRECISION[text] for text in (row["base_dtype"], row["compute_dtype"], row["amp"]) if text in _PRECISION), "bf16")


def _adapter_dtype(row: dict[str, str]) -> str:
    """peft keeps adapters of 16-bit models in fp32; litgpt and torchtune train them in the dtype of the weights."""
    if row["adapter_dtype"].startswith("fp32") or not row["framework"].startswith(("lit", "torchtune")):
        return "fp32"
    return "fp32" if row["base_dtype"].startswith("fp32") else "bf16"


def _checkpointing(row: dict[str, str], remarks: list[str]) -> bool:
    if row["gradient_checkpointing"]:
        return row["gradient_checkpointing"] == "True"
    found = next(value for name, value in _CHECKPOINTING_BY_FRAMEWORK.items() if row["framework"].startswith(name))
    remarks.append(f"checkpointing not stated, the framework's default ({'on' if found else 'off'}) taken")
    return found


def _attention(text: str) -> Attention:
    """transformers, litgpt and torchtune use torch's fused kernel unless told otherwise; "eager/default" and "no flash" do not."""
    if text.startswith("flash"):
        return "flash_attention_2"
    return "eager" if "eager" in text or "no flash" in text else "sdpa"


def _optimizer(row: dict[str, str], remarks: list[str]) -> str:
    if "paged" in row["optimizer"].lower():  # litgpt's remark on "bnb runs" stands in nf4 rows only
        return "paged_adamw_32bit"
    if not row["optimizer"]:
        remarks.append("optimizer not stated, AdamW taken")
    return "adamw"
