"""The matrix of training runs that are measured: every method on every base quantisation, and one change at a time from there.

`cpu_cases` are tiny models whose every tensor a meter can see; `gpu_cases` are real architectures, the most informative first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, get_args

from training_case import Case

from ftadvise.estimator.recipe import Optimizer, Recipe
from ftadvise.profiles.errors import InputError

METHODS = ("lora", "dora", "adalora", "ia3", "prefix", "prompt", "adapter", "full")

QUANTIZATIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "nf4": {"quantization": "nf4"},
    "nf4-double": {"quantization": "nf4", "double_quantization": True},
    "fp4": {"quantization": "fp4"},
    "fp4-double": {"quantization": "fp4", "double_quantization": True},
    "int8": {"quantization": "int8"},
}

UNTRAINABLE_ON_CPU = {("dora", "int8"): "unsqueeze", ("adalora", "int8"): "same dtype"}
"""What a CPU does not train, with a word of the error: after DoRA's first look at an int8 weight (peft 0.21) its scales are gone
(bitsandbytes 0.50), and int8 AdaLoRA mixes dtypes without autocast."""

# widths in the proportions of the real models: grouped heads, an MLP about 2.7 times the width
_TINY: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 512,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
_EXPERTS = {"num_experts": 8, "num_local_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 96, "norm_topk_prob": False}
_GPT = {"n_embd": 128, "n_layer": 3, "n_head": 8, "n_positions": 512, "n_ctx": 512, "vocab_size": 512}

TINY_CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **_TINY},
    "llama-tied": {"model_type": "llama", **_TINY, "tie_word_embeddings": True},
    "llama-mha": {"model_type": "llama", **_TINY, "num_key_value_heads": 8},
    "llama-deep": {"model_type": "llama", **_TINY, "num_hidden_layers": 12},
    "llama-wide": {"model_type": "llama", **_TINY, "hidden_size": 256, "intermediate_size": 704, "head_dim": 32},
    "llama-vocabulary": {"model_type": "llama", **_TINY, "vocab_size": 40000, "hidden_size": 64, "intermediate_size": 176, "head_dim": 8},
    "qwen2": {"model_type": "qwen2", **_TINY},
    "qwen3": {"model_type": "qwen3", **_TINY, "tie_word_embeddings": True, "head_dim": 32},
    "mistral": {"model_type": "mistral", **_TINY, "sliding_window": 64},
    "phi3": {"model_type": "phi3", **_TINY, "pad_token_id": 0},
    "gemma": {"model_type": "gemma", **_TINY, "tie_word_embeddings": True},
    "gemma2": {"model_type": "gemma2", **_TINY, "tie_word_embeddings": True, "sliding_window": 64},
    "gemma3": {"model_type": "gemma3_text", **_TINY, "tie_word_embeddings": True, "sliding_window": 64},
    "glm": {"model_type": "glm", **_TINY, "pad_token_id": 0, "eos_token_id": 1},
    "gpt2": {"model_type": "gpt2", **_GPT},
    "gptj": {"model_type": "gptj", **_GPT, "rotary_dim": 8, "tie_word_embeddings": False},
    "gpt_neox": {"model_type": "gpt_neox", **_TINY, "intermediate_size": 512},
    "falcon": {
        "model_type": "falcon",
        **{key: value for key, value in _TINY.items() if key != "head_dim"},  # falcon computes it
        "multi_query": True,
        "new_decoder_architecture": False,
        "tie_word_embeddings": True,
    },
    "bloom": {"model_type": "bloom", "hidden_size": 128, "n_layer": 3, "n_head": 8, "vocab_size": 512},
    "opt": {"model_type": "opt", **_TINY, "ffn_dim": 512, "word_embed_proj_dim": 128, "tie_word_embeddings": True},
    "phi": {"model_type": "phi", **_TINY, "intermediate_size": 512},
    "mixtral": {"model_type": "mixtral", **_TINY, **_EXPERTS, "intermediate_size": 96},
    "qwen2_moe": {"model_type": "qwen2_moe", **_TINY, **_EXPERTS, "shared_expert_intermediate_size": 192},
    "qwen3_moe": {"model_type": "qwen3_moe", **_TINY, **_EXPERTS},
    "olmoe": {"model_type": "olmoe", **_TINY, **_EXPERTS, "intermediate_size": 96, "num_key_value_heads": 8},
    "deepseek_v3": {
        "model_type": "deepseek_v3",
        **_TINY,
        "num_key_value_heads": 8,
        "head_dim": 8,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 96,
        "first_k_dense_replace": 1,
        "n_group": 2,
        "topk_group": 1,
        "kv_lora_rank": 32,
        "q_lora_rank": 48,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 16,
        "v_head_dim": 16,
    },
}
"""config.json of each tiny architecture."""

_TINY_RECIPE = Recipe(
    compute_dtype="fp32", rank=8, micro_batch=2, seq_len=128, gradient_accumulation=1, gradient_checkpointing=False, max_steps=2
)
_BF16_CHECKPOINTED: dict[str, Any] = {"compute_dtype": "bf16", "gradient_checkpointing": True}


def cpu_cases() -> list[Case]:
    """Every method x quantisation in fp32 and, checkpointed, in bf16; then one change at a time, architectures, and plain stacks."""
    cases = [*_tiny_core(), *_tiny_changes(), *_tiny_architectures(), *_tiny_plain()]
    assert len({case.name for case in cases}) == len(cases)  # noqa: S101 - names identify rows
    return cases


_WITHOUT_SDPA = ("gemma2", "gptj", "bloom")
"""Architectures of which transformers 5.23 has eager (and flash) attention only."""


def _tiny(name: str, architecture: str = "llama", *, stack: str = "trl", padded: bool = False, **changes: Any) -> Case:
    if architecture in _WITHOUT_SDPA:
        changes["attention"] = "eager"
    return Case(name, architecture, _TINY_RECIPE.replace(**changes), stack, padded, TINY_CONFIGS[architecture])


def _tiny_core() -> Iterator[Case]:
    for method in METHODS:
        for quantization, fields in QUANTIZATIONS.items():
            if method == "full" and quantization != "none":
                continue
            adapter = {"adapter_dtype": "fp32" if quantization == "none" else "bf16"}  # what TRL makes of them
            yield _tiny(f"{method} {quantization}", method=method, **fields, **adapter)
            yield _tiny(f"{method} {quantization} bf16", method=method, compute_dtype="bf16", **fields, **adapter)
            if method != "prefix":  # peft refuses prefix tuning with checkpointing
                yield _tiny(f"{method} {quantization} bf16 checkpointed", method=method, **fields, **adapter, **_BF16_CHECKPOINTED)


def ci_cases() -> list[Case]:
    """Every method x quantisation once, in turn as: fp32 by TRL, bf16 by the plain Trainer, bf16 with checkpointing by TRL.

    Two layers, so that all of them together train within a minute. TRL's loss is so large on a CPU that a fault of a layer could hide
    behind it; the plain Trainer's is not.
    """
    plain = {"stack": "transformers", "loss": "full", "compute_dtype": "bf16", "adapter_dtype": "fp32"}
    cases = []
    for first, method in enumerate(METHODS):
        for number, (quantization, fields) in enumerate(QUANTIZATIONS.items()):
            if (method == "full" and quantization != "none") or (method, quantization) in UNTRAINABLE_ON_CPU:
                continue
            by_trl = {"adapter_dtype": "fp32" if quantization == "none" else "bf16"}
            checkpointed = {**by_trl, "compute_dtype": "bf16", "gradient_checkpointing": method != "prefix"}
            changes: dict[str, Any] = ({"compute_dtype": "fp32", **by_trl}, plain, checkpointed)[(first + number) % 3]
            case = _tiny(f"{method} {quantization}", method=method, **fields, **changes)
            cases.append(dataclasses.replace(case, config={**case.config, "num_hidden_layers": 2}))
    return cases


def _tiny_changes() -> Iterator[Case]:
    bases: dict[str, dict[str, Any]] = {
        "lora": {},
        "lora bf16 checkpointed": _BF16_CHECKPOINTED,
        "qlora bf16": {**QUANTIZATIONS["nf4-double"], "adapter_dtype": "bf16", "compute_dtype": "bf16"},
        "full bf16": {"method": "full", "compute_dtype": "bf16"},
    }
    changes: dict[str, dict[str, Any]] = {
        "checkpointed": {"gradient_checkpointing": True},
        "no dropout": {"dropout": 0.0},
        "on q, v": {"target_modules": ("q_proj", "v_proj")},
        "on gate, up": {"target_modules": ("gate_proj", "up_proj")},
        "rank 64": {"rank": 64},
        "bf16 adapters": {"adapter_dtype": "bf16"},
        "fp32 adapters": {"adapter_dtype": "fp32"},
        "4 x 64": {"micro_batch": 4, "seq_len": 64},
        "1 x 512": {"micro_batch": 1, "seq_len": 512},
        "accumulation 2": {"gradient_accumulation": 2},
        "eager": {"attention": "eager"},
        "no clipping": {"max_grad_norm": 0.0},
        "packed": {"packing": True},
        "adafactor": {"optimizer": "adafactor"},
        "sgd": {"optimizer": "sgd"},
        "adamw fused": {"optimizer": "adamw_torch_fused"},
        "head kept": {"high_precision_modules": ("down_proj",)},
    }
    for base, fields in bases.items():
        for change, more in changes.items():
            adapter_only = change in ("no dropout", "on q, v", "on gate, up", "rank 64", "bf16 adapters", "fp32 adapters")
            if {**fields, **more} == fields or (adapter_only and fields.get("method") == "full"):
                continue
            if change == "head kept" and "quantization" not in fields:
                continue
            if more.items() <= _TINY_RECIPE.replace(**fields).to_dict().items() and "target_modules" not in more:
                continue
            yield _tiny(f"{base}, {change}", **{**fields, **more})
        yield _tiny(f"{base}, padded", padded=True, **fields)
        yield _tiny(f"{base}, padded eager", padded=True, **{**fields, "attention": "eager"})


_FUSED_EXPERTS = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v3")


def _tiny_architectures() -> Iterator[Case]:
    for architecture in TINY_CONFIGS:
        if architecture == "llama":
            continue
        # peft refuses dropout on the fused parameters of experts
        lora: dict[str, Any] = {"dropout": 0.0} if architecture in _FUSED_EXPERTS else {}
        qlora = {**QUANTIZATIONS["nf4-double"], "adapter_dtype": "bf16", "compute_dtype": "bf16", **lora}
        yield _tiny(f"{architecture}: lora", architecture, **lora)
        yield _tiny(f"{architecture}: lora bf16 checkpointed", architecture, **_BF16_CHECKPOINTED, **lora)
        yield _tiny(f"{architecture}: qlora bf16", architecture, **qlora)
        yield _tiny(f"{architecture}: full bf16", architecture, method="full", compute_dtype="bf16")
        if architecture in _FUSED_EXPERTS:
            attention = {"target_modules": ("q_proj", "o_proj") if architecture != "deepseek_v3" else ("o_proj",)}
            yield _tiny(f"{architecture}: lora on attention", architecture, **attention)


def _tiny_plain() -> Iterator[Case]:
    quantized = {**QUANTIZATIONS["nf4-double"], "adapter_dtype": "fp32", "compute_dtype": "bf16"}
    for stack in ("transformers", "transformers-kbit"):
        for method in METHODS:
            for name, fields in (("none bf16", {"compute_dtype": "bf16"}), ("nf4-double bf16", quantized)):
                if (method == "full" and "nf4" in name) or (stack == "transformers-kbit" and "nf4" not in name):
                    continue
                yield _tiny(f"{stack}: {method} {name}", stack=stack, method=method, loss="full", **fields)
                if method != "prefix":
                    checkpointed = {**fields, "gradient_checkpointing": True}
                    yield _tiny(f"{stack}: {method} {name} checkpointed", stack=stack, method=method, loss="full", **checkpointed)
    for architecture in ("llama-vocabulary", "gemma2"):
        yield _tiny(f"transformers: {architecture} lora", architecture, stack="transformers", loss="full")


_SMALL, _BASE, _LARGE = "Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-7B"
_MODELS = (
    "meta-llama/Llama-3.2-1B",
    "meta-llama/Llama-3.2-3B",
    _SMALL,
    _BASE,
    _LARGE,
    "mistralai/Mistral-7B-v0.1",
    "google/gemma-2-2b",
    "microsoft/Phi-3-mini-4k-instruct",
    "Qwen/Qwen3-8B",
    "Qwen/Qwen2.5-14B",
)
_EXPERT_MODELS = ("allenai/OLMoE-1B-7B-0924", "Qwen/Qwen1.5-MoE-A2.7B")
_RECIPE = Recipe(micro_batch=4, seq_len=1024, gradient_accumulation=1, max_steps=5)
_QLORA: dict[str, Any] = {**QUANTIZATIONS["nf4-double"], "adapter_dtype": "bf16"}
_NOT_CHECKPOINTED: dict[str, Any] = {"gradient_checkpointing": False}

HISTORIES = ("1.5B: lora", "1.5B: qlora", "1.5B: full", "1.5B: lora, not checkpointed", "7B: qlora")
"""Cases whose allocator events are kept, for the simulation of the allocator."""


def gpu_cases() -> list[Case]:
    """Real architectures, the most informative first: what a budget cuts off is missed least."""
    cases = [*_gpu_first(), *_gpu_methods(), *_gpu_models(), *_gpu_stacks(), *_gpu_changes(), *_gpu_large()]
    return list({case.name: case for case in reversed(cases)}.values())[::-1]


def _real(name: str, model: str, *, stack: str = "trl", padded: bool = False, **changes: Any) -> Case:
    if "gemma-2" in model:
        changes["attention"] = "eager"  # see _WITHOUT_SDPA
    return Case(name, model, _RECIPE.replace(**changes), stack, padded)


def _gpu_first() -> Iterator[Case]:
    for size, model in (("1.5B", _BASE), ("7B", _LARGE)):
        yield _real(f"{size}: qlora", model, **_QLORA)
        yield _real(f"{size}: lora", model)
        yield _real(f"{size}: full", model, method="full")
        yield _real(f"{size}: lora, not checkpointed", model, **_NOT_CHECKPOINTED)
        yield _real(f"{size}: qlora, not checkpointed", model, **_QLORA, **_NOT_CHECKPOINTED)


def _gpu_methods() -> Iterator[Case]:
    for method in METHODS:
        for quantization, fields in QUANTIZATIONS.items():
            if method == "full" and quantization != "none":
                continue
            adapter = {"adapter_dtype": "fp32" if quantization == "none" else "bf16"}
            checkpointing = {"gradient_checkpointing": method != "prefix"}  # peft refuses both together
            yield _real(f"1.5B: {method} {quantization}", _BASE, method=method, **fields, **adapter, **checkpointing)


def _gpu_models() -> Iterator[Case]:
    for model in _MODELS:
        short = model.rpartition("/")[2]
        yield _real(f"{short}: qlora 2 x 2048", model, **_QLORA, micro_batch=2, seq_len=2048)
        yield _real(f"{short}: lora 2 x 2048", model, micro_batch=2, seq_len=2048)
        yield _real(f"{short}: full 1 x 1024", model, method="full", micro_batch=1)
        yield _real(f"{short}: lora 1 x 1024, not checkpointed", model, micro_batch=1, **_NOT_CHECKPOINTED)


def _gpu_stacks() -> Iterator[Case]:
    fp32_adapters = {**_QLORA, "adapter_dtype": "fp32"}
    for size, model in (("1.5B", _BASE), ("7B", _LARGE)):
        yield _real(f"{size}: transformers lora", model, stack="transformers", loss="full")
        yield _real(f"{size}: transformers qlora", model, stack="transformers", loss="full", **fp32_adapters)
        yield _real(f"{size}: transformers-kbit qlora", model, stack="transformers-kbit", loss="full", **fp32_adapters)
        yield _real(f"{size}: transformers full", model, stack="transformers", loss="full", method="full")


def _gpu_changes() -> Iterator[Case]:
    changes: dict[str, dict[str, Any]] = {
        "no dropout": {"dropout": 0.0},
        "no dropout, not checkpointed": {"dropout": 0.0, **_NOT_CHECKPOINTED},
        "1 x 512": {"micro_batch": 1, "seq_len": 512},
        "16 x 512": {"micro_batch": 16, "seq_len": 512},
        "1 x 8192": {"micro_batch": 1, "seq_len": 8192},
        "8 x 2048": {"micro_batch": 8, "seq_len": 2048},
        "eager": {"attention": "eager"},
        "flash": {"attention": "flash_attention_2"},
        "fp32": {"compute_dtype": "fp32"},
        "fp16": {"compute_dtype": "fp16"},
        "on q, v": {"target_modules": ("q_proj", "v_proj")},
        "rank 128": {"rank": 128},
        "bf16 adapters": {"adapter_dtype": "bf16"},
        "accumulation 4": {"gradient_accumulation": 4},
        "packed": {"packing": True},
    }
    for change, fields in changes.items():
        yield _real(f"1.5B: lora, {change}", _BASE, **fields)
    for change in ("no dropout", "eager", "on q, v", "1 x 8192"):
        yield _real(f"1.5B: qlora, {change}", _BASE, **{**_QLORA, **changes[change]})
    for attention in ("sdpa", "eager"):
        yield _real(f"1.5B: lora, padded {attention}", _BASE, padded=True, attention=attention)
    for optimizer in get_args(Optimizer):
        yield _real(f"0.5B: full, {optimizer}", _SMALL, method="full", optimizer=optimizer)
        yield _real(f"1.5B: lora, {optimizer}", _BASE, rank=128, optimizer=optimizer)


def _gpu_large() -> Iterator[Case]:
    for model in _EXPERT_MODELS:
        short = model.rpartition("/")[2]
        yield _real(f"{short}: lora", model, dropout=0.0)  # peft refuses dropout on the fused parameters of experts
        yield _real(f"{short}: qlora", model, **_QLORA, dropout=0.0)
        yield _real(f"{short}: lora on attention", model, target_modules=("q_proj", "k_proj", "v_proj", "o_proj"))
    yield _real("14B: qlora", "Qwen/Qwen2.5-14B", **_QLORA)
    yield _real("32B: qlora", "Qwen/Qwen2.5-32B", **_QLORA)
    yield _real("32B: lora int8", "Qwen/Qwen2.5-32B", **QUANTIZATIONS["int8"], adapter_dtype="bf16")


def shrunk(case: Case) -> Case:
    """The case on a tiny model of the same architecture and with short sequences, to try the benchmark on a CPU."""
    from ftadvise.profiles.resolve_model import resolve_model

    small = case.recipe.replace(seq_len=32, micro_batch=min(2, case.recipe.micro_batch), rank=min(4, case.recipe.rank), max_steps=3)
    return dataclasses.replace(case, recipe=small, config=TINY_CONFIGS[resolve_model(case.model).model_type])


def case_named(name: str, cases: list[Case]) -> Case:
    """The case called `name`.

    Raises:
        InputError: there is none.
    """
    for case in cases:
        if case.name == name:
            return case
    raise InputError(f"no case {name!r}")
